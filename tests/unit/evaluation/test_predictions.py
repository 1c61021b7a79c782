"""Predictions that others wrote: indices are those of classes, or the file is refused."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layermix.evaluation.predictions import UNKNOWN, read_rows

COLUMNS: dict[str, list[Any]] = {
    "report": ["last"] * 3,
    "row_id": [4, 2, 7],
    "label": [0, 1, -100],
    "prediction": [1, 0, 1],
    "teacher": [0, UNKNOWN, 1],
    "teacher_confidence": [0.9, 0.9, 0.9],
    "p_no": [0.2, 0.8, 0.4],
    "p_yes": [0.8, 0.2, 0.6],
}


def written(folder: Path, columns: dict[str, list[Any]]) -> Path:
    file = folder / "predictions.parquet"
    pq.write_table(pa.table(columns), file)
    return file


def test_rows_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, COLUMNS))["last"]
    assert rows.row_id.tolist() == [2, 4, 7]
    assert rows.label.tolist() == [1, 0, -100]
    assert rows.confidence.tolist() == pytest.approx([0.8, 0.8, 0.6])


@pytest.mark.parametrize("probabilities", [True, False])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("label", value) for value in (-5, 10**9, 2**40, 0.5, None, "x")),
        *(("prediction", value) for value in (-1, 10**9, None)),
        *(("teacher", value) for value in (-2, 10**9, None)),
        ("row_id", "x"),
    ],
)
def test_a_column_that_no_run_writes_is_refused(
    tmp_path: Path, column: str, value: Any, probabilities: bool
) -> None:
    columns = COLUMNS | {column: [value] * 3}
    if not probabilities:
        columns = {name: values for name, values in columns.items() if not name.startswith("p_")}
    with pytest.raises(ValueError, match=f"the column {column} holds values that are not"):
        read_rows(written(tmp_path, columns))
