"""Which classes a data set has, and the class index of each label.

The training rows, or the model that is scored, determine the classes (`find_classes`); the labels
of every split are then matched to them (`class_indices`).
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from layermix.data.labels import LabelNames, match_labels, source_names
from layermix.data.tables import Table, is_integer, joined, listed, short
from layermix.data.tasks import TASKS
from layermix.errors import Note
from layermix.evaluation.metrics import UNLABELLED

MANY = 50
"""Number of different labels above which each class must have two rows on average."""

NO_LABEL = "-1"
"""The label of rows without one, as data sets of the hub have it."""

MISSING = ("nan", "<na>", "na", "n/a", "none", "null")
"""What programs write for a missing value, in small letters."""

SEPARATORS = (",", ";", "|", "#", "/", "+", "&", " ")
"""What may separate several labels in one cell; a space only between integers."""

BETWEEN_INTEGERS = (",", ";", "|", "#", " ")
"""What separates integers only if they are several labels; `/` may be part of a date."""


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        names: Class index -> name.
        index: Label as read -> class index.
        task: The task, if named or found.
    """

    names: tuple[str, ...]
    index: Mapping[str, int]
    task: str | None


def find_classes(
    table: Table,
    labels: Sequence[str | None],
    *,
    column: str,
    given: LabelNames | None = None,
    model_classes: Sequence[str] = (),
    task: str | None,
    guess: str,
) -> Classes | None:
    """Returns the classes of the training rows; None, and a problem, where labels are no classes.

    Args:
        table: The training rows.
        labels: Their labels as text.
        column: The label column.
        given: The user's names of the labels.
        model_classes: Those of the model that is scored on the data; they win if they fit.
        task: The task, if the user named it.
        guess: What else may name a task.
    """
    present = Counter(label for label in labels if label is not None)
    if not present:
        return None
    classes = _classes_of_model(table, present, model_classes, task or guess)
    if classes is None:
        names = given.names if given else source_names(table, column)
        classes = _classes_of_data(table, labels, present, names, task, guess)
    if classes is not None:
        table.diagnostics.notes += _doubts(present, classes)
    return classes


def _classes_of_model(
    table: Table, present: Mapping[str, int], names: Sequence[str], task: str
) -> Classes | None:
    """Returns the classes of a model, if one of the labels matches them."""
    if not names:
        return None
    known = TASKS.get(task.lower())
    task_names = (known.label_names if known else None) or ()
    same_as_task = {name.casefold() for name in names} == set(task_names)
    found = match_labels(present, names)
    if not found.index:
        return None
    index = found.index
    if known is not None and same_as_task and found.ways == ("index",):
        # The task says what its integers mean, whatever the order of the model.
        places = {name.casefold(): number for number, name in enumerate(names)}
        index = {label: places[task_names[int(label)]] for label in present}
        table.diagnostics.notes.append(task_note(known.name, task_names))
    elif found.note:
        table.diagnostics.notes.append(Note("labels-matched", found.note))
    return Classes(tuple(names), index, known.name if known and same_as_task else None)


def task_note(task: str, names: Sequence[str]) -> Note:
    """Returns a note that integer labels are read as a task has them."""
    pairs = joined(f"{number} = {name}" for number, name in enumerate(names))
    return Note("task-labels", f"integer labels are read as those of the task {task}: {pairs}")


def _classes_of_data(
    table: Table,
    labels: Sequence[str | None],
    present: Mapping[str, int],
    given: Sequence[str],
    task: str | None,
    guess: str,
) -> Classes | None:
    """Returns the classes of training rows: those given, or else their labels."""
    if len(present) == 1:
        table.add_problem(f"all rows have the label {short(*present)}; wanted two classes or more")
    if not given and (fault := _no_classes(table, labels, present)):
        table.add_problem(*fault)
        return None
    refuse_unknown_task(table, task)
    integers = all(map(is_integer, present))
    known = TASKS.get(task or guess.lower())
    task_names = (known.label_names if known else None) or ()
    numbers = {str(index): index for index in range(len(task_names))}
    index: dict[str, int] = {}
    if given:
        names = tuple(given)
    elif known and integers and task_names and present.keys() <= numbers.keys():
        names, index = task_names, numbers
        table.diagnostics.notes.append(task_note(known.name, task_names))
    else:
        names = tuple(sorted(present, key=int) if integers else sorted(present))
    index |= {name: number for number, name in enumerate(names)}
    if task_names and set(names) == set(task_names):
        # Text labels too come in the task's order: F1 is that of class 1.
        index = {label: task_names.index(names[number]) for label, number in index.items()}
        names = task_names
    elif task_names and task:
        refuse_other_task(table, task, task_names, names)
    guessed = known.name if known and (not task_names or names == task_names) else None
    return Classes(names, index, task or guessed)


def refuse_unknown_task(table: Table, task: str | None) -> None:
    """Adds a problem if there is no such task."""
    if task is not None and task not in TASKS:
        table.add_problem(f"unknown task {task}; wanted one of {joined(TASKS)}, or no --data.task")


def refuse_other_task(table: Table, task: str, wanted: Sequence[str], names: Sequence[str]) -> None:
    """Adds the problem that the data have other classes than the task that the user named."""
    table.add_problem(
        f"task {task} has the labels {listed(wanted)} or 0 to {len(wanted) - 1}, found "
        f"{listed(names)}; correct the labels or leave out --data.task"
    )


def _no_classes(
    table: Table, labels: Sequence[str | None], present: Mapping[str, int]
) -> tuple[str, int | None] | None:
    """Returns why labels are no classes, and the first row that shows it; None if they are."""
    if found := _list_among(present):
        label, how = found
        or_decimal = " or a number with decimals" if _is_number(label) else ""
        return (
            f"the label {short(label)} looks like a list of labels{how}{or_decimal}; wanted one "
            "class per row. For several labels per row give --data.problem multi_label; if it is "
            "one class, name it: --data.label_names LABEL=CLASS,… for each label"
        ), labels.index(label)
    decimals = {label for label in present if not re.fullmatch("[+-]?[0-9]+", label)}
    if decimals and all(map(_is_number, present)):
        row = next(row for row, label in enumerate(labels) if label in decimals)
        return (
            f"the label {labels[row]} has decimals; wanted classes, as text or integers. For a "
            "number per row give --data.problem regression"
        ), row
    if len(present) > max(MANY, len(labels) / 2):
        return (
            f"{len(present)} different labels in {len(labels)} rows; wanted classes, each with "
            "several rows; name another column with --data.label_column NAME"
        ), None
    return None


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label.replace(",", ".")))
    except ValueError:
        return False


def _list_among(present: Collection[str]) -> tuple[str, str] | None:
    """Returns a label that looks like several, and how they are separated; None if there is none.

    A label is taken for a list if it is written as one (`['joy', 'pride']`), if most parts of the
    labels with a separator also occur alone or in another place (`joy#pride`, `pride`), or if all
    parts are integers. So `Sci/Tech`, and `sport/tennis` beside `sport/football`, are classes.

    Examples:
        >>> _list_among(["joy", "pride", "joy#pride"])
        ('joy#pride', ", separated by '#'")
        >>> _list_among(["World", "Sports", "Sci/Tech"])
    """
    for label in present:
        if re.fullmatch(r"[\[({](['\"0-9].*|.*,.*|\s*)[\])}]", label, re.DOTALL):
            return label, ""
    for separator in SEPARATORS:
        split = {label: [part.strip() for part in label.split(separator)] for label in present}
        several = {
            label: parts
            for label, parts in split.items()
            if len(parts) > 1 and all(parts) and (separator != " " or all(map(is_integer, parts)))
        }
        places: dict[str, set[int]] = {}
        for parts in several.values():
            for place, part in enumerate(parts):
                places.setdefault(part, set()).add(place)
        again = {part for part, at in places.items() if len(at) > 1 or part in split}
        if len(again) > len(places) / 2:
            found = next(label for label, parts in several.items() if again & {*parts})
            return found, f", separated by {separator!r}"
        parts_of_all = chain.from_iterable(split.values())
        integers = separator in BETWEEN_INTEGERS and all(map(is_integer, parts_of_all))
        if several and integers and not all(map(_is_number, present)):
            return next(iter(several)), f", separated by {separator!r}"
    return None


def _doubts(present: Collection[str], classes: Classes) -> list[Note]:
    """Returns notes on classes that are perhaps meant otherwise."""
    notes = []
    if (
        NO_LABEL in present
        and len(present) > 2
        and set(present) == {str(number) for number in range(-1, len(present) - 1)}
    ):
        text = (
            f"the label {NO_LABEL} is a class; if it marks rows without a label, leave them out "
            f"with --data.skip_labels {NO_LABEL}"
        )
        notes.append(Note("minus-one-class", text))
    if missing := [name for name in classes.names if name.casefold() in MISSING]:
        text = (
            f"{listed(missing)} look like missing labels, but are classes; leave their rows out "
            f"with --data.skip_labels {','.join(missing)}"
        )
        notes.append(Note("classes-like-missing-labels", text))
    groups: dict[str, list[str]] = {}
    for name in classes.names:
        groups.setdefault(_as_seen(name), []).append(name)
    if alike := [_told_apart(names) for names in groups.values() if len(names) > 1]:
        text = (
            "classes that differ only in capitals, leading zeros or what cannot be seen: "
            f"{' and '.join(alike[:5])}"
        )
        notes.append(Note("similar-classes", text))
    return notes


def _told_apart(names: Sequence[str]) -> str:
    """Returns names in quotes, those that look the same with the numbers of their characters."""
    shown = {unicodedata.normalize("NFC", name) for name in names}
    return joined(map(repr if len(shown) == len(names) else ascii, names))


def _as_seen(name: str) -> str:
    """Returns a class name without what readers easily overlook.

    Examples:
        >>> _as_seen("Cafe\u0301\u200b") == _as_seen("caf\u00e9")
        True
    """
    seen = unicodedata.normalize("NFKC", name).casefold()
    seen = "".join(letter for letter in seen if unicodedata.category(letter) not in ("Cc", "Cf"))
    return re.sub(r"^0+(?=[0-9])", "", " ".join(seen.split()))


# -- the labels of a split -------------------------------------------------------------------------


def class_indices(
    table: Table, labels: Sequence[str | None], classes: Classes, split: str
) -> list[int]:
    """Returns the class index of each label; an unknown label is a problem."""
    index: dict[str | None, int] = {None: UNLABELLED}
    if split == "test":  # as the hub's GLUE test splits have it
        index |= {NO_LABEL: UNLABELLED, str(UNLABELLED): UNLABELLED}
    index.update(classes.index)
    unknown = dict.fromkeys(label for label in labels if label is not None and label not in index)
    match = match_labels(unknown, classes.names, by_index=False)
    index.update(match.index)
    if match.note:
        table.diagnostics.notes.append(Note("labels-matched", f"{split}: {match.note}"))
    names = listed(classes.names)  # once: there may be as many as rows
    without = [row for row, label in enumerate(labels) if label == NO_LABEL and label not in index]
    if without:
        table.add_problem(
            f"{len(without)} row(s) have the label {NO_LABEL}, the first of them this one; the "
            f"classes are {names}. Data sets use {NO_LABEL} for rows without a label: leave them "
            f"out with --data.skip_labels {NO_LABEL}",
            without[0],
        )
    for row, label in enumerate(labels):
        if label not in index and label != NO_LABEL:
            table.add_problem(f"unknown label {short(label)}; the classes are {names}", row)
    return [index.get(label, UNLABELLED) for label in labels]
