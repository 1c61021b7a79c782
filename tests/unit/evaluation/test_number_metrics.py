"""Scores of numbers by hand and against SciPy, and what degenerate inputs give."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from layermix.evaluation.number_metrics import (
    HIGHER_IS_BETTER,
    centred,
    correlation,
    labelled,
    scores,
)


def test_scores_by_hand():
    # less their means: −2 −1 0 3 and −3 1 1 1, so 8 / √(14 · 12); ranks 1 2 3 4 and 1 3 3 3
    answers, labels = np.array([1.0, 2.0, 3.0, 6.0]), np.array([0.0, 4.0, 4.0, 4.0])
    found = scores(answers, labels, -answers)
    assert found == pytest.approx(
        {
            "pearson": 8 / math.sqrt(14 * 12),
            "spearman": 3 / math.sqrt(5 * 3),
            "mae": (1 + 2 + 1 + 2) / 4,
            "agreement": -1,
        }
    )
    assert set(found) == set(HIGHER_IS_BETTER)
    assert "agreement" not in scores(answers, labels)


@pytest.mark.parametrize("digits", [0, 1, 8])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_agree_with_scipy(digits, dtype):
    generator = np.random.default_rng(digits)
    labels = generator.normal(size=200).round(digits).astype(dtype)
    answers, teacher = (
        (labels + generator.normal(size=(2, 200))).round(digits).astype(dtype).astype(float)
    )
    found = scores(answers.astype(dtype), labels, teacher)
    assert found == pytest.approx(
        {
            "pearson": scipy_stats.pearsonr(answers, labels.astype(float)).statistic,
            "spearman": scipy_stats.spearmanr(answers, labels).statistic,
            "mae": np.abs(answers - labels).mean(),
            "agreement": scipy_stats.pearsonr(answers, teacher).statistic,
        }
    )


def test_unlabelled_rows_change_nothing():
    generator = np.random.default_rng(0)
    answers, labels, teacher = generator.normal(size=(3, 30))
    padded = np.append(labels, [np.nan, np.nan])
    assert labelled(padded).tolist() == [True] * 30 + [False] * 2
    more = [np.append(each, [5.0, -7.0]) for each in (answers, teacher)]
    assert scores(more[0], padded, more[1]) == scores(answers, labels, teacher)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e-200, 1e300])
def test_a_constant_side_has_no_correlation_and_no_warning(constant):
    # the mean of three times .1 is not .1
    same, other = np.full(3, constant), np.array([0.2, 0.7, 0.1])
    for found in (scores(same, other, other), scores(other, same, same)):
        assert (found["pearson"], found["spearman"], found["agreement"]) == (0, 0, 0)
    assert scores(same, same)["mae"] == 0
    assert scores(np.array([1.0]), np.array([3.0])) == {"pearson": 0, "spearman": 0, "mae": 2}


@pytest.mark.parametrize("unit", [1e-300, 1.0, 1e300])
def test_a_correlation_knows_no_unit(unit):
    values = np.array([0.3, -0.2, 0.5, 0.1])
    assert correlation(values * unit, values) == pytest.approx(1, abs=1e-12)
    assert correlation(values, 7 - values) == pytest.approx(-1, abs=1e-12)
    assert np.abs(centred(values * unit)).max() == 1


@pytest.mark.parametrize(
    ("answers", "labels", "message"),
    [
        ([1.0, math.nan], [0.0, 1.0], "NaN or infinity in the answers of 1 of 2 rows, .* diverged"),
        ([1.0, math.inf], [0.0, 1.0], "NaN or infinity"),
        ([[1.0]], [1.0], r"answers of shape \(1, 1\), wanted \(rows,\); give one number per row"),
        ([1.0], [0.0, 1.0], r"labels of shape \(2,\) for answers of shape \(1,\), wanted \(1,\)"),
        ([1.0], [1], "labels of type int64, wanted floats: numbers, and NaN"),
        ([1.0], [-math.inf], "infinity in the labels of 1 of 1 rows, .* check the label column"),
        ([1.0, 2.0], [math.nan] * 2, "no labelled rows among 2, wanted at least one; check"),
        (np.zeros(0), np.zeros(0), "no labelled rows among 0"),
    ],
)
def test_unusable_input_is_told(answers, labels, message):
    with pytest.raises(ValueError, match=message):
        scores(np.array(answers), np.array(labels))


def test_unusable_teachers_are_told():
    with pytest.raises(ValueError, match="in the teacher answers of 2 of 2 rows"):
        scores(np.zeros(2), np.zeros(2), np.full(2, np.nan))
    with pytest.raises(ValueError, match=r"shape \(3,\), wanted the student's \(2,\); give both"):
        scores(np.zeros(2), np.zeros(2), np.zeros(3))
