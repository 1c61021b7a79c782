"""Rows on which versions of a model are compared: the validation rows of its run, or the user's."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from layermix.config import DataConfig
from layermix.console import Reporter
from layermix.data.splits import GROUP, WORDS, labels_of
from layermix.data.tasks import TASKS
from layermix.errors import ConfigError, Note
from layermix.evaluation.weighted_scores import WEIGHTED
from layermix.models.inference import Floats
from layermix.models.labels import class_order
from layermix.models.loading import model_folder
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.problem import Problem
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
        texts: Columns `text`, perhaps `text_pair` and `group`, `label` and `row_id`.
        metric: The task's first score, or another one if that score has no interval.
        source: Where they come from, in words.
        problem: The kind of label.
        order: The model's output for each of the data's classes; empty if they have one order.
    """

    texts: Dataset
    metric: str
    source: str
    problem: Problem = CLASSIFICATION
    order: tuple[int, ...] = ()

    @property
    def labels(self) -> NDArray[Any]:
        """One for each row, as the kind of label has them."""
        return labels_of(self.texts["label"])

    @property
    def groups(self) -> NDArray[np.integer[Any]] | None:
        """(N,), the number of each row's group; None where rows do not belong together."""
        if GROUP not in self.texts.column_names:
            return None
        return np.unique(np.asarray(self.texts[GROUP][:]), return_inverse=True)[1]

    def in_order(self, logits: Floats) -> Floats:
        """A model's logits, (…, C), in the order of the data's classes."""
        return logits[..., self.order] if self.order else logits

    @property
    def labelled(self) -> NDArray[np.integer[Any]]:
        """Indices of the rows that have a label."""
        return np.flatnonzero(self.problem.labelled(self.labels))

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
        labelled = self.labelled
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
    lacks_words = predictor.problem.by_word and not files.words
    if predictions is None or not files.texts or lacks_words:
        problems = "; ".join(map(str, files.problems))
        raise ConfigError(
            f"{run}: cannot read the validation rows from its {PREDICTIONS} and {TEXTS} "
            f"({problems or 'they are empty'}); give --data FOLDER or FILE"
        )
    rows = [files.texts[int(row)] for row in predictions.row_ids]
    columns: dict[str, Any] = {"text": [row[0] for row in rows]}
    if len(rows[0]) == 2:
        columns["text_pair"] = [row[1] for row in rows]
    labels = predictions.labels.tolist()
    if predictor.problem.by_word:
        words = [files.words[int(row)] for row in predictions.row_ids]
        columns[WORDS] = [[*chain.from_iterable(of_row)] for of_row in words]
        labels = [row[: len(of_row)] for row, of_row in zip(labels, words, strict=True)]
    columns |= {"label": labels, "row_id": predictions.row_ids.tolist()}
    if predictions.groups is not None:
        columns[GROUP] = predictions.groups.tolist()
    return EvaluationRows(
        Dataset.from_dict(columns),
        _score(files.result.metric, predictor.problem, reporter),
        f"validation rows of {run.name}",
        predictor.problem,
    )


def _of_data(
    data: DataConfig, metric: str, predictor: Predictor, reporter: Reporter
) -> EvaluationRows:
    """The user's rows, with the metric of the model's run, otherwise of their task."""
    texts, names = labelled_texts(data, predictor, reporter)
    names_of_both = predictor.label_names, texts.label_names
    order, _ = class_order(predictor.source, *names_of_both, named=predictor.problem.named)
    rows, problem = texts.splits["validation"], predictor.problem
    if not metric:
        task = TASKS.get(texts.task or "")
        of_task = task is not None and task.problem == problem.name
        metric = task.metrics[0] if task and of_task else problem.default_scores[0]
    score = _score(metric, problem, reporter)
    return EvaluationRows(rows, score, names["validation"], problem, tuple(order))


def _score(metric: str, problem: Problem, reporter: Reporter) -> str:
    """The score that is compared: the given one, if it has an interval over rows."""
    if metric in WEIGHTED:
        return metric
    other = next((name for name in problem.default_scores if name in WEIGHTED), "accuracy")
    text = f"{metric or 'the score'} has no interval, so {other} is compared"
    reporter.say(Note("score-without-interval", text))
    return other
