"""Many runs: planned, run, analysed.

Read `spec` (the file), `plan` (its cells, named by content), `scheduler` (runs them), `folder`
(what is kept of each), `analysis` (scores, verdicts, α), `text` (the same in words).
"""
