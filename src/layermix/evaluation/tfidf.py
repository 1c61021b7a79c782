"""A classifier without a neural network: TF-IDF of words, then a linear model of scikit-learn.

It takes seconds. What a student has beyond it is what the transformer brings.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from layermix.evaluation.forms import Form

Texts = Sequence[tuple[str, ...]]
Array = NDArray[Any]

WORD = r"\w+|[^\w\s]"
"""A word, or a sign."""

C = 10.0
"""Inverse strength of the regularisation of logistic regression: TF-IDF rows have norm 1."""


def tfidf_values(
    train: Texts, labels: Array, others: Texts, form: Form, outputs: int
) -> NDArray[np.float64]:
    """Returns what a linear model of TF-IDF says of other texts, as `Problem.values` has it.

    Words and pairs of neighbouring words are counted. Of two texts it sees the first, the second,
    and in what they agree and differ. The result is the same every time.

    Args:
        train: N labelled texts, one or two strings each.
        labels: (N,) class indices or numbers, or (N, C) 0 and 1.
        others: M texts.
        form: What a label is; a key of `MODELS`.
        outputs: C, number of classes or labels; 1 for numbers.

    Returns:
        (M, C): probabilities, or numbers.
    """
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORD)
    vectorizer.fit([text for row in train for text in row])
    seen, new = (_features(vectorizer, texts) for texts in (train, others))
    return MODELS[form](seen, np.asarray(labels), new, outputs)


def _features(vectorizer: Any, texts: Texts) -> csr_matrix:
    parts = [vectorizer.transform(column) for column in zip(*texts, strict=True)]
    if len(parts) == 2:
        first, second = parts
        parts += [first.multiply(second), abs(first - second)]
    return csr_matrix(hstack(parts))


def _classes(seen: csr_matrix, labels: Array, new: csr_matrix, outputs: int) -> Array:
    values = np.zeros((new.shape[0], outputs))
    known = np.unique(labels)
    if len(known) < 2:
        values[:, known] = 1
        return values
    model = LogisticRegression(C=C, max_iter=1000).fit(seen, labels)
    values[:, model.classes_] = model.predict_proba(new)
    return values


def _label_sets(seen: csr_matrix, labels: Array, new: csr_matrix, outputs: int) -> Array:
    columns = [_classes(seen, labels[:, label], new, 2)[:, 1] for label in range(outputs)]
    return np.stack(columns, axis=1)


def _numbers(seen: csr_matrix, labels: Array, new: csr_matrix, outputs: int) -> Array:
    found: Array = Ridge(alpha=1.0).fit(seen, labels).predict(new)[:, None]
    return found


MODELS: Mapping[Form, Callable[[csr_matrix, Array, csr_matrix, int], Array]] = {
    "class": _classes,
    "labels": _label_sets,
    "number": _numbers,
}
"""Form of a label -> what is fitted."""
