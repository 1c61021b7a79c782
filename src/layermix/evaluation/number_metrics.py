"""The scores of a model that gives each row a number: NumPy and SciPy only."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]

HIGHER_IS_BETTER: Mapping[str, bool] = MappingProxyType(
    {"pearson": True, "spearman": True, "mae": False, "agreement": True}
)
"""Every score that `scores` can give, and the direction that is good."""


def labelled(labels: Floats) -> NDArray[np.bool_]:
    """Which rows have a label.

    Args:
        labels: (N,), NaN for a row that has none.

    Returns:
        (N,) bool.

    Examples:
        >>> labelled(np.array([0.5, np.nan]))
        array([ True, False])
    """
    known: NDArray[np.bool_] = ~np.isnan(labels)
    return known


def scores(
    answers: Floats, labels: Floats, teacher_answers: Floats | None = None
) -> dict[str, float]:
    """Every score of a model on the labelled rows.

    Args:
        answers: (N,), finite.
        labels: (N,), finite; rows with NaN are left out, of the agreement too.
        teacher_answers: (N,) of the teacher on the same rows.

    Returns:
        `pearson` and `spearman`, correlations in [−1, 1], the second of ranks, where equal numbers
        get their mean rank; `mae`, the mean absolute error; `agreement`, Pearson's correlation with
        the teacher's answers (only if they are given). A correlation is 0 where one side is
        constant.

    Raises:
        ValueError: Shapes do not fit, an answer is not finite, a label is infinite or no float, or
            no row has a label.

    Examples:
        >>> result = scores(np.array([1.0, 2.0, 6.0]), np.array([0.0, 2.0, 3.0]))
        >>> {name: round(score, 3) for name, score in result.items()}
        {'pearson': 0.866, 'spearman': 1.0, 'mae': 1.333}
    """
    answers = _checked_answers(answers)
    known = _known(labels, answers)
    right, given = np.asarray(labels, dtype=np.float64)[known], answers[known]
    result = {
        "pearson": correlation(given, right),
        "spearman": correlation(rankdata(given), rankdata(right)),
        "mae": float(np.abs(given - right).mean()),
    }
    if teacher_answers is not None:
        teacher = _checked_answers(teacher_answers, "teacher answers")
        if teacher.shape != answers.shape:
            raise ValueError(
                f"found teacher answers of shape {teacher.shape}, wanted the student's "
                f"{answers.shape}; give both on the same rows"
            )
        result["agreement"] = correlation(given, teacher[known])
    return result


def correlation(first: Floats, second: Floats) -> float:
    """Pearson's correlation of two rows of finite numbers, (N,) each; 0 where one is constant.

    Examples:
        >>> correlation(np.array([1.0, 2.0]), np.array([3.0, -1.0]))
        -1.0
        >>> correlation(np.array([1.0, 2.0]), np.array([0.1, 0.1]))
        0.0
    """
    own, other = centred(first), centred(second)
    spread = np.linalg.norm(own) * np.linalg.norm(other)
    return float(np.clip(own @ other / spread, -1, 1)) if spread else 0.0


def centred(values: Floats) -> Array:
    """Numbers (N,) less their mean, in a unit in which squares neither overflow nor vanish.

    Constant numbers give zeros, without a rest of rounding.

    Examples:
        >>> centred(np.array([1e300, 3e300])), centred(np.full(3, 0.1))
        (array([-1.,  1.]), array([0., 0., 0.]))
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.min() == numbers.max():
        return np.zeros(len(numbers))
    numbers = numbers / np.abs(numbers).max()
    numbers = numbers - numbers.mean()
    scaled: Array = numbers / np.abs(numbers).max()
    return scaled


def _checked_answers(answers: Floats, name: str = "answers") -> Array:
    """Answers as float64, so that half precision neither overflows nor loses digits in a mean."""
    checked = np.asarray(answers, dtype=np.float64)
    if checked.ndim != 1:
        raise ValueError(
            f"found {name} of shape {checked.shape}, wanted (rows,); give one number per row"
        )
    if bad := int((~np.isfinite(checked)).sum()):
        raise ValueError(
            f"found NaN or infinity in the {name} of {bad} of {len(checked)} rows, wanted finite "
            "numbers; the model has diverged: use an earlier checkpoint or a lower learning rate"
        )
    return checked


def _known(labels: Floats, answers: Array) -> NDArray[np.bool_]:
    """The (N,) mask of the labelled rows; raises a ValueError unless the labels fit."""
    labels = np.asarray(labels)
    if labels.shape != answers.shape:
        raise ValueError(
            f"found labels of shape {labels.shape} for answers of shape {answers.shape}, wanted "
            f"({len(answers)},): one number per row"
        )
    if not np.issubdtype(labels.dtype, np.floating):
        raise ValueError(
            f"found labels of type {labels.dtype}, wanted floats: numbers, and NaN for a row "
            "without a label"
        )
    if bad := int(np.isinf(labels).sum()):
        raise ValueError(
            f"found infinity in the labels of {bad} of {len(labels)} rows, wanted finite numbers, "
            "or NaN for a row without a label; check the label column"
        )
    known = labelled(labels)
    if not known.any():
        raise ValueError(
            f"found no labelled rows among {len(labels)}, wanted at least one; check the label "
            "column"
        )
    return known


SAME = 0.1
"""Numbers are alike up to this part of the standard deviation of the first ones."""

ROUNDING = 1e-5
"""And up to this part of their size, which is what other programs' rounding changes."""


def alike(first: Floats, second: Floats) -> NDArray[np.bool_]:
    """On which rows two models give nearly the same number, (…, N).

    Args:
        first: Numbers, (…, N); those of the teacher, or of the file that another is made from.
        second: Numbers on the same rows.

    Examples:
        >>> alike(np.array([1.0, 2.0, 3.0]), np.array([1.05, 2.0, 3.5]))
        array([ True,  True, False])
    """
    first = np.asarray(first, dtype=np.float64)
    within = SAME * first.std(-1, keepdims=True) + ROUNDING * np.abs(first)
    same: NDArray[np.bool_] = np.abs(first - second) <= within
    return same
