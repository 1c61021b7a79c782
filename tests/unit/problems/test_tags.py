import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from layermix.config import LabelLossConfig
from layermix.core.signals import NO_WORD, Signal
from layermix.core.terms import ForwardPass
from layermix.errors import ConfigError
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.kinds import PROBLEMS, problem_of
from layermix.problems.tags import ENTITIES, TAGS

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEXTS = ("Ann Lee in Oslo", "in New York")
WORDS = [[(0, 3), (4, 7), (8, 10), (11, 15)], [(0, 2), (3, 6), (7, 11)]]
LABELS = np.array([[1, 2, 0, 3], [0, 3, 4, -100]])
ANSWERS = np.array([[1, 2, 0, 1], [0, 3, -100, -100]])


def logits_of(answers: Any, tags: int = len(NAMES)) -> Any:
    """Logits with these answers, 2 for each and 0 for other tags."""
    logits = 2 * np.eye(tags)[np.maximum(answers, 0)]
    logits[answers < 0] = NO_WORD
    return logits.astype(np.float32)


LOGITS = logits_of(ANSWERS)


def test_answers_and_values_know_where_no_word_is() -> None:
    assert ENTITIES.answers(LOGITS).tolist() == ANSWERS.tolist()
    values = ENTITIES.values(LOGITS)
    assert np.isnan(values[ANSWERS < 0]).all()
    np.testing.assert_allclose(values[ANSWERS >= 0].sum(-1), 1)
    assert values[0, 0, 1] == pytest.approx(math.e**2 / (math.e**2 + 4))
    back = ENTITIES.logits_of(values)
    assert back.dtype == np.float32
    assert (back[ANSWERS < 0] == NO_WORD).all()
    np.testing.assert_allclose(ENTITIES.values(back), values, rtol=1e-6)
    assert np.isfinite(ENTITIES.logits_of(np.array([[[0.0, 1.0]]]))).all()


def test_scores_are_of_words_and_of_entities() -> None:
    assert ENTITIES.labelled(np.array([[-100, 0], [-100, -100]])).tolist() == [True, False]
    found = ENTITIES.scores(LOGITS, LABELS, logits_of(LABELS))
    assert found["entity_f1"] == pytest.approx(1 / 3)  # Ann Lee; not Oslo, not New alone
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert found["agreement"] == pytest.approx(5 / 6)  # the word that was cut off has no part
    assert found.keys() == ENTITIES.higher_is_better.keys()
    plain = TAGS.scores(LOGITS, LABELS, LOGITS)
    assert plain.keys() == TAGS.higher_is_better.keys()
    assert plain["agreement"] == 1
    assert plain["accuracy"] == found["accuracy"]
    assert set(ENTITIES.default_scores) <= found.keys()
    assert set(TAGS.default_scores) <= plain.keys()


def test_details_are_of_types_or_of_tags() -> None:
    types = ENTITIES.details(LOGITS, LABELS, NAMES)["per_class"]
    assert list(types) == ["PER", "LOC"]
    assert types["PER"] == {"precision": 0.5, "recall": 1, "f1": pytest.approx(2 / 3), "support": 1}
    assert list(TAGS.details(LOGITS, LABELS, NAMES)["per_class"]) == list(NAMES)


def test_the_label_of_a_word_that_has_none() -> None:
    assert ENTITIES.missing(5) == -100
    assert "two or more tags" in TAGS.outputs_fault(1)
    assert ENTITIES.outputs_fault(2) == ENTITIES.fault([0, 1]) == ""


def test_columns_of_files_and_rows_that_are_the_same() -> None:
    assert list(ENTITIES.columns(LOGITS, NAMES)) == ["prediction"]
    assert ENTITIES.columns(LOGITS, NAMES)["prediction"].tolist() == ANSWERS.tolist()
    assert ENTITIES.teacher_columns(LOGITS)["teacher"].tolist() == ANSWERS.tolist()
    assert ENTITIES.same(LOGITS, logits_of(LABELS)).tolist() == [False, True]


def test_entities_are_written_with_their_text() -> None:
    found = ENTITIES.written_by_word(LOGITS, NAMES, TEXTS, WORDS)
    sure = round(math.e**2 / (math.e**2 + 4), 6)
    assert found == {
        "entities": [
            [
                {"start": 0, "end": 7, "label": "PER", "text": "Ann Lee", "probability": sure},
                {"start": 11, "end": 15, "label": "PER", "text": "Oslo", "probability": sure},
            ],
            [{"start": 3, "end": 6, "label": "LOC", "text": "New", "probability": sure}],
        ]
    }
    mixed = np.log(np.array([[[0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]]))
    (row,) = ENTITIES.written_by_word(mixed, NAMES[:3], ["a b"], [[(0, 1), (2, 3)]])["entities"]
    assert row[0]["probability"] == 0.7
    in_other_order = ("B-LOC", "I-LOC", "O")
    (row,) = ENTITIES.written_by_word(mixed, in_other_order, ["a b"], [[(0, 1), (2, 3)]])[
        "entities"
    ]
    assert [(one["label"], one["text"]) for one in row] == [("LOC", "a")]
    with pytest.raises(ValueError, match="found the tags X, Y, Z, wanted O, B-TYPE and I-TYPE"):
        ENTITIES.written_by_word(mixed, ("X", "Y", "Z"), ["a b"], [[(0, 1), (2, 3)]])


def test_tags_are_written_beside_their_words() -> None:
    assert TAGS.written_by_word(LOGITS, NAMES, TEXTS, WORDS) == {
        "words": [["Ann", "Lee", "in", "Oslo"], ["in", "New", "York"]],
        "tags": [["B-PER", "I-PER", "O", "B-PER"], ["O", "B-LOC", None]],
    }


@pytest.mark.parametrize("shape", [(0, 5), (0, 0, 5), (0, 3, 5)])
def test_no_rows_have_the_same_columns(shape: tuple[int, ...]) -> None:
    nothing = np.zeros(shape, dtype=np.float32)
    assert ENTITIES.written_by_word(nothing, NAMES, [], []) == {"entities": []}
    assert TAGS.written_by_word(nothing, NAMES, [], []) == {"words": [], "tags": []}


def test_other_kinds_write_by_row_and_these_by_word() -> None:
    with pytest.raises(NotImplementedError, match="tags: each word has an answer"):
        TAGS.written(LOGITS, NAMES)
    with pytest.raises(NotImplementedError, match="classification: each row has one answer"):
        CLASSIFICATION.written_by_word(LOGITS, NAMES, TEXTS, WORDS)


def test_words_beyond_those_that_were_seen_are_written_without_an_answer() -> None:
    seen = logits_of(ANSWERS[:, :2])
    written = TAGS.written_by_word(seen, NAMES, TEXTS, WORDS)
    assert written["tags"] == [["B-PER", "I-PER", None, None], ["O", "B-LOC", None]]
    (first, second) = ENTITIES.written_by_word(seen, NAMES, TEXTS, WORDS)["entities"]
    assert [entity["text"] for entity in (*first, *second)] == ["Ann Lee", "New"]


def test_one_tag_for_every_word_is_told() -> None:
    assert TAGS.only_answer(LOGITS, LABELS, NAMES) is None
    outside = logits_of(np.where(ANSWERS < 0, ANSWERS, 0))
    assert ENTITIES.only_answer(outside, LABELS, NAMES) == "O"
    assert ENTITIES.only_answer(outside, np.where(LABELS < 0, LABELS, 0), NAMES) is None


def test_the_trivial_answer_is_one_tag() -> None:
    trivial = TAGS.trivial(LABELS, "accuracy")
    assert trivial.value == pytest.approx(2 / 7)
    assert not trivial.perfect
    assert trivial.beaten_by(LOGITS)
    assert not trivial.beaten_by(logits_of(np.zeros((2, 4), dtype=int)))
    assert trivial.compared(LOGITS) == (
        "accuracy 0.7143 on 2 validation rows; always answering one tag has 0.2857"
    )
    # O has no entity; B-LOC for every labelled word is right for 1 of 7, and 3 are true
    assert ENTITIES.trivial(LABELS, "entity_f1").value == pytest.approx(2 / 10)
    rare = np.array([[0, 0, 0, 2], [0, 0, 2, 1]])  # the rarest tag is the best answer
    assert ENTITIES.trivial(rare, "entity_f1").value > 0
    outside = np.where(LABELS > 2, 0, LABELS)
    assert ENTITIES.trivial(np.zeros((2, 2), dtype=int), "entity_f1").value == 0
    assert ENTITIES.trivial(np.zeros((2, 2), dtype=int), "entity_f1").perfect
    assert not ENTITIES.trivial(outside, "entity_f1").perfect
    wanted = TAGS.scores(np.eye(5)[np.full((2, 4), 3)], LABELS)["nll"]
    assert TAGS.trivial(LABELS, "nll").value == pytest.approx(wanted)


def test_a_temperature_is_fitted_on_words() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(3, size=(200, 4))
    answers = np.where(draw.random(labels.shape) < 0.7, labels, draw.integers(3, size=(200, 4)))
    answers[:, 3] = -100
    labels[:50, 0] = -100
    sure = np.where(logits_of(answers, 3) == NO_WORD, NO_WORD, 4 * logits_of(answers, 3))
    found = TAGS.calibration(sure, labels)
    assert found is not None
    at = (labels >= 0) & (answers >= 0)
    of_rows = CLASSIFICATION.calibration(sure[at], labels[at])
    assert found == of_rows
    cooled = TAGS.calibrated(sure, found)
    assert (cooled[answers < 0] == NO_WORD).all()
    np.testing.assert_allclose(cooled[at] * found["temperature"], sure[at])
    assert TAGS.scores(cooled, labels)["nll"] < TAGS.scores(sure, labels)["nll"]
    assert TAGS.calibration(sure, answers) is None  # all are right
    assert TAGS.calibration(sure, np.full(labels.shape, -100)) is None


def test_an_interval_over_rows_and_of_the_difference() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(5, size=(100, 4))
    answers = np.where(draw.random(labels.shape) < 0.8, labels, 0)
    answers[:10, 3] = labels[5:20, 3] = -100
    labels[-1] = -100
    logits = logits_of(answers)
    for score in ("entity_f1", "accuracy", "exact_match"):
        found = ENTITIES.interval(score, logits, labels, logits)
        assert found is not None
        assert found["rows"] == 99
        assert found["low"] < ENTITIES.scores(logits, labels)[score] < found["high"]
        assert found["difference"] == 0
    groups = np.arange(100) // 10
    found = ENTITIES.interval("entity_f1", logits, labels, None, groups)
    assert found is not None
    assert found["groups"] == 10
    assert ENTITIES.interval("nll", logits, labels, None) is None


def test_class_weights_and_smoothing_are_those_of_words() -> None:
    labels = np.array([[0, 0, 1], [0, -100, -100]])
    balanced = TAGS.supervised_term(LabelLossConfig(class_weights="balanced"), 1.0, labels, "ab")
    assert balanced.class_weights is not None
    assert balanced.class_weights.tolist() == pytest.approx([4 / 6, 2])
    named = LabelLossConfig(class_weights={"b": 3.0}, label_smoothing=0.2)
    term = TAGS.supervised_term(named, 0.5, labels, "ab")
    assert term.symbol == "L_sup[cross_entropy, class weights 1 3, label smoothing 0.2]"
    words = torch.from_numpy(labels >= 0)
    signal = Signal(torch.zeros(2, 3, 2), torch.ones(2, 4).bool(), words=words)
    plain = TAGS.supervised_term(LabelLossConfig(), 1.0, labels, "ab")
    found = plain(ForwardPass({"labels": torch.from_numpy(labels)}, signal))
    assert found.tolist() == pytest.approx([math.log(2), math.log(2)])
    wrong = LabelLossConfig(class_weights={"c": 3.0})
    with pytest.raises(ConfigError, match="names 'c'; the classes are 'a', 'b'"):
        TAGS.supervised_term(wrong, 1.0, labels, "ab")


def test_the_kind_is_read_from_a_config() -> None:
    def config(names: tuple[str, ...], **more: Any) -> SimpleNamespace:
        own = {
            "architectures": ["BertForTokenClassification"],
            "id2label": dict(enumerate(names)),
            "num_labels": len(names),
            "problem_type": None,
        }
        return SimpleNamespace(**own | more)

    assert problem_of(config(NAMES)) is ENTITIES
    assert problem_of(config(("I-PER", "O"))) is ENTITIES
    assert problem_of(config(("NOUN", "VERB"))) is TAGS
    assert problem_of(config(("LABEL_0", "LABEL_1"))) is TAGS
    assert problem_of(config(NAMES, layermix={"problem": "tags"})) is TAGS
    of_texts = config(NAMES, architectures=["BertForSequenceClassification"])
    assert problem_of(of_texts) is CLASSIFICATION
    assert problem_of(config(NAMES, architectures=None)) is CLASSIFICATION
    for problem in (ENTITIES, TAGS):
        assert PROBLEMS[problem.name] is problem
        assert problem.by_word
        assert problem.form == "tags"
        assert problem.config == {"problem_type": None}
    assert not CLASSIFICATION.by_word
