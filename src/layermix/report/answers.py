"""How answers look on a page, by the form of a label: a class, several labels, or a number.

To show another form, write a class and its row in `ANSWERS`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from layermix.evaluation import label_set_metrics, metrics, number_metrics
from layermix.evaluation.forms import Form
from layermix.evaluation.predictions import Predictions
from layermix.report import figures
from layermix.report.charts import class_name, prediction_charts
from layermix.report.figures import Figure

Names = Sequence[str]
Array = NDArray[Any]

MOST_DOTS = 1000
"""Largest number of rows in a chart of numbers."""


class Answers(Protocol):
    """How answers of one form are shown; answers are (…, N), or (…, N, C).

    Attributes:
        agree: What a share of rows that do not differ means, before the share.
        differing: The heading of the rows that differ.
    """

    agree: str
    differing: str

    def charts(self, models: Mapping[str, Predictions], names: Names, name: str) -> list[Figure]:
        """Charts of the models' answers, and of their teachers'; `name` ends the charts' names."""
        ...

    def text(self, names: Names, answer: Any, confidence: float = np.nan) -> str:
        """One answer or label, (), or (C,)."""
        ...

    def differ(self, student: Array, teacher: Array) -> NDArray[np.bool_]:
        """Which answers differ, (…, N)."""
        ...

    def strength(self, student: Array, teacher: Array, confidence: Array) -> Array:
        """By what rows are ordered that differ, the largest first, (N,).

        Args:
            student: Answers, (N,).
            teacher: Answers, (N,).
            confidence: The sum of both confidences, (N,).
        """
        ...

    def constant(self, predictions: Predictions, names: Names) -> list[str]:
        """What always answering the same would have, and whether the first seed does that."""
        ...


def _warned(only: str) -> str:
    return f" This student predicts {only} on every row: it has learned nothing yet."


class ClassAnswers:
    """One class per row."""

    agree = "their predictions agree on"
    differing = "Rows with different predictions"

    def charts(self, models: Mapping[str, Predictions], names: Names, name: str) -> list[Figure]:
        """Confusion and calibration."""
        return prediction_charts(models, names, name)

    def text(self, names: Names, answer: Any, confidence: float = np.nan) -> str:
        """The name of the class, with its probability."""
        name = class_name(names, int(answer))
        return name if np.isnan(confidence) else f"{name} ({confidence:.0%})"

    def differ(self, student: Array, teacher: Array) -> NDArray[np.bool_]:
        """Other classes."""
        differ: NDArray[np.bool_] = student != teacher
        return differ

    def strength(self, student: Array, teacher: Array, confidence: Array) -> Array:
        """How sure both are."""
        return np.nan_to_num(confidence)

    def constant(self, predictions: Predictions, names: Names) -> list[str]:
        """The share of the most frequent class."""
        share = metrics.majority_share(predictions.labels)
        answers, labels = predictions.predicted[0], predictions.labels[predictions.known]
        same = len(np.unique(answers)) == 1 and len(np.unique(labels)) > 1
        warning = _warned(class_name(names, int(answers[0]))) if same else ""
        return [f"Always predicting the most frequent class is right on {share:.1%}.{warning}"]


class NumberAnswers:
    """A number per row."""

    agree = "their numbers are within a tenth of the teacher's standard deviation on"
    differing = "Rows with the most different numbers"

    def charts(self, models: Mapping[str, Predictions], names: Names, name: str) -> list[Figure]:
        """Answers against labels."""
        first = next(iter(models.values()))
        known = np.flatnonzero(first.known)
        if not len(known):
            return []
        chosen = known[np.linspace(0, len(known) - 1, min(MOST_DOTS, len(known))).astype(int)]
        answers = {title: model.predicted.mean(0) for title, model in models.items()}
        with_teacher = [model for model in models.values() if model.has_teacher.any()]
        if with_teacher:
            teachers = [model.teacher[model.has_teacher] for model in with_teacher]
            answers = {"teacher": np.concatenate(teachers).mean(0), **answers}
        rows = [
            {
                "model": title,
                "row": int(first.row_ids[row]),
                "label": float(first.labels[row]),
                "answer": float(numbers[row]),
            }
            for title, numbers in answers.items()
            for row in chosen
        ]
        seeds = max(len(model.predicted) for model in models.values())
        return [figures.numbers(f"numbers{name}", rows, seeds)]

    def text(self, names: Names, answer: Any, confidence: float = np.nan) -> str:
        """The number."""
        return "–" if np.isnan(answer) else f"{answer:.4g}"

    def differ(self, student: Array, teacher: Array) -> NDArray[np.bool_]:
        """Numbers that are not `number_metrics.alike`."""
        return ~number_metrics.alike(teacher, student)

    def strength(self, student: Array, teacher: Array, confidence: Array) -> Array:
        """How far they are apart."""
        distance: Array = np.abs(student - teacher)
        return distance

    def constant(self, predictions: Predictions, names: Names) -> list[str]:
        """The mean error of always answering the mean."""
        labels = predictions.labels[predictions.known]
        error = float(np.abs(labels - labels.mean()).mean())
        answers = predictions.predicted[0]
        warning = _warned(f"{answers[0]:.4g}") if np.ptp(answers) == 0 < np.ptp(labels) else ""
        return [
            f"Always answering the mean, {labels.mean():.4g}, has a mae of {error:.4f}.{warning}"
        ]


class LabelSetAnswers:
    """Several labels per row."""

    agree = "they give the same labels to"
    differing = "Rows with different labels"

    def charts(self, models: Mapping[str, Predictions], names: Names, name: str) -> list[Figure]:
        """F1 of each label, mean over seeds."""
        first = next(iter(models.values()))
        known = first.known
        if not known.any():
            return []
        answers = {title: model.predicted for title, model in models.items()}
        with_teacher = [model for model in models.values() if model.has_teacher.any()]
        if with_teacher:
            teachers = [model.teacher[model.has_teacher] for model in with_teacher]
            answers = {"teacher": np.unique(np.concatenate(teachers), axis=0), **answers}
        shown = names or [str(index) for index in range(first.labels.shape[1])]
        rows = []
        for title, by_seed in answers.items():
            each = [
                label_set_metrics.per_label(one[known], first.labels[known], shown)
                for one in by_seed
            ]
            rows += [
                {
                    "model": title,
                    "label": label,
                    "f1": float(np.mean([one[label]["f1"] for one in each])),
                    "rows": each[0][label]["support"],
                }
                for label in shown
            ]
        seeds = max(len(model.predicted) for model in models.values())
        return [figures.by_label(f"labels{name}", rows, seeds)]

    def text(self, names: Names, answer: Any, confidence: float = np.nan) -> str:
        """The names of the labels; a dash where the row has no labels on record."""
        if (answer < 0).any():
            return "–"
        given = [class_name(names, int(index)) for index in np.flatnonzero(answer)]
        return "; ".join(given) or "(none)"

    def differ(self, student: Array, teacher: Array) -> NDArray[np.bool_]:
        """Other labels."""
        differ: NDArray[np.bool_] = (student != teacher).any(-1)
        return differ

    def strength(self, student: Array, teacher: Array, confidence: Array) -> Array:
        """How many labels differ."""
        count: Array = (student != teacher).sum(-1)
        return count

    def constant(self, predictions: Predictions, names: Names) -> list[str]:
        """The share of rows with the most frequent labels."""
        labels = predictions.labels[predictions.known]
        sets, counts = np.unique(labels, axis=0, return_counts=True)
        answers = np.unique(predictions.predicted[0], axis=0)
        is_same = len(answers) == 1 < len(sets)
        warning = _warned(self.text(names, answers[0])) if is_same else ""
        most = self.text(names, sets[counts.argmax()])
        share = counts.max() / len(labels)
        return [
            f"Always answering {most}, the most frequent labels, is right on {share:.1%}.{warning}"
        ]


ANSWERS: Mapping[Form, Answers] = {
    "class": ClassAnswers(),
    "labels": LabelSetAnswers(),
    "number": NumberAnswers(),
}
"""Form of a label -> how answers are shown."""
