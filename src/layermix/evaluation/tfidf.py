"""A classifier without a neural network: TF-IDF of words, then a linear model of scikit-learn.

It takes seconds. What a student has beyond it is what the transformer brings.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer

from layermix.evaluation.forms import Form
from layermix.evaluation.linear import Array, Texts, linear_values

WORD = r"\w+|[^\w\s]"
"""A word, or a sign."""


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
        form: What a label is; a key of `linear.MODELS`.
        outputs: C, number of classes or labels; 1 for numbers.

    Returns:
        (M, C): probabilities, or numbers.
    """
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORD)
    vectorizer.fit([text for row in train for text in row])
    seen, new = (_features(vectorizer, texts) for texts in (train, others))
    return linear_values(seen, labels, new, form, outputs)


def _features(vectorizer: Any, texts: Texts) -> csr_matrix:
    parts = [vectorizer.transform(column) for column in zip(*texts, strict=True)]
    if len(parts) == 2:
        first, second = parts
        parts += [first.multiply(second), abs(first - second)]
    return csr_matrix(hstack(parts))
