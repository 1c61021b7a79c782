"""Weighted scores against the plain ones on rows that are repeated, and what is refused."""

import math
import warnings
from typing import get_args

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn import metrics as sklearn_metrics

from layermix.evaluation import label_set_metrics, metrics, number_metrics, tag_metrics
from layermix.evaluation.statistics import (
    Bootstrap,
    multi_bootstrap,
    row_bootstrap,
    score_interval,
)
from layermix.evaluation.weighted_scores import SCORES, WEIGHTED, ratio, weighted_score
from layermix.studies.spec import Score


def class_score(name):
    def plain(predicted, labels):
        logits = np.eye(max(predicted.max(), labels.max(), 1) + 1)[predicted]
        return metrics.scores(logits, labels)[name]

    return plain


def number_score(name):
    return lambda predicted, labels: number_metrics.scores(predicted, labels)[name]


def by_scipy(function):
    def plain(predicted, labels):
        if np.ptp(predicted) == 0 or np.ptp(labels) == 0:
            return 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SciPy's, of numbers that hardly differ
            return function(predicted, labels).statistic

    return plain


def set_score(name):
    def plain(predicted, labels):
        return label_set_metrics.scores(predicted.astype(float), predicted, labels)[name]

    return plain


def by_scikit_learn(average):
    def plain(predicted, labels):
        if average == "macro":  # of the labels that occur
            each = [
                sklearn_metrics.f1_score(right, own, zero_division=0)
                for right, own in zip(labels.T, predicted.T, strict=True)
                if (right | own).any()
            ]
            return np.mean(each) if each else 0
        found = sklearn_metrics.f1_score(labels, predicted, average=average, zero_division=0)
        empty = (labels | predicted).sum(axis=1) == 0
        return found + (empty.mean() if average == "samples" else 0)

    return plain


def tag_score(name):
    def plain(predicted, labels):
        nothing = np.where(predicted[..., None] < 0, np.nan, np.log(np.full(5, 0.2)))
        return tag_metrics.scores(nothing, predicted, labels, entities=True)[name]

    return plain


PLAIN = [
    *(("class", name, class_score(name)) for name in SCORES["class"]),
    *(("number", name, number_score(name)) for name in SCORES["number"]),
    ("number", "pearson", by_scipy(scipy_stats.pearsonr)),
    ("number", "spearman", by_scipy(scipy_stats.spearmanr)),
    *(("labels", name, set_score(name)) for name in SCORES["labels"]),
    *(("tags", name, tag_score(name)) for name in SCORES["tags"]),
    *(("labels", f"f1_{each}", by_scikit_learn(each)) for each in ("micro", "macro", "samples")),
]


def runs_of(form, name, examples, generator):
    """Predictions of four runs and labels; the last run's predictions are constant."""
    if form == "number":
        labels = generator.normal(3, 1, examples).round(1)
        predicted = labels + generator.normal(0, 1, (4, examples))
        predicted[1] = predicted[1].round()  # ties
        predicted[2] = np.where(np.arange(examples) == 0, 1e4, 0.1)  # constant without one row
    elif form == "class":
        classes = 2 if name == "f1" else 3
        labels = generator.integers(classes, size=examples)
        guesses = generator.integers(classes, size=(4, examples))
        predicted = np.where(generator.random(guesses.shape) < 0.6, labels, guesses)
    elif form == "tags":
        labels = generator.choice([0, 0, 1, 2, 3, 4, -100], (examples, 4))
        labels[:, 0] = generator.integers(5, size=examples)  # rows with a label
        guesses = generator.choice([0, 1, 2, 3, 4, -100], (4, examples, 4))
        predicted = np.where(
            (generator.random(guesses.shape) < 0.8) & (labels >= 0), labels, guesses
        )
    else:
        labels = (generator.random((examples, 3)) < [0.5, 0.2, 0.1]).astype(int)
        guesses = (generator.random((4, examples, 3)) < 0.3).astype(int)
        predicted = np.where(generator.random(guesses.shape) < 0.6, labels, guesses)
    predicted[-1] = 0 if form == "labels" else 1
    return predicted, labels


@pytest.mark.parametrize(("form", "name", "plain"), PLAIN)
# of three examples, draws without a class, and of one example alone, are common
@pytest.mark.parametrize("examples", [1, 3, 40])
def test_a_weighted_score_is_the_plain_one_of_repeated_rows(form, name, plain, examples):
    generator = np.random.default_rng(examples)
    predicted, labels = runs_of(form, name, examples, generator)
    drawn = np.sort(generator.integers(examples, size=(10, examples)))
    weights = np.array([np.bincount(rows, minlength=examples) for rows in drawn], float)
    found = weighted_score(name, predicted, labels).function(predicted, labels, weights)
    wanted = [[plain(run[rows], labels[rows]) for run in predicted] for rows in drawn]
    assert found.shape == (10, 4)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_scores_by_hand():
    # rows drawn 2, 1, 0 and 1 times: 1 1 2 9 and 5 5 6 6, ranks 1.5 1.5 3 4 and 1.5 1.5 3.5 3.5
    predicted, labels = np.array([[1.0, 2.0, 7.0, 9.0]]), np.array([5.0, 6.0, 7.0, 6.0])
    weights = np.array([[2.0, 1.0, 0.0, 1.0]])
    wanted = {
        "spearman": 4 / math.sqrt(4.5 * 4),
        "pearson": 4.5 / math.sqrt(44.75),
        "mae": (4 + 4 + 4 + 3) / 4,
    }
    for name, score in wanted.items():
        found = WEIGHTED[name].function(predicted, labels, weights)
        assert found == pytest.approx(np.array([[score]])), name
    # rows 1 1 | 0 1 twice, and a third that is not drawn: exact .5, F1 1 and 2 / 3 of labels
    sets = np.array([[[1, 1], [0, 1], [0, 0]]])
    right = np.array([[1, 1], [0, 0], [1, 1]])
    weights = np.array([[1.0, 1.0, 0.0]])
    wanted = {"f1_micro": 0.8, "f1_macro": (1 + 2 / 3) / 2, "f1_samples": 0.5, "exact_match": 0.5}
    for name, score in wanted.items():
        assert WEIGHTED[name].function(sets, right, weights) == pytest.approx(np.array([[score]]))


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize("unit", [1e-200, 1.0, 1e200])
def test_a_correlation_knows_no_unit_and_no_origin(name, unit):
    generator = np.random.default_rng(0)
    predicted, labels = runs_of("number", name, 30, generator)
    weights = generator.multinomial(30, np.full(30, 1 / 30), size=20).astype(float)
    function = WEIGHTED[name].function
    found = function(predicted, labels, weights)
    np.testing.assert_allclose(function(predicted * unit, labels, weights), found, atol=1e-9)
    np.testing.assert_allclose(function(predicted, labels + 1e6, weights), found, atol=1e-8)
    assert (found[:, -1] == 0).all()


def test_a_constant_draw_has_no_correlation():
    predicted, labels = np.array([[0.1, 0.1, 5.0]]), np.array([0.3, 0.7, 0.9])
    weights = np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    for name in ("pearson", "spearman"):
        assert (WEIGHTED[name].function(predicted, labels, weights) == 0).all()
        assert (WEIGHTED[name].function(labels[None], predicted[0], weights) == 0).all()


def test_the_tables_agree():
    assert set(get_args(Score)) == set(WEIGHTED)
    assert set(WEIGHTED) == {name for names in SCORES.values() for name in names}
    tables = {
        "class": metrics,
        "number": number_metrics,
        "labels": label_set_metrics,
        "tags": tag_metrics,
    }
    assert tables.keys() == SCORES.keys()
    for form, table in tables.items():
        for name in SCORES[form]:
            assert WEIGHTED[name].higher_is_better == table.HIGHER_IS_BETTER[name]


def test_a_ratio_of_nothing_is_0():
    assert ratio(np.array([[1.0, 2.0]]), np.array([[0.0]])).tolist() == [[0, 0]]


# Resampling


@pytest.mark.parametrize(("form", "name", "plain"), PLAIN)
def test_the_bootstraps_draw_rows_and_seeds(form, name, plain):
    draws, examples = 6, 20
    first, labels = runs_of(form, name, examples, np.random.default_rng(1))
    second, seeds = first[::-1].copy(), len(first)
    generator = np.random.default_rng(5)
    drawn_seeds = generator.integers(seeds, size=(draws, seeds))
    drawn_rows = generator.integers(examples, size=(draws, examples))
    wanted = np.array(
        [
            np.mean(
                [plain(first[s][r], labels[r]) - plain(second[s][r], labels[r]) for s in chosen]
            )
            for chosen, r in zip(drawn_seeds, drawn_rows, strict=True)
        ]
    )
    found = multi_bootstrap(first, second, labels, name, draws=draws, seed=5)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(wanted, [0.025, 0.975])))
    alone = row_bootstrap(first[0], second[0], labels, name, draws=draws)
    assert alone.difference == pytest.approx(plain(first[0], labels) - plain(second[0], labels))
    assert row_bootstrap(first[0], first[0], labels, name, draws=9) == Bootstrap(0, 0, 0, 1)
    low, high = score_interval(first[0], labels, name, draws=draws)
    assert low <= high


def test_a_difference_of_errors_is_first_minus_second():
    labels = np.zeros(50)
    found = row_bootstrap(labels + 0.5, labels + 0.25, labels, "mae", draws=50)
    assert (found.difference, found.low, found.high) == (0.25, 0.25, 0.25)


def test_95_of_100_intervals_hold_the_correlation():
    generator = np.random.default_rng(0)
    trials, inside = 200, 0
    for _ in range(trials):
        labels, noise = generator.normal(size=(2, 150))
        low, high = score_interval(0.6 * labels + 0.8 * noise, labels, "pearson", draws=400)
        inside += low <= 0.6 <= high
    assert inside / trials == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / trials))


# Wrong input

CLASSES = np.array([0, 1, 2])
NUMBERS = np.array([0.5, 1.5, 2.5])
SETS = np.array([[0, 1], [1, 1], [0, 0]])


@pytest.mark.parametrize(
    ("name", "predicted", "labels", "message"),
    [
        ("nll", CLASSES, CLASSES, "'nll' for 3 classes, wanted one of accuracy, f1, f1_macro, mat"),
        ("f1", CLASSES, CLASSES, "'f1' for 3 classes, wanted .* and f1 only for two classes"),
        ("nll", NUMBERS, NUMBERS, "'nll' for numbers, wanted one of pearson, spearman, mae$"),
        ("nll", SETS, SETS, "for sets of labels, wanted one of f1_micro, f1_macro, f1_samples, ex"),
        ("accuracy", NUMBERS, CLASSES, "float64 with least value 0.0 as .* wanted class indices"),
        ("matthews", CLASSES - 100, CLASSES, "int64 with least value -100 as predictions and lab"),
        ("f1_macro", NUMBERS, NUMBERS, "found float64 with least value 0.5"),
        ("matthews", SETS, SETS, r"\(1, 3, 2\) and labels .* wanted \(runs, examples\) and .* ind"),
        ("pearson", SETS, SETS, r"wanted \(runs, examples\) and \(examples,\), .* one number per"),
        ("mae", NUMBERS * math.inf, NUMBERS, "NaN or infinity 3 times among 3 predictions, wanted"),
        ("mae", NUMBERS, NUMBERS * math.nan, "among 3 labels, .* leave out rows without a label"),
        ("spearman", NUMBERS > 1, NUMBERS, "predictions of type bool, wanted finite numbers"),
        ("exact_match", CLASSES, CLASSES, r"wanted \(runs, examples, labels\) and .* give 0 or 1"),
        ("f1_micro", SETS, SETS[:2], r"predictions of shape \(1, 3, 2\) and labels of shape \(2, "),
        ("f1_samples", SETS[:0], SETS[:0], r"shape \(1, 0, 2\) and .* not empty"),
        ("f1_macro", 2 * SETS, SETS, "predictions of type int64 from 0 to 2, wanted integers 0 or"),
        ("f1_macro", SETS, SETS - 100, "labels of type int64 from -100 to -99, .* leave out rows"),
        (
            "exact_match",
            SETS * 1.0,
            SETS,
            "predictions of type float64 from 0.0 to 1.0, .* compare",
        ),
    ],
)
def test_what_a_score_cannot_use_is_told(name, predicted, labels, message):
    with pytest.raises(ValueError, match=message):
        weighted_score(name, predicted[None], labels)
    with pytest.raises(ValueError, match=message):
        score_interval(predicted, labels, name, draws=2)


def test_whole_numbers_and_decisions_are_accepted():
    assert weighted_score("mae", CLASSES[None], CLASSES) is WEIGHTED["mae"]
    assert weighted_score("f1_micro", SETS[None] == 1, SETS == 1) is WEIGHTED["f1_micro"]


def test_sets_of_other_shapes_are_told():
    arms = np.stack([SETS, SETS])
    with pytest.raises(
        ValueError, match=r"wanted \(seeds, examples, labels\) twice and \(examples, labels\), with"
    ):
        multi_bootstrap(SETS, SETS, SETS, "f1_micro")
    with pytest.raises(ValueError, match=r"arms of shapes \(2, 3, 2\) and \(2, 2, 2\)"):
        multi_bootstrap(arms, arms[:, :2], SETS, "f1_micro")
    with pytest.raises(ValueError, match=r"wanted \(examples, labels\) three times; give both"):
        row_bootstrap(SETS[:2], SETS, SETS, "f1_micro")
