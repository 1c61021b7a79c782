"""Which students of a search go on, and which one is chosen."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layermix.search.halving import Standing, choice, epochs_of, going_on, noise, round_sizes

SMALL, MIDDLE, LARGE = (Standing(f"{cost} blocks", cost, 0.0) for cost in (1, 2, 4))


def with_points(*points: float) -> list[Standing]:
    return [
        Standing(one.name, one.cost, of_one)
        for one, of_one in zip((SMALL, MIDDLE, LARGE), points, strict=True)
    ]


def going(
    standings: list[Standing],
    keep: int,
    *,
    floor: float,
    uncertain: float = 0,
    reference: float = 90,
) -> list[str]:
    found = going_on(standings, keep, floor, uncertain, reference)
    return [one.name for one in found]


def test_the_smallest_of_those_near_the_best_go_on() -> None:
    standings = with_points(79.5, 80.0, 80.2)
    assert going(standings, 2, floor=1) == ["1 blocks", "4 blocks"]
    assert going(standings, 1, floor=1) == ["4 blocks"]  # the best one stays


def test_one_that_is_far_behind_is_dropped_first() -> None:
    standings = with_points(70.0, 79.5, 80.0)
    assert going(standings, 2, floor=1) == ["2 blocks", "4 blocks"]
    assert "1 blocks" in going(standings, 2, floor=8, uncertain=3)


def test_behind_a_teacher_that_the_best_one_exceeds_is_not_behind() -> None:
    standings = with_points(80.0, 81.0, 90.0)
    found = going(standings, 2, floor=1, uncertain=2.5, reference=80)
    assert found == ["1 blocks", "4 blocks"]  # as good as the teacher, and the smallest
    assert going(standings, 2, floor=1, uncertain=2.5) == ["2 blocks", "4 blocks"]


def test_of_those_behind_the_better_go_on() -> None:
    standings = with_points(60.0, 70.0, 80.0)
    assert going(standings, 2, floor=1) == ["2 blocks", "4 blocks"]


def test_the_smallest_that_is_good_enough_is_chosen() -> None:
    standings = with_points(78.0, 79.1, 79.9)
    chosen, within = choice(standings, least=79.0)
    assert (chosen.name, within) == ("2 blocks", True)
    assert choice(standings, least=78.0)[0].name == "1 blocks"


def test_the_floor_itself_is_enough_but_for_rounding() -> None:
    (only,) = [Standing("one", 1, 100 * 0.06)]
    assert choice([only], least=100 * 0.07 - 1)[1]


def test_if_none_is_good_enough_the_best_one_is_chosen() -> None:
    chosen, within = choice(with_points(78.0, 79.9, 79.1), least=85.0)
    assert (chosen.name, within) == ("2 blocks", False)


def test_of_equal_ones_the_smaller_is_chosen() -> None:
    assert choice(with_points(80.0, 80.0, 80.0), least=85.0)[0].name == "1 blocks"
    assert choice(with_points(80.0, 80.0, 80.0), least=75.0)[0].name == "1 blocks"


@given(
    st.lists(st.tuples(st.floats(1, 100), st.floats(0, 100)), min_size=1, max_size=20, unique=True),
    st.integers(1, 20),
    st.floats(0.1, 10),
    st.floats(0, 100),
)
def test_who_goes_on_whatever_the_scores(
    values: list[tuple[float, float]], keep: int, floor: float, reference: float
) -> None:
    standings = [Standing(str(number), *value) for number, value in enumerate(values)]
    kept = going_on(standings, keep, floor, noise(400), reference)
    assert len(kept) == min(keep, len(standings))
    assert len(set(kept)) == len(kept)
    assert max(one.points for one in kept) == max(one.points for one in standings)
    assert [one.cost for one in kept] == sorted(one.cost for one in kept)


@pytest.mark.parametrize("students", range(1, 40))
def test_rounds_halve_and_end_with_few(students: int) -> None:
    sizes = round_sizes(students)
    assert sizes[0] == students
    assert len(sizes) <= 3
    assert all(2 * small >= large > small for large, small in itertools.pairwise(sizes))
    assert sizes[-1] >= min(students, 3)  # the smallest, the best, and one between
    assert [epochs_of(1, number, len(sizes)) for number in range(len(sizes))] == [1] * len(sizes)
    epochs = [epochs_of(12, number, len(sizes)) for number in range(len(sizes))]
    assert epochs == sorted(epochs)
    assert epochs[-1] == 12
