"""Scores, statistics and predictions: NumPy, SciPy and scikit-learn, no torch.

Read `metrics` (scores from logits), `statistics` (intervals and tests over seeds and rows),
`verdicts` (from paired scores to a sentence), `predictions` (predictions.parquet of one run or of
many seeds).
"""
