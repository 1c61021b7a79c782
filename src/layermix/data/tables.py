"""A split as it was read, with the line of each row, and the problems of reading it."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn

from layermix.errors import DataError, Note


class Diagnostics:
    """Problems and notes collected while data are read, so that all are reported together.

    Attributes:
        notes: Notes for the user.
    """

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self._problems: dict[str, list[tuple[int, str]]] = {}
        self._codes: set[str] = set()

    def add(
        self, source: str, message: str, number: int = 0, *, place: str = ":", code: str = ""
    ) -> None:
        """Adds a problem.

        Args:
            source: Its file, or data set and split.
            message: What was found, what was wanted, what to do.
            number: The line or row, counted from 1; 0 for the source as a whole.
            place: What stands before the number: `:` for a line, `: row ` for a row.
            code: Passed on in `DataError.codes`.
        """
        where = f"{source}{place}{number}" if number else source
        self._problems.setdefault(source, []).append((number, f"{where}: {message}"))
        if code:
            self._codes.add(code)

    def update(self, other: "Diagnostics") -> None:
        """Adds the problems and notes of another."""
        self.notes += other.notes
        self._codes |= other._codes
        for source, problems in other._problems.items():
            self._problems.setdefault(source, []).extend(problems)

    def of(self, source: str) -> list[tuple[int, str]]:
        """Returns the problems of a source with their lines or rows, in ascending order."""
        return sorted(self._problems.get(source, ()), key=lambda item: item[0])

    def raise_problems(self) -> None:
        """Raises one DataError if there are problems: sources in the order met, rows ascending."""
        if self._problems:
            self.stop()

    def stop(self) -> NoReturn:
        """Raises the DataError after a problem that makes going on impossible."""
        messages = [message for source in self._problems for _, message in self.of(source)]
        # Each once, though a file may be read twice.
        raise DataError(list(dict.fromkeys(messages)), codes=self._codes)

    def fail(self, source: str, message: str, number: int = 0) -> NoReturn:
        """Adds a problem and raises the DataError."""
        self.add(source, message, number)
        self.stop()


@dataclass(frozen=True)
class Table:
    """One split as it was read.

    Attributes:
        source: What the user calls it: a file, or a data set and its split.
        diagnostics: Where its problems go.
        columns: Column name -> function that makes its list of values, when it is needed.
        numbers: The line on which each row begins or, without lines, its place counted from 1.
        has_lines: Whether there are lines, and with them a header, except in plain text.
        classes: Names of the integers of a column, where the source itself gives them.
        plain: Whether it is one text per line, in the column `text`, without a header.
        parts: Of a split in several files, place counted from 1 -> file, and line or row in it.
        hint: The end of every message about a column that is missing or unclear.
    """

    source: str
    diagnostics: Diagnostics
    columns: Mapping[str, Callable[[], list[Any]]]
    numbers: Sequence[int]
    has_lines: bool = True
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    plain: bool = False
    parts: Callable[[int], tuple[str, int]] | None = None
    hint: str = ""

    def add_problem(self, message: str, row: int | None = None, *, code: str = "") -> None:
        """Adds a problem of a row (counted from 0), or of the header."""
        source, number = self.source, int(self.has_lines)
        if row is not None:
            source, number = self.source, self.numbers[row]
            if self.parts is not None:
                source, number = self.parts(number)
        place = ":" if self.has_lines else ": row "
        self.diagnostics.add(source, message, number, place=place, code=code)

    def column_names(self) -> str:
        """Returns the columns in words, for a message about one that is missing or unclear."""
        return f"the columns are {listed(self.columns)}"

    def select(self, rows: Sequence[int]) -> "Table":
        """Returns the table with only these rows, counted from 0."""

        def values(column: Callable[[], list[Any]]) -> list[Any]:
            every = column()
            return [every[row] for row in rows]

        columns = {name: partial(values, column) for name, column in self.columns.items()}
        return replace(self, columns=columns, numbers=[self.numbers[row] for row in rows])


NO_ROWS = "there are no rows"
NO_COLUMNS = "its rows have no columns"


def from_objects(
    source: str,
    rows: Sequence[Any],
    numbers: Sequence[int],
    diagnostics: Diagnostics,
    *,
    has_lines: bool,
    columns: Iterable[str] | None = None,
) -> Table:
    """Returns a table of rows that are mappings, with these columns or with all that occur."""
    good: list[Mapping[str, Any]] = []
    good_numbers: list[int] = []
    for number, row in zip(numbers, rows, strict=True):
        if isinstance(row, Mapping):
            good.append(row)
            good_numbers.append(number)
        else:
            message = f"found a {type(row).__name__}, wanted one object per row"
            place = ":" if has_lines else ": row "
            diagnostics.add(source, message, number, place=place)
    names = columns or dict.fromkeys(name for row in good for name in row)

    def values(column: str) -> list[Any]:
        return [row.get(column) for row in good]

    made = {name: partial(values, name) for name in names}
    return Table(source, diagnostics, made, good_numbers, has_lines)


def has_repeated_columns(source: str, names: Sequence[str], diagnostics: Diagnostics) -> bool:
    """Returns whether columns share a name, which is a problem."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        diagnostics.add(source, f"the column {listed(repeated)} appears more than once")
    return bool(repeated)


# -- words of messages -----------------------------------------------------------------------------


def is_integer(name: str) -> bool:
    """Returns whether a label is an integer as Python writes it; codes such as 007 are not."""
    return re.fullmatch(r"0|-?[1-9][0-9]{0,17}", name) is not None


def short(value: Any) -> str:
    """Returns a value as Python writes it, cut after 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[0]


def joined(items: Iterable[str], shown: int = 12) -> str:
    """Returns items with commas between, and how many more there are than are shown."""
    texts = list(items)
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + more


def listed(names: Iterable[str]) -> str:
    """Returns names in quotes, with commas between."""
    return joined(map(short, names))
