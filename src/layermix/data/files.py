"""Every source becomes tables, which know the file and the line of each row.

A source is a file (TSV, CSV, JSON lines, Parquet, plain text), a folder of them, a saved data set,
a data set of the hub, or rows in memory. Values are taken as they are: which columns are texts and
which labels make sense is decided in `data.py`. `streams.py` reads files with the same pieces, but
block by block.
"""

import codecs
import csv
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from layermix.config import DataConfig
from layermix.errors import ConfigError, DataError

Quoting = Literal["auto", "quoted", "raw"]

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "validation_matched", "dev_matched"),
    "test": ("test", "test_matched"),
    "unlabeled": ("unlabeled", "unlabelled"),
}
"""Split -> the names of files and splits that are taken for it."""

FORMATS = ("tsv", "csv", "jsonl", "json", "parquet", "txt")
"""File endings that are read: `json` as JSON lines, `txt` as one text per line."""

LONGEST_RECORD = 10_000
"""Lines after which a quoted field that is still open is taken for a stray quote mark."""


class Findings:
    """Problems, told together (files in the order met, rows in ascending order), and notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._problems: dict[str, list[tuple[int, str]]] = {}

    def problem(self, source: str, message: str, row: int = 0, counted: str = ":") -> None:
        """Of a whole source (row 0), of a line (counted `:`) or of a row (counted `: row `)."""
        place = f"{source}{counted}{row}" if row else source
        self._problems.setdefault(source, []).append((row, f"{place}: {message}"))

    def of(self, source: str) -> list[tuple[int, str]]:
        """The problems of one source, each with its line or row, in ascending order."""
        return sorted(self._problems.get(source, ()), key=lambda item: item[0])

    def raise_problems(self) -> None:
        """Raise one DataError if there are any."""
        if self._problems:
            self.stop()

    def stop(self) -> NoReturn:
        """Raise them where it is known that there are some, which make going on impossible."""
        told = [message for source in self._problems for _, message in self.of(source)]
        raise DataError(list(dict.fromkeys(told)))  # once, though a file may be read twice


@dataclass(frozen=True)
class Table:
    """One split as it was read.

    Attributes:
        source: What the user calls it: a file, or a data set and its split.
        findings: Where its problems are told.
        columns: Column name -> what makes the list of its values; unused columns are never made.
        numbers: The line on which each row begins or, without lines, its place counted from 1.
        has_lines: Whether there are lines, and with them a header, except in plain text.
        classes: Names of the integers of a column, where the source itself gives them.
        plain: One text per line, in the column `text`, and no header.
    """

    source: str
    findings: Findings
    columns: Mapping[str, Callable[[], list[Any]]]
    numbers: Sequence[int]
    has_lines: bool = True
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    plain: bool = False

    def problem(self, message: str, row: int | None = None) -> None:
        """Of a row (counted from 0), or of the header."""
        number = int(self.has_lines) if row is None else self.numbers[row]
        counted = ":" if self.has_lines else ": row "
        self.findings.problem(self.source, message, number, counted)


Tables = dict[str, Table | None]
"""Split -> its table; None where reading failed, which `Findings` tells."""


# -- whole sources ---------------------------------------------------------------------------------


def read_tables(config: DataConfig, findings: Findings) -> tuple[Tables, str, str]:
    """Read what a config names; the hub is asked only if no such path exists.

    Returns:
        The tables, what the user named, and the name of a task that this may be.

    Raises:
        ConfigError: No data are named.
        DataError: There is nothing of the name, or a saved data set is damaged.
    """
    source = config.train or config.path
    if source is None:
        raise ConfigError(
            "no data named; give --data FOLDER, FILE or HUB_NAME, or --data.train FILE"
        )
    path = Path(source)
    if config.train is None and not path.is_file() and (config.validation or config.test):
        raise ConfigError(
            f"{source} is no file, so --data.validation and --data.test do not go with it; give "
            "the training file as --data.train FILE beside them"
        )
    tables: Tables
    if config.train is None and path.is_dir():
        tables, guess = _read_folder(path, config.quoting, findings), path.resolve().name
    elif config.train is None and not path.exists():
        tables, guess = _read_hub(source, findings)
    else:
        files = {"train": source, "validation": config.validation, "test": config.test}
        tables = {
            split: _read_file(Path(file), config.quoting, findings)
            for split, file in files.items()
            if file is not None
        }
        guess = path.resolve().parent.name
    if config.unlabeled is not None:
        tables["unlabeled"] = _read_file(Path(config.unlabeled), config.quoting, findings)
    return tables, source, guess


def tables_of(splits: Mapping[str, Any], source: str, findings: Findings) -> Tables:
    """Turn data sets, or rows as dictionaries, by split into tables."""
    tables: Tables = {}
    stems = {str(name): str(name).lower() for name in splits}
    for split, name in _pick_splits(stems, source, findings).items():
        rows, place = splits[name], f"{source}[{name}]"
        if isinstance(rows, datasets.Dataset):
            table = rows.with_format("arrow")[:]
            tables[split] = from_arrow(place, table, rows.features, findings)
        else:
            tables[split] = from_rows(place, rows, range(1, len(rows) + 1), False, findings)
    return tables


def _read_folder(path: Path, quoting: Quoting, findings: Findings) -> Tables:
    if any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        try:
            saved = datasets.load_from_disk(str(path))
        except Exception as error:  # whatever a damaged folder sets off
            raise DataError([f"{path}: not readable as a saved data set: {error}"]) from error
        splits = saved if isinstance(saved, Mapping) else {"train": saved}
        return tables_of(splits, str(path), findings)
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    stems = {  # what cannot be read is listed, never picked
        file.name: file.stem.lower() if file.suffix[1:].lower() in FORMATS else "" for file in files
    }
    return {
        split: _read_file(path / name, quoting, findings)
        for split, name in _pick_splits(stems, str(path), findings).items()
    }


def _read_hub(source: str, findings: Findings) -> tuple[Tables, str]:
    """A hub data set `name` or `name:config`, and what its task may be called."""
    if (
        source.startswith((".", "/", "~"))
        or source.count("/") > 1
        or "\\" in source
        or Path(source).suffix[1:].lower() in FORMATS
    ):
        raise DataError([f"{source}: no such file or folder"])
    name, _, config_name = source.partition(":")
    try:
        loaded = datasets.load_dataset(name, config_name or None)
    except Exception as error:  # whatever the hub, its client or the network sets off
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            [
                f"{source}: no such file or folder, and the hub data set {name!r}"
                + (f" (config {config_name!r})" if config_name else "")
                + f" cannot be loaded: {told}; a folder with train and validation files (TSV, CSV, "
                "JSONL or Parquet) works without the hub"
            ]
        ) from error
    return tables_of(loaded, source, findings), config_name or name.rpartition("/")[2]


def _pick_splits(stems: Mapping[str, str], source: str, findings: Findings) -> dict[str, str]:
    """Split -> the name to read for it, from names -> the same in lower case, no ending."""
    picked: dict[str, str] = {}
    for split, usual in SPLIT_NAMES.items():
        found = [name for name, stem in stems.items() if stem in usual]
        if len(found) > 1:
            findings.problem(source, f"several {split} splits, {listed(found)}; keep one")
        elif found:
            picked[split] = found[0]
        elif split == "train":
            findings.problem(
                source,
                f"no training split; looked for {listed(usual)} (as a file: with one of the "
                f"endings {', '.join('.' + ending for ending in FORMATS[:-1])}), found "
                f"{listed(stems) or 'nothing'}; files of other names can be given with "
                "--data.train and --data.validation",
            )
    if unused := [name for name in stems if name not in picked.values()]:
        findings.notes.append(f"{source}: not used: {listed(unused)}")
    return picked


# -- one file --------------------------------------------------------------------------------------


def _read_file(file: Path, quoting: Quoting, findings: Findings) -> Table | None:
    """One file as a table; None, and a problem, where there is not a single row."""
    source, format = str(file), file.suffix[1:].lower()
    try:
        data = file.read_bytes()
    except OSError as error:
        findings.problem(source, not_opened(error))
        return None
    if format not in FORMATS:
        findings.problem(source, unknown_format(format))
        return None
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        findings.problem(source, EMPTY)
        return None
    if format == "parquet":
        return _parquet(source, data, findings)
    lines = _decode(source, data, findings)
    if not lines:
        return None
    if format == "txt":
        texts = list(without_returns(lines))
        return from_lines(source, texts, range(1, len(texts) + 1), findings)
    if format in ("jsonl", "json"):
        return _json_lines(source, lines, findings)
    return _delimited(source, lines, format, quoting, findings)


def _decode(source: str, data: bytes, findings: Findings) -> list[str]:
    """Lines without their newline; never `splitlines`, which also splits at rare characters."""
    if is_utf16(data):
        findings.problem(source, UTF16)
        return []
    lines: list[str] = []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        text, fault = decoded(line)
        lines.append(text)
        if fault:
            findings.problem(source, fault, number)
    return lines[:-1] if lines[-1] == "" else lines


EMPTY = "the file is empty"
ONLY_HEADER = "there is only a header, no rows"
NO_ROWS = "there are no rows"
UTF16 = "found UTF-16, wanted UTF-8; save it as UTF-8"


def not_opened(error: OSError) -> str:
    """Why a file cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return f"cannot be read: {error.strerror or error}"


def unknown_format(format: str) -> str:
    """That there is no such format, and which there are."""
    return f"unknown format {format!r}; wanted {', '.join(FORMATS)} (as the file's ending)"


def is_utf16(start: bytes) -> bool:
    """Whether a file that starts like this is UTF-16."""
    return start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def decoded(line: bytes) -> tuple[str, str]:
    """A line as text, and what is wrong with its bytes; the text can be checked even so."""
    try:
        return line.decode(), ""
    except UnicodeDecodeError as error:
        return line.decode(errors="replace"), (
            f"invalid UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1}); "
            "save the file as UTF-8"
        )


def without_returns(lines: Iterable[str]) -> Iterator[str]:
    """Drop the carriage returns of Windows' line ends, if the first line has one."""
    windows: bool | None = None
    for line in lines:
        if windows is None:
            windows = line.endswith("\r")
        yield line.removesuffix("\r") if windows else line


def from_lines(
    source: str, texts: Sequence[str], numbers: Sequence[int], findings: Findings
) -> Table:
    """Plain text as a table."""
    columns = {"text": partial(list[Any], texts)}
    return Table(source, findings, columns, numbers, plain=True)


# -- TSV and CSV -----------------------------------------------------------------------------------


class Record(NamedTuple):
    """A row as it stands in a text file.

    Attributes:
        first: The line on which it begins, counted from 1.
        last: The line on which it ends.
        content: The fields of a TSV or CSV row (none on a blank line), or the value of a JSON line.
        fault: Why it has no content; empty if it has.
    """

    first: int
    last: int
    content: Any
    fault: str = ""


def separator(source: str, format: str, header: str) -> tuple[str, str]:
    """What stands between the fields of a CSV or TSV, and a note if it is not what the ending says.

    Where the comma is the decimal mark, spreadsheets write semicolons into their CSV.
    """
    if format == "tsv":
        return "\t", ""
    for delimiter, name in ((";", "semicolons"), ("\t", "tabs")):
        if "," not in header and delimiter in header:
            return delimiter, f"{source}: fields are separated by {name}, as in its header"
    return ",", ""


def _delimited(
    source: str, lines: list[str], format: str, quoting: Quoting, findings: Findings
) -> Table | None:
    delimiter, note = separator(source, format, lines[0])
    findings.notes += [note] if note else []
    quoted = format == "csv" or quoting == "quoted"
    if not quoted and quoting == "auto":
        quoted, note = judge_quoting(source, lines)
        findings.notes += [note] if note else []
    found = list(quoted_records(lines, delimiter) if quoted else raw_records(lines))
    records = [record for record in found if not record.fault]
    for record in found:
        if record.fault:
            findings.problem(source, record.fault, record.first)
    faulty = len(records) < len(found)
    while records and not records[-1].content:
        records.pop()  # blank lines at the end
    if not records:
        return None  # nothing but faults: a file of blank lines does not come here
    if len(records) == 1 and not faulty:
        findings.problem(source, ONLY_HEADER)
    header, *rows = records
    return from_records(source, header.content, rows, findings, quoted)


def from_records(
    source: str,
    header: Sequence[str],
    records: Sequence[Record],
    findings: Findings,
    quoted: bool,
) -> Table:
    """Well-formed records as a table; those without a field for each column are problems."""
    header = [name.strip() for name in header]
    for name, count in Counter(filter(None, header)).items():
        if count > 1:
            findings.problem(source, f"the column {name!r} appears {count} times in the header", 1)
    marked = not quoted and any(map(marks, records))
    hint = " (quote marks were read as text, see --data.quoting)" if marked else ""
    rows: list[list[str]] = []
    lines: list[int] = []
    for record in records:
        if len(fields := record.content) == len(header):
            rows.append(fields)
            lines.append(record.first)
        elif not fields:
            findings.problem(source, f"a blank line, wanted {len(header)} fields", record.first)
        else:
            amount = "too few" if len(fields) < len(header) else "too many"
            findings.problem(
                source, f"{amount} fields: {len(fields)}, wanted {len(header)}{hint}", record.first
            )

    def values(column: int) -> list[str]:
        return [row[column] for row in rows]

    columns = {name: partial(values, column) for column, name in enumerate(header)}
    return Table(source, findings, columns, lines)


def raw_records(lines: Iterable[str]) -> Iterator[Record]:
    """TSV in which every line is a row and a quote mark is text."""
    for number, line in enumerate(without_returns(lines), 1):
        yield Record(number, number, line.split("\t") if line else [])


NEVER_CLOSED = "never closed"


def quoted_records(lines: Iterable[str], delimiter: str) -> Iterator[Record]:
    """Strict CSV. Of a record that is not well formed only the first line is given up."""
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
        if "unexpected end" in fault:
            within = f"not closed within {LONGEST_RECORD:,} lines"
            cut = len(taken) == LONGEST_RECORD
            fault = f"a quote mark is {within if cut else NEVER_CLOSED}"
        if fault:
            last, fault = first, f"not well quoted: {fault}"
            again.extendleft(reversed(taken[1:]))
            reader = csv.reader(following(), delimiter=delimiter, strict=True)
        taken.clear()
        yield Record(first, last, fields, fault)


def judge_quoting(source: str, lines: Sequence[str], whole: bool = True) -> tuple[bool, str]:
    """Whether the quote marks of a TSV file delimit fields, and a note if there are any.

    Args:
        source: What the user calls it.
        lines: All lines of the file, or the first ones.
        whole: Whether they are all.
    """
    raw = list(raw_records(lines))
    if not any(map(marks, raw)):
        return False, ""
    quoted = list(quoted_records(lines, "\t"))
    if not whole:  # a field that is open where the lines were cut off says nothing
        late = len(lines) - len(lines) // 10
        cut = [one.first for one in quoted if NEVER_CLOSED in one.fault and one.first > late]
        end = min(cut, default=len(lines) + 1)
        raw = [record for record in raw if record.first < end]
        quoted = [record for record in quoted if record.first < end]
    count = sum(map(marks, raw))
    if not count:
        return False, ""
    as_quoted = _looks_quoted(raw, quoted)
    where = "" if whole else f" of the first {len(lines):,} lines"
    return as_quoted, quoting_note(source, f"{count} fields{where}", as_quoted)


def quoting_note(source: str, fields: str, as_quoted: bool) -> str:
    """How a TSV file was read in which some fields begin with a quote mark."""
    how = "as quoted (raw" if as_quoted else "raw, as part of the text (quoted"
    return f"{source}: {fields} begin with a quote mark; read {how} is chosen with --data.quoting)"


def marks(record: Record) -> int:
    """How many fields of a raw record begin with a quote mark."""
    return sum(field.startswith('"') for field in record.content)


def _looks_quoted(raw: Sequence[Record], quoted: Sequence[Record]) -> bool:
    """Whether the quote marks of a TSV file delimit fields, or are text, as in GLUE.

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


# -- JSON lines, rows in memory, Parquet -----------------------------------------------------------


JSON_ARRAY = "found a JSON array, wanted one JSON object per line"


def _json_lines(source: str, lines: list[str], findings: Findings) -> Table | None:
    if lines[0].lstrip().startswith("["):
        findings.problem(source, JSON_ARRAY, 1)
        return None
    rows: list[Any] = []
    numbers: list[int] = []
    for record in json_records(lines):
        if record.fault:
            findings.problem(source, record.fault, record.first)
        else:
            rows.append(record.content)
            numbers.append(record.first)
    return from_rows(source, rows, numbers, True, findings)


def json_records(lines: Iterable[str]) -> Iterator[Record]:
    """One JSON value per line; blank lines are passed over."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield Record(number, number, json.loads(line, object_pairs_hook=_unique))
        except json.JSONDecodeError as error:
            told = f"not JSON: {error.msg} at column {error.colno}"
            yield Record(number, number, None, told)
        except (ValueError, RecursionError) as error:
            yield Record(number, number, None, f"not usable JSON: {error}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the column {twice!r} appears more than once")
    return unique


def from_rows(
    source: str,
    rows: Sequence[Any],
    numbers: Sequence[int],
    has_lines: bool,
    findings: Findings,
    columns: Iterable[str] | None = None,
) -> Table | None:
    """Rows as a table, of these columns or of all that a row has; None if there is no column."""
    if not rows and not has_lines:
        findings.problem(source, NO_ROWS)
    good: list[Mapping[str, Any]] = []
    good_numbers: list[int] = []
    for number, row in zip(numbers, rows, strict=True):
        if isinstance(row, Mapping):
            good.append(row)
            good_numbers.append(number)
        else:
            message = f"found a {type(row).__name__}, wanted one object per row"
            findings.problem(source, message, number, ":" if has_lines else ": row ")
    names = columns or dict.fromkeys(name for row in good for name in row)
    if not names:
        if good:
            findings.problem(source, "its rows have no columns")
        return None

    def values(column: str) -> list[Any]:
        return [row.get(column) for row in good]

    made = {name: partial(values, name) for name in names}
    return Table(source, findings, made, good_numbers, has_lines)


def _parquet(source: str, data: bytes, findings: Findings) -> Table | None:
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        table.validate(full=True)
        metadata = table.schema.metadata or {}
        features = (
            datasets.Features.from_arrow_schema(table.schema) if b"huggingface" in metadata else {}
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        findings.problem(source, f"{NOT_PARQUET}: {error}")
        return None
    return from_arrow(source, table, features, findings)


NOT_PARQUET = "not readable as Parquet"


def from_arrow(
    source: str, table: pa.Table, features: Mapping[str, Any], findings: Findings
) -> Table | None:
    """A table of Arrow; None, and a problem, where columns share a name or there are no rows."""
    if not each_once(source, table.column_names, findings):
        return None
    if not table.num_rows:
        findings.problem(source, NO_ROWS)
        return None
    classes = {  # a ClassLabel that was given only a number of classes calls them "0", "1", …
        column: feature.names
        for column, feature in features.items()
        if isinstance(feature, datasets.ClassLabel)
        and feature.names != [str(index) for index in range(len(feature.names))]
    }
    columns = {
        name: column.to_pylist
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return Table(source, findings, columns, range(1, table.num_rows + 1), False, classes)


def each_once(source: str, names: Iterable[str], findings: Findings) -> bool:
    """Whether no two columns of an Arrow table share a name; if they do, it is a problem."""
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        findings.problem(source, f"the column {listed(twice)} appears more than once")
    return not twice


# -- words of messages -----------------------------------------------------------------------------


def is_integer(name: str) -> bool:
    """Whether a class has a number in place of a name."""
    return re.fullmatch(r"-?[0-9]+", name) is not None


def short(value: Any) -> str:
    """A value as Python writes it, cut after 60 characters."""
    told = repr(value)
    return told if len(told) <= 60 else told[:57] + "…" + told[0]


def joined(items: Iterable[str], shown: int = 12) -> str:
    """Items with commas between, and how many more there are than are shown."""
    told = list(items)
    more = f" and {len(told) - shown} more" if len(told) > shown else ""
    return ", ".join(told[:shown]) + more


def listed(names: Iterable[str]) -> str:
    """Names in quotes, with commas between."""
    return joined(map(short, names))
