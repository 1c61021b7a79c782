"""Scores of many resamples at once, each example weighted by how often it is drawn: NumPy only.

Predictions are (runs, examples), or (runs, examples, C) where each row has several labels of 0 or
1, or (runs, examples, W) where each of its words has a tag, −100 for none; labels are the same
without runs. Weights are (draws, examples), whole numbers as floats. A score gives (draws, runs),
the plain score of every run on the rows that a draw repeats. Nothing of size (draws, examples, C)
is made.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layermix.evaluation.entities import compared
from layermix.evaluation.forms import Form
from layermix.evaluation.metrics import UNLABELLED
from layermix.evaluation.number_metrics import centred, correlation

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Values = NDArray[Any]

CANCELLED = 1e-6
"""A variance below this part of the mean square has lost digits, and is computed anew."""


class WeightedScore(NamedTuple):
    """A score that can be resampled.

    Attributes:
        function: Predictions, labels and weights -> (draws, runs).
        check: Raises a ValueError unless predictions and labels are what the function needs.
        higher_is_better: The direction that is good.
    """

    function: Callable[[Values, Values, Array], Array]
    check: Callable[[Values, Values], None]
    higher_is_better: bool = True


def weighted_score(score: str, predicted: Values, labels: Values) -> WeightedScore:
    """The score of this name, once it is sure that it can be computed.

    Args:
        score: A name of `WEIGHTED`.
        predicted: (runs, examples[, C or W]).
        labels: (examples[, C or W]).

    Raises:
        ValueError: There is no such score, shapes do not fit, or a value is not what the score
            needs.

    Examples:
        >>> weighted_score("mae", np.array([[1.0, 2.0]]), np.array([1.0, 4.0])).higher_is_better
        False
    """
    if score not in WEIGHTED:
        raise ValueError(_no_such(score, predicted, labels))
    WEIGHTED[score].check(predicted, labels)
    return WEIGHTED[score]


def ratio(part: Array, whole: Array) -> Array:
    """Part / whole, of shapes that broadcast to that of part; 0 where whole is 0.

    Examples:
        >>> ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0]))
        array([0.5, 0. ])
    """
    quotient = np.zeros(part.shape)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient


# Classes


def _accuracy(predicted: Values, labels: Values, weights: Array) -> Array:
    if predicted.ndim == 3:  # of words
        known = labels != UNLABELLED
        right = ((predicted == labels) & known).sum(-1).astype(float)
        return ratio(weights @ right.T, weights @ known.sum(-1)[:, None].astype(float))
    return _mean(predicted == labels, weights)


def _f1(predicted: Values, labels: Values, weights: Array) -> Array:
    correct, given, true = _class_counts(predicted, labels, weights)
    return ratio(2 * correct, given + true)[..., 1]


def _matthews(predicted: Values, labels: Values, weights: Array) -> Array:
    correct, given, true = _class_counts(predicted, labels, weights)
    total = true.sum(-1)
    covariance = correct.sum(-1) * total - (given * true).sum(-1)
    spread = (total**2 - (given**2).sum(-1)) * (total**2 - (true**2).sum(-1))
    return ratio(covariance, np.sqrt(spread))


def _f1_macro(predicted: Values, labels: Values, weights: Array) -> Array:
    """Mean over the classes, or labels of a set, that occur, as in scikit-learn."""
    counts = _label_counts if predicted.ndim == 3 else _class_counts
    correct, given, true = counts(predicted, labels, weights)
    return ratio(ratio(2 * correct, given + true).sum(-1), (given + true > 0).sum(-1))


def _class_counts(predicted: Values, labels: Values, weights: Array) -> tuple[Array, Array, Array]:
    """How often each class is right, predicted, and true: (draws, runs or 1, classes)."""
    rows = np.concatenate([predicted, labels[None]])
    classes = np.arange(max(rows.max(), 1) + 1)
    chosen = rows[:, None] == classes[:, None]

    def counts(true: Bools) -> Array:
        """(rows, classes, examples) -> (draws, rows, classes)."""
        flat: Array = weights @ true.reshape(-1, true.shape[-1]).T.astype(float)
        return flat.reshape(len(weights), *true.shape[:-1])

    given, correct = counts(chosen), counts(chosen[:-1] & chosen[-1])
    return correct, given[:, :-1], given[:, -1:]


def _mean(values: Values, weights: Array) -> Array:
    """Means of (runs, examples) in each draw: (draws, runs)."""
    return ratio(weights @ values.T.astype(float), weights.sum(-1, keepdims=True))


# Numbers


def _pearson(predicted: Values, labels: Values, weights: Array) -> Array:
    own, right = np.stack([centred(run) for run in predicted]), centred(labels)
    total = weights.sum(-1, keepdims=True)
    products = total * (weights @ (own * right).T)
    squares, label_squares = total * (weights @ own.T**2), total * (weights @ right[:, None] ** 2)
    sums, label_sums = weights @ own.T, weights @ right[:, None]
    spread, label_spread = squares - sums**2, label_squares - label_sums**2
    unsure = (spread < CANCELLED * squares) | (label_spread < CANCELLED * label_squares)
    spreads = np.maximum(spread, 0) * np.maximum(label_spread, 0)
    found = np.clip(ratio(products - sums * label_sums, np.sqrt(spreads)), -1, 1)
    for draw, run in np.argwhere(unsure):
        drawn = np.repeat(np.arange(len(right)), weights[draw].astype(int))
        found[draw, run] = correlation(own[run, drawn], right[drawn])
    return found


def _spearman(predicted: Values, labels: Values, weights: Array) -> Array:
    label_ranks, label_spread = _ranks(labels, weights)
    label_ranks *= weights
    found = np.empty((len(weights), len(predicted)))
    for place, run in enumerate(predicted):
        ranks, spread = _ranks(run, weights)
        covariance = np.einsum("de,de->d", ranks, label_ranks)
        found[:, place] = ratio(covariance, np.sqrt(spread) * np.sqrt(label_spread))
    return np.clip(found, -1, 1)


def _ranks(values: Values, weights: Array) -> tuple[Array, Array]:
    """Twice the mean ranks, less their mean: (draws, examples), and their sums of squares (draws,).

    Both are exact, since all are whole numbers: ranks of constant values have squares of 0.
    """
    distinct, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    up_to = np.zeros((len(weights), len(order) + 1))
    np.cumsum(weights.take(order, axis=1), axis=1, out=up_to[:, 1:])
    # of each distinct value: the draws below it, and those up to it
    edges = up_to.take(np.searchsorted(group[order], np.arange(len(distinct) + 1)), axis=1)
    ranks = edges[:, :-1] + edges[:, 1:]
    ranks -= edges[:, -1:]
    ranks = ranks.take(group, axis=1)
    return ranks, np.einsum("de,de,de->d", weights, ranks, ranks)


def _mae(predicted: Values, labels: Values, weights: Array) -> Array:
    return _mean(np.abs(predicted.astype(float) - labels), weights)


# Sets of labels


def _f1_micro(predicted: Values, labels: Values, weights: Array) -> Array:
    correct, occurring = _row_counts(predicted, labels)
    return ratio(2 * (weights @ correct.T), weights @ occurring.T)


def _f1_samples(predicted: Values, labels: Values, weights: Array) -> Array:
    correct, occurring = _row_counts(predicted, labels)
    return _mean(np.where(occurring > 0, ratio(2 * correct, occurring), 1), weights)


def _exact_match(predicted: Values, labels: Values, weights: Array) -> Array:
    """Of sets of labels, or of the tags of a row; words without a label do not count."""
    return _mean(((predicted == labels) | (labels == UNLABELLED)).all(-1), weights)


def _row_counts(predicted: Values, labels: Values) -> tuple[Array, Array]:
    """Right labels of each row, and predicted ones plus true ones: (runs, examples) each."""
    own, true = predicted.astype(bool), labels.astype(bool)
    return (own & true).sum(-1).astype(float), (own.sum(-1) + true.sum(-1)).astype(float)


def _label_counts(predicted: Values, labels: Values, weights: Array) -> tuple[Array, Array, Array]:
    """How often each label is right, predicted, and true: (draws, runs or 1, C)."""
    own, true = predicted.astype(bool), labels.astype(bool)
    correct = np.stack([weights @ (run & true).astype(float) for run in own], axis=1)
    given = np.stack([weights @ run.astype(float) for run in own], axis=1)
    return correct, given, (weights @ true.astype(float))[:, None]


# Tags of words


def _entity_f1(predicted: Values, labels: Values, weights: Array) -> Array:
    correct, given, true = _entity_counts(predicted, labels, weights)
    return ratio(2 * correct, given + true)


def _entity_precision(predicted: Values, labels: Values, weights: Array) -> Array:
    correct, given, _ = _entity_counts(predicted, labels, weights)
    return ratio(correct, given)


def _entity_recall(predicted: Values, labels: Values, weights: Array) -> Array:
    correct, _, true = _entity_counts(predicted, labels, weights)
    return ratio(correct, true)


def _entity_counts(predicted: Values, labels: Values, weights: Array) -> tuple[Array, Array, Array]:
    """How many entities are right, predicted, and true: (draws, runs) each."""
    by_row = [[each.sum(-1) for each in compared(run, labels)] for run in predicted]
    counts = np.array(by_row, dtype=float)  # (runs, 3, examples)
    correct, given, true = (weights @ counts[:, kind].T for kind in range(3))
    return correct, given, true


# Checks


def _check_classes(predicted: Values, labels: Values) -> None:
    _check_shapes(predicted, labels, 2, "give one class index per row")
    rows = np.concatenate([predicted, labels[None]])
    if not np.issubdtype(rows.dtype, np.integer) or rows.min() < 0:
        raise ValueError(
            f"found {rows.dtype} with least value {rows.min()} as predictions and labels, wanted "
            "class indices from 0; take argmax of logits and leave out rows without a label"
        )


def _check_two_classes(predicted: Values, labels: Values) -> None:
    _check_classes(predicted, labels)
    if max(predicted.max(), labels.max()) > 1:
        raise ValueError(_no_such("f1", predicted, labels))


def _check_numbers(predicted: Values, labels: Values) -> None:
    _check_shapes(predicted, labels, 2, "give one number per row")
    for name, values in (("predictions", predicted), ("labels", labels)):
        kinds = np.integer, np.floating
        if not any(np.issubdtype(values.dtype, kind) for kind in kinds):
            raise ValueError(f"found {name} of type {values.dtype}, wanted finite numbers")
        if bad := int((~np.isfinite(values)).sum()):
            raise ValueError(
                f"found NaN or infinity {bad} times among {values.size} {name}, wanted finite "
                "numbers; leave out rows without a label"
            )


def _check_sets(predicted: Values, labels: Values) -> None:
    _check_shapes(predicted, labels, 3, "give 0 or 1 for each label of a row")
    for name, values in (("predictions", predicted), ("labels", labels)):
        is_whole = values.dtype == bool or np.issubdtype(values.dtype, np.integer)
        if not is_whole or values.min() < 0 or values.max() > 1:
            raise ValueError(
                f"found {name} of type {values.dtype} from {values.min()} to {values.max()}, "
                "wanted integers 0 or 1; compare probabilities with thresholds and leave out rows "
                "without labels"
            )


def _check_classes_or_sets(predicted: Values, labels: Values) -> None:
    (_check_sets if predicted.ndim == 3 else _check_classes)(predicted, labels)


def _check_tags(predicted: Values, labels: Values) -> None:
    _check_shapes(predicted, labels, 3, "give the index of a tag for each word", "words")
    for name, values in (("predictions", predicted), ("labels", labels)):
        is_whole = np.issubdtype(values.dtype, np.integer)
        if not is_whole or values[values != UNLABELLED].min(initial=0) < 0:
            raise ValueError(
                f"found {name} of type {values.dtype} with least value {values.min()}, wanted "
                f"indices of tags from 0, or {UNLABELLED} for a word that has none"
            )


def _check_classes_or_tags(predicted: Values, labels: Values) -> None:
    (_check_tags if predicted.ndim == 3 else _check_classes)(predicted, labels)


def _check_sets_or_tags(predicted: Values, labels: Values) -> None:
    """Tags may be any whole numbers, so sets of other ones than 0 and 1 are taken for tags."""
    whole = all(np.issubdtype(values.dtype, np.integer) for values in (predicted, labels))
    (_check_tags if predicted.ndim == 3 and whole else _check_sets)(predicted, labels)


def _check_shapes(
    predicted: Values, labels: Values, dimensions: int, advice: str, of_row: str = "labels"
) -> None:
    if predicted.ndim != dimensions or predicted.shape[1:] != labels.shape or not predicted.size:
        wanted = {
            2: "(runs, examples) and (examples,)",
            3: f"(runs, examples, {of_row}) and (examples, {of_row})",
        }
        raise ValueError(
            f"found predictions of shape {predicted.shape} and labels of shape {labels.shape}, "
            f"wanted {wanted[dimensions]}, not empty; {advice}"
        )


SCORES: Mapping[Form, tuple[str, ...]] = MappingProxyType(
    {
        "class": ("accuracy", "f1", "f1_macro", "matthews"),
        "number": ("pearson", "spearman", "mae"),
        "labels": ("f1_micro", "f1_macro", "f1_samples", "exact_match"),
        "tags": ("entity_f1", "entity_precision", "entity_recall", "accuracy", "exact_match"),
    }
)
"""Form of a label -> the names of its scores in `WEIGHTED`."""


def _no_such(score: str, predicted: Values, labels: Values) -> str:
    """What to say about a score that these predictions do not have."""
    if predicted.ndim == 3:
        return (
            f"found score {score!r} for sets of labels, wanted one of {', '.join(SCORES['labels'])}"
            f"; or for tags of words, wanted one of {', '.join(SCORES['tags'])}"
        )
    if not np.issubdtype(predicted.dtype, np.integer):
        return f"found score {score!r} for numbers, wanted one of {', '.join(SCORES['number'])}"
    return (
        f"found score {score!r} for {max(predicted.max(), labels.max()) + 1} classes, wanted one "
        f"of {', '.join(SCORES['class'])}, and f1 only for two classes"
    )


WEIGHTED: Mapping[str, WeightedScore] = MappingProxyType(
    {
        "entity_f1": WeightedScore(_entity_f1, _check_tags),
        "entity_precision": WeightedScore(_entity_precision, _check_tags),
        "entity_recall": WeightedScore(_entity_recall, _check_tags),
        "accuracy": WeightedScore(_accuracy, _check_classes_or_tags),
        "f1": WeightedScore(_f1, _check_two_classes),
        "f1_macro": WeightedScore(_f1_macro, _check_classes_or_sets),
        "matthews": WeightedScore(_matthews, _check_classes),
        "pearson": WeightedScore(_pearson, _check_numbers),
        "spearman": WeightedScore(_spearman, _check_numbers),
        "mae": WeightedScore(_mae, _check_numbers, higher_is_better=False),
        "f1_micro": WeightedScore(_f1_micro, _check_sets),
        "f1_samples": WeightedScore(_f1_samples, _check_sets),
        "exact_match": WeightedScore(_exact_match, _check_sets_or_tags),
    }
)
"""Name of a score -> how it is resampled; of those of one kind of label the main one first.

`f1_macro` is of classes or of sets of labels, `accuracy` of classes or of tags, and `exact_match`
of sets of labels or of tags.
"""
