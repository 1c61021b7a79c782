"""Numbers and several labels per row are read as meant, in every shape, or each fault is told."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from layermix.config import DataConfig
from layermix.data.texts import TextData, from_splits, load_texts
from layermix.problems.kinds import PROBLEMS

from .conftest import Row, problems_of

NUMBERS: list[Row] = [
    {"text": "one", "score": 0.5},
    {"text": "two", "score": 2},
    {"text": "three", "score": "3.25"},
]
SETS: list[Row] = [
    {"text": "one", "labels": ["joy", "pride"]},
    {"text": "two", "labels": []},
    {"text": "three", "labels": ["anger"]},
]


def numbers(train: Sequence[Row], kind: str = "regression", **options: Any) -> TextData:
    validation = options.pop("validation", NUMBERS)
    splits = {"train": train, "validation": validation, **options.pop("splits", {})}
    return from_splits(splits, problem=PROBLEMS[kind], **options)


def sets(train: Sequence[Row] | Dataset, **options: Any) -> TextData:
    validation = options.pop("validation", train)
    splits = {"train": train, "validation": validation, **options.pop("splits", {})}
    return from_splits(splits, problem=PROBLEMS["multi_label"], **options)


def labels_of(texts: TextData, split: str = "train") -> list[Any]:
    labels: list[Any] = texts.splits[split]["label"][:]
    return labels


def told(texts: TextData, code: str) -> list[str]:
    return [note.text for note in texts.notes if note.code == code]


# -- numbers ---------------------------------------------------------------------------------------


def test_numbers_are_read_and_counted() -> None:
    texts = numbers(NUMBERS)
    assert labels_of(texts) == [0.5, 2.0, 3.25]
    assert texts.label_names == ("score",)
    assert texts.problem is PROBLEMS["regression"]
    assert told(texts, "label-counts") == [
        "labels in train: 3 numbers from 0.5 to 3.25, mean 1.92, standard deviation 1.12"
    ]


def test_a_column_called_label_comes_before_one_called_score() -> None:
    rows = [{**row, "label": place} for place, row in enumerate(NUMBERS)]
    assert labels_of(numbers(rows, validation=rows)) == [0, 1, 2]


def test_rows_of_a_test_split_may_have_no_number() -> None:
    bare = [{"text": "four", "score": None}, {"text": "five", "score": None}]
    texts = numbers(NUMBERS, splits={"test": bare})
    assert all(map(math.isnan, labels_of(texts, "test")))
    assert told(texts, "rows-without-label") == ["test: 2 of 2 rows have no label (-1)"]


def test_a_known_task_says_that_labels_are_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "stsb"
    folder.mkdir()
    for split in ("train", "validation"):
        lines = ["sentence1\tsentence2\tlabel"]
        lines += [f"a {split} {n}\tb {n}\t{n / 4}" for n in range(5)]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    texts = load_texts(DataConfig(path=str(folder)))
    assert (texts.task, texts.problem.name) == ("stsb", "regression")
    assert labels_of(texts) == [0, 0.25, 0.5, 0.75, 1]
    named = load_texts(DataConfig(path=str(folder), problem="relevance"))
    assert (named.task, named.problem.name) == (None, "relevance")


def test_a_validation_split_is_made_from_numbers_too() -> None:
    rows = [{"text": f"text {n}", "score": n / 7} for n in range(40)]
    texts = from_splits({"train": rows}, problem=PROBLEMS["regression"])
    assert texts.split_off
    assert len(texts.splits["train"]) + len(texts.splits["validation"]) == 40


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (
            [*NUMBERS, {"text": "x", "score": "high"}, {"text": "y", "score": True}],
            {},
            [
                "row 4: found 'high' as label, wanted a number (labels are read for regression) (",
                "row 5: found True as label, wanted a number (column 'score')",
            ],
        ),
        (
            [*NUMBERS, {"text": "x", "score": None}, {"text": "y", "score": math.inf}],
            {},
            [
                "row 4: the label is missing (column 'score')",
                "row 5: found inf as label, wanted a number (labels are read for regression) (",
            ],
        ),
        (
            [{"text": "x", "score": 2}, {"text": "y", "score": 2.0}],
            {},
            ["all rows have the label 2; wanted numbers that differ"],
        ),
        (
            NUMBERS,
            {"kind": "relevance", "validation": NUMBERS[:1]},
            [
                "row 2: found the number 2, wanted one from 0 to 1; divide the numbers by the "
                "largest, or give --data.problem regression (column 'score')"
            ],
        ),
        (
            NUMBERS,
            {"label_names": ["low", "high"]},
            ["--data.label_names names classes, and the labels are numbers; leave it out"],
        ),
        (
            NUMBERS,
            {"skip_labels": ["-1"]},
            ["--data.skip_labels leaves out rows of a class, and the labels are for regression"],
        ),
        (
            NUMBERS,
            {"label_columns": ["joy", "anger"]},
            ["--data.label_columns is for several labels per row; give --data.problem multi_label"],
        ),
        (NUMBERS, {"label_column": "rank"}, ["no column 'rank'; the columns are 'text', 'score'"]),
        (
            [{**row, "rating": 1} for row in NUMBERS],
            {},
            ["several label columns, 'score', 'rating'"],
        ),
        (
            [{**row, "p_a": 0.5, "p_b": 0.5} for row in NUMBERS],
            {"soft_labels": "beside"},
            ["found probabilities (the columns p_a, p_b), and the labels are numbers"],
        ),
        (NUMBERS, {"task": "stsx"}, ["unknown task stsx; wanted one of"]),
    ],
)
def test_bad_numbers_are_told(
    rows: list[Row], options: dict[str, Any], expected: list[str]
) -> None:
    problems = "\n".join(problems_of(lambda: numbers(rows, **options)))
    for part in expected:
        assert part in problems


def test_rows_with_problems_are_not_taken_for_rows_that_are_all_alike() -> None:
    rows: list[Row] = [{"text": "a", "score": 1}, {"text": "b", "score": "two"}]
    problems = problems_of(lambda: numbers(rows))
    assert len(problems) == 1
    assert "found 'two' as label" in problems[0]


def test_decimals_are_no_classes_and_the_way_out_is_told() -> None:
    rows = [{"text": str(n), "label": n / 3} for n in range(1, 9)]
    problems = problems_of(lambda: from_splits({"train": rows, "validation": rows}))
    assert "For a number per row give --data.problem regression" in problems[0]


# -- several labels --------------------------------------------------------------------------------


def test_lists_become_0_and_1_in_the_order_of_the_names() -> None:
    texts = sets(SETS)
    assert texts.label_names == ("anger", "joy", "pride")
    assert labels_of(texts) == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert told(texts, "label-counts") == [
        "labels in train: anger (1 rows), joy (1 rows), pride (1 rows); 1.00 labels per row"
    ]
    assert told(texts, "rows-with-no-label-of-several") == [
        "memory[train]: 1 of 3 rows have none of the 3 labels"
    ]


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        (["joy;pride", "", "anger"], {}),
        (["joy|pride", "", "anger"], {}),
        (["joy, pride", "", "anger"], {}),
        (["joy pride", "", "anger"], {"label_separator": " "}),
        (['["joy", "pride"]', "[]", '["anger"]'], {}),
        (["['joy', 'pride']", "[]", "['anger']"], {}),
        ([("pride", "joy"), (), ("anger",)], {}),
        ([np.array(["joy", "pride"]), np.array([], dtype=str), np.array(["anger"])], {}),
    ],
)
def test_the_shapes_of_a_column_of_labels(cells: list[Any], options: dict[str, Any]) -> None:
    rows = [{"text": str(place), "label": cell} for place, cell in enumerate(cells)]
    texts = sets(rows, **options)
    assert labels_of(texts) == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]


def test_what_separates_labels_is_told() -> None:
    rows = [{"text": "a", "label": "x;y, z"}, {"text": "b", "label": "x"}]
    texts = sets(rows)
    assert texts.label_names == ("x", "y, z")
    assert told(texts, "labels-separated") == [
        "memory[train]: the labels in 'label' are separated by ';' (--data.label_separator)"
    ]


def test_columns_of_0_and_1() -> None:
    rows = [
        {"text": "a", "toxic": 1, "insult": 0},
        {"text": "b", "toxic": "1", "insult": "1.0"},
        {"text": "c", "toxic": False, "insult": True},
    ]
    texts = sets(rows, label_columns=["toxic", "insult"])
    assert texts.label_names == ("toxic", "insult")
    assert labels_of(texts) == [[1, 0], [1, 1], [0, 1]]
    assert "labels 'toxic', 'insult'" in told(texts, "columns")[0]


def test_integers_have_the_names_of_the_source() -> None:
    kind = Features({"text": Value("string"), "labels": List(ClassLabel(names=["no", "yes"]))})
    data = Dataset.from_dict({"text": ["a", "b"], "labels": [[0, 1], [1]]}, features=kind)
    texts = sets(data)
    assert texts.label_names == ("no", "yes")
    assert labels_of(texts) == [[1, 1], [0, 1]]


def test_integers_sort_by_value_and_may_be_named() -> None:
    rows = [{"text": "a", "label": [10, 2]}, {"text": "b", "label": [2]}]
    assert sets(rows).label_names == ("2", "10")
    named = sets(rows, label_names=["10=ten", "2=two"])
    assert named.label_names == ("ten", "two")
    assert labels_of(named) == [[1, 1], [0, 1]]


def test_the_names_and_order_of_a_model_win(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in SETS))
    twice = DataConfig(train=str(file), validation=str(file), problem="multi_label")
    texts = load_texts(twice, ["pride", "joy", "anger", "calm"])
    assert texts.label_names == ("pride", "joy", "anger", "calm")
    assert labels_of(texts) == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]


def test_rows_of_a_test_split_may_have_no_labels() -> None:
    texts = sets(SETS, splits={"test": [{"text": "four", "labels": None}]})
    assert labels_of(texts, "test") == [[-100] * 3]
    assert not texts.problem.labelled(np.array(labels_of(texts, "test"))).any()


def test_texts_without_labels_beside_label_sets() -> None:
    texts = sets(SETS, splits={"unlabeled": [{"text": "four"}]})
    assert labels_of(texts, "unlabeled") == [[-100] * 3]


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (
            [*SETS, {"text": "x", "labels": None}, {"text": "y", "labels": {"joy": 1}}],
            {"validation": SETS},
            [
                "row 4: the labels are missing; a row that has none of them has an empty list",
                "row 5: found an object, wanted a list of labels (column 'labels')",
            ],
        ),
        (
            [*SETS, {"text": "x", "labels": ["joy", "joy"]}],
            {"validation": SETS},
            ["row 4: the label 'joy' stands twice in one row (column 'labels')"],
        ),
        (
            [*SETS, {"text": "x", "labels": [["joy"]]}],
            {"validation": SETS},
            ["row 4: found a list as label"],
        ),
        (
            SETS,
            {"validation": [{"text": "x", "labels": ["calm"]}]},
            ["unknown label 'calm'; the labels are 'anger', 'joy', 'pride' (column 'labels')"],
        ),
        (
            [{"text": "x", "labels": "[joy"}, *SETS],
            {"validation": SETS},
            ['found \'[joy\', wanted a list such as ["good", "short"]'],
        ),
        (
            [{"text": "x", "labels": []}, {"text": "y", "labels": ""}],
            {},
            ["no row has a label in the column 'labels'; wanted lists, or labels with ';' between"],
        ),
        (
            [{"text": "x", "a": 1, "b": 2}, {"text": "y", "a": None, "b": "no"}],
            {"label_columns": ["a", "b"]},
            [
                "row 1: found 2 as the label 'b', wanted 0 or 1 (column 'b')",
                "row 2: found nothing as the label 'a', wanted 0 or 1 (column 'a')",
                "row 2: found 'no' as the label 'b', wanted 0 or 1 (column 'b')",
            ],
        ),
        (
            SETS,
            {"label_columns": ["a", "labels"]},
            ["no column 'a'; the columns are 'text', 'labels'"],
        ),
        (
            SETS,
            {"label_columns": ["joy"], "label_column": "labels"},
            ["--data.label_column and --data.label_columns contradict each other"],
        ),
        (
            [{"text": "x", "a": 1, "b": 0}, {"text": "y", "a": 0, "b": 0}],
            {"label_columns": ["a", "b"], "label_names": ["a", "b"]},
            ["--data.label_names and --data.label_columns contradict each other"],
        ),
        (
            [{"text": "x", "labels": ["joy"]}, {"text": "y", "labels": ["joy"]}],
            {},
            ["all rows have the same labels, 'joy'; wanted rows with different ones"],
        ),
    ],
)
def test_bad_label_sets_are_told(
    rows: list[Row], options: dict[str, Any], expected: list[str]
) -> None:
    problems = "\n".join(problems_of(lambda: sets(rows, **options)))
    for part in expected:
        assert part in problems


def test_lists_are_no_classes_and_the_way_out_is_told() -> None:
    problems = problems_of(lambda: from_splits({"train": SETS, "validation": SETS}))
    assert "for several labels per row give --data.problem multi_label" in problems[0]


# -- probabilities of several labels ---------------------------------------------------------------

SOFT: list[Row] = [
    {"text": "one", "p_joy": 0.9, "p_anger": 0.7},
    {"text": "two", "p_joy": 0.2, "p_anger": 0.1},
    {"text": "three", "p_joy": 0.4, "p_anger": 0.5},
]


def test_probabilities_of_labels_need_no_sum() -> None:
    texts = sets(SOFT, soft_labels="beside")
    assert texts.label_names == ("joy", "anger")
    assert texts.splits["train"]["probabilities"][:] == [[0.9, 0.7], [0.2, 0.1], [0.4, 0.5]]
    assert labels_of(texts) == [[1, 1], [0, 0], [0, 1]]
    assert texts.splits["train"]["has_label"][:] == [False] * 3


def test_labels_beside_probabilities_and_in_their_place() -> None:
    rows: list[Row] = [
        {**SOFT[0], "labels": ["anger"]},
        {**SOFT[1], "labels": None},
        {"text": "three", "p_joy": None, "p_anger": None, "labels": ["joy"]},
    ]
    texts = sets(rows, soft_labels="beside", validation=[{**SOFT[0], "labels": ["joy"]}])
    assert texts.splits["train"]["probabilities"][:] == [[0.9, 0.7], [0.2, 0.1], [1, 0]]
    assert labels_of(texts) == [[0, 1], [0, 0], [1, 0]]
    assert texts.splits["train"]["has_label"][:] == [True, False, True]
    assert told(texts, "labels-contradict")[0].startswith("train: 1 of 2 labels are not the most")


def test_lists_of_probabilities_of_labels_need_names() -> None:
    rows: list[Row] = [{"text": str(n), "probabilities": [n / 4, 1 - n / 4]} for n in range(4)]
    texts = sets(rows, soft_labels="beside", label_names=["a", "b"])
    assert texts.label_names == ("a", "b")
    problems = problems_of(lambda: sets(rows, soft_labels="beside"))
    assert "there are 2 probabilities (the column probabilities), and no names" in problems[0]
    problems = problems_of(lambda: sets(SOFT, soft_labels="beside", label_names=["a", "b"]))
    assert "--data.label_names names other labels; name their labels in this order" in problems[0]


def test_a_probability_beyond_1_is_told() -> None:
    rows = [*SOFT, {"text": "four", "p_joy": 1.2, "p_anger": 0.1}]
    problems = problems_of(lambda: sets(rows, soft_labels="beside"))
    assert "row 4: found 1.2 as a probability, wanted a number from 0 to 1" in problems[0]


# -- what readers of the first version found -------------------------------------------------------


def test_hidden_labels_of_a_test_split_are_none() -> None:
    hidden = [{"text": "four", "score": -1.0}, {"text": "five", "score": -1}]
    texts = numbers(NUMBERS, splits={"test": hidden})
    assert all(map(math.isnan, labels_of(texts, "test")))
    some = [{"text": "four", "score": -1.0}, {"text": "five", "score": 2}]
    assert labels_of(numbers(NUMBERS, splits={"test": some}), "test") == [-1, 2]
    rows: list[Row] = [{"text": "a", "x": 1, "y": 0}, {"text": "b", "x": 0, "y": 1}]
    bare: list[Row] = [{"text": "c", "x": -1, "y": -1}]
    columns = sets(rows, label_columns=["x", "y"], splits={"test": bare})
    assert labels_of(columns, "test") == [[-100, -100]]


def test_a_decimal_comma_is_told() -> None:
    problems = problems_of(lambda: numbers([*NUMBERS, {"text": "x", "score": "1,5"}]))
    assert "; decimals begin with a point, not a comma (column 'score')" in problems[0]


@pytest.mark.parametrize("value", ["1_0", 10**400, 1e39])
def test_what_is_no_usual_number_is_told(value: Any) -> None:
    problems = problems_of(lambda: numbers([*NUMBERS, {"text": "x", "score": value}]))
    assert "wanted a number" in problems[0]


def test_names_of_integers_and_merged_names() -> None:
    kind = Features({"text": Value("string"), "labels": List(ClassLabel(names=["x", "y", "z"]))})
    columns = {"text": ["a", "b"], "labels": [[0, 1], [2]]}
    data = Dataset.from_dict(columns, features=kind)
    texts = sets(data, label_names=["0=y", "1=x", "2=z"])
    assert texts.label_names == ("y", "x", "z")
    assert labels_of(texts) == [[1, 1, 0], [0, 0, 1]]
    merged = sets(SETS, label_names=["joy=good", "pride=good", "anger=bad"])
    assert labels_of(merged) == [[1, 0], [0, 0], [0, 1]]


def test_probabilities_come_in_the_order_of_given_names() -> None:
    texts = sets(SOFT, soft_labels="beside", label_names=["anger", "joy"])
    assert texts.label_names == ("anger", "joy")
    assert texts.splits["train"]["probabilities"][0] == [0.7, 0.9]
    named = sets(SOFT, soft_labels="beside", label_names=["anger=rage", "joy=joy"])
    assert named.label_names == ("rage", "joy")
    assert named.splits["train"]["probabilities"][0] == [0.7, 0.9]


def test_columns_of_labels_beside_probabilities() -> None:
    rows = [{**row, "joy": n % 2, "anger": n // 2} for n, row in enumerate(SOFT)]
    texts = sets(rows, soft_labels="beside", label_columns=["anger", "joy"])
    assert texts.label_names == ("joy", "anger")  # as the probabilities stand
    assert labels_of(texts) == [[0, 0], [1, 0], [0, 1]]
    assert texts.splits["train"]["probabilities"][0] == [0.9, 0.7]
    with_id = [{**row, "p_id": 7, "x": n % 2, "y": 1 - n % 2} for n, row in enumerate(NUMBERS)]
    texts = sets(with_id, soft_labels="instead", label_columns=["x", "y"])
    assert labels_of(texts) == [[0, 1], [1, 0], [0, 1]]
    problems = problems_of(
        lambda: sets(
            [{**row, "calm": n % 2} for n, row in enumerate(SOFT)],
            soft_labels="beside",
            label_columns=["calm"],
        )
    )
    assert "the labels are 'calm', and there are probabilities of 'joy', 'anger'" in problems[0]


@pytest.mark.parametrize("as_text", [False, True])
def test_lists_with_0_or_1_for_each_label(as_text: bool) -> None:
    lists = [[0.0, 1.0, 0.0], [0, 0, 0], [True, True, False]]
    rows: list[Row] = [
        {"text": str(n), "labels": str(one) if as_text else one} for n, one in enumerate(lists)
    ]
    texts = sets(rows, label_names=["a", "b", "c"])
    assert texts.label_names == ("a", "b", "c")
    assert labels_of(texts) == [[0, 1, 0], [0, 0, 0], [1, 1, 0]]
    assert told(texts, "labels-separated") == []
    assert sets(rows).label_names == ("0", "1", "2")
    wrong = [*rows, {"text": "x", "labels": [1, 0]}]
    problems = problems_of(lambda: sets(wrong, validation=rows))
    told_of = "row 4: found [1, 0], wanted a list of 3 times 0 or 1, as in the first row"
    assert told_of in problems[0]


def test_rows_that_are_scored_may_have_one_label(tmp_path: Path) -> None:
    for kind, row, classes in (
        ("regression", {"text": "a", "score": 2}, ["score"]),
        ("multi_label", {"text": "a", "labels": ["x"]}, ["x", "y"]),
    ):
        file = tmp_path / f"{kind}.jsonl"
        file.write_text(f"{json.dumps(row)}\n" * 2)
        both = DataConfig.model_validate(
            {"train": str(file), "validation": str(file), "problem": kind}
        )
        assert len(load_texts(both, classes).splits["validation"]) == 2


def test_a_label_with_the_separator_of_predict_is_noted() -> None:
    rows: list[Row] = [{"text": "a", "labels": ["x;y"]}, {"text": "b", "labels": ["z"]}]
    assert len(told(sets(rows), "label-with-separator")) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"label_columns": ["joy", "joy"]}, "--data.label_columns names 'joy' twice"),
        ({"task": "sst2"}, "task sst2 has labels for classification, and they are to be read for"),
    ],
)
def test_options_that_contradict_several_labels(options: dict[str, Any], expected: str) -> None:
    problems = problems_of(lambda: sets(SETS, **options))
    assert expected in "\n".join(problems)


def test_a_separator_is_for_several_labels() -> None:
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    problems = problems_of(
        lambda: from_splits({"train": rows, "validation": rows}, label_separator=";")
    )
    assert "--data.label_separator is for several labels per row" in problems[0]


def test_a_folder_called_like_a_task_says_why_labels_are_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "stsb"
    folder.mkdir()
    (folder / "train.csv").write_text("sentence1,sentence2,label\na,b,yes\nc,d,no\n")
    problems = problems_of(lambda: load_texts(DataConfig(path=str(folder))))
    assert "as the task stsb has it; if it is not that task, give --data.problem" in problems[0]
    assert "stsb has it" not in problems[1].replace(str(folder), "")
