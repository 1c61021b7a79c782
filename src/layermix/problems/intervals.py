"""How sure a score is over rows: the bootstrap interval that kinds of label have in common."""

from typing import Any

from layermix.evaluation.statistics import row_bootstrap, score_interval
from layermix.evaluation.weighted_scores import WEIGHTED
from layermix.problems.problem import Array, Problem


def interval_over_rows(
    problem: Problem, score: str, logits: Array, labels: Array, teacher_logits: Array | None
) -> dict[str, Any] | None:
    """Return a percentile interval of a score, and of its difference to the teacher's.

    Args:
        problem: Makes answers from logits.
        score: Has an interval if it is a name of `WEIGHTED`.
        logits: (N, C).
        labels: Of the rows.
        teacher_logits: (N, C), if there is a teacher.

    Returns:
        The fields of a record's interval; None where no row has a label, or for another score.
    """
    known = problem.labelled(labels)
    if score not in WEIGHTED or not known.any():
        return None
    predicted, right = problem.answers(logits)[known], labels[known]
    low, high = score_interval(predicted, right, score)
    interval = {"metric": score, "rows": len(right), "low": low, "high": high}
    if teacher_logits is None:
        return interval
    paired = row_bootstrap(predicted, problem.answers(teacher_logits)[known], right, score)
    return interval | {
        "difference": paired.difference,
        "difference_low": paired.low,
        "difference_high": paired.high,
    }
