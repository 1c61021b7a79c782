"""Scores of several labels per row by hand and against scikit-learn; thresholds by trying all."""

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from layermix.evaluation.label_set_metrics import (
    HIGHER_IS_BETTER,
    fit_thresholds,
    labelled,
    per_label,
    scores,
)


def batch(seed, rows=60, width=4):
    """Probabilities, answers, labels and the teacher's answers, (N, C); each label occurs."""
    generator = np.random.default_rng(seed)
    probabilities = generator.random((rows, width)).round(2)
    labels = (generator.random((rows, width)) < 0.3 * probabilities + 0.1).astype(int)
    labels[np.arange(width), np.arange(width)] = 1
    answers = (probabilities >= 0.6).astype(int)
    teacher = np.where(generator.random((rows, width)) < 0.1, 1 - answers, answers)
    return probabilities, answers, labels, teacher


def test_scores_by_hand():
    labels = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    answers = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
    probabilities = np.where(answers == labels, np.where(labels, 0.75, 0.25), 0.5)
    found = scores(probabilities, answers, labels, labels)
    assert found == pytest.approx(
        {
            # 3 right of 4 given and 4 true
            "f1_micro": 6 / 8,
            # 2 · 2 / (3 + 2), 1 and 0; the fourth label does not occur
            "f1_macro": (4 / 5 + 1 + 0) / 3,
            # the second row has no label, and is given none
            "f1_samples": (2 / 3 + 1 + 1 + 0) / 4,
            "exact_match": 2 / 4,
            # each label that occurs is ranked first
            "mean_average_precision": 1,
            "nll": (14 * math.log(4 / 3) + 2 * math.log(2)) / 16,
            "agreement": 2 / 4,
        }
    )
    assert set(found) == set(HIGHER_IS_BETTER)
    assert "agreement" not in scores(probabilities, answers, labels)


@pytest.mark.parametrize("seed", range(4))
def test_scores_agree_with_scikit_learn(seed):
    probabilities, answers, labels, teacher = batch(seed)
    found = scores(probabilities, answers, labels, teacher)
    wanted = {
        f"f1_{average}": sklearn_metrics.f1_score(labels, answers, average=average, zero_division=0)
        for average in ("micro", "macro", "samples")
    }
    empty = ((labels + answers).sum(axis=1) == 0).mean()
    wanted["f1_samples"] += empty
    wanted["exact_match"] = sklearn_metrics.accuracy_score(labels, answers)
    wanted["mean_average_precision"] = sklearn_metrics.average_precision_score(
        labels, probabilities
    )
    wanted["nll"] = sklearn_metrics.log_loss(
        labels.ravel(), np.clip(probabilities, 1e-7, 1 - 1e-7).ravel()
    )
    wanted["agreement"] = sklearn_metrics.accuracy_score(teacher, answers)
    assert found == pytest.approx(wanted)
    report = sklearn_metrics.classification_report(
        labels, answers, target_names=list("abcd"), output_dict=True, zero_division=0
    )
    each = per_label(answers, labels, list("abcd"))
    assert list(each) == list("abcd")
    for name in each:
        renamed = {key.replace("f1-score", "f1"): value for key, value in report[name].items()}
        assert each[name] == pytest.approx(renamed)


def test_unlabelled_rows_change_nothing():
    first, other = batch(0), batch(1)
    padded = [np.concatenate(pair) for pair in zip(first, other, strict=True)]
    padded[2] = np.concatenate([first[2], np.full_like(other[2], -100)])
    assert labelled(padded[2]).tolist() == [True] * 60 + [False] * 60
    assert scores(*padded) == scores(*first)
    assert per_label(padded[1], padded[2], "abcd") == per_label(first[1], first[2], "abcd")
    assert fit_thresholds(padded[0], padded[2]) == fit_thresholds(first[0], first[2])


def test_labels_that_do_not_occur_count_0_or_not_at_all():
    none = np.zeros((2, 3), int)
    found = scores(np.zeros((2, 3)), none, none)
    assert found == pytest.approx(
        {
            "f1_micro": 0,
            "f1_macro": 0,
            "f1_samples": 1,
            "exact_match": 1,
            "mean_average_precision": 0,
            "nll": 0,
        },
        abs=1e-6,
    )
    undefined = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0.0}
    assert per_label(none, none, "abc") == dict.fromkeys("abc", undefined)


def test_a_single_label_has_the_scores_of_two_classes():
    probabilities, answers, labels, _ = batch(3, width=1)
    found = scores(probabilities, answers, labels)
    f1 = sklearn_metrics.f1_score(labels[:, 0], answers[:, 0])
    assert found["f1_micro"] == found["f1_macro"] == pytest.approx(f1)
    assert found["exact_match"] == (labels == answers).mean()


def test_sure_and_wrong_probabilities_have_a_finite_nll():
    found = scores(np.array([[1.0, 0.0]]), np.array([[1, 0]]), np.array([[0, 1]]))
    assert found["nll"] == pytest.approx(-math.log(1e-7))


# Thresholds


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("digits", [1, 2, 12])
def test_no_threshold_has_a_better_f1(seed, digits):
    generator = np.random.default_rng(seed)
    probabilities = generator.beta(0.5, 0.5, (40, 3)).round(digits)
    labels = (generator.random((40, 3)) < 0.2 + 0.4 * probabilities).astype(int)
    found = fit_thresholds(probabilities, labels)
    assert found == fit_thresholds(probabilities, labels)
    assert json.loads(json.dumps(found)) == list(found)
    for chances, right, threshold in zip(probabilities.T, labels.T, found, strict=True):
        assert type(threshold) is float
        assert 0 < threshold < 1
        tried = [*np.unique(chances[chances > 0]), 0.999999999]
        f1 = [sklearn_metrics.f1_score(right, chances >= each, zero_division=0) for each in tried]
        own = sklearn_metrics.f1_score(right, chances >= threshold, zero_division=0)
        assert own == pytest.approx(max(f1))


@pytest.mark.parametrize(
    ("probabilities", "labels", "wanted"),
    [
        # midway between .2 and .7
        ([0.1, 0.2, 0.7, 0.9], [0, 0, 1, 1], 0.45),
        # to the last row alone or to all four, 2 · 1 / (1 + 2) or 2 · 2 / (4 + 2), so .7 or .1
        ([0.2, 0.4, 0.6, 0.8], [1, 0, 0, 1], 0.7),
        # the same from .7 and from .5, so .6 or .4, as near to .5: the lower one
        ([0.7, 0.5, 0.5, 0.5, 0.3], [1, 1, 0, 0, 0], 0.4),
        # best is to give it to all: midway between 0 and .6
        ([0.6, 0.7, 0.8], [1, 1, 0], 0.3),
        ([0.7, 0.7, 0.7], [1, 0, 1], 0.35),
        # those with 0 never have it, at any threshold above 0
        ([0.0, 0.0, 0.4], [1, 1, 0], 0.7),
        ([0.0, 0.0], [1, 0], 0.5),
        ([1.0, 1.0], [1, 0], 0.5),
        # never, always
        ([0.1, 0.9], [0, 0], 0.5),
        ([0.1, 0.2], [1, 1], 0.5),
        # rounded to 6 digits, but not where that would change an answer
        ([1 / 3, 2 / 3 + 1e-3], [0, 1], 0.5005),
        ([0.12, 0.7654321], [0, 1], 0.442716),
        ([0.2000001, 0.2000003], [0, 1], 0.2000002),
    ],
)
def test_thresholds_by_hand(probabilities, labels, wanted):
    found = fit_thresholds(np.array(probabilities)[:, None], np.array(labels)[:, None])
    assert found == (pytest.approx(wanted, abs=1e-12),)


def test_two_numbers_without_one_between_them_are_told_apart():
    for low in (0.3, np.nextafter(np.nextafter(1, 0), 0), 0.0):
        high = float(np.nextafter(low, 1))
        found = fit_thresholds(np.array([[low], [high]]), np.array([[0], [1]]))
        assert found == (high,)
    # nothing lies between this and 1: both rows are given the label
    chances = np.array([[np.nextafter(1, 0)], [1.0]])
    assert fit_thresholds(chances, np.array([[0], [1]])) == (0.5,)


# Wrong input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": np.zeros(2)}, r"probabilities of shape \(2,\), wanted \(rows, labels\)"),
        ({"probabilities": np.zeros((2, 0))}, r"shape \(2, 0\), wanted \(rows, labels\); give one"),
        ({"probabilities": np.full((2, 2), np.nan)}, "NaN or infinity .* of 2 of 2 rows, .* model"),
        ({"probabilities": np.full((2, 2), 1.5)}, "from 1.5 to 1.5, wanted 0 to 1; give the sigm"),
        ({"labels": np.zeros(2, int)}, r"labels of shape \(2,\), wanted \(2, 2\): 0 or 1 for each"),
        ({"labels": np.zeros((2, 2))}, "labels of type float64, wanted integers: 0 or 1"),
        ({"labels": np.full((2, 2), -100)}, "no labelled rows among 2, wanted at least one; check"),
        ({"labels": np.array([[0, -100], [1, 1]])}, "1 rows that have -100 for some .* leave the"),
        ({"labels": np.array([[0, -100], [-100, 1]])}, "2 rows that have -100 for some of"),
        ({"labels": np.array([[0, 2], [1, 1]])}, "labels from 0 to 2, wanted 0 or 1, or -100 for"),
        ({"labels": np.array([[0, -1], [1, 1]])}, "labels from -1 to 1"),
        ({"answers": np.zeros((3, 2), int)}, r"answers of shape \(3, 2\), wanted \(2, 2\): 0 or 1"),
        ({"answers": np.zeros((2, 2))}, "answers of type float64 .* compare probabilities with"),
        ({"answers": np.full((2, 2), 2)}, "answers of type int64 that are not all 0 or 1"),
        ({"teacher_answers": np.zeros((2, 3), int)}, r"teacher answers of shape \(2, 3\)"),
    ],
)
def test_unusable_input_is_told(change, message):
    right = {
        "probabilities": np.full((2, 2), 0.5),
        "answers": np.ones((2, 2), int),
        "labels": np.eye(2, dtype=int),
    }
    assert scores(**right)["exact_match"] == 0
    with pytest.raises(ValueError, match=message):
        scores(**(right | change))
    if change.keys() <= {"probabilities", "labels"}:
        chosen = right | change
        with pytest.raises(ValueError, match=message):
            fit_thresholds(chosen["probabilities"], chosen["labels"])
    if change.keys() <= {"labels"}:
        with pytest.raises(ValueError, match=message):
            per_label(right["answers"], change["labels"], "ab")


def test_unusable_answers_and_names_are_told():
    labels = np.eye(2, dtype=int)
    with pytest.raises(ValueError, match=r"1 label names \(only\) for answers of 2 labels; give"):
        per_label(labels, labels, ["only"])
    with pytest.raises(ValueError, match=r"answers of shape \(2,\), wanted \(rows, labels\)"):
        per_label(np.zeros(2, int), labels, "ab")
