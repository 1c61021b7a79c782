"""Files and rows in, tokenised rows and batches out.

Read `files` (formats -> blocks of rows) and `sources` (folders, the hub -> tables), which fill the
`tables`; then `columns`, `label_forms` (with `labels`, `classes`, `label_sets`, `tags` and
`soft_labels`) and `splits`, which `texts` puts together for training; `new_texts` is for
prediction; then `tokenization`, and `prepared`, which every run starts from. `tasks` lists the
known tasks; `docstrings` makes the task of the demo.
"""
