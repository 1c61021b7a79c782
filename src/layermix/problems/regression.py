"""A number per row: one logit (N, 1), labels (N,) floats, NaN where a row has none."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from layermix.config import LabelLossConfig
from layermix.core.terms import Supervised
from layermix.errors import ConfigError
from layermix.evaluation import number_metrics
from layermix.evaluation.forms import Form
from layermix.problems.problem import ROUNDING, Array, Constant, Problem

OTHER_SCALE = 1.5
"""A mean error of so many times that of always answering the mean shows another scale."""

SMALLEST = 1e-6
"""The least distance of a soft label from 0 and 1, as `layermix predict` rounds."""


class Mean(Constant):
    """What always answering the mean has of a score: no correlation, the mean's error."""

    always = "the mean"

    @cached_property
    def value(self) -> float:
        """The score of the mean."""
        means = np.full(len(self.known), self.known.mean())
        return number_metrics.scores(means, self.known)[self.score]


class Regression(Problem):
    """The problem of giving each row a number: the logit itself, learned by squared error."""

    name = "regression"
    form: Form = "number"
    supervised = "mse"
    logit_losses: tuple[str, ...] = ("mse",)
    soft_losses: tuple[str, ...] = ("mse",)
    default_scores: tuple[str, ...] = ("pearson", "spearman")
    named = False
    higher_is_better: Mapping[str, bool] = number_metrics.HIGHER_IS_BETTER
    # sentence-transformers would take the sigmoid of one logit.
    config: Mapping[str, Any] = {
        "problem_type": "regression",
        "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
    }

    def missing(self, outputs: int) -> float:
        """Return NaN."""
        return math.nan

    def outputs_fault(self, outputs: int) -> str:
        """Return that one number needs one output."""
        return "" if outputs == 1 else "wanted one that gives one number"

    def labelled(self, labels: Array) -> NDArray[np.bool_]:
        """Return which rows have a label, (N,)."""
        return number_metrics.labelled(labels)

    def supervised_term(
        self, loss: LabelLossConfig, weight: float, labels: Array, names: Sequence[str]
    ) -> Supervised:
        """Return the squared error (or binary cross entropy of a number from 0 to 1).

        Raises:
            ConfigError: If an option of classes is set.
        """
        if loss.class_weights is not None or loss.label_smoothing:
            raise ConfigError(
                "loss.class_weights and loss.label_smoothing are for classes, and the labels are "
                "numbers; leave them out"
            )
        return Supervised(weight, self.supervised)

    def scores(
        self, logits: Array, labels: Array, teacher_logits: Array | None = None
    ) -> dict[str, float]:
        """Return the scores of `number_metrics.scores`."""
        teacher = None if teacher_logits is None else self.answers(teacher_logits)
        return number_metrics.scores(self.answers(logits), labels, teacher)

    def details(self, logits: Array, labels: Array, names: Sequence[str]) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def answers(self, logits: Array) -> Array:
        """Return the numbers, (N,)."""
        return self.values(logits)[:, 0]

    def values(self, logits: Array) -> Array:
        """Return the logits, (N, 1) float64."""
        return np.asarray(logits, dtype=np.float64)

    def logits_of(self, values: Array) -> Array:
        """Return the numbers, (N, 1) float32."""
        return np.asarray(values, dtype=np.float32)

    def columns(self, logits: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return `prediction`."""
        return {"prediction": self.answers(logits)}

    def same(self, first: Array, second: Array) -> NDArray[np.bool_]:
        """Return on which rows two numbers are `number_metrics.alike`."""
        return number_metrics.alike(self.answers(first), self.answers(second))

    def written(self, logits: Array, names: Sequence[str]) -> Mapping[str, Sequence[Any]]:
        """Return `label`, the number."""
        return {"label": [round(float(one), 6) for one in self.answers(logits)]}

    def teacher_columns(self, logits: Array) -> dict[str, Array]:
        """Return `teacher`, its number."""
        return {"teacher": self.answers(logits)}

    def only_answer(self, logits: Array, labels: Array, names: Sequence[str]) -> str | None:
        """Return the number that is given to every row, if the labels differ."""
        answers, known = self.answers(logits), labels[self.labelled(labels)]
        several = len(np.unique(known)) > 1
        same = np.ptp(answers) <= ROUNDING * max(1.0, float(np.abs(answers).max()))
        return f"{answers[0]:.4g}" if several and same else None

    def doubt(self, logits: Array, labels: Array) -> str:
        """Return that a teacher's numbers have another scale than the labels, if they have."""
        known = self.labelled(labels)
        if len(np.unique(labels[known])) < 2:
            return ""
        answers, right = self.answers(logits)[known], labels[known]
        error, of_mean = np.abs(answers - right).mean(), np.abs(right - right.mean()).mean()
        if error <= OTHER_SCALE * of_mean:
            return ""
        return (
            f"the teacher's numbers ({answers.min():.3g} to {answers.max():.3g}) have another "
            f"scale than the labels ({right.min():.3g} to {right.max():.3g}), so L_sup and L_logit "
            "pull the student to different ones; leave the labels out with "
            "--loss.supervised_weight 0, or bring them to the teacher's scale"
        )

    def trivial(self, labels: Array, score: str) -> Mean:
        """Return the mean."""
        return Mean(self, labels, score)


class Relevance(Regression):
    """The problem of giving each row a number from 0 to 1: the sigmoid of the logit.

    As rerankers (cross-encoders) of sentence-transformers do, learned by binary cross entropy.
    """

    name = "relevance"
    supervised = "bce"
    logit_losses = ("bce", "mse")
    soft_losses = logit_losses
    # Not problem_type regression, for which pipelines of transformers would give the logit.
    config: Mapping[str, Any] = {
        "problem_type": None,
        "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
    }

    def fault(self, label: float) -> str:
        """Return what is wrong with a number that is not from 0 to 1."""
        if 0 <= label <= 1:
            return ""
        return (
            f"found the number {label:g}, wanted one from 0 to 1; divide the numbers by the "
            "largest, or give --data.problem regression"
        )

    def values(self, logits: Array) -> Array:
        """Return the numbers from 0 to 1, (N, 1) float64."""
        values: Array = expit(np.asarray(logits, dtype=np.float64))
        return values

    def logits_of(self, values: Array) -> Array:
        """Return logits of numbers, which are taken at least `SMALLEST` from 0 and 1.

        Examples:
            >>> RELEVANCE.logits_of(np.array([[0.5], [1.0]])).round(2)
            array([[ 0.  ],
                   [13.82]], dtype=float32)
        """
        clipped = np.clip(np.asarray(values, dtype=np.float64), SMALLEST, 1 - SMALLEST)
        logits: Array = logit(clipped).astype(np.float32)
        return logits


REGRESSION = Regression()
RELEVANCE = Relevance()
