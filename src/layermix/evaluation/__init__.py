"""Scores, statistics and predictions."""
