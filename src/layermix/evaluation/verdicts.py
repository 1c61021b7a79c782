"""From paired scores to a verdict: which comparisons are judged, how, and the sentence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from layermix.evaluation.statistics import (
    LEVEL,
    Bootstrap,
    Summary,
    check_between,
    checked_numbers,
    detectable,
    holm,
    least_seeds,
    seeds_needed,
    sign_flip,
    smallest_p,
    summarise,
)

Outcome = Literal["better", "worse", "no difference shown", "not attainable"]


@dataclass(frozen=True)
class Comparison:
    """Two arms of a study, trained with the same seeds.

    Attributes:
        name: What they are compared on, such as `mrpc`.
        first: Name of the arm that is better if differences are positive.
        second: Name of the other arm.
        differences: (seeds,) score of first minus second, seed by seed.
        margin: The smallest difference of interest, as a score: .005 is half a point.
        bootstrap: Over seeds and examples, if there is one; shown, but without influence on the
            verdict.

    Raises:
        ValueError: No difference, NaN, or a margin that is not a positive number.
    """

    name: str
    first: str
    second: str
    differences: Sequence[float]
    margin: float = 0.005
    bootstrap: Bootstrap | None = None

    def __post_init__(self) -> None:
        checked_numbers(
            self.differences, f"differences of {self.first} and {self.second} on {self.name}"
        )
        check_between(self.margin, 0, math.inf, "margin")


@dataclass(frozen=True)
class Verdict:
    """What a declared comparison shows.

    Attributes:
        comparison: What was judged.
        summary: Mean, spread and t interval of the paired differences.
        p: Sign-flip p, raw.
        adjusted_p: The same after Holm over the family.
        to_reach: The raw p at which this comparison would be decided, with the others unchanged.
        family: Number of comparisons in the family.
        outcome: Of `first` against `second`.
    """

    comparison: Comparison
    summary: Summary
    p: float
    adjusted_p: float
    to_reach: float
    family: int
    outcome: Outcome

    def sentence(self) -> str:
        """The verdict in one sentence; points are hundredths of the score."""
        about, sd, count = self.comparison, self.summary.sd, len(self.summary.values)
        estimate, seeds = _estimate(about), _counted(count, "seed")
        family = f"Holm over {_counted(self.family, 'comparison')}"
        p = "p < .001" if self.adjusted_p < 0.001 else f"p = {_short(self.adjusted_p)}"
        if self.outcome == "not attainable":
            return (
                f"no verdict is possible for {about.first} against {about.second} on {about.name} "
                f"with {seeds}: the smallest p they can give is {_short(smallest_p(count))}, and "
                f"{family} asks for {_short(self.to_reach)}, which takes "
                f"{least_seeds(self.to_reach)} seeds; found {estimate}."
            )
        if self.outcome != "no difference shown":
            return (
                f"{about.first} is {self.outcome} than {about.second} on {about.name}: {estimate}, "
                f"{p} after {family}, {seeds}."
            )
        sentence = (
            f"no difference shown between {about.first} and {about.second} on {about.name} at "
            f"{seeds}: {estimate}, {p} after {family}"
        )
        if not sd:  # equal seeds do not show what could have been detected
            return f"{sentence}."
        least = detectable(sd, count, level=self.to_reach)
        sentence += f"; this many seeds could have seen {100 * least:.1f} points"
        if least <= about.margin:
            return f"{sentence}."
        needed = seeds_needed(sd, about.margin, level=self.to_reach)
        return f"{sentence}; seeing {100 * about.margin:g} would need {needed} seeds."


def judge(
    comparisons: Sequence[Comparison], level: float = LEVEL, family: int | None = None
) -> list[Verdict]:
    """Verdicts on a family of comparisons that was declared before the runs.

    A comparison is decided if its Holm-adjusted sign-flip p is within the level. One that is not
    had to reach p = level / (family − decided ones), so level / family where none is decided. If
    the smallest p of its seeds is above that, no result could have decided it, and the outcome is
    `not attainable` rather than `no difference shown`. If numbers of seeds differ, a comparison of
    few seeds may be decided after clear ones of many seeds, never first.

    Args:
        comparisons: Those of the family that have been run.
        level: The chance, at most, of any wrong verdict in the family.
        family: Size of the whole family, for which Holm corrects; comparisons that have not been
            run count with p = 1. All have been run if None.

    Returns:
        One verdict per comparison, in their order.

    Raises:
        ValueError: No comparison, one given twice, more than the family has, or a level outside
            (0, 1).

    Examples:
        >>> gain = [0.013, 0.009, 0.011, 0.015, 0.008, 0.012]
        >>> [verdict] = judge([Comparison("mrpc", "learned", "fixed", gain)])
        >>> verdict.outcome, verdict.p
        ('better', 0.03125)
    """
    check_between(level, 0, 1, "level")
    pairs = {(each.name, frozenset((each.first, each.second))) for each in comparisons}
    if not pairs or len(pairs) < len(comparisons):
        raise ValueError(
            f"found {len(pairs)} different comparisons among {len(comparisons)}, wanted at least "
            "one and none twice; declare each pair of arms once per task and score"
        )
    size = len(comparisons) if family is None else family
    if size < len(comparisons):
        raise ValueError(
            f"found a family of {size}, wanted at least the {len(comparisons)} that are compared"
        )
    raw = [sign_flip(each.differences) for each in comparisons]
    raw += [1.0] * (size - len(raw))  # not run yet
    verdicts = []
    for place, (about, adjusted) in enumerate(zip(comparisons, holm(raw), strict=False)):
        summary = summarise(about.differences)
        to_reach = _to_reach(raw[:place] + raw[place + 1 :], level)
        outcome: Outcome = "no difference shown"
        if adjusted <= level:
            outcome = "better" if summary.mean > 0 else "worse"
        elif smallest_p(len(summary.values)) > to_reach:
            outcome = "not attainable"
        verdicts.append(Verdict(about, summary, raw[place], adjusted, to_reach, len(raw), outcome))
    return verdicts


def describe(comparison: Comparison) -> str:
    """The numbers of a comparison outside the family, without p and without a verdict.

    Examples:
        >>> describe(Comparison("rte", "learned", "fixed", [0.004]))
        'descriptive: learned minus fixed on rte: +0.4 points (one seed has no interval), 1 seed.'
    """
    return (
        f"descriptive: {comparison.first} minus {comparison.second} on {comparison.name}: "
        f"{_estimate(comparison)}, {_counted(len(comparison.differences), 'seed')}."
    )


def _to_reach(others: Sequence[float], level: float) -> float:
    """The p at or below which Holm rejects one comparison, given the p values of the others."""
    for rejected, p in enumerate(sorted(others)):
        threshold = level / (len(others) + 1 - rejected)
        if p > threshold:
            return threshold
    return level


def _estimate(about: Comparison) -> str:
    """`+1.2 points (95 % interval +0.4 to +2.0)`, with the bootstrap interval if there is one."""
    summary = summarise(about.differences)
    intervals = "one seed has no interval"
    if summary.sd is not None:
        intervals = "equal in all seeds, so without an interval over them"
    if summary.low is not None and summary.high is not None:
        intervals = f"95 % interval {_points(summary.low)} to {_points(summary.high)}"
    if about.bootstrap:
        low, high = _points(about.bootstrap.low), _points(about.bootstrap.high)
        intervals += f"; over seeds and examples {low} to {high}"
    return f"{_points(summary.mean)} points ({intervals})"


def _points(score: float) -> str:
    """Hundredths of a score, with a sign, never −0.0."""
    return f"{100 * score:+z.1f}"


def _short(p: float) -> str:
    return f"{p:.3g}".removeprefix("0")


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
