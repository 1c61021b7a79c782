"""Scores of tags by hand and by seqeval; entities where they begin and end; what is refused."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from layermix.evaluation import tag_metrics
from layermix.evaluation.entities import ends_of, scheme, types_of
from layermix.evaluation.statistics import multi_bootstrap, row_bootstrap, score_interval
from layermix.evaluation.weighted_scores import WEIGHTED, weighted_score

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
ENTITY_SCORES = {
    "entity_f1": f1_score,
    "entity_precision": precision_score,
    "entity_recall": recall_score,
}

# PER of two words and LOC of one; a row of three words; a row without labels
LABELS = np.array([[1, 2, 0, 3], [0, 3, 4, -100], [-100] * 4])
ANSWERS = np.array([[1, 2, 0, 1], [0, 3, 0, 1], [1, 0, 0, -100]])


def likely(answers: Any, tags: int = len(NAMES), right: float = 0.6) -> Any:
    """Log-probabilities with these answers."""
    chances = np.full((*answers.shape, tags), (1 - right) / (tags - 1))
    np.put_along_axis(chances, np.maximum(answers, 0)[..., None], right, axis=2)
    chances[answers < 0] = np.nan
    return np.log(chances)


def test_scores_by_hand() -> None:
    found = tag_metrics.scores(likely(ANSWERS), ANSWERS, LABELS, LABELS, entities=True)
    # entities: PER right, PER for LOC, LOC too short: 1 of 3 given, 1 of 3 true
    assert found["entity_f1"] == found["entity_precision"] == found["entity_recall"] == 1 / 3
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert found["exact_match"] == 0
    assert found["nll"] == pytest.approx(-(5 * np.log(0.6) + 2 * np.log(0.1)) / 7)
    assert found["agreement"] == pytest.approx(5 / 7)  # the labels as answers of a teacher
    assert found.keys() == tag_metrics.HIGHER_IS_BETTER.keys()
    plain = tag_metrics.scores(likely(ANSWERS), ANSWERS, LABELS)
    assert list(plain) == ["accuracy", "exact_match", "nll"]


def test_a_word_that_was_not_seen_is_wrong_and_has_no_likelihood() -> None:
    labels = np.array([[1, 2]])
    cut = np.array([[1, -100]])
    found = tag_metrics.scores(likely(cut), cut, labels, np.array([[1, 2]]), entities=True)
    assert found["accuracy"] == 0.5
    assert found["entity_f1"] == 0
    assert found["nll"] == pytest.approx(-np.log(0.6))
    assert found["agreement"] == 1
    none = np.array([[-100, -100]])
    assert tag_metrics.scores(likely(none), none, labels, labels)["nll"] == 0
    assert tag_metrics.scores(likely(none), none, labels, labels)["agreement"] == 0


def test_agreement_is_also_of_rows_without_labels() -> None:
    labels, teacher = np.array([[0, 1], [-100, -100]]), np.array([[0, 1], [0, 0]])
    found = tag_metrics.scores(likely(ANSWERS[:2, :2]), ANSWERS[:2, :2], labels, teacher)
    assert found["agreement"] == 0.25  # 1 2, 0 3 against 0 1, 0 0


def test_exact_match_asks_for_labelled_words_only() -> None:
    answers = np.array([[1, 2, 3], [0, 0, 0], [0, 1, 1]])
    labels = np.array([[1, 2, -100], [0, -100, 1], [-100, -100, -100]])
    found = tag_metrics.scores(likely(answers), answers, labels)
    assert found["exact_match"] == 0.5
    assert found["accuracy"] == 0.75


def test_scores_of_each_tag_and_type() -> None:
    by_tag = tag_metrics.per_tag(ANSWERS, LABELS, NAMES)
    assert by_tag["O"] == {"precision": 2 / 3, "recall": 1, "f1": 0.8, "support": 2}
    assert by_tag["B-PER"] == {"precision": 0.5, "recall": 1, "f1": 2 / 3, "support": 1}
    assert by_tag["I-LOC"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    known = scheme(NAMES)
    assert known is not None
    by_type = tag_metrics.per_type(ANSWERS, LABELS, known)
    assert by_type["PER"] == {"precision": 0.5, "recall": 1, "f1": 2 / 3, "support": 1}
    assert by_type["LOC"] == {"precision": 0, "recall": 0, "f1": 0, "support": 2}


def test_types_are_told_by_names_in_any_order() -> None:
    names = ("I-LOC", "O", "B-PER", "I-PER", "B-LOC")
    known = scheme(names)
    assert known is not None
    moved = np.array([names.index(name) for name in NAMES])
    labels, answers = (
        np.where(one < 0, one, moved[np.maximum(one, 0)]) for one in (LABELS, ANSWERS)
    )
    wanted = scheme(NAMES)
    assert wanted is not None
    found = tag_metrics.per_type(answers, labels, known)
    assert found == tag_metrics.per_type(ANSWERS, LABELS, wanted)


@pytest.mark.parametrize(
    "names", [(), ("O",), ("O", "NOUN"), ("B-", "I-X"), ("B", "O"), ("O", "S-X", "B-X"), ("b-X",)]
)
def test_other_names_mark_no_entities(names: tuple[str, ...]) -> None:
    assert scheme(names) is None


def as_names(tags: Any) -> list[str]:
    kinds = [["O"], *([f"B-{k}"] for k in "ab"), *([f"I-{k}"] for k in "ab")]
    order = [kinds[0], kinds[1], kinds[3], kinds[2], kinds[4]]
    return [order[tag][0] if tag >= 0 else "O" for tag in tags]


tags = st.integers(0, 4) | st.just(-100)
rows_of = st.integers(1, 7).flatmap(
    lambda words: st.lists(
        st.tuples(*(st.lists(tags, min_size=words, max_size=words) for _ in range(2))),
        min_size=1,
        max_size=6,
    )
)


def test_entities_of_all_short_rows_are_those_of_seqeval() -> None:
    every = np.array(list(itertools.product(range(5), repeat=4)))
    ends, types = ends_of(every), types_of(every)
    for row, own, kinds in zip(every, ends, types, strict=True):
        found = [("ab"[kinds[at]], at, own[at] - 1) for at in np.flatnonzero(own)]
        assert found == get_entities(as_names(row))


@given(rows_of)
def test_scores_of_entities_are_those_of_seqeval(rows: Any) -> None:
    labels, answers = (np.array(each) for each in zip(*rows, strict=True))
    if (labels < 0).all():
        return
    # a word without a label is outside of entities, in both
    true = [as_names(row) for row in labels]
    own = [as_names(row) for row in np.where(labels < 0, 0, answers)]
    weights = np.ones((1, len(labels)))
    scores = tag_metrics.scores(likely(answers), answers, labels, entities=True)
    for name, plain in ENTITY_SCORES.items():
        wanted = plain(true, own, zero_division=0)
        found = WEIGHTED[name].function(answers[None], labels, weights)[0, 0]
        assert found == pytest.approx(wanted, abs=1e-12)
        assert scores[name] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", ["entity_f1", "accuracy", "exact_match"])
def test_the_bootstraps_take_tags(name: str) -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(5, size=(80, 6))
    labels[draw.random(labels.shape) < 0.2] = -100
    labels[:, 0] = 1
    arms = [
        np.where(draw.random((3, *labels.shape)) < share, labels, draw.integers(5, size=6))
        for share in (0.95, 0.6)
    ]
    found = multi_bootstrap(*arms, labels, name, draws=200)
    assert 0 < found.low < found.difference < found.high
    first = row_bootstrap(arms[0][0], arms[1][0], labels, name, draws=200)
    of_first, of_second = (
        tag_metrics.scores(likely(arm[0]), arm[0], labels, entities=True)[name] for arm in arms
    )
    assert first.difference == pytest.approx(of_first - of_second)
    low, high = score_interval(arms[0][0], labels, name, draws=200)
    assert low < of_first < high


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_probabilities": likely(ANSWERS)[0]}, r"\(4, 5\), wanted \(rows, words, tags\)"),
        ({"log_probabilities": likely(ANSWERS) * np.inf}, "found infinity in .* of 3 of 3 rows"),
        ({"answers": ANSWERS[:, :2]}, r"answers of shape \(3, 2\), wanted \(3, 4\)"),
        ({"answers": ANSWERS * 1.0}, "answers of type float64, wanted integers"),
        ({"answers": ANSWERS - 1}, "answers from -101 to 2 for 5 tags, wanted 0 to 4, or -100"),
        ({"labels": np.where(LABELS == 4, 5, LABELS)}, "labels from 0 to 5 for 5 tags, wanted 0"),
        ({"labels": np.full(LABELS.shape, -100)}, "no labelled words in 3 rows"),
        ({"teacher_answers": ANSWERS[:1]}, r"teacher answers of shape \(1, 4\), wanted \(3, 4\)"),
    ],
)
def test_what_cannot_be_scored_is_told(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "log_probabilities": likely(ANSWERS),
        "answers": ANSWERS,
        "labels": LABELS,
    }
    with pytest.raises(ValueError, match=message):
        tag_metrics.scores(**given | changes)


def test_what_has_no_scores_of_tags_is_told() -> None:
    with pytest.raises(ValueError, match=r"labels of shape \(3,\), wanted \(rows, words\): a tag"):
        tag_metrics.per_tag(ANSWERS[:, 0], LABELS[:, 0], NAMES)
    with pytest.raises(ValueError, match="labels from 0 to 4 for 4 tags"):
        tag_metrics.per_tag(ANSWERS, LABELS, NAMES[:4])


@pytest.mark.parametrize(
    ("name", "predicted", "message"),
    [
        ("entity_f1", ANSWERS[0], r"wanted \(runs, examples, words\) and \(examples, words\)"),
        ("entity_f1", ANSWERS * 1.0, "float64 with least value -100.0, wanted indices of tags"),
        ("entity_recall", ANSWERS - 1, "least value -101, wanted indices of tags from 0, or -100"),
        ("accuracy", ANSWERS - 1, "least value -101, wanted indices of tags from 0, or -100"),
        ("nll", ANSWERS, "or for tags of words, wanted one of entity_f1, entity_precision, ent"),
    ],
)
def test_what_a_resampled_score_cannot_use_is_told(name: str, predicted: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weighted_score(name, predicted[None], LABELS if predicted.ndim == 2 else LABELS[0])
