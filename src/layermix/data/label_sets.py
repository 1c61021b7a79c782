"""Reads several labels per row: lists, text such as `a;b`, or a column of 0 and 1 for each label.

All become one row of 0 and 1, in the order of the names.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layermix.data.classes import NO_LABEL
from layermix.data.labels import (
    LabelNames,
    is_missing,
    label_text,
    list_in,
    match_labels,
    source_names,
    unpacked,
)
from layermix.data.tables import Table, is_integer, joined, listed, short
from layermix.errors import Note
from layermix.evaluation.metrics import UNLABELLED
from layermix.problems.multi_label import SEPARATOR

SEPARATORS = (";", "|", "#", ",")
"""What separates labels in one cell: the first of these that occurs in the training rows."""

Sets = list[list[int]]
"""For each row 0 or 1 for each label; `UNLABELLED` throughout where a row has none."""

_ONES = {"1": 1, "0": 0, "true": 1, "false": 0}


@dataclass(frozen=True)
class SetColumns:
    """Where several labels of a row stand, and how they are called.

    Attributes:
        column: The one column with all labels of a row, if it is one.
        each: Or the columns of 0 and 1.
        separator: Between the labels in a cell of text; found if None.
        given: The user's names of the labels, in their order.
        others: Names of the model that is scored on the data, or of probabilities beside the
            labels: they win over those that occur.
        may_lack: Splits whose rows may have no labels on record.
        is_scored: Whether a model is scored on the data, so that rows may be alike.
    """

    column: str | None
    each: Sequence[str] = ()
    separator: str | None = None
    given: LabelNames | None = None
    others: Sequence[str] = ()
    may_lack: Sequence[str] = ()
    is_scored: bool = False


def read_label_sets(
    tables: Mapping[str, Table], without: Sequence[str], where: SetColumns
) -> tuple[tuple[str, ...], dict[str, Sets]] | None:
    """Returns the names of the labels, and each split's labels; None, and problems, if unclear.

    Args:
        tables: Split -> its rows.
        without: Splits that have no labels, and need none.
        where: Where labels stand, and how they are called.
    """
    labelled = {split: table for split, table in tables.items() if split not in without}
    if where.each:
        names, sets = _of_all_columns(labelled, where)
    elif (found := _of_one_column(labelled, where)) is not None:
        names, sets = found
    else:
        return None
    if any(SEPARATOR in name for name in names):
        text = (
            f"a label contains {SEPARATOR!r}, which `layermix predict` writes between labels; read "
            "its columns with the probabilities instead"
        )
        tables["train"].diagnostics.notes.append(Note("label-with-separator", text))
    if "train" in sets and not where.is_scored:
        _check_different(tables["train"], sets["train"], names)
    return names, sets | _without(tables, without, len(names))


def _of_all_columns(
    tables: Mapping[str, Table], where: SetColumns
) -> tuple[tuple[str, ...], dict[str, Sets]]:
    """Returns names and labels from a column for each label."""
    names, train = tuple(where.each), tables["train"]
    if where.given is not None:
        train.add_problem(
            "--data.label_names and --data.label_columns contradict each other: the columns are "
            "the names; give one of them"
        )
    same = sorted(names) == sorted(where.others)
    ordered = tuple(where.others) if same else names
    order = [names.index(name) for name in ordered]
    rows = {
        split: _of_columns(table, names, may_hide=split == "test")
        for split, table in tables.items()
    }
    return ordered, {split: [[row[at] for at in order] for row in rows[split]] for split in rows}


def _of_one_column(
    tables: Mapping[str, Table], where: SetColumns
) -> tuple[tuple[str, ...], dict[str, Sets]] | None:
    """Returns names and labels from the column that has all of them; None, and a problem."""
    column = where.column
    assert column is not None
    first = next(iter(tables.values()))
    if column not in first.columns:
        first.add_problem(f"no column {column!r}; {first.column_names()}{first.hint}")
        return None
    if (count := _multi_hot(first, column)) is not None:
        return _of_multi_hot(tables, column, count, where)
    cut = where.separator or _separator(first, column)
    texts = {
        split: _texts(table, column, cut, where.given, optional=split in where.may_lack)
        for split, table in tables.items()
    }
    of_first = next(iter(texts.values()))
    found = dict.fromkeys(label for labels in of_first for label in labels or ())
    if not found and not (where.may_lack and where.others):
        first.add_problem(
            f"no row has a label in the column {column!r}; wanted lists, or labels with "
            f"{cut!r} between them"
        )
        return None
    names = _names(first, column, list(found), where)
    sets = {
        split: _indices(tables[split], column, labels, names, split)
        for split, labels in texts.items()
    }
    _notes(first, column, cut, of_first, names)
    return names, sets


def _multi_hot(table: Table, column: str) -> int | None:
    """Returns how many labels there are if each list says 0 or 1 for each of them, else None."""
    cells = map(unpacked, table.columns[column]())
    rows = [row for row in cells if not is_missing(row)]
    if not rows or not all(isinstance(row, list | tuple) for row in rows):
        return None
    count = Counter(map(len, rows)).most_common(1)[0][0]
    values = {repr(item) for row in rows for item in row}
    # As no list of different labels has.
    repeats = any(len(set(map(repr, row))) < len(row) for row in rows)
    return count if count > 1 and repeats and values <= HOT else None


HOT = {"0", "1", "0.0", "1.0", "True", "False"}
"""What lists with an entry for each label hold, as Python writes it."""


def _of_multi_hot(
    tables: Mapping[str, Table], column: str, count: int, where: SetColumns
) -> tuple[tuple[str, ...], dict[str, Sets]]:
    """Returns names and labels from lists of 0 and 1 for each label."""
    train = next(iter(tables.values()))
    known = (where.given.names if where.given else (), where.others, source_names(train, column))
    numbers = tuple(str(index) for index in range(count))
    names = next((tuple(one) for one in known if len(one) == count), numbers)
    text = f"{train.source}: the lists in {column!r} say 0 or 1 for each of {listed(names)}"
    train.diagnostics.notes.append(Note("lists-of-0-and-1", text))
    sets: dict[str, Sets] = {}
    for split, table in tables.items():
        sets[split] = []
        for number, value in enumerate(table.columns[column]()):
            row = unpacked(value)
            is_list = isinstance(row, list | tuple) and len(row) == count
            if not is_list or not {repr(item) for item in row} <= HOT:
                table.add_problem(
                    f"found {short(value)}, wanted a list of {count} times 0 or 1, as in the first "
                    f"row (column {column!r})",
                    number,
                )
            sets[split].append([int(item) for item in row] if is_list else [0] * count)
    return names, sets


def _check_different(train: Table, rows: Sets, names: Sequence[str]) -> None:
    """Adds a problem if all training rows have the same labels."""
    known = {tuple(row) for row in rows if UNLABELLED not in row}
    if len(known) == 1 and len(rows) > 1:
        same = listed(name for name, has in zip(names, rows[0], strict=True) if has) or "none"
        train.add_problem(f"all rows have the same labels, {same}; wanted rows with different ones")


def _without(tables: Mapping[str, Table], splits: Sequence[str], outputs: int) -> dict[str, Sets]:
    return {split: [[UNLABELLED] * outputs] * len(tables[split].numbers) for split in splits}


def _of_columns(table: Table, names: Sequence[str], *, may_hide: bool) -> Sets:
    """Returns the rows of columns of 0 and 1; anything else is a problem.

    Where labels may be hidden, as in test splits, a row of −1 has none.
    """
    if missing := [name for name in names if name not in table.columns]:
        table.add_problem(f"no column {listed(missing)}; {table.column_names()}{table.hint}")
        return []
    rows: Sets = []
    for number, values in enumerate(zip(*(table.columns[name]() for name in names), strict=True)):
        if may_hide and all(_plain(value) == NO_LABEL for value in values):
            rows.append([UNLABELLED] * len(names))
            continue
        row = []
        for name, value in zip(names, values, strict=True):
            one = None if is_missing(value) else _ONES.get(_plain(value))
            if one is None:
                found = "nothing" if is_missing(value) else short(value)
                table.add_problem(
                    f"found {found} as the label {name!r}, wanted 0 or 1 (column {name!r})", number
                )
            row.append(one or 0)
        rows.append(row)
    return rows


def _plain(value: Any) -> str:
    """Returns a value as text: 1, 1.0 and True as they are told apart from nothing else."""
    try:
        return label_text(value).casefold()
    except ValueError:
        return repr(value)


def _separator(train: Table, column: str) -> str:
    cells = (value for value in train.columns[column]() if isinstance(value, str))
    texts = [cell for cell in cells if not cell.strip().startswith("[")]
    found = (one for one in SEPARATORS if any(one in text for text in texts))
    return next(found, SEPARATORS[0])


def _texts(
    table: Table, column: str, separator: str, given: LabelNames | None, *, optional: bool
) -> list[list[str] | None]:
    """Returns the labels of each row as text; None (and a problem) where a cell says nothing."""
    if column not in table.columns:
        table.add_problem(f"no column {column!r}; {table.column_names()}{table.hint}")
        return []
    names = source_names(table, column)
    rows: list[list[str] | None] = []
    for number, value in enumerate(table.columns[column]()):
        if optional and is_missing(value):
            rows.append(None)
            continue
        try:
            rows.append(_labels(value, separator, names, given))
        except ValueError as error:
            table.add_problem(f"{error} (column {column!r})", number)
            rows.append(None)
    return rows


def _labels(
    value: Any, separator: str, names: Sequence[str], given: LabelNames | None
) -> list[str]:
    """Returns the labels in one cell.

    Raises:
        ValueError: If the cell holds something else, or one label twice.
    """
    if isinstance(value, str) and value.strip().startswith("["):
        value = list_in(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str):
        items: Sequence[Any] = [part for part in value.split(separator) if part.strip()]
    elif isinstance(value, list | tuple | set):
        items = list(value)
    elif value is None or value != value:
        raise ValueError("the labels are missing; a row that has none of them has an empty list")
    elif isinstance(value, dict):
        raise ValueError("found an object, wanted a list of labels")
    else:
        items = [value]
    labels, own_names = list[str](), list[str]()
    for item in items:
        is_named = isinstance(item, int) and not isinstance(item, bool) and 0 <= item < len(names)
        text = label_text(item)
        own = names[item] if is_named else text
        own_names.append(own)
        renamed = {} if given is None else given.renamed
        labels.append(renamed.get(text) or renamed.get(own) or own)
    if twice := [label for label, count in Counter(own_names).items() if count > 1]:
        raise ValueError(f"the label {listed(twice)} stands twice in one row")
    return list(dict.fromkeys(labels))


def _names(train: Table, column: str, found: Sequence[str], where: SetColumns) -> tuple[str, ...]:
    """Returns the names of the labels: given, the others', the source's, or those that occur."""
    if where.given is not None:
        return where.given.names
    if where.others and (where.may_lack or match_labels(found, where.others).index):
        return tuple(where.others)
    if source := source_names(train, column):
        return source
    return tuple(sorted(found, key=int) if all(map(is_integer, found)) else sorted(found))


def _indices(
    table: Table,
    column: str,
    rows: Sequence[Sequence[str] | None],
    names: Sequence[str],
    split: str,
) -> Sets:
    """Returns 0 and 1 for each row; an unknown label is a problem."""
    different = dict.fromkeys(label for labels in rows for label in labels or ())
    match = match_labels(different, names)
    if match.note:
        table.diagnostics.notes.append(Note("labels-matched", f"{split}: {match.note}"))
    sets: Sets = []
    for number, labels in enumerate(rows):
        row = [0 if labels is not None else UNLABELLED] * len(names)
        for label in labels or ():
            if label in match.index:
                row[match.index[label]] = 1
            else:
                mark = next((one for one in SEPARATORS if one in label), None)
                hint = (
                    f"; if {mark!r} separates labels, give --data.label_separator" if mark else ""
                )
                table.add_problem(
                    f"unknown label {short(label)}; the labels are {listed(names)} (column "
                    f"{column!r}){hint}",
                    number,
                )
        sets.append(row)
    return sets


def _notes(
    train: Table,
    column: str,
    separator: str,
    rows: Sequence[Sequence[str] | None],
    names: Sequence[str],
) -> None:
    """Adds notes on how cells were cut, and on rows with none of the labels."""
    cells = (value for value in train.columns[column]() if isinstance(value, str))
    if any(separator in cell and not cell.strip().startswith("[") for cell in cells):
        text = (
            f"{train.source}: the labels in {column!r} are separated by {separator!r} "
            "(--data.label_separator)"
        )
        train.diagnostics.notes.append(Note("labels-separated", text))
    inner = {one: sum(one in name for name in names) for one in SEPARATORS}
    if doubtful := [one for one, count in inner.items() if count > len(names) / 2]:
        text = (
            f"{train.source}: most labels contain {doubtful[0]!r}; if it separates labels, give "
            f"--data.label_separator {doubtful[0]!r}"
        )
        train.diagnostics.notes.append(Note("labels-contain-separator", text))
    if none := sum(not labels for labels in rows if labels is not None):
        text = f"{train.source}: {none} of {len(rows)} rows have none of the {len(names)} labels"
        train.diagnostics.notes.append(Note("rows-with-no-label-of-several", text))


def describe_label_sets(names: Sequence[str], labels: Sequence[Sequence[int]]) -> str:
    """Returns how many rows each label has, and how many labels a row, in words."""
    rows = [row for row in labels if UNLABELLED not in row]
    counts = [sum(row[place] for row in rows) for place in range(len(names))]
    each = joined(f"{name} ({count} rows)" for name, count in zip(names, counts, strict=True))
    return f"{each}; {sum(counts) / max(1, len(rows)):.2f} labels per row"
