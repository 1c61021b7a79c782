"""One source of texts, read block by block, for prediction.

What concerns the whole source is a `DataError` when it is opened. A row that cannot be read stands
in its block as None, so that the rows keep their places; what was wrong with it is told at the end.
"""

import codecs
import json
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from layermix.data.files import (
    EMPTY,
    FORMATS,
    JSON_ARRAY,
    NO_ROWS,
    NOT_PARQUET,
    ONLY_HEADER,
    UTF16,
    Findings,
    Quoting,
    Record,
    Table,
    decoded,
    each_once,
    from_lines,
    from_records,
    from_rows,
    is_utf16,
    json_records,
    judge_quoting,
    marks,
    not_opened,
    quoted_records,
    quoting_note,
    raw_records,
    separator,
    unknown_format,
    without_returns,
)
from layermix.data.texts import Text, check_texts, find_texts, has_texts
from layermix.errors import DataError, UnreadRowsError

BLOCK = 1024
"""Rows that are read, labelled and written together."""

SAMPLE = 10_000
"""Lines of a TSV file from which it is judged whether quote marks delimit fields."""

SHOWN = 20
"""Problems that are kept to be told."""

Say = Callable[[str], None]


class TextStream:
    """The texts of one source, in blocks; made by `open_texts`, read once.

    Attributes:
        columns: The one or two text columns.
        rows: How many rows have been read so far.
        unread: How many of them could not be.
    """

    def __init__(self, source: str, columns: tuple[str, ...], form: "_Form") -> None:
        self.source = source
        self.columns = columns
        self.rows = self.unread = 0
        self._problems: list[str] = []
        self._total_problems = 0
        self._form = form
        self._blocks = form.blocks(columns)
        first = next(self._blocks, None)
        if first is None:
            _refuse(source, form.without_rows)
        self._first = self._texts(first)
        if not any(self._first):
            _none_readable(first)

    def __iter__(self) -> Iterator[list[Text | None]]:
        """The rows by `BLOCK`, in their order; None is one that could not be read."""
        yield self._first
        yield from map(self._texts, self._blocks)

    def expected(self) -> int | None:
        """How many rows there are, if that is known without parsing; quoted line breaks count."""
        return self._form.count()

    def raise_unread(self, place: str) -> None:
        """Raise an UnreadRowsError if a row could not be read; `place` is where the output is."""
        if self.unread:
            raise UnreadRowsError(
                self._problems, self._total_problems, self.unread, self.rows, place
            )

    def _texts(self, block: "_Block") -> list[Text | None]:
        good: dict[int, Text] = {}
        if block.table is not None:
            texts = check_texts(block.table, self.columns)
            good = dict(zip(block.table.numbers, texts, strict=True))
        problems = block.findings.of(self.source)
        bad = {bisect_right(block.firsts, number) - 1 for number, _ in problems}
        self._problems += [told for _, told in problems[: SHOWN - len(self._problems)]]
        self._total_problems += len(problems)
        self.rows += len(block.firsts)
        self.unread += len(bad)
        return [None if row in bad else good[first] for row, first in enumerate(block.firsts)]


@contextmanager
def open_texts(
    source: str | Path | BinaryIO,
    text_columns: Sequence[str] | None = None,
    *,
    format: str | None = None,
    quoting: Quoting = "auto",
    say: Say = lambda note: None,
) -> Iterator[TextStream]:
    """Open texts to predict; a label column is neither needed nor read.

    Args:
        source: A file, or an open binary stream such as `sys.stdin.buffer`.
        text_columns: One or two; found by their usual names if not given.
        format: One of `FORMATS`; by default the file's ending. A stream is by default `jsonl` if
            its first line is a JSON object, else `txt`.
        quoting: As in `DataConfig.quoting`, but judged from the first `SAMPLE` lines.
        say: Told how quote marks were read, if there are any, and what separates the fields of a
            CSV if it is not the comma.

    Raises:
        DataError: The source cannot be used as a whole, or not one row of the first block can.
    """
    with ExitStack() as stack:
        name, path = "standard input", None
        try:
            if isinstance(source, str | Path):
                name, path = str(source), Path(source)
                file: BinaryIO = stack.enter_context(path.open("rb"))
            else:
                file = source
            start = _start(file)
        except OSError as error:
            _refuse(name, not_opened(error))
        format = format or (path.suffix[1:].lower() if path is not None else _sniff(start[-1]))
        if format not in FORMATS:
            _refuse(name, unknown_format(format))
        if not start[-1]:
            _refuse(name, EMPTY)
        if format == "parquet":
            form = _parquet(name, stack.enter_context(_seekable(start, file)))
        else:
            if is_utf16(start[0]):
                _refuse(name, UTF16)
            lines = _Lines(name, chain(start, file))
            headed = format in ("csv", "tsv")
            count = partial(_count, path, headed)
            if format == "txt":
                form = _plain(lines, count)
            elif headed:
                form = _delimited(lines, format, quoting, say, count)
            else:
                form = _objects(lines, start, count)
        columns = find_texts(form.head, text_columns, None)
        if columns is None or not has_texts(form.head, columns):
            form.head.findings.stop()
        yield TextStream(name, columns, form)


class _Block(NamedTuple):
    """Some rows as they were read."""

    firsts: Sequence[int]  # the line on which every row begins, or its place
    table: Table | None  # of those that have the form of a row
    findings: Findings  # about the others


@dataclass(frozen=True)
class _Form:
    """How a source is read."""

    head: Table  # its columns, without rows
    blocks: Callable[[tuple[str, ...]], Iterator[_Block]]  # by the columns that are needed
    count: Callable[[], int | None]
    without_rows: str = NO_ROWS


class _Lines:
    """The lines of a text file, decoded as they are read."""

    def __init__(self, source: str, lines: Iterable[bytes]) -> None:
        self.source = source
        self._lines = lines
        self._faults: dict[int, str] = {}

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(self._lines, 1):
            text, fault = decoded(line.removesuffix(b"\n"))
            if fault:
                self._faults[number] = fault
            yield text

    def told(self, records: Iterable[Record]) -> Findings:
        """What is wrong with these records, and with the bytes up to the end of the last."""
        findings, last = Findings(), 0
        for record in records:
            last = record.last
            if record.fault:
                findings.problem(self.source, record.fault, record.first)
        for number in [number for number in self._faults if number <= last]:
            findings.problem(self.source, self._faults.pop(number), number)
        return findings


def _start(file: BinaryIO) -> list[bytes]:
    """The lines up to the first that is not blank, without a byte order mark; [b""] if none."""
    lines: list[bytes] = []
    for line in file:
        lines.append(line if lines else line.removeprefix(codecs.BOM_UTF8))
        if lines[-1].strip():
            return lines
    return [b""]


def _sniff(line: bytes) -> str:
    """The format of a stream: `jsonl` if its first line is a JSON object, else `txt`."""
    try:
        return "jsonl" if isinstance(json.loads(line), dict) else "txt"
    except (ValueError, RecursionError):
        return "txt"


def _refuse(source: str, message: str) -> NoReturn:
    raise DataError([f"{source}: {message}"])


def _none_readable(block: _Block) -> NoReturn:
    try:
        block.findings.stop()
    except DataError as error:
        raise DataError(
            error.problems,
            hint=f"none of the first {len(block.firsts):,} row(s) can be read, so nothing was "
            "labelled; is it another file, or another format (--format)?",
        ) from None


def _count(path: Path | None, headed: bool) -> int | None:
    """The rows of a text file by its newlines; None where reading it would use it up."""
    if path is None or not path.is_file():
        return None
    lines, end = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            lines, end = lines + chunk.count(b"\n"), chunk[-1:]
    return lines + (end != b"\n") - headed


def _firsts(records: Sequence[Record]) -> list[int]:
    return [record.first for record in records]


# -- the formats -----------------------------------------------------------------------------------


def _plain(lines: _Lines, count: Callable[[], int | None]) -> _Form:
    records = (
        Record(number, number, line) for number, line in enumerate(without_returns(lines), 1)
    )

    def blocks(_: tuple[str, ...]) -> Iterator[_Block]:
        while block := list(islice(records, BLOCK)):
            findings = lines.told(block)
            texts = [record.content for record in block]
            numbers = _firsts(block)
            table = from_lines(lines.source, texts, numbers, findings)
            yield _Block(numbers, table, findings)

    return _Form(from_lines(lines.source, (), (), Findings()), blocks, count)


def _objects(lines: _Lines, start: Sequence[bytes], count: Callable[[], int | None]) -> _Form:
    if start[-1].lstrip().startswith(b"["):
        raise DataError([f"{lines.source}:{len(start)}: {JSON_ARRAY}"])
    records = json_records(lines)
    first = list(islice(records, BLOCK))

    def made(block: list[Record], columns: Sequence[str] | None) -> _Block:
        findings = lines.told(block)
        good = [record for record in block if not record.fault]
        rows = [record.content for record in good]
        table = from_rows(lines.source, rows, _firsts(good), True, findings, columns)
        return _Block(_firsts(block), table, findings)

    head = made(first, None)
    if head.table is None:
        _none_readable(head)

    def blocks(columns: tuple[str, ...]) -> Iterator[_Block]:
        yield head
        while block := list(islice(records, BLOCK)):
            yield made(block, columns)

    return _Form(head.table, blocks, count)


def _delimited(
    lines: _Lines,
    format: str,
    quoting: Quoting,
    say: Say,
    count: Callable[[], int | None],
) -> _Form:
    source, texts = lines.source, iter(lines)
    first = next(texts)
    texts = chain([first], texts)
    delimiter, note = separator(source, format, first)
    if note:
        say(note)
    quoted, late = format == "csv" or quoting == "quoted", False
    if not quoted and quoting == "auto":
        sample = list(islice(texts, SAMPLE))
        quoted, note = judge_quoting(source, sample, whole=len(sample) < SAMPLE)
        if note:
            say(note)
        late = not note
        texts = chain(sample, texts)
    records = _without_blanks_at_end(
        quoted_records(texts, delimiter) if quoted else raw_records(texts)
    )
    header = next(records)
    findings = lines.told([header])
    findings.raise_problems()
    head = from_records(source, header.content, (), findings, quoted)
    findings.raise_problems()

    def blocks(_: tuple[str, ...]) -> Iterator[_Block]:
        marked = 0
        while block := list(islice(records, BLOCK)):
            findings = lines.told(block)
            good = [record for record in block if not record.fault]
            table = from_records(source, header.content, good, findings, quoted)
            marked += sum(map(marks, good)) if late else 0
            yield _Block(_firsts(block), table, findings)
        if marked:
            say(quoting_note(source, f"{marked} fields after line {SAMPLE:,}", False))

    return _Form(head, blocks, count, ONLY_HEADER)


def _without_blanks_at_end(records: Iterable[Record]) -> Iterator[Record]:
    blank = 0
    for record in records:
        if not record.content and not record.fault:
            blank += 1
            continue
        for number in range(record.first - blank, record.first):
            yield Record(number, number, [])
        blank = 0
        yield record


@contextmanager
def _seekable(start: Sequence[bytes], file: BinaryIO) -> Iterator[BinaryIO]:
    """The file from its beginning, as a copy on disk if it is a pipe."""
    if file.seekable():
        file.seek(0)
        yield file
        return
    with TemporaryFile() as copy:
        copy.writelines(start)
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        yield copy


def _parquet(source: str, file: BinaryIO) -> _Form:
    with _readable(source):
        # Otherwise a whole row group is held in memory.
        parquet = pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
    names, findings = parquet.schema_arrow.names, Findings()
    if not each_once(source, names, findings):
        findings.stop()
    head = Table(source, findings, dict.fromkeys(names, list), (), has_lines=False)

    def blocks(columns: tuple[str, ...]) -> Iterator[_Block]:
        place = 1
        with _readable(source):
            for batch in parquet.iter_batches(BLOCK, columns=list(columns)):
                rows, findings = pa.Table.from_batches([batch]).select(list(columns)), Findings()
                numbers = range(place, place + len(rows))
                place += len(rows)
                faults = _faults(rows)
                for row, told in faults.items():
                    findings.problem(source, f"{NOT_PARQUET}: {told}", numbers[row], ": row ")
                good = [row for row in range(len(rows)) if row not in faults]
                kept = rows.take(good) if faults else rows
                values = {name: kept[name].to_pylist for name in columns}
                kept_numbers = [numbers[row] for row in good]
                table = Table(source, findings, values, kept_numbers, has_lines=False)
                yield _Block(numbers, table, findings)

    return _Form(head, blocks, lambda: int(parquet.metadata.num_rows))


def _faults(table: pa.Table) -> dict[int, str]:
    """What is wrong with the values of some rows, such as bytes that are not UTF-8."""
    found: dict[int, str] = {}
    if _fault(table):
        for row in range(len(table)):
            if told := _fault(table.slice(row, 1)):
                found[row] = told
    return found


def _fault(table: pa.Table) -> str:
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        return str(error)
    return ""


@contextmanager
def _readable(source: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        _refuse(source, f"{NOT_PARQUET}: {error}")
