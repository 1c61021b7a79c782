"""One run: prepared, trained, written, read."""
