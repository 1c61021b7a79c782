"""Writes rows as JSON lines, CSV or TSV."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from layermix.atomic import check_out_file
from layermix.errors import ConfigError
from layermix.escaping import printable

ENDINGS = ("jsonl", "csv", "tsv")
"""File endings that rows are written as."""


def check_rows_file(out: str | Path, force: bool) -> str:
    """Returns the format that the name of a file asks for; checked before any work.

    Raises:
        ConfigError: If it has another ending, or its folder does not exist.
        RunExistsError: If it exists already, unless `force`.
    """
    path = Path(out)
    ending = path.suffix.removeprefix(".").lower()
    if ending not in ENDINGS:
        raise ConfigError(f"--out {out}: found the ending {ending!r}, wanted .jsonl, .csv or .tsv")
    check_out_file(path, force)
    return ending


def row_writer(stream: IO[str], ending: str, header: list[str]) -> Callable[[list[Any]], None]:
    """Writes the header, if the format has one; returns a function that writes one row.

    Args:
        stream: Opened with `newline=""`.
        ending: One of `ENDINGS`.
        header: The names of the columns.
    """
    if ending == "jsonl":
        return lambda values: print(
            printable(json.dumps(dict(zip(header, values, strict=True)), ensure_ascii=False)),
            file=stream,
        )
    style: Any = {"delimiter": "," if ending == "csv" else "\t", "lineterminator": "\n"}
    plain, careful = csv.writer(stream, **style), csv.writer(stream, quoting=csv.QUOTE_ALL, **style)

    def write(values: list[Any]) -> None:
        values = [_as_cell(value) for value in values]
        # A lone carriage return ends a line for readers, but Python before 3.13 does not quote it.
        (careful if any("\r" in str(value) for value in values) else plain).writerow(values)

    write(header)
    return write


def _as_cell(value: Any) -> Any:
    """A value as one cell holds it: lists as JSON text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
