"""Tables become the texts and classes that were meant, or one error that tells every fault."""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layermix.config import DataConfig
from layermix.data.files import FORMATS
from layermix.data.splits import hold_out, texts_of
from layermix.data.texts import TextData, from_splits, load_texts
from layermix.errors import DataError

from .conftest import Row, problems_of, write_jsonl

TRAIN: list[Row] = [
    {"sentence1": "A cat.", "sentence2": "A pet.", "label": "yes"},
    {"sentence1": "A car.", "sentence2": "A pet.", "label": "no"},
    {"sentence1": 'A "dog" – ünïcödé', "sentence2": "1.0", "label": "maybe"},
]
VALIDATION: list[Row] = [{"sentence1": "A fish.", "sentence2": "A pet.", "label": "yes"}]
SPLITS = {"train": TRAIN, "validation": VALIDATION}
COLUMNS = ("sentence1", "sentence2", "label")


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
        assert found.label_names == ("maybe", "no", "yes")
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
        str(note).startswith(f"there is no validation split: {len(held)} of 200 training rows")
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
    assert found.label_names == names
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
    told = next(note.text for note in found.notes if note.code == "columns")
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
        f"{train}:5: invalid UTF-8 (byte 0xff at column 1); save the file as UTF-8, or give "
        "its encoding with --data.encoding",
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
    assert "validation shares 2 of its 3 rows with train (same text)" in map(str, found.notes)
    assert "test shares 1 of its 1 rows with train (same text)" in map(str, found.notes)
    assert "labels in train: 0 = 0 (3 rows), 1 = 1 (3 rows)" in map(str, found.notes)


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
