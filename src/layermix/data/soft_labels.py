"""Reads soft labels: a probability for each class that comes with the data, in place of a teacher.

They stand in a column `p_CLASS` for each class, as `layermix predict` writes them, or in one column
`probabilities` with a list or an object in each row.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layermix.data.classes import Classes, refuse_other_task, refuse_unknown_task, task_note
from layermix.data.labels import LabelNames, is_missing, label_text, match_labels, source_names
from layermix.data.tables import Table, is_integer, listed, short
from layermix.data.tasks import TASKS
from layermix.errors import Note

PREFIX = "p_"
"""Before the name of a class, in the name of the column with its probability."""

LIST_COLUMN = "probabilities"
"""The column with the probabilities of all classes."""

SUM_ROUNDING = 0.02
"""How far the probabilities of a row may be from a sum of 1; they are scaled to 1."""


@dataclass(frozen=True)
class SoftColumns:
    """The columns of a table that hold soft labels.

    Attributes:
        columns: One for each class, or the one with all of them.
        names: Of the classes, in the order of the values; empty if lists do not name them.
        count: How many classes there are.
    """

    columns: tuple[str, ...]
    names: tuple[str, ...]
    count: int

    @classmethod
    def find(cls, table: Table) -> "SoftColumns | None":
        """Returns the columns with soft labels; None without any, or with a problem."""
        if table.plain:
            return None
        prefixed = probability_columns(table)
        if LIST_COLUMN not in table.columns:
            return cls._of_columns(table, prefixed) if prefixed else None
        if prefixed:
            table.add_problem(
                f"probabilities stand twice, in {LIST_COLUMN!r} and in {listed(prefixed)}; keep "
                "one of the two"
            )
            return None
        values = (_unpacked(value) for value in table.columns[LIST_COLUMN]())
        first = next((value for value in values if value is not None), None)
        if not isinstance(first, Mapping | list | tuple) or len(first) < 2:
            table.add_problem(
                f"found {short(first)} in the column {LIST_COLUMN!r}, wanted a list or an object "
                "with a probability for each class, at least two"
            )
            return None
        names = _names(table, first) if isinstance(first, Mapping) else ()
        if isinstance(first, Mapping) and not names:
            return None
        return cls((LIST_COLUMN,), names, len(first))

    @classmethod
    def _of_columns(cls, table: Table, columns: tuple[str, ...]) -> "SoftColumns | None":
        names = _names(table, [column[len(PREFIX) :] for column in columns])
        if len(columns) == 1:
            table.add_problem(
                f"found one column with probabilities, {columns[0]!r}; wanted one for each class, "
                f"at least two (their names begin with {PREFIX})"
            )
            return None
        return cls(columns, names, len(names)) if names else None

    def is_missing_in(self, table: Table) -> bool:
        """Returns whether a table has none of these columns."""
        return not any(name in table.columns for name in self.columns)

    def described(self) -> str:
        """Returns the columns in words, at most four of them by name."""
        if len(self.columns) == 1:
            return f"the column {self.columns[0]}"
        if len(self.columns) > 4:
            return f"the columns {', '.join(self.columns[:3])}, … {self.columns[-1]}"
        return f"the columns {', '.join(self.columns)}"


def probability_columns(table: Table) -> tuple[str, ...]:
    """Returns the columns whose names begin as those of probabilities do."""
    return tuple(name for name in table.columns if name.lower().startswith(PREFIX))


def _names(table: Table, given: Iterable[Any]) -> tuple[str, ...]:
    """Returns the names of classes as labels are read; empty, and a problem, if two are equal."""
    try:
        names = tuple(map(label_text, given))
        if len(set(names)) < len(names):
            raise ValueError(f"two of the classes have one name: {listed(names)}")
    except ValueError as error:
        table.add_problem(f"{error} (the classes that have probabilities); give each its own name")
        return ()
    return names


def soft_classes(
    table: Table,
    soft: SoftColumns,
    labels: Sequence[str | None],
    *,
    column: str | None,
    given: LabelNames | None,
    task: str | None,
    guess: str,
) -> tuple[Classes, list[int]] | None:
    """Returns the classes, and for each of them the place of its probability in `soft`.

    Args:
        table: The training rows.
        soft: Their columns with soft labels.
        labels: Their labels as text; None where a row has none.
        column: The label column, if there is one.
        given: The user's names of the labels.
        task: The task, if the user named it.
        guess: What else may name a task.

    Returns:
        None, and a problem, if it is not known which classes the probabilities are of.
    """
    refuse_unknown_task(table, task)
    known = TASKS.get(task or guess.lower())
    of_task = (known.label_names if known else None) or ()
    present = dict.fromkeys(label for label in labels if label is not None)
    names = soft.names or _names_of_list(table, soft, present, column, given, of_task)
    if names is None:
        return None
    if given is not None and not set(names) <= set(given.names):
        names = tuple(given.renamed.get(name, name) for name in names)
    if len(set(names)) < len(names):
        table.add_problem(
            f"--data.label_names gives several probabilities to one class: {listed(names)}; add "
            "them up in the file, or give each class its own name"
        )
        return None
    if given is not None and set(given.names) != set(names):
        table.add_problem(
            f"--data.label_names has the classes {listed(given.names)}, but there are "
            f"probabilities of {listed(names)}; name the same classes"
        )
        return None
    ordered, order = names, list(range(len(names)))
    wanted = given.names if given is not None else of_task
    match = match_labels(names, wanted)
    if len(set(match.index.values())) == len(names) == len(wanted):
        place = {match.index[name]: index for index, name in enumerate(names)}
        ordered, order = tuple(wanted), [place[index] for index in range(len(names))]
    if of_task and task and set(ordered) != set(of_task):
        refuse_other_task(table, task, of_task, ordered)
    guessed = known.name if known and (not of_task or ordered == of_task) else None
    # Integers are no classes by their place: columns have no order that anybody has thought of.
    found = match_labels(present, ordered, by_index=False)
    index = dict(found.index)
    if found.note:
        table.diagnostics.notes.append(Note("labels-matched", found.note))
    if known and of_task == ordered and present and all(map(is_integer, found.unmatched)):
        index |= {one: int(one) for one in found.unmatched if 0 <= int(one) < len(ordered)}
        if found.unmatched:
            table.diagnostics.notes.append(task_note(known.name, of_task))
    return Classes(ordered, index, task or guessed), order


def _names_of_list(
    table: Table,
    soft: SoftColumns,
    present: Iterable[str],
    column: str | None,
    given: LabelNames | None,
    of_task: Sequence[str],
) -> tuple[str, ...] | None:
    """Returns the names of the classes of a list without names; None, and a problem, if unclear."""
    labels = list(present)
    source = source_names(table, column) if column is not None else ()
    by_value = sorted(labels, key=int) if all(map(is_integer, labels)) else sorted(labels)
    for names in (given.names if given else (), source, of_task, by_value):
        if len(names) == soft.count:
            if given is None:
                text = f"the lists in {LIST_COLUMN!r} are read in this order: {', '.join(names)}"
                table.diagnostics.notes.append(Note("order-of-lists", text))
            return tuple(names)
    table.add_problem(
        f"the lists in {LIST_COLUMN!r} have {soft.count} probabilities, and nothing says of which "
        "classes; name them in the order of the list, with --data.label_names A,B"
    )
    return None


def read_probabilities(
    table: Table,
    soft: SoftColumns,
    order: Sequence[int],
    certain: Sequence[tuple[float, ...] | None] = (),
    *,
    sums_to_1: bool = True,
) -> list[tuple[float, ...]]:
    """Returns the probabilities of each row in the order of the classes; bad ones are problems.

    Args:
        table: The rows.
        soft: The columns, as in the training rows.
        order: For each class the place of its probability.
        certain: If a row with a label may have no probabilities: what stands for them in each row.
        sums_to_1: Whether a row has one of the classes, so that its probabilities sum to 1.

    Returns:
        (N, C); zeros for a row with a problem.
    """
    if missing := [name for name in soft.columns if name not in table.columns]:
        table.add_problem(
            f"no column {listed(missing)}, which the training rows have; {table.column_names()}"
        )
        return []
    columns = [table.columns[name]() for name in soft.columns]
    if sums_to_1 and (fault := _fault_of_all(columns)):
        table.add_problem(fault)
        return []
    rows: list[tuple[float, ...]] = []
    for number, values in enumerate(zip(*columns, strict=True)):
        known = certain[number] if certain else None
        if known is not None and all(map(is_missing, values)):
            rows.append(known)
            continue
        try:
            in_row = values if len(soft.columns) > 1 else _one_list(values[0], soft)
            given = _checked(in_row, soft, sums_to_1)
        except ValueError as error:
            table.add_problem(str(error), number)
            given = (0.0,) * soft.count
        rows.append(tuple(given[place] for place in order))
    return rows


def _fault_of_all(columns: Sequence[Sequence[Any]]) -> str:
    """Returns what is wrong with nearly all rows in the same way, to say it once; empty if nothing.

    Args:
        columns: Of the classes; one column with lists or objects is not looked at.
    """
    if len(columns) < 2:
        return ""
    sums = []
    for values in zip(*columns, strict=True):
        try:
            sums.append(sum(map(float, values)))
        except (TypeError, ValueError):
            sums.append(math.nan)
    usual = 0.8 * len(sums)
    if sum(abs(total - 100) <= 100 * SUM_ROUNDING for total in sums) >= usual:
        return "the probabilities of the rows sum to 100, so they are percent; divide them by 100"
    off = [total for total in sums if 0 < total < 2 and abs(total - 1) > SUM_ROUNDING]
    if len(off) >= max(usual, 3):
        return (
            f"the probabilities of {len(off)} of {len(sums)} rows do not sum to 1 (but to "
            f"{min(off):.4g} up to {max(off):.4g}); divide those of each row by their sum"
        )
    return ""


def _one_list(value: Any, soft: SoftColumns) -> Sequence[Any]:
    """Returns the values in a cell of the list column.

    Raises:
        ValueError: If it holds something else, or not one for each class.
    """
    found = _unpacked(value)
    if found is None:
        raise ValueError(f"the probabilities are missing (column {LIST_COLUMN!r})")
    if isinstance(found, Mapping):
        by_name = {label_text(name): probability for name, probability in found.items()}
        if soft.names and by_name.keys() == set(soft.names):
            return [by_name[name] for name in soft.names]
        wanted = listed(soft.names) if soft.names else "a list, as in the first row"
        raise ValueError(
            f"found probabilities of {listed(by_name)}, wanted {wanted} (column {LIST_COLUMN!r})"
        )
    if soft.names or not isinstance(found, list | tuple) or len(found) != soft.count:
        wanted = f"an object with {listed(soft.names)}" if soft.names else f"{soft.count} numbers"
        raise ValueError(f"found {short(value)}, wanted {wanted} (column {LIST_COLUMN!r})")
    return found


def _unpacked(value: Any) -> Any:
    """Returns a list or an object, also from its JSON text; None for a missing one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value if value.strip() else None
    if hasattr(value, "tolist"):
        value = value.tolist()
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return None if missing else value


def _checked(values: Sequence[Any], soft: SoftColumns, sums_to_1: bool) -> tuple[float, ...]:
    """Returns probabilities as numbers, with the sum 1 where they are of one class.

    Raises:
        ValueError: If one is missing, is no number or not from 0 to 1, or the sum is not 1.
    """
    numbers = []
    for place, value in enumerate(values):
        column = soft.columns[place] if len(soft.columns) > 1 else soft.columns[0]
        if is_missing(value):
            raise ValueError(f"a probability is missing (column {column!r})")
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number <= 1:
            raise ValueError(
                f"found {short(value)} as a probability, wanted a number from 0 to 1 (column "
                f"{column!r})"
            )
        numbers.append(number)
    if not sums_to_1:
        return tuple(numbers)
    total = sum(numbers)
    if abs(total - 1) > SUM_ROUNDING:
        raise ValueError(
            f"the probabilities sum to {total:.4g}, wanted 1, since each row has one class "
            f"({soft.described()})"
        )
    return tuple(number / total for number in numbers)
