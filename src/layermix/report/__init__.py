"""Pages of runs and studies, from their files alone; no torch.

Read `build` (a folder -> its page), `run_page` and `study_page` (what stands on it), `charts` and
`figures` (plain rows -> Vega-Lite), `html` (one self-contained file).
"""
