"""What a search says."""

import pytest

from layermix.runs.schema import FORMAT
from layermix.search.schema import CandidateRecord, FloorVerdict, SearchRecord, SearchSettings
from layermix.search.text import plan_text, verdict_sentence


def verdict(**changes: object) -> FloorVerdict:
    made = FloorVerdict(
        metric="accuracy",
        floor=1.0,
        teacher=0.8,
        scores=(0.8, 0.79),
        below=0.5,
        limit=0.9,
        p=0.03,
        shown=True,
        rows=400,
    )
    return made.model_copy(update=changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "0.50 points below it, with 95 % confidence at most 0.90 below (p = .030, one-sided"),
        ({"p": 0.0002}, "(p < .001, one-sided"),
        ({"limit": 0.99991, "p": 0.04998}, "at most 0.9999 below (p = .04998, "),
        ({"limit": 1.0041, "p": 0.0502, "shown": False}, "at most 1.0041 below (p = .05020, "),
        ({"int8": True, "int8_cost": 0.1}, "as int8 files, which cost 0.10 of them"),
        ({"int8": True, "int8_cost": -0.1}, "as int8 files, which gain 0.10 of them"),
        ({"below": -0.5, "limit": -0.1}, "0.50 points above it, with 95 % confidence at most 0.00"),
    ],
)
def test_the_verdict(changes: dict[str, object], words: str) -> None:
    assert words in verdict_sentence(verdict(**changes))


def plan(students: int = 4, epochs: str = "training.epochs", **changes: object) -> str:
    record = SearchRecord(
        format=FORMAT,
        settings=SearchSettings(floor=2.0),
        held_out_rows=300,
        validation_rows=5463,
        candidates=tuple(CandidateRecord(name=str(one), changes={}) for one in range(students)),
    ).model_copy(update=changes)
    return plan_text(record, 6, {epochs: (1, 2)}, "accuracy")


def test_rows_in_groups_show_less() -> None:
    assert "5,463 validation rows: a student as good" in plan()
    assert "with a probability of about 99%" in plan()
    grouped = plan(validation_groups=100)
    assert "5,463 validation rows in 100 groups: a student as good" in grouped
    assert "rows in 1 group: " in plan(validation_groups=1)  # judged as if independent
    assert "with a probability of about 99%" in plan(validation_groups=1)
    chance = int(grouped.rpartition("about ")[2].partition("%")[0])
    assert 30 < chance < 50


@pytest.mark.parametrize(
    ("students", "rounds"),
    [
        (3, "3 for all their epochs."),
        (4, "4 for half of their epochs, then 3 for all their epochs; "),
        (9, "9 for the 4th part of their epochs, then 5 for half of their epochs, then 3 for all"),
    ],
)
def test_epochs_that_are_an_axis_are_told_as_parts(students: int, rounds: str) -> None:
    assert f"in rounds, if all are within the budgets: {rounds}" in plan(students)
    assert "3 for 6 epochs" in plan(epochs="student.layers")


def test_names_of_searches_differ_where_their_numbers_do() -> None:
    names = [SearchSettings(floor=1.0, mb=mb).name for mb in (67.00001, 66.99996, 67.0)]
    assert names == ["floor-1-mb-67.00001", "floor-1-mb-66.99996", "floor-1-mb-67"]
