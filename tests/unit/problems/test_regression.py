import math
from typing import Any

import numpy as np
import pytest

from layermix.config import LabelLossConfig
from layermix.errors import ConfigError
from layermix.problems.regression import REGRESSION, RELEVANCE, Regression

LOGITS = np.array([[0.5], [1.5], [3.0], [2.0], [9.0]], dtype=np.float32)
LABELS = np.array([0.0, 1.0, 4.0, 2.0, math.nan])
BOTH = pytest.mark.parametrize("problem", [REGRESSION, RELEVANCE], ids=lambda one: one.name)


def test_a_number_is_the_logit_or_its_sigmoid() -> None:
    assert REGRESSION.answers(LOGITS).tolist() == [0.5, 1.5, 3, 2, 9]
    np.testing.assert_allclose(RELEVANCE.answers(LOGITS), 1 / (1 + np.exp(-LOGITS[:, 0])))


@BOTH
def test_logits_of_values_are_those_that_gave_them(problem: Regression) -> None:
    found = problem.logits_of(problem.values(LOGITS))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, LOGITS, rtol=1e-3)
    assert np.isfinite(problem.logits_of(np.array([[0.0], [1.0]]))).all()


def test_scores_know_the_rows_with_a_label() -> None:
    assert REGRESSION.labelled(LABELS).tolist() == [True] * 4 + [False]
    found = REGRESSION.scores(LOGITS, LABELS, 2 * LOGITS + 1)
    assert found["spearman"] == pytest.approx(1)
    assert found["mae"] == pytest.approx(0.5)
    assert found["agreement"] == pytest.approx(1)
    assert found.keys() == REGRESSION.higher_is_better.keys()
    assert math.isnan(REGRESSION.missing(1))


@BOTH
def test_columns_of_files(problem: Regression) -> None:
    assert list(problem.columns(LOGITS, ("score",))) == ["prediction"]
    written = problem.written(LOGITS, ("score",))
    np.testing.assert_allclose(written["label"], problem.answers(LOGITS), atol=5e-7)
    assert list(problem.teacher_columns(LOGITS)) == ["teacher"]
    assert problem.details(LOGITS, LABELS, ("score",)) == {}


def test_options_of_classes_are_refused() -> None:
    for options in ({"class_weights": "balanced"}, {"label_smoothing": 0.1}):
        with pytest.raises(ConfigError, match="are for classes, and the labels are numbers"):
            REGRESSION.supervised_term(
                LabelLossConfig.model_validate(options), 1.0, LABELS, ("score",)
            )
    assert REGRESSION.supervised_term(LabelLossConfig(), 1.0, LABELS, ()).symbol == "L_sup[mse]"
    assert RELEVANCE.supervised_term(LabelLossConfig(), 1.0, LABELS, ()).symbol == "L_sup[bce]"


def test_one_number_for_all_rows_is_told() -> None:
    flat = np.full((5, 1), 2.5)
    assert REGRESSION.only_answer(flat, LABELS, ("score",)) == "2.5"
    assert REGRESSION.only_answer(LOGITS, LABELS, ("score",)) is None
    assert REGRESSION.only_answer(flat, np.full(5, 1.0), ("score",)) is None


def test_numbers_are_the_same_up_to_a_tenth_of_their_spread() -> None:
    spread = LOGITS.std()
    near, far = LOGITS + 0.09 * spread, LOGITS + 0.11 * spread
    assert REGRESSION.same(LOGITS, near).all()
    assert not REGRESSION.same(LOGITS, far).any()


def test_the_trivial_answer_is_the_mean() -> None:
    trivial = REGRESSION.trivial(LABELS, "pearson")
    assert (trivial.value, trivial.perfect) == (0, False)
    assert trivial.beaten_by(LOGITS)
    assert not trivial.beaten_by(-LOGITS)
    assert not trivial.beaten_by(np.zeros((5, 1)))
    error = REGRESSION.trivial(LABELS, "mae")
    assert error.value == pytest.approx(np.abs(LABELS[:4] - 1.75).mean())
    assert error.beaten_by(LOGITS)
    assert not error.beaten_by(LOGITS + 10)
    assert error.compared(LOGITS) == (
        "mae 0.5000 on 4 validation rows; always answering the mean has 1.2500"
    )
    assert REGRESSION.trivial(np.full(3, 2.0), "pearson").perfect


def test_an_interval_over_rows_and_of_the_difference() -> None:
    draw = np.random.default_rng(0)
    labels = draw.normal(size=200)
    good, bad = (labels + spread * draw.normal(size=200) for spread in (0.3, 1.0))
    found = REGRESSION.interval("pearson", bad[:, None], labels, good[:, None])
    assert found is not None
    assert found["rows"] == 200
    assert found["low"] < np.corrcoef(bad, labels)[0, 1] < found["high"]
    assert found["difference"] < 0
    assert found["difference_high"] < 0
    assert REGRESSION.interval("pearson", good[:, None], np.full(200, math.nan), None) is None
    assert REGRESSION.interval("other", good[:, None], labels, None) is None


@pytest.mark.parametrize(("label", "said"), [(0.0, ""), (1.0, ""), (1.5, "found the number 1.5")])
def test_a_relevance_is_from_0_to_1(label: float, said: str) -> None:
    assert RELEVANCE.fault(label).startswith(said)
    assert bool(RELEVANCE.fault(label)) == bool(said)
    assert REGRESSION.fault(label) == ""


def test_nothing_is_calibrated() -> None:
    problem: Any = REGRESSION
    assert problem.calibration(LOGITS, LABELS) is None
    assert problem.calibrated(LOGITS, {}) is LOGITS


def test_a_teacher_with_another_scale_is_told() -> None:
    labels = np.array([0.0, 1.0, 0.0, 1.0, math.nan])
    assert REGRESSION.doubt(labels[:, None] + 0.1, labels) == ""
    said = REGRESSION.doubt(20 * np.nan_to_num(labels)[:, None] - 11, labels)
    assert said.startswith("the teacher's numbers (-11 to 9) have another scale than the labels (0")
    assert RELEVANCE.doubt(20 * np.nan_to_num(labels)[:, None] - 11, labels) == ""
    assert REGRESSION.doubt(LOGITS, np.full(5, math.nan)) == ""
    assert not REGRESSION.trivial(np.full(3, math.nan), "pearson").perfect
    assert REGRESSION.same(np.array([[1.0]]), np.array([[1.0000001]])).all()
