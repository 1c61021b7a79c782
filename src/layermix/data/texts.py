"""Labelled data: checked texts and labels by split, or one error that lists every problem.

It puts together the steps: `sources.py` reads tables, `columns.py` finds texts and labels,
`label_forms.py` reads labels of every kind, `soft_labels.py` probabilities in their place,
`splits.py` holds out rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset

from layermix.config import DataConfig
from layermix.data.columns import (
    SoftLabels,
    Text,
    check_groups,
    check_texts,
    check_words,
    find_columns,
    find_word_column,
    has_text_columns,
)
from layermix.data.label_forms import READERS, Given
from layermix.data.labels import LabelNames, without_labels
from layermix.data.soft_labels import read_probabilities
from layermix.data.sources import Tables, problem_of_task, read_tables, tables_of
from layermix.data.splits import (
    GROUP,
    HAS_LABEL,
    PROBABILITIES,
    SPLIT_NAMES,
    VALIDATION_SHARE,
    fingerprint,
    hold_out,
    labels_of,
    make_split,
    texts_hash,
    texts_of,
    with_groups,
    with_guessed_labels,
    with_soft_labels,
)
from layermix.data.tables import NO_ROWS, Diagnostics, Table
from layermix.data.tags import WordRows
from layermix.data.words import Words, cutter_of
from layermix.errors import Note
from layermix.evaluation.metrics import UNLABELLED
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.kinds import PROBLEMS
from layermix.problems.problem import Problem

GUESSED = "labels-from-probabilities"
"""The code of a note on scored rows whose label is their most probable class."""


@dataclass(frozen=True)
class TextData:
    """Texts and labels by split, checked.

    Attributes:
        splits: `train`, `validation`, perhaps `test` and `unlabeled`, with the columns `text`,
            `text_pair` (if there are two), `label` (as the kind of label has it: a class index, a
            number, or 0 and 1 for each label; missing in `unlabeled` and in test rows that came
            with -1) and `row_id` (unique over all splits). With soft labels
            also `probabilities` (C numbers) and `has_label`: where it is false, `label` is the
            most probable class. Rows that are to stay together have one `group`. Where words have
            labels, `words` says where they stand in `text` (begin, end, begin, end, …), and
            `label` has the index of each one's tag, −100 for a word without one.
        text_columns: The one or two original names of the text columns.
        label_names: Output of a model -> its name.
        task: The task, if named or found; found ones are rows of `TASKS`.
        source: What the user named.
        fingerprint: sha256 of the splits' names, texts and labels: independent of place and
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
    problem: Problem | None = None,
) -> TextData:
    """Reads and checks what a config names: a folder, files, a saved data set, or the hub.

    Args:
        config: `path`, or `train` and its companions. The hub is asked only if no such path exists.
        classes: Of the model that is to be scored on the data: where their labels are some of
            these, or indices into them, the data have these classes, in this order.
        soft_labels: Whether to read probabilities of the classes as well, if the training rows have
            any (`beside`), or only if they have no labels (`instead`); rows may then lack a label.
        problem: The kind of label; by default `DataConfig.problem`, or that of the task.

    Returns:
        The checked data. Without a validation split a tenth of the training rows, chosen by a hash
        of their text, becomes one, and a note says so.

    Raises:
        ConfigError: No data are named.
        DataError: Listing every problem of every file.
    """
    diagnostics = Diagnostics()
    problem = problem or (PROBLEMS[config.problem] if config.problem else None)
    tables, source, guess = read_tables(config, diagnostics, problem)
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
        label_columns=config.label_columns,
        label_separator=config.label_separator,
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
    label_columns: Sequence[str] | None = None,
    label_separator: str | None = None,
    problem: Problem | None = None,
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
        label_columns: As `DataConfig.label_columns`.
        label_separator: As `DataConfig.label_separator`.
        problem: The kind of label; by default that of the task, or classification.

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
        label_columns=label_columns,
        label_separator=label_separator,
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
    label_columns: Sequence[str] | None = None,
    label_separator: str | None = None,
    problem: Problem | None = None,
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
    is_named = problem is not None
    problem = problem or problem_of_task(task, guess)
    reader = READERS[problem.form]
    if not reader.several:
        for name, option in {"columns": label_columns, "separator": label_separator}.items():
            if option is not None:
                headed[0].add_problem(
                    f"--data.label_{name} is for several labels per row; give --data.problem "
                    "multi_label with it, or leave it out"
                )
                label_columns = None
    columns = find_columns(
        headed,
        problem.form,
        text_columns,
        label_column,
        label_columns,
        soft_labels,
        group_column,
    )
    if columns is None:
        diagnostics.stop()
    label, soft = columns.label, columns.soft
    if skip_labels and not reader.can_skip:
        headed[0].add_problem(
            "--data.skip_labels leaves out rows of a class, and the labels are for "
            f"{problem.name}; leave it out"
        )
    elif skip_labels and label is not None:
        readable = {
            split: without_labels(table, label, skip_labels) for split, table in readable.items()
        }
        for table in readable.values():
            if not table.numbers:
                table.add_problem(f"{NO_ROWS} left without --data.skip_labels")

    texts: dict[str, list[Text]] = {}
    words: dict[str, list[Words]] = {}
    if reader.by_word:
        readable = _with_text_column(readable, columns.texts[0])
    else:
        texts = {
            split: check_texts(table, columns.texts)
            if has_text_columns(table, columns.texts)
            else []
            for split, table in readable.items()
        }
    labelled = {
        split: table
        for split, table in readable.items()
        if split != "unlabeled" and not table.plain
    }
    wanted = Given(
        labelled,
        columns,
        problem,
        given,
        model_classes,
        task,
        guess,
        label_separator,
        is_named,
    )
    labels = reader.read(wanted)
    if labels is None:
        diagnostics.stop()
    if reader.by_word:
        of_train = labels.rows["train"]
        cut = cutter_of(zip((text for (text,) in of_train.texts), of_train.words, strict=True))
        for split, table in readable.items():
            found = labels.rows.get(split) or WordRows(*check_words(table, columns.texts[0], cut))
            texts[split], words[split] = found
    missing = problem.missing(len(labels.names))
    probabilities = {
        split: read_probabilities(
            labelled[split],
            soft,
            labels.order,
            labels.certain if split == "train" else (),
            sums_to_1=labels.exclusive,
        )
        for split in labelled
        if soft is not None and columns.is_soft(split, readable[split])
    }
    is_bare = columns.label is None and not columns.sets and "validation" not in probabilities
    if "validation" in labelled and is_bare:
        labelled["validation"].add_problem(
            "found neither labels nor probabilities, and the validation rows need one of the two"
        )
    groups = {
        split: check_groups(table, group_column)
        for split, table in labelled.items()
        if group_column is not None and (split == "train" or group_column in table.columns)
    }
    diagnostics.raise_problems()

    splits, first_id = dict[str, Dataset](), 0
    for split, of_rows in texts.items():
        none = [[UNLABELLED] * len(one) for one in words.get(split, ())] or [missing] * len(of_rows)
        of_split = labels.by_split.get(split, none)
        splits[split] = make_split(of_rows, of_split, first_id, words.get(split))
        if split in probabilities:
            soft_split = with_soft_labels(splits[split], probabilities[split])
            splits[split] = with_guessed_labels(soft_split, problem)
        if split in groups:
            splits[split] = with_groups(splits[split], groups[split])
        first_id += len(of_rows)
    train_hash, split_off = texts_hash(splits["train"]), "validation" not in splits
    if split_off:
        splits = _split_off_validation(splits, labelled["train"], problem)
    diagnostics.notes.append(columns.note(readable["train"]))
    return TextData(
        splits=splits,
        text_columns=columns.texts,
        label_names=labels.names,
        task=labels.task,
        source=source,
        fingerprint=fingerprint(splits),
        train_hash=train_hash,
        split_off=split_off,
        source_notes=tuple(diagnostics.notes),
        split_notes=tuple(_split_notes(splits, labels.names, problem)),
        soft_labels=None if soft is None else soft.described(),
        group_column=group_column,
        problem=problem,
    )


def _with_text_column(tables: Mapping[str, Table], column: str) -> dict[str, Table]:
    """Returns the tables with a column of texts of this name; that there is none is a problem.

    Rows without labels may have it under another usual name: theirs need no list of words.
    """
    named = dict(tables)
    table = tables.get("unlabeled")
    if table is not None and not table.plain and column not in table.columns:
        other = find_word_column(table, None, None)
        if other is not None:
            columns = {**table.columns, column: table.columns[other[0]]}
            named["unlabeled"] = replace(table, columns=columns)
    found = {split: has_text_columns(table, (column,)) for split, table in named.items()}
    if not all(found.values()):
        next(iter(named.values())).diagnostics.stop()
    return named


def _split_off_validation(
    splits: Mapping[str, Dataset], table: Table, problem: Problem
) -> dict[str, Dataset]:
    """Returns the splits with a tenth of the training rows, read from `table`, as validation."""
    train, validation = hold_out(splits["train"], VALIDATION_SHARE, "validation")
    text = (
        f"there is no validation split: {len(validation)} of {len(splits['train'])} training rows, "
        f"chosen by a hash of their {'group' if GROUP in train.column_names else 'text'}, were "
        "split off as validation"
    )
    table.diagnostics.notes.append(Note("validation-split-off", text))
    if problem.trivial(labels_of(train["label"]), problem.default_scores[0]).perfect:
        table.diagnostics.fail(
            table.source,
            "once a tenth is split off as validation, the training rows have one label only; "
            "give a validation file, or more rows",
        )
    with_validation = {**splits, "train": train, "validation": validation}
    return {split: with_validation[split] for split in SPLIT_NAMES if split in with_validation}


def _split_notes(
    splits: Mapping[str, Dataset], names: Sequence[str], problem: Problem
) -> list[Note]:
    counts = READERS[problem.form].describe(names, splits["train"]["label"][:])
    notes = [Note("label-counts", f"labels in train: {counts}")]
    for split, rows in splits.items():
        notes += _guessed_notes(split, rows, problem)
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
        known = problem.labelled(labels_of(splits[split]["label"]))
        if unlabelled := rows - int(known.sum()):
            text = f"{split}: {unlabelled} of {rows} rows have no label (-1)"
            notes.append(Note("rows-without-label", text))
    return notes


def _guessed_notes(split: str, rows: Dataset, problem: Problem) -> list[Note]:
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
    most = problem.answers(problem.logits_of(np.asarray(rows[PROBABILITIES][:])))
    other = (most != np.asarray(rows["label"][:])).reshape(len(rows), -1).any(1)
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
