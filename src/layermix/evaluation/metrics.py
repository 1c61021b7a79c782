"""The scores of a classifier from its logits: NumPy, SciPy and scikit-learn only."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import f1_score, matthews_corrcoef, precision_recall_fscore_support

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]


UNLABELLED = -100
"""The label of a row that has none; such rows are left out of every score."""

CALIBRATION_BINS = 15
"""Equal-width bins of the expected calibration error, as in Guo et al. (2017)."""


HIGHER_IS_BETTER: Mapping[str, bool] = MappingProxyType(
    {
        "accuracy": True,
        "f1": True,
        "f1_macro": True,
        "matthews": True,
        "nll": False,
        "ece": False,
        "agreement": True,
    }
)
"""Every score that `scores` can give, and the direction that is good."""


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Class probabilities.

    Args:
        logits: (N, C), finite.

    Returns:
        (N, C) float64; every row sums to 1.

    Raises:
        ValueError: The logits are not a finite (N, C ≥ 2) array.

    Examples:
        >>> softmax(np.array([[0.0, 0.0], [1e30, 0.0]]))
        array([[0.5, 0.5],
               [1. , 0. ]])
    """
    probabilities: NDArray[np.float64] = np.exp(log_softmax(_checked_logits(logits), axis=1))
    return probabilities


def scores(
    logits: Floats, labels: Integers, teacher_logits: Floats | None = None
) -> dict[str, float]:
    """Every score of a classifier on the labelled rows.

    Args:
        logits: (N, C), finite.
        labels: (N,), class indices; `UNLABELLED` rows are left out, of the agreement too.
        teacher_logits: (N, C) of the teacher on the same rows.

    Returns:
        Shares in [0, 1] unless stated: `accuracy`; `f1` of class 1 (two classes only); `f1_macro`,
        the mean over the classes that occur among labels or predictions; `matthews`, in [−1, 1];
        `nll`, mean negative log-likelihood in nats; `ece`, expected calibration error of the top
        probability; `agreement`, share of rows with the teacher's prediction (only if it is given).
        A class that is never predicted, or never right, counts as 0.

    Raises:
        ValueError: Shapes do not fit, a logit is not finite, a label is no class, or no row has a
            label.

    Examples:
        >>> result = scores(np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([1, 0]))
        >>> [round(result[name], 3) for name in ("accuracy", "f1", "nll", "ece")]
        [0.5, 0.667, 0.813, 0.231]
    """
    logits, labels, kept = _labelled(logits, labels)
    log_probabilities = log_softmax(logits, axis=1)
    predicted = logits.argmax(axis=1)
    correct = predicted == labels
    result = {"accuracy": float(correct.mean())}
    if logits.shape[1] == 2:
        # labels=[1] and not the default average="binary", which fails if class 1 never occurs
        result["f1"] = float(
            f1_score(labels, predicted, labels=[1], average="macro", zero_division=0)
        )
    result["f1_macro"] = float(f1_score(labels, predicted, average="macro", zero_division=0))
    result["matthews"] = _matthews(labels, predicted)
    # abs and not a minus sign, so that a perfect model has 0 and not −0
    result["nll"] = float(np.abs(log_probabilities[np.arange(len(labels)), labels]).mean())
    result["ece"] = _calibration_error(np.exp(log_probabilities.max(axis=1)), correct)
    if teacher_logits is not None:
        teacher = _checked_logits(teacher_logits, "teacher logits")
        if teacher.shape != (len(kept), logits.shape[1]):
            raise ValueError(
                f"found teacher logits of shape {teacher.shape}, wanted the student's "
                f"{(len(kept), logits.shape[1])}; give both on the same rows"
            )
        result["agreement"] = float((teacher[kept].argmax(axis=1) == predicted).mean())
    return result


TEMPERATURES = (0.05, 20.0)
"""The least and the largest temperature that is fitted."""


def fit_temperature(logits: Floats, labels: Integers) -> float:
    """The temperature T > 0 at which softmax(logits / T) has the least negative log-likelihood.

    Guo et al., "On Calibration of Modern Neural Networks" (2017). Answers stay the same.

    Args:
        logits: (N, C), finite; of rows that the model was not trained on.
        labels: (N,), class indices; `UNLABELLED` rows are left out.

    Returns:
        A number within `TEMPERATURES`.

    Raises:
        ValueError: As `scores`.

    Examples:
        >>> right = np.log([[0.8, 0.2]] * 10) * 3  # three times as sure as they may be
        >>> round(fit_temperature(right, np.array([0] * 8 + [1] * 2)), 2)
        3.0
    """
    logits, labels, _ = _labelled(logits, labels)
    rows = np.arange(len(labels))

    def likelihood(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-log_probabilities[rows, labels].mean())

    found = minimize_scalar(likelihood, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def per_class(
    logits: Floats, labels: Integers, label_names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Scores of each class on the labelled rows.

    Args:
        logits: (N, C), finite.
        labels: (N,), class indices; `UNLABELLED` rows are left out.
        label_names: The C class names, in label order.

    Returns:
        Class name -> `precision`, `recall`, `f1` (0 where undefined) and `support`, its rows.

    Raises:
        ValueError: As `scores`, or the number of names is not C.
    """
    logits, labels, _ = _labelled(logits, labels)
    classes = logits.shape[1]
    if len(label_names) != classes:
        raise ValueError(
            f"found {len(label_names)} label names ({', '.join(label_names)}) for logits of "
            f"{classes} classes; give one name per class"
        )
    columns = precision_recall_fscore_support(
        labels, logits.argmax(axis=1), labels=range(classes), zero_division=0
    )
    names = ("precision", "recall", "f1", "support")
    return {
        label: dict(zip(names, map(float, values), strict=True))
        for label, values in zip(label_names, np.transpose(columns), strict=True)
    }


def majority_share(labels: Integers) -> float:
    """Share of the most frequent class among the labelled rows.

    Args:
        labels: (N,), class indices; `UNLABELLED` rows are left out.

    Raises:
        ValueError: No row has a label.

    Examples:
        >>> majority_share(np.array([1, 0, 1, 1, -100]))
        0.75
    """
    labels = np.asarray(labels)
    labels = labels[labels != UNLABELLED]
    if not len(labels):
        raise ValueError("found no labelled rows, wanted at least one; check the label column")
    return float(np.bincount(labels).max() / len(labels))


def _checked_logits(logits: Floats, name: str = "logits") -> NDArray[np.float64]:
    """Logits as float64, so that half precision neither overflows nor loses digits in a mean."""
    checked = np.asarray(logits, dtype=np.float64)
    if checked.ndim != 2 or checked.shape[1] < 2:
        raise ValueError(
            f"found {name} of shape {checked.shape}, wanted (rows, classes) with at least 2 classes"
        )
    if bad := int((~np.isfinite(checked)).any(axis=1).sum()):
        raise ValueError(
            f"found NaN or infinity in the {name} of {bad} of {len(checked)} rows, wanted finite "
            "numbers; the model has diverged: use an earlier checkpoint or a lower learning rate"
        )
    return checked


def _labelled(
    logits: Floats, labels: Integers
) -> tuple[NDArray[np.float64], Integers, NDArray[np.bool_]]:
    """Logits and labels of the labelled rows, and the (N,) mask of the labelled rows."""
    checked, labels = _checked_logits(logits), np.asarray(labels)
    rows, classes = checked.shape
    if labels.shape != (rows,):
        raise ValueError(
            f"found labels of shape {labels.shape} for logits of shape {checked.shape}, wanted "
            f"({rows},): one class index per row"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"found labels of type {labels.dtype}, wanted integers: class indices")
    kept = labels != UNLABELLED
    if not kept.any():
        raise ValueError(
            f"found no labelled rows among {rows}, wanted at least one; check the label column"
        )
    chosen = labels[kept]
    if chosen.min() < 0 or chosen.max() >= classes:
        raise ValueError(
            f"found labels from {chosen.min()} to {chosen.max()} for logits of {classes} classes, "
            f"wanted 0 to {classes - 1}, or {UNLABELLED} for a row without a label"
        )
    return checked[kept], chosen, kept


def _matthews(labels: Integers, predicted: Integers) -> float:
    """Matthews correlation; 0 if all labels and predictions are one class."""
    if len(np.union1d(labels, predicted)) == 1:  # scikit-learn also gives 0, but warns
        return 0.0
    return float(matthews_corrcoef(labels, predicted))


def _calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """Σ over bins (low, high] of (rows in bin / rows) · |accuracy − mean confidence|."""
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gap = np.bincount(bins, weights=correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gap).sum() / len(confidence))
