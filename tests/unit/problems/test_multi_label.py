from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from layermix.config import LabelLossConfig
from layermix.errors import ConfigError
from layermix.problems.multi_label import MULTI_LABEL

NAMES = ("joy", "pride", "anger")
LOGITS = np.array([[2.0, -1.0, -3.0], [-2.0, -0.5, -2.0], [0.5, 0.25, 4.0], [1.0, 1.0, 1.0]])
LABELS = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1], [-100, -100, -100]])


def test_a_label_is_given_from_a_probability_of_a_half_on() -> None:
    assert MULTI_LABEL.answers(LOGITS).tolist() == [[1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1]]
    assert MULTI_LABEL.answers(np.array([[0.0]])).tolist() == [[1]]
    np.testing.assert_allclose(MULTI_LABEL.values(LOGITS), 1 / (1 + np.exp(-LOGITS)))
    np.testing.assert_allclose(MULTI_LABEL.logits_of(MULTI_LABEL.values(LOGITS)), LOGITS, rtol=1e-5)
    assert np.isfinite(MULTI_LABEL.logits_of(np.array([[0.0, 1.0]]))).all()


def test_scores_know_the_rows_with_labels() -> None:
    assert MULTI_LABEL.labelled(LABELS).tolist() == [True, True, True, False]
    found = MULTI_LABEL.scores(LOGITS, LABELS, LOGITS)
    assert found["exact_match"] == pytest.approx(2 / 3)
    assert found["f1_micro"] == pytest.approx(2 * 4 / (4 + 5))
    assert found["agreement"] == 1
    assert found.keys() == MULTI_LABEL.higher_is_better.keys()
    details = MULTI_LABEL.details(LOGITS, LABELS, NAMES)["per_class"]
    assert details["pride"] == {
        "precision": 1,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "support": 2,
    }
    assert MULTI_LABEL.missing(3) == [-100, -100, -100]


def test_columns_of_files() -> None:
    columns = MULTI_LABEL.columns(LOGITS, NAMES)
    assert list(columns) == ["prediction", "p_joy", "p_pride", "p_anger"]
    assert columns["prediction"].shape == (4, 3)
    written = MULTI_LABEL.written(LOGITS, NAMES)
    assert written["label"] == ["joy", "", "joy;pride;anger", "joy;pride;anger"]
    np.testing.assert_allclose(written["p_joy"], columns["p_joy"], atol=5e-7)
    assert MULTI_LABEL.teacher_columns(LOGITS)["teacher"].shape == (4, 3)
    other = LOGITS.copy()
    other[0, 2] = 1
    assert MULTI_LABEL.same(LOGITS, other).tolist() == [False, True, True, True]


def test_options_of_one_class_are_refused() -> None:
    for options in ({"class_weights": "balanced"}, {"label_smoothing": 0.1}):
        with pytest.raises(ConfigError, match="are for one class per row"):
            MULTI_LABEL.supervised_term(LabelLossConfig.model_validate(options), 1.0, LABELS, NAMES)
    assert MULTI_LABEL.supervised_term(LabelLossConfig(), 1.0, LABELS, NAMES).symbol == "L_sup[bce]"


def test_the_same_labels_for_all_rows_are_told() -> None:
    assert MULTI_LABEL.only_answer(LOGITS, LABELS, NAMES) is None
    assert MULTI_LABEL.only_answer(np.ones((4, 3)), LABELS, NAMES) == "joy;pride;anger"
    assert MULTI_LABEL.only_answer(-np.ones((4, 3)), LABELS, NAMES) == "none"
    assert MULTI_LABEL.only_answer(np.ones((4, 3)), LABELS[:1], NAMES) is None


def test_the_trivial_answer_is_the_best_set_for_all_rows() -> None:
    trivial = MULTI_LABEL.trivial(LABELS, "f1_micro")
    # joy and pride: 4 of 6 given are right, and 5 are true
    assert trivial.value == pytest.approx(2 * 4 / (6 + 5))
    assert not trivial.perfect
    assert trivial.beaten_by(LOGITS)
    assert not trivial.beaten_by(np.array([[1.0, 1.0, -1.0]] * 4))
    assert trivial.compared(LOGITS) == (
        "f1_micro 0.8889 on 3 validation rows; always answering the same labels has 0.7273"
    )
    assert MULTI_LABEL.trivial(np.array([[1, 0], [1, 0]]), "f1_micro").perfect


def cautious(rows: int, shifts: Sequence[float]) -> tuple[Any, Any]:
    """Logits that are too low by a shift for each label, and the labels."""
    draw = np.random.default_rng(0)
    labels = (draw.random((rows, len(shifts))) < 0.3).astype(int)
    return 2.0 * labels + draw.normal(size=labels.shape) - 1 - np.array(shifts), labels


@pytest.mark.parametrize(("shifts", "alike"), [((2, 2), True), ((2.5, -2.0), False)])
def test_thresholds_of_held_out_rows_make_more_right_answers(
    shifts: Sequence[float], alike: bool
) -> None:
    logits, labels = cautious(300, shifts)
    found = MULTI_LABEL.calibration(logits, labels)
    assert found is not None
    assert (len(set(found["thresholds"])) == 1) == alike
    moved = MULTI_LABEL.calibrated(logits, found)
    wanted = MULTI_LABEL.values(logits) >= np.array(found["thresholds"])
    assert (MULTI_LABEL.answers(moved) == wanted).mean() > 0.99
    before, after = (MULTI_LABEL.scores(one, labels)["f1_micro"] for one in (logits, moved))
    assert after > before + 0.1


def test_no_thresholds_where_none_are_better() -> None:
    logits, labels = cautious(300, (0, 0))
    sure = np.where(labels == 1, 5.0, -5.0)
    assert MULTI_LABEL.calibration(sure, labels) is None
    assert MULTI_LABEL.calibration(logits, np.full((300, 2), -100)) is None
    assert MULTI_LABEL.calibration(logits[:4], labels[:4]) is None


def test_an_interval_over_rows_and_of_the_difference() -> None:
    draw = np.random.default_rng(0)
    labels = (draw.random((200, 3)) < 0.4).astype(int)
    logits = 3.0 * labels - 1.5 + draw.normal(size=(200, 3))
    found = MULTI_LABEL.interval("f1_macro", logits, labels, logits)
    assert found is not None
    assert found["low"] < MULTI_LABEL.scores(logits, labels)["f1_macro"] < found["high"]
    assert found["difference"] == 0
    assert MULTI_LABEL.interval("mean_average_precision", logits, labels, None) is None


def test_the_trivial_answer_of_many_labels_is_found_in_no_time() -> None:
    draw = np.random.default_rng(0)
    labels = (draw.random((1000, 200)) < 0.05).astype(int)
    assert 0 < MULTI_LABEL.trivial(labels, "f1_micro").value < 0.2
    by_precision = MULTI_LABEL.trivial(labels[:50, :4], "mean_average_precision")
    assert 0 < by_precision.value < 1


def test_thresholds_near_0_and_1_are_kept() -> None:
    logits = np.array([[-17.0], [-16.0], [20.0]])
    for threshold, wanted in ((6e-8, [0, 1, 1]), (1 - 1e-9, [0, 0, 0]), (0.5, [0, 0, 1])):
        moved = MULTI_LABEL.calibrated(logits, {"thresholds": (threshold,)})
        found = MULTI_LABEL.answers(moved)[:, 0].tolist()
        assert found == (MULTI_LABEL.values(logits)[:, 0] >= threshold).astype(int).tolist()
        if threshold != 1 - 1e-9:
            assert found == wanted
