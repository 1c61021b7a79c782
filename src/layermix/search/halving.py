"""Which students of a search go on to longer training, and which one is chosen.

Successive halving (Jamieson & Talwalkar 2016): all students train for a part of the epochs, the
better half for longer, the last ones in full. Here "better" means what the search is for: smaller,
unless the score is too far below that of the best.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LAST = 3
"""A round with no more students than this is the last one, and none has fewer: the smallest and the
best alone would leave out those between, of which one may be good enough."""
MOST_ROUNDS = 3
ROUNDING = 1e-9
"""A score that is the least one but for rounding is enough."""


@dataclass(frozen=True)
class Standing:
    """A student after a round.

    Attributes:
        name: Its name.
        cost: Bytes or milliseconds, whichever is to be small.
        points: Its score on the held-out rows in points (hundredths), more is better.
    """

    name: str
    cost: float
    points: float


def round_sizes(students: int) -> list[int]:
    """How many students train in each round, if none of them fails.

    Examples:
        >>> round_sizes(8), round_sizes(3), round_sizes(24)
        ([8, 4, 3], [3], [24, 12, 6])
    """
    sizes = [students]
    while sizes[-1] > LAST and len(sizes) < MOST_ROUNDS:
        sizes.append(max(LAST, math.ceil(sizes[-1] / 2)))
    return sizes


def epochs_of(epochs: int, number: int, rounds: int) -> int:
    """The epochs of a round, counted from 0: the last round has all, those before it half as many.

    Examples:
        >>> [epochs_of(6, number, 3) for number in range(3)]
        [2, 3, 6]
    """
    return -(-epochs // (1 << (rounds - 1 - number)))


def noise(rows: int) -> float:
    """Points by which the score of rows is uncertain: the largest standard error of a share.

    Examples:
        >>> round(noise(400), 6)
        2.5
    """
    return 100 * 0.5 / math.sqrt(rows)


def going_on(
    standings: Sequence[Standing], keep: int, floor: float, uncertain: float, reference: float
) -> list[Standing]:
    """The students of the next round, smallest first.

    The smallest go on of those that are at most `floor` and the uncertainty of a score behind the
    best one, or behind the teacher if that is worse; then the best of the others. The best one
    always goes on.

    Args:
        standings: After the round, one or more.
        keep: How many may go on, at least one.
        floor: Points that the chosen student may be below the teacher.
        uncertain: From `noise`.
        reference: The teacher's points.
    """
    best = max(standings, key=lambda one: (one.points, -one.cost))
    least = min(best.points, reference) - floor - uncertain
    near = [one for one in standings if one.points >= least - ROUNDING]
    others = [one for one in standings if one not in near]
    order = sorted(near, key=lambda one: (one.cost, -one.points))
    order += sorted(others, key=lambda one: -one.points)
    chosen = order[:keep]
    if best not in chosen:
        chosen[-1] = best
    return sorted(chosen, key=lambda one: (one.cost, -one.points))


def choice(standings: Sequence[Standing], least: float) -> tuple[Standing, bool]:
    """The smallest student with a score of at least `least` points, and whether there is one.

    If there is none, the one with the best score.
    """
    enough = [one for one in standings if one.points >= least - ROUNDING]
    if enough:
        return min(enough, key=lambda one: (one.cost, -one.points)), True
    return max(standings, key=lambda one: (one.points, -one.cost)), False
