"""Texts to predict come block by block, and a row that cannot be read costs no other its place."""

import csv
import io
import json
import os
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layermix.config import DataConfig
from layermix.data import files, new_texts
from layermix.data.columns import columns_for_model
from layermix.data.files import FORMATS
from layermix.data.new_texts import TextStream, WordText, open_texts
from layermix.data.tables import Diagnostics
from layermix.errors import DataError, Note, UnreadRowsError

Row = tuple[str, ...] | None
Source = str | Path | BinaryIO
PAIRS = [("A cat.", "A pet."), ("A car.", "A pet."), ('A "dog" – ünïcödé', "1.0")]


def read(source: Source, columns: Sequence[str] | None = None, **options: Any) -> list[Row]:
    """All rows, whether or not they could be read."""
    with open_texts(source, columns, **options) as texts:
        return [row for block in texts for row in block]


def told(source: Source, **options: Any) -> tuple[list[Row], list[str], list[str]]:
    """All rows, the problems that are told at the end, and the notes."""
    notes: list[Note] = []
    with open_texts(source, note=notes.append, **options) as texts:
        rows = [row for block in texts for row in block]
    return rows, unread(texts), [note.text for note in notes]


def unread(texts: TextStream) -> list[str]:
    try:
        texts.raise_unread("nowhere")
    except UnreadRowsError as error:
        return list(error.problems)
    return []


def refused(call: Callable[[], Any]) -> list[str]:
    with pytest.raises(DataError) as caught:
        call()
    return list(caught.value.problems)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two rows."""
    monkeypatch.setattr(files, "BLOCK", 2)


# -- what can be read ------------------------------------------------------------------------------


def write_table(file: Path, columns: Mapping[str, Sequence[str]]) -> Path:
    rows = list(zip(*columns.values(), strict=True))
    if file.suffix == ".parquet":
        pq.write_table(pa.table(dict(columns)), file)
    elif file.suffix in (".jsonl", ".json"):
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
        file.write_text("\n".join(lines), encoding="utf-8")
    else:
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out, delimiter="," if file.suffix == ".csv" else "\t")
            writer.writerow(columns)
            writer.writerows(rows)
    return file


TEXTS = ["one", 'say "no"', "comma, tab\tand\nlines\r\nof it", "line\u2028break", "five"]


def test_another_separator_in_the_header_of_a_csv_is_taken_and_told(tmp_path: Path) -> None:
    file = written(tmp_path, "new.csv", 'id;text\n1;Good, really\n2;"a;b"\n')
    assert told(file) == (
        [("Good, really",), ("a;b",)],
        [],
        [f"{file}: fields are separated by semicolons, as in its header"],
    )


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_every_format_in_blocks(small: None, tmp_path: Path, ending: str, count: int) -> None:
    columns = {"id": list("12345")[:count], "review": TEXTS[:count], "label": ["x"] * count}
    file = write_table(tmp_path / f"some.{ending}", columns)
    with open_texts(file) as texts:
        assert texts.columns == ("review",)
        blocks = list(texts)
    assert [len(block) for block in blocks] == [2] * (count // 2) + [1] * (count % 2)
    assert [row for block in blocks for row in block] == [(text,) for text in TEXTS[:count]]
    assert (texts.rows, texts.unread, unread(texts)) == (count, 0, [])


def test_texts_to_predict_need_no_labels_and_keep_their_order(tmp_path: Path) -> None:
    first, second = zip(*PAIRS, strict=True)
    file = write_table(tmp_path / "some.jsonl", {"sentence1": first, "sentence2": second})
    assert read(file) == PAIRS
    assert read(str(file), ["sentence2"]) == [(text,) for text in second]


@pytest.mark.parametrize(
    ("data", "options", "texts"),
    [
        (b'{"text": "one"}\n{"text": "two"}\n', {}, [("one",), ("two",)]),
        (b'\n{"text": "one"}\n', {}, [("one",)]),
        (b'\xef\xbb\xbf{"text": "one"}', {}, [("one",)]),
        (b"one\n{two}\n", {}, [("one",), ("{two}",)]),
        (b"text\tn\none\t1\n", {"format": "tsv"}, [("one",)]),
        (b'a,b\n"1,2",3\n', {"format": "csv", "columns": ["b", "a"]}, [("3", "1,2")]),
        (b"one\n", {"columns": ["body"]}, [("one",)]),
        (b"[1]\r\nx\r\n", {}, [("[1]",), ("x",)]),
    ],
)
def test_texts_from_a_stream(data: bytes, options: dict[str, Any], texts: list[Row]) -> None:
    assert read(io.BytesIO(data), **options) == texts


@pytest.mark.parametrize(("ending", "delimiter"), [("tsv", "\t"), ("csv", ",")])
def test_a_byte_order_mark_windows_line_ends_and_blank_lines_at_the_end(
    small: None, tmp_path: Path, ending: str, delimiter: str
) -> None:
    windows = "\ufefftext\tlabel\r\nx y\ta\r\nz\tb\r\n\r\n\r\n\r\n".replace("\t", delimiter)
    assert told(written(tmp_path, f"some.{ending}", windows))[:2] == ([("x y",), ("z",)], [])


def test_blank_lines_are_no_rows_of_json_lines_but_rows_of_plain_text(
    small: None, tmp_path: Path
) -> None:
    lines = '\n{"text": "a"}\n\n \n{"text": "b"}\n{"text": "c"}\n\n'
    assert read(written(tmp_path, "some.jsonl", lines)) == [("a",), ("b",), ("c",)]
    file = written(tmp_path, "some.txt", "a\n\nb\n")
    assert told(file)[:2] == (
        [("a",), None, ("b",)],
        [f"{file}:2: the text is empty (column 'text')"],
    )


# -- texts with their words ------------------------------------------------------------------------

LISTS = b'{"tokens": ["U.S.", "New York"]}\n{"tokens": ["a", ""]}\n{"tokens": "U.S."}\n'
CUT = [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize(
    ("data", "options", "rows"),
    [
        (LISTS, {}, [(("U.S. New York",), [(0, 4), (5, 13)]), None, (("U.S.",), CUT)]),
        (b'{"text": "U.S."}\n', {}, [(("U.S.",), CUT)]),
        (b'{"text": "x", "tokens": ["a"]}\n', {}, [(("a",), [(0, 1)])]),
        (b'{"text": "x", "tokens": ["a"]}\n', {"columns": ["text"]}, [(("x",), [(0, 1)])]),
        (b'n,tokens\n1,"[""a"", ""b c""]"\n', {"format": "csv"}, [(("a b c",), [(0, 1), (2, 5)])]),
        (b"U.S.\n \n", {}, [(("U.S.",), CUT), None]),
        (b"U.S. O\nis O\n\n", {"format": "bio"}, [(("U.S. is",), [(0, 4), (5, 7)])]),
    ],
)
def test_texts_come_with_their_words(
    small: None, data: bytes, options: dict[str, Any], rows: list[Any]
) -> None:
    found = read(io.BytesIO(data), by_word=True, **options)
    assert found == rows
    assert all(row is None or isinstance(row, WordText) for row in found)


def test_a_pair_of_texts_has_no_words() -> None:
    data = b'{"sentence1": "a", "sentence2": "b"}\n'
    assert refused(lambda: read(io.BytesIO(data), by_word=True)) == [
        "standard input:1: no text column found; the columns are 'sentence1', 'sentence2'; name it "
        "with --data.text_columns A"
    ]
    (problem,) = refused(lambda: read(io.BytesIO(data), ["sentence1", "sentence2"], by_word=True))
    assert problem.startswith("standard input:1: wanted one text column, since each word has a")


def test_a_model_of_words_takes_lists_and_texts_whichever_it_was_trained_on() -> None:
    for trained, wanted in (("tokens", None), ("Text", None), ("quote", ("quote",))):
        with columns_for_model("m", (trained,), None, by_word=True) as columns:
            assert columns == wanted
        with columns_for_model("m", (trained,), None) as columns:
            assert columns == (trained,)
    with columns_for_model("m", ("tokens",), ("quote",), by_word=True) as columns:
        assert columns == ("quote",)


class Pipe(io.BytesIO):
    """Bytes that can be read once only, in order."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise io.UnsupportedOperation("seek")


@pytest.mark.parametrize("pipe", [io.BytesIO, Pipe])
def test_parquet_from_a_stream(
    small: None, tmp_path: Path, pipe: Callable[[bytes], BinaryIO]
) -> None:
    data = write_table(tmp_path / "some.parquet", {"text": TEXTS}).read_bytes()
    assert read(pipe(data), format="parquet") == [(text,) for text in TEXTS]


def test_columns_that_are_not_wanted_are_not_read(tmp_path: Path) -> None:
    broken = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")
    )
    pq.write_table(pa.table({"text": ["one"], "other": broken}), tmp_path / "some.parquet")
    assert told(tmp_path / "some.parquet")[:2] == ([("one",)], [])


def test_of_a_large_row_group_only_a_part_is_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "some.parquet"
    texts = [os.urandom(1000).hex() for _ in range(20_000)]
    pq.write_table(pa.table({"text": texts}), file, row_group_size=len(texts), compression="none")
    del texts
    tracemalloc.start()  # Arrow reads through Python's file, into Python's memory
    try:
        with open_texts(file) as stream:
            assert sum(map(len, stream)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 15e6  # of 40 MB
    finally:
        tracemalloc.stop()


def test_a_block_is_given_before_the_next_is_read() -> None:
    source, sink = os.pipe()
    with open(source, "rb") as pipe, open(sink, "wb") as writer:

        def send() -> None:
            writer.write(b"text\n" * (files.BLOCK + 1))  # the first of them is the header
            writer.flush()

        threading.Thread(target=send).start()
        with open_texts(pipe, format="csv") as texts:  # the pipe stays open: the end is not seen
            assert len(next(iter(texts))) == files.BLOCK


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [
        ("a.csv", "text\na\nb\n", 2),
        ("a.tsv", "text\na\nb", 2),
        ("a.txt", "a\nb\nc", 3),
        ("a.jsonl", '{"text": "a"}\n', 1),
    ],
)
def test_how_many_rows_there_will_be(tmp_path: Path, name: str, content: str, count: int) -> None:
    with open_texts(written(tmp_path, name, content)) as texts:
        assert texts.expected() == count


def test_how_many_rows_there_will_be_in_parquet_and_in_what_can_be_read_once(
    tmp_path: Path,
) -> None:
    with open_texts(write_table(tmp_path / "a.parquet", {"text": TEXTS})) as texts:
        assert texts.expected() == len(TEXTS)
    with open_texts(io.BytesIO(b"a\nb\n")) as texts:
        assert texts.expected() is None
    fifo = tmp_path / "fifo.txt"
    os.mkfifo(fifo)
    thread = threading.Thread(target=fifo.write_bytes, args=(b"a\nb\n",))
    thread.start()
    with open_texts(fifo) as texts:
        assert texts.expected() is None
        assert [row for block in texts for row in block] == [("a",), ("b",)]
    thread.join()


# -- rows that cannot be read ----------------------------------------------------------------------


def test_every_fault_of_a_table_costs_its_own_row_only(small: None, tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "some.csv",
        b"text,n\nfine 2,1\nfew\none,too,many\n\xff bytes,1\n\nfine 7,1\n  ,1\n"
        b'"a text\nof \xfe lines",1\n"closed" badly,1\n"fine\n12",1\n"fine ""14""",1\n'
        b'"never closed,1\nfine 16,1\n\n',
    )
    assert told(file)[:2] == (
        [
            ("fine 2",),
            None,
            None,
            None,
            None,
            ("fine 7",),
            None,
            None,
            None,
            ("fine\n12",),
            ('fine "14"',),
            None,
            ("fine 16",),
        ],
        [
            f"{file}:3: too few fields: 1, wanted 2",
            f"{file}:4: too many fields: 3, wanted 2",
            f"{file}:5: invalid UTF-8 (byte 0xff at column 1); save the file as UTF-8, or give "
            "its encoding with --data.encoding",
            f"{file}:6: a blank line, wanted 2 fields",
            f"{file}:8: the text is empty (column 'text')",
            f"{file}:10: invalid UTF-8 (byte 0xfe at column 4); save the file as UTF-8, or give "
            "its encoding with --data.encoding",
            f"{file}:11: not well quoted: ',' expected after '\"'",
            f"{file}:15: not well quoted: a quote mark is never closed",
        ],
    )


def test_a_stray_quote_mark_costs_one_row_though_another_follows_in_a_later_block(
    small: None, tmp_path: Path
) -> None:
    body = 'text,n\n"open,1\n' + "fine,1\n" * 7 + '"fine",1\n'
    file = written(tmp_path, "some.csv", body)
    assert told(file)[:2] == (
        [None, *[("fine",)] * 8],
        [f"{file}:2: not well quoted: ',' expected after '\"'"],
    )


def test_a_quoted_text_without_end_does_not_swallow_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LONGEST_RECORD", 5)
    lines = "text\nfine\n" + '"' + "word\n" * 3 + 'end"\n' + '"open\n' + "fine\n" * 8
    file = written(tmp_path, "some.csv", lines)
    rows, problems, _ = told(file)
    assert rows == [("fine",), ("word\nword\nword\nend",), None, *[("fine",)] * 8]
    assert problems == [f"{file}:7: not well quoted: a quote mark is not closed within 5 lines"]


def test_every_fault_of_json_lines_costs_its_own_row_only(small: None, tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "some.jsonl",
        b'{"text": "fine"}\n{"text": \n[1]\n\n{"text": 7}\n{"other": "x"}\n{"text": "\xff"}\n'
        b'{"text": null}\n{"text": "\\ud800"}\n{"text": "a", "text": "b"}\n{}\n{"text": "last"}',
    )
    assert told(file)[:2] == (
        [("fine",), *[None] * 9, ("last",)],
        [
            f"{file}:2: not JSON: Expecting value at column 10",
            f"{file}:3: found a list, wanted one object per row",
            f"{file}:5: found a int, 7, wanted text (column 'text')",
            f"{file}:6: the text is missing (column 'text')",
            f"{file}:7: invalid UTF-8 (byte 0xff at column 11); save the file as UTF-8, or give "
            "its encoding with --data.encoding",
            f"{file}:8: the text is missing (column 'text')",
            f"{file}:9: the text holds half a character (a lone surrogate), which is not Unicode "
            "(column 'text')",
            f"{file}:10: not usable JSON: the column 'text' appears more than once",
            f"{file}:11: the text is missing (column 'text')",
        ],
    )


def test_every_fault_of_parquet_costs_its_own_row_only(small: None, tmp_path: Path) -> None:
    file = tmp_path / "some.parquet"
    data = [b"fine", b"\xff", b"three", b" ", b"five"]
    ends = [sum(map(len, data[:n])) for n in range(6)]
    broken = pa.StringArray.from_buffers(
        5, pa.array(ends, pa.int32()).buffers()[1], pa.py_buffer(b"".join(data))
    )
    pq.write_table(pa.table({"text": broken}), file)
    rows, problems, _ = told(file)
    assert rows == [("fine",), None, ("three",), None, ("five",)]
    assert [problem.partition(" as Parquet")[0] for problem in problems] == [
        f"{file}: row 2: not readable",
        f"{file}: row 4: the text is empty (column 'text')",
    ]


def test_both_texts_of_a_pair_are_told_and_the_row_counted_once(tmp_path: Path) -> None:
    file = written(tmp_path, "some.csv", "text_a,text_b\na,b\n,\n")
    with open_texts(file) as texts:
        assert list(texts) == [[("a", "b"), None]]
    assert (texts.rows, texts.unread) == (2, 1)
    assert unread(texts) == [
        f"{file}:3: the text is empty (column {name!r})" for name in texts.columns
    ]


def test_twenty_problems_are_kept_and_the_others_counted(small: None, tmp_path: Path) -> None:
    file = written(tmp_path, "some.txt", "fine\n" + "\n" * 1029)
    with open_texts(file) as texts:
        assert sum(map(len, texts)) == 1030
    with pytest.raises(UnreadRowsError) as caught:
        texts.raise_unread("in out.csv")
    lines = str(caught.value).splitlines()
    assert lines[0] == "1,029 of 1,030 rows could not be read:"
    assert lines[1:21] == [f"  {file}:{n}: the text is empty (column 'text')" for n in range(2, 22)]
    assert lines[21:] == [
        "  … and 1,009 more",
        "All other rows were labelled. The output is in out.csv, in the order of the input; the "
        "rows that could not be read have no text and no label there.",
    ]


# -- what concerns the whole source ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", ": the file is empty"),
        ("a.parquet", b"", ": the file is empty"),
        ("a.csv", b"\xef\xbb\xbf\n\n", ": the file is empty"),
        ("a.csv", b"text\n", ": there is only a header, no rows"),
        ("a.csv", b"\nx,a\n", ":1: the header is blank, wanted the names of the columns"),
        ("a.csv", b"text\n\n\n", ": there is only a header, no rows"),
        ("a.csv", b"text,n,text\nx,a,y\n", ":1: the column 'text' appears 2 times in the header"),
        ("a.csv", b'"text\nx\n', ":1: not well quoted: a quote mark is never closed"),
        ("a.csv", b"t\xffxt,text\nx,y\n", ":1: invalid UTF-8 (byte 0xff at column 2); save the"),
        ("a.csv", b"a,b\n1,2\n", ":1: no text column found; the columns are 'a', 'b'; name one"),
        ("a.tsv", "text\nx\n".encode("utf-16"), ": found UTF-16, wanted UTF-8; save it as UTF-8"),
        ("a.jsonl", b'[\n{"text": "x"}\n]', ":1: found a JSON array, wanted one JSON object per"),
        ("a.jsonl", b'\n[{"text": "x"}]', ":2: found a JSON array, wanted one JSON object per"),
        ("a.jsonl", b"{}\n\n{}", ": its rows have no columns"),
        ("a.jsonl", b'{"body": "x"}', ":1: no text column found; the columns are 'body'; name one"),
        ("a.xlsx", b"x", f": unknown format 'xlsx'; wanted {', '.join(FORMATS)} (as the file's"),
        ("a.parquet", b"PAR1 not at all", ": not readable as Parquet: "),
        ("a.txt", b"\xff\n\xfe\n", ":1: invalid UTF-8 (byte 0xff at column 1); save the file as"),
    ],
)
def test_what_cannot_be_used_at_all(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    file = written(tmp_path, name, content)
    assert refused(lambda: read(file))[0].startswith(f"{file}{message}")


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    for ending, place in (("csv", ":1"), ("tsv", ":1"), ("jsonl", ":1"), ("parquet", ":")):
        file = write_table(tmp_path / f"some.{ending}", {"text": TEXTS, "n": TEXTS})
        (problem,) = refused(lambda file=file: read(file, ["body"]))
        place = place if ending != "parquet" else ""
        assert problem == f"{file}{place}: no column 'body'; the columns are 'text', 'n'"


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    gone = tmp_path / "gone.csv"
    assert refused(lambda: read(gone)) == [f"{gone}: no such file"]
    assert refused(lambda: read(tmp_path)) == [f"{tmp_path}: cannot be read: Is a directory"]


def test_bad_parquet(tmp_path: Path) -> None:
    file = tmp_path / "some.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), file)
    assert refused(lambda: read(file)) == [f"{file}: there are no rows"]
    twice = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(twice, file)
    assert refused(lambda: read(file)) == [f"{file}: the column 'text' appears more than once"]


def test_parquet_that_is_damaged_in_a_later_row_group(tmp_path: Path) -> None:
    file = tmp_path / "some.parquet"
    table = pa.table({"text": [f"text number {n}" for n in range(4 * files.BLOCK)]})
    pq.write_table(table, file, row_group_size=files.BLOCK, use_dictionary=False)
    column = pq.ParquetFile(file).metadata.row_group(3).column(0)
    data = bytearray(file.read_bytes())
    data[column.data_page_offset : column.data_page_offset + 100] = bytes(100)
    file.write_bytes(data)
    with open_texts(file) as texts:
        rows = iter(texts)
        assert next(rows)[0] == ("text number 0",)
        (problem,) = refused(lambda: list(rows))
    assert problem.startswith(f"{file}: not readable as Parquet: ")


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"", {}, "standard input: the file is empty"),
        (
            b"one\n",
            {"columns": ["a", "b"]},
            "standard input: plain text has one text per line, but two are wanted ('a', 'b'); give "
            "TSV, CSV, JSONL or Parquet with these columns",
        ),
        (
            b"a,b\n1,2\n",
            {"format": "csv", "columns": None},
            "standard input:1: no text column found; the columns are 'a', 'b'; name one or two "
            "with --data.text_columns A,B",
        ),
    ],
)
def test_a_bad_stream(data: bytes, options: dict[str, Any], message: str) -> None:
    options = {"columns": ["body"], **options}
    assert refused(lambda: read(io.BytesIO(data), **options)) == [message]


def test_a_first_block_without_a_row_that_can_be_read_is_refused(
    small: None, tmp_path: Path
) -> None:
    file = written(tmp_path, "some.csv", "text\n \n\nfine\n")
    with pytest.raises(DataError) as caught:
        read(file)
    assert str(caught.value) == (
        "2 problems in the data:\n"
        f"  {file}:2: the text is empty (column 'text')\n"
        f"  {file}:3: a blank line, wanted 1 fields\n"
        "none of the first 2 row(s) can be read, so nothing was labelled; is it another file, or "
        "another format (--format)?"
    )
    file = written(tmp_path, "some.jsonl", "x\n7\nx\n")
    assert refused(lambda: read(file)) == [
        f"{file}:1: not JSON: Expecting value at column 1",
        f"{file}:2: found a int, wanted one object per row",
    ]
    # Blocks after the first are not refused.
    file = written(tmp_path, "some.txt", "fine\n\n\n\nfine\n")
    assert read(file) == [("fine",), None, None, None, ("fine",)]


# -- quote marks in TSV ----------------------------------------------------------------------------


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Quote marks are judged by the first twenty lines."""
    monkeypatch.setattr(new_texts, "SAMPLE", 20)
    return 20


def test_quote_marks_are_judged_as_in_training_and_the_judgement_is_told(tmp_path: Path) -> None:
    file = written(tmp_path, "some.tsv", 'text\tn\n"Hello"\t1\n"wor\tld"\t2\n')
    chosen = "is chosen with --data.quoting)"
    assert told(file) == (
        [("Hello",), ("wor\tld",)],
        [],
        [f"{file}: 2 fields begin with a quote mark; read as quoted (raw {chosen}"],
    )
    assert read(file, quoting="raw")[0] == ('"Hello"',)
    file = written(tmp_path, "some.tsv", 'text\tn\n"Hello" he said\t1\nworld\n')
    assert told(file) == (
        [('"Hello" he said',), None],
        [
            f"{file}:3: too few fields: 1, wanted 2 (quote marks were read as text, see "
            "--data.quoting)"
        ],
        [
            f"{file}: 1 fields begin with a quote mark; read raw, as part of the text (quoted "
            f"{chosen}"
        ],
    )
    (row, *_), _, notes = told(file, quoting="raw")
    assert (row, notes) == (('"Hello" he said',), [])


def test_the_first_lines_decide_though_a_quoted_text_is_cut_by_their_end(
    small: None, sample: int, tmp_path: Path
) -> None:
    body = 'text\tn\n"""one"""\t1\n' + "word\t1\n" * (sample - 3) + '"two\nlines ""of"" it"\t1\n'
    file = written(tmp_path, "some.tsv", body)
    rows, problems, (note,) = told(file)
    assert rows == [('"one"',), *[("word",)] * (sample - 3), ('two\nlines "of" it',)]
    assert problems == []
    assert note.startswith(
        f"{file}: 1 fields of the first 20 lines begin with a quote mark; read as q"
    )


def test_a_stray_mark_among_the_first_lines_is_text(sample: int, tmp_path: Path) -> None:
    file = written(tmp_path, "some.tsv", 'text\tn\n"open\t1\n' + "word\t1\n" * 30)
    rows, problems, (note,) = told(file)
    assert (rows[0], len(rows), problems) == (('"open',), 31, [])
    assert "1 fields of the first 20 lines begin with a quote mark; read raw" in note


def test_marks_that_come_later_are_told_at_the_end(
    small: None, sample: int, tmp_path: Path
) -> None:
    file = written(tmp_path, "some.tsv", "text\tn\n" + "word\t1\n" * 30 + '"late"\t1\n' * 2)
    rows, problems, (note,) = told(file)
    assert (rows[-1], problems) == (('"late"',), [])
    assert note == (
        f"{file}: 2 fields after line 20 begin with a quote mark; read raw, as part of the text "
        "(quoted is chosen with --data.quoting)"
    )


# -- whatever the bytes ----------------------------------------------------------------------------

PARTS = (b"text", b"a", b" ", b'"', b"\t", b",", b"\n", b"\r", b"\xff", b"\xef\xbb\xbf", b"\x00")
JSON = (b'{"text": "x"}', b"{", b"}", b"[", b"null", b'{"text": NaN}', b'{"text": "x"}\n')


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.sampled_from(PARTS + JSON), max_size=14).map(b"".join),
    st.sampled_from(FORMATS),
    st.sampled_from(["", "text,n\n", "text\n", "text\tn\n", '{"text": "x"}\n']),
)
def test_no_file_whatever_its_bytes_ends_in_anything_but_rows_or_told_problems(
    small: None, data: bytes, format: str, start: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = written(Path(folder), f"some.{format}", start.encode() + data)
        with suppress(DataError):
            rows, problems, _ = told(file)
            assert rows.count(None) <= len(problems)
            assert bool(problems) == (None in rows)
            assert all(problem.startswith(str(file)) for problem in problems)


field = st.text(st.sampled_from('ab",\n\r\t '), min_size=1, max_size=6).filter(str.strip)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(field, field), min_size=1, max_size=7), st.sampled_from("\t,"))
def test_any_quoted_text_comes_out_as_it_went_in(
    small: None, rows: list[tuple[str, str]], delimiter: str
) -> None:
    table = io.StringIO()
    csv.writer(table, delimiter=delimiter).writerows([("text", "text_pair"), *rows])
    source = io.BytesIO(table.getvalue().encode())
    assert read(source, format="csv" if delimiter == "," else "tsv", quoting="quoted") == rows


def test_blocks_collected_are_the_rows_read_whole(small: None, tmp_path: Path) -> None:
    for ending in ("csv", "tsv", "jsonl", "parquet"):
        file = write_table(tmp_path / f"some.{ending}", {"id": list("12345"), "text": TEXTS})
        diagnostics = Diagnostics()
        table = files.read_file(file, DataConfig(quoting="quoted"), diagnostics)
        diagnostics.raise_problems()
        assert table is not None
        assert list(table.columns) == ["id", "text"]
        assert [(text,) for text in table.columns["text"]()] == read(file, quoting="quoted")
        assert len(table.numbers) == 5


def test_a_column_that_only_later_blocks_have_is_empty_before(small: None, tmp_path: Path) -> None:
    file = written(tmp_path, "some.jsonl", '{"a": 1}\n' * 3 + "{}\n{}\n" + '{"b": 2}\n')
    table = files.read_file(file, DataConfig(), diagnostics := Diagnostics())
    diagnostics.raise_problems()
    assert table is not None
    assert {name: values() for name, values in table.columns.items()} == {
        "a": [1, 1, 1, None, None, None],
        "b": [None, None, None, None, None, 2],
    }
