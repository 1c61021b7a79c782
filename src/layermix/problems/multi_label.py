"""Several labels per row: logits (N, C), labels (N, C) of 0 and 1, −100 where a row has none."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from layermix.config import LabelLossConfig
from layermix.core.terms import Supervised
from layermix.errors import ConfigError
from layermix.evaluation import label_set_metrics
from layermix.evaluation.forms import Form
from layermix.evaluation.metrics import UNLABELLED
from layermix.evaluation.weighted_scores import WEIGHTED
from layermix.problems.problem import ROUNDING, Array, Constant, Problem

SEPARATOR = ";"
"""Between the labels of a row, in what `predict` writes."""

FOLDS = 5
"""Parts of the held-out rows by which it is decided whether each label has its own threshold."""

SMALLEST = 1e-6
"""The least distance of a probability from 0 and 1, as `layermix predict` rounds."""


class OneSet(Constant):
    """The best that always answering the same labels can do: some of the most frequent ones."""

    always = "the same labels"

    @cached_property
    def value(self) -> float:
        """The score of the best such answer."""
        by_frequency = self.known.mean(0).argsort()[::-1]
        tried = []
        for count in range(self.known.shape[1] + 1):
            answer = np.zeros(self.known.shape, dtype=int)
            answer[:, by_frequency[:count]] = 1
            tried.append(self._value_of(answer))
        return max(tried)

    def _value_of(self, answer: Array) -> float:
        if self.score in WEIGHTED:  # much faster than all scores
            weights = np.ones((1, len(self.known)))
            row = WEIGHTED[self.score]
            return float(row.function(answer[None], self.known, weights)[0, 0])
        shares = np.tile(self.known.mean(0), (len(self.known), 1))
        return label_set_metrics.scores(shares, answer, self.known)[self.score]


class MultiLabel(Problem):
    """The problem of choosing any of several labels for each row."""

    name = "multi_label"
    form: Form = "labels"
    supervised = "bce"
    logit_losses: tuple[str, ...] = ("bce", "mse")
    soft_losses: tuple[str, ...] = logit_losses
    default_scores: tuple[str, ...] = ("f1_micro", "f1_macro")
    calibrated_scores: tuple[str, ...] = ("f1_micro", "f1_macro", "f1_samples")
    higher_is_better: Mapping[str, bool] = label_set_metrics.HIGHER_IS_BETTER
    config: Mapping[str, Any] = {"problem_type": "multi_label_classification"}

    def missing(self, outputs: int) -> list[int]:
        """Return −100 for each label."""
        return [UNLABELLED] * outputs

    def labelled(self, labels: Array) -> NDArray[np.bool_]:
        """Return which rows have labels, (N,)."""
        return label_set_metrics.labelled(labels)

    def supervised_term(
        self, loss: LabelLossConfig, weight: float, labels: Array, names: Sequence[str]
    ) -> Supervised:
        """Return binary cross entropy, the mean over the labels.

        Raises:
            ConfigError: If an option of classes is set.
        """
        if loss.class_weights is not None or loss.label_smoothing:
            raise ConfigError(
                "loss.class_weights and loss.label_smoothing are for one class per row, and the "
                "rows have several labels; leave them out"
            )
        return Supervised(weight, self.supervised)

    def scores(
        self, logits: Array, labels: Array, teacher_logits: Array | None = None
    ) -> dict[str, float]:
        """Return the scores of `label_set_metrics.scores`."""
        teacher = None if teacher_logits is None else self.answers(teacher_logits)
        return label_set_metrics.scores(self.values(logits), self.answers(logits), labels, teacher)

    def details(self, logits: Array, labels: Array, names: Sequence[str]) -> dict[str, Any]:
        """Return precision, recall, F1 and support of each label, as `per_class`."""
        return {"per_class": label_set_metrics.per_label(self.answers(logits), labels, names)}

    def answers(self, logits: Array) -> Array:
        """Return 1 for each label with a probability of at least .5, (N, C)."""
        answers: Array = (np.asarray(logits) >= 0).astype(np.int64)
        return answers

    def values(self, logits: Array) -> Array:
        """Return the probabilities of the labels, (N, C)."""
        values: Array = expit(np.asarray(logits, dtype=np.float64))
        return values

    def logits_of(self, values: Array) -> Array:
        """Return logits of probabilities, which are taken at least `SMALLEST` from 0 and 1."""
        clipped = np.clip(np.asarray(values, dtype=np.float64), SMALLEST, 1 - SMALLEST)
        logits: Array = logit(clipped).astype(np.float32)
        return logits

    def columns(self, logits: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return `prediction`, 0 and 1 for each label, and the probabilities, `p_LABEL`."""
        probabilities = self.values(logits)
        by_label = {f"p_{name}": probabilities[:, index] for index, name in enumerate(names)}
        return {"prediction": self.answers(logits), **by_label}

    def same(self, first: Array, second: Array) -> NDArray[np.bool_]:
        """Return on which rows both have the same labels."""
        same: NDArray[np.bool_] = (self.answers(first) == self.answers(second)).all(-1)
        return same

    def written(self, logits: Array, names: Sequence[str]) -> Mapping[str, Sequence[Any]]:
        """Return `label`, the labels with `SEPARATOR` between them, and each one's probability."""
        columns = self.columns(logits, names)
        chosen = columns.pop("prediction").astype(bool)
        labels = [_joined(names, row) for row in chosen]
        rounded = {name: [round(float(p), 6) for p in values] for name, values in columns.items()}
        return {"label": labels, **rounded}

    def teacher_columns(self, logits: Array) -> dict[str, Array]:
        """Return `teacher`, its labels as 0 and 1."""
        return {"teacher": self.answers(logits)}

    def only_answer(self, logits: Array, labels: Array, names: Sequence[str]) -> str | None:
        """Return the labels that are given to every row, if the rows have different ones."""
        answers = np.unique(self.answers(logits), axis=0)
        several = len(np.unique(labels[self.labelled(labels)], axis=0)) > 1
        if len(answers) > 1 or not several:
            return None
        return _joined(names, answers[0]) or "none"

    def calibration(self, logits: Array, labels: Array) -> dict[str, Any] | None:
        """Return `thresholds`, from which probability on each label is given.

        Of one threshold for all labels and one for each, that with the better micro F1 on rows
        that it was not chosen by (`FOLDS` folds): rare labels of few rows give bad thresholds of
        their own. None if neither is better than .5, or no row has labels.
        """
        known = self.labelled(labels)
        if known.sum() < FOLDS:
            return None
        probabilities, right = self.values(logits)[known], labels[known]
        best, score = None, _out_of_fold(lambda *_: (0.5,) * right.shape[1], probabilities, right)
        for fit in (_one_threshold, label_set_metrics.fit_thresholds):
            if (found := _out_of_fold(fit, probabilities, right)) > score + ROUNDING:
                best, score = fit, found
        return None if best is None else {"thresholds": best(probabilities, right)}

    def calibrated(self, logits: Array, calibration: Mapping[str, Any]) -> Array:
        """Return logits that are moved so that each label's threshold is at a probability of .5."""
        moved: Array = logits - logit(np.asarray(calibration["thresholds"], dtype=np.float64))
        return moved

    def trivial(self, labels: Array, score: str) -> OneSet:
        """Return the best labels that are the same for every row."""
        return OneSet(self, labels, score)


def _joined(names: Sequence[str], row: Array) -> str:
    """The names of the labels that a row has."""
    return SEPARATOR.join(name for name, has in zip(names, row, strict=True) if has)


Fit = Callable[[Array, Array], tuple[float, ...]]
"""Probabilities and labels, (N, C) each -> a threshold for each label."""


def _one_threshold(probabilities: Array, labels: Array) -> tuple[float, ...]:
    """The threshold with the best micro F1, the same for every label."""
    flat = (values.reshape(-1, 1) for values in (probabilities, labels))
    (threshold,) = label_set_metrics.fit_thresholds(*flat)
    return tuple(threshold for _ in range(labels.shape[1]))


def _out_of_fold(fit: Fit, probabilities: Array, labels: Array) -> float:
    """Micro F1 of answers by thresholds that were chosen on the other rows."""
    answers = np.zeros_like(labels)
    fold = np.arange(len(labels)) % FOLDS
    for number in range(FOLDS):
        held = fold == number
        thresholds = np.asarray(fit(probabilities[~held], labels[~held]))
        answers[held] = probabilities[held] >= thresholds
    return label_set_metrics.scores(probabilities, answers, labels)["f1_micro"]


MULTI_LABEL = MultiLabel()
