"""How sure a score is over rows: the bootstrap interval that kinds of label have in common."""

from typing import Any

import numpy as np

from layermix.evaluation.statistics import row_bootstrap, score_interval
from layermix.evaluation.weighted_scores import WEIGHTED
from layermix.problems.problem import Array, Problem


def interval_over_rows(
    problem: Problem,
    score: str,
    logits: Array,
    labels: Array,
    teacher_logits: Array | None,
    groups: Array | None,
) -> dict[str, Any] | None:
    """Return a percentile interval of a score, and of its difference to the teacher's.

    Args:
        problem: Makes answers from logits.
        score: Has an interval if it is a name of `WEIGHTED`.
        logits: (N, C).
        labels: Of the rows.
        teacher_logits: (N, C), if there is a teacher.
        groups: The number of each row's group, (N,), if rows belong together.

    Returns:
        The fields of a record's interval; None where no row has a label, all are of one group, or
        for another score.
    """
    known = problem.labelled(labels)
    if score not in WEIGHTED or not known.any():
        return None
    predicted, right = problem.answers(logits)[known], labels[known]
    options: dict[str, Any] = {}
    interval: dict[str, Any] = {"metric": score, "rows": len(right)}
    if groups is not None:
        options["groups"] = groups[known]
        interval["groups"] = len(np.unique(groups[known]))
        if interval["groups"] < 2:
            return None
    interval["low"], interval["high"] = score_interval(predicted, right, score, **options)
    if teacher_logits is None:
        return interval
    of_teacher = problem.answers(teacher_logits)[known]
    paired = row_bootstrap(predicted, of_teacher, right, score, **options)
    return interval | {
        "difference": paired.difference,
        "difference_low": paired.low,
        "difference_high": paired.high,
    }
