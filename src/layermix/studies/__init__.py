"""Many runs: planned, run, analysed.

Read `spec` (the file), `plan` (its cells, named by content), `scheduler` (runs them), `folder`
(what is kept of each), `baselines` and `control` (what it is measured by), `analysis` (scores,
verdicts, α), `text` (the same in words).
"""
