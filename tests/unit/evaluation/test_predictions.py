"""Predictions that others wrote: indices are those of classes, or the file is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layermix.evaluation.predictions import FORM, UNKNOWN, combine, read_rows

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


def written(folder: Path, columns: dict[str, list[Any]], form: str = "") -> Path:
    """A file as a run writes it, or without a form as older versions did."""
    file = folder / "predictions.parquet"
    metadata = {FORM: form.encode()} if form else None
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), file)
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


# -- numbers and several labels --------------------------------------------------------------------


def test_numbers_are_read_with_and_without_a_teacher(tmp_path: Path) -> None:
    columns = {
        "report": ["last"] * 3,
        "row_id": [7, 5, 6],
        "label": [-100.0, float("nan"), 3.0],  # a number like any other
        "prediction": [1.0, 2.0, 3.5],
        "teacher": [1.25, 2.0, 3.0],
    }
    rows = read_rows(written(tmp_path, columns))
    found = combine([rows], "last")
    assert found is not None
    assert found.form == "number"
    assert found.row_ids.tolist() == [5, 6, 7]
    assert found.known.tolist() == [False, True, True]
    assert found.predicted.tolist() == [[2, 3.5, 1]]
    assert found.has_teacher.tolist() == [True]
    assert combine([rows, rows], "last") is not None  # NaN labels are equal
    del columns["teacher"]
    bare = combine([read_rows(written(tmp_path, columns))], "last")
    assert bare is not None
    assert bare.has_teacher.tolist() == [False]
    assert np.isnan(bare.confidence).all()


def test_sets_of_labels_are_read_with_and_without_a_teacher(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "report": ["last"] * 2,
        "row_id": [1, 0],
        "label": [[1, 0, 0], [-100, -100, -100]],
        "prediction": [[1, 1, 0], [0, 0, 0]],
        "teacher": [[1, 0, 0], [0, 1, 0]],
        "p_a": [0.9, 0.1],
    }
    found = combine([read_rows(written(tmp_path, columns))], "last")
    assert found is not None
    assert found.form == "labels"
    assert found.known.tolist() == [False, True]
    assert found.predicted.tolist() == [[[0, 0, 0], [1, 1, 0]]]
    assert found.has_teacher.tolist() == [True]
    del columns["teacher"]
    bare = combine([read_rows(written(tmp_path, columns))], "last")
    assert bare is not None
    assert bare.has_teacher.tolist() == [False]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"label": [1, 2]}, "the column label holds values that are not numbers"),
        ({"teacher": [1, 2]}, "the column teacher holds values that are not numbers"),
        ({"prediction": [float("nan"), 1.0]}, "the column prediction holds values that are not fi"),
        ({"prediction": [[0, 2], [1, 0]]}, "the column label holds values that are not 0 or 1"),
        (
            {"prediction": [[0, 2], [1, 0]], "label": [[0, 1], [1, 1]]},
            "the column prediction holds values that are not 0 or 1 for each label",
        ),
        (
            {"prediction": [[0, 1], [1, 0]], "label": [[0, 1], [1, 1]], "teacher": [[1], [0]]},
            "the column teacher holds values that are not 0 or 1 for each label",
        ),
    ],
)
def test_other_answers_than_a_run_writes_are_refused(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    columns = {
        "report": ["last"] * 2,
        "row_id": [0, 1],
        "label": [0.5, 1.5],
        "prediction": [1.0, 2.0],
        "teacher": [1.0, 2.0],
    }
    with pytest.raises(ValueError, match=told):
        read_rows(written(tmp_path, {**columns, **changed}))


TAGS: dict[str, Any] = {
    "report": ["last"] * 3,
    "row_id": [1, 0, 2],
    "label": [[1, 2, -100], [-100, 0, 1], [-100, -100, -100]],
    "prediction": [[1, 0, -100], [0, 0, 1], [3, 0, 1]],
    "teacher": [[1, 2, -100], [0, 0, -100], [3, 0, 1]],
}


def test_tags_are_read_with_and_without_a_teacher(tmp_path: Path) -> None:
    runs = [read_rows(written(tmp_path, TAGS, "tags"))] * 2
    found = combine(runs, "last")
    assert found is not None
    assert found.form == "tags"
    assert found.row_ids.tolist() == [0, 1, 2]
    assert found.known.tolist() == [True, True, False]
    assert found.predicted.shape == (2, 3, 3)
    assert found.predicted[0].tolist() == [[0, 0, 1], [1, 0, -100], [3, 0, 1]]
    assert found.has_teacher.tolist() == [True, True]
    bare = {name: values for name, values in TAGS.items() if name != "teacher"}
    alone = combine([read_rows(written(tmp_path, bare, "tags"))], "last")
    assert alone is not None
    assert alone.has_teacher.tolist() == [False]


def test_the_form_is_what_the_file_says(tmp_path: Path) -> None:
    sets = {**TAGS, "label": [[0, 1]] * 3, "prediction": [[1, 1]] * 3, "teacher": [[1, 0]] * 3}
    as_tags, as_sets = (read_rows(written(tmp_path, sets, form)) for form in ("tags", "labels"))
    assert (as_tags["last"].form, as_sets["last"].form) == ("tags", "labels")
    assert read_rows(written(tmp_path, sets))["last"].form == "labels"
    assert combine([as_tags, as_sets], "last") is None
    with pytest.raises(ValueError, match="its labels are 'trees', wanted one of class, labels, nu"):
        read_rows(written(tmp_path, sets, "trees"))
    nothing = {name: pa.array([], pa.list_(pa.int64())) for name in ("label", "prediction")}
    none = {"report": pa.array([], pa.string()), "row_id": pa.array([], pa.int64()), **nothing}
    assert read_rows(written(tmp_path, none, "tags")) == {}


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("label", [[1, 2, -5], [0, 0, 0], [0, 0, 0]]),
        ("label", [[1, 2], [0, 0], [0, 0]]),
        ("prediction", [[1, 2, 10**6], [0, 0, 0], [0, 0, 0]]),
        ("prediction", [[0.5, 2, 1], [0, 0, 0], [0, 0, 0]]),
        ("teacher", [1, 2, 3]),
        ("teacher", [[1, 2, -3], [0, 0, 0], [0, 0, 0]]),
    ],
)
def test_tags_that_no_run_writes_are_refused(tmp_path: Path, column: str, values: Any) -> None:
    with pytest.raises(ValueError, match="holds values that are not a tag for each word"):
        read_rows(written(tmp_path, TAGS | {column: values}, "tags"))


def test_groups_are_read_and_those_of_labelled_rows_given(tmp_path: Path) -> None:
    found = combine([read_rows(written(tmp_path, COLUMNS | {"group": [3, 1, 1]}))], "last")
    assert found is not None
    assert found.groups is not None
    assert found.groups.tolist() == [1, 3, 1]
    assert found.groups_of_known is not None
    assert found.groups_of_known.tolist() == [1, 3]
    one = combine([read_rows(written(tmp_path, COLUMNS | {"group": [3, 3, 1]}))], "last")
    assert one is not None
    assert one.groups_of_known is None
    bare = combine([read_rows(written(tmp_path, COLUMNS))], "last")
    assert bare is not None
    assert bare.groups is None
