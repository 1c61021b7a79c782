"""The heart."""
