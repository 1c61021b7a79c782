import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layermix.config import LabelLossConfig
from layermix.core.signals import Signal
from layermix.core.terms import ForwardPass
from layermix.errors import ConfigError
from layermix.problems.classification import CLASSIFICATION

LOGITS = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.5]])
LABELS = np.array([0, 1, 1, -100])
NAMES = ("no", "yes")


def test_answers_and_columns_agree() -> None:
    columns = CLASSIFICATION.columns(LOGITS, NAMES)
    assert list(columns) == ["prediction", "p_no", "p_yes"]
    assert columns["prediction"].tolist() == CLASSIFICATION.answers(LOGITS).tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(columns["p_no"] + columns["p_yes"], 1)
    teacher = CLASSIFICATION.teacher_columns(LOGITS)
    np.testing.assert_allclose(
        teacher["teacher_confidence"], np.maximum(columns["p_no"], columns["p_yes"])
    )


def loss_of(term: Any, labels: list[int]) -> list[float]:
    """L_sup of rows with these labels, whose logits are all 0."""
    logits = torch.zeros(len(labels), len(NAMES))
    given = ForwardPass({"labels": torch.tensor(labels)}, Signal(logits, logits > 0))
    found: list[float] = (term(given) / math.log(2)).tolist()
    return found


def test_balanced_classes_have_one_weight_in_all_and_the_mean_is_1() -> None:
    labels = np.array([0, 0, 0, 1, -100])
    balanced = LabelLossConfig(class_weights="balanced")
    term = CLASSIFICATION.supervised_term(balanced, 1.0, labels, NAMES)
    found = loss_of(term, labels.tolist())
    assert sum(found[:3]) == pytest.approx(found[3])
    assert sum(found) == pytest.approx(4)
    assert found[4] == 0
    assert term.symbol == "L_sup[cross_entropy, class weights 0.667 2]"
    only = CLASSIFICATION.supervised_term(balanced, 1.0, np.zeros(3, dtype=int), NAMES)
    assert only.class_weights.tolist() == [1, 1]


def test_class_weights_by_name() -> None:
    given = LabelLossConfig(class_weights={"yes": 3.0}, label_smoothing=0.2)
    term = CLASSIFICATION.supervised_term(given, 0.5, LABELS, NAMES)
    assert loss_of(term, [0, 1, -100]) == pytest.approx([1, 3, 0])
    assert (term.weight, list(term.state_dict())) == (0.5, [])
    assert term.symbol == "L_sup[cross_entropy, class weights 1 3, label smoothing 0.2]"
    plain = CLASSIFICATION.supervised_term(LabelLossConfig(), 1.0, LABELS, NAMES)
    assert plain.symbol == "L_sup[cross_entropy]"
    unknown = LabelLossConfig(class_weights={"maybe": 2, "yes": 1, "never": 2})
    with pytest.raises(ConfigError, match="names 'maybe', 'never'; the classes are 'no', 'yes'"):
        CLASSIFICATION.supervised_term(unknown, 1.0, LABELS, NAMES)


def test_a_temperature_needs_labels() -> None:
    assert CLASSIFICATION.calibration(LOGITS, np.full(4, -100)) is None
    sure, labels = np.array([[4.0, 0.0]] * 10), np.array([0] * 8 + [1] * 2)
    found = CLASSIFICATION.calibration(sure, labels)
    assert found == {"temperature": pytest.approx(4 / math.log(4), rel=1e-3)}
    cooled = CLASSIFICATION.calibrated(sure, found)
    np.testing.assert_allclose(cooled, sure / found["temperature"])
    # Where all are right there is no best one, nor where the surest are wrong.
    assert CLASSIFICATION.calibration(sure, np.zeros(10, dtype=int)) is None
    assert CLASSIFICATION.calibration(sure, np.ones(10, dtype=int)) is None


def test_rows_without_a_label_count_nowhere() -> None:
    assert CLASSIFICATION.labelled(LABELS).tolist() == [True, True, True, False]
    interval = CLASSIFICATION.interval("accuracy", LOGITS, LABELS, LOGITS)
    assert interval is not None
    assert interval["rows"] == 3
    assert interval["difference"] == 0
    assert CLASSIFICATION.interval("accuracy", LOGITS, np.full(4, -100), None) is None
    assert CLASSIFICATION.interval("nll", LOGITS, LABELS, None) is None


def test_the_trivial_answer_is_the_commonest_class() -> None:
    trivial = CLASSIFICATION.trivial(LABELS, "accuracy")
    assert not trivial.perfect
    assert trivial.value == pytest.approx(2 / 3)
    assert not trivial.beaten_by(LOGITS)  # 2 of 3 are right, as many as the commonest class has
    assert trivial.beaten_by(np.array([[1.0, 0], [0, 1.0], [0, 1.0], [0, 0]]))
    assert trivial.compared(LOGITS) == (
        "accuracy 0.6667 on 3 validation rows; always answering one class has 0.6667"
    )
    assert CLASSIFICATION.trivial(np.array([1, 1, -100]), "accuracy").perfect


def test_a_model_is_judged_by_the_score_of_its_task() -> None:
    labels = np.array([1] * 7 + [0] * 3)
    logits = np.eye(2)[[1] * 5 + [0] * 2 + [0, 1, 0]]  # 7 are right, as always answering 1
    assert not CLASSIFICATION.trivial(labels, "accuracy").beaten_by(logits)
    assert CLASSIFICATION.trivial(labels, "matthews").value == 0
    assert CLASSIFICATION.trivial(labels, "matthews").beaten_by(logits)
    assert not CLASSIFICATION.trivial(labels, "matthews").beaten_by(np.eye(2)[[1] * 10])
    rare = 1 - labels  # class 1 is rare: always answering it has more f1 than the commonest class
    assert CLASSIFICATION.trivial(rare, "f1").value == pytest.approx(6 / 13)
    of_three = CLASSIFICATION.trivial(np.array([2, 2, 0, 1]), "f1_macro")
    assert of_three.value == pytest.approx(2 * 0.5 / 1.5 / 3)
    assert of_three.beaten_by(np.eye(3)[[2, 2, 0, 0]])


@settings(deadline=None)
@given(st.integers(1, 200), st.data())
def test_one_right_answer_more_is_enough(total: int, data: Any) -> None:
    commonest = data.draw(st.integers((total + 1) // 2, total))
    labels = np.array([1] * commonest + [0] * (total - commonest))
    trivial = CLASSIFICATION.trivial(labels, "accuracy")
    answers = np.ones(total, dtype=int)
    assert not trivial.beaten_by(np.eye(2)[answers])
    if commonest < total:
        answers[-1] = 0
        assert trivial.beaten_by(np.eye(2)[answers])


def test_a_model_that_answers_the_same_everywhere_is_noticed() -> None:
    constant = np.tile([0.0, 1.0], (4, 1))
    assert CLASSIFICATION.only_answer(constant, LABELS, NAMES) == "yes"
    assert CLASSIFICATION.only_answer(constant, np.array([1, 1, 1, -100]), NAMES) is None
    assert CLASSIFICATION.only_answer(LOGITS, LABELS, NAMES) is None
