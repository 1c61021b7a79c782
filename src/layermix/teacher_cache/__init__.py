"""The teacher's signals on disk."""
