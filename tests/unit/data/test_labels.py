"""A label is the same class in every format, split and order, or an error says which is not."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layermix.config import DataConfig
from layermix.data.labels import Match, label_text, match_labels
from layermix.data.texts import TextData, from_splits, load_texts
from layermix.errors import ConfigError, DataError, Note
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
    ("labels", "names", "indices"),
    [
        ([1, 0, 1], ("0", "1"), [1, 0, 1]),
        (["1", "0", "1.0"], ("0", "1"), [1, 0, 1]),
        ([1.0, 0.0, np.int64(1)], ("0", "1"), [1, 0, 1]),
        ([5, 1, 3], ("1", "3", "5"), [2, 0, 1]),
        ([10, 9, -1], ("-1", "9", "10"), [2, 1, 0]),
        ([True, False, "True"], ("False", "True"), [1, 0, 1]),
        (["b", "a", "NA"], ("NA", "a", "b"), [2, 1, 0]),
        (["b", "0.5", "7"], ("0.5", "7", "b"), [2, 0, 1]),
    ],
)
def test_label_names(labels: list[Any], names: tuple[str, ...], indices: list[int]) -> None:
    found = labelled(labels)
    assert found.label_names == names
    assert found.splits["train"]["label"][:] == indices


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
    assert found.label_names == ("z", "y")
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
    assert any("test: 2 of 2 rows have no label" in str(note) for note in found.notes)


@pytest.mark.parametrize("labels", [["1.5", "1e-05", "-2"], ["3,5", "1", "2,25"], ["0.1", "inf"]])
def test_numbers_of_any_spelling_are_no_classes(labels: list[str]) -> None:
    rows = [{"text": f"t {n}", "label": label} for n, label in enumerate(labels * 2)]
    if "inf" in labels:
        assert from_splits({"train": rows, "validation": rows}).label_names == ("0.1", "inf")
        return
    problems = problems_of(lambda: from_splits({"train": rows, "validation": rows}))
    assert "give --data.problem regression" in problems[0]


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
    assert numbers.task == "mrpc"
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
    assert "test: 1 of 2 rows have no label (-1)" in map(str, found.notes)
    assert problems_of(lambda: from_splits({"train": of, "dev": test})) == [
        "memory[dev]: row 1: 1 row(s) have the label -1, the first of them this one; the classes "
        "are '0', '1'. Data sets use -1 for rows without a label: leave them out with "
        "--data.skip_labels -1"
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
            "memory[train]: row 3: found a list as label, wanted one text or integer; for "
            "several labels per row give --data.problem multi_label (column 'label')",
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
            "memory[train]: row 2: the label 2.5 has decimals; wanted classes, as text or "
            "integers. For a number per row give --data.problem regression",
        ),
    ],
)
def test_bad_labels(train: list[Any], validation: list[Any] | None, message: str) -> None:
    assert message in problems_of(lambda: labelled(train, validation))


# -- one reading -----------------------------------------------------------------------------------


ALIKE = "classes that differ only in capitals, leading zeros or what cannot be seen: "


def test_classes_that_look_the_same_are_told() -> None:
    notes = labelled(["bad", "bad\u200b", "caf\u00e9", "cafe\u0301", "Bad"] * 2).notes
    told = f"{ALIKE}'Bad', 'bad', 'bad\\u200b' and 'cafe\\u0301', 'caf\\xe9'"
    assert Note("similar-classes", told) in notes


def test_classes_called_as_missing_values_are_told() -> None:
    found = labelled(["0.0", "1.0", "nan", "1.0"] * 2)
    assert found.label_names == ("0", "1", "nan")
    (note,) = (note for note in found.notes if note.code == "classes-like-missing-labels")
    assert note.text.endswith("leave their rows out with --data.skip_labels nan")


def test_decimals_of_a_database_are_integers(tmp_path: Path) -> None:
    labels = pa.array([Decimal(n % 2) for n in range(8)], pa.decimal128(10, 2))
    table = pa.table({"text": [f"row {n}" for n in range(8)], "label": labels})
    for split in ("train", "validation"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    assert load_texts(DataConfig(path=str(tmp_path))).label_names == ("0", "1")


def test_codes_keep_their_zeros_and_are_classes_of_their_own() -> None:
    codes = labelled(["010", "007", "10", "007"])
    assert codes.label_names == ("007", "010", "10")
    assert codes.splits["train"]["label"][:] == [1, 0, 2, 0]
    assert Note("similar-classes", f"{ALIKE}'010', '10'") in codes.notes
    assert labelled(["Yes", "yes"]).label_names == ("Yes", "yes")


def test_booleans_are_the_same_two_classes_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,False\nb,True\n")
    write_jsonl(tmp_path / "validation.jsonl", [{"text": "c", "label": True}])
    pq.write_table(pa.table({"text": ["d"], "label": [False]}), tmp_path / "test.parquet")
    found = load_texts(DataConfig(path=str(tmp_path)))
    assert found.label_names == ("False", "True")
    assert [found.splits[name]["label"][0] for name in ("validation", "test")] == [1, 0]
    (tmp_path / "validation.jsonl").unlink()
    (tmp_path / "validation.csv").write_text("text,label\nc,TRUE\ne,FALSE\n")  # as Excel has them
    found = load_texts(DataConfig(path=str(tmp_path)))
    assert found.splits["validation"]["label"][:] == [1, 0]
    assert (
        "validation: labels matched to classes by name, ignoring case: 'TRUE' = 'True', 'FALSE' = "
        "'False'"
    ) in map(str, found.notes)


def test_a_label_that_is_no_unicode_is_refused_before_training(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "d.jsonl",
        [{"text": f"t {n}", "label": "\ud800x" * (n % 2) or "b"} for n in range(4)],
    )
    problems = problems_of(lambda: load_texts(DataConfig(path=str(tmp_path / "d.jsonl"))))
    assert sum("the label '\\ud800x' contains half a character" in text for text in problems) == 2
    assert any("d.jsonl:2: the label" in problem for problem in problems)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (
            ["joy", "pride", "joy#pride", "fear"],
            "'joy#pride' looks like a list of labels, separated by '#'",
        ),
        (["2", "20", "2,20", "0,3,2"], "'2,20' looks like a list of labels, separated by ','"),
        (["2", "3", "5", "2,5"], "separated by ',' or a number with decimals; wanted one class"),
        (["a;b", "b;c", "c;a"], "'a;b' looks like a list of labels, separated by ';'"),
        (["1 5", "1", "5"], "'1 5' looks like a list of labels, separated by ' '"),
        (["['joy']", "['joy', 'fear']"], "\"['joy']\" looks like a list of labels; wanted"),
        (["[0, 1]", "[1]"], "'[0, 1]' looks like a list of labels; wanted"),
        ([["joy"], ["fear"]], "found a list as label, wanted one text or integer; for several"),
    ],
)
def test_several_labels_in_one_cell_are_refused(labels: list[Any], told: str) -> None:
    assert told in problems_of(lambda: labelled(labels))[0]


@pytest.mark.parametrize(
    "labels",
    [
        ["World", "Sports", "Business", "Sci/Tech"],
        ["sport/football", "sport/tennis", "politics/home"],
        ["food|good", "food|bad", "service|good", "service|bad"],
        ["not entailment", "entailment"],
        ["[neutral]", "[joy]"],
        ["C", "C++", "C#"],
        ["1 star", "2 stars"],
    ],
)
def test_one_label_with_a_separator_is_a_class(labels: list[str]) -> None:
    assert labelled(labels).label_names == tuple(sorted(labels))


def test_labels_that_look_like_lists_are_classes_if_they_are_named() -> None:
    names = ["pos=pos", "neg=neg", "pos/neg=both"]
    found = labelled(["pos", "neg", "pos/neg"], label_names=names)
    assert found.label_names == ("pos", "neg", "both")
    assert found.splits["train"]["label"][:] == [0, 1, 2]


# -- names from the user, rows left out ------------------------------------------------------------


def test_labels_can_be_named_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(
        "text,label\n" + "".join(f"t {n},{n % 4 + 1}\n" for n in range(40))
    )
    config = DataConfig.model_validate(
        {"path": str(tmp_path / "d.csv"), "label_names": "1=bad,2=bad,3=good,4=good"}
    )
    found = load_texts(config)
    assert found.label_names == ("bad", "good")
    assert set(found.splits["train"]["label"][:]) == {0, 1}
    scored = load_texts(config, ("Good", "Bad"))  # of a model
    assert scored.label_names == ("Good", "Bad")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a", "1=b"], "some items have '=' and some have not"),
        (["a", "a"], "'a' occurs more than once"),
        (["1=a", "1.0=b"], "'1' occurs more than once"),
        (["1=a", "2= "], "the label is missing"),
    ],
)
def test_names_of_labels_that_contradict_each_other(names: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=r"--data\.label_names: ") as caught:
        labelled([0, 1], label_names=names)
    assert told in str(caught.value)
    assert "wanted class names in the order of the integers" in str(caught.value)


def class_labels(labels: list[int]) -> datasets.Dataset:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["yes", "no"])}
    )
    columns = {"text": [f"{len(labels)} {n}" for n in range(len(labels))], "label": labels}
    return datasets.Dataset.from_dict(columns, features=features)


def test_rows_without_a_label_are_told_in_one_line_and_can_be_left_out() -> None:
    splits = {"train": class_labels([0, 1, -1, 1, -1, 0]), "validation": class_labels([0, -1, 1])}
    assert problems_of(lambda: from_splits(splits)) == [
        f"memory[{split}]: row {first}: {count} row(s) have the label -1, the first of them this "
        "one; the classes are 'yes', 'no'. Data sets use -1 for rows without a label: leave them "
        "out with --data.skip_labels -1"
        for split, first, count in (("train", 3, 2), ("validation", 2, 1))
    ]
    found = from_splits(splits, skip_labels=["-1"])
    assert found.label_names == ("yes", "no")
    assert found.splits["train"]["label"][:] == [0, 1, 1, 0]
    assert found.splits["train"]["text"][:] == ["6 0", "6 1", "6 3", "6 5"]
    assert (
        "memory[train]: 2 of 6 rows have the label -1 and are left out (--data.skip_labels)"
    ) in map(str, found.notes)
    only = from_splits(
        {"train": class_labels([0, 1, 0]), "dev": splits["validation"]}, skip_labels=["-1"]
    )
    assert sum(note.code == "labels-skipped" for note in only.notes) == 1


def test_all_rows_left_out_is_an_error() -> None:
    rows = [{"text": f"{n}", "label": "a"} for n in range(3)]
    problems = problems_of(lambda: from_splits({"train": rows, "dev": rows}, skip_labels=["a"]))
    assert "memory[train]: there are no rows left without --data.skip_labels" in problems[0]


def test_minus_one_beside_integers_from_zero_is_a_class_and_doubted() -> None:
    assert any(note.code == "minus-one-class" for note in labelled([-1, 0, 1, 2]).notes)
    assert not any(note.code == "minus-one-class" for note in labelled([-1, 1]).notes)


# -- one matching ----------------------------------------------------------------------------------

STARS = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")


@pytest.mark.parametrize(
    ("labels", "names", "index", "ways"),
    [
        (["b", "a"], ["a", "b"], {"b": 1, "a": 0}, ()),
        (["NEGATIVE"], ["negative", "positive"], {"NEGATIVE": 0}, ("case",)),
        (["a"], ["A", "a"], {"a": 1}, ()),
        (["Ab"], ["AB", "ab"], {}, ()),
        (["5", "3"], STARS, {"5": 4, "3": 2}, ("number",)),
        (["0", "3"], STARS, {"3": 2}, ("number",)),
        (["0", "1"], ["LABEL_0", "LABEL_1"], {"0": 0, "1": 1}, ("number",)),
        (["2 stars", "1 star"], ["1", "2", "3"], {"2 stars": 1, "1 star": 0}, ("number",)),
        (["7"], ["007", "010"], {"7": 0}, ("number",)),
        (["1", "0"], ["no", "yes"], {"1": 1, "0": 0}, ("index",)),
        (["1", "2"], ["no", "yes"], {}, ()),
        (["-1", "1"], ["no", "yes"], {}, ()),
        (["0", "1"], ["1", "2"], {"1": 0}, ()),
        (["0"], ["01", "1", "x"], {}, ()),
        (["0", "no"], ["no", "yes"], {"no": 0}, ()),
        (["1", "2"], ["no", "yes", "2"], {"1": 1, "2": 2}, ("index",)),
        (["0", "1"], ["no", "yes", "5"], {}, ()),
    ],
)
def test_what_labels_match(
    labels: list[str], names: Sequence[str], index: dict[str, int], ways: tuple[str, ...]
) -> None:
    match = match_labels(labels, names)
    assert match.index == index
    assert match.unmatched == tuple(label for label in labels if label not in index)
    assert match.ways == (ways if match.index else ())
    assert bool(match.note) == bool(match.ways)


label_names = st.lists(
    st.one_of(
        st.sampled_from(
            [*STARS, "neg", "pos", "NEG", "0", "1", "2", "007", "7", "LABEL_0", "LABEL_1"]
        ),
        st.text("aAß1-7 ", max_size=4),
    )
    .map(str.strip)
    .filter(bool),
    min_size=1,
    max_size=6,
    unique=True,
)


def check_meanings(names: list[str], labels: list[str], kept: set[int]) -> None:
    whole = match_labels(labels, names)
    part = match_labels([label for n, label in enumerate(labels) if n in kept], names)
    assert isinstance(part, Match)
    assert {*whole.index, *whole.unmatched} == {*labels}
    for label, index in part.index.items():
        assert whole.index.get(label, index) == index
    assert match_labels(names, names).index == {name: n for n, name in enumerate(names)}


@settings(max_examples=60, deadline=None)
@given(label_names, label_names, st.sets(st.integers(0, 5)))
def test_a_label_means_one_class_whichever_labels_stand_beside_it(
    names: list[str], labels: list[str], kept: set[int]
) -> None:
    check_meanings(names, labels, kept)


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None)
@given(label_names, label_names, st.sets(st.integers(0, 5)))
def test_a_label_means_one_class_on_many_examples(
    names: list[str], labels: list[str], kept: set[int]
) -> None:
    check_meanings(names, labels, kept)


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.text(st.characters(categories=["Cs", "Nd", "Ll"]), max_size=3),
    st.sampled_from(["-0", "+1", "0.0", "1e3", "NaN", "9" * 5000, "['a']", " 1. "]),
    st.lists(st.integers(), max_size=2),
)


def check_reading(values: list[Any]) -> None:
    rows = [{"text": f"text {n}", "label": value} for n, value in enumerate(values)]
    try:
        found = from_splits({"train": rows, "validation": rows})
    except DataError:
        return
    for row, value in zip(found.splits["train"], values, strict=True):
        assert found.label_names[row["label"]] == label_text(value)
        assert label_text(label_text(value)) == label_text(value)
    assert len(set(found.label_names)) == len(found.label_names)


@settings(max_examples=40, deadline=None)
@given(st.lists(anything, min_size=2, max_size=6))
def test_any_label_is_read_as_it_stands_or_is_a_problem(values: list[Any]) -> None:
    check_reading(values)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(st.lists(anything, min_size=2, max_size=6))
def test_any_of_many_labels_is_read_as_it_stands_or_is_a_problem(values: list[Any]) -> None:
    check_reading(values)


def test_labels_of_a_file_mean_the_same_whichever_labels_it_lacks(tmp_path: Path) -> None:
    rows = [{"text": f"t {n}", "label": n % 5 + 1} for n in range(20)]
    without = [row for row in rows if row["label"] != 5]
    for given_rows in (rows, without):
        found = load_in(tmp_path, given_rows, STARS)
        assert found.label_names == STARS
        assert found.splits["train"]["label"][:] == [int(row["label"]) - 1 for row in given_rows]
        assert any("by the number in the name: '1' = '1 star'" in str(note) for note in found.notes)


def load_in(folder: Path, rows: list[dict[str, Any]], classes: Sequence[str]) -> TextData:
    for name in ("train", "validation"):
        write_jsonl(folder / f"{name}.jsonl", rows)
    return load_texts(DataConfig(path=str(folder)), classes)
