"""How answers look on a page, by the form of a label: a class, labels, a number, or tags of words.

To show another form, write a class and its row in `ANSWERS`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from layermix.evaluation import (
    entities,
    label_set_metrics,
    metrics,
    number_metrics,
    tag_metrics,
)
from layermix.evaluation.forms import Form
from layermix.evaluation.metrics import UNLABELLED
from layermix.evaluation.predictions import Predictions
from layermix.report import figures
from layermix.report.charts import class_name, prediction_charts, shortened
from layermix.report.figures import Figure

Names = Sequence[str]
Array = NDArray[Any]

MOST_DOTS = 1000
"""Largest number of rows in a chart of numbers."""


class ShownRow(NamedTuple):
    """What an answer is about.

    Attributes:
        text: The text, or both; empty if it is not on record.
        words: Where its words are: first character, and the one after the last; empty likewise.
    """

    text: str
    words: Sequence[tuple[int, int]] = ()


class Answers(Protocol):
    """How answers of one form are shown; answers are (…, N), (…, N, C), or (…, N, W).

    Attributes:
        agree: What a share of rows that do not differ means, before the share.
        differing: The heading of the rows that differ.
        explained: What to say about the cells of these rows.
    """

    agree: str
    differing: str
    explained: str = ""

    def charts(self, models: Mapping[str, Predictions], names: Names, name: str) -> list[Figure]:
        """Charts of the models' answers, and of their teachers'; `name` ends the charts' names."""
        ...

    def text(self, names: Names, answer: Any, confidence: float = np.nan) -> str:
        """One answer or label, (), (C,), or (W,)."""
        ...

    def text_in(
        self,
        row: ShownRow,
        names: Names,
        answer: Any,
        others: Sequence[Any],
        confidence: float = np.nan,
    ) -> str:
        """One answer or label beside other ones, in its row (default: `text`)."""
        return self.text(names, answer, confidence)

    def marked(self, row: ShownRow, names: Names, label: Any) -> str:
        """The text of a row with what its label says of it (default: the text)."""
        return row.text

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


class ClassAnswers(Answers):
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


class NumberAnswers(Answers):
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


class LabelSetAnswers(Answers):
    """Several labels per row."""

    agree = "they give the same labels to"
    differing = "Rows with different labels"

    def charts(self, models: Mapping[str, Predictions], names: Names, name: str) -> list[Figure]:
        """F1 of each label, mean over seeds."""
        first = next(iter(models.values()))
        if not first.known.any():
            return []
        shown = names or [str(index) for index in range(first.labels.shape[1])]
        scores = partial(label_set_metrics.per_label, names=shown)
        return [_f1_chart(models, f"labels{name}", scores, "label")]

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


class TagAnswers(Answers):
    """A tag for each word, of named entities or of any kind."""

    agree = "they give the same tags to the words of"
    differing = "Rows with different tags"
    explained = (
        " Labels are in brackets in the text. Entities with * come first: at least one answer that "
        "they are compared with does not have them. Of other tags, the words that differ are shown."
    )

    def charts(self, models: Mapping[str, Predictions], names: Names, name: str) -> list[Figure]:
        """F1 of each type of entity, or of each tag, mean over seeds."""
        first = next(iter(models.values()))
        if not first.known.any():
            return []
        answered = [each for one in models.values() for each in (one.predicted, one.teacher)]
        highest = max(int(each.max()) for each in (first.labels, *answered))
        if (scheme := entities.scheme(names)) and highest < len(names):
            scores = partial(tag_metrics.per_type, scheme=scheme)
            return [_f1_chart(models, f"types{name}", scores, "type of entity")]
        shown = [class_name(names, index) for index in range(max(len(names), highest + 1))]
        return [_f1_chart(models, f"tags{name}", partial(tag_metrics.per_tag, names=shown), "tag")]

    def text(self, names: Names, answer: Any, confidence: float = np.nan) -> str:
        """The tags of the words that have one; a dash if none has."""
        return " ".join(class_name(names, int(tag)) for tag in answer if tag >= 0) or "–"

    def text_in(
        self,
        row: ShownRow,
        names: Names,
        answer: Any,
        others: Sequence[Any],
        confidence: float = np.nan,
    ) -> str:
        """The entities, first those that another answer has not, or the words that differ."""
        if (answer < 0).all():
            return "–"
        if (scheme := entities.scheme(names)) is None:
            differ = np.any([_differ(answer, other) for other in others], axis=0)
            words = [
                f"{_words(row, place, place + 1)}/{class_name(names, int(answer[place]))}"
                for place in np.flatnonzero(differ & (answer >= 0)).tolist()
            ]
            return shortened("  ".join(words)) or "(no difference)"
        found, *of_others = (_entities(scheme, one) for one in (answer, *others))
        own = [one for one in found if not all(one in other for other in of_others)]
        parts = [f"*{kind}: {_words(row, start, end)}" for start, end, kind in own]
        parts += [
            f"{kind}: {_words(row, start, end)}"
            for start, end, kind in found
            if (start, end, kind) not in own
        ]
        return shortened("; ".join(parts)) or "(none)"

    def marked(self, row: ShownRow, names: Names, label: Any) -> str:
        """The text with the entities of the label in brackets, such as [Paris LOC]."""
        scheme = entities.scheme(names)
        if scheme is None or not row.words:
            return row.text
        text = row.text
        for start, end, kind in reversed(_entities(scheme, label)):
            if end <= len(row.words):
                first, last = row.words[start][0], row.words[end - 1][1]
                text = f"{text[:first]}[{text[first:last]} {kind}]{text[last:]}"
        return text

    def differ(self, student: Array, teacher: Array) -> NDArray[np.bool_]:
        """Other tags of words that both saw."""
        return np.asarray(_differ(student, teacher).any(-1))

    def strength(self, student: Array, teacher: Array, confidence: Array) -> Array:
        """How many words differ."""
        count: Array = _differ(student, teacher).sum(-1)
        return count

    def constant(self, predictions: Predictions, names: Names) -> list[str]:
        """The share of words with the most frequent tag."""
        labels = predictions.labels[predictions.labels != UNLABELLED]
        tags, counts = np.unique(labels, return_counts=True)
        answers = np.unique(predictions.predicted[0])
        answers = answers[answers != UNLABELLED]
        is_same = len(answers) == 1 < len(tags)
        warning = (
            f" This student predicts {class_name(names, int(answers[0]))} for every word: it has "
            "learned nothing yet."
            if is_same
            else ""
        )
        most = class_name(names, int(tags[counts.argmax()]))
        return [
            f"Always predicting {most}, the most frequent tag, is right on "
            f"{counts.max() / len(labels):.1%} of the words.{warning}"
        ]


def _differ(first: Array, second: Array) -> NDArray[np.bool_]:
    """At which words tags differ that are both there, (…, W)."""
    return np.asarray((first != second) & (first >= 0) & (second >= 0))


def _entities(scheme: entities.Scheme, tags: Array) -> list[tuple[int, int, str]]:
    """First word, the place after the last, and type of each entity of a row, (W,)."""
    known = np.where(tags < len(scheme.canonical), tags, UNLABELLED)
    canonical = scheme.of(known)
    ends, types = entities.ends_of(canonical), entities.types_of(canonical)
    return [
        (start, int(ends[start]), scheme.types[types[start]])
        for start in np.flatnonzero(ends).tolist()
    ]


def _words(row: ShownRow, start: int, end: int) -> str:
    """The text from one word to another; their numbers if it is not on record."""
    if end <= len(row.words):
        return row.text[row.words[start][0] : row.words[end - 1][1]]
    return f"word {start + 1}" if end == start + 1 else f"words {start + 1} to {end}"


def _f1_chart(
    models: Mapping[str, Predictions],
    name: str,
    scores: Callable[[Array, Array], Mapping[str, Mapping[str, float]]],
    what: str,
) -> Figure:
    """F1 of each label, mean over seeds, of the models and their teachers.

    Args:
        models: Title -> predictions.
        name: Of the chart.
        scores: Answers and labels -> label -> its scores.
        what: What a label is called.
    """
    first = next(iter(models.values()))
    answers = {title: model.predicted for title, model in models.items()}
    with_teacher = [model for model in models.values() if model.has_teacher.any()]
    if with_teacher:
        teachers = [model.teacher[model.has_teacher] for model in with_teacher]
        answers = {"teacher": np.unique(np.concatenate(teachers), axis=0), **answers}
    rows = []
    for title, by_seed in answers.items():
        each = [scores(one[first.known], first.labels[first.known]) for one in by_seed]
        rows += [
            {
                "model": title,
                "label": label,
                "f1": float(np.mean([one[label]["f1"] for one in each])),
                "rows": each[0][label]["support"],
            }
            for label in each[0]
        ]
    seeds = max(len(model.predicted) for model in models.values())
    return figures.by_label(name, rows, seeds, what)


ANSWERS: Mapping[Form, Answers] = {
    "class": ClassAnswers(),
    "labels": LabelSetAnswers(),
    "number": NumberAnswers(),
    "tags": TagAnswers(),
}
"""Form of a label -> how answers are shown."""
