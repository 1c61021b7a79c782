"""Teachers and students: loaded, made, read."""
