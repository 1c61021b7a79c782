"""Is a student at most a margin worse than its teacher? A one-sided test over seeds and examples.

The null hypothesis is that the expected score of a student of this kind, over seeds and examples,
is below the teacher's by the margin or more. Rejecting it shows that the student is good enough.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import nct, t

from layermix.evaluation.statistics import (
    LEVEL,
    Numbers,
    Values,
    check_between,
    checked_numbers,
    row_error,
)
from layermix.evaluation.weighted_scores import weighted_score


@dataclass(frozen=True)
class NonInferiority:
    """What a test of non-inferiority found; a difference is student minus teacher, above 0 better.

    Attributes:
        margin: How much worse the student may be, above 0.
        difference: Mean over seeds.
        low: Lower end of the one-sided 95 % interval of the expected difference: the largest loss
            that the test does not reject, with the margin's least variance if that is rejected.
        p: One-sided; at most .05 where `low` is above −margin.
        shown: Whether the student is shown to be less than the margin worse.
        seeds: Number of them.
        sd: Standard deviation over seeds.
        error: Standard error of the mean over examples.
        freedom: Degrees of freedom.
    """

    margin: float
    difference: float
    low: float
    p: float
    shown: bool
    seeds: int
    sd: float
    error: float
    freedom: float


def non_inferiority(
    student: Values,
    teacher: Values,
    labels: Values,
    score: str,
    margin: float,
    groups: NDArray[np.integer[Any]] | None = None,
) -> NonInferiority:
    """Tests whether students are at most a margin worse than their teacher on the same examples.

    Args:
        student: (seeds, examples) or (seeds, examples, C), answers of two seeds or more.
        teacher: (examples,) or (examples, C), the teacher's.
        labels: The same of the labels; leave out rows without a label.
        score: A name of `layermix.evaluation.weighted_scores.WEIGHTED`.
        margin: In units of the score: .01 is a point.
        groups: (examples,), the number of each example's group, if examples are not independent.

    Raises:
        ValueError: If shapes do not fit, there are fewer than two seeds, or the margin is not
            above 0.
    """
    better = 1 if weighted_score(score, np.asarray(student), labels).higher_is_better else -1
    differences, error = row_error(student, teacher, labels, score, groups=groups)
    rows = counting_rows(labels, score, groups)
    return judged(better * differences, error, margin, rows, independent_rows(labels, groups))


BY_ROW = ("accuracy", "exact_match", "f1_samples")
"""Scores to which every example adds the same."""
OF_POSITIVES = ("f1", "f1_micro", "entity_f1", "entity_precision", "entity_recall")
"""Scores to which examples without a positive label, or without an entity, hardly add."""
OF_THE_RAREST = ("f1_macro", "matthews")
"""Scores that can fall by the examples of the rarest class alone."""


def counting_rows(
    labels: Values, score: str, groups: NDArray[np.integer[Any]] | None = None
) -> int | None:
    """Number of examples, or of their groups, on which a score rests; None if it is of numbers.

    Args:
        labels: (examples,) or (examples, C).
        score: Its name.
        groups: (examples,), the number of each example's group.

    Examples:
        >>> labels = np.array([0, 0, 0, 1])
        >>> counting_rows(labels, "accuracy"), counting_rows(labels, "f1")
        (4, 1)
    """
    labels = np.asarray(labels)
    by_row = labels.reshape(len(labels), -1)
    counts: NDArray[np.bool_]
    if score in BY_ROW:
        counts = np.ones(len(labels), dtype=bool)
    elif score in OF_POSITIVES:
        counts = np.asarray((by_row > 0).any(1))
    elif score in OF_THE_RAREST:
        names, places, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        of_class = labels.ndim == 1
        by_class = of_class and len(names) > 1
        counts = np.asarray(places == sizes.argmin() if by_class else (by_row > 0).any(1))
    else:
        return None
    found = int(counts.sum()) if groups is None else len(np.unique(groups[counts]))
    return max(1, found)


def independent_rows(labels: Values, groups: NDArray[np.integer[Any]] | None = None) -> int:
    """Number of examples, or of their groups if they are not independent."""
    return len(labels) if groups is None else len(np.unique(groups))


def judged(
    differences: Numbers,
    error: float,
    margin: float,
    rows: int | None = None,
    independent: int | None = None,
) -> NonInferiority:
    """The test, from the differences of the seeds and the standard error over examples.

    Seeds and examples vary independently, so their variances add up: s²/S + e²·N/(N − 1), with the
    degrees of freedom of Satterthwaite, of which the N examples or groups have N − 1. The spread
    over seeds has some of the examples' in it, which makes the test a little careful. With few
    examples on which student and teacher differ, e is too small by chance; but where the student is
    worse by the margin, about that share of the examples on which the score rests differs, so e² is
    taken to be margin·(1 − margin)/rows or more, as tests of paired shares take the variance under
    the null hypothesis (Tango 1998). The interval is the losses that such a test would not reject,
    each with its own least variance.

    Args:
        differences: (seeds,), student minus teacher, above 0 better; two or more.
        error: Standard error of their mean over examples.
        margin: How much worse the student may be, above 0.
        rows: From `counting_rows`, for the least variance; None for a score of numbers.
        independent: N, from `independent_rows`; None if e is known.

    Raises:
        ValueError: If there are fewer than two differences, or the margin is not above 0.
    """
    values = checked_numbers(differences, "differences", least=2)
    check_between(margin, 0, math.inf, "margin")
    sd, seeds = float(values.std(ddof=1)), len(values)
    given, error = error, _at_least(error, margin, rows)
    spread, freedom = _combined(sd, error, seeds, independent)
    difference = float(values.mean())
    if not spread:  # numbers that do not vary at all
        shown = difference > -margin
        return NonInferiority(
            margin, difference, difference, 0.0 if shown else 1.0, shown, seeds, sd, error, freedom
        )
    low = difference - float(t.isf(LEVEL, freedom)) * spread

    def room(loss: float) -> float:
        """How far a loss is beyond the interval; above 0 if it would be rejected."""
        of_loss, its_freedom = _combined(sd, _at_least(given, loss, rows), seeds, independent)
        return difference + loss - float(t.isf(LEVEL, its_freedom)) * of_loss

    if low <= -margin:  # a larger loss than the margin has a larger least variance
        most = 2 * max(1.0, margin)
        while room(most) < 0:
            most *= 2
        low = -float(brentq(room, margin, most))
    p = float(t.sf((difference + margin) / spread, freedom))
    return NonInferiority(margin, difference, low, p, low > -margin, seeds, sd, error, freedom)


def power(
    margin: float,
    difference: float,
    sd: float,
    error: float,
    seeds: int,
    rows: int | None = None,
    independent: int | None = None,
) -> float:
    """The probability that `judged` shows non-inferiority, told before it is asked.

    Args:
        margin: How much worse the student may be, above 0.
        difference: The true one, student minus teacher.
        sd: Standard deviation over seeds.
        error: Standard error of the mean over examples.
        seeds: Two or more.
        rows: As in `judged`.
        independent: As in `judged`.

    Raises:
        ValueError: If the margin is not above 0, or there are fewer than two seeds.

    Examples:
        >>> round(power(margin=0.02, difference=0.0, sd=0.005, error=0.005, seeds=5), 2)
        0.98
        >>> round(power(margin=0.02, difference=-0.02, sd=0.005, error=0.005, seeds=5), 2)
        0.05
    """
    check_between(margin, 0, math.inf, "margin")
    check_between(seeds, 1, math.inf, "number of seeds")
    spread, freedom = _combined(sd, _at_least(error, margin, rows), seeds, independent)
    if not spread:
        return float(difference > -margin)
    return float(nct.sf(t.isf(LEVEL, freedom), freedom, (difference + margin) / spread))


def _at_least(error: float, margin: float, rows: int | None) -> float:
    """A standard error over examples that is no smaller than the null hypothesis allows."""
    if rows is None or margin >= 1:
        return error
    return max(error, math.sqrt(margin * (1 - margin) / rows))


MOST_FREEDOM = 1e6
"""Degrees of freedom of a variance that comes from many examples: as good as known."""


def _combined(sd: float, error: float, seeds: int, independent: int | None) -> tuple[float, float]:
    """The standard error over seeds and examples, and its degrees of freedom (Satterthwaite)."""
    of_seeds, of_rows, count = sd**2 / seeds, error**2, independent or 0
    uncertain = of_seeds**2 / (seeds - 1)
    if count > 1:
        of_rows *= count / (count - 1)
        uncertain += of_rows**2 / (count - 1)
    whole = of_seeds + of_rows
    if not uncertain:
        return math.sqrt(whole), MOST_FREEDOM
    return math.sqrt(whole), min(MOST_FREEDOM, whole**2 / uncertain)
