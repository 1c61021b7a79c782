"""More rows from the training texts, for the teacher to label.

Read `ways` (texts -> new texts, a function for each way) and `new_rows`, which makes the rows of a
run from them.
"""
