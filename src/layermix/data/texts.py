"""Labelled data: checked texts and class indices by split, or one error that lists every problem.

It puts together the steps: `sources.py` reads tables, `columns.py` finds texts and labels,
`labels.py` reads labels, `soft_labels.py` probabilities in their place, `classes.py` makes class
indices, `splits.py` holds out rows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from layermix.config import DataConfig
from layermix.data.classes import class_indices, find_classes
from layermix.data.columns import (
    check_groups,
    check_texts,
    find_label_column,
    find_text_columns,
    has_text_columns,
)
from layermix.data.labels import LabelNames, lacks_labels, read_labels, without_labels
from layermix.data.soft_labels import (
    LIST_COLUMN,
    SoftColumns,
    probability_columns,
    read_probabilities,
    soft_classes,
)
from layermix.data.sources import Tables, read_tables, tables_of
from layermix.data.splits import (
    GROUP,
    HAS_LABEL,
    PROBABILITIES,
    SPLIT_NAMES,
    VALIDATION_SHARE,
    fingerprint,
    hold_out,
    make_split,
    texts_hash,
    texts_of,
    with_groups,
    with_guessed_labels,
    with_soft_labels,
)
from layermix.data.tables import NO_ROWS, Diagnostics, Table, joined, listed
from layermix.errors import Note
from layermix.evaluation.metrics import UNLABELLED
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.problem import Problem

SoftLabels = Literal["never", "beside", "instead"]
"""Whether probabilities in the data are read: never, beside labels, or where there are none."""


GUESSED = "labels-from-probabilities"
"""The code of a note on scored rows whose label is their most probable class."""


@dataclass(frozen=True)
class TextData:
    """Texts and labels by split, checked.

    Attributes:
        splits: `train`, `validation`, perhaps `test` and `unlabeled`, with the columns `text`,
            `text_pair` (if there are two), `label` (class index; `UNLABELLED` in `unlabeled` and in
            test rows that came with -1) and `row_id` (unique over all splits). With soft labels
            also `probabilities` (C numbers) and `has_label`: where it is false, `label` is the
            most probable class. Rows that are to stay together have one `group`.
        text_columns: The one or two original names of the text columns.
        label_names: Class index -> name.
        task: The task, if named or found; found ones are rows of `TASKS`.
        source: What the user named.
        fingerprint: sha256 of the splits' names, texts and class indices: independent of place and
            format.
        train_hash: sha256 of the texts of the training rows, in whatever order, with those that
            were split off for validation.
        split_off: Whether the validation rows were split off from the training rows.
        source_notes: Notes for the user on how the source was read.
        split_notes: Notes on the training rows, and on what other splits share with them.
        soft_labels: Where the soft labels come from, in words; None if there are none.
        group_column: The column that says which rows stay together, if there is one.
        problem: The kind of label.
    """

    splits: Mapping[str, Dataset]
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    task: str | None
    source: str
    fingerprint: str
    train_hash: str
    split_off: bool
    source_notes: tuple[Note, ...]
    split_notes: tuple[Note, ...]
    soft_labels: str | None = None
    group_column: str | None = None
    problem: Problem = CLASSIFICATION

    @property
    def notes(self) -> tuple[Note, ...]:
        """Returns all notes."""
        return self.source_notes + self.split_notes


def load_texts(
    config: DataConfig,
    classes: Sequence[str] = (),
    *,
    soft_labels: SoftLabels = "never",
    problem: Problem = CLASSIFICATION,
) -> TextData:
    """Reads and checks what a config names: a folder, files, a saved data set, or the hub.

    Args:
        config: `path`, or `train` and its companions. The hub is asked only if no such path exists.
        classes: Of the model that is to be scored on the data: where their labels are some of
            these, or indices into them, the data have these classes, in this order.
        soft_labels: Whether to read probabilities of the classes as well, if the training rows have
            any (`beside`), or only if they have no labels (`instead`); rows may then lack a label.
        problem: The kind of label, where it is not one of layermix's own.

    Returns:
        The checked data. Without a validation split a tenth of the training rows, chosen by a hash
        of their text, becomes one, and a note says so.

    Raises:
        ConfigError: No data are named.
        DataError: Listing every problem of every file.
    """
    diagnostics = Diagnostics()
    tables, source, guess = read_tables(config, diagnostics)
    return _check(
        tables,
        diagnostics,
        text_columns=config.text_columns,
        label_column=config.label_column,
        label_names=config.label_names,
        skip_labels=config.skip_labels or (),
        task=config.task,
        guess=guess,
        source=source,
        model_classes=classes,
        soft_labels=soft_labels,
        group_column=config.group_column,
        problem=problem,
    )


def from_splits(
    splits: Mapping[str, Dataset | Sequence[Mapping[str, Any]]],
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    skip_labels: Sequence[str] = (),
    task: str | None = None,
    source: str = "memory",
    soft_labels: SoftLabels = "never",
    group_column: str | None = None,
    problem: Problem = CLASSIFICATION,
) -> TextData:
    """Checks data that are in memory already.

    Args:
        splits: Split name -> a `datasets.Dataset`, or rows as dictionaries.
        text_columns: One or two; found by their usual names if not given.
        label_column: Found by its usual name if not given.
        label_names: Names of the integer labels from 0, or LABEL=CLASS for each label.
        skip_labels: Labels whose rows are left out, such as `-1`.
        task: Name of a known task.
        source: What to call the data.
        soft_labels: As for `load_texts`.
        group_column: As `DataConfig.group_column`.
        problem: As for `load_texts`.

    Raises:
        DataError: Listing every problem of every split.

    Examples:
        >>> rows = [{"text": f"number {n}", "label": n % 2} for n in range(40)]
        >>> texts = from_splits({"train": rows[:30], "validation": rows[30:]})
        >>> texts.label_names, texts.splits["validation"][0]["row_id"]
        (('0', '1'), 30)
    """
    diagnostics = Diagnostics()
    return _check(
        tables_of(splits, source, diagnostics),
        diagnostics,
        text_columns=text_columns,
        label_column=label_column,
        label_names=label_names,
        skip_labels=skip_labels,
        task=task,
        source=source,
        soft_labels=soft_labels,
        group_column=group_column,
        problem=problem,
    )


def _check(
    tables: Tables,
    diagnostics: Diagnostics,
    *,
    text_columns: Sequence[str] | None,
    label_column: str | None,
    label_names: Sequence[str] | None = None,
    skip_labels: Sequence[str] = (),
    task: str | None,
    guess: str = "",
    source: str,
    model_classes: Sequence[str] = (),
    soft_labels: SoftLabels = "never",
    group_column: str | None = None,
    problem: Problem = CLASSIFICATION,
) -> TextData:
    given = None if label_names is None else LabelNames.parse(label_names)
    readable = {split: table for split in SPLIT_NAMES if (table := tables.get(split)) is not None}
    for split, table in readable.items():
        if table.plain and split != "unlabeled":
            message = f"plain text has no labels, so it cannot be {split} data"
            diagnostics.add(table.source, message)
    headed = [table for table in readable.values() if not table.plain]
    if not headed:
        diagnostics.stop()
    columns = _find_columns(headed, text_columns, label_column, soft_labels, group_column)
    if columns is None:
        diagnostics.stop()
    label, soft = columns.label, columns.soft
    if skip_labels and label is not None:
        readable = {
            split: without_labels(table, label, skip_labels) for split, table in readable.items()
        }
        for table in readable.values():
            if not table.numbers:
                table.add_problem(f"{NO_ROWS} left without --data.skip_labels")

    texts = {
        split: check_texts(table, columns.texts) if has_text_columns(table, columns.texts) else []
        for split, table in readable.items()
    }
    labels = {
        split: _labels_of(split, table, columns, given, len(texts[split]))
        for split, table in readable.items()
        if split != "unlabeled" and not table.plain
    }
    classes, order = None, list[int]()
    if soft is not None and "train" in labels:
        found = soft_classes(
            readable["train"],
            soft,
            labels["train"],
            column=label,
            given=given,
            task=task,
            guess=guess,
        )
        classes, order = found or (None, order)
    elif label is not None and labels.get("train"):
        classes = find_classes(
            readable["train"],
            labels["train"],
            column=label,
            given=given,
            model_classes=model_classes,
            task=task,
            guess=guess,
        )
    if classes is None:
        diagnostics.stop()
    indices = {
        split: class_indices(readable[split], labels[split], classes, split) for split in labels
    }
    probabilities = {
        split: read_probabilities(
            readable[split], soft, order, indices[split] if split == "train" else ()
        )
        for split in labels
        if soft is not None and columns.is_soft(split, readable[split])
    }
    if "validation" in labels and label is None and "validation" not in probabilities:
        readable["validation"].add_problem(
            "found neither labels nor probabilities, and the validation rows need one of the two"
        )
    groups = {
        split: check_groups(readable[split], group_column)
        for split in labels
        if group_column is not None
        and (split == "train" or group_column in readable[split].columns)
    }
    diagnostics.raise_problems()

    splits, first_id = dict[str, Dataset](), 0
    for split, rows in texts.items():
        splits[split] = make_split(rows, indices.get(split, [UNLABELLED] * len(rows)), first_id)
        if split in probabilities:
            soft_split = with_soft_labels(splits[split], probabilities[split])
            splits[split] = with_guessed_labels(soft_split)
        if split in groups:
            splits[split] = with_groups(splits[split], groups[split])
        first_id += len(rows)
    train_hash, split_off = texts_hash(splits["train"]), "validation" not in splits
    if split_off:
        splits = _split_off_validation(splits, readable["train"])
    diagnostics.notes.append(columns.note(readable["train"]))
    return TextData(
        splits=splits,
        text_columns=columns.texts,
        label_names=classes.names,
        task=classes.task,
        source=source,
        fingerprint=fingerprint(splits),
        train_hash=train_hash,
        split_off=split_off,
        source_notes=tuple(diagnostics.notes),
        split_notes=tuple(_split_notes(splits, classes.names)),
        soft_labels=None if soft is None else soft.described(),
        group_column=group_column,
        problem=problem,
    )


@dataclass(frozen=True)
class _Columns:
    """Which columns of the data are used.

    Attributes:
        texts: One or two.
        label: The label column; None if there are soft labels only.
        soft: The columns with soft labels; None if there are none, or they are not wanted.
        group: The column that says which rows stay together, if there is one.
    """

    texts: tuple[str, ...]
    label: str | None
    soft: SoftColumns | None
    group: str | None

    def is_soft(self, split: str, table: Table) -> bool:
        """Returns whether the rows of a split must have soft labels."""
        return self.soft is not None and (split == "train" or not self.soft.is_missing_in(table))

    def note(self, train: Table) -> Note:
        """Returns a note on which columns of the training rows are used, and which are not."""
        told = f"columns: text {listed(self.texts)}, "
        told += "no labels" if self.label is None else f"label {self.label!r}"
        used = [*self.texts, self.label, self.group]
        if self.soft is not None:
            told += f", soft labels {listed(self.soft.columns)}"
            used += self.soft.columns
        if self.group is not None:
            told += f", groups {self.group!r}"
        if unused := [name for name in train.columns if name not in used]:
            told += f", not used {listed(unused)}"
        return Note("columns", told)


def _find_columns(
    headed: Sequence[Table],
    text_columns: Sequence[str] | None,
    label_column: str | None,
    soft_labels: SoftLabels,
    group_column: str | None,
) -> _Columns | None:
    """Returns the columns, given or found by name; None, and a problem, if they are unclear."""
    soft = _find_soft(headed[0], label_column, soft_labels)
    if soft is None:
        label = find_label_column(headed[0], label_column)
    else:  # only the rows that are scored may have labels
        found = (find_label_column(table, label_column, optional=True) for table in headed)
        label = next(filter(None, found), None)
        if label is not None and all(label not in table.columns for table in headed):
            names = headed[0].column_names()
            headed[0].add_problem(f"no column {label!r}; {names}{headed[0].hint}")
    texts = find_text_columns(headed[0], text_columns, label)
    if texts is None or (label is None and soft is None):
        return None
    return _Columns(texts, label, soft, group_column)


def _find_soft(train: Table, label_column: str | None, wanted: SoftLabels) -> SoftColumns | None:
    """Returns the columns with soft labels, if they are wanted; None, or a problem, if unclear."""
    if wanted == "never":
        return None
    has_label = find_label_column(train, label_column, optional=True) in train.columns
    if wanted == "instead" and has_label:
        return None
    if has_label and len(probability_columns(train)) == 1 and LIST_COLUMN not in train.columns:
        return None  # `p_id` and the like
    return SoftColumns.find(train)


def _labels_of(
    split: str, table: Table, columns: _Columns, given: LabelNames | None, rows: int
) -> list[str | None]:
    """Returns the labels of a split as text; a row that needs one and has none is a problem."""
    label, is_soft = columns.label, columns.is_soft(split, table)
    if label is None or (lacks_labels(table, label) and (is_soft or split == "test")):
        return [None] * rows
    return read_labels(table, label, given, optional=is_soft)


def _split_off_validation(splits: Mapping[str, Dataset], table: Table) -> dict[str, Dataset]:
    """Returns the splits with a tenth of the training rows, read from `table`, as validation."""
    train, validation = hold_out(splits["train"], VALIDATION_SHARE, "validation")
    text = (
        f"there is no validation split: {len(validation)} of {len(splits['train'])} training rows, "
        f"chosen by a hash of their {'group' if GROUP in train.column_names else 'text'}, were "
        "split off as validation"
    )
    table.diagnostics.notes.append(Note("validation-split-off", text))
    if len(set(train["label"][:])) < 2:
        table.diagnostics.fail(
            table.source,
            "once a tenth is split off as validation, the training rows have one label only; "
            "give a validation file, or more rows",
        )
    with_validation = {**splits, "train": train, "validation": validation}
    return {split: with_validation[split] for split in SPLIT_NAMES if split in with_validation}


def _split_notes(splits: Mapping[str, Dataset], names: Sequence[str]) -> list[Note]:
    counts = Counter(splits["train"]["label"][:])
    classes = (f"{number} = {name} ({counts[number]} rows)" for number, name in enumerate(names))
    notes = [Note("label-counts", f"labels in train: {joined(classes)}")]
    for split, rows in splits.items():
        notes += _guessed_notes(split, rows)
    train = set(texts_of(splits["train"]))
    for split in ("validation", "test"):
        if split not in splits:
            continue
        rows = len(splits[split])
        if shared := sum(text in train for text in texts_of(splits[split])):
            text = f"{split} shares {shared} of its {rows} rows with train (same text)"
            notes.append(Note("rows-shared", text))
        if shared := _shared_groups(splits["train"], splits[split]):
            text = f"{split} shares {shared} of its groups with train (data.group_column)"
            notes.append(Note("groups-shared", text))
        if unlabelled := splits[split]["label"][:].count(UNLABELLED):
            text = f"{split}: {unlabelled} of {rows} rows have no label (-1)"
            notes.append(Note("rows-without-label", text))
    return notes


def _guessed_notes(split: str, rows: Dataset) -> list[Note]:
    """Returns notes on rows whose label is their most probable class, or is another one."""
    if HAS_LABEL not in rows.column_names:
        return []
    has_label = np.asarray(rows[HAS_LABEL][:])
    notes, without = [], int((~has_label).sum())
    if without:
        use = (
            "L_sup skips them"
            if split == "train"
            else "their most probable class counts as the label, so scores say how often the "
            "student agrees with it"
        )
        text = f"{split}: {without} of {len(rows)} rows have probabilities and no label; {use}"
        notes.append(Note("rows-not-in-l-sup" if split == "train" else GUESSED, text))
    other = np.asarray(rows[PROBABILITIES][:]).argmax(1) != np.asarray(rows["label"][:])
    if contradict := int((other & has_label).sum()):
        text = (
            f"{split}: {contradict} of {int(has_label.sum())} labels are not the most probable "
            "class of their row"
        )
        if split == "train":
            text += (
                "; the student learns from both. Where a label corrects the probabilities, clear "
                "them in that row"
            )
        notes.append(Note("labels-contradict", text))
    return notes


def _shared_groups(train: Dataset, other: Dataset) -> int:
    """Returns how many groups of a split are those of training rows, too."""
    if GROUP not in train.column_names or GROUP not in other.column_names:
        return 0
    return len(set(train[GROUP][:]) & set(other[GROUP][:]))
