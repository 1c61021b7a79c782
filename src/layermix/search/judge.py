"""The last comparison of a search: what it can be expected to show, and its verdict."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from layermix.atomic import whole_file, whole_folder
from layermix.console import Reporter
from layermix.data.texts import TextData
from layermix.data.tokenization import Collator, tokenize_split
from layermix.errors import StudyError
from layermix.evaluation.noninferiority import (
    counting_rows,
    independent_rows,
    non_inferiority,
    power,
)
from layermix.evaluation.predictions import Predictions, combine, half_width
from layermix.evaluation.statistics import row_error
from layermix.evaluation.weighted_scores import WEIGHTED
from layermix.models.inference import logits_of
from layermix.models.loading import load_classifier
from layermix.search.measure import write_int8
from layermix.search.schema import FloorVerdict, PowerRecord
from layermix.serving.predictor import ONNX_FILES, open_predictor
from layermix.studies.cells import Arm


def judged_score(metric: str, texts: TextData) -> str:
    """The main score, or if it has no interval over rows the first one that has."""
    if metric in WEIGHTED:
        return metric
    return next(name for name in texts.problem.default_scores if name in WEIGHTED)


def expected_power(
    arm: Arm, metric: str, floor: float, below: float, sd: float, seeds: int
) -> PowerRecord:
    """How probable it is that the verdict will show the floor.

    How much answers of student and teacher differ on the validation rows is taken from students of
    the last round; which of the two is better there is not looked at.

    Args:
        arm: The student, trained without the held-out rows.
        metric: The score that will be judged.
        floor: In points.
        below: Points below the teacher on the held-out rows.
        sd: Standard deviation over seeds, as a score.
        seeds: Of the last comparison.
    """
    found = _predictions(arm)
    known = found.known
    labels, groups = found.labels[known], found.groups_of_known
    error = row_error(
        found.predicted[:, known], found.teacher[0][known], labels, metric, groups=groups
    )[1]
    rows = counting_rows(labels, metric, groups), independent_rows(labels, groups)
    if_equal, if_as_found = (
        power(floor / 100, -points / 100, sd, error, seeds, *rows) for points in (0.0, below)
    )
    return PowerRecord(if_equal=if_equal, if_as_found=if_as_found, sd=sd, error=error)


def floor_verdict(
    arm: Arm,
    metric: str,
    floor: float,
    int8: NDArray[Any] | None = None,
) -> FloorVerdict:
    """Test fresh seeds for non-inferiority on the validation rows.

    Args:
        arm: The students.
        metric: The score that is judged.
        floor: In points.
        int8: From `int8_answers`, if the int8 files of the students are judged.

    Raises:
        StudyError: If the students were scored on different rows.
    """
    found, margin = _predictions(arm), floor / 100
    known, groups = found.known, found.groups_of_known
    labels, teacher, answers = (
        found.labels[known],
        found.teacher[0][known],
        found.predicted[:, known],
    )
    test = as_float = non_inferiority(answers, teacher, labels, metric, margin, groups)
    if int8 is not None:
        answers = int8[:, known]
        test = non_inferiority(answers, teacher, labels, metric, margin, groups)
    return FloorVerdict(
        metric=metric,
        floor=floor,
        teacher=_scores(metric, teacher[None], labels)[0],
        scores=_scores(metric, answers, labels),
        below=-100 * test.difference,
        limit=-100 * test.low,
        p=test.p,
        shown=test.shown,
        rows=int(known.sum()),
        int8=int8 is not None,
        int8_cost=None if int8 is None else 100 * (as_float.difference - test.difference),
    )


def _predictions(arm: Arm) -> Predictions:
    """The predictions of an arm's seeds on the validation rows."""
    found = combine([cell.predictions for cell in arm.cells.values()], "last")
    if found is None:
        names = ", ".join(cell.cell.name for cell in arm.cells.values())
        raise StudyError(
            "the seeds of a student were scored on different rows, so they cannot be judged; "
            f"remove the cells {names}, and the same command trains them again"
        )
    return found


def _scores(metric: str, answers: NDArray[Any], labels: NDArray[Any]) -> tuple[float, ...]:
    """The score of each run, (S,)."""
    found = WEIGHTED[metric].function(answers, labels, np.ones((1, len(labels))))[0]
    return tuple(float(score) for score in found)


def int8_answers(
    folders: Sequence[Path], arm: Arm, texts: TextData, reporter: Reporter
) -> NDArray[Any]:
    """Ask the int8 files of students for the validation rows.

    Args:
        folders: Of the students; those that have no int8 file get one.
        arm: The same students' cells.
        texts: The data.
        reporter: Where progress is shown.

    Returns:
        Their answers in the order of the rows of the cells, (S, N, …).
    """
    answers = []
    rows = texts.splits["validation"]
    places = {row: place for place, row in enumerate(rows["row_id"])}
    order = [places[row] for row in _predictions(arm).row_ids.tolist()]
    for folder in folders:
        file = folder / ONNX_FILES["int8"]
        if not file.is_file():
            with whole_folder(file.parent, replace=True) as work:
                write_int8(load_classifier(str(folder)), work)
        predictor = open_predictor(str(folder), "int8", texts.problem)
        predictor = predictor.in_order(texts.label_names)
        tokens, _ = tokenize_split(rows, predictor.tokenizer, predictor.max_length)
        collate = Collator(predictor.tokenizer)
        logits = logits_of(predictor.run, tokens, collate, track=reporter.track, what="int8")
        answers.append(texts.problem.answers(logits)[order])
    return np.stack(answers)


def write_answers(file: Path, arm: Arm, answers: NDArray[Any]) -> None:
    """Write answers of students, (S, N, …), by cell and row, so that a verdict has its evidence."""
    names, rows = [cell.cell.name for cell in arm.cells.values()], _predictions(arm).row_ids
    with whole_file(file) as temporary:
        columns = {
            "cell": np.repeat(names, len(rows)),
            "row_id": np.tile(rows, len(names)),
            "prediction": list(half_width(answers.reshape(-1, *answers.shape[2:]))),
        }
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def read_answers(file: Path, arm: Arm) -> NDArray[Any]:
    """Read what `write_answers` has written for the same cells, (S, N, …).

    Raises:
        StudyError: If it is of other cells or rows.
    """
    table = pq.read_table(file)
    names, rows = [cell.cell.name for cell in arm.cells.values()], _predictions(arm).row_ids
    of_cells = table["cell"].to_pylist() == np.repeat(names, len(rows)).tolist()
    if not of_cells or table["row_id"].to_pylist() != np.tile(rows, len(names)).tolist():
        raise StudyError(f"{file}: found answers of other cells or rows, wanted {', '.join(names)}")
    answers = np.array(table["prediction"].to_pylist())
    return answers.reshape(len(names), len(rows), *answers.shape[1:])
