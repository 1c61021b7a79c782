"""Every source becomes tables, which know the file and the line of each row.

A source is a file (TSV, CSV, JSON lines, Parquet, plain text), a folder of them, a saved data set,
a data set of the hub, standard input, or rows in memory. Values are taken as they are: which
columns are texts and which labels make sense is decided in `data.py`.
"""

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

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


class Findings:
    """Problems, told together (files in the order met, rows in ascending order), and notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._problems: dict[str, list[tuple[int, str]]] = {}

    def problem(self, source: str, message: str, row: int = 0, counted: str = ":") -> None:
        """Of a whole source (row 0), of a line (counted `:`) or of a row (counted `: row `)."""
        place = f"{source}{counted}{row}" if row else source
        self._problems.setdefault(source, []).append((row, f"{place}: {message}"))

    def raise_problems(self) -> None:
        """Raise one DataError if there are any."""
        if self._problems:
            self.stop()

    def stop(self) -> NoReturn:
        """Raise them where it is known that there are some, which make going on impossible."""
        by_row = (sorted(found, key=lambda item: item[0]) for found in self._problems.values())
        raise DataError([message for found in by_row for _, message in found])


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


def read_one(
    source: str | Path | BinaryIO, format: str | None, quoting: Quoting, findings: Findings
) -> Table | None:
    """Read one file, or an open binary stream, whose format is by default found from its start."""
    if isinstance(source, str | Path):
        return _read_file(Path(source), quoting, findings, format)
    data = source.read()
    return _parse("standard input", data, format or _sniff(data), quoting, findings)


def tables_of(splits: Mapping[str, Any], source: str, findings: Findings) -> Tables:
    """Turn data sets, or rows as dictionaries, by split into tables."""
    tables: Tables = {}
    stems = {str(name): str(name).lower() for name in splits}
    for split, name in _pick_splits(stems, source, findings).items():
        rows, place = splits[name], f"{source}[{name}]"
        if isinstance(rows, datasets.Dataset):
            table = rows.with_format("arrow")[:]
            tables[split] = _from_arrow(place, table, rows.features, findings)
        else:
            tables[split] = _from_rows(place, rows, range(1, len(rows) + 1), False, findings)
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


def _read_file(
    file: Path, quoting: Quoting, findings: Findings, format: str | None = None
) -> Table | None:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        findings.problem(str(file), "no such file")
        return None
    except OSError as error:
        findings.problem(str(file), f"cannot be read: {error.strerror or error}")
        return None
    return _parse(str(file), data, format or file.suffix[1:].lower(), quoting, findings)


def _sniff(data: bytes) -> str:
    """The format of a stream: `jsonl` if the first line is a JSON object, else `txt`."""
    try:
        first = json.loads(data.removeprefix(codecs.BOM_UTF8).partition(b"\n")[0])
    except (ValueError, RecursionError):
        return "txt"
    return "jsonl" if isinstance(first, dict) else "txt"


def _parse(
    source: str, data: bytes, format: str, quoting: Quoting, findings: Findings
) -> Table | None:
    """The bytes of one file as a table; None, and a problem, where there is not a single row."""
    if format not in FORMATS:
        findings.problem(
            source, f"unknown format {format!r}; wanted {', '.join(FORMATS)} (as the file's ending)"
        )
        return None
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        findings.problem(source, "the file is empty")
        return None
    if format == "parquet":
        return _parquet(source, data, findings)
    lines = _decode(source, data, findings)
    if not lines:
        return None
    if format == "txt":
        texts = _without_returns(lines)
        columns: dict[str, Callable[[], list[Any]]] = {"text": partial(list, texts)}
        return Table(source, findings, columns, range(1, len(texts) + 1), plain=True)
    if format in ("jsonl", "json"):
        return _json_lines(source, lines, findings)
    return _delimited(source, lines, "," if format == "csv" else "\t", quoting, findings)


def _decode(source: str, data: bytes, findings: Findings) -> list[str]:
    """Lines without their newline; never `splitlines`, which also splits at rare characters."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        findings.problem(source, "found UTF-16, wanted UTF-8; save it as UTF-8")
        return []
    lines: list[str] = []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        try:
            lines.append(line.decode())
        except UnicodeDecodeError as error:
            findings.problem(
                source,
                f"invalid UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1}); "
                "save the file as UTF-8",
                number,
            )
            lines.append(line.decode(errors="replace"))  # so that the rest is checked as well
    return lines[:-1] if lines[-1] == "" else lines


def _without_returns(lines: list[str]) -> list[str]:
    """Drop the carriage returns of Windows' line ends, if the first line has one."""
    return [line.removesuffix("\r") for line in lines] if lines[0].endswith("\r") else lines


# -- TSV and CSV -----------------------------------------------------------------------------------

Records = list[tuple[int, list[str]]]
"""The line number (of the first line) and the fields of each record; a blank line has no fields."""


def _delimited(
    source: str, lines: list[str], delimiter: str, quoting: Quoting, findings: Findings
) -> Table | None:
    faults: list[tuple[int, str]] = []
    marks = 0  # fields that begin with a quote mark which is text
    if delimiter == "," or quoting == "quoted":
        records, faults = _quoted_records(lines, delimiter)
    else:
        records = [
            (number, line.split("\t") if line else [])
            for number, line in enumerate(_without_returns(lines), 1)
        ]
        marks = sum(value.startswith('"') for _, record in records for value in record)
    if marks and quoting == "auto":
        quoted, quoted_faults = _quoted_records(lines, delimiter)
        as_quoted = _looks_quoted(records, quoted, quoted_faults)
        findings.notes.append(
            f"{source}: {marks} fields begin with a quote mark; read "
            + ("as quoted (raw" if as_quoted else "raw, as part of the text (quoted")
            + " is chosen with --data.quoting)"
        )
        if as_quoted:
            records, faults, marks = quoted, quoted_faults, 0
    for number, message in faults:
        findings.problem(source, f"not well quoted: {message}", number)
    while records and not records[-1][1]:
        records.pop()  # blank lines at the end
    if not records:
        return None  # nothing but faults: a file of blank lines does not come here
    if len(records) == 1 and not faults:
        findings.problem(source, "there is only a header, no rows")
    hint = " (quote marks were read as text, see --data.quoting)" if marks else ""
    return _from_records(source, records, hint, findings)


def _from_records(source: str, records: Records, hint: str, findings: Findings) -> Table:
    header = [name.strip() for name in records[0][1]]
    for name, count in Counter(filter(None, header)).items():
        if count > 1:
            findings.problem(source, f"the column {name!r} appears {count} times in the header", 1)
    rows: list[list[str]] = []
    lines: list[int] = []
    for number, record in records[1:]:
        if len(record) == len(header):
            rows.append(record)
            lines.append(number)
        elif not record:
            findings.problem(source, f"a blank line, wanted {len(header)} fields", number)
        else:
            amount = "too few" if len(record) < len(header) else "too many"
            findings.problem(
                source, f"{amount} fields: {len(record)}, wanted {len(header)}{hint}", number
            )

    def values(column: int) -> list[str]:
        return [row[column] for row in rows]

    columns = {name: partial(values, column) for column, name in enumerate(header)}
    return Table(source, findings, columns, lines)


def _quoted_records(lines: list[str], delimiter: str) -> tuple[Records, list[tuple[int, str]]]:
    """Strict CSV; records that are not well formed are told with the line on which they begin."""
    records: Records = []
    faults: list[tuple[int, str]] = []
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(2**31 - 1)  # the default refuses texts of 128 KiB
    try:
        while True:
            number = reader.line_num + 1
            try:
                records.append((number, next(reader)))
            except StopIteration:
                return records, faults
            except csv.Error as error:
                end = "unexpected end" in str(error)
                faults.append((number, "a quote mark is never closed" if end else str(error)))
    finally:
        csv.field_size_limit(limit)


def _looks_quoted(raw: Records, quoted: Records, faults: Sequence[object]) -> bool:
    """Whether the quote marks of a TSV file delimit fields, or are text, as in GLUE.

    If only one of the two readings gives every row the fields of the header, it is that one.
    Otherwise all fields that begin with a quote mark must be whole quoted fields, as some writer
    makes them: for every row of a column, or only where there is a quote mark inside to be doubled.
    """
    raw_fits = len({len(record) for _, record in raw if record}) == 1
    quoted_fits = not faults and len({len(record) for _, record in quoted if record}) == 1
    if raw_fits != quoted_fits:
        return quoted_fits
    rows = [record for _, record in raw[1:] if record] or [raw[0][1]]
    always = {
        column
        for column in range(len(raw[0][1]))
        if all(len(row) > column and row[column].startswith('"') for row in rows)
    }
    return all(
        re.fullmatch(r'"(?:[^"]|"")*"', value) and (column in always or '""' in value[1:-1])
        for row in rows
        for column, value in enumerate(row)
        if value.startswith('"')
    )


# -- JSON lines, rows in memory, Parquet -----------------------------------------------------------


def _json_lines(source: str, lines: list[str], findings: Findings) -> Table | None:
    if lines[0].lstrip().startswith("["):
        findings.problem(source, "found a JSON array, wanted one JSON object per line", 1)
        return None
    rows: list[Any] = []
    numbers: list[int] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line, object_pairs_hook=_unique))
            numbers.append(number)
        except json.JSONDecodeError as error:
            findings.problem(source, f"not JSON: {error.msg} at column {error.colno}", number)
        except (ValueError, RecursionError) as error:
            findings.problem(source, f"not usable JSON: {error}", number)
    return _from_rows(source, rows, numbers, True, findings)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the column {twice!r} appears more than once")
    return unique


def _from_rows(
    source: str, rows: Sequence[Any], numbers: Sequence[int], has_lines: bool, findings: Findings
) -> Table | None:
    if not rows and not has_lines:
        findings.problem(source, "there are no rows")
    good: list[Mapping[str, Any]] = []
    good_numbers: list[int] = []
    for number, row in zip(numbers, rows, strict=True):
        if isinstance(row, Mapping):
            good.append(row)
            good_numbers.append(number)
        else:
            message = f"found a {type(row).__name__}, wanted one object per row"
            findings.problem(source, message, number, ":" if has_lines else ": row ")
    names = dict.fromkeys(name for row in good for name in row)
    if not names:
        if good:
            findings.problem(source, "its rows have no columns")
        return None

    def values(column: str) -> list[Any]:
        return [row.get(column) for row in good]

    columns = {name: partial(values, name) for name in names}
    return Table(source, findings, columns, good_numbers, has_lines)


def _parquet(source: str, data: bytes, findings: Findings) -> Table | None:
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        table.validate(full=True)
        metadata = table.schema.metadata or {}
        features = (
            datasets.Features.from_arrow_schema(table.schema) if b"huggingface" in metadata else {}
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        findings.problem(source, f"not readable as Parquet: {error}")
        return None
    return _from_arrow(source, table, features, findings)


def _from_arrow(
    source: str, table: pa.Table, features: Mapping[str, Any], findings: Findings
) -> Table | None:
    if twice := [name for name, n in Counter(table.column_names).items() if n > 1]:
        findings.problem(source, f"the column {listed(twice)} appears more than once")
        return None
    if not table.num_rows:
        findings.problem(source, "there are no rows")
        return None
    classes = {  # a ClassLabel that was given only a number of classes calls them "0", "1", …
        column: feature.names
        for column, feature in features.items()
        if isinstance(feature, datasets.ClassLabel) and not all(map(is_integer, feature.names))
    }
    columns = {
        name: column.to_pylist
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return Table(source, findings, columns, range(1, table.num_rows + 1), False, classes)


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
