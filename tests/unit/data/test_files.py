"""Every source gives the same rows, no text is changed on the way, and every row has its line."""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layermix.config import DataConfig
from layermix.data.files import FORMATS
from layermix.data.sources import read_tables, tables_of
from layermix.data.tables import Diagnostics, Table
from layermix.data.texts import load_texts
from layermix.errors import ConfigError, DataError, Note

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
        elif form == "csv with semicolons":
            write_delimited(folder / f"{name}.csv", of, COLUMNS, delimiter=";")
        elif form == "csv with tabs":
            write_delimited(folder / f"{name}.csv", of, COLUMNS, delimiter="\t")
        elif form == "jsonl":
            text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows(of))
            (folder / f"{name}.jsonl").write_bytes(text.encode())  # no newline at the end
        elif form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows(of)), folder / f"{name}.parquet")
        else:
            raise ValueError(form)


FORMS = (
    "tsv raw",
    "tsv quoted",
    "tsv all quoted",
    "csv",
    "csv with semicolons",
    "csv with tabs",
    "jsonl",
    "parquet",
    "saved",
)


def read(path: Path | str, **options: Any) -> dict[str, Table]:
    """The tables of a path; the notes can be read from their diagnostics."""
    return read_config(DataConfig.model_validate({"path": str(path), **options}))


def read_config(config: DataConfig) -> dict[str, Table]:
    diagnostics = Diagnostics()
    tables, _, _ = read_tables(config, diagnostics)
    diagnostics.raise_problems()
    return {split: table for split, table in tables.items() if table is not None}


def contents(table: Table) -> list[Row]:
    columns = [values() for values in table.columns.values()]
    return [dict(zip(table.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def texts(file: Path, quoting: str = "auto") -> list[str]:
    texts: list[str] = read(file, quoting=quoting)["train"].columns["text"]()
    return texts


def problems_of(call: Callable[[], Any]) -> list[str]:
    with pytest.raises(DataError) as caught:
        call()
    return list(caught.value.problems)


@pytest.fixture(autouse=True)
def private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


# -- the same rows from everywhere -----------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_rows(tmp_path: Path, form: str) -> None:
    write(tmp_path / form, form, SPLITS)
    found = read(tmp_path / form)
    assert {split: contents(table) for split, table in found.items()} == {
        split: rows(of) for split, of in SPLITS.items()
    }


text = st.text(
    st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1
).filter(str.strip)
marked = st.text('"" ab,\'', min_size=1, max_size=6).filter(str.strip)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(text | marked, marked, st.sampled_from("xy")), min_size=1, max_size=5))
def test_any_text_comes_out_as_it_went_in(tmp_path: Path, of: list[tuple[str, str, str]]) -> None:
    splits = {"train": of}
    for form, quoting in (
        ("tsv raw", "raw"),
        ("tsv quoted", "quoted"),
        ("csv", "auto"),
        ("jsonl", "auto"),
    ):
        folder = tmp_path / form
        write(folder, form, splits)
        assert contents(read(folder, quoting=quoting)["train"]) == rows(of), form
    # A file with a quote mark at the start of every field, or of none, leaves no room for doubt.
    write(tmp_path / "all", "tsv all quoted", {"train": [*of, ("a", "b", "x")]})
    assert contents(read(tmp_path / "all")["train"]) == rows([*of, ("a", "b", "x")])


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_in_the_header_of_a_csv_is_taken_and_told(
    tmp_path: Path, mark: str, name: str
) -> None:
    file = tmp_path / "reviews.csv"
    file.write_text(f'text{mark}label\nGood, really{mark}yes\n"a{mark}b"{mark}no\n')
    table = read(file)["train"]
    assert contents(table) == [
        {"text": "Good, really", "label": "yes"},
        {"text": f"a{mark}b", "label": "no"},
    ]
    told = f"{file}: fields are separated by {name}, as in its header"
    assert table.diagnostics.notes == [Note("separator", told)]
    file.write_text("text;more,label\ngood,yes\n")  # a comma decides
    assert contents(read(file)["train"]) == [{"text;more": "good", "label": "yes"}]


def test_quoted_texts_may_hold_tabs_and_newlines(tmp_path: Path) -> None:
    of = [("tab\there", "line\r\nbreak", "a"), ("plain", 'mark " and\nnewline', "b")]
    for form in ("tsv quoted", "csv", "jsonl", "parquet"):
        write(tmp_path / form, form, {"train": of})
        assert contents(read(tmp_path / form)["train"]) == rows(of), form


def test_rows_know_the_line_on_which_they_begin(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_bytes(b'text,label\n"two\nlines",a\nlast,b\n')
    assert list(read(file)["train"].numbers) == [2, 4]
    file = tmp_path / "train.jsonl"
    file.write_bytes(b'{"text": "x"}\n\n{"text": "y"}\n')
    table = read(file)["train"]
    assert list(table.numbers) == [1, 3]
    table.add_problem("wrong", 1)
    assert problems_of(table.diagnostics.stop) == [f"{file}:3: wrong"]


def test_reading_takes_time_in_proportion_to_the_rows(tmp_path: Path) -> None:
    count = 100_000
    file = tmp_path / "train.csv"
    file.write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(count)))
    sparse = tmp_path / "train.jsonl"  # a column of its own for every row
    sparse.write_text("".join(f'{{"text": "x", "k{n}": 0}}\n' for n in range(count // 5)))
    started = time.process_time()
    table, wide = read(file)["train"], read(sparse)["train"]
    assert table.columns["text"]()[-1] == f"text {count - 1}"
    assert table.numbers[-1] == count + 1
    assert wide.columns["k7"]()[:8] == [None] * 7 + [0]
    # About a second; a step for every pair of rows would take minutes.
    assert time.process_time() - started < 10


@pytest.mark.parametrize("name", ["dev", "valid", "val", "validation"])
def test_validation_goes_by_several_names(tmp_path: Path, name: str) -> None:
    write(tmp_path / "d", "csv", {"train": TRAIN, name: VALIDATION, "test": VALIDATION})
    assert list(read(tmp_path / "d")) == ["train", "validation", "test"]


def test_single_files_and_json_endings(tmp_path: Path) -> None:
    write(tmp_path / "d", "jsonl", SPLITS)
    one, two = tmp_path / "d" / "learn.json", tmp_path / "check.tsv"
    (tmp_path / "d" / "train.jsonl").rename(one)
    write_raw(two, VALIDATION)
    config = DataConfig(train=str(one), validation=str(two))
    found = read_config(config)
    assert {split: contents(table) for split, table in found.items()} == {
        split: rows(of) for split, of in SPLITS.items()
    }
    assert [table.source for table in found.values()] == [str(one), str(two)]
    assert read_tables(config, Diagnostics())[1:] == (str(one), "d")


def test_files_that_are_not_used_are_told(tmp_path: Path) -> None:
    write(tmp_path, "csv", {"train": TRAIN, "notes": VALIDATION})
    (tmp_path / "dev.xlsx").write_bytes(b"x")
    (tmp_path / ".hidden.csv").write_bytes(b"x")
    notes = read(tmp_path)["train"].diagnostics.notes
    assert notes == [Note("unused-files", f"{tmp_path}: not used: 'dev.xlsx', 'notes.csv'")]


def test_a_byte_order_mark_and_windows_line_ends_are_dropped(tmp_path: Path) -> None:
    windows = "\ufefftext\tlabel\r\nx y\ta\r\nz\tb\r\n\r\n\r\n"
    wanted = rows([("x y", "a"), ("z", "b")], ("text", "label"))
    for ending, delimiter in (("tsv", "\t"), ("csv", ",")):
        file = tmp_path / f"train.{ending}"
        file.write_bytes(windows.replace("\t", delimiter).encode())
        assert contents(read(file)["train"]) == wanted


def test_a_carriage_return_within_a_raw_text_stays(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_bytes(b"text\tlabel\none\rtwo\ta\nz\tb\n")
    assert texts(file) == ["one\rtwo", "z"]


def test_very_long_fields_are_read_and_the_limit_of_csv_is_put_back(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    file = tmp_path / "train.tsv"
    file.write_text(f'text\tlabel\n"{"x" * 200_000}"\ta\n"y"\tb\n')
    assert texts(file) == ["x" * 200_000, "y"]
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
    file = tmp_path / "train.tsv"
    file.write_text("text\tlabel\n" + body)
    found = read(file)["train"]
    assert found.columns["text"]() == texts
    said = "read raw" if any(text.startswith('"') for text in texts) else "read as quoted"
    (note,) = found.diagnostics.notes
    assert "begin with a quote mark" in note.text
    assert said in note.text


def test_two_raw_rows_are_not_joined_by_their_marks(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_text('label\ttext\na\t"Hello\nb\tbye"\n')
    assert texts(file) == ['"Hello', 'bye"']


def test_quoting_can_be_chosen(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_text('text\tlabel\n"Hello"\ta\n"world"\tb\n')
    assert texts(file, "raw") == ['"Hello"', '"world"']
    assert read(file, quoting="raw")["train"].diagnostics.notes == []
    assert texts(file, "quoted") == ["Hello", "world"]


def test_a_record_that_is_not_well_quoted_hides_no_other_problem(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text('text,label\n"open,a\nfew\nx,b\n"fine",c\n')
    assert problems_of(lambda: read(file)) == [
        f"{file}:2: not well quoted: ',' expected after '\"'",
        f"{file}:3: too few fields: 1, wanted 2",
    ]


def test_class_names_survive_parquet(tmp_path: Path) -> None:
    made = datasets.ClassLabel(names=["z", "y"])
    features = datasets.Features({"label": made, "bare": datasets.ClassLabel(num_classes=2)})
    of = datasets.Dataset.from_dict({"label": [0, 1], "bare": [1, 0]}, features=features)
    of.to_parquet(str(tmp_path / "train.parquet"))
    (table,) = read(tmp_path).values()
    assert table.classes == {"label": ["z", "y"]}


# -- bad sources -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.tsv", b"", ": the file is empty"),
        ("train.csv", b"\xef\xbb\xbf\n\n", ": the file is empty"),
        ("train.csv", b"text,label\n", ": there is only a header, no rows"),
        ("train.csv", b"\nx,a\n", ":1: the header is blank, wanted the names of the columns"),
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
        ("train.jsonl", b"{}\n\n{}", ": its rows have no columns"),
        (
            "train.json",
            b'{\n  "text": "x",\n  "label": 1\n}',
            ":1: found a JSON object over several lines, wanted one JSON object per line",
        ),
        (
            "train.json",
            b'{"text": {"0": "x"}, "label": {"0": 1}}',
            ":1: found one object of columns, as pandas writes without orient='records', "
            "lines=True, wanted one JSON object per line",
        ),
        (
            "train.tsv",
            "text\tlabel\n".encode("utf-16-le"),
            ": found UTF-16 or other bytes with NUL, wanted UTF-8; save it as UTF-8",
        ),
        ("train.csv", "text,label\n".encode("utf-32"), ": found UTF-32, wanted UTF-8; save it as"),
        ("train.csv", b"text,label\rx,a\ry,b\r", ": found lines that end with a carriage return"),
        ("train.tsv", b"text\tlabel\rx\ta\r", ": found lines that end with a carriage return"),
        ("train.csv", b"\x1f\x8b\x08\x00", ": found gzip data; unpack the file"),
        ("train.csv", b"PK\x03\x04\x14", ": found a ZIP archive or an Excel workbook; unpack it"),
        (
            "train.csv",
            b"<!DOCTYPE html>\n<p>",
            ": found a web page, perhaps in place of a download",
        ),
        (
            "train.csv",
            b"sep=;\ntext;label\nx;a\n",
            ":1: found Excel's line `sep=`, wanted the name",
        ),
        ("train.csv", b"text,label\nx,a\ntext,label\ny,b\n", ":3: the header again; if files were"),
        (
            "train.csv",
            b"text,label\nx,a\n\xef\xbb\xbftext,label\ny,b\n",
            ":3: the header again; if files were joined, take this line out",
        ),
        (
            "train.csv",
            b'text, label\n"x", "a"\n"y",b\n',
            ":2: not well quoted: a space before a quote mark, which makes it a part of the text",
        ),
        ("train.csv", b'"open\n', ":1: not well quoted: a quote mark is never closed"),
        (
            "train.tsv",
            b'text\tlabel\n"open\ta\textra\nx\tb\n',
            ":2: too many fields: 3, wanted 2 (quote marks were read as text, see --data.quoting)",
        ),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    problems = problems_of(lambda: read(tmp_path))
    assert any(problem.startswith(f"{tmp_path / name}{message}") for problem in problems)


def test_a_csv_may_be_separated_by_bars(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text|label\none, two|a\n")
    (table,) = read(tmp_path).values()
    assert {name: values() for name, values in table.columns.items()} == {
        "text": ["one, two"],
        "label": ["a"],
    }


def test_a_csv_called_tsv_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("text,label\nx,a\n")
    (problem, _) = problems_of(lambda: load_texts(DataConfig(path=str(tmp_path))))
    assert problem.endswith("commas and no tab: give a CSV file the ending .csv")


@pytest.mark.parametrize("text", ["", " \t", "\0\0", "\u200b\ufeff \u2028"])
def test_a_text_without_a_visible_character_is_empty(tmp_path: Path, text: str) -> None:
    rows = [{"text": text, "label": "a"}, {"text": "\u200bx", "label": "b"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert problems_of(lambda: load_texts(DataConfig(path=str(tmp_path)))) == [
        f"{tmp_path / 'train.jsonl'}:1: the text is empty (column 'text')"
    ]


def test_bad_parquet(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    file.write_bytes(b"not parquet at all")
    (problem,) = problems_of(lambda: read(file))
    assert problem.startswith(f"{file}: not readable as Parquet: ")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), file)
    assert problems_of(lambda: read(file)) == [f"{file}: there are no rows"]
    twice = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(twice, file)
    assert problems_of(lambda: read(file)) == [f"{file}: the column 'text' appears more than once"]


def test_missing_and_unreadable_sources(tmp_path: Path) -> None:
    gone = tmp_path / "gone.tsv"
    assert problems_of(lambda: read(gone)) == [f"{gone}: no such file or folder"]
    config = DataConfig(train=str(gone), validation=str(tmp_path))
    assert problems_of(lambda: read_config(config)) == [
        f"{gone}: no such file",
        f"{tmp_path}: cannot be read: Is a directory",
    ]
    odd = tmp_path / "train.xlsx"
    odd.write_bytes(b"x")
    assert problems_of(lambda: read(odd)) == [
        f"{odd}: unknown format 'xlsx'; wanted {', '.join(FORMATS)} (as the file's ending)"
    ]
    (tmp_path / "dev.tsv").write_text("text\tlabel\nx\ta\n")
    (problem,) = problems_of(lambda: read(tmp_path))
    assert problem.startswith(f"{tmp_path}: no training split; looked for 'train', 'training' ")
    assert "found 'dev.tsv', 'train.xlsx'" in problem
    with pytest.raises(ConfigError, match="no data named; give --data FOLDER"):
        read_config(DataConfig())


@pytest.mark.parametrize("path", ["./data", "a/b/c", "../no-data", "~data", "a\\b", "data.csv"])
def test_what_is_clearly_a_path_is_not_looked_for_on_the_hub(path: str) -> None:
    config = DataConfig.model_construct(path=path)
    assert problems_of(lambda: read_config(config)) == [f"{path}: no such file or folder"]


def test_two_files_for_one_split_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "d", "csv", SPLITS)
    write(tmp_path / "d", "jsonl", {"train": TRAIN})
    assert problems_of(lambda: read(tmp_path / "d")) == [
        f"{tmp_path / 'd'}: several train splits, 'train.csv', 'train.jsonl'; keep one"
    ]


def test_a_damaged_saved_data_set(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text("{")
    (problem,) = problems_of(lambda: read(tmp_path))
    assert problem.startswith(f"{tmp_path}: not readable as a saved data set: ")


def test_rows_in_memory_are_counted_and_keep_their_numbers() -> None:
    diagnostics = Diagnostics()
    tables = tables_of({"train": ["text", {"text": ""}], "dev": [], "test": [{}]}, "m", diagnostics)
    table = tables.pop("train")
    assert tables == {"validation": None, "test": None}
    assert table is not None
    table.add_problem("wrong", 0)
    assert problems_of(diagnostics.stop) == [
        "m[train]: row 1: found a str, wanted one object per row",
        "m[train]: row 2: wrong",
        "m[dev]: there are no rows",
        "m[test]: its rows have no columns",
    ]
    empty = Diagnostics()
    tables_of({}, "m", empty)
    (problem,) = problems_of(empty.stop)
    assert problem.startswith("m: no training split; ")


# -- the hub ---------------------------------------------------------------------------------------


def test_a_hub_data_set_is_read_through_load_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = {"train": [("a", "b", 0), ("c", "d", 1)], "test": [("e", "f", -1)]}
    write(tmp_path / "hubset", "csv", splits)
    monkeypatch.chdir(tmp_path)
    config = DataConfig(path="hubset:default")  # no such path, so a name and a config
    found = read_config(config)
    assert {split: contents(table) for split, table in found.items()} == {
        split: rows(of) for split, of in splits.items()
    }
    assert read_tables(config, Diagnostics())[1:] == ("hubset:default", "default")


def test_a_hub_data_set_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hubset").mkdir()
    monkeypatch.chdir(tmp_path)
    (problem,) = problems_of(lambda: read("hubset:small"))
    assert problem.startswith(
        "hubset:small: no such file or folder, and the hub data set 'hubset' (config 'small') "
        "cannot be loaded: "
    )


def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    code = (
        "from layermix.config import DataConfig\n"
        "from layermix.data.sources import read_tables\n"
        "from layermix.data.tables import Diagnostics\n"
        "from layermix.errors import DataError\n"
        "try: read_tables(DataConfig(path='glue:mrpc'), Diagnostics())\n"
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


# -- files without a header, in other encodings ----------------------------------------------------

TWEETS = (
    '"0","1467810369","NO_QUERY","is upset that the café is closed"\n'
    '"4","1467810372","NO_QUERY","what a lovely crème brûlée"\n'
)


def test_a_file_without_a_header_in_cp1252_is_told_what_to_do_and_then_read(tmp_path: Path) -> None:
    file = tmp_path / "tweets.csv"
    file.write_bytes(TWEETS.encode("cp1252"))
    problems = problems_of(lambda: load_texts(DataConfig(path=str(file))))
    western = "the bytes look like cp1252: give --data.encoding cp1252, or save the file as UTF-8"
    assert problems[0] == f"{file}:1: invalid UTF-8 (byte 0xe9 at column 51); {western}"
    assert problems[1].startswith(f"{file}:1: no label column found; the columns are '0', '1467")
    for problem in problems[1:3]:
        assert problem.endswith(
            "; line 1 looks like data, not like the names of columns: if the file has no header, "
            "give --no-data.header, which calls the columns 1, 2, 3, …"
        )
    table = read(file, header=False, encoding="cp1252")["train"]
    assert list(table.columns) == ["1", "2", "3", "4"]
    assert table.columns["4"]()[1] == "what a lovely crème brûlée"
    assert list(table.numbers) == [1, 2]


def test_a_header_that_repeats_data_says_so(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_text("0\t0\tgood film\n1\t1\tbad film\n")
    assert (
        "'0' appears 2 times in the header; line 1 looks like data"
        in (problems_of(lambda: read(file))[0])
    )


@pytest.mark.parametrize("header", ["v1,v2,,,", "text,date of birth", "ham,text"])
def test_usual_headers_do_not_look_like_data(tmp_path: Path, header: str) -> None:
    file = tmp_path / "d.csv"
    file.write_text(f"{header}\n" + "a" + "," * header.count(",") + "\n")
    assert read(file)["train"].hint == ""


@pytest.mark.parametrize(
    ("data", "encoding", "told"),
    [
        ("text\nжизнь ищи".encode("cp1251"), "utf-8", "save the file as UTF-8, or give its"),
        ("text\nda\x81ß".encode("latin-1"), "cp1252", "invalid cp1252 (byte 0x81 at column 3)"),
        ("text\ncafé crème é".encode()[:-1], "utf-8", "save the file as UTF-8, or give its"),
    ],
)
def test_bytes_of_another_encoding(tmp_path: Path, data: bytes, encoding: str, told: str) -> None:
    (tmp_path / "d.tsv").write_bytes(data)
    problems = problems_of(lambda: read(tmp_path / "d.tsv", encoding=encoding))
    assert problems[0].startswith(f"{tmp_path / 'd.tsv'}:2: ")
    assert told in problems[0]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp1251", "gb18030", "shift_jis"])
def test_other_encodings_are_read_in_every_text_format(tmp_path: Path, encoding: str) -> None:
    text = {"cp1251": "жизнь", "gb18030": "你好", "shift_jis": "表示"}.get(encoding, "café ü")
    for name, content in {
        "a.csv": f"text,label\n{text},x\n",
        "a.tsv": f"text\tlabel\n{text}\tx\n",
        "a.jsonl": json.dumps({"text": text, "label": "x"}, ensure_ascii=False) + "\n",
    }.items():
        (tmp_path / name).write_bytes(content.encode(encoding))
        table = read(tmp_path / name, encoding=encoding)["train"]
        assert contents(table) == [{"text": text, "label": "x"}]


def test_what_separates_fields_is_judged_outside_of_quotes(tmp_path: Path) -> None:
    for number, (content, wanted) in enumerate(
        (
            ('";\n",x\n', ";\n"),  # the field goes on in the second line
            ('"a,b";x\n', "a,b"),
            ('"a;b",x\n', "a;b"),
        )
    ):
        file = tmp_path / f"{number}.csv"
        file.write_text(content)
        table = read(file, header=False)["train"]
        assert contents(table) == [{"1": wanted, "2": "x"}]


def check_header(of: list[tuple[str, str]], form: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"train.{form}")
        with file.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out, delimiter="," if form == "csv" else "\t").writerows(of)
        table = read(file, header=False, quoting="quoted")["train"]
        assert contents(table) == rows(of, ("1", "2"))


fields = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff"), max_size=6
)
pairs = st.lists(st.tuples(fields.filter(str.strip), fields), min_size=1, max_size=4)


@settings(max_examples=30, deadline=None)
@given(pairs, st.sampled_from(["csv", "tsv"]))
def test_without_a_header_every_line_is_a_row(of: list[tuple[str, str]], form: str) -> None:
    check_header(of, form)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(pairs, st.sampled_from(["csv", "tsv"]))
def test_without_a_header_every_line_of_many_files_is_a_row(
    of: list[tuple[str, str]], form: str
) -> None:
    check_header(of, form)


# -- cloned data sets ------------------------------------------------------------------------------


def write_shards(folder: Path, split: str, counts: Sequence[int], ending: str = "parquet") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, count in enumerate(counts):
        of = [{"text": f"{split} {number + n}", "label": n % 2} for n in range(count)]
        number += count
        file = folder / f"{split}-{shard:05}-of-{len(counts):05}.{ending}"
        if ending == "parquet":
            pq.write_table(pa.Table.from_pylist(of), file)
        else:
            file.write_text("".join(json.dumps(row) + "\n" for row in of))


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_cloned_data_set_with_shards_is_read(tmp_path: Path, ending: str) -> None:
    (tmp_path / "README.md").write_text("# A data set\n")
    write_shards(tmp_path / "data", "train", [3, 2], ending)
    write_shards(tmp_path / "data", "test", [2], ending)
    for place in (tmp_path, tmp_path / "data"):
        tables = read(place)
        assert list(tables) == ["train", "test"]
        assert tables["train"].columns["text"]() == [f"train {n}" for n in range(5)]
    below = Note("splits-below", f"{tmp_path}: the splits are in {tmp_path / 'data'}")
    assert below in read(tmp_path)["train"].diagnostics.notes
    tables["train"].add_problem("wrong", 4)
    last = tmp_path / "data" / "train-00001-of-00002"
    (problem,) = problems_of(tables["train"].diagnostics.stop)
    assert problem.startswith(f"{last}")
    assert problem.endswith(": row 2: wrong" if ending == "parquet" else ":2: wrong")


def test_missing_shards_are_an_error(tmp_path: Path) -> None:
    write_shards(tmp_path, "train", [2, 2, 2])
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    assert problems_of(lambda: read(tmp_path)) == [
        f"{tmp_path}: found 2 of the 3 files of the split train; wanted all: "
        "'train-00000-of-00003.parquet', 'train-00002-of-00003.parquet'"
    ]


def test_a_folder_of_files_for_each_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_shards(tmp_path / "default" / split, "0000", [1, 2])
    tables = read(tmp_path)
    assert {split: len(table.numbers) for split, table in tables.items()} == {"train": 3, "test": 3}
    (tmp_path / "default" / "train" / "more.csv").write_text("text,label\na,b\n")
    assert (
        "train: wanted files of one format, or a folder of .txt files for each class"
        in (problems_of(lambda: read(tmp_path))[0])
    )


def test_several_configurations_are_a_choice(tmp_path: Path) -> None:
    for name in ("my config", "other"):
        write_shards(tmp_path / name, "train", [1])
    (problem,) = problems_of(lambda: read(tmp_path))
    assert problem == (
        f"{tmp_path}: several folders have a training split; give --data "
        f"'{tmp_path}/my config' or --data {tmp_path}/other"
    )


def test_folders_of_texts_are_classes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("pos", "neg", "unsup"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(3):
                file = tmp_path / split / label / f"{number}_7.txt"
                file.write_bytes(f"{split} {label} {number}\nsecond line\n".encode())
    (tmp_path / "imdb.vocab").write_text("the\n")
    found = load_texts(DataConfig(path=str(tmp_path)))
    assert found.label_names == ("neg", "pos")
    assert found.splits["test"]["text"][0] == "test neg 0\nsecond line"
    assert found.splits["test"]["label"][:] == [0, 0, 0, 1, 1, 1]
    assert f"{tmp_path / 'train'}: not used: 'unsup'" in map(str, found.notes)
    (tmp_path / "train" / "pos" / "1_7.txt").write_bytes(b"\n")
    (tmp_path / "train" / "neg" / "1_7.txt").write_bytes(b"caf\xe9")
    assert problems_of(lambda: load_texts(DataConfig(path=str(tmp_path)))) == [
        f"{tmp_path}/train/neg/1_7.txt: cannot be read as utf-8: unexpected end of data; give its "
        "encoding with --data.encoding",
        f"{tmp_path}/train/pos/1_7.txt: the text is empty (column 'text')",
    ]


def test_a_pointer_in_place_of_the_data_is_told(tmp_path: Path) -> None:
    file = tmp_path / "train-00000-of-00001.parquet"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n")
    assert problems_of(lambda: read(tmp_path)) == [
        f"{file}: found a Git LFS pointer in place of the data; run `git lfs pull` there"
    ]
