"""Reads the labels of all splits, by the form of a label: class, several, number, or of words.

To add a form, write a function and its row in `READERS`.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from layermix.data.classes import class_indices, find_classes, refuse_unknown_task
from layermix.data.columns import Columns
from layermix.data.label_sets import SetColumns, describe_label_sets, read_label_sets
from layermix.data.labels import LabelNames, is_missing, lacks_labels, read_labels
from layermix.data.soft_labels import SoftColumns, soft_classes
from layermix.data.tables import Table, joined, listed, short
from layermix.data.tags import TagColumns, WordRows, describe_tags, read_tags
from layermix.data.tasks import TASKS
from layermix.evaluation.forms import Form
from layermix.evaluation.metrics import UNLABELLED
from layermix.problems.problem import Problem


@dataclass(frozen=True)
class Given:
    """What there is to read labels from.

    Attributes:
        tables: Split -> its rows, those that may have labels.
        columns: Where labels stand.
        problem: What they are.
        names: The user's names of the labels.
        model_classes: Those of the model that is scored on the data; they win if they fit.
        task: The task, if the user named it.
        guess: What else may name a task.
        separator: Between several labels in a cell, if the user named it.
        is_named: Whether the user said what the labels are.
    """

    tables: Mapping[str, Table]
    columns: Columns
    problem: Problem
    names: LabelNames | None
    model_classes: Sequence[str]
    task: str | None
    guess: str
    separator: str | None = None
    is_named: bool = True

    @property
    def known_task(self) -> str | None:
        """The task, named or guessed, if its labels are of this kind."""
        known = TASKS.get(self.task or self.guess.lower())
        return known.name if known and known.problem == self.problem.name else None

    def check_task(self) -> None:
        """Adds a problem if there is no task that the user named, or its labels are others."""
        train = self.tables["train"]
        refuse_unknown_task(train, self.task)
        known = TASKS.get(self.task or "")
        if known is not None and known.problem != self.problem.name:
            train.add_problem(
                f"task {known.name} has labels for {known.problem}, and they are to be read for "
                f"{self.problem.name}; leave out --data.task or --data.problem"
            )

    def why_this_kind(self) -> str:
        """Why labels are read as this kind, if the name of a folder says so."""
        known = TASKS.get(self.guess.lower())
        if self.is_named:
            return f" (labels are read for {self.problem.name})"
        if self.task or known is None or known.problem != self.problem.name:
            return ""
        return (
            f", as the task {known.name} has it; if it is not that task, give --data.problem "
            "classification"
        )

    def has_none(self, split: str) -> bool:
        """Whether no row of a split needs a label, and none has one."""
        table, label = self.tables[split], self.columns.label
        needs_none = self.columns.is_soft(split, table) or split == "test"
        columns = self.columns.sets or ((label,) if label is not None else ())
        return not columns or (needs_none and all(lacks_labels(table, one) for one in columns))


@dataclass(frozen=True)
class Labels:
    """The labels of a data set.

    Attributes:
        names: Output of a model -> its name.
        task: The task, if named or found.
        by_split: Split -> the label of each row, as the kind of label has it.
        order: For each output the place of its probability in the soft labels, if there are any.
        certain: For each training row with a label the probabilities that say the same.
        exclusive: Whether a row has one of the names, so that its probabilities sum to 1.
        rows: Split -> its texts and their words, if it is they that have labels.
    """

    names: tuple[str, ...]
    task: str | None
    by_split: Mapping[str, list[Any]]
    order: Sequence[int] = ()
    certain: Sequence[tuple[float, ...] | None] = ()
    exclusive: bool = False
    rows: Mapping[str, WordRows] = field(default_factory=dict)


def read_classes(given: Given) -> Labels | None:
    """Returns class indices; None, and a problem, if the training rows do not say which classes."""
    columns, tables = given.columns, given.tables
    texts = {split: _class_texts(given, split) for split in tables}
    if "train" not in texts:
        return None
    options: dict[str, Any] = {"given": given.names, "task": given.task, "guess": given.guess}
    order: Sequence[int] = ()
    if columns.soft is not None:
        found = soft_classes(
            tables["train"], columns.soft, texts["train"], column=columns.label, **options
        )
        if found is None:
            return None
        classes, order = found
    elif columns.label is not None and texts["train"]:
        found_classes = find_classes(
            tables["train"],
            texts["train"],
            column=columns.label,
            model_classes=given.model_classes,
            **options,
        )
        if found_classes is None:
            return None
        classes = found_classes
    else:
        return None
    indices = {split: class_indices(tables[split], texts[split], classes, split) for split in texts}
    certain: list[tuple[float, ...] | None] = []
    if columns.soft is not None:
        count = range(len(classes.names))
        certain = [
            None if label < 0 else tuple(float(index == label) for index in count)
            for label in indices["train"]
        ]
    return Labels(classes.names, classes.task, indices, order, certain, exclusive=True)


def _class_texts(given: Given, split: str) -> list[str | None]:
    """Returns the labels of a split as text; a row that needs one and has none is a problem."""
    table, label = given.tables[split], given.columns.label
    if label is None or given.has_none(split):
        return [None] * len(table.numbers)
    return read_labels(table, label, given.names, optional=given.columns.is_soft(split, table))


def describe_classes(names: Sequence[str], labels: Sequence[int]) -> str:
    """Returns how many rows each class has, in words."""
    counts = Counter(labels)
    return joined(f"{number} = {name} ({counts[number]} rows)" for number, name in enumerate(names))


def read_numbers(given: Given) -> Labels | None:
    """Returns numbers; a row without one, or with something else, is a problem."""
    label, train = given.columns.label, given.tables.get("train")
    if label is None or train is None:
        return None
    if given.names is not None:
        train.add_problem(
            "--data.label_names names classes, and the labels are numbers; leave it out"
        )
    if given.columns.soft is not None:
        train.add_problem(
            f"found probabilities ({given.columns.soft.described()}), and the labels are numbers: "
            "a number from another model is a label already; name its column with "
            "--data.label_column"
        )
    given.check_task()
    numbers = {
        split: [math.nan] * len(table.numbers)
        if given.has_none(split)
        else _numbers_of(table, label, given, split)
        for split, table in given.tables.items()
    }
    different = set(numbers["train"])  # NaN where a row has a problem of its own
    if len(different) == 1 and not (given.model_classes or math.isnan(min(different))):
        same = f"{min(different):g}"
        train.add_problem(f"all rows have the label {same}; wanted numbers that differ")
    return Labels((label,), given.known_task, numbers)


def _numbers_of(table: Table, column: str, given: Given, split: str) -> list[float]:
    if column not in table.columns:
        table.add_problem(f"no column {column!r}; {table.column_names()}{table.hint}")
        return []
    values = table.columns[column]()
    if split == "test" and all(_number(value) == HIDDEN for value in values):
        return [math.nan] * len(values)  # as the hub's GLUE test splits have it
    numbers, why = [], given.why_this_kind()
    for row, value in enumerate(values):
        number = _number(value)
        if is_missing(value):
            fault = "the label is missing"
        elif not math.isfinite(number):
            comma = isinstance(value, str) and math.isfinite(_number(value.replace(",", ".")))
            fault = f"found {short(value)} as label, wanted a number{why}"
            fault += "; decimals begin with a point, not a comma" if comma else ""
            why = ""  # once
        elif abs(number) > LARGEST:
            fault = f"found {short(value)} as label, wanted a number of a usual size"
        else:
            fault = given.problem.fault(number)
        if fault:
            table.add_problem(f"{fault} (column {column!r})", row)
        numbers.append(number)
    return numbers


HIDDEN = -1.0
"""The label of all rows of a test split whose labels are not public."""

LARGEST = 1e30
"""Labels are float32 in training."""


def _number(value: Any) -> float:
    """Returns a cell as a number; NaN if it holds none."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return math.nan
    with suppress(TypeError, ValueError, OverflowError):
        return float(value)
    return math.nan


def describe_numbers(names: Sequence[str], labels: Sequence[float]) -> str:
    """Returns the range of numbers, in words."""
    numbers = np.asarray(labels)
    numbers = numbers[~np.isnan(numbers)]
    return (
        f"{len(numbers)} numbers from {numbers.min():g} to {numbers.max():g}, mean "
        f"{numbers.mean():.3g}, standard deviation {numbers.std():.3g}"
    )


def read_sets(given: Given) -> Labels | None:
    """Returns 0 and 1 for each label of each row, as `read_label_sets` does."""
    tables, columns = given.tables, given.columns
    if "train" not in tables:
        return None
    given.check_task()
    soft, others = columns.soft, tuple(given.model_classes)
    places: tuple[str, ...] = ()
    if soft is not None:
        places = _names_of_probabilities(given, soft)
        others = given.names.names if given.names else places
        if not places:
            return None
    without = [split for split in tables if given.has_none(split)]
    if len(without) == len(tables):
        missing = given.problem.missing(len(others))
        rows = {split: [missing] * len(table.numbers) for split, table in tables.items()}
        return Labels(others, given.known_task, rows, [places.index(name) for name in others])
    where = SetColumns(
        columns.label,
        columns.sets,
        given.separator,
        given.names,
        others,
        may_lack=[split for split in tables if columns.is_soft(split, tables[split])],
        is_scored=bool(given.model_classes),
    )
    found = read_label_sets(tables, without, where)
    if found is None:
        return None
    names, sets = found
    if soft is None:
        return Labels(names, given.known_task, sets)
    if set(names) != set(places):
        tables["train"].add_problem(
            f"the labels are {listed(names)}, and there are probabilities of {listed(places)} "
            f"({soft.described()}); give those of the same labels"
        )
        return None
    certain = [None if UNLABELLED in row else tuple(map(float, row)) for row in sets["train"]]
    return Labels(names, given.known_task, sets, [places.index(name) for name in names], certain)


def _names_of_probabilities(given: Given, soft: SoftColumns) -> tuple[str, ...]:
    """Returns the label of each probability; empty, and a problem, if it is not known."""
    own = soft.names or (given.names.names if given.names else ())
    if given.names is not None and not set(own) <= set(given.names.names):
        own = tuple(given.names.renamed.get(name, name) for name in own)
    if len(own) == soft.count and not (given.names and set(given.names.names) != set(own)):
        return own
    wrong = "--data.label_names names other labels" if given.names else "no names"
    given.tables["train"].add_problem(
        f"there are {soft.count} probabilities ({soft.described()}), and {wrong}; name their "
        "labels in this order, with --data.label_names A,B"
    )
    return ()


def read_tags_of_words(given: Given) -> Labels | None:
    """Returns texts with their words, and a tag for each word, as `read_tags` does."""
    tables, columns = given.tables, given.columns
    if "train" not in tables:
        return None
    given.check_task()
    if columns.soft is not None:
        tables["train"].add_problem(
            f"found probabilities ({columns.soft.described()}), and each word has a label: soft "
            "labels of words cannot be read from a file; give --teacher, and leave them out"
        )
    if columns.label is None:
        return None
    where = TagColumns(
        columns.texts[0],
        columns.label,
        of_entities=given.problem.spans,
        given=given.names,
        others=given.model_classes,
    )
    found = read_tags(tables, [split for split in tables if given.has_none(split)], where)
    if found is None:
        return None
    names, labels, rows = found
    return Labels(names, given.known_task, labels, rows=rows)


class Reader(NamedTuple):
    """How labels of one form are read.

    Attributes:
        read: Reads those of all splits.
        describe: Names and labels of the training rows -> a few words on them.
        can_skip: Whether rows with some of the labels can be left out (`data.skip_labels`).
        several: Whether a row can have more than one label (`data.label_columns`,
            `data.label_separator`).
        by_word: Whether each word has a label, so that texts are read with them.
    """

    read: Callable[[Given], Labels | None]
    describe: Callable[[Sequence[str], Sequence[Any]], str]
    can_skip: bool = False
    several: bool = False
    by_word: bool = False


READERS: Mapping[Form, Reader] = {
    "class": Reader(read_classes, describe_classes, can_skip=True),
    "labels": Reader(read_sets, describe_label_sets, several=True),
    "number": Reader(read_numbers, describe_numbers),
    "tags": Reader(read_tags_of_words, describe_tags, by_word=True),
}
"""Form of a label -> how it is read."""
