"""Probabilities that come with the data are read as meant, or each fault is told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layermix.config import DataConfig
from layermix.data.texts import TextData, from_splits, load_texts
from layermix.evaluation.metrics import UNLABELLED

from .conftest import Row, problems_of

GOOD: list[Row] = [
    {"text": "one", "p_bad": 0.9, "p_good": 0.1},
    {"text": "two", "p_bad": 0.2, "p_good": 0.8},
    {"text": "three", "p_bad": 0.4, "p_good": 0.6},
]


def read(train: Sequence[Row], validation: Sequence[Row] = (), **options: Any) -> TextData:
    splits = {"train": train, "validation": validation or GOOD}
    return from_splits(splits, soft_labels="beside", **options)


def numbers(texts: TextData, split: str = "train") -> list[list[float]]:
    rounded: list[list[float]] = np.round(texts.splits[split]["probabilities"][:], 6).tolist()
    return rounded


def test_a_column_for_each_class() -> None:
    texts = read(GOOD)
    assert texts.label_names == ("bad", "good")
    assert texts.soft_labels == "the columns p_bad, p_good"
    assert numbers(texts) == [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]
    assert texts.splits["train"]["label"][:] == [0, 1, 1]
    assert texts.splits["train"]["has_label"][:] == [False] * 3
    told = [note.text for note in texts.notes if "probabilities and no label" in note.text]
    assert told[0] == "train: 3 of 3 rows have probabilities and no label; L_sup skips them"
    assert told[1].startswith("validation: 3 of 3 rows have probabilities and no label; their most")


def test_labels_beside_probabilities_stay() -> None:
    rows = [row | {"label": label} for row, label in zip(GOOD, ("good", None, "bad"), strict=True)]
    texts = read(rows)
    assert texts.splits["train"]["label"][:] == [1, 1, 0]
    assert texts.splits["train"]["has_label"][:] == [True, False, True]


@pytest.mark.parametrize(
    ("cells", "names", "options"),
    [
        ([[0.9, 0.1], [0.2, 0.8]], ("bad", "good"), {"label_names": ["bad", "good"]}),
        (["[0.9, 0.1]", "[0.2, 0.8]"], ("bad", "good"), {"label_names": ["bad", "good"]}),
        ([{"b": 0.1, "a": 0.9}, {"a": 0.2, "b": 0.8}], ("b", "a"), {}),
        (['{"b": 0.1, "a": 0.9}', '{"b": 0.8, "a": 0.2}'], ("b", "a"), {}),
        ([np.array([0.9, 0.1]), np.array([0.2, 0.8])], ("0", "1"), {"label_names": ["0", "1"]}),
    ],
)
def test_one_column_with_all(cells: list[Any], names: tuple[str, ...], options: Any) -> None:
    rows = [{"text": f"row {n}", "probabilities": cell} for n, cell in enumerate(cells)]
    texts = read(rows, rows, **options)
    assert texts.label_names == names
    wanted = [[0.9, 0.1], [0.2, 0.8]]
    by_name = [row[::-1] if names == ("b", "a") else row for row in wanted]
    assert numbers(texts) == by_name


def test_a_list_has_the_order_of_the_classes_that_labels_name() -> None:
    rows = [{"text": str(n), "label": n % 2, "probabilities": [0.3, 0.7]} for n in range(4)]
    texts = read(rows, rows)
    assert texts.label_names == ("0", "1")
    texts = read(rows, rows, task="rte")
    assert texts.label_names == ("entailment", "not_entailment")
    assert texts.splits["train"]["label"][:] == [0, 1, 0, 1]


def test_columns_in_another_order_than_the_task_has() -> None:
    rows = [
        {"text": str(n), "p_not_entailment": 0.25, "p_entailment": 0.75, "label": n % 2}
        for n in range(4)
    ]
    texts = read(rows, rows, task="rte")
    assert texts.label_names == ("entailment", "not_entailment")
    assert numbers(texts) == [[0.75, 0.25]] * 4
    assert texts.splits["train"]["label"][:] == [0, 1, 0, 1]


def test_the_users_names_for_the_classes() -> None:
    rows = [{"text": str(n), "p_0": 0.25, "p_1": 0.75} for n in range(4)]
    assert read(rows, rows, label_names=["no", "yes"]).label_names == ("no", "yes")
    swapped = read(rows, rows, label_names=["1=yes", "0=no"])
    assert (swapped.label_names, numbers(swapped)[0]) == (("yes", "no"), [0.75, 0.25])


def test_rounded_probabilities_are_scaled() -> None:
    rows = [{"text": str(n), "p_a": 0.33, "p_b": 0.33, "p_c": 0.33} for n in range(3)]
    texts = read(rows, rows)
    assert np.allclose(texts.splits["train"]["probabilities"][:], 1 / 3)


def test_a_label_of_the_training_rows_alone_names_no_class() -> None:
    rows = [row | {"label": "neutral"} for row in GOOD]
    assert problems_of(lambda: read(rows))[0] == (
        "memory[train]: row 1: unknown label 'neutral'; the classes are 'bad', 'good'"
    )


def test_validation_rows_with_labels_and_no_probabilities() -> None:
    texts = read(GOOD, [{"text": "four", "label": "good"}, {"text": "five", "label": "bad"}])
    assert texts.splits["validation"]["label"][:] == [1, 0]
    assert "probabilities" not in texts.splits["validation"].column_names


def test_test_rows_need_neither() -> None:
    splits = {"train": GOOD, "validation": GOOD, "test": [{"text": "six"}]}
    texts = from_splits(splits, soft_labels="beside")
    assert texts.splits["test"]["label"][:] == [UNLABELLED]


def test_a_csv_file_as_predict_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    head = "text,label,p_bad,p_good\n"
    lines = (f"text {n},{'good' if n % 2 else 'bad'},0.{n + 1},0.{9 - n}\n" for n in range(9))
    file.write_text(head + "".join(lines))
    texts = load_texts(DataConfig(path=str(file)), soft_labels="beside")
    assert texts.label_names == ("bad", "good")
    assert numbers(texts)[0] == [0.1, 0.9]
    plain = load_texts(DataConfig(path=str(file)))
    assert plain.soft_labels is None
    assert "probabilities" not in plain.splits["train"].column_names
    assert any("not used 'p_bad', 'p_good'" in note.text for note in plain.notes)


def test_held_out_rows_keep_their_probabilities() -> None:
    rows = [{"text": f"row {n}", "p_a": n / 100, "p_b": 1 - n / 100} for n in range(100)]
    texts = from_splits({"train": rows}, soft_labels="beside")
    for split in texts.splits.values():
        for row in split:
            assert row["probabilities"][0] == pytest.approx(int(row["text"][4:]) / 100)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"p_bad": None}, "a probability is missing (column 'p_bad')"),
        ({"p_bad": ""}, "a probability is missing (column 'p_bad')"),
        ({"p_bad": float("nan")}, "a probability is missing (column 'p_bad')"),
        ({"p_bad": "much"}, "found 'much' as a probability, wanted a number from 0 to 1"),
        ({"p_bad": True}, "found True as a probability"),
        ({"p_good": 1.2}, "found 1.2 as a probability, wanted a number from 0 to 1 (column 'p_g"),
        ({"p_bad": -0.1, "p_good": 1}, "found -0.1 as a probability"),
        ({"p_bad": 90, "p_good": 10}, "found 90 as a probability"),
        (
            {"p_bad": None, "p_good": None, "label": None},
            "a probability is missing (column 'p_bad')",
        ),
        (
            {"p_bad": 0.5, "p_good": 0.9},
            "the probabilities sum to 1.4, wanted 1, since each row has one class (the columns "
            "p_bad, p_good)",
        ),
    ],
)
def test_faults_of_a_row(change: Row, told: str) -> None:
    rows = [GOOD[0], GOOD[1] | change, GOOD[2]]
    (problem,) = problems_of(lambda: read(rows))
    assert problem.startswith(f"memory[train]: row 2: {told}")


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (None, "the probabilities are missing (column 'probabilities')"),
        ([0.1, 0.2, 0.7], "found [0.1, 0.2, 0.7], wanted 2 numbers (column 'probabilities')"),
        ("none", "found 'none', wanted 2 numbers"),
        (0.5, "found 0.5, wanted 2 numbers"),
        ({"a": 0.5, "b": 0.5}, "found probabilities of 'a', 'b', wanted a list, as in the first"),
        ([0.5, "x"], "found 'x' as a probability"),
    ],
)
def test_faults_of_a_list(cell: Any, told: str) -> None:
    rows = [{"text": str(n), "probabilities": [0.4, 0.6]} for n in range(3)]
    rows[1]["probabilities"] = cell
    (problem,) = problems_of(lambda: read(rows, label_names=["bad", "good"]))[:1]
    assert problem.startswith(f"memory[train]: row 2: {told}")


def test_objects_must_have_the_same_classes() -> None:
    rows = [{"text": str(n), "probabilities": {"a": 0.4, "b": 0.6}} for n in range(3)]
    rows[1]["probabilities"] = {"a": 0.4, "c": 0.6}
    rows[2]["probabilities"] = [0.4, 0.6]
    first, second = problems_of(lambda: read(rows, rows[:1]))
    assert first.endswith(
        "found probabilities of 'a', 'c', wanted 'a', 'b' (column 'probabilities')"
    )
    assert "found [0.4, 0.6], wanted an object with 'a', 'b'" in second


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        (
            [{"text": "one", "p_a": 1.0}, {"text": "two", "p_a": 0.5}],
            {},
            "found one column with probabilities, 'p_a'; wanted one for each class, at least two",
        ),
        (
            [row | {"probabilities": [0.5, 0.5], "label": "a"} for row in GOOD],
            {},
            "probabilities stand twice, in 'probabilities' and in 'p_bad', 'p_good'; keep one",
        ),
        (
            [row | {"p_": 0.0} for row in GOOD],
            {},
            "the label is missing (the classes that have probabilities)",
        ),
        (
            [{"text": "one", "p_1": 0.5, "p_1.0": 0.5, "label": "a"}],
            {},
            "two of the classes have one name: '1', '1'",
        ),
        (
            [{"text": str(n), "probabilities": [0.4, 0.6]} for n in range(3)],
            {},
            "the lists in 'probabilities' have 2 probabilities, and nothing says of which classes",
        ),
        (GOOD, {"label_column": "lable"}, "no column 'lable'; the columns are 'text', 'p_bad'"),
        (GOOD, {"label_names": ["awful", "great"]}, "--data.label_names has the classes 'awful'"),
        (GOOD, {"task": "rte"}, "task rte has the labels 'entailment', 'not_entailment' or 0 to 1"),
        (GOOD, {"task": "nothing"}, "unknown task nothing; wanted one of"),
    ],
)
def test_faults_of_the_classes(rows: list[Row], options: Any, told: str) -> None:
    problems = problems_of(lambda: read(rows, rows, **options))
    assert any(told in problem for problem in problems)


def test_other_splits_lack_what_they_need() -> None:
    half = [{"text": "four", "p_bad": 0.5}]
    assert problems_of(lambda: read(GOOD, half))[0].startswith(
        "memory[validation]: no column 'p_good', which the training rows have; the columns are"
    )
    neither = [{"text": "four"}]
    assert problems_of(lambda: read(GOOD, neither))[0].startswith(
        "memory[validation]: found neither labels nor probabilities"
    )


def test_a_training_row_with_a_label_needs_no_probabilities() -> None:
    rows = [*GOOD, {"text": "four", "label": "bad"}, {"text": "five", "label": "good", "p_bad": ""}]
    texts = read(rows)
    assert numbers(texts)[3:] == [[1, 0], [0, 1]]
    assert texts.splits["train"]["has_label"][:] == [False] * 3 + [True] * 2
    assert problems_of(lambda: read(GOOD, [GOOD[0], {"text": "six", "label": "bad"}]))[0] == (
        "memory[validation]: row 2: a probability is missing (column 'p_bad')"
    )


def test_labels_against_the_probabilities_are_told() -> None:
    texts = read([row | {"label": "good"} for row in GOOD])
    told = [note.text for note in texts.notes if note.code == "labels-contradict"]
    assert told == [
        "train: 1 of 3 labels are not the most probable class of their row; the student learns "
        "from both. Where a label corrects the probabilities, clear them in that row"
    ]


def test_integer_labels_are_no_places_of_columns() -> None:
    """The columns stand in the file's order, which says nothing about 0 and 1."""
    rows = [{"text": str(n), "p_good": 0.9, "p_bad": 0.1, "label": n % 2} for n in range(4)]
    assert problems_of(lambda: read(rows, rows))[0] == (
        "memory[train]: row 1: unknown label '0'; the classes are 'good', 'bad'"
    )
    texts = read(rows, rows, label_names=["0=bad", "1=good"])
    assert texts.label_names == ("bad", "good")
    assert (texts.splits["train"]["label"][:], numbers(texts)[0]) == ([0, 1, 0, 1], [0.1, 0.9])


@pytest.mark.parametrize(
    ("row", "names", "wanted"),
    [
        ({"probabilities": [0.7, 0.2, 0.1]}, ["1", "2", "3"], [0.7, 0.2, 0.1]),
        ({"p_1": 0.7, "p_2": 0.2, "p_3": 0.1}, ["1", "2", "3"], [0.7, 0.2, 0.1]),
        ({"probabilities": [0.9, 0.1]}, ["1", "0"], [0.9, 0.1]),
        ({"p_0": 0.9, "p_1": 0.1}, ["1", "0"], [0.1, 0.9]),
    ],
)
def test_names_that_are_numbers_stay(row: Row, names: list[str], wanted: list[float]) -> None:
    rows = [{"text": str(n)} | row for n in range(3)]
    texts = read(rows, rows, label_names=names)
    assert (texts.label_names, numbers(texts)[0]) == (tuple(names), wanted)


def test_two_probabilities_of_one_class() -> None:
    rows = [{"text": str(n), "p_0": 0.2, "p_1": 0.3, "p_2": 0.5} for n in range(3)]
    names = ["0=bad", "1=bad", "2=good"]
    assert problems_of(lambda: read(rows, rows, label_names=names))[0].startswith(
        "memory[train]: --data.label_names gives several probabilities to one class: 'bad', 'bad'"
    )


@pytest.mark.parametrize("cell", [0.7, True, "foo", "[]", {"a": 1.0}, [1.0], None])
def test_a_column_that_holds_no_probabilities(cell: Any) -> None:
    rows = [{"text": str(n), "label": "a", "probabilities": cell} for n in range(3)]
    (problem,) = problems_of(lambda: read(rows, rows))[:1]
    assert problem.startswith("memory[train]: found ")
    assert "wanted a list or an object with a probability for each class, at least two" in problem


def test_a_fault_of_all_rows_is_told_once() -> None:
    percent = [{"text": str(n), "p_a": 100 - n, "p_b": n} for n in range(30)]
    assert problems_of(lambda: read(percent, percent)) == [
        f"memory[{split}]: the probabilities of the rows sum to 100, so they are percent; divide "
        "them by 100"
        for split in ("train", "validation")
    ]
    loose = [{"text": str(n), "p_a": 0.5, "p_b": 0.3 + n / 100} for n in range(10)]
    (problem, _) = problems_of(lambda: read(loose, loose))
    assert problem == (
        "memory[train]: the probabilities of 10 of 10 rows do not sum to 1 (but to 0.8 up to "
        "0.89); divide those of each row by their sum"
    )


def test_a_lone_column_beside_labels_is_something_else() -> None:
    rows = [{"text": str(n), "label": n % 2, "p_id": n} for n in range(4)]
    assert read(rows, rows).soft_labels is None
    capitals = [{"text": str(n), "P_a": 0.5, "P_b": 0.5} for n in range(3)]
    assert read(capitals, capitals).label_names == ("a", "b")


def test_instead_of_labels() -> None:
    """A model is scored by labels where there are any."""
    rows = [row | {"label": ("bad", "good")[n % 2]} for n, row in enumerate(GOOD)]
    for own, soft in ((rows, None), (GOOD, "the columns p_bad, p_good")):
        texts = from_splits({"train": own, "validation": own}, soft_labels="instead")
        assert texts.soft_labels == soft
