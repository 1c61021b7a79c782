"""Statistics against SciPy, scikit-learn, published numbers, closed forms and simulation."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn import metrics as sklearn_metrics

from layermix.evaluation.statistics import (
    Bootstrap,
    detectable,
    holm,
    mcnemar,
    multi_bootstrap,
    row_bootstrap,
    score_interval,
    seeds_needed,
    sign_flip,
    single_run,
    smallest_p,
    stochastic_order,
    summarise,
    violation_ratio,
)
from layermix.evaluation.verdicts import Comparison, describe, judge

# thousandths, so that ties and zeros are common, as among scores on few examples
thousandths = st.integers(-30, 30).map(lambda number: number / 1000)
samples = st.lists(thousandths, min_size=1, max_size=9)


def family(*differences):
    return [Comparison(f"task {place}", "a", "b", each) for place, each in enumerate(differences)]


# Intervals


def test_the_interval_is_that_of_scipy():
    values = np.random.default_rng(0).normal(1, 2, 7)
    found = summarise(values)
    wanted = scipy_stats.ttest_rel(values, np.zeros(7)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert (found.mean, found.sd) == pytest.approx((values.mean(), values.std(ddof=1)))
    assert found.values == tuple(values)


def test_one_seed_has_a_mean_and_nothing_else():
    assert dataclasses.astuple(summarise([0.3])) == ((0.3,), 0.3, None, None, None)


def test_equal_values_have_no_interval():
    """Two seeds that agree by chance would else look as if they were sure."""
    for values in ([0.5, 0.5, 0.5], [0.1 + 0.2, 0.3]):
        found = summarise(values)
        assert (found.sd, found.low, found.high) == (0, None, None)
        assert single_run(values) is None
    told = describe(Comparison("rte", "learned", "fixed", [0.003, 0.003]))
    assert "+0.3 points (equal in all seeds, so without an interval over them), 2 seeds" in told


def test_one_more_run_lies_where_runs_lie():
    draws = np.random.default_rng(0).normal(0.7, 0.01, (20_000, 6))
    low, high = np.transpose([single_run(draw) for draw in draws[:2000, :5]])
    inside = ((low <= draws[:2000, 5]) & (draws[:2000, 5] <= high)).mean()
    assert inside == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 2000))


# The sign-flip test


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-30, 30), min_size=2, max_size=8))
@example([3, 8, -11])  # 0 on paper, not in thousandths as floats
def test_sign_flip_is_the_permutation_test_of_scipy(numbers):
    # SciPy gets whole numbers: it misses ties of sums that are 0 but for rounding
    wanted = scipy_stats.permutation_test(
        (np.array(numbers),), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip([number / 1000 for number in numbers]) == pytest.approx(wanted.pvalue)


@given(samples, st.randoms(use_true_random=False), st.sampled_from([1e-6, 3.0, 1e6]))
def test_sign_flip_knows_no_order_no_sign_and_no_unit(differences, random, unit):
    p = sign_flip(differences)
    assert smallest_p(len(differences)) <= p <= 1
    shuffled = random.sample(differences, len(differences))
    assert sign_flip(shuffled) == sign_flip([-unit * each for each in differences]) == p


def test_sums_that_differ_by_rounding_alone_are_ties():
    assert 0.1 + 0.2 != 0.3
    # |±.1 ± .2 ± .3| ≥ 0 always, and 0 is reached in floats as 5.6e-17
    assert sign_flip([0.1, 0.2, -0.3]) == 1
    # .6 in another order of addition, in 4 of 16 patterns
    assert sign_flip([0.3, 0.2, 0.1, 0.0]) == 0.25
    assert sign_flip([0.0] * 20) == 1


@pytest.mark.parametrize("seeds", [1, 2, 6, 16])
def test_the_smallest_p_is_reached_by_equal_signs(seeds):
    assert sign_flip(np.arange(1, seeds + 1)) == smallest_p(seeds) == 2 / 2**seeds


def test_many_seeds_are_sampled_close_to_the_exact_p():
    differences = np.random.default_rng(1).normal(0.2, 1, 16)
    exact = sign_flip(differences)
    # a 17th seed without a difference leaves the distribution of the sum as it is
    sampled = sign_flip([*differences, 0.0])
    assert 0.01 < exact < 0.2
    assert sampled == pytest.approx(exact, abs=5 * math.sqrt(exact / 100_000))
    assert sampled == sign_flip([*differences, 0.0])
    assert sign_flip(np.ones(40)) == 1 / 100_001


# McNemar


def test_mcnemar_is_the_binomial_test_of_the_discordant_rows():
    a, b = np.array([1] * 9 + [0] * 2 + [1] * 5 + [0] * 4, bool), np.zeros(20, bool)
    b[9:16] = True
    assert mcnemar(a, b) == mcnemar(b, a) == scipy_stats.binomtest(9, 11).pvalue
    assert mcnemar(a, a) == 1


# Multi-Bootstrap


SCORES = {
    "accuracy": sklearn_metrics.accuracy_score,
    "f1": lambda labels, predicted: sklearn_metrics.f1_score(
        labels, predicted, labels=[1], average="macro", zero_division=0
    ),
    "f1_macro": lambda labels, predicted: sklearn_metrics.f1_score(
        labels, predicted, average="macro", zero_division=0
    ),
    "matthews": sklearn_metrics.matthews_corrcoef,
}


def arms(seeds, examples, classes, generator, skill=0.7):
    labels = generator.integers(classes, size=examples)
    guesses = generator.integers(classes, size=(2, seeds, examples))
    first, second = np.where(generator.random(guesses.shape) < skill, labels, guesses)
    return first, second, labels


@pytest.mark.parametrize(
    ("score", "classes"),
    [*((score, 2) for score in SCORES), ("accuracy", 3), ("f1_macro", 3), ("matthews", 3)],
)
# on seven examples, draws without one of the classes are common, and scores undefined
@pytest.mark.parametrize("examples", [7, 40])
def test_a_draw_has_the_scores_of_scikit_learn_on_the_drawn_rows(score, classes, examples):
    first, second, labels = arms(3, examples, classes, np.random.default_rng(examples))
    draws, generator = 20, np.random.default_rng(5)
    drawn_seeds = generator.integers(3, size=(draws, 3))
    drawn_rows = generator.integers(examples, size=(draws, examples))

    def difference(seeds, rows):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, of a single class
            scored = [
                SCORES[score](labels[rows], first[seed][rows])
                - SCORES[score](labels[rows], second[seed][rows])
                for seed in seeds
            ]
        return np.mean(scored)

    wanted = np.array([difference(*each) for each in zip(drawn_seeds, drawn_rows, strict=True)])
    found = multi_bootstrap(first, second, labels, score, draws=draws, seed=5)
    assert found.difference == pytest.approx(difference(range(3), np.arange(examples)))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(wanted, [0.025, 0.975])))
    hits = min((wanted <= 1e-12).sum(), (wanted >= -1e-12).sum())
    assert found.p == pytest.approx(min(1, 2 * (1 + hits) / (1 + draws)))


def test_examples_alone_give_the_interval_of_the_normal_distribution():
    generator = np.random.default_rng(3)
    labels = generator.integers(2, size=800)
    right = generator.random((2, 800)) < np.array([[0.8], [0.75]])
    # three equal seeds: drawing seeds anew changes nothing
    first, second = (np.tile(np.where(each, labels, 1 - labels), (3, 1)) for each in right)
    gain = right[0].astype(float) - right[1]
    error = gain.std() / math.sqrt(800)
    found = multi_bootstrap(first, second, labels, "accuracy", draws=4000)
    assert found.difference == pytest.approx(gain.mean())
    wanted = gain.mean() - 1.96 * error, gain.mean() + 1.96 * error
    assert (found.low, found.high) == pytest.approx(wanted, abs=0.15 * error)
    assert found.p == pytest.approx(2 * scipy_stats.norm.sf(gain.mean() / error), abs=0.015)


def test_seeds_alone_give_the_interval_of_the_normal_distribution():
    examples, seeds = 10, 30
    # a seed has all examples right or none: drawing examples anew changes nothing
    wins = np.random.default_rng(0).random(seeds) < 0.5
    first = np.tile(wins[:, None], (1, examples)).astype(int)
    found = multi_bootstrap(first, np.zeros_like(first), np.ones(examples, int), "accuracy")
    error = wins.std() / math.sqrt(seeds)
    assert found.difference == pytest.approx(wins.mean())
    assert (found.low, found.high) == pytest.approx(
        (wins.mean() - 1.96 * error, wins.mean() + 1.96 * error), abs=1.01 / seeds
    )


def test_swapped_arms_mirror_the_bootstrap_and_equal_arms_have_p_1():
    first, second, labels = arms(4, 50, 2, np.random.default_rng(2))
    one = multi_bootstrap(first, second, labels, "matthews", draws=200)
    other = multi_bootstrap(second, first, labels, "matthews", draws=200)
    assert (one.difference, one.low, one.high, one.p) == pytest.approx(
        (-other.difference, -other.high, -other.low, other.p)
    )
    assert multi_bootstrap(first, first, labels, "f1_macro", draws=50) == Bootstrap(0, 0, 0, 1)


def test_two_single_runs_vary_with_the_examples_alone():
    generator = np.random.default_rng(8)
    labels = generator.integers(2, size=4000)
    first = np.where(generator.random(4000) < 0.8, labels, 1 - labels)
    second = np.where(generator.random(4000) < 0.7, labels, 1 - labels)
    found = row_bootstrap(first, second, labels, "accuracy")
    differences = (first == labels).astype(float) - (second == labels)
    assert found.difference == pytest.approx(differences.mean())
    half = 1.96 * differences.std() / np.sqrt(4000)
    assert found.low == pytest.approx(found.difference - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.difference + half, abs=0.1 * half)
    for wrong in (first[:5], first[None]):
        with pytest.raises(ValueError, match="three times; give both runs on the same rows"):
            row_bootstrap(wrong, second, labels, "accuracy")


def test_many_rows_are_drawn_in_parts_and_nothing_else_changes():
    # 2**22 weights are held at once: 100 draws of this many rows take four parts
    first, second, labels = arms(2, 140_000, 2, np.random.default_rng(4))
    found = multi_bootstrap(first, second, labels, "accuracy", draws=100)
    generator = np.random.default_rng(0)
    drawn_seeds = generator.integers(2, size=(100, 2))
    gain = (first == labels).astype(float) - (second == labels)
    wanted = []
    for seeds in drawn_seeds:
        rows = generator.integers(140_000, size=140_000)
        wanted.append(gain[:, rows].mean(1)[seeds].mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(wanted, [0.025, 0.975])))


# Holm


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1, never falling: .02 .03 .06 .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1, 1]
    assert holm([0.2]) == [0.2]


p_lists = st.lists(st.sampled_from([0.0, 0.002, 0.0125, 0.02, 0.05, 0.3, 1.0]) | st.floats(0, 1))


@given(p_lists.filter(len), st.randoms(use_true_random=False))
def test_holm_never_helps_and_keeps_the_order(p_values, random):
    adjusted = holm(p_values)
    bonferroni = [min(1, p * len(p_values)) for p in p_values]
    assert all(p <= a <= b for p, a, b in zip(p_values, adjusted, bonferroni, strict=True))
    by_p = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
    assert by_p == sorted(adjusted)
    order = random.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[place] for place in order]) == [adjusted[place] for place in order]


# Almost stochastic order


@given(samples, samples)
def test_violation_ratios_of_a_pair_and_of_the_swapped_pair_sum_to_one(first, second):
    ratio = violation_ratio(first, second)
    assert 0 <= ratio <= 1
    assert ratio + violation_ratio(second, first) == pytest.approx(1)
    assert violation_ratio(first, first) == 0.5


def test_violation_ratio_by_hand():
    # F⁻¹ is 0 then 3 from 1/2 on; G⁻¹ is 1, 1, 2 by thirds: gaps 1, 1 | −2, −1
    # of widths 1/3, 1/6, 1/6, 1/3; violated 1/2 of 1/2 + 4/6 + 1/3
    assert violation_ratio([3.0, 0.0], [1.0, 2.0, 1.0]) == pytest.approx(0.5 / 1.5)


def test_violation_ratio_agrees_with_the_integral_over_quantiles():
    generator = np.random.default_rng(8)
    first, second = generator.normal(0.1, 1, 9), generator.normal(0, 1.5, 14)
    places = (np.arange(126 * 50) + 0.5) / (126 * 50)
    gap = np.quantile(second, places, method="inverted_cdf") - np.quantile(
        first, places, method="inverted_cdf"
    )
    wanted = (np.maximum(gap, 0) ** 2).sum() / (gap**2).sum()
    assert violation_ratio(first, second) == pytest.approx(wanted)


def test_stochastic_order_of_separate_equal_and_overlapping_arms():
    generator = np.random.default_rng(0)
    low, high = generator.random(8), 2 + generator.random(11)
    assert stochastic_order(high, low) == 0
    assert stochastic_order(low, high) == 1
    assert stochastic_order([1.0, 1.0], [1.0, 1.0]) == 0.5
    assert stochastic_order(low, low) > 0.5
    # one violation of ten: the bound is above the ratio, and lower with less confidence
    better = np.arange(1.0, 11)
    worse = np.concatenate([[1.5], better[1:] - 0.5])
    ratio = violation_ratio(better, worse)
    assert ratio == pytest.approx(0.1)
    assert ratio < stochastic_order(better, worse, level=0.4) < stochastic_order(better, worse)


def test_the_bound_is_the_ratio_plus_the_normal_quantile_of_the_bootstrap_deviation():
    generator = np.random.default_rng(6)
    first, second = generator.normal(0.8, 1, 12), generator.normal(0, 1, 9)
    drawn = [
        violation_ratio(generator.choice(first, 12), generator.choice(second, 9))
        for _ in range(1500)
    ]
    wanted = violation_ratio(first, second) + 1.645 * np.std(drawn)
    assert stochastic_order(first, second) == pytest.approx(wanted, abs=0.03)


# Power


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_needed_are_those_of_the_published_tables(effect, seeds):
    assert seeds_needed(sd=1, difference=effect) == seeds
    assert seeds_needed(sd=3, difference=-3 * effect) == seeds


@given(st.integers(13, 60), st.sampled_from([0.5, 0.8, 0.95]), st.sampled_from([0.05, 0.0125]))
@settings(deadline=None, max_examples=30)
def test_the_power_at_the_detectable_difference_is_the_power(seeds, power, level):
    difference = detectable(2.0, seeds, power, level)
    significant = scipy_stats.t.isf(level / 2, seeds - 1)
    shift = difference * math.sqrt(seeds) / 2
    assert scipy_stats.nct.sf(significant, seeds - 1, shift) == pytest.approx(power, abs=1e-6)
    needed = seeds_needed(2.0, difference * (1 + 1e-9), power, level)
    assert needed == seeds or (smallest_p(needed) <= level < smallest_p(needed - 1))


@pytest.mark.parametrize(
    ("seeds", "level"), [(6, 0.05), (7, 0.05 / 3), (8, 0.05 / 5), (10, 0.05 / 4), (12, 0.05)]
)
def test_few_seeds_see_it_as_often_as_the_power_says(seeds, level):
    """The sign-flip test itself, which a t test would flatter: at 6 seeds 62 % for its 80."""
    draws = np.random.default_rng(5).normal(
        detectable(0.02, seeds, level=level), 0.02, (2000, seeds)
    )
    seen = np.mean([sign_flip(each) <= level and each.mean() > 0 for each in draws])
    assert seen == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 2000))
    assert seeds_needed(0.02, 1.0001 * detectable(0.02, seeds, level=level), level=level) <= seeds


def test_one_seed_sees_nothing_and_few_seeds_cannot_reach_the_level():
    assert detectable(0.01, 1) == math.inf
    assert seeds_needed(0.001, 1.0) == 6
    assert seeds_needed(0.001, 1.0, level=0.05 / 4) == 8
    assert seeds_needed(0.001, 1.0, level=1 / 32) == 6
    assert smallest_p(5) > 0.05 > smallest_p(6)


# Wrong input


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: summarise([]),
            r"found values of shape \(0,\), wanted one dimension of at least 1",
        ),
        (lambda: summarise([[0.1]]), r"found values of shape \(1, 1\)"),
        (lambda: sign_flip([0.1, math.nan]), r"infinity in differences at \[1\], .* run these"),
        (lambda: smallest_p(0), "found a number of seeds of 0, wanted one above 0"),
        (lambda: mcnemar(np.ones(2), np.ones(2)), "wanted two bool arrays"),
        (lambda: mcnemar(np.ones(2, bool), np.ones(3, bool)), r"\(2,\) and bool of shape \(3,\)"),
        (lambda: mcnemar(np.ones((1, 2), bool), np.ones((1, 2), bool)), r"shape \(1, 2\)"),
        (lambda: mcnemar(np.ones(0, bool), np.ones(0, bool)), r"shape \(0,\)"),
        (lambda: holm([]), "found p values of shape"),
        (lambda: holm([0.1, 1.1]), "from 0.1 to 1.1, wanted 0 to 1"),
        (lambda: holm([-0.1]), "from -0.1"),
        (lambda: violation_ratio([], [0.1]), "found first of shape"),
        (lambda: stochastic_order([0.1, 0.2], [0.1]), "found second of .* at least 2"),
        (lambda: stochastic_order([0.1, 0.2], [0.1, 0.3], level=1), "level of 1"),
        (lambda: stochastic_order([0.1, 0.2], [0.1, 0.3], draws=0), "number of draws of 0"),
        (lambda: detectable(0.0, 5), "standard deviation of 0.0"),
        (lambda: detectable(math.nan, 5), "standard deviation of nan"),
        (lambda: detectable(1.0, 0), "number of seeds of 0"),
        (lambda: detectable(1.0, 5, power=0.04), "power of 0.04, wanted one above 0.05"),
        (lambda: detectable(1.0, 5, level=0.0), "level of 0.0"),
        (lambda: seeds_needed(1.0, 0.0), "difference of 0.0"),
        (lambda: seeds_needed(1.0, 1.0, level=2), "level of 2"),
        (lambda: Comparison("mrpc", "a", "b", [math.inf]), "differences of a and b on mrpc at"),
        (lambda: Comparison("mrpc", "a", "b", [0.1], margin=0), "margin of 0"),
        (lambda: judge([]), "found 0 different comparisons among 0"),
        (lambda: judge(family([0.1]), level=0), "level of 0"),
        (
            lambda: judge([Comparison("x", "a", "b", [0.1]), Comparison("x", "b", "a", [0.1])]),
            "found 1 different comparisons among 2",
        ),
    ],
)
def test_wrong_input_is_told(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# -- groups ----------------------------------------------------------------------------------------


def test_rows_of_a_group_are_drawn_together():
    """Ten copies of each row, as one group, say as much as one row: the same draws, to the bit."""
    draw = np.random.default_rng(0)
    labels = draw.integers(2, size=60)
    first, second = (np.where(draw.random(60) < p, labels, 1 - labels) for p in (0.8, 0.7))
    copies = [np.repeat(one, 10) for one in (first, second, labels)]
    groups = np.repeat(draw.permutation(60), 10)  # numbers in any order
    plain = row_bootstrap(first, second, labels, "accuracy")
    found = row_bootstrap(*copies, "accuracy", groups=groups)
    order = np.argsort(groups[::10])
    same = row_bootstrap(first[order], second[order], labels[order], "accuracy")
    assert (found.difference, found.low, found.high) == pytest.approx(
        (same.difference, same.low, same.high), abs=1e-12
    )
    assert found.difference == pytest.approx(plain.difference)
    alone = row_bootstrap(*copies, "accuracy")
    assert found.high - found.low > 2 * (alone.high - alone.low)
    own = row_bootstrap(first, second, labels, "accuracy", groups=np.arange(60))
    assert own == plain


def test_groups_reach_the_other_bootstraps():
    draw = np.random.default_rng(1)
    labels = draw.integers(2, size=40)
    runs = np.stack([np.where(draw.random(40) < 0.8, labels, 1 - labels) for _ in range(3)])
    others = np.stack([np.where(draw.random(40) < 0.7, labels, 1 - labels) for _ in range(3)])
    own = np.arange(40)
    plain = multi_bootstrap(runs, others, labels, "f1")
    assert multi_bootstrap(runs, others, labels, "f1", groups=own) == plain
    narrow = score_interval(runs[0], labels, "accuracy")
    wide = score_interval(
        np.repeat(runs[0], 5), np.repeat(labels, 5), "accuracy", groups=np.repeat(own, 5)
    )
    assert wide == pytest.approx(narrow)


@pytest.mark.parametrize("groups", [np.zeros(4, dtype=int), np.arange(3)])
def test_one_group_or_another_number_of_them_is_refused(groups):
    labels = np.array([0, 1, 1, 0])
    with pytest.raises(ValueError, match="wanted two or more, and one number for each example"):
        row_bootstrap(labels, labels, labels, "accuracy", groups=groups)
