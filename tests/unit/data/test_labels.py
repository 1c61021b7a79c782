"""A label is the same class in every format, split and order, or an error says which is not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from layermix.config import DataConfig
from layermix.data.texts import TextData, from_splits, load_texts
from layermix.evaluation.metrics import UNLABELLED

from .conftest import problems_of, write_jsonl


def labelled(
    train: Sequence[Any], validation: Sequence[Any] | None = None, **options: Any
) -> TextData:
    splits = {"train": train, "validation": train if validation is None else validation}
    made = {
        name: [{"text": f"{name} {n}", "label": label} for n, label in enumerate(labels)]
        for name, labels in splits.items()
    }
    return from_splits(made, **options)


@pytest.mark.parametrize(
    ("labels", "names", "indices", "named"),
    [
        ([1, 0, 1], ("0", "1"), [1, 0, 1], False),
        (["1", "0", "1.0"], ("0", "1"), [1, 0, 1], False),
        ([1.0, 0.0, np.int64(1)], ("0", "1"), [1, 0, 1], False),
        ([5, 1, 3], ("1", "3", "5"), [2, 0, 1], False),
        ([10, 9, -1], ("-1", "9", "10"), [2, 1, 0], False),
        ([True, False, "True"], ("False", "True"), [1, 0, 1], True),
        (["b", "a", "NA"], ("NA", "a", "b"), [2, 1, 0], True),
        (["b", "0.5", "7"], ("0.5", "7", "b"), [2, 0, 1], True),
    ],
)
def test_label_names(
    labels: list[Any], names: tuple[str, ...], indices: list[int], named: bool
) -> None:
    found = labelled(labels)
    assert found.label_names == names
    assert found.splits["train"]["label"][:] == indices
    assert found.named is named


def test_names_given_or_of_a_class_label_win_and_splits_are_matched_by_name() -> None:
    assert labelled([1, 0], label_names=["bad", "good"]).label_names == ("bad", "good")
    assert labelled(["good", "bad"], label_names=["bad", "good"]).splits["train"]["label"][:] == [
        1,
        0,
    ]

    def named(names: list[str], labels: list[int]) -> datasets.Dataset:
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
        )
        columns = {"text": [f"{names} {n}" for n in labels], "label": labels}
        return datasets.Dataset.from_dict(columns, features=features)

    splits = {"train": named(["z", "y"], [0, 1]), "dev": named(["y", "z"], [0, 1])}
    found = from_splits(splits)
    assert (found.label_names, found.named) == (("z", "y"), True)
    assert found.splits["validation"]["label"][:] == [1, 0]
    numbered = named(["0", "1"], [0, 1])
    assert (
        from_splits({"train": numbered, "dev": numbered}, task="rte").label_names[0] == "entailment"
    )


def test_class_names_that_are_numbers_are_kept() -> None:
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["1", "2", "3"]),
        }
    )
    columns = {"text": [f"t {n}" for n in range(6)], "label": [0, 1, 2, 0, 1, 2]}
    rows = datasets.Dataset.from_dict(columns, features=features)
    more = [{"text": "u", "label": 3}, {"text": "v", "label": 1}]
    found = from_splits({"train": rows, "validation": more})
    assert found.label_names == ("1", "2", "3")
    assert found.splits["train"]["label"][:] == [0, 1, 2, 0, 1, 2]
    assert found.splits["validation"]["label"][:] == [2, 0]  # by name
    numbered = [{"text": f"t {n}", "label": n % 3} for n in range(6)]
    given = from_splits({"train": numbered, "validation": more[1:]}, label_names=["3", "2", "1"])
    assert given.label_names == ("3", "2", "1")
    assert given.splits["train"]["label"][:] == [0, 1, 2, 0, 1, 2]
    assert given.splits["validation"]["label"][:] == [1]  # by number


def test_white_space_around_a_label_makes_no_class() -> None:
    rows = [{"text": f"t {n}", "label": label} for n, label in enumerate(["a", "b ", " a", "b"])]
    assert from_splits({"train": rows, "validation": rows}).label_names == ("a", "b")


@pytest.mark.parametrize("labels", [None, ["", ""], [None, None], [float("nan")] * 2])
def test_test_rows_need_no_labels(labels: list[Any] | None) -> None:
    test = [{"text": f"u {n}"} | ({} if labels is None else {"label": labels[n]}) for n in range(2)]
    rows = [{"text": f"t {n}", "label": n % 2} for n in range(4)]
    found = from_splits({"train": rows, "validation": rows, "test": test})
    assert found.splits["test"]["label"][:] == [UNLABELLED, UNLABELLED]
    assert any("test: 2 of 2 rows have no label" in note for note in found.notes)


@pytest.mark.parametrize("labels", [["1.5", "1e-05", "-2"], ["3,5", "1", "2,25"], ["0.1", "inf"]])
def test_numbers_of_any_spelling_are_no_classes(labels: list[str]) -> None:
    rows = [{"text": f"t {n}", "label": label} for n, label in enumerate(labels * 2)]
    if "inf" in labels:
        assert from_splits({"train": rows, "validation": rows}).label_names == ("0.1", "inf")
        return
    problems = problems_of(lambda: from_splits({"train": rows, "validation": rows}))
    assert "regression is not supported" in problems[0]


def test_a_column_of_ids_is_no_label() -> None:
    rows = [{"text": f"t {n}", "label": f"id-{n}"} for n in range(60)]
    problems = problems_of(lambda: from_splits({"train": rows}))
    assert problems == [
        "memory[train]: 60 different labels in 60 rows; wanted classes, each with several rows; "
        "name another column with --data.label_column NAME"
    ]


def test_a_known_task_names_integers_and_orders_texts(tmp_path: Path) -> None:
    numbers = labelled([0, 1], task="mrpc")
    words = labelled(["not_equivalent", "equivalent"], task="mrpc")
    assert numbers.label_names == words.label_names == ("not_equivalent", "equivalent")
    assert numbers.fingerprint == words.fingerprint
    assert (numbers.task, numbers.named) == ("mrpc", True)
    for name in ("train", "dev"):
        write_jsonl(
            tmp_path / "MRPC" / f"{name}.jsonl",
            [{"text": f"{name} {label}", "label": label} for label in (0, 1)],
        )
    found = load_texts(DataConfig(path=str(tmp_path / "MRPC")))
    assert (found.task, found.label_names[0]) == ("mrpc", "not_equivalent")


def test_a_folder_that_is_only_called_like_a_task_is_not_taken_for_it(tmp_path: Path) -> None:
    labels = ("yes", "no", "maybe")
    for name in ("train", "validation"):
        rows = [{"text": f"{name} {label}", "label": label} for label in labels]
        write_jsonl(tmp_path / "rte" / f"{name}.jsonl", rows)
    found = load_texts(DataConfig(path=str(tmp_path / "rte")))
    assert (found.task, found.label_names) == (None, ("maybe", "no", "yes"))


def test_a_task_named_with_other_labels_is_an_error() -> None:
    assert problems_of(lambda: labelled(["no", "yes"], task="mrpc")) == [
        "memory[train]: task mrpc has the labels 'not_equivalent', 'equivalent' or 0 to 1, found "
        "'no', 'yes'; correct the labels or leave out --data.task"
    ]


def test_test_rows_may_lack_labels_as_on_the_hub_and_others_may_not() -> None:
    of = [{"text": f"{n}", "label": n} for n in range(2)]
    test = [{"text": "t", "label": -1}, {"text": "u", "label": 1}]
    found = from_splits({"train": of, "dev": of, "test": test})
    assert found.splits["test"]["label"][:] == [-100, 1]
    assert "test: 1 of 2 rows have no label (-1)" in found.notes
    assert problems_of(lambda: from_splits({"train": of, "dev": test})) == [
        "memory[dev]: row 1: unknown label '-1'; the classes are '0', '1'"
    ]


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ([0, 1, None], None, "memory[train]: row 3: the label is missing (column 'label')"),
        ([0, 1, ""], None, "memory[train]: row 3: the label is missing (column 'label')"),
        ([0, 1, float("nan")], None, "memory[train]: row 3: the label is missing (column 'label')"),
        (
            [0, 1, [1]],
            None,
            "memory[train]: row 3: found a list as label, wanted one text or integer (column "
            "'label')",
        ),
        (
            ["a", "b"],
            ["a", "c"],
            "memory[validation]: row 2: unknown label 'c'; the classes are 'a', 'b'",
        ),
        (
            ["a", "a"],
            None,
            "memory[train]: all rows have the label 'a'; wanted two classes or more",
        ),
        (
            [1, 2.5, "3"],
            None,
            "memory[train]: row 2: the label 2.5 has decimals; wanted classes, as text or integers "
            "(regression is not supported yet)",
        ),
    ],
)
def test_bad_labels(train: list[Any], validation: list[Any] | None, message: str) -> None:
    assert message in problems_of(lambda: labelled(train, validation))
