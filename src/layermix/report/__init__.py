"""Pages of runs and studies, from their files alone; no torch.

Read `build` (a folder -> its page), `run_page` and `study_page` (what stands on it), `charts` and
`figures` (plain rows -> Vega-Lite), `answers` (by the form of a label), `html` (one self-contained
file).
"""
