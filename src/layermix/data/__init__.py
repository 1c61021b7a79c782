"""Files and rows in, tokenised rows and batches out.

Read `files` (formats -> blocks of rows) and `sources` (folders, the hub -> tables), which fill the
`tables`; then `columns`, `labels` and `splits`, which `texts` puts together for training and
`new_texts` uses for prediction; then `tokenization`, and `prepared`, which every run starts from.
`tasks` lists the known tasks; `docstrings` makes the task of the demo.
"""
