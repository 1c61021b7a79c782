"""Every source gives the same rows, no text is changed on the way, and every fault is told."""

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layermix.config import DataConfig
from layermix.data import (
    TextData,
    from_splits,
    hold_out,
    load_texts,
    read_unlabeled,
    take,
)
from layermix.errors import ConfigError, DataError
from layermix.sources import FORMATS

Row = dict[str, Any]

COLUMNS = ("sentence1", "sentence2", "label")
TRAIN = [
    ('He said "no".', "She said yes.", "maybe"),
    ('"Quoted"', 'a ""double"" mark', "no"),
    ("NA", "null", "yes"),
    (" None ", "nan", "yes"),
    ("comma, semicolon; ünïcödé 日本", "line\u2028separator\x85 and \x0b", "no"),
]
VALIDATION = [("A cat.", "A dog.", "no"), ("1", "2.0", "yes")]
SPLITS = {"train": TRAIN, "validation": VALIDATION}


def rows(of: Sequence[tuple[Any, ...]], columns: Sequence[str] = COLUMNS) -> list[Row]:
    return [dict(zip(columns, row, strict=True)) for row in of]


def write_delimited(
    file: Path, of: Sequence[tuple[Any, ...]], columns: Sequence[str], **form: Any
) -> None:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, **form)
        writer.writerow(columns)
        writer.writerows(of)


def write_raw(file: Path, of: Sequence[tuple[Any, ...]], columns: Sequence[str] = COLUMNS) -> None:
    lines = ["\t".join(map(str, row)) for row in (columns, *of)]
    file.write_bytes(("\n".join(lines) + "\n").encode())


def write(folder: Path, form: str, splits: Mapping[str, Sequence[tuple[Any, ...]]]) -> None:
    if form == "saved":
        made = {name: datasets.Dataset.from_list(rows(of)) for name, of in splits.items()}
        datasets.DatasetDict(made).save_to_disk(str(folder), num_proc=None)
        return
    folder.mkdir(exist_ok=True)
    for name, of in splits.items():
        if form == "tsv raw":
            write_raw(folder / f"{name}.tsv", of)
        elif form == "tsv quoted":
            write_delimited(folder / f"{name}.tsv", of, COLUMNS, delimiter="\t")
        elif form == "tsv all quoted":
            everything = {"delimiter": "\t", "quoting": csv.QUOTE_ALL, "lineterminator": "\n"}
            write_delimited(folder / f"{name}.tsv", of, COLUMNS, **everything)
        elif form == "csv":
            write_delimited(folder / f"{name}.csv", of, COLUMNS)
        elif form == "jsonl":
            text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows(of))
            (folder / f"{name}.jsonl").write_bytes(text.encode())  # no newline at the end
        elif form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows(of)), folder / f"{name}.parquet")
        else:
            raise ValueError(form)


FORMS = ("tsv raw", "tsv quoted", "tsv all quoted", "csv", "jsonl", "parquet", "saved")


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


@pytest.fixture(autouse=True)
def quiet_and_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


# -- the same rows from everywhere -----------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_rows(tmp_path: Path, form: str) -> None:
    write(tmp_path / form, form, SPLITS)
    found = load_texts(DataConfig(path=str(tmp_path / form)))
    wanted = from_splits({name: rows(of) for name, of in SPLITS.items()})
    assert found.fingerprint == wanted.fingerprint
    assert found.label_names == ("maybe", "no", "yes")
    assert found.named
    assert found.text_columns == ("sentence1", "sentence2")
    assert texts_of(found.splits["train"]) == [row[:2] for row in TRAIN]
    assert texts_of(found.splits["validation"]) == [row[:2] for row in VALIDATION]
    assert found.splits["train"]["label"][:] == [0, 1, 2, 2, 1]
    assert found.splits["train"]["row_id"][:] == [0, 1, 2, 3, 4]
    assert found.splits["validation"]["row_id"][:] == [5, 6]
    assert found.splits["train"].features["label"] == datasets.Value("int64")


text = st.text(
    st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1
).filter(str.strip)
marked = st.text('"" ab,\'', min_size=1, max_size=6).filter(str.strip)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(text | marked, marked, st.sampled_from("xy")), min_size=1, max_size=5))
def test_any_text_comes_out_as_it_went_in(tmp_path: Path, of: list[tuple[str, str, str]]) -> None:
    splits = {"train": [*of, ("a", "b", "x"), ("c", "d", "y")], "validation": of}
    wanted = from_splits({name: rows(part) for name, part in splits.items()}).fingerprint
    for form, quoting in (
        ("tsv raw", "raw"),
        ("tsv quoted", "quoted"),
        ("tsv all quoted", "auto"),
        ("csv", "auto"),
        ("jsonl", "auto"),
    ):
        folder = tmp_path / form
        write(folder, form, splits)
        found = load_texts(DataConfig.model_validate({"path": str(folder), "quoting": quoting}))
        assert found.fingerprint == wanted, form


def test_quoted_texts_may_hold_tabs_and_newlines(tmp_path: Path) -> None:
    of = [("tab\there", "line\r\nbreak", "a"), ("plain", 'mark " and\nnewline', "b")]
    wanted = from_splits({"train": rows(of), "validation": rows(of)}).fingerprint
    for form in ("tsv quoted", "csv", "jsonl", "parquet"):
        write(tmp_path / form, form, {"train": of, "validation": of})
        assert load_texts(DataConfig(path=str(tmp_path / form))).fingerprint == wanted, form


def test_the_fingerprint_changes_with_texts_labels_order_and_splits() -> None:
    train, held = rows(TRAIN), rows(VALIDATION)
    base = from_splits({"train": train, "validation": held})
    changed = [
        {"train": [{**train[0], "sentence1": "else"}, *train[1:]], "validation": held},
        {"train": [{**train[0], "label": "no"}, {**train[1], "label": "maybe"}, *train[2:]]}
        | {"validation": held},
        {"train": train[::-1], "validation": held},
        {"train": train, "validation": held, "test": held},
        {"train": train, "validation": held, "unlabeled": held},
    ]
    fingerprints = {from_splits(splits).fingerprint for splits in changed} | {base.fingerprint}
    assert len(fingerprints) == len(changed) + 1


@pytest.mark.parametrize("name", ["dev", "valid", "val", "validation"])
def test_validation_goes_by_several_names(tmp_path: Path, name: str) -> None:
    write(tmp_path / "d", "csv", {"train": TRAIN, name: VALIDATION, "test": VALIDATION})
    assert list(load_texts(DataConfig(path=str(tmp_path / "d"))).splits) == [
        "train",
        "validation",
        "test",
    ]


def test_single_files_and_json_endings(tmp_path: Path) -> None:
    write(tmp_path / "d", "jsonl", SPLITS)
    one = tmp_path / "d" / "learn.json"
    (tmp_path / "d" / "train.jsonl").rename(one)
    write_raw(tmp_path / "check.tsv", VALIDATION)
    found = load_texts(DataConfig(train=str(one), validation=str(tmp_path / "check.tsv")))
    assert found.fingerprint == from_splits({k: rows(v) for k, v in SPLITS.items()}).fingerprint
    assert found.source == str(one)


@pytest.mark.parametrize("where", ["path", "train", "saved"])
def test_without_validation_a_tenth_is_split_off_and_said(tmp_path: Path, where: str) -> None:
    of = [{"text": f"text number {n}", "label": n % 2} for n in range(200)]
    if where == "saved":
        datasets.Dataset.from_list(of).save_to_disk(str(tmp_path / "d"))
        config = DataConfig(path=str(tmp_path / "d"))
    else:
        file = tmp_path / "all.csv"
        write_delimited(file, [(row["text"], row["label"]) for row in of], ("text", "label"))
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


def test_a_byte_order_mark_and_windows_line_ends_are_dropped(tmp_path: Path) -> None:
    plain = "text\tlabel\nx y\ta\nz\tb\n"
    wanted = load_texts(tsv(tmp_path, plain)).fingerprint
    windows = "\ufeff" + plain.replace("\n", "\r\n") + "\r\n\r\n"
    assert load_texts(tsv(tmp_path, windows)).fingerprint == wanted
    for name in ("train", "validation"):
        (tmp_path / f"{name}.tsv").unlink()
        (tmp_path / f"{name}.csv").write_bytes(
            ("\ufeff" + plain.replace("\t", ",").replace("\n", "\r\n")).encode()
        )
    assert load_texts(DataConfig(path=str(tmp_path))).fingerprint == wanted


def test_a_carriage_return_within_a_raw_text_stays(tmp_path: Path) -> None:
    found = load_texts(tsv(tmp_path, "text\tlabel\none\rtwo\ta\nz\tb\n"))
    assert found.splits["train"]["text"][:] == ["one\rtwo", "z"]


def test_very_long_fields_are_read_and_the_limit_of_csv_is_put_back(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    found = load_texts(tsv(tmp_path, f'text\tlabel\n"{"x" * 200_000}"\ta\n"y"\tb\n'))
    assert len(found.splits["train"][0]["text"]) == 200_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        # marks as text: not closed, text after the closing mark, a single whole one, one over lines
        ('"open\ta\nz\tb\n', ['"open', "z"]),
        ('"Hi" he said\ta\nz\tb\n', ['"Hi" he said', "z"]),
        ('"Hello"\ta\nworld\tb\n', ['"Hello"', "world"]),
        # marks as quotes: a whole column, doubled marks inside, a tab inside
        ('"Hello"\ta\n"world"\tb\n', ["Hello", "world"]),
        ('"say ""hi"""\ta\nworld\tb\n', ['say "hi"', "world"]),
        ('"Hel\tlo"\ta\nworld\tb\n', ["Hel\tlo", "world"]),
    ],
)
def test_quote_marks_are_judged_and_the_judgement_is_told(
    tmp_path: Path, body: str, texts: list[str]
) -> None:
    found = load_texts(tsv(tmp_path, "text\tlabel\n" + body))
    assert found.splits["train"]["text"][:] == texts
    said = "read raw" if any(text.startswith('"') for text in texts) else "read as quoted"
    assert any("begin with a quote mark" in note and said in note for note in found.notes)


def test_two_raw_rows_are_not_joined_by_their_marks(tmp_path: Path) -> None:
    config = tsv(tmp_path, 'label\ttext\na\t"Hello\nb\tbye"\n', "label\ttext\na\tx\n")
    assert load_texts(config).splits["train"]["text"][:] == ['"Hello', 'bye"']


def test_quoting_can_be_chosen(tmp_path: Path) -> None:
    config = tsv(tmp_path, 'text\tlabel\n"Hello"\ta\n"world"\tb\n')
    raw = load_texts(config.model_copy(update={"quoting": "raw"}))
    assert raw.splits["train"]["text"][:] == ['"Hello"', '"world"']
    assert not any("quote mark" in note for note in raw.notes)
    quoted = load_texts(config.model_copy(update={"quoting": "quoted"}))
    assert quoted.splits["train"]["text"][:] == ["Hello", "world"]


# -- GLUE ------------------------------------------------------------------------------------------


@pytest.fixture
def glue() -> Path:
    default = Path(__file__).parents[2].parent / "shared" / "data" / "glue"
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


def test_class_names_survive_parquet(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "y"])}
    )
    of = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    for name in ("train", "validation"):
        of.to_parquet(str(tmp_path / f"{name}.parquet"))
    found = load_texts(DataConfig(path=str(tmp_path)))
    assert (found.label_names, found.splits["train"]["label"][:]) == (("z", "y"), [0, 1])


def test_a_known_task_names_integers_and_orders_texts(tmp_path: Path) -> None:
    numbers = labelled([0, 1], task="mrpc")
    words = labelled(["not_equivalent", "equivalent"], task="mrpc")
    assert numbers.label_names == words.label_names == ("not_equivalent", "equivalent")
    assert numbers.fingerprint == words.fingerprint
    assert (numbers.task, numbers.named) == ("mrpc", True)
    write(
        tmp_path / "MRPC", "csv", {"train": [("a", "b", 0), ("c", "d", 1)], "dev": [("e", "f", 1)]}
    )
    found = load_texts(DataConfig(path=str(tmp_path / "MRPC")))
    assert (found.task, found.label_names[0]) == ("mrpc", "not_equivalent")


def test_a_folder_that_is_only_called_like_a_task_is_not_taken_for_it(tmp_path: Path) -> None:
    write(tmp_path / "rte", "csv", SPLITS)
    found = load_texts(DataConfig(path=str(tmp_path / "rte")))
    assert (found.task, found.label_names) == (None, ("maybe", "no", "yes"))


def test_a_task_named_with_other_labels_is_an_error() -> None:
    assert problems_of(lambda: labelled(["no", "yes"], task="mrpc")) == [
        "memory[train]: task mrpc has the labels 'not_equivalent', 'equivalent' or 0 to 1, found "
        "'no', 'yes'; mend the labels or leave out --data.task"
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
        ("train.tsv", b"", ": the file is empty"),
        ("train.csv", b"\xef\xbb\xbf\n\n", ": the file is empty"),
        ("train.csv", b"text,label\n", ": there is only a header, no rows"),
        (
            "train.csv",
            b"text,label,text\nx,a,y\n",
            ":1: the column 'text' appears 2 times in the header",
        ),
        (
            "train.csv",
            b'text,label\nx,a\n"y,b\nz,a\n',
            ":3: not well quoted: a quote mark is never closed",
        ),
        ("train.csv", b'text,label\n"x"y,b\n', ":2: not well quoted: ',' expected after '\"'"),
        (
            "train.tsv",
            "text\tlabel\n".encode("utf-16"),
            ": found UTF-16, wanted UTF-8; save it as UTF-8",
        ),
        (
            "train.jsonl",
            b'[\n{"text": "x"}\n]',
            ":1: found a JSON array, wanted one JSON object per line",
        ),
        (
            "train.jsonl",
            b'{"text": 1, "text": 2}',
            ":1: not usable JSON: the column 'text' appears more than once",
        ),
        (
            "train.jsonl",
            b'{"text": "\\ud800", "label": 1}',
            ":1: the text holds half a character (a lone surrogate), which is not Unicode "
            "(column 'text')",
        ),
        ("train.jsonl", b"{}\n\n{}", ": its rows have no columns"),
        ("train.csv", b'"open\n', ":1: not well quoted: a quote mark is never closed"),
        ("train.tsv", b"text\tlabel\nx\t\n", ":2: the label is missing (column 'label')"),
        ("train.txt", b"one\ntwo\n", ": plain text has no labels, so it cannot be train data"),
        (
            "train.tsv",
            b'text\tlabel\n"open\ta\textra\nx\tb\n',
            ":2: too many fields: 3, wanted 2 (quote marks were read as text, see --data.quoting)",
        ),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "validation.tsv").write_text("text\tlabel\nx\ta\n")
    problems = problems_of(lambda: load_texts(DataConfig(path=str(tmp_path))))
    assert f"{tmp_path / name}{message}" in problems


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
        for call in (
            lambda: texts_of(read_unlabeled(file)),
            lambda: texts_of(load_texts(DataConfig(path=str(file))).splits["train"]),
        ):
            try:
                problems, found = None, call()
            except DataError as error:
                problems, found = error.problems, []
            assert found or problems
            told = ("holding out", str(file))
            assert all(problem.startswith(told) for problem in problems or ())


def test_bad_parquet(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    file.write_bytes(b"not parquet at all")
    (problem,) = problems_of(lambda: load_texts(DataConfig(path=str(file))))
    assert problem.startswith(f"{file}: not readable as Parquet: ")
    pq.write_table(pa.table({"text": ["x", None], "label": [0, None]}), file)
    assert problems_of(lambda: load_texts(DataConfig(path=str(file)))) == [
        f"{file}: all rows have the label '0'; wanted two classes or more",
        f"{file}: row 2: the text is missing (column 'text')",
        f"{file}: row 2: the label is missing (column 'label')",
    ]
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), file)
    assert problems_of(lambda: load_texts(DataConfig(path=str(file)))) == [
        f"{file}: there are no rows"
    ]
    twice = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(twice, file)
    assert problems_of(lambda: load_texts(DataConfig(path=str(file)))) == [
        f"{file}: the column 'text' appears more than once"
    ]


def test_missing_and_unreadable_sources(tmp_path: Path) -> None:
    gone = tmp_path / "gone.tsv"
    assert problems_of(lambda: load_texts(DataConfig(path=str(gone)))) == [
        f"{gone}: no such file or folder"
    ]
    config = DataConfig(train=str(gone), validation=str(tmp_path))
    assert problems_of(lambda: load_texts(config)) == [
        f"{gone}: no such file",
        f"{tmp_path}: cannot be read: Is a directory",
    ]
    odd = tmp_path / "train.xlsx"
    odd.write_bytes(b"x")
    assert problems_of(lambda: load_texts(DataConfig(path=str(odd)))) == [
        f"{odd}: unknown format 'xlsx'; wanted {', '.join(FORMATS)} (as the file's ending)"
    ]
    (tmp_path / "dev.tsv").write_text("text\tlabel\nx\ta\n")
    (problem,) = problems_of(lambda: load_texts(DataConfig(path=str(tmp_path))))
    assert problem.startswith(f"{tmp_path}: no training split; looked for 'train', 'training' ")
    assert "found 'dev.tsv', 'train.xlsx'" in problem
    with pytest.raises(ConfigError, match="no data named; give --data FOLDER"):
        load_texts(DataConfig())


@pytest.mark.parametrize("path", ["./data", "a/b/c", "../data", "~data", "a\\b"])
def test_what_is_clearly_a_path_is_not_looked_for_on_the_hub(path: str) -> None:
    config = DataConfig.model_construct(path=path)
    assert problems_of(lambda: load_texts(config)) == [f"{path}: no such file or folder"]


def test_two_files_for_one_split_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "d", "csv", SPLITS)
    write(tmp_path / "d", "jsonl", {"train": TRAIN})
    assert problems_of(lambda: load_texts(DataConfig(path=str(tmp_path / "d")))) == [
        f"{tmp_path / 'd'}: several train splits, 'train.csv', 'train.jsonl'; keep one"
    ]


def test_a_damaged_saved_data_set(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text("{")
    (problem,) = problems_of(lambda: load_texts(DataConfig(path=str(tmp_path))))
    assert problem.startswith(f"{tmp_path}: not readable as a saved data set: ")


def test_in_memory_rows_of_other_kinds_and_none_at_all() -> None:
    assert problems_of(lambda: from_splits({"train": [], "dev": ["text"]})) == [  # type: ignore[list-item]
        "memory[train]: there are no rows",
        "memory[dev]: row 1: found a str, wanted one object per row",
    ]
    (problem,) = problems_of(lambda: from_splits({}))
    assert problem.startswith("memory: no training split; ")


def test_shared_rows_are_a_note_with_the_count() -> None:
    of = [{"text": f"{n}", "label": n % 2} for n in range(6)]
    found = from_splits(
        {"train": of, "dev": [*of[:2], {"text": "new", "label": 1}], "test": of[:1]}
    )
    assert "validation shares 2 of its 3 rows with train (same text)" in found.notes
    assert "test shares 1 of its 1 rows with train (same text)" in found.notes
    assert "labels in train: 0 = 0 (3 rows), 1 = 1 (3 rows)" in found.notes


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
    write(tmp_path / "d", "csv", SPLITS)
    more = tmp_path / "more.txt"
    more.write_text("one\n")
    config = DataConfig(path=str(tmp_path / "d"), unlabeled=str(more))
    assert problems_of(lambda: load_texts(config)) == [
        f"{more}: plain text has one text per line, but two are wanted ('sentence1', 'sentence2'); "
        "give TSV, CSV, JSONL or Parquet with these columns"
    ]


@pytest.mark.parametrize("form", ["tsv raw", "csv", "jsonl", "parquet"])
def test_texts_to_predict_need_no_labels_and_keep_their_order(tmp_path: Path, form: str) -> None:
    write(tmp_path, form, {"train": TRAIN})
    (file,) = tmp_path.glob("train.*")
    found = read_unlabeled(file)
    assert texts_of(found) == [row[:2] for row in TRAIN]
    assert found["row_id"][:] == [0, 1, 2, 3, 4]
    assert set(found["label"]) == {-100}
    assert texts_of(read_unlabeled(str(file), ["sentence2"])) == [row[1:2] for row in TRAIN]


@pytest.mark.parametrize(
    ("data", "options", "texts"),
    [
        (b'{"text": "one"}\n{"text": "two"}\n', {}, [("one",), ("two",)]),
        (b"one\n{two}\n", {}, [("one",), ("{two}",)]),
        (b"text\tn\none\t1\n", {"format": "tsv"}, [("one",)]),
        (b'a,b\n"1,2",3\n', {"format": "csv", "text_columns": ["b", "a"]}, [("3", "1,2")]),
        (b"one\n", {"text_columns": ["body"]}, [("one",)]),
        (b"[1]\n", {}, [("[1]",)]),
    ],
)
def test_texts_from_a_stream(
    data: bytes, options: dict[str, Any], texts: list[tuple[str, ...]]
) -> None:
    assert texts_of(read_unlabeled(io.BytesIO(data), **options)) == texts


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"one\n\ntwo", {}, "standard input:2: the text is empty (column 'body')"),
        (b"", {}, "standard input: the file is empty"),
        (
            b"one\n",
            {"text_columns": ["a", "b"]},
            "standard input: plain text has one text per line, but two are wanted ('a', 'b'); give "
            "TSV, CSV, JSONL or Parquet with these columns",
        ),
        (
            b"a,b\n1,2\n",
            {"format": "csv", "text_columns": None},
            "standard input:1: no text column found; the columns are 'a', 'b'; name one or two "
            "with --data.text_columns A,B",
        ),
    ],
)
def test_a_bad_stream(data: bytes, options: dict[str, Any], message: str) -> None:
    options = {"text_columns": ["body"], **options}
    assert problems_of(lambda: read_unlabeled(io.BytesIO(data), **options)) == [message]


# -- the hub ---------------------------------------------------------------------------------------


def test_a_hub_data_set_is_read_through_load_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path / "hubset",
        "csv",
        {"train": [("a", "b", 0), ("c", "d", 1)], "test": [("e", "f", -1)]},
    )
    write(tmp_path / "hubset", "csv", {"validation": [("g", "h", 1)]})
    monkeypatch.chdir(tmp_path)
    found = load_texts(DataConfig(path="hubset:default"))  # no such path, so a name and a config
    assert list(found.splits) == ["train", "validation", "test"]
    assert texts_of(found.splits["validation"]) == [("g", "h")]
    assert found.splits["test"]["label"][:] == [-100]
    assert found.source == "hubset:default"


def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    code = (
        "from layermix.config import DataConfig; from layermix.data import load_texts\n"
        "from layermix.errors import DataError\n"
        "try: load_texts(DataConfig(path='glue:mrpc'))\n"
        "except DataError as error: print(error.problems[0])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told.startswith(
        "glue:mrpc: no such file or folder, and the hub data set 'glue' (config 'mrpc') cannot be "
        "loaded: "
    )
    assert told.endswith(
        "; a folder with train and validation files (TSV, CSV, JSONL or Parquet) works without the "
        "hub\n"
    )


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
        (problem,) = problems_of(lambda fraction=fraction: hold_out(numbered(8), fraction))  # type: ignore[misc]
        assert left in problem
        assert "of 8 training row(s)" in problem
        assert problem.endswith("give a validation file, or more rows")


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
