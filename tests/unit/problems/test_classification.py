import numpy as np
import pytest

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


def test_rows_without_a_label_count_nowhere() -> None:
    assert CLASSIFICATION.labelled(LABELS).tolist() == [True, True, True, False]
    interval = CLASSIFICATION.interval("accuracy", LOGITS, LABELS, LOGITS)
    assert interval is not None
    assert interval["rows"] == 3
    assert interval["difference"] == 0
    assert CLASSIFICATION.interval("accuracy", LOGITS, np.full(4, -100), None) is None
    assert CLASSIFICATION.interval("nll", LOGITS, LABELS, None) is None


def test_the_trivial_answer_is_the_commonest_class() -> None:
    trivial = CLASSIFICATION.trivial(LABELS)
    assert not trivial.perfect
    assert trivial.share == pytest.approx(2 / 3)
    assert not trivial.beaten_by(LOGITS)  # 2 of 3 are right, as many as the commonest class has
    assert trivial.beaten_by(np.array([[1.0, 0], [0, 1.0], [0, 1.0], [0, 0]]))
    assert "right on 2 of 3 validation rows (66.7%)" in trivial.compared(LOGITS)
    assert CLASSIFICATION.trivial(np.array([1, 1, -100])).perfect


def test_a_model_that_answers_the_same_everywhere_is_noticed() -> None:
    constant = np.tile([0.0, 1.0], (4, 1))
    assert CLASSIFICATION.only_answer(constant, LABELS, NAMES) == "yes"
    assert CLASSIFICATION.only_answer(constant, np.array([1, 1, 1, -100]), NAMES) is None
    assert CLASSIFICATION.only_answer(LOGITS, LABELS, NAMES) is None
