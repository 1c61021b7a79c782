"""Scores, statistics and predictions: NumPy, SciPy and scikit-learn, no torch.

Read `forms` (what a label can be), `metrics`, `label_set_metrics` and `number_metrics` (scores of
each form), `weighted_scores` (the same of many resamples at once), `statistics` (intervals and
tests over seeds and rows), `verdicts` (from paired scores to a sentence), `predictions`
(predictions.parquet of one run or of many seeds), `linear` and `tfidf` (a baseline).
"""
