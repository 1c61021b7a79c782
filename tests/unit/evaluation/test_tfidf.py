"""The baseline without a neural network: what it sees, and what it says."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from layermix.evaluation.linear import C
from layermix.evaluation.tfidf import WORD, tfidf_values

TRAIN = [
    ("good film",),
    ("bad film",),
    ("good book",),
    ("bad book",),
    ("dull film",),
    ("fine book",),
]
LABELS = np.array([1, 0, 1, 0, 0, 1])
NEW = [("a good day",), ("a bad day",), ("what?",)]


def test_classes_are_logistic_regression_on_tfidf() -> None:
    found = tfidf_values(TRAIN, LABELS, NEW, "class", 2)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORD)
    rows = vectorizer.fit_transform([text for (text,) in TRAIN])
    model = LogisticRegression(C=C, max_iter=1000).fit(rows, LABELS)
    wanted = model.predict_proba(vectorizer.transform([text for (text,) in NEW]))
    assert np.allclose(found, wanted)
    assert found[:2].argmax(-1).tolist() == [1, 0]
    assert (tfidf_values(TRAIN, LABELS, NEW, "class", 2) == found).all()


def test_a_class_without_a_row_has_no_probability() -> None:
    found = tfidf_values(TRAIN, 2 * LABELS, NEW, "class", 3)
    assert (found[:, 1] == 0).all()
    assert found.sum(-1) == pytest.approx(1)
    assert tfidf_values(TRAIN, LABELS * 0, NEW, "class", 2).tolist() == [[1, 0]] * 3


def test_of_pairs_it_sees_in_what_the_texts_agree() -> None:
    """Each word is as often in rows of one label as of the other; only pairs tell them apart."""
    words = ["red", "blue", "green", "grey", "pink", "black"]
    pairs = [(one, other) for one in words for other in words]
    same = np.array([int(one == other) for one, other in pairs])
    rows = [*pairs, *((word, word) for word in words for _ in range(4))]
    labels = np.concatenate([same, np.ones(24, int)])
    found = tfidf_values(rows, labels, pairs, "class", 2)
    assert (found.argmax(-1) == same).all()


def test_each_label_of_several_has_its_own_model() -> None:
    sets = np.stack([LABELS, 1 - LABELS, np.zeros(6, int), np.ones(6, int)], axis=1)
    found = tfidf_values(TRAIN, sets, NEW, "labels", 4)
    alone = tfidf_values(TRAIN, LABELS, NEW, "class", 2)
    assert np.allclose(found[:, 0], alone[:, 1])
    assert np.allclose(found[:, 1], alone[:, 0], atol=1e-6)
    assert found[:, 2:].tolist() == [[0, 1]] * 3


def test_numbers_are_ridge_regression() -> None:
    found = tfidf_values(TRAIN, np.array([3.0, -1, 3, -1, 0, 2]), NEW, "number", 1)
    assert found.shape == (3, 1)
    assert found[0, 0] > 1.5 > found[1, 0]
