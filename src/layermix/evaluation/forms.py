"""What one row is answered with: decides how labels are read, kept in files, and shown."""

from typing import Literal

Form = Literal["class", "labels", "number", "tags"]
"""One class (its index), several labels at once (0 or 1 for each), a number, or a tag (its index)
for each word."""
