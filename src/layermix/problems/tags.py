"""A tag for each word: logits (N, W, C), labels (N, W) of indices, −100 where a word has none.

Where a row has fewer words, or a word was cut off, all its logits are `NO_WORD`.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from layermix.config import LabelLossConfig
from layermix.core.signals import NO_WORD
from layermix.core.terms import Supervised
from layermix.evaluation import entities, metrics, tag_metrics
from layermix.evaluation.forms import Form
from layermix.evaluation.metrics import UNLABELLED
from layermix.evaluation.weighted_scores import WEIGHTED
from layermix.problems.classification import SMALLEST, best_temperature, weights_of_classes
from layermix.problems.problem import Array, Constant, Problem

Span = tuple[int, int]
"""Where a word is in its text: its first character, and the one after its last."""


class OneTag(Constant):
    """The best that always answering one tag can do on some labels."""

    always = "one tag"

    @cached_property
    def value(self) -> float:
        """The score of the best such answer."""
        best = max if self.problem.higher_is_better[self.score] else min
        return best(self._value_of(int(tag)) for tag in np.flatnonzero(self._counts))

    @property
    def perfect(self) -> bool:
        """Whether all words have one label."""
        return int((self._counts > 0).sum()) == 1

    @cached_property
    def _counts(self) -> Array:
        """(C,), how many words have each tag."""
        return np.bincount(self.known[self.known != UNLABELLED], minlength=2)

    def _value_of(self, tag: int) -> float:
        if self.score in WEIGHTED:  # much faster than all scores
            answers, weights = np.full((1, *self.known.shape), tag), np.ones((1, len(self.known)))
            return float(WEIGHTED[self.score].function(answers, self.known, weights)[0, 0])
        logits = np.eye(len(self._counts))[np.full(self.labels.shape, tag)]
        return self.score_of(logits)


class TagProblem(Problem):
    """The problem of choosing one of several tags for each word."""

    name = "tags"
    form: Form = "tags"
    by_word = True
    supervised = "cross_entropy"
    logit_losses: tuple[str, ...] = ("soft_cross_entropy", "tinybert_mean", "kl", "mse")
    soft_losses: tuple[str, ...] = ("soft_cross_entropy", "tinybert_mean", "kl")
    default_scores: tuple[str, ...] = ("accuracy", "exact_match")
    calibrated_scores: tuple[str, ...] = ("nll",)
    higher_is_better: Mapping[str, bool] = {
        name: higher
        for name, higher in tag_metrics.HIGHER_IS_BETTER.items()
        if name not in tag_metrics.OF_ENTITIES
    }
    # transformers knows no type of problem for token classification
    config: Mapping[str, Any] = {"problem_type": None}

    def missing(self, outputs: int) -> int:
        """Return −100, the label of one word that has none; a row has a list of them."""
        return UNLABELLED

    def outputs_fault(self, outputs: int) -> str:
        """Return that one output tells no tags apart."""
        return "" if outputs > 1 else "wanted one that predicts one of two or more tags"

    def labelled(self, labels: Array) -> NDArray[np.bool_]:
        """Return which rows have a label for any word, (N,)."""
        return tag_metrics.labelled(labels)

    def supervised_term(
        self, loss: LabelLossConfig, weight: float, labels: Array, names: Sequence[str]
    ) -> Supervised:
        """Return cross entropy of the words, with weights of tags and smoothing if they are set.

        Raises:
            ConfigError: If a weight is given to a tag that there is not.
        """
        weights = weights_of_classes(loss, labels[labels != UNLABELLED], names)
        return Supervised(weight, self.supervised, weights, loss.label_smoothing)

    def scores(
        self, logits: Array, labels: Array, teacher_logits: Array | None = None
    ) -> dict[str, float]:
        """Return the scores of `tag_metrics.scores`."""
        return self._scores(logits, labels, teacher_logits, entities=False)

    def _scores(
        self, logits: Array, labels: Array, teacher_logits: Array | None, *, entities: bool
    ) -> dict[str, float]:
        seen = has_word(logits)
        likely = np.full(np.shape(logits), np.nan)
        likely[seen] = log_softmax(np.asarray(logits, dtype=np.float64)[seen], axis=-1)
        teacher = None if teacher_logits is None else self.answers(teacher_logits)
        answers = self.answers(logits)
        return tag_metrics.scores(likely, answers, labels, teacher, entities=entities)

    def details(self, logits: Array, labels: Array, names: Sequence[str]) -> dict[str, Any]:
        """Return precision, recall, F1 and support of each tag, as `per_class`."""
        return {"per_class": tag_metrics.per_tag(self.answers(logits), labels, names)}

    def answers(self, logits: Array) -> Array:
        """Return the tag with the largest logit, (N, W); −100 where there is no word."""
        return np.where(has_word(logits), np.asarray(logits).argmax(-1), UNLABELLED)

    def values(self, logits: Array) -> Array:
        """Return the probabilities of the tags, (N, W, C); NaN where there is no word."""
        seen, values = has_word(logits), np.full(np.shape(logits), np.nan)
        values[seen] = metrics.softmax(np.asarray(logits)[seen])
        return values

    def logits_of(self, values: Array) -> Array:
        """Return the logarithms of probabilities, at least that of `SMALLEST`, (N, W, C) float32.

        Where a word has NaN, it has `NO_WORD`.
        """
        values = np.asarray(values, dtype=np.float64)
        likely = np.log(np.maximum(values, SMALLEST))
        return np.where(np.isnan(values), NO_WORD, likely).astype(np.float32)

    def columns(self, logits: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return `prediction`, the index of each word's tag."""
        return {"prediction": self.answers(logits)}

    def same(self, first: Array, second: Array) -> NDArray[np.bool_]:
        """Return on which rows all words that both saw have the same tag."""
        one, other = self.answers(first), self.answers(second)
        alike = (one == other) | (one == UNLABELLED) | (other == UNLABELLED)
        same: NDArray[np.bool_] = alike.all(-1)
        return same

    def written_by_word(
        self,
        logits: Array,
        names: Sequence[str],
        texts: Sequence[str],
        words: Sequence[Sequence[Span]],
    ) -> Mapping[str, Sequence[Any]]:
        """Return `words` and their `tags`, lists; None for a word that the model did not see."""
        answers = self.answers(logits).tolist()
        rows = [row[: len(spans)] for row, spans in zip(answers, words, strict=True)]
        of_words = [
            [text[start:end] for start, end in spans]
            for text, spans in zip(texts, words, strict=True)
        ]
        tags = [
            [names[tag] if tag >= 0 else None for _, tag in zip_longest(spans, row, fillvalue=-1)]
            for row, spans in zip(rows, words, strict=True)
        ]
        return {"words": of_words, "tags": tags}

    def teacher_columns(self, logits: Array) -> dict[str, Array]:
        """Return `teacher`, the index of each word's tag."""
        return {"teacher": self.answers(logits)}

    def only_answer(self, logits: Array, labels: Array, names: Sequence[str]) -> str | None:
        """Return the tag that is answered for every word, if the labels name several."""
        answers = self.answers(logits)
        given = np.unique(answers[answers != UNLABELLED])
        several = len(np.unique(labels[labels != UNLABELLED])) > 1
        return names[int(given[0])] if len(given) == 1 and several else None

    def calibration(self, logits: Array, labels: Array) -> dict[str, Any] | None:
        """Return the temperature of `metrics.fit_temperature` on the words; None as there."""
        at = (labels != UNLABELLED) & has_word(logits)
        return best_temperature(logits[at], labels[at])

    def calibrated(self, logits: Array, calibration: Mapping[str, Any]) -> Array:
        """Return the logits divided by the temperature; `NO_WORD` stays."""
        cooled = logits / calibration["temperature"]
        return np.where(has_word(logits)[..., None], cooled, NO_WORD)

    def trivial(self, labels: Array, score: str) -> OneTag:
        """Return the best answer that is the same for every word."""
        return OneTag(self, labels, score)


class Entities(TagProblem):
    """The problem of finding named entities, by BIO tags of words.

    The scores take the tags as O, B-T1, I-T1, B-T2, I-T2, …, in this order.
    """

    name = "entities"
    spans = True
    default_scores = ("entity_f1", "accuracy")
    higher_is_better = tag_metrics.HIGHER_IS_BETTER

    def scores(
        self, logits: Array, labels: Array, teacher_logits: Array | None = None
    ) -> dict[str, float]:
        """Return the scores of `tag_metrics.scores`, those of entities first."""
        return self._scores(logits, labels, teacher_logits, entities=True)

    def details(self, logits: Array, labels: Array, names: Sequence[str]) -> dict[str, Any]:
        """Return precision, recall, F1 and support of each type of entity, as `per_class`."""
        scheme = entities.scheme(names)
        if scheme is None:  # no names of entities: a head that was not trained yet
            return super().details(logits, labels, names)
        return {"per_class": tag_metrics.per_type(self.answers(logits), labels, scheme)}

    def written_by_word(
        self,
        logits: Array,
        names: Sequence[str],
        texts: Sequence[str],
        words: Sequence[Sequence[Span]],
    ) -> Mapping[str, Sequence[Any]]:
        """Return `entities`: `start`, `end`, `label`, `text` and `probability` of each.

        The probability is the mean over the entity's words of that of the answered tag.

        Raises:
            ValueError: If the names are not those of BIO tags.
        """
        scheme = entities.scheme(names)
        if scheme is None:
            raise ValueError(
                f"found the tags {', '.join(names)}, wanted O, B-TYPE and I-TYPE for entities"
            )
        answers, sure = self.answers(logits), self.values(logits).max(-1)
        tags = scheme.of(answers)
        ends, types = entities.ends_of(tags), entities.types_of(tags)
        found: list[list[dict[str, Any]]] = []
        for row, (text, spans) in enumerate(zip(texts, words, strict=True)):
            of_row = []
            for first in map(int, np.flatnonzero(ends[row])):
                last = int(ends[row, first])
                start, end = spans[first][0], spans[last - 1][1]
                of_row.append(
                    {
                        "start": start,
                        "end": end,
                        "label": scheme.types[types[row, first]],
                        "text": text[start:end],
                        "probability": round(float(sure[row, first:last].mean()), 6),
                    }
                )
            found.append(of_row)
        return {"entities": found}


def has_word(logits: Array) -> NDArray[np.bool_]:
    """Where there is a word with logits, (N, W) of (N, W, C)."""
    there: NDArray[np.bool_] = (np.asarray(logits) != NO_WORD).any(-1)
    return there


TAGS = TagProblem()
ENTITIES = Entities()
