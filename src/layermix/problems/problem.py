"""What a run must know about its kind of label, and nothing about models, data sets or folders."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from layermix.config import LabelLossConfig
from layermix.core.terms import Term

Array = NDArray[Any]
"""Logits are (N, C) and labels (N,) for one class per row; other kinds say their own shapes."""


class Problem(Protocol):
    """One kind of label.

    Attributes:
        name: As records name it.
        supervised: The default L_sup, as in `loss.supervised` if it is a name of
            `losses.SUPERVISED`.
        default_scores: What is reported for a task that is not known, the main one first.
        higher_is_better: Each score that `scores` can give, and the direction that is good.
    """

    name: str
    supervised: str
    default_scores: tuple[str, ...]
    higher_is_better: Mapping[str, bool]

    def labelled(self, labels: Array) -> NDArray[np.bool_]:
        """Return which rows have a label, (N,)."""
        ...

    def supervised_term(
        self, loss: LabelLossConfig, weight: float, labels: Array, names: Sequence[str]
    ) -> Term:
        """Return L_sup for training rows with these labels.

        Args:
            loss: Options of L_sup.
            weight: λ_sup.
            labels: Of the training rows.
            names: Of the classes.

        Raises:
            ConfigError: If an option does not suit the labels.
        """
        ...

    def scores(
        self, logits: Array, labels: Array, teacher_logits: Array | None = None
    ) -> dict[str, float]:
        """Return every score on the labelled rows, agreement with the teacher among them."""
        ...

    def details(self, logits: Array, labels: Array, names: Sequence[str]) -> dict[str, Any]:
        """Return what a record holds beside the scores, such as the scores of each class."""
        ...

    def answers(self, logits: Array) -> Array:
        """Return what the model answers, one entry for each row."""
        ...

    def columns(self, logits: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return the columns of predictions.parquet that say what a student answered."""
        ...

    def same(self, first: Array, second: Array) -> NDArray[np.bool_]:
        """Return on which rows two models with these logits answer the same, (N,)."""
        ...

    def written(self, logits: Array, names: Sequence[str]) -> Mapping[str, Sequence[Any]]:
        """Return the columns that `predict` writes beside the texts, each with N values."""
        ...

    def teacher_columns(self, logits: Array) -> dict[str, Array]:
        """Return the columns that say what its teacher answered, and how sure it was."""
        ...

    def only_answer(self, logits: Array, labels: Array, names: Sequence[str]) -> str | None:
        """Return the answer that a model gives to every row although their labels differ."""
        ...

    def interval(
        self, score: str, logits: Array, labels: Array, teacher_logits: Array | None
    ) -> Mapping[str, Any] | None:
        """Return how sure a score is over rows, and its difference to the teacher's.

        None where no row has a label, or there is no interval for this score.
        """
        ...

    def temperature(self, logits: Array, labels: Array) -> float | None:
        """Return by what logits are divided so that probabilities suit the labels.

        None if there are no probabilities, or too few labels.
        """
        ...

    def trivial(self, labels: Array, score: str) -> "Trivial":
        """Return what always answering the same would have of a score."""
        ...


class Trivial(Protocol):
    """The trivial baseline of some labels: a model that does not beat it knows nothing."""

    def beaten_by(self, logits: Array) -> bool:
        """Whether a model with these logits knows more."""
        ...

    @property
    def perfect(self) -> bool:
        """Whether the trivial answer is always right, so that the rows can tell no model apart."""
        ...

    def compared(self, logits: Array) -> str:
        """Say in words how a model and the trivial answer do."""
        ...
