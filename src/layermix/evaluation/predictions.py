"""Predictions on the validation rows, of one run (predictions.parquet) or of many seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from layermix.evaluation.forms import Form
from layermix.evaluation.metrics import UNLABELLED

MOST_CLASSES = 1_000
"""Class indices on record are smaller, or smaller than the number of columns with probabilities."""
UNKNOWN = -1
"""A teacher's prediction that is not on record."""
FORM = b"layermix.form"
"""The key in the metadata of predictions.parquet that says what a label is."""


@dataclass(frozen=True)
class Rows:
    """One run's predictions at one reported epoch, in the order of the row numbers, each (N,).

    Labels, predictions and the teacher's are class indices, numbers, (N, C) 0 and 1, or (N, W)
    indices of tags, −100 where there is no word.

    Attributes:
        row_id: Which rows.
        label: −100, or NaN, where a row or word has none.
        prediction: The model's answers.
        confidence: The probability of a predicted class; NaN for other kinds of label.
        teacher: The teacher's answers, `UNKNOWN` or NaN where they are not on record.
        teacher_confidence: The probability of the teacher's class.
        group: The number of the row's group, `UNKNOWN` where rows do not belong together.
        form: What a label is.
    """

    row_id: NDArray[np.integer[Any]]
    label: NDArray[Any]
    prediction: NDArray[Any]
    confidence: NDArray[np.floating[Any]]
    teacher: NDArray[Any]
    teacher_confidence: NDArray[np.floating[Any]]
    group: NDArray[np.integer[Any]]
    form: Form


@dataclass(frozen=True)
class Predictions:
    """The predictions of one or several seeds on the same rows.

    Answers are class indices, numbers, or in one more dimension 0 and 1, (…, C), or the indices of
    the tags of words, (…, W), −100 where there is no word.

    Attributes:
        form: What a label is.
        row_ids: (N,).
        labels: (N,), −100 or NaN where a row has none.
        predicted: (S, N).
        confidence: (S, N), the probability of a predicted class.
        teacher: (S, N), the answers of the teacher of each seed, `UNKNOWN` or NaN if not on record.
        teacher_confidence: (S, N).
        groups: (N,), the number of each row's group; None where rows do not belong together.
    """

    form: Form
    row_ids: NDArray[np.integer[Any]]
    labels: NDArray[Any]
    predicted: NDArray[Any]
    confidence: NDArray[np.floating[Any]]
    teacher: NDArray[Any]
    teacher_confidence: NDArray[np.floating[Any]]
    groups: NDArray[np.integer[Any]] | None = None

    @property
    def groups_of_known(self) -> NDArray[np.integer[Any]] | None:
        """The groups of the labelled rows; None if there are none, or one alone."""
        if self.groups is None or len(np.unique(self.groups[self.known])) < 2:
            return None
        return self.groups[self.known]

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,), rows that have a label, or one of any word."""
        is_number = self.form == "number"
        has_label = ~np.isnan(self.labels) if is_number else self.labels != UNLABELLED
        by_row = has_label.reshape(len(self.labels), -1)
        known: NDArray[np.bool_] = by_row.any(1) if self.form == "tags" else by_row.all(1)
        return known

    @property
    def has_teacher(self) -> NDArray[np.bool_]:
        """(S,), seeds whose teacher's predictions are on record."""
        absent = np.isnan(self.teacher) if self.form == "number" else self.teacher == UNKNOWN
        on_record: NDArray[np.bool_] = ~absent.reshape(len(absent), -1).any(1)
        return on_record


def read_rows(file: Path) -> dict[str, Rows]:
    """Reported epoch -> its rows.

    Args:
        file: predictions.parquet.

    Raises:
        OSError, ArrowException: If it cannot be read.
        ValueError, KeyError: If it is not what a run writes.
    """
    table = pq.read_table(file)
    columns = {name: _array(table[name]) for name in table.column_names}
    form = _form(table.schema.metadata or {}, columns["prediction"])
    probabilities = [values for name, values in columns.items() if name.startswith("p_")]
    count = len(columns["row_id"])
    columns["confidence"] = np.full(count, np.nan)
    if form == "labels":
        _check_sets(columns)
    elif form == "tags":
        _check_tags(columns)
    elif form == "number":
        _check_numbers(columns)
    else:
        for name in ("row_id", "label", "prediction", *({"teacher"} & columns.keys())):
            if not np.issubdtype(columns[name].dtype, np.integer):
                raise ValueError(f"the column {name} holds values that are not integers")
        if probabilities:
            columns["confidence"] = np.max(probabilities, axis=0)
        if count:
            _check_classes(columns, max(len(probabilities), MOST_CLASSES))
    columns.setdefault("teacher", np.full_like(columns["prediction"], UNKNOWN))
    if "teacher_confidence" not in columns:
        columns["teacher_confidence"] = np.full(count, np.nan)
    columns.setdefault("group", np.full(count, UNKNOWN))
    numeric = [column.name for column in fields(Rows) if column.name != "form"]
    by_report = {}
    for report in dict.fromkeys(columns["report"].tolist()):
        kept = columns["report"] == report
        order = columns["row_id"][kept].argsort()
        by_report[str(report)] = Rows(
            **{name: half_width(columns[name][kept][order]) for name in numeric}, form=form
        )
    return by_report


def _form(metadata: Mapping[bytes, bytes], predictions: NDArray[Any]) -> Form:
    """What a label is: what the file says, or in one of an older version how it is kept."""
    if FORM in metadata:
        said = metadata[FORM].decode(errors="replace")
        known: Mapping[str, Form] = {form: form for form in get_args(Form)}
        if said not in known:
            raise ValueError(f"its labels are {said!r}, wanted one of {', '.join(known)}")
        return known[said]
    if predictions.ndim > 1:
        return "labels"
    return "number" if np.issubdtype(predictions.dtype, np.floating) else "class"


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column as an array; lists become rows of two dimensions."""
    if pa.types.is_list(column.type):
        return np.array(column.to_pylist())
    return np.asarray(column)


def _check_numbers(columns: dict[str, NDArray[Any]]) -> None:
    """Raise a ValueError if what was answered is no number; a teacher that is absent is NaN."""
    columns.setdefault("teacher", np.full(len(columns["label"]), np.nan))
    for name in ("label", "teacher"):
        if not np.issubdtype(columns[name].dtype, np.floating):
            raise ValueError(
                f"the column {name} holds values that are not numbers, as predictions are"
            )
    if not np.isfinite(columns["prediction"]).all():
        raise ValueError("the column prediction holds values that are not finite")


def _check_sets(columns: Mapping[str, NDArray[Any]]) -> None:
    """Raise a ValueError if labels or answers are not 0 and 1 for the same labels."""
    for name, others in {"label": (UNLABELLED,), "prediction": (), "teacher": (UNKNOWN,)}.items():
        found = columns.get(name)
        if found is None:
            continue
        if found.shape != columns["prediction"].shape or not np.isin(found, (0, 1, *others)).all():
            raise ValueError(f"the column {name} holds values that are not 0 or 1 for each label")


def _check_tags(columns: Mapping[str, NDArray[Any]]) -> None:
    """Raise a ValueError if labels or answers are not indices of tags for the same words."""
    for name, others in {"label": (), "prediction": (), "teacher": (UNKNOWN,)}.items():
        found = columns.get(name)
        if found is None or not len(found):
            continue
        fits = found.ndim == 2 and found.shape == columns["prediction"].shape
        if fits and np.issubdtype(found.dtype, np.integer):
            tags = found[~np.isin(found, (UNLABELLED, *others))]
            fits = not len(tags) or 0 <= tags.min() <= tags.max() < MOST_CLASSES
        else:
            fits = False
        if not fits:
            raise ValueError(f"the column {name} holds values that are not a tag for each word")


def _check_classes(columns: Mapping[str, NDArray[Any]], classes: int) -> None:
    """Raise a ValueError if a column holds an index beyond the classes."""
    nothing = {"label": UNLABELLED, "prediction": 0, "teacher": UNKNOWN}
    for name, no_class in nothing.items():
        found = columns.get(name, np.zeros(1))
        found = found[found != no_class]
        if len(found) and not 0 <= found.min() <= found.max() < classes:
            raise ValueError(f"the column {name} holds values that are not class indices")


def half_width(values: Any) -> Any:
    """Values as 32-bit numbers, for half the room: a study may hold millions of rows."""
    return values.astype(np.int32 if np.issubdtype(values.dtype, np.integer) else np.float32)


def combine(runs: Sequence[Mapping[str, Rows]], report: str) -> Predictions | None:
    """The predictions of several seeds at one reported epoch.

    Args:
        runs: From `read_rows`.
        report: `last`, `best_on_dev` or `selected`.

    Returns:
        None if there are no such rows, or the seeds have different rows or labels.
    """
    by_seed = [run[report] for run in runs if report in run]
    if len(by_seed) < len(runs) or not len(by_seed[0].row_id):
        return None
    first = by_seed[0]
    for other in by_seed[1:]:
        is_same = np.array_equal(first.row_id, other.row_id) and np.array_equal(
            first.label, other.label, equal_nan=True
        )
        if not is_same or other.form != first.form:
            return None
    predicted, confidence, teacher, of_teacher = (
        np.stack([getattr(rows, name) for rows in by_seed])
        for name in ("prediction", "confidence", "teacher", "teacher_confidence")
    )
    groups = None if (first.group == UNKNOWN).all() else first.group
    return Predictions(
        first.form, first.row_id, first.label, predicted, confidence, teacher, of_teacher, groups
    )
