"""Rows on which versions of a model are compared: the validation rows of its run, or the user's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from layermix.config import DataConfig
from layermix.console import Reporter
from layermix.data.tasks import TASKS
from layermix.errors import ConfigError, Note
from layermix.evaluation.metrics import UNLABELLED
from layermix.evaluation.statistics import Score
from layermix.models.labels import class_order
from layermix.models.loading import model_folder
from layermix.runs.layout import PREDICTIONS, RESULT, TEXTS
from layermix.runs.reader import RunFiles
from layermix.serving.evaluate import labelled_texts
from layermix.serving.predictor import Predictor

ENOUGH = 200
"""Labelled rows that must remain on each side if those that judge are split from the others."""


@dataclass(frozen=True)
class EvaluationRows:
    """Rows of one task.

    Attributes:
        texts: Columns `text`, perhaps `text_pair`, `label` and `row_id`.
        metric: The task's first score, or accuracy if that score has no interval.
        source: Where they come from, in words.
    """

    texts: Dataset
    metric: Score
    source: str

    @property
    def labels(self) -> NDArray[np.integer[Any]]:
        """(N,), class indices, `UNLABELLED` where a row has none."""
        return np.asarray(self.texts["label"])

    @property
    def tuples(self) -> list[tuple[str, ...]]:
        """One or two texts per row."""
        parts = [name for name in ("text", "text_pair") if name in self.texts.column_names]
        return list(zip(*(self.texts[name][:] for name in parts), strict=True))

    def steering_and_judging(
        self, seed: int = 0
    ) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
        """Indices of labelled rows by which a version is chosen, and of those that judge it.

        The two are random halves if each has `ENOUGH` rows. Otherwise both are all labelled rows.
        """
        labelled = np.flatnonzero(self.labels != UNLABELLED)
        if len(labelled) < 2 * ENOUGH:
            return labelled, labelled
        drawn = np.random.default_rng(seed).permutation(labelled)
        half = len(drawn) // 2
        return np.sort(drawn[:half]), np.sort(drawn[half:])


def run_of(source: str) -> Path | None:
    """The run folder that contains a model; None if it is somewhere else."""
    folder = model_folder(source)
    run = None if folder is None else folder.absolute().parent
    return run if run is not None and (run / RESULT).is_file() else None


def evaluation_rows(
    source: str, data: DataConfig, predictor: Predictor, reporter: Reporter
) -> EvaluationRows:
    """The rows that the user names; by default the validation rows of the model's run.

    Args:
        source: Run folder, model folder or hub id.
        data: A folder or hub data set, whose validation rows are used, or a file, of which every
            row is used; may name nothing.
        predictor: Says which columns and classes the model has.
        reporter: Where notes are shown.

    Raises:
        LayermixError: If there are no rows, or their classes differ.
    """
    run = run_of(source)
    if data.path is not None:
        metric = "" if run is None else RunFiles(run).result.metric
        return _of_data(data, metric, predictor, reporter)
    if run is None:
        raise ConfigError(
            f"{source}: is not in a run folder, so there are no validation rows beside it; give "
            "--data FOLDER or FILE with labelled rows like those that the model will get"
        )
    files = RunFiles(run)
    predictions = files.predictions(files.result.metrics.saved_epoch)
    if predictions is None or not files.texts:
        problems = "; ".join(map(str, files.problems))
        raise ConfigError(
            f"{run}: cannot read the validation rows from its {PREDICTIONS} and {TEXTS} "
            f"({problems or 'they are empty'}); give --data FOLDER or FILE"
        )
    rows = [files.texts[int(row)] for row in predictions.row_ids]
    columns: dict[str, Any] = {"text": [row[0] for row in rows]}
    if len(rows[0]) == 2:
        columns["text_pair"] = [row[1] for row in rows]
    columns |= {
        "label": predictions.labels.tolist(),
        "row_id": predictions.row_ids.tolist(),
    }
    return EvaluationRows(
        Dataset.from_dict(columns),
        _score(files.result.metric, reporter),
        f"validation rows of {run.name}",
    )


def _of_data(
    data: DataConfig, metric: str, predictor: Predictor, reporter: Reporter
) -> EvaluationRows:
    """The user's rows, with the metric of the model's run, otherwise of their task."""
    texts, names = labelled_texts(data, predictor, reporter)
    order, _ = class_order(predictor.source, predictor.label_names, texts.label_names)
    rows = texts.splits["validation"]
    labels = [order[label] if label != UNLABELLED else label for label in rows["label"]]
    rows = rows.remove_columns("label").add_column("label", labels)
    if not metric:
        task = TASKS.get(texts.task or "")
        metric = task.metrics[0] if task else "accuracy"
    return EvaluationRows(rows, _score(metric, reporter), names["validation"])


def _score(metric: str, reporter: Reporter) -> Score:
    if metric in get_args(Score):
        return cast(Score, metric)
    text = f"{metric or 'the score'} has no interval, so accuracy is compared"
    reporter.say(Note("score-without-interval", text))
    return "accuracy"
