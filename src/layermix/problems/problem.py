"""What a run must know about its kind of label, and nothing about models, data sets or folders."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from layermix.config import LabelLossConfig
from layermix.core.terms import Term
from layermix.evaluation.forms import Form
from layermix.evaluation.statistics import row_bootstrap, score_interval
from layermix.evaluation.weighted_scores import WEIGHTED

Array = NDArray[Any]
"""Logits are (N, C), or (N, W, C) where each of W words has its own, `NO_WORD` where there is none.

Labels and answers are (N,) class indices, (N,) numbers, (N, C) 0 and 1, or (N, W) class indices,
−100 where there is no word, or none with a label.
"""


class Problem(Protocol):
    """One kind of label; a kind of your own may inherit from it, to have its defaults.

    Attributes:
        name: As records name it.
        form: What a label is, whatever is learned from it.
        supervised: The L_sup, as in `loss.supervised` if it is a name of `losses.SUPERVISED`.
        logit_losses: Names of `losses.LOGIT` that suit it, the default first.
        soft_losses: Those of them that need no logits of a teacher, `values` alone.
        default_scores: What is reported for a task that is not known, the main one first.
        calibrated_scores: Those that are told with and without a `calibration`.
        higher_is_better: Each score that `scores` can give, and the direction that is good.
        named: Whether the names of the outputs mean something; of one number they do not.
        by_word: Whether each word has logits and a label of its own, not the row.
        spans: Whether the tags of words say where something begins and goes on: O, then B and I of
            each type, in this order.
        config: What config.json of a saved model says, so that other programs read its logits
            in the same way: its `problem_type`, and perhaps more.
    """

    name: str
    form: Form
    supervised: str
    logit_losses: tuple[str, ...]
    soft_losses: tuple[str, ...]
    default_scores: tuple[str, ...]
    calibrated_scores: tuple[str, ...] = ()
    higher_is_better: Mapping[str, bool]
    config: Mapping[str, Any]
    named: bool = True
    by_word: bool = False
    spans: bool = False

    def missing(self, outputs: int) -> Any:
        """Return the label of a row (or word, if `by_word`) that has none, for so many outputs."""
        ...

    def outputs_fault(self, outputs: int) -> str:
        """Return what number of a model's outputs is wanted, if not this one (default: empty)."""
        return ""

    def fault(self, label: Any) -> str:
        """Return why a label that was read cannot be one, in words (default: empty, it can)."""
        return ""

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

    def values(self, logits: Array) -> Array:
        """Return what users read in place of logits, (N, …, C): probabilities, or the number."""
        ...

    def logits_of(self, values: Array) -> Array:
        """Return logits with these `values`, (N, …, C) float32."""
        ...

    def columns(self, logits: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return the columns of predictions.parquet that say what a student answered."""
        ...

    def same(self, first: Array, second: Array) -> NDArray[np.bool_]:
        """Return on which rows two models with these logits answer the same, (N,)."""
        ...

    def written(self, logits: Array, names: Sequence[str]) -> Mapping[str, Sequence[Any]]:
        """Return the columns that `predict` writes beside the texts, each with N values.

        It is not asked for if `by_word`.
        """
        message = f"{self.name}: each word has an answer, wanted written_by_word"
        raise NotImplementedError(message)

    def written_by_word(
        self,
        logits: Array,
        names: Sequence[str],
        texts: Sequence[str],
        words: Sequence[Sequence[tuple[int, int]]],
    ) -> Mapping[str, Sequence[Any]]:
        """Return the columns that `predict` writes beside the texts, each with N values.

        It is asked for in place of `written` if `by_word`.

        Args:
            logits: (N, W, C).
            names: Of the tags.
            texts: Of the rows, (N,).
            words: Of each row, where its words are: first character, and the one after the last.
        """
        message = f"{self.name}: each row has one answer, wanted written"
        raise NotImplementedError(message)

    def teacher_columns(self, logits: Array) -> dict[str, Array]:
        """Return the columns that say what its teacher answered, and how sure it was."""
        ...

    def only_answer(self, logits: Array, labels: Array, names: Sequence[str]) -> str | None:
        """Return the answer that a model gives to every row although their labels differ."""
        ...

    def interval(
        self,
        score: str,
        logits: Array,
        labels: Array,
        teacher_logits: Array | None,
        groups: Array | None = None,
    ) -> Mapping[str, Any] | None:
        """Return how sure a score is over rows, and its difference to the teacher's.

        By default percentile intervals of the bootstrap, for scores that are in `WEIGHTED`.

        Args:
            score: Its name.
            logits: (N, C).
            labels: Of the rows.
            teacher_logits: (N, C), if there is a teacher.
            groups: The number of each row's group, (N,): rows of one group are not independent.

        Returns:
            The fields of a record's interval; None where no row has a label, all are of one group,
            or there is no interval for this score.
        """
        known = self.labelled(labels)
        if score not in WEIGHTED or not known.any():
            return None
        predicted, right = self.answers(logits)[known], labels[known]
        options: dict[str, Any] = {}
        interval: dict[str, Any] = {"metric": score, "rows": len(right)}
        if groups is not None:
            options["groups"] = groups[known]
            interval["groups"] = len(np.unique(groups[known]))
            if interval["groups"] < 2:
                return None
        interval["low"], interval["high"] = score_interval(predicted, right, score, **options)
        if teacher_logits is None:
            return interval
        of_teacher = self.answers(teacher_logits)[known]
        paired = row_bootstrap(predicted, of_teacher, right, score, **options)
        return interval | {
            "difference": paired.difference,
            "difference_low": paired.low,
            "difference_high": paired.high,
        }

    def calibration(self, logits: Array, labels: Array) -> Mapping[str, Any] | None:
        """Return what suits held-out rows: a `temperature`, or `thresholds` (default: nothing).

        None if nothing is to be fitted, or the labels do not say what.
        """
        return None

    def calibrated(self, logits: Array, calibration: Mapping[str, Any]) -> Array:
        """Return logits as a `calibration` wants them (default: unchanged)."""
        return logits

    def doubt(self, logits: Array, labels: Array) -> str:
        """Return what a user should know of a teacher's logits on labelled rows (default: "")."""
        return ""

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


ROUNDING = 1e-9
"""By how much two equal scores of other rows may differ."""


@dataclass(frozen=True)
class Constant(ABC):
    """The trivial baseline that answers every row alike.

    Args:
        problem: The kind of label.
        labels: Of rows; those without a label are left out.
        score: One that the problem gives.

    Attributes:
        always: What it answers, in words.
    """

    problem: Problem
    labels: Array
    score: str
    always: ClassVar[str]

    @property
    @abstractmethod
    def value(self) -> float:
        """The score of the best such answer."""

    @property
    def perfect(self) -> bool:
        """Whether all rows have one label."""
        return len(np.unique(self.known, axis=0)) == 1

    @cached_property
    def known(self) -> Array:
        """The labels of the rows that have one."""
        known: Array = self.labels[self.problem.labelled(self.labels)]
        return known

    def score_of(self, logits: Array) -> float:
        """The score of logits, (N, C)."""
        return self.problem.scores(logits, self.labels)[self.score]

    def beaten_by(self, logits: Array) -> bool:
        """Whether a model has a better score; one right answer more is enough."""
        sign = 1 if self.problem.higher_is_better[self.score] else -1
        return sign * (self.score_of(logits) - self.value) > ROUNDING

    def compared(self, logits: Array) -> str:
        """Say which score a model has, and which the trivial answer."""
        return (
            f"{self.score} {self.score_of(logits):.4f} on {len(self.known)} validation rows; "
            f"always answering {self.always} has {self.value:.4f}"
        )
