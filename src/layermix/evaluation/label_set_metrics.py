"""The scores of a model that gives each row several labels or none: NumPy and scikit-learn only."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from layermix.evaluation.metrics import UNLABELLED
from layermix.evaluation.weighted_scores import SCORES, WEIGHTED, ratio

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

HIGHER_IS_BETTER: Mapping[str, bool] = MappingProxyType(
    {
        "f1_micro": True,
        "f1_macro": True,
        "f1_samples": True,
        "exact_match": True,
        "mean_average_precision": True,
        "nll": False,
        "agreement": True,
    }
)
"""Every score that `scores` can give, and the direction that is good."""

CLIPPED = 1e-7
"""The least distance of a probability from 0 and 1 in `nll`."""


def labelled(labels: Integers) -> Bools:
    """Which rows have labels, or are known to have none of them.

    Args:
        labels: (N, C), 0 or 1; a row of `UNLABELLED` is not known.

    Returns:
        (N,) bool.

    Examples:
        >>> labelled(np.array([[0, 1], [0, 0], [-100, -100]]))
        array([ True,  True, False])
    """
    known: Bools = (np.asarray(labels) != UNLABELLED).all(axis=1)
    return known


def scores(
    probabilities: Floats,
    answers: Integers,
    labels: Integers,
    teacher_answers: Integers | None = None,
) -> dict[str, float]:
    """Every score of a model on the labelled rows.

    Args:
        probabilities: (N, C) in [0, 1], of each label on its own.
        answers: (N, C), 1 where a label is given to a row, else 0.
        labels: (N, C), 0 or 1; rows of `UNLABELLED` are left out, of the agreement too.
        teacher_answers: (N, C) of the teacher on the same rows.

    Returns:
        Shares in [0, 1] unless stated: `f1_micro`, of all decisions together; `f1_macro`, the mean
        over the labels that occur among labels or answers; `f1_samples`, the mean over rows, in
        which a row without any label that is given none counts 1 (scikit-learn: 0); `exact_match`,
        the share of rows with exactly the right labels; `mean_average_precision`, the mean of the
        average precision of the labels that occur; `nll`, the mean binary cross entropy of rows and
        labels in nats, of probabilities at least `CLIPPED` from 0 and 1; `agreement`, the share of
        rows with exactly the teacher's labels (only if they are given). What is undefined counts 0.

    Raises:
        ValueError: Shapes do not fit, a probability is not within [0, 1], an answer or a label is
            not 0 or 1, a row has labels in part, or no row has labels.

    Examples:
        >>> right = np.array([[1, 0], [0, 0]])
        >>> result = scores(np.array([[0.9, 0.6], [0.2, 0.1]]), np.array([[1, 1], [0, 0]]), right)
        >>> [round(score, 3) for score in result.values()]
        [0.667, 0.5, 0.833, 0.5, 1.0, 0.338]
    """
    probabilities, right, known = _labelled_probabilities(probabilities, labels)
    own = _checked_answers(answers, "answers", (len(known), right.shape[1]))[known]
    once = np.ones((1, len(right)))
    result = {
        name: float(WEIGHTED[name].function(own[None], right, once)[0, 0])
        for name in SCORES["labels"]
    }
    precisions = [
        average_precision_score(right[:, label], probabilities[:, label])
        for label in np.flatnonzero(right.any(axis=0))
    ]
    result["mean_average_precision"] = float(np.mean(precisions)) if precisions else 0.0
    likely = np.clip(np.where(right, probabilities, 1 - probabilities), CLIPPED, 1 - CLIPPED)
    result["nll"] = float(-np.log(likely).mean())
    if teacher_answers is not None:
        shape = (len(known), right.shape[1])
        teacher = _checked_answers(teacher_answers, "teacher answers", shape)[known]
        result["agreement"] = float((own == teacher).all(axis=1).mean())
    return result


def per_label(
    answers: Integers, labels: Integers, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Scores of each label on the labelled rows.

    Args:
        answers: (N, C), 1 where a label is given to a row, else 0.
        labels: (N, C), 0 or 1; rows of `UNLABELLED` are left out.
        names: The C names, in the order of the columns.

    Returns:
        Name -> `precision`, `recall`, `f1` (0 where undefined) and `support`, the rows that have
        the label.

    Raises:
        ValueError: As `scores`, or the number of names is not C.

    Examples:
        >>> per_label(np.array([[1], [1]]), np.array([[1], [0]]), ["good"])["good"]["precision"]
        0.5
    """
    given = _checked_answers(answers, "answers", np.shape(answers))
    known = _known(labels, given.shape)
    if len(names) != given.shape[1]:
        raise ValueError(
            f"found {len(names)} label names ({', '.join(names)}) for answers of {given.shape[1]} "
            "labels; give one name per label"
        )
    own, right = given[known], np.asarray(labels)[known].astype(bool)
    correct, chosen, true = (each.sum(axis=0).astype(float) for each in (own & right, own, right))
    columns = {
        "precision": ratio(correct, chosen),
        "recall": ratio(correct, true),
        "f1": ratio(2 * correct, chosen + true),
        "support": true,
    }
    return {
        name: {score: float(values[place]) for score, values in columns.items()}
        for place, name in enumerate(names)
    }


def fit_thresholds(probabilities: Floats, labels: Integers) -> tuple[float, ...]:
    """For each label the threshold with the best F1: it is given if `probability >= threshold`.

    A threshold is midway between neighbouring probabilities of these rows (or 0, or 1), to 6 digits
    where that changes no answer; of equally good ones it is the one nearest to .5.

    Args:
        probabilities: (N, C) in [0, 1]; of rows that the model was not trained on.
        labels: (N, C), 0 or 1; rows of `UNLABELLED` are left out.

    Returns:
        C numbers above 0 and below 1; .5 for a label that all rows have, or none.

    Raises:
        ValueError: As `scores`.

    Examples:
        >>> chances = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
        >>> fit_thresholds(chances, np.array([[0, 1], [1, 1], [1, 1]]))
        (0.15, 0.5)
    """
    probabilities, right, _ = _labelled_probabilities(probabilities, labels)
    return tuple(map(_best_threshold, probabilities.T, right.T))


def _best_threshold(probabilities: Array, right: Bools) -> float:
    """The threshold of one label, from (N,) twice."""
    if right.all() or not right.any():
        return 0.5
    distinct, place = np.unique(probabilities, return_inverse=True)
    lows, highs = np.append(0, distinct), np.append(distinct, 1)
    # rows that are given the label, and the right ones, from each distinct probability up
    given = np.bincount(place)[::-1].cumsum()[::-1]
    correct = np.bincount(place, weights=right)[::-1].cumsum()[::-1]
    f1 = np.append(2 * correct / (given + right.sum()), 0)
    middles = lows + (highs - lows) / 2
    middles = np.where(middles > lows, middles, highs)  # no number lies between neighbouring floats
    rounded = middles.round(6)
    thresholds = np.where((lows < rounded) & (rounded < highs), rounded, middles)
    fits = (lows < thresholds) & (thresholds < 1)
    best = thresholds[fits & (f1 == f1[fits].max())]
    return float(best[np.abs(best - 0.5).round(9).argmin()])


def _labelled_probabilities(probabilities: Floats, labels: Integers) -> tuple[Array, Bools, Bools]:
    """Probabilities and labels of the labelled rows, and the (N,) mask of the labelled rows."""
    checked = np.asarray(probabilities, dtype=np.float64)
    if checked.ndim != 2 or not checked.shape[1]:
        raise ValueError(
            f"found probabilities of shape {checked.shape}, wanted (rows, labels); give one "
            "probability for each label of a row"
        )
    if bad := int((~np.isfinite(checked)).any(axis=1).sum()):
        raise ValueError(
            f"found NaN or infinity in the probabilities of {bad} of {len(checked)} rows, wanted "
            "finite numbers; the model has diverged: use an earlier checkpoint or a lower learning "
            "rate"
        )
    if checked.size and (checked.min() < 0 or checked.max() > 1):
        raise ValueError(
            f"found probabilities from {checked.min()} to {checked.max()}, wanted 0 to 1; give the "
            "sigmoid of logits"
        )
    known = _known(labels, checked.shape)
    return checked[known], np.asarray(labels)[known].astype(bool), known


def _known(labels: Integers, shape: tuple[int, ...]) -> Bools:
    """The (N,) mask of the labelled rows; raises a ValueError unless the labels fit (N, C)."""
    labels = np.asarray(labels)
    if labels.shape != shape:
        raise ValueError(
            f"found labels of shape {labels.shape}, wanted {shape}: 0 or 1 for each label of a row"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"found labels of type {labels.dtype}, wanted integers: 0 or 1")
    known = labelled(labels)
    if partly := int((labels[~known] != UNLABELLED).any(axis=1).sum()):
        raise ValueError(
            f"found {partly} rows that have {UNLABELLED} for some of their labels only, wanted it "
            "for all labels of a row, or for none; give 0 or 1 for each, or leave the row out"
        )
    if not known.any():
        raise ValueError(
            f"found no labelled rows among {len(labels)}, wanted at least one; check the label "
            "columns"
        )
    chosen = labels[known]
    if chosen.min() < 0 or chosen.max() > 1:
        raise ValueError(
            f"found labels from {chosen.min()} to {chosen.max()}, wanted 0 or 1, or {UNLABELLED} "
            "for all labels of a row that has none known"
        )
    return known


def _checked_answers(answers: Integers, name: str, shape: tuple[int, ...]) -> Bools:
    """Answers as bool; raises a ValueError unless they are 0 or 1 and of this shape (N, C)."""
    checked = np.asarray(answers)
    if checked.ndim != 2 or checked.shape != shape or not checked.shape[1]:
        raise ValueError(
            f"found {name} of shape {checked.shape}, wanted "
            f"{shape if len(shape) == 2 else '(rows, labels)'}: 0 or 1 for each label of a row"
        )
    is_whole = checked.dtype == bool or np.issubdtype(checked.dtype, np.integer)
    if not is_whole or (checked.size and (checked.min() < 0 or checked.max() > 1)):
        raise ValueError(
            f"found {name} of type {checked.dtype} that are not all 0 or 1, wanted integers 0 or "
            "1; compare probabilities with thresholds"
        )
    return checked.astype(bool)
