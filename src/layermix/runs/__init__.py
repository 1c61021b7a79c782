"""One run: prepared, trained, written, read.

Read `pipeline` (`distill` and `teach`), `prepare` (tokens, held-out rows, the teacher's answers),
`start` (what a run was begun with), `training` (one training), `callbacks` (what is kept of every
epoch and step), `recording` and `schema` (the records and their versions), `layout` (the folder),
`reader` (a folder as it lies on disk), `model_card`. `extensions` are objects of the caller's own.
"""
