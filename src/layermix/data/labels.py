"""Labels become class indices: how they are read, which classes there are, which label is which.

A label is first read as text, the same whatever the format (`read_labels`). The training rows, or
the model that is scored, fix the classes (`find_classes`). Then the labels of every split are
matched to them (`class_indices`).
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from layermix.data.tables import Table, is_integer, joined, listed, short
from layermix.data.tasks import TASKS
from layermix.evaluation.metrics import UNLABELLED

_MANY = 50  # labels; where there are more, with fewer than two rows each, they are no classes


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        names: Class index -> name.
        index: Label as written in the data -> class index.
        task: The task, if named or found.
    """

    names: tuple[str, ...]
    index: Mapping[str, int]
    task: str | None


def lacks_labels(table: Table, column: str) -> bool:
    """Whether no row has a label: the column is missing or empty."""
    if table.plain or column not in table.columns:
        return not table.plain
    return all(value in (None, "") or value != value for value in table.columns[column]())


def read_labels(table: Table, column: str, *, by_number: bool) -> list[str | None]:
    """Labels as text; None, and a problem, where a row has none.

    Args:
        table: The rows.
        column: The label column.
        by_number: Whether an integer stays one, although the source names its classes.
    """
    if column not in table.columns:
        table.add_problem(f"no column {column!r}; {table.column_names()}")
        return []
    names = () if by_number else table.classes.get(column, ())
    labels: list[str | None] = []
    for row, value in enumerate(table.columns[column]()):
        if names and isinstance(value, int) and 0 <= value < len(names):
            labels.append(names[value])
            continue
        try:
            labels.append(_label_text(value))
        except ValueError as error:
            table.add_problem(f"{error} (column {column!r})", row)
            labels.append(None)
    return labels


def _label_text(value: Any) -> str:
    """A label as text, the same whatever the format: 1, 1.0, "1" and "1.0" are "1"."""
    if isinstance(value, str) and value.strip():
        integral = re.fullmatch(r"\s*([+-]?[0-9]{1,18})(?:\.0*)?\s*", value)
        return str(int(integral[1])) if integral else value.strip()
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real) and not math.isnan(number := float(value)):
        return str(int(number)) if number.is_integer() else str(number)
    if value is None or isinstance(value, str | Real):
        raise ValueError("the label is missing")
    raise ValueError(f"found a {type(value).__name__} as label, wanted one text or integer")


def find_classes(
    table: Table,
    labels: Sequence[str | None],
    *,
    column: str,
    label_names: Sequence[str] | None = None,
    model_classes: Sequence[str] = (),
    task: str | None,
    guess: str,
) -> Classes | None:
    """The classes of the training rows; None, and a problem, where the labels are no classes.

    Args:
        table: The training rows.
        labels: Their labels as text.
        column: The label column.
        label_names: Class names from the user; integer labels are indices into them.
        model_classes: Those of the model that is scored on the data; they win if they fit.
        task: The task, if the user named it.
        guess: What else may name a task.
    """
    present = Counter(label for label in labels if label is not None)
    if not present:
        return None
    return _classes_of_model(present, model_classes, task or guess) or _classes_of_data(
        table,
        labels,
        present,
        label_names or table.classes.get(column),
        label_names is not None,
        task,
        guess,
    )


def _classes_of_model(
    present: Mapping[str, int], names: Sequence[str], task: str
) -> Classes | None:
    """The classes of a model, if the labels are some of them or their indices."""
    if not names:
        return None
    index = {name: number for number, name in enumerate(names)}
    numbers = {str(number): number for number in range(len(names))}
    if not present.keys() <= index.keys():
        if present.keys() <= numbers.keys() and not all(map(is_integer, names)):
            index = numbers
        elif not present.keys() & index.keys():
            return None
    known = TASKS.get(task.lower())
    if known is None or set(names) != set(known.label_names or ()):
        return Classes(tuple(names), index, None)
    if index is numbers:  # the task says what they mean, whatever the model's order
        index = {str(n): names.index(name) for n, name in enumerate(known.label_names or ())}
    return Classes(tuple(names), index, known.name)


def _classes_of_data(
    table: Table,
    labels: Sequence[str | None],
    present: Mapping[str, int],
    given: Sequence[str] | None,
    by_number: bool,
    task: str | None,
    guess: str,
) -> Classes | None:
    """The classes of training rows; integers are indices into `given` if `by_number`."""
    if len(present) == 1:
        table.add_problem(f"all rows have the label {short(*present)}; wanted two classes or more")
    integers = all(map(is_integer, present))
    if not integers and all(map(_is_number, present)):
        row = next(i for i, label in enumerate(labels) if label and not is_integer(label))
        table.add_problem(
            f"the label {labels[row]} has decimals; wanted classes, as text or integers "
            "(regression is not supported yet)",
            row,
        )
        return None
    if not given and len(present) > max(_MANY, len(labels) / 2):
        table.add_problem(
            f"{len(present)} different labels in {len(labels)} rows; wanted classes, each with "
            "several rows; name another column with --data.label_column NAME"
        )
        return None
    if task is not None and task not in TASKS:
        table.add_problem(f"unknown task {task}; wanted one of {joined(TASKS)}, or no --data.task")
    known = TASKS.get(task or guess.lower())
    task_names = (known.label_names if known else None) or ()
    numbers = {str(index) for index in range(len(task_names))}
    if given:
        names = tuple(given)
    elif integers and task_names and present.keys() <= numbers:
        names = task_names
    else:
        names = tuple(sorted(present, key=int) if integers else sorted(present))
    index = {name: number for number, name in enumerate(names)}
    if integers and (by_number or (not all(map(is_integer, names)) and (given or task_names))):
        index |= {str(number): number for number in range(len(names))}
    if task_names and set(names) == set(task_names):
        # Text labels too come in the task's order: F1 is that of class 1.
        index = {label: task_names.index(names[number]) for label, number in index.items()}
        names = task_names
    elif task_names and task:
        table.add_problem(
            f"task {task} has the labels {listed(task_names)} or 0 to {len(task_names) - 1}, found "
            f"{listed(names)}; correct the labels or leave out --data.task"
        )
    guessed = known.name if known and (not task_names or names == task_names) else None
    return Classes(names, index, task or guessed)


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label.replace(",", ".")))
    except ValueError:
        return False


def class_indices(
    table: Table, labels: Sequence[str | None], classes: Classes, split: str
) -> list[int]:
    """The class index of each label; an unknown label is a problem."""
    index: dict[str | None, int] = {None: UNLABELLED}
    if split == "test":  # as the hub's GLUE test splits have it
        index |= {"-1": UNLABELLED, str(UNLABELLED): UNLABELLED}
    index.update(classes.index)
    names = listed(classes.names)  # once: there may be as many as rows
    for row, label in enumerate(labels):
        if label not in index:
            table.add_problem(f"unknown label {short(label)}; the classes are {names}", row)
    return [index.get(label, UNLABELLED) for label in labels]
