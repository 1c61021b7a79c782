"""What depends on the kind of label."""
