"""The linear models of scikit-learn that baselines fit to features of texts, by form of label."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

from layermix.evaluation.forms import Form

Texts = Sequence[tuple[str, ...]]
Array = NDArray[Any]
Features = Any
"""(N, D), one row for each text, sparse (of TF-IDF) or an array."""

Values = Callable[[Texts, Array, Texts, Form, int], Array]
"""`values(train, labels, others, form, outputs)`: what a baseline says of other texts, as
`tfidf_values` describes it."""

C = 10.0
"""Inverse strength of the regularisation of logistic regression, for TF-IDF: its rows are sparse
and have norm 1."""


def linear_values(
    seen: Features, labels: Array, new: Features, form: Form, outputs: int, c: float = C
) -> NDArray[np.float64]:
    """Returns what a linear model says of other rows, as `Problem.values` has it.

    It is logistic regression, one for each of several labels, and ridge regression for numbers.
    The result is the same every time.

    Args:
        seen: (N, D) features of the labelled rows.
        labels: (N,) class indices or numbers, or (N, C) 0 and 1.
        new: (M, D) features of the others.
        form: What a label is; a key of `MODELS`.
        outputs: C, number of classes or labels; 1 for numbers.
        c: Inverse strength of the regularisation of logistic regression.

    Returns:
        (M, C): probabilities, or numbers.
    """
    return MODELS[form](seen, np.asarray(labels), new, outputs, c)


def _classes(seen: Features, labels: Array, new: Features, outputs: int, c: float) -> Array:
    values = np.zeros((new.shape[0], outputs))
    known = np.unique(labels)
    if len(known) < 2:
        values[:, known] = 1
        return values
    model = LogisticRegression(C=c, max_iter=1000).fit(seen, labels)
    values[:, model.classes_] = model.predict_proba(new)
    return values


def _label_sets(seen: Features, labels: Array, new: Features, outputs: int, c: float) -> Array:
    columns = [_classes(seen, labels[:, label], new, 2, c)[:, 1] for label in range(outputs)]
    return np.stack(columns, axis=1)


def _numbers(seen: Features, labels: Array, new: Features, outputs: int, c: float) -> Array:
    found: Array = Ridge(alpha=1.0).fit(seen, labels).predict(new)[:, None]
    return found


MODELS: Mapping[Form, Callable[[Features, Array, Features, int, float], Array]] = {
    "class": _classes,
    "labels": _label_sets,
    "number": _numbers,
}
"""Form of a label -> what is fitted."""
