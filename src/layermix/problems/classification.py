"""One class per row: logits (N, C), labels (N,) of class indices, −100 where a row has none."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from layermix.config import LabelLossConfig
from layermix.core.terms import Supervised
from layermix.errors import ConfigError
from layermix.evaluation import metrics
from layermix.evaluation.forms import Form
from layermix.evaluation.metrics import UNLABELLED
from layermix.problems.problem import Array, Constant, Problem

SMALLEST = 1e-7
"""A probability of 0 counts as this: `layermix predict` rounds to six decimals."""


class OneClass(Constant):
    """The best that always answering one class can do on some labels."""

    always = "one class"

    @cached_property
    def value(self) -> float:
        """The score of the best such answer."""
        counts = np.bincount(self.known, minlength=2)
        # The second, too: of two classes, f1 looks at one only.
        tried = (np.eye(len(counts))[[answer]] for answer in counts.argsort()[-2:])
        return max(self.score_of(logits.repeat(len(self.labels), 0)) for logits in tried)


class Classification(Problem):
    """The problem of choosing one of several classes for each row."""

    name = "classification"
    form: Form = "class"
    supervised = "cross_entropy"
    logit_losses: tuple[str, ...] = ("soft_cross_entropy", "tinybert_mean", "kl", "mse")
    soft_losses: tuple[str, ...] = logit_losses[:-1]
    default_scores: tuple[str, ...] = ("accuracy", "f1_macro")
    calibrated_scores: tuple[str, ...] = ("nll", "ece")
    higher_is_better: Mapping[str, bool] = metrics.HIGHER_IS_BETTER
    config: Mapping[str, Any] = {"problem_type": "single_label_classification"}

    def missing(self, outputs: int) -> int:
        """Return −100."""
        return UNLABELLED

    def outputs_fault(self, outputs: int) -> str:
        """Return that one output tells no classes apart."""
        return "" if outputs > 1 else "wanted one that predicts one of two or more classes"

    def labelled(self, labels: Array) -> NDArray[np.bool_]:
        """Return which rows have a label, (N,)."""
        known: NDArray[np.bool_] = labels != UNLABELLED
        return known

    def supervised_term(
        self, loss: LabelLossConfig, weight: float, labels: Array, names: Sequence[str]
    ) -> Supervised:
        """Return cross entropy, with class weights and label smoothing if they are set.

        Raises:
            ConfigError: If a weight is given to a class that there is not.
        """
        weights = weights_of_classes(loss, labels[self.labelled(labels)], names)
        return Supervised(weight, self.supervised, weights, loss.label_smoothing)

    def scores(
        self, logits: Array, labels: Array, teacher_logits: Array | None = None
    ) -> dict[str, float]:
        """Return the scores of `metrics.scores`."""
        return metrics.scores(logits, labels, teacher_logits)

    def details(self, logits: Array, labels: Array, names: Sequence[str]) -> dict[str, Any]:
        """Return precision, recall, F1 and support of each class, as `per_class`."""
        return {"per_class": metrics.per_class(logits, labels, names)}

    def answers(self, logits: Array) -> Array:
        """Return the class with the largest logit, (N,)."""
        answers: Array = logits.argmax(-1)
        return answers

    def values(self, logits: Array) -> Array:
        """Return the probabilities of the classes, (N, C)."""
        return metrics.softmax(logits)

    def logits_of(self, values: Array) -> Array:
        """Return the logarithms of probabilities, at least that of `SMALLEST`.

        Any constant could be added to the logits of a row, so only losses that compare
        probabilities can use them.

        Examples:
            >>> CLASSIFICATION.logits_of(np.array([[1.0, 0.0]])).round(2)
            array([[  0.  , -16.12]], dtype=float32)
        """
        clipped = np.maximum(np.asarray(values, dtype=np.float64), SMALLEST)
        logits: Array = np.log(clipped).astype(np.float32)
        return logits

    def columns(self, logits: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return `prediction` and a probability for each class, `p_CLASS`."""
        probabilities = metrics.softmax(logits)
        by_class = {f"p_{name}": probabilities[:, index] for index, name in enumerate(names)}
        return {"prediction": probabilities.argmax(-1), **by_class}

    def same(self, first: Array, second: Array) -> NDArray[np.bool_]:
        """Return on which rows both have the same class."""
        same: NDArray[np.bool_] = self.answers(first) == self.answers(second)
        return same

    def written(self, logits: Array, names: Sequence[str]) -> Mapping[str, Sequence[Any]]:
        """Return `label`, a class name, and a probability for each class, `p_CLASS`."""
        columns = self.columns(logits, names)
        labels = [names[index] for index in columns.pop("prediction")]
        rounded = {name: [round(float(p), 6) for p in values] for name, values in columns.items()}
        return {"label": labels, **rounded}

    def teacher_columns(self, logits: Array) -> dict[str, Array]:
        """Return `teacher`, its class, and `teacher_confidence`, the probability of it."""
        probabilities = metrics.softmax(logits)
        return {
            "teacher": probabilities.argmax(-1),
            "teacher_confidence": probabilities.max(-1),
        }

    def only_answer(self, logits: Array, labels: Array, names: Sequence[str]) -> str | None:
        """Return the class that is answered on every row, if the labels name several."""
        answers = np.unique(self.answers(logits))
        several = len(np.unique(labels[self.labelled(labels)])) > 1
        return names[int(answers[0])] if len(answers) == 1 and several else None

    def calibration(self, logits: Array, labels: Array) -> dict[str, Any] | None:
        """Return the temperature of `best_temperature`."""
        known = self.labelled(labels)
        return best_temperature(logits[known], labels[known])

    def calibrated(self, logits: Array, calibration: Mapping[str, Any]) -> Array:
        """Return the logits divided by the temperature."""
        cooled: Array = logits / calibration["temperature"]
        return cooled

    def trivial(self, labels: Array, score: str) -> OneClass:
        """Return the best answer that is the same for every row."""
        return OneClass(self, labels, score)


def weights_of_classes(loss: LabelLossConfig, labels: Array, names: Sequence[str]) -> Tensor | None:
    """Return the weights of the classes in L_sup, (C,); None if all count the same.

    Args:
        loss: Options of L_sup.
        labels: Those that are known, (M,).
        names: Of the classes.

    Raises:
        ConfigError: If a weight is given to a class that there is not.
    """
    if loss.class_weights is None:
        return None
    if loss.class_weights == "balanced":
        present = np.unique(labels)
        weights = torch.ones(len(names))
        balanced = compute_class_weight("balanced", classes=present, y=labels)
        weights[present] = torch.tensor(balanced, dtype=torch.float32)
        return weights
    if unknown := sorted(loss.class_weights.keys() - set(names)):
        raise ConfigError(
            f"loss.class_weights names {', '.join(map(repr, unknown))}; the classes are "
            f"{', '.join(map(repr, names))}"
        )
    return torch.tensor([loss.class_weights.get(name, 1.0) for name in names])


def best_temperature(logits: Array, labels: Array) -> dict[str, Any] | None:
    """Return the `temperature` of `metrics.fit_temperature` for labels that are known.

    None if there is no best one: there is no label, all answers are right (the surer the better),
    or the surest ones are wrong.

    Args:
        logits: (M, C).
        labels: (M,).
    """
    if (logits.argmax(-1) == labels).all():  # also if there is no label
        return None
    temperature = metrics.fit_temperature(logits, labels)
    is_best = temperature < metrics.TEMPERATURES[1] / 1.02
    return {"temperature": temperature} if is_best else None


CLASSIFICATION = Classification()
