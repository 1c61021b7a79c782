"""One reader for files: TSV, CSV, JSON lines, Parquet, CoNLL and plain text, in blocks of rows.

`read_file` collects all blocks of a file in one table; `new_texts.py` takes one block at a time, so
that a file of any size fits into memory. Which columns are texts or labels is decided elsewhere.
"""

import codecs
import csv
import json
import re
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Literal, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from layermix.config import DataConfig
from layermix.data.conll import (
    CONLL,
    UNIVERSAL,
    column_names,
    field_count,
    looks_like_text,
    sentences,
)
from layermix.data.content import other_content, other_json
from layermix.data.tables import (
    NO_COLUMNS,
    NO_ROWS,
    Diagnostics,
    Table,
    from_objects,
    has_repeated_columns,
)
from layermix.errors import DataError, Note

Quoting = Literal["auto", "quoted", "raw"]

OnNote = Callable[[Note], None]
"""Takes a note for the user."""

FORMATS = ("tsv", "csv", "jsonl", "json", "parquet", *CONLL, "txt")
"""File endings that are read: `json` as JSON lines, `txt`, the last, as one text per line."""

BLOCK = 1024
"""Rows that are read together."""

LONGEST_RECORD = 10_000
"""Lines after which a quoted field that is still open is taken for a stray quote mark."""

JUDGED = 100
"""Lines of a CoNLL file from which it is judged whether it is one."""

_NEVER_CLOSED = "never closed"
_NOT_PARQUET = "not readable as Parquet"


class Block(NamedTuple):
    """Some rows of a file.

    Attributes:
        numbers: The line on which each row begins, or its place counted from 1.
        table: The well-formed rows, with the problems of all rows.
    """

    numbers: Sequence[int]
    table: Table


@dataclass(frozen=True)
class Reader:
    """An open file.

    Attributes:
        head: Its columns, without rows; of JSON lines those of the first block.
        blocks: Wanted columns, or None for all -> the blocks, once.
        count: How many rows there are, if that is known without parsing; a line break within a
            quoted field counts as a row.
        no_rows: What to say if there is no block.
    """

    head: Table
    blocks: Callable[[Sequence[str] | None], Iterator[Block]]
    count: Callable[[], int | None]
    no_rows: str = NO_ROWS


def read_file(
    path: Path, config: DataConfig, diagnostics: Diagnostics, *, tagged: bool = False
) -> Table | None:
    """Returns a whole file as one table; None, and a problem, if it cannot be read.

    Args:
        path: The file.
        config: How it is read.
        diagnostics: Gets its problems and notes.
        tagged: Whether its words have tags, so that a text file is a CoNLL file.
    """
    blocks: list[Table] = []
    is_conll = tagged and path.suffix.lower() == ".txt"
    try:
        with open_file(
            path,
            diagnostics,
            format="conll" if is_conll else None,
            quoting=config.quoting,
            header=config.header,
            encoding=config.encoding,
            sample=sys.maxsize,
            note=diagnostics.notes.append,
        ) as reader:
            for block in reader.blocks(None):
                diagnostics.update(block.table.diagnostics)
                blocks.append(block.table)
    except DataError:  # its problems are in `diagnostics`
        return None
    if not blocks:
        diagnostics.add(str(path), reader.no_rows)
    names = dict.fromkeys(chain(reader.head.columns, *(table.columns for table in blocks)))

    def values(name: str) -> list[Any]:
        parts = (
            table.columns[name]() if name in table.columns else [None] * len(table.numbers)
            for table in blocks
        )
        return list(chain.from_iterable(parts))

    columns = {name: partial(values, name) for name in names}
    numbers = list(chain.from_iterable(table.numbers for table in blocks))
    return replace(reader.head, columns=columns, numbers=numbers) if names else None


@contextmanager
def open_file(
    source: str | Path | BinaryIO,
    diagnostics: Diagnostics,
    *,
    format: str | None = None,
    quoting: Quoting = "auto",
    header: bool = True,
    encoding: str = "utf-8",
    sample: int,
    note: OnNote,
) -> Iterator[Reader]:
    """Opens a file, or a binary stream such as `sys.stdin.buffer`, to read it once.

    Args:
        source: Its path, or the stream.
        diagnostics: Gets the problems of the file as a whole, and of its header.
        format: One of `FORMATS`; by default the file's ending. A stream is by default `jsonl` if
            its first line is a JSON object, else `txt`.
        quoting: As in `DataConfig.quoting`.
        header: As in `DataConfig.header`.
        encoding: As in `DataConfig.encoding`.
        sample: Lines of a TSV file from which it is judged whether quote marks delimit fields.
        note: Called with how quote marks were read, if there are any, and with what separates the
            fields of a CSV, if it is not the comma.

    Raises:
        DataError: The file cannot be read at all.
    """
    with ExitStack() as stack:
        name, path = "standard input", None
        try:
            if isinstance(source, str | Path):
                name, path = str(source), Path(source)
                file: BinaryIO = stack.enter_context(path.open("rb"))
            else:
                file = source
            start = _first_lines(file)
        except FileNotFoundError:
            diagnostics.fail(name, "no such file")
        except OSError as error:
            diagnostics.fail(name, f"cannot be read: {error.strerror or error}")
        if format is None:
            format = path.suffix[1:].lower() if path is not None else _guess_format(start[-1])
        if format not in FORMATS:
            endings = ", ".join(FORMATS)
            diagnostics.fail(
                name, f"unknown format {format!r}; wanted {endings} (as the file's ending)"
            )
        if not start[-1]:
            diagnostics.fail(name, "the file is empty")
        if found := other_content(start, format):
            diagnostics.fail(name, f"found {found}")
        if format == "parquet":
            yield _parquet(name, stack.enter_context(_seekable(start, file)), diagnostics)
            return
        lines = _Lines(name, chain(start, file), encoding)
        count = partial(_count_rows, path, header and format in ("csv", "tsv"))
        if format == "txt":
            yield _plain(lines, diagnostics, count)
        elif format in CONLL:
            yield _conll(lines, diagnostics, universal=format == "conllu")
        elif format in ("csv", "tsv"):
            delimited = _Delimited(lines, format, quoting, header, sample, note)
            yield delimited.reader(diagnostics, count)
        else:
            yield _json_lines(lines, start, diagnostics, count)


def _first_lines(file: BinaryIO) -> list[bytes]:
    """Returns the lines up to the first with text, without byte order mark; [b""] if none."""
    lines: list[bytes] = []
    for line in file:
        lines.append(line if lines else line.removeprefix(codecs.BOM_UTF8))
        if lines[-1].strip():
            return lines
    return [b""]


def _guess_format(line: bytes) -> str:
    """Returns the format of a stream: `jsonl` if its first line is a JSON object, else `txt`."""
    try:
        return "jsonl" if isinstance(json.loads(line), dict) else "txt"
    except (ValueError, RecursionError):
        return "txt"


def _count_rows(path: Path | None, headed: bool) -> int | None:
    """Counts the rows of a text file by its newlines; None if it can be read only once."""
    if path is None or not path.is_file():
        return None
    lines, end = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            lines, end = lines + chunk.count(b"\n"), chunk[-1:]
    return lines + (end != b"\n") - headed


# -- lines of text ---------------------------------------------------------------------------------


class _Record(NamedTuple):
    """A row as it stands in a text file.

    Attributes:
        first: The line on which it begins, counted from 1.
        last: The line on which it ends.
        content: The fields of a TSV or CSV row (none on a blank line), the value of a JSON line,
            or the text of a line.
        fault: Why it has no content; empty if it has.
        faults: Lines within it, and why it has no content.
    """

    first: int
    last: int
    content: Any
    fault: str = ""
    faults: Sequence[tuple[int, str]] = ()


class _Lines:
    """The lines of a text file, decoded as they are read, without their newlines.

    Never `splitlines`, which also splits at rare characters.
    """

    def __init__(self, source: str, lines: Iterable[bytes], encoding: str) -> None:
        self.source = source
        self._lines = lines
        self._encoding = encoding
        self._faults: deque[tuple[int, str]] = deque()

    def __iter__(self) -> Iterator[str]:
        for number, raw in enumerate(self._lines, 1):
            line = raw.removesuffix(b"\n")
            try:
                yield line.decode(self._encoding)
            except UnicodeDecodeError as error:
                self._faults.append((number, _wrong_bytes(line, error, self._encoding)))
                # So that the rest of the line is checked too.
                yield line.decode(self._encoding, errors="replace")

    def well_formed(
        self, records: Iterable[_Record], diagnostics: Diagnostics
    ) -> Iterator[_Record]:
        """Yields the records with content; faults and invalid bytes are problems."""
        for record in records:
            while self._faults and self._faults[0][0] <= record.last:
                number, fault = self._faults.popleft()
                diagnostics.add(self.source, fault, number)
            faults = [(record.first, record.fault)] if record.fault else record.faults
            for number, fault in faults:
                diagnostics.add(self.source, fault, number)
            if not faults:
                yield record

    def forget(self, first: int, last: int) -> None:
        """Drops the invalid bytes of lines that are no part of a record."""
        kept = [item for item in self._faults if not first <= item[0] <= last]
        self._faults = deque(kept)

    def blocks(
        self,
        records: Iterator[_Record],
        make_table: Callable[[list[_Record], Diagnostics], Table],
    ) -> Iterator[Block]:
        """Yields the remaining records in blocks."""
        while block := list(islice(records, BLOCK)):
            diagnostics = Diagnostics()
            good = list(self.well_formed(block, diagnostics))
            yield Block([record.first for record in block], make_table(good, diagnostics))


def _wrong_bytes(line: bytes, error: UnicodeDecodeError, encoding: str) -> str:
    """Returns the problem of a line in another encoding than the expected one."""
    utf8 = codecs.lookup(encoding).name == "utf-8"
    where = f"(byte 0x{line[error.start]:02x} at column {error.start + 1})"
    fault = f"invalid {'UTF-8' if utf8 else encoding} {where}"
    if utf8 and _looks_western(line):
        return (
            f"{fault}; the bytes look like cp1252: give --data.encoding cp1252, or save the file "
            "as UTF-8"
        )
    return f"{fault}; save the file as UTF-8, or give its encoding with --data.encoding"


def _looks_western(line: bytes) -> bool:
    """Returns whether a line that is not UTF-8 looks like cp1252, as Western Windows writes it.

    Examples:
        >>> [_looks_western(text.encode("cp1252")) for text in ("café au lait", "“quoted” text")]
        [True, True]
        >>> _looks_western("жизнь ищи".encode("cp1251"))
        False
        >>> _looks_western("café cut within a letter: é".encode()[:-1])
        False
    """
    try:
        text = line.decode("cp1252")
    except UnicodeDecodeError:
        return False
    if not line.decode(errors="ignore").isascii():  # some of it is UTF-8
        return False
    if {*line} & {0xFE, 0xFF}:  # rare letters there, but usual in UTF-16 and in what is no text
        return False
    letters = [letter for letter in text if letter.isalpha()]
    return sum(letter.isascii() for letter in letters) >= len(letters) / 2


def _without_returns(lines: Iterable[str]) -> Iterator[str]:
    """Drops the carriage returns of Windows' line ends, if the first line has one."""
    windows: bool | None = None
    for line in lines:
        if windows is None:
            windows = line.endswith("\r")
        yield line.removesuffix("\r") if windows else line


def _plain(lines: _Lines, diagnostics: Diagnostics, count: Callable[[], int | None]) -> Reader:
    records = (_Record(n, n, line) for n, line in enumerate(_without_returns(lines), 1))

    def table(block: Sequence[_Record], diagnostics: Diagnostics) -> Table:
        texts = [record.content for record in block]
        numbers = [record.first for record in block]
        columns = {"text": partial(list[Any], texts)}
        return Table(lines.source, diagnostics, columns, numbers, plain=True)

    return Reader(table([], diagnostics), lambda _: lines.blocks(records, table), count)


# -- CoNLL -----------------------------------------------------------------------------------------


def _conll(lines: _Lines, diagnostics: Diagnostics, *, universal: bool) -> Reader:
    texts = iter(lines)
    start = list(islice(texts, JUDGED))
    wanted = len(UNIVERSAL) + 1 if universal else field_count(start)
    if looks_like_text(start, wanted):
        diagnostics.fail(
            lines.source,
            "most lines have another number of fields than the first, as plain text has; wanted "
            "CoNLL: on each line a word and its tags, an empty line after each sentence"
            if not universal
            else f"most lines have not {wanted} fields; wanted CoNLL-U, with a tab between fields",
        )
    names = UNIVERSAL if universal else column_names(wanted)

    def records() -> Iterator[_Record]:
        last = 0
        for sentence in sentences(chain(start, texts), wanted, universal=universal):
            lines.forget(last + 1, sentence.first - 1)
            last = sentence.last
            yield _Record(sentence.first, last, sentence.words, faults=sentence.faults)

    def table(block: Sequence[_Record], diagnostics: Diagnostics) -> Table:
        def values(column: int) -> list[list[str | None]]:
            return [[word[column] for word in record.content] for record in block]

        columns = {name: partial(values, column) for column, name in enumerate(names)}
        return Table(lines.source, diagnostics, columns, [record.first for record in block])

    made = records()
    head = table([], diagnostics)
    return Reader(head, lambda _: lines.blocks(made, table), lambda: None)


# -- TSV and CSV -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Delimited:
    """How a TSV or CSV file is read; the fields are those of `open_file`."""

    lines: _Lines
    format: str
    quoting: Quoting
    has_header: bool
    sample: int
    note: OnNote

    def reader(self, diagnostics: Diagnostics, count: Callable[[], int | None]) -> Reader:
        """Returns the reader; problems of the header go to `diagnostics`."""
        lines, source, note = self.lines, self.lines.source, self.note
        texts = iter(lines)
        first = next(texts)
        texts = chain([first], texts)
        tabs = self.format == "tsv"
        delimiter = "\t" if tabs else _csv_delimiter(source, first, self.has_header, note)
        quoted, unjudged = not tabs or self.quoting == "quoted", False
        if tabs and self.quoting == "auto":
            head_lines = list(islice(texts, self.sample))
            texts = chain(head_lines, texts)
            complete = len(head_lines) < self.sample
            marked, quoted = _judge_quoting(head_lines, complete)
            unjudged = not marked
            if marked:
                where = "" if complete else f" of the first {self.sample:,} lines"
                note(_quoting_note(source, f"{marked} fields{where}", quoted))
        records = _without_blanks_at_end(
            _quoted_records(texts, delimiter) if quoted else _raw_records(texts)
        )
        header, records = self._header(records, diagnostics)
        hint = "" if not self.has_header or not _looks_like_data(header) else _HEADERLESS
        if tabs and len(header) == 1 and "," in header[0]:
            hint = "; its first line has commas and no tab: give a CSV file the ending .csv"
        for name, times in Counter(filter(None, header)).items():
            if times > 1:
                fault = f"the column {name!r} appears {times} times in the header{hint}"
                diagnostics.add(source, fault, 1)
        marks = 0  # fields seen so far that begin with a quote mark, which is text

        def table(block: Sequence[_Record], diagnostics: Diagnostics) -> Table:
            nonlocal marks
            marks += 0 if quoted else sum(map(_marks, block))
            repeats = self.has_header and len(header) > 1
            return _from_fields(source, header, block, diagnostics, marks > 0, repeats)

        def blocks(_: Sequence[str] | None) -> Iterator[Block]:
            yield from lines.blocks(records, table)
            if unjudged and marks:
                note(_quoting_note(source, f"{marks} fields after line {self.sample:,}", False))

        head = replace(_from_fields(source, header, (), diagnostics, False, False), hint=hint)
        return Reader(head, blocks, count, "there is only a header, no rows")

    def _header(
        self, records: Iterator[_Record], diagnostics: Diagnostics
    ) -> tuple[list[str], Iterator[_Record]]:
        """Returns the names of the columns, and the records that are rows."""
        first = list(islice(records, 1))
        if self.has_header:
            first = list(self.lines.well_formed(first, diagnostics))
        if not first or first[0].fault:
            if first:
                diagnostics.add(self.lines.source, first[0].fault, first[0].first)
            diagnostics.stop()
        fields = first[0].content
        if not self.has_header:
            if not fields:
                diagnostics.fail(self.lines.source, "a blank line, wanted the first row", 1)
            return [str(number) for number in range(1, len(fields) + 1)], chain(first, records)
        names = [name.strip() for name in fields]
        if re.fullmatch("sep=.?", ";".join(fields).rstrip(";")):
            fault = "found Excel's line `sep=`, wanted the names of the columns; take it out"
            diagnostics.fail(self.lines.source, fault, 1)
        if not any(names):
            fault = "the header is blank, wanted the names of the columns"
            diagnostics.fail(self.lines.source, fault, 1)
        return names, records


_HEADERLESS = (
    "; line 1 looks like data, not like the names of columns: if the file has no header, give "
    "--no-data.header, which calls the columns 1, 2, 3, …"
)
_LONGEST_NAME = 4
"""Words that the name of a column may have."""


def _looks_like_data(header: Sequence[str]) -> bool:
    """Returns whether a header has a number or a sentence among its names.

    Examples:
        >>> _looks_like_data(["0", "1467810369", "NO_QUERY", "is upset that he can't come"])
        True
        >>> _looks_like_data(["v1", "v2", "", "date of birth"])
        False
    """
    return any(
        re.fullmatch(r"[+-]?[0-9]+([.,][0-9]+)?", name) or len(name.split()) > _LONGEST_NAME
        for name in header
    )


def _csv_delimiter(source: str, first: str, has_header: bool, note: OnNote) -> str:
    """Returns what separates the fields of a CSV, judged from its first line outside of quotes.

    Where the comma is the decimal mark, spreadsheets write semicolons into their CSV.
    """
    first = re.sub(r'"[^"]*("|$)', "", first)
    for delimiter, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if "," not in first and delimiter in first:
            where = "its header" if has_header else "its first line"
            note(Note("separator", f"{source}: fields are separated by {name}, as in {where}"))
            return delimiter
    return ","


def _from_fields(
    source: str,
    header: Sequence[str],
    records: Sequence[_Record],
    diagnostics: Diagnostics,
    marked: bool,
    repeats: bool,
) -> Table:
    """Returns records as a table; those without a field for each column are problems.

    Args:
        source: The file.
        header: The names of the columns.
        records: The rows.
        diagnostics: Gets the problems.
        marked: Whether fields begin with a quote mark that is text.
        repeats: Whether a row that equals the header is a problem.
    """
    hint = " (quote marks were read as text, see --data.quoting)" if marked else ""
    rows: list[list[str]] = []
    numbers: list[int] = []
    for record in records:
        if len(fields := record.content) == len(header):
            if repeats and [field.strip("\ufeff \t") for field in fields] == header:
                message = "the header again; if files were joined, take this line out"
                diagnostics.add(source, message, record.first)
                continue
            rows.append(fields)
            numbers.append(record.first)
        elif not fields:
            diagnostics.add(source, f"a blank line, wanted {len(header)} fields", record.first)
        else:
            amount = "too few" if len(fields) < len(header) else "too many"
            message = f"{amount} fields: {len(fields)}, wanted {len(header)}{hint}"
            diagnostics.add(source, message, record.first)

    def values(column: int) -> list[str]:
        return [row[column] for row in rows]

    columns = {name: partial(values, column) for column, name in enumerate(header)}
    return Table(source, diagnostics, columns, numbers)


def _without_blanks_at_end(records: Iterable[_Record]) -> Iterator[_Record]:
    blank = 0
    for record in records:
        if not record.content and not record.fault:
            blank += 1
            continue
        for number in range(record.first - blank, record.first):
            yield _Record(number, number, [])
        blank = 0
        yield record


def _raw_records(lines: Iterable[str]) -> Iterator[_Record]:
    """Yields the records of TSV in which every line is a row and quote marks are text."""
    for number, line in enumerate(_without_returns(lines), 1):
        yield _Record(number, number, line.split("\t") if line else [])


def _quoted_records(lines: Iterable[str], delimiter: str) -> Iterator[_Record]:
    """Yields the records of strict CSV; of a malformed one, only the first line is skipped."""
    source = enumerate(lines, 1)
    again: deque[tuple[int, str]] = deque()  # lines that were read for a record that did not end
    taken: list[tuple[int, str]] = []

    def following() -> Iterator[str]:
        while len(taken) < LONGEST_RECORD:
            line = again.popleft() if again else next(source, None)
            if line is None:
                return
            taken.append(line)
            yield line[1] + "\n"

    reader = csv.reader(following(), delimiter=delimiter, strict=True)
    while True:
        limit = csv.field_size_limit(2**31 - 1)  # the default refuses texts of 128 KiB
        try:
            fields, fault = next(reader), ""
        except StopIteration:
            return
        except csv.Error as error:
            fields, fault = [], str(error)
        finally:
            csv.field_size_limit(limit)
        first, last = taken[0][0], taken[-1][0]
        line = delimiter + taken[0][1] + delimiter
        if any(re.fullmatch(r'\s+"[^"]+"\s*', one) and delimiter + one in line for one in fields):
            fault = "a space before a quote mark, which makes it a part of the text"
        if "unexpected end" in fault:
            within = f"not closed within {LONGEST_RECORD:,} lines"
            cut = len(taken) == LONGEST_RECORD
            fault = f"a quote mark is {within if cut else _NEVER_CLOSED}"
        if fault:
            last, fault = first, f"not well quoted: {fault}"
            again.extendleft(reversed(taken[1:]))
            reader = csv.reader(following(), delimiter=delimiter, strict=True)
        taken.clear()
        yield _Record(first, last, fields, fault)


def _judge_quoting(lines: Sequence[str], complete: bool) -> tuple[int, bool]:
    """Returns how many fields of a TSV begin with a quote mark, and whether these delimit fields.

    Args:
        lines: All lines of the file, or the first ones.
        complete: Whether they are all.
    """
    raw = list(_raw_records(lines))
    if not any(map(_marks, raw)):
        return 0, False
    quoted = list(_quoted_records(lines, "\t"))
    if not complete:  # a field that is open where the lines were cut off says nothing
        late = len(lines) - len(lines) // 10
        cut = [row.first for row in quoted if _NEVER_CLOSED in row.fault and row.first > late]
        end = min(cut, default=len(lines) + 1)
        raw = [record for record in raw if record.first < end]
        quoted = [record for record in quoted if record.first < end]
    count = sum(map(_marks, raw))
    return count, bool(count) and _looks_quoted(raw, quoted)


def _quoting_note(source: str, fields: str, quoted: bool) -> Note:
    """Returns the note on how quote marks at the start of TSV fields were read."""
    how = "as quoted (raw" if quoted else "raw, as part of the text (quoted"
    text = f"{source}: {fields} begin with a quote mark; read {how} is chosen with --data.quoting)"
    return Note("quoting", text)


def _marks(record: _Record) -> int:
    """Returns how many fields of a raw record begin with a quote mark."""
    return sum(field.startswith('"') for field in record.content)


def _looks_quoted(raw: Sequence[_Record], quoted: Sequence[_Record]) -> bool:
    """Returns whether the quote marks of a TSV file delimit fields; in GLUE they are text.

    If only one of the two readings gives every row the fields of the header, it is that one.
    Otherwise all fields that begin with a quote mark must be whole quoted fields, as some writer
    makes them: for every row of a column, or only where there is a quote mark inside to be doubled.
    """
    raw_fits = len({len(record.content) for record in raw if record.content}) == 1
    quoted_fits = (
        not any(record.fault for record in quoted)
        and len({len(record.content) for record in quoted if record.content}) == 1
    )
    if raw_fits != quoted_fits:
        return quoted_fits
    header = raw[0].content
    rows = [record.content for record in raw[1:] if record.content] or [header]
    always = {
        column
        for column in range(len(header))
        if all(len(row) > column and row[column].startswith('"') for row in rows)
    }
    return all(
        re.fullmatch(r'"(?:[^"]|"")*"', value) and (column in always or '""' in value[1:-1])
        for row in rows
        for column, value in enumerate(row)
        if value.startswith('"')
    )


# -- JSON lines ------------------------------------------------------------------------------------


def _json_lines(
    lines: _Lines,
    start: Sequence[bytes],
    diagnostics: Diagnostics,
    count: Callable[[], int | None],
) -> Reader:
    if found := other_json(start[-1]):
        message = f"found {found}, wanted one JSON object per line"
        diagnostics.fail(lines.source, message, len(start))
    records = _json_records(lines)
    wanted: Sequence[str] | None = None

    def table(block: Sequence[_Record], diagnostics: Diagnostics) -> Table:
        rows = [record.content for record in block]
        numbers = [record.first for record in block]
        return from_objects(
            lines.source, rows, numbers, diagnostics, has_lines=True, columns=wanted
        )

    remaining = lines.blocks(records, table)
    first = next(remaining)  # its columns are the head's
    if first.table.numbers and not first.table.columns:
        first.table.diagnostics.add(lines.source, NO_COLUMNS)

    def blocks(columns: Sequence[str] | None) -> Iterator[Block]:
        nonlocal wanted
        wanted = columns
        yield first
        yield from remaining

    head = Table(lines.source, diagnostics, dict.fromkeys(first.table.columns, list), ())
    return Reader(head, blocks, count)


def _json_records(lines: Iterable[str]) -> Iterator[_Record]:
    """Yields one JSON value per line; skips blank lines."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _Record(number, number, json.loads(line, object_pairs_hook=_unique))
        except json.JSONDecodeError as error:
            fault = f"not JSON: {error.msg} at column {error.colno}"
            yield _Record(number, number, None, fault)
        except (ValueError, RecursionError) as error:
            yield _Record(number, number, None, f"not usable JSON: {error}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the column {repeated!r} appears more than once")
    return unique


# -- Parquet ---------------------------------------------------------------------------------------


@contextmanager
def _seekable(start: Sequence[bytes], file: BinaryIO) -> Iterator[BinaryIO]:
    """Yields the file from its beginning, as a copy on disk if it is a pipe."""
    if file.seekable():
        file.seek(0)
        yield file
        return
    with TemporaryFile() as copy:
        copy.writelines(start)
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        yield copy


@contextmanager
def _readable(source: str, diagnostics: Diagnostics) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        diagnostics.fail(source, f"{_NOT_PARQUET}: {error}")


def _parquet(source: str, file: BinaryIO, diagnostics: Diagnostics) -> Reader:
    with _readable(source, diagnostics):
        # Otherwise a whole row group is held in memory.
        parquet = pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
        schema = parquet.schema_arrow
        saved_by_datasets = b"huggingface" in (schema.metadata or {})
        features = datasets.Features.from_arrow_schema(schema) if saved_by_datasets else {}
    if has_repeated_columns(source, schema.names, diagnostics):
        diagnostics.stop()
    classes = class_names(features)

    def table(batch: pa.Table, place: int, diagnostics: Diagnostics) -> Table:
        faults = _row_faults(batch)
        for row, fault in faults.items():
            diagnostics.add(source, f"{_NOT_PARQUET}: {fault}", place + row, place=": row ")
        good = [row for row in range(len(batch)) if row not in faults]
        columns = arrow_columns(batch.take(good) if faults else batch)
        numbers = [place + row for row in good]
        return Table(source, diagnostics, columns, numbers, has_lines=False)

    def blocks(columns: Sequence[str] | None) -> Iterator[Block]:
        names, place = list(columns or schema.names), 1
        with _readable(source, diagnostics):
            for batch in parquet.iter_batches(BLOCK, columns=names):
                rows = pa.Table.from_batches([batch]).select(names)
                yield Block(range(place, place + len(rows)), table(rows, place, Diagnostics()))
                place += len(rows)

    head = Table(
        source,
        diagnostics,
        dict.fromkeys(schema.names, list),
        (),
        has_lines=False,
        classes=classes,
    )
    return Reader(head, blocks, lambda: int(parquet.metadata.num_rows))


def class_names(features: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Returns the names of the classes of each column that has some; it may have lists of them."""
    inner = {column: _class_label(feature) for column, feature in features.items()}
    return {  # one that was given only a number of classes calls them "0", "1", …
        column: feature.names
        for column, feature in inner.items()
        if feature is not None
        and feature.names != [str(index) for index in range(len(feature.names))]
    }


def _class_label(feature: Any) -> datasets.ClassLabel | None:
    """Returns the classes of a column: its own, those of its lists, or of the objects in these."""
    if isinstance(feature, datasets.ClassLabel):
        return feature
    if isinstance(feature, datasets.List):
        return _class_label(feature.feature)
    parts = map(_class_label, feature.values()) if isinstance(feature, dict) else ()
    return next(filter(None, parts), None)


def arrow_columns(table: pa.Table) -> dict[str, Callable[[], list[Any]]]:
    """Returns the columns of an Arrow table as those of a `Table`."""
    pairs = zip(table.column_names, table.columns, strict=True)
    return {name: column.to_pylist for name, column in pairs}


def _row_faults(table: pa.Table) -> dict[int, str]:
    """Returns row -> what is wrong with its values, such as bytes that are not UTF-8."""
    if not _fault(table):
        return {}
    faults = {row: _fault(table.slice(row, 1)) for row in range(len(table))}
    return {row: fault for row, fault in faults.items() if fault}


def _fault(table: pa.Table) -> str:
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        return str(error)
    return ""
