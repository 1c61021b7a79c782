"""How much of its score one version of a model loses to another on the same labelled rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermix.evaluation.statistics import row_bootstrap
from layermix.evaluation.weighted_scores import WEIGHTED, weighted_score
from layermix.models.inference import Floats
from layermix.serving.evaluation_rows import EvaluationRows


@dataclass(frozen=True)
class Drop:
    """What the score loses, in points (hundredths); negative if it gains.

    Attributes:
        before: The score of the version that is replaced.
        after: The score of the other one.
        points: Their difference; positive if the second is worse, also where less is better.
        low: Lower end of its 95 % interval over rows (over groups, if the rows have some).
        high: Upper end.
    """

    before: float
    after: float
    points: float
    low: float
    high: float


def drop_of(
    before: Floats, after: Floats, rows: EvaluationRows, at: NDArray[np.integer[Any]]
) -> Drop:
    """Returns the drop with its interval, from logits of all rows, (N, …, C) each.

    Args:
        before: Logits of the version that is replaced.
        after: Logits of the other one.
        rows: The N rows.
        at: Indices of labelled rows.
    """
    problem, metric = rows.problem, rows.metric
    labels, first, second = rows.labels[at], problem.answers(before[at]), problem.answers(after[at])
    groups = None if rows.groups is None else rows.groups[at]
    if groups is not None and len(np.unique(groups)) < 2:
        groups = None
    drop = row_bootstrap(first, second, labels, metric, groups=groups)
    low, high = sorted(100 * _sign(metric) * end for end in (drop.low, drop.high))
    return Drop(
        before=_score(first, labels, metric),
        after=_score(second, labels, metric),
        points=100 * _sign(metric) * drop.difference,
        low=low,
        high=high,
    )


def points_lost(
    before: Floats, after: Floats, rows: EvaluationRows, at: NDArray[np.integer[Any]]
) -> float:
    """Returns the same without interval, which takes time."""
    first, second = (
        _score(rows.problem.answers(one[at]), rows.labels[at], rows.metric)
        for one in (before, after)
    )
    return 100 * _sign(rows.metric) * (first - second)


def _score(answers: NDArray[Any], labels: NDArray[Any], metric: str) -> float:
    """A score of labelled rows, in full precision."""
    row = weighted_score(metric, answers[None], labels)
    return float(row.function(answers[None], labels, np.ones((1, len(labels))))[0, 0])


def _sign(metric: str) -> int:
    """1 if more of a score is better, else −1."""
    return 1 if WEIGHTED[metric].higher_is_better else -1
