"""Tables become the texts and classes that were meant, or one error that tells every fault."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layermix.config import DataConfig
from layermix.data.files import FORMATS
from layermix.data.splits import hold_out, take
from layermix.data.texts import TextData, from_splits, load_texts
from layermix.errors import DataError
from layermix.evaluation.metrics import UNLABELLED

Row = dict[str, Any]
TRAIN: list[Row] = [
    {"sentence1": "A cat.", "sentence2": "A pet.", "label": "yes"},
    {"sentence1": "A car.", "sentence2": "A pet.", "label": "no"},
    {"sentence1": 'A "dog" – ünïcödé', "sentence2": "1.0", "label": "maybe"},
]
VALIDATION: list[Row] = [{"sentence1": "A fish.", "sentence2": "A pet.", "label": "yes"}]
SPLITS = {"train": TRAIN, "validation": VALIDATION}
COLUMNS = ("sentence1", "sentence2", "label")


def write_jsonl(file: Path, of: Sequence[Row]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in of))


def texts_of(split: datasets.Dataset) -> list[tuple[str, ...]]:
    columns = [name for name in ("text", "text_pair") if name in split.column_names]
    return list(zip(*(split[name] for name in columns), strict=True))


def problems_of(call: Callable[[], Any]) -> list[str]:
    with pytest.raises(DataError) as caught:
        call()
    return list(caught.value.problems)


def tsv(folder: Path, train: str, validation: str = "text\tlabel\nx y\ta\nz\tb\n") -> DataConfig:
    (folder / "train.tsv").write_bytes(train.encode())
    (folder / "validation.tsv").write_bytes(validation.encode())
    return DataConfig(path=str(folder))


# -- the whole way ---------------------------------------------------------------------------------


def test_texts_classes_and_row_numbers_whatever_the_source(tmp_path: Path) -> None:
    for split, of in SPLITS.items():
        write_jsonl(tmp_path / "lines" / f"{split}.jsonl", of)
        (tmp_path / "tabs").mkdir(exist_ok=True)
        rows = [[*COLUMNS], *(list(row.values()) for row in of)]
        body = "".join("\t".join(row) + "\n" for row in rows)
        (tmp_path / "tabs" / f"{split}.tsv").write_text(body)
    memory = from_splits(SPLITS)
    for name in ("lines", "tabs"):
        found = load_texts(DataConfig(path=str(tmp_path / name)))
        assert found.fingerprint == memory.fingerprint
        assert found.source == str(tmp_path / name)
        assert (found.label_names, found.named) == (("maybe", "no", "yes"), True)
        assert found.text_columns == ("sentence1", "sentence2")
        for split, of in SPLITS.items():
            assert texts_of(found.splits[split]) == [
                (row["sentence1"], row["sentence2"]) for row in of
            ]
        assert found.splits["train"]["label"][:] == [2, 1, 0]
        assert found.splits["train"]["row_id"][:] == [0, 1, 2]
        assert found.splits["validation"]["row_id"][:] == [3]
        assert found.splits["train"].features["label"] == datasets.Value("int64")


def test_checking_takes_time_in_proportion_to_rows_and_classes() -> None:
    count = 20_000
    splits = {
        name: [{"text": f"text {n}", "label": f"{name} {n // 2}"} for n in range(count)]
        for name in ("train", "dev")
    }
    started = time.process_time()
    problems = problems_of(lambda: from_splits(splits))
    assert len(problems) == count  # no class of the one is known to the other
    # Half a second; a step for every pair of row and class would take minutes.
    assert time.process_time() - started < 10


def test_the_fingerprint_changes_with_texts_labels_order_and_splits() -> None:
    train, held = TRAIN, VALIDATION
    base = from_splits({"train": train, "validation": held})
    changed = [
        {"train": [{**train[0], "sentence1": "else"}, *train[1:]], "validation": held},
        {"train": [{**train[0], "label": "no"}, {**train[1], "label": "yes"}, *train[2:]]}
        | {"validation": held},
        {"train": train[::-1], "validation": held},
        {"train": train, "validation": held, "test": held},
        {"train": train, "validation": held, "unlabeled": held},
    ]
    fingerprints = {from_splits(splits).fingerprint for splits in changed} | {base.fingerprint}
    assert len(fingerprints) == len(changed) + 1


@pytest.mark.parametrize("where", ["path", "train", "saved"])
def test_without_validation_a_tenth_is_split_off_and_said(tmp_path: Path, where: str) -> None:
    of = [{"text": f"text number {n}", "label": n % 2} for n in range(200)]
    if where == "saved":
        datasets.Dataset.from_list(of).save_to_disk(str(tmp_path / "d"))
        config = DataConfig(path=str(tmp_path / "d"))
    else:
        file = tmp_path / "all.jsonl"
        write_jsonl(file, of)
        config = DataConfig.model_validate({where: str(file)})
    found = load_texts(config)
    train, held = found.splits["train"], found.splits["validation"]
    assert len(train) + len(held) == 200
    assert 10 <= len(held) <= 30
    assert sorted([*train["row_id"], *held["row_id"]]) == list(range(200))
    assert any(
        note.startswith(f"there is no validation split: {len(held)} of 200 training rows")
        for note in found.notes
    )


# -- GLUE ------------------------------------------------------------------------------------------


@pytest.fixture
def glue() -> Path:
    default = Path(__file__).parents[3].parent / "shared" / "data" / "glue"
    folder = Path(os.environ.get("LAYERMIX_GLUE", default))
    if not folder.is_dir():
        pytest.skip(f"no GLUE folder at {folder}; set LAYERMIX_GLUE")
    return folder


@pytest.mark.glue
@pytest.mark.parametrize(
    ("train", "validation", "counts", "names"),
    [
        ("mrpc/train", "mrpc/validation", (3668, 408), ("not_equivalent", "equivalent")),
        ("rte/train", "rte/validation", (2490, 277), ("entailment", "not_entailment")),
        ("qnli/train_partial", "qnli/validation", (12096, 5463), ("entailment", "not_entailment")),
    ],
)
def test_glue_comes_out_exactly(
    glue: Path, train: str, validation: str, counts: tuple[int, int], names: tuple[str, str]
) -> None:
    files = {"train": glue / f"{train}.tsv", "validation": glue / f"{validation}.tsv"}
    found = load_texts(DataConfig.model_validate({k: str(v) for k, v in files.items()}))
    assert (len(found.splits["train"]), len(found.splits["validation"])) == counts
    assert (found.label_names, found.named) == (names, True)
    assert found.task == train.split("/")[0]
    for split, file in files.items():
        plain = [line.split("\t") for line in file.read_bytes().decode().split("\n")[1:-1]]
        assert texts_of(found.splits[split]) == [tuple(row[:2]) for row in plain]
        assert found.splits[split]["label"][:] == [int(row[2]) for row in plain]


# -- columns ---------------------------------------------------------------------------------------


def columns_of(*columns: str, **options: Any) -> TextData:
    of = [{c: n % 2 if "label" in c.lower() else f"{c} {n}" for c in columns} for n in range(4)]
    return from_splits({"train": of, "validation": of}, **options)


@pytest.mark.parametrize(
    ("columns", "texts"),
    [
        (("idx", "question", "sentence", "label"), ("question", "sentence")),
        (("premise", "hypothesis", "label", "idx"), ("premise", "hypothesis")),
        (("question1", "question2", "label"), ("question1", "question2")),
        (("text", "text_pair", "labels"), ("text", "text_pair")),
        (("text_a", "text_b", "label"), ("text_a", "text_b")),
        (("id", "Review", "Label", "title"), ("Review",)),
        (("sentence", "label", "idx"), ("sentence",)),
        (("content", "label", "title"), ("content",)),
    ],
)
def test_usual_columns_are_found_and_told(columns: tuple[str, ...], texts: tuple[str, ...]) -> None:
    found = columns_of(*columns)
    assert found.text_columns == texts
    told = next(note for note in found.notes if note.startswith("columns: "))
    assert all(repr(name) in told for name in columns)


def test_given_columns_win() -> None:
    found = columns_of(
        "text", "title", "label", "label2", text_columns=["title"], label_column="label2"
    )
    assert found.text_columns == ("title",)
    assert found.splits["train"]["text"][0] == "title 0"


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            ("text", "review", "label"),
            {},
            "memory[train]: several possible text columns, 'text' or 'review'; the columns are "
            "'text', 'review', 'label'; name one or two with --data.text_columns A,B",
        ),
        (
            ("body", "label"),
            {},
            "memory[train]: no text column found; the columns are 'body', 'label'; name one or two "
            "with --data.text_columns A,B",
        ),
        (
            ("text", "kind"),
            {},
            "memory[train]: no label column found; the columns are 'text', 'kind'; name it with "
            "--data.label_column NAME",
        ),
        (
            ("text", "label", "labels"),
            {},
            "memory[train]: several label columns, 'label', 'labels'; the columns are 'text', "
            "'label', 'labels'; name it with --data.label_column NAME",
        ),
        (
            ("text", "label"),
            {"text_columns": ["text", "label"]},
            "memory[train]: wanted one or two text columns, different from each other and from the "
            "label's, found 'text', 'label'; name them with --data.text_columns A,B",
        ),
    ],
)
def test_unclear_columns_are_an_error(
    columns: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    assert problems_of(lambda: columns_of(*columns, **options)) == [message]


def test_given_columns_that_are_missing_are_told_for_every_split(tmp_path: Path) -> None:
    config = tsv(tmp_path, "text\tlabel\nx\ta\ny\tb\n", "text\tkind\nx\ta\n").model_copy(
        update={"text_columns": ("body",), "label_column": "label"}
    )
    train, validation = tmp_path / "train.tsv", tmp_path / "validation.tsv"
    assert problems_of(lambda: load_texts(config)) == [
        f"{train}:1: no column 'body'; the columns are 'text', 'label'",
        f"{validation}:1: no column 'body'; the columns are 'text', 'kind'",
        f"{validation}:1: no column 'label'; the columns are 'text', 'kind'",
    ]


# -- labels ----------------------------------------------------------------------------------------


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
    for name, of in SPLITS.items():
        write_jsonl(tmp_path / "rte" / f"{name}.jsonl", of)
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


# -- bad data --------------------------------------------------------------------------------------


def test_all_problems_of_all_files_are_told_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    train, validation, test = (tmp_path / f"{name}.tsv" for name in ("train", "dev", "test"))
    train.write_bytes(
        b"sentence\tlabel\n  \ta\ntoo few\none\ttoo\tmany\n\xff bytes\tb\n\nfine\t\nfine\tb\n"
    )
    validation.write_bytes(b"sentence\tlabel\nfine\tc\n")
    test.write_bytes(b"sentence\tlabel\n")
    unlabeled = tmp_path / "more.jsonl"
    unlabeled.write_bytes(
        b'{"sentence": "x"}\n{"sentence": \n[1]\n{"sentence": 7}\n{"other": "x"}\n'
    )
    config = DataConfig(path=str(tmp_path), unlabeled=str(unlabeled))
    assert problems_of(lambda: load_texts(config)) == [
        f"{train}:2: the text is empty (column 'sentence')",
        f"{train}:3: too few fields: 1, wanted 2",
        f"{train}:4: too many fields: 3, wanted 2",
        f"{train}:5: invalid UTF-8 (byte 0xff at column 1); save the file as UTF-8",
        f"{train}:6: a blank line, wanted 2 fields",
        f"{train}:7: the label is missing (column 'label')",
        f"{test}: there is only a header, no rows",
        f"{unlabeled}:2: not JSON: Expecting value at column 14",
        f"{unlabeled}:3: found a list, wanted one object per row",
        f"{unlabeled}:4: found a int, 7, wanted text (column 'sentence')",
        f"{unlabeled}:5: the text is missing (column 'sentence')",
        f"{validation}:2: unknown label 'c'; the classes are 'a', 'b'",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.tsv", "text\tlabel\nx\t\n", ":2: the label is missing (column 'label')"),
        ("train.txt", "one\ntwo\n", ": plain text has no labels, so it cannot be train data"),
        (
            "train.jsonl",
            '{"text": "\\ud800", "label": 1}',
            ":1: the text holds half a character (a lone surrogate), which is not Unicode "
            "(column 'text')",
        ),
    ],
)
def test_bad_rows_of_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "validation.tsv").write_text("text\tlabel\nx\ta\n")
    problems = problems_of(lambda: load_texts(DataConfig(path=str(tmp_path))))
    assert f"{tmp_path / name}{message}" in problems


def test_missing_values_of_a_data_set() -> None:
    train = datasets.Dataset.from_dict({"text": ["x", None], "label": [0, None]})
    assert problems_of(lambda: from_splits({"train": train})) == [
        "memory[train]: all rows have the label '0'; wanted two classes or more",
        "memory[train]: row 2: the text is missing (column 'text')",
        "memory[train]: row 2: the label is missing (column 'label')",
    ]


parts = st.sampled_from(
    [
        b"text",
        b"label",
        b"a",
        b" ",
        b'"',
        b"\t",
        b",",
        b"\n",
        b"\r",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\x00",
        b'{"text": "x", "label": 1}',
        b"{",
        b"}",
        b"[",
        b"null",
        b'{"text": NaN, "label": 1e999}',
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(parts, max_size=14).map(b"".join), st.sampled_from(FORMATS))
def test_no_file_whatever_its_bytes_ends_in_anything_but_rows_or_told_problems(
    data: bytes, format: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"train.{format}")
        file.write_bytes(data)
        try:
            found = texts_of(load_texts(DataConfig(path=str(file))).splits["train"])
            problems: Sequence[str] = ()
        except DataError as error:
            problems, found = error.problems, []
        assert found or problems
        told = ("holding out", str(file))
        assert all(problem.startswith(told) for problem in problems)


def test_shared_rows_are_a_note_with_the_count() -> None:
    of = [{"text": f"{n}", "label": n % 2} for n in range(6)]
    found = from_splits(
        {"train": of, "dev": [*of[:2], {"text": "new", "label": 1}], "test": of[:1]}
    )
    assert "validation shares 2 of its 3 rows with train (same text)" in found.notes
    assert "test shares 1 of its 1 rows with train (same text)" in found.notes
    assert "labels in train: 0 = 0 (3 rows), 1 = 1 (3 rows)" in found.notes


def test_an_unknown_task_is_not_passed_over() -> None:
    rows = [{"text": f"text {n}", "label": n % 2} for n in range(6)]
    (problem,) = problems_of(lambda: from_splits({"train": rows, "dev": rows}, task="mrcp"))
    assert "unknown task mrcp; wanted one of mrpc, rte, qnli" in problem


def test_splitting_off_must_leave_two_classes() -> None:
    of = [{"text": f"text {n}", "label": 0} for n in range(60)]
    held = hold_out(datasets.Dataset.from_list(of), 0.1, "validation")[1]["text"][0]
    for row in of:
        row["label"] = int(row["text"] == held)
    (problem,) = problems_of(lambda: from_splits({"train": of}))
    assert (
        "once a tenth is split off as validation, the training rows have one label only" in problem
    )


# -- unlabeled -------------------------------------------------------------------------------------


def test_unlabeled_text_joins_with_its_own_row_ids(tmp_path: Path) -> None:
    config = tsv(tmp_path, "text\tlabel\nx\ta\ny\tb\n").model_copy(
        update={"unlabeled": str(tmp_path / "more.txt")}
    )
    (tmp_path / "more.txt").write_bytes("one\u2028line\r\ntwo\r\n".encode())
    found = load_texts(config).splits["unlabeled"]
    assert found["text"][:] == ["one\u2028line", "two"]
    assert found["label"][:] == [-100, -100]
    assert found["row_id"][:] == [4, 5]


def test_plain_text_is_no_pair(tmp_path: Path) -> None:
    for name, of in SPLITS.items():
        write_jsonl(tmp_path / "d" / f"{name}.jsonl", of)
    more = tmp_path / "more.txt"
    more.write_text("one\n")
    config = DataConfig(path=str(tmp_path / "d"), unlabeled=str(more))
    assert problems_of(lambda: load_texts(config)) == [
        f"{more}: plain text has one text per line, but two are wanted ('sentence1', 'sentence2'); "
        "give TSV, CSV, JSONL or Parquet with these columns"
    ]


# -- splits by hash --------------------------------------------------------------------------------


def numbered(count: int) -> datasets.Dataset:
    of = [{"text": f"text {n // 2}", "text_pair": f"pair {n % 2}"} for n in range(count)]
    return from_splits(
        {
            "train": [{**row, "label": n % 2} for n, row in enumerate(of)],
            "dev": [{**of[0], "label": 0}],
        }
    ).splits["train"]


def test_hold_out_depends_on_the_text_alone() -> None:
    split = numbered(400)
    kept, held = hold_out(split, 0.2)
    assert len(kept) + len(held) == 400
    assert 50 < len(held) < 110
    mixed = split.shuffle(seed=1)
    assert set(texts_of(hold_out(mixed, 0.2)[1])) == set(texts_of(held))
    some = split.select(range(0, 400, 3))
    assert set(texts_of(hold_out(some, 0.2)[1])) == set(texts_of(held)) & set(texts_of(some))
    assert set(texts_of(held)) < set(texts_of(hold_out(split, 0.4)[1]))
    assert held["row_id"][:] == sorted(held["row_id"])


def test_hold_out_keeps_equal_texts_together_and_refuses_an_empty_part() -> None:
    split = datasets.concatenate_datasets([numbered(100), numbered(100)])
    kept, held = hold_out(split, 0.3)
    assert not set(texts_of(kept)) & set(texts_of(held))
    for fraction, left in ((1e-9, "none in the held-out part"), (1 - 1e-9, "none to train on")):
        (problem,) = problems_of(lambda fraction=fraction: hold_out(numbered(8), fraction))
        assert left in problem
        assert "of 8 training row(s)" in problem
        assert problem.endswith("give another --training.holdout_fraction, or more rows")


def test_rows_are_left_to_hold_out_once_validation_is_split_off() -> None:
    of = [{"text": f"text {n}", "label": n % 2} for n in range(300)]
    found = from_splits({"train": of})
    train, validation = found.splits["train"], found.splits["validation"]
    kept, held = hold_out(train, 0.1)  # as large a share, which one hash would leave empty
    assert 15 <= len(held) <= 45
    parts = [set(texts_of(part)) for part in (kept, held, validation)]
    assert set.union(*parts) == {(row["text"],) for row in of}
    assert sum(map(len, parts)) == 300
    with pytest.raises(DataError, match="leaves none in the held-out part"):
        hold_out(train, 0.1, "validation")


def test_take_draws_the_same_rows_whatever_their_order() -> None:
    split = numbered(100)
    ten = take(split, 10)
    assert len(ten) == 10
    assert ten["row_id"][:] == sorted(ten["row_id"])
    assert set(texts_of(take(split.shuffle(seed=3), 10))) == set(texts_of(ten))
    assert set(texts_of(ten)) < set(texts_of(take(split, 20)))
    assert set(texts_of(ten)) != set(texts_of(split)[:10])
    assert len(take(split, 100)) == 100
    assert problems_of(lambda: take(split, 101)) == [
        "--data.train_rows asks for 101 rows, there are 100; ask for fewer"
    ]


def test_take_and_hold_out_draw_by_different_hashes() -> None:
    split = numbered(400)
    held = hold_out(split, 0.2)[1]
    taken = take(split, len(held))
    assert set(texts_of(taken)) != set(texts_of(held))
