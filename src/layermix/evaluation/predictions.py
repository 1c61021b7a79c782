"""Predictions on the validation rows, of one run (predictions.parquet) or of many seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from layermix.evaluation.metrics import UNLABELLED

MOST_CLASSES = 1_000
"""Class indices on record are smaller, or smaller than the number of columns with probabilities."""
UNKNOWN = -1
"""A teacher's prediction that is not on record."""


@dataclass(frozen=True)
class Rows:
    """One run's predictions at one reported epoch, in the order of the row numbers, each (N,).

    Attributes:
        row_id: Which rows.
        label: Class indices, −100 where a row has none.
        prediction: Class indices.
        confidence: The probability of the prediction.
        teacher: Class indices, `UNKNOWN` where they are not on record.
        teacher_confidence: The probability of the teacher's prediction.
    """

    row_id: NDArray[np.integer[Any]]
    label: NDArray[np.integer[Any]]
    prediction: NDArray[np.integer[Any]]
    confidence: NDArray[np.floating[Any]]
    teacher: NDArray[np.integer[Any]]
    teacher_confidence: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Predictions:
    """The predictions of one or several seeds on the same rows.

    Attributes:
        row_ids: (N,).
        labels: (N,), −100 where a row has none.
        predicted: (S, N), class indices.
        confidence: (S, N), the probability of the prediction.
        teacher: (S, N), the predictions of the teacher of each seed, `UNKNOWN` if not on record.
        teacher_confidence: (S, N).
    """

    row_ids: NDArray[np.integer[Any]]
    labels: NDArray[np.integer[Any]]
    predicted: NDArray[np.integer[Any]]
    confidence: NDArray[np.floating[Any]]
    teacher: NDArray[np.integer[Any]]
    teacher_confidence: NDArray[np.floating[Any]]

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,), rows that have a label."""
        return self.labels >= 0

    @property
    def has_teacher(self) -> NDArray[np.bool_]:
        """(S,), seeds whose teacher's predictions are on record."""
        on_record: NDArray[np.bool_] = (self.teacher != UNKNOWN).all(1)
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
    columns = {name: np.asarray(table[name]) for name in table.column_names}
    for name in ("row_id", "label", "prediction", *({"teacher"} & columns.keys())):
        if not np.issubdtype(columns[name].dtype, np.integer):
            raise ValueError(f"the column {name} holds values that are not integers")
    probabilities = [values for name, values in columns.items() if name.startswith("p_")]
    count = len(columns["row_id"])
    columns["confidence"] = (
        np.max(probabilities, axis=0) if probabilities else np.full(count, np.nan)
    )
    if count:
        _check_classes(columns, max(len(probabilities), MOST_CLASSES))
    if not {"teacher", "teacher_confidence"} <= columns.keys():
        columns["teacher"] = np.full(count, UNKNOWN)
        columns["teacher_confidence"] = np.full(count, np.nan)
    by_report = {}
    for report in dict.fromkeys(columns["report"].tolist()):
        kept = columns["report"] == report
        order = columns["row_id"][kept].argsort()
        by_report[str(report)] = Rows(
            *(half_width(columns[column.name][kept][order]) for column in fields(Rows))
        )
    return by_report


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
            first.label, other.label
        )
        if not is_same:
            return None
    return Predictions(
        first.row_id,
        first.label,
        *(
            np.stack([getattr(rows, name) for rows in by_seed])
            for name in ("prediction", "confidence", "teacher", "teacher_confidence")
        ),
    )
