"""Scores against scikit-learn, SciPy and closed forms, and what degenerate inputs give."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.special import softmax as scipy_softmax
from sklearn import metrics as sklearn_metrics

from layermix.data.docstrings import LABEL_NAMES
from layermix.data.tasks import TASKS
from layermix.evaluation.metrics import (
    HIGHER_IS_BETTER,
    TEMPERATURES,
    fit_temperature,
    majority_share,
    per_class,
    scores,
    softmax,
)
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.kinds import PROBLEMS


@st.composite
def batches(draw):
    """Logits (N, C), labels (N,) with every class present, teacher logits (N, C)."""
    width = draw(st.integers(2, 5))
    rows = draw(st.integers(width, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = generator.normal(0, draw(st.sampled_from([0.1, 1.0, 30.0])), (rows, width))
    labels = generator.permutation(np.arange(rows) % width)
    return logits, labels, generator.normal(size=(rows, width))


def logits_of(*probabilities_of_class_1):
    """Two-class logits with the given probabilities of class 1."""
    return np.array([[0.0, math.log(p / (1 - p))] for p in probabilities_of_class_1])


@settings(deadline=None)
@given(batches())
def test_scores_agree_with_scikit_learn(batch):
    logits, labels, teacher = batch
    found = scores(logits, labels, teacher)
    predicted = logits.argmax(1)
    wanted = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "f1_macro": sklearn_metrics.f1_score(labels, predicted, average="macro", zero_division=0),
        "matthews": sklearn_metrics.matthews_corrcoef(labels, predicted),
        "nll": -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean(),
        "agreement": sklearn_metrics.accuracy_score(teacher.argmax(1), predicted),
    }
    if logits.shape[1] == 2:
        wanted["f1"] = sklearn_metrics.f1_score(labels, predicted, zero_division=0)
    assert 0 <= found.pop("ece") <= 1
    assert found == pytest.approx(wanted)


@settings(deadline=None)
@given(batches())
def test_softmax_agrees_with_scipy(batch):
    np.testing.assert_allclose(softmax(batch[0]), scipy_softmax(batch[0], axis=1), rtol=1e-12)


@settings(deadline=None)
@given(batches())
def test_unlabelled_rows_change_nothing(batch):
    logits, labels, teacher = batch
    generator = np.random.default_rng(0)
    more = [np.concatenate([part, generator.normal(size=part.shape)]) for part in (logits, teacher)]
    padded = np.concatenate([labels, np.full_like(labels, -100)])
    assert scores(more[0], padded, more[1]) == scores(logits, labels, teacher)
    names = [str(index) for index in range(logits.shape[1])]
    assert per_class(more[0], padded, names) == per_class(logits, labels, names)
    assert majority_share(padded) == majority_share(labels)


@settings(deadline=None)
@given(batches())
def test_per_class_agrees_with_scikit_learn(batch):
    logits, labels, _ = batch
    names = [f"class {index}" for index in range(logits.shape[1])]
    report = sklearn_metrics.classification_report(
        labels, logits.argmax(1), target_names=names, output_dict=True, zero_division=0
    )
    found = per_class(logits, labels, names)
    assert list(found) == names
    for name in names:
        wanted = {key.replace("f1-score", "f1"): value for key, value in report[name].items()}
        assert found[name] == pytest.approx(wanted)


def test_nll_in_closed_form():
    found = scores(logits_of(0.9, 0.2), np.array([1, 0]))
    assert found["nll"] == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nll_of_huge_logits_is_their_difference(dtype):
    logits = np.array([[6e4, -6e4], [0, 6e4]], dtype=dtype)
    found = scores(logits, np.array([1, 1]))
    gap = float(logits[0, 0]) - float(logits[0, 1])
    assert found["nll"] == pytest.approx(gap / 2)
    assert scores(np.array([[1e30, 0.0]]), np.array([1]))["nll"] == 1e30


def test_nll_of_a_certain_and_right_model_is_a_plain_zero():
    found = scores(np.array([[1e5, 0.0]]), np.array([0]))
    assert math.copysign(1, found["nll"]) == 1.0
    assert found["nll"] == found["ece"] == 0.0


@pytest.mark.parametrize(
    ("probabilities", "labels", "wanted"),
    [
        # one bin: two of four right at confidence .9
        ((0.9, 0.9, 0.9, 0.9), (1, 1, 0, 0), 0.4),
        # two bins, each with its own gap: .75 · |1 − .9| + .25 · |0 − .7|
        ((0.9, 0.9, 0.9, 0.7), (1, 1, 1, 0), 0.75 * 0.1 + 0.25 * 0.7),
        # .61 and .65 are both in (9/15, 10/15], so their gaps cancel before the absolute value
        ((0.61, 0.65), (1, 0), abs(0.5 - 0.63)),
        # .65 and .68 are not: the edge is 10/15
        ((0.65, 0.68), (1, 0), (0.35 + 0.68) / 2),
    ],
)
def test_calibration_error_in_closed_form(probabilities, labels, wanted):
    assert scores(logits_of(*probabilities), np.array(labels))["ece"] == pytest.approx(wanted)


@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_the_temperature_has_the_least_nll(scale):
    generator = np.random.default_rng(3)
    logits = generator.normal(size=(300, 3)) * 2
    labels = np.array([generator.choice(3, p=row) for row in softmax(logits)])
    labels[::10] = -100
    found = fit_temperature(logits * scale, labels)
    assert found == pytest.approx(scale * fit_temperature(logits, labels), rel=1e-3)
    nll = [scores(logits * scale / t, labels)["nll"] for t in (found, 0.9 * found, 1.1 * found)]
    assert nll[0] == min(nll)
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.3)


def test_a_temperature_stays_within_its_limits():
    right = np.eye(3)[[0, 1, 2]]
    assert fit_temperature(right, np.arange(3)) == pytest.approx(TEMPERATURES[0], rel=1e-3)
    assert fit_temperature(right, np.array([1, 2, 0])) == pytest.approx(TEMPERATURES[1], rel=1e-3)


def test_agreement_is_with_the_teacher_not_the_label():
    logits, teacher = logits_of(0.9, 0.9, 0.1, 0.1), logits_of(0.8, 0.1, 0.9, 0.2)
    found = scores(logits, np.array([0, 0, 1, 1]), teacher)
    assert (found["accuracy"], found["agreement"]) == (0.0, 0.5)
    assert "agreement" not in scores(logits, np.array([0, 0, 1, 1]))


def test_f1_is_of_class_1_and_for_two_classes_only():
    found = scores(logits_of(0.9, 0.9, 0.9, 0.1), np.array([1, 0, 0, 0]))
    assert found["f1"] == pytest.approx(0.5)
    assert "f1" not in scores(np.eye(3), np.arange(3))


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("answer", [0, 1])
def test_one_class_only_gives_zeros_and_no_warning(label, answer):
    logits = np.eye(2)[[answer, answer]]
    labels = np.array([label, label])
    found = scores(logits, labels)
    assert found["accuracy"] == float(label == answer)
    assert found["f1"] == float(label == answer == 1)
    assert found["matthews"] == 0.0
    counted = per_class(logits, labels, ["no", "yes"])
    absent = ["no", "yes"][1 - label]
    assert counted[absent] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0.0}


def test_a_class_never_predicted_counts_as_zero():
    found = scores(logits_of(0.1, 0.1), np.array([0, 1]))
    assert (found["f1"], found["matthews"]) == (0.0, 0.0)
    assert found["f1_macro"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[0.0, math.nan], [0, 1]], [0, 1], "NaN or infinity in the logits of 1 of 2 rows"),
        ([[0.0, math.inf]], [0], "NaN or infinity"),
        ([[0.0, 1.0]], [-100], "no labelled rows among 1"),
        (np.zeros((0, 2)), np.zeros(0, int), "no labelled rows among 0"),
        ([[0.0, 1.0]], [2], r"labels from 2 to 2 for logits of 2 classes, wanted 0 to 1"),
        ([[0.0, 1.0]], [-1], "labels from -1 to -1"),
        ([[0.0, 1.0]], [0, 1], r"labels of shape \(2,\) for logits of shape \(1, 2\)"),
        ([[0.0, 1.0]], [0.5], "labels of type float64, wanted integers"),
        ([[0.0]], [0], "at least 2 classes"),
        ([0.0, 1.0], [0, 1], r"logits of shape \(2,\)"),
    ],
)
def test_unusable_input_is_told(logits, labels, message):
    for score in (scores, lambda *arrays: per_class(*arrays, ["no", "yes"])):
        with pytest.raises(ValueError, match=message):
            score(np.array(logits), np.array(labels))


def test_unusable_teacher_and_names_are_told():
    logits, labels = np.zeros((2, 2)), np.array([0, 1])
    with pytest.raises(ValueError, match="in the teacher logits of 2 of 2 rows"):
        scores(logits, labels, np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match=r"shape \(3, 2\), wanted the student's \(2, 2\)"):
        scores(logits, labels, np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"1 label names \(only\) for logits of 2 classes"):
        per_class(logits, labels, ["only"])
    with pytest.raises(ValueError, match="no labelled rows"):
        majority_share(np.array([-100]))


def test_majority_share_counts_the_commonest_class():
    assert majority_share(np.array([2, 0, 2, 1, 2, -100])) == 0.6


def test_the_table_of_tasks_is_sound():
    assert set(CLASSIFICATION.default_scores) <= set(HIGHER_IS_BETTER)
    assert {name for name, good in HIGHER_IS_BETTER.items() if not good} == {"nll", "ece"}
    given_scores = scores(np.eye(2), np.arange(2), np.eye(2))
    assert set(given_scores) == set(HIGHER_IS_BETTER)
    for name, task in TASKS.items():
        assert task.name == name
        assert set(task.metrics) <= set(PROBLEMS[task.problem].higher_is_better)
        assert len(task.text_columns) in (1, 2)
        assert task.label_names is None or len(set(task.label_names)) == len(task.label_names) >= 2
    assert TASKS["docstrings"].label_names == LABEL_NAMES
