"""A verdict needs enough seeds, no order and no side; its words say what was found."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layermix.evaluation.statistics import Bootstrap, detectable, multi_bootstrap, seeds_needed
from layermix.evaluation.verdicts import Comparison, describe, judge

# thousandths, so that ties and zeros are common, as among scores on few examples
thousandths = st.integers(-30, 30).map(lambda number: number / 1000)
samples = st.lists(thousandths, min_size=1, max_size=9)
families = st.lists(samples, min_size=1, max_size=5)


def family(*differences):
    return [Comparison(f"task {place}", "a", "b", each) for place, each in enumerate(differences)]


# Verdicts


def test_a_clear_gain_and_a_clear_loss_in_words():
    gain = [0.010, 0.014, 0.012, 0.011, 0.013, 0.012, 0.012, 0.012, 0.012, 0.012]
    better, worse = judge(
        [
            Comparison(
                "mrpc", "learned", "fixed", gain, bootstrap=Bootstrap(0.012, -1e-9, 0.02, 1)
            ),
            Comparison("rte", "learned", "fixed", [-each for each in gain]),
        ]
    )
    assert (better.outcome, worse.outcome) == ("better", "worse")
    assert better.p == 2 / 1024
    assert better.sentence() == (
        "learned is better than fixed on mrpc: +1.2 points (95 % interval +1.1 to +1.3; over seeds "
        "and examples +0.0 to +2.0), p = .00391 after Holm over 2 comparisons, 10 seeds."
    )
    assert worse.sentence() == (
        "learned is worse than fixed on rte: -1.2 points (95 % interval -1.3 to -1.1), p = .00391 "
        "after Holm over 2 comparisons, 10 seeds."
    )
    assert "p < .001 after Holm over 1 comparison, 14 seeds." in (
        judge(family([0.01] * 14))[0].sentence()
    )


def test_no_difference_says_what_could_have_been_seen():
    differences = [0.01, -0.01] * 5
    [found] = judge([Comparison("mrpc", "learned", "fixed", differences)])
    sd = np.std(differences, ddof=1)
    assert found.sentence() == (
        "no difference shown between learned and fixed on mrpc at 10 seeds: +0.0 points "
        "(95 % interval -0.8 to +0.8), p = 1 after Holm over 1 comparison; this many seeds could "
        f"have seen {100 * detectable(sd, 10):.1f} points; seeing 0.5 would need "
        f"{seeds_needed(sd, 0.005)} seeds."
    )
    [wide] = judge([Comparison("mrpc", "learned", "fixed", differences, margin=0.02)])
    assert wide.sentence().endswith("could have seen 1.1 points.")
    [equal] = judge(family([0.0] * 8))
    assert equal.sentence().endswith(
        "+0.0 points (equal in all seeds, so without an interval over them), p = 1 after Holm over "
        "1 comparison."
    )


def test_what_could_have_been_seen_is_at_the_level_that_holm_asks_for():
    found = judge(family([0.01, -0.01] * 5, [0.01] * 10, [0.001, -0.002] * 5))[0]
    assert found.to_reach == 0.05 / 2
    seen = 100 * detectable(found.summary.sd, 10, level=0.05 / 2)
    assert f"could have seen {seen:.1f} points" in found.sentence()


def test_too_few_seeds_get_no_verdict():
    found = judge(family([0.5, 0.6, 0.7], [0.01] * 7, [0.4], [0.3, -0.1] * 5))
    assert [each.outcome for each in found] == [
        "not attainable",
        "not attainable",
        "not attainable",
        "no difference shown",
    ]
    assert found[0].sentence() == (
        "no verdict is possible for a against b on task 0 with 3 seeds: the smallest p they can "
        "give is .25, and Holm over 4 comparisons asks for .0125, which takes 8 seeds; found +60.0 "
        "points (95 % interval +35.2 to +84.8)."
    )
    assert "with 1 seed: the smallest p they can give is 1, and" in found[2].sentence()
    assert found[2].sentence().endswith("found +40.0 points (one seed has no interval).")


def test_few_seeds_may_be_decided_after_many_but_never_first():
    few, many, nothing = [0.01] * 6, [0.01] * 10, [0.01, -0.01] * 5
    assert [each.outcome for each in judge(family(few, many))] == ["better", "better"]
    assert [each.outcome for each in judge(family(few, nothing))] == [
        "not attainable",
        "no difference shown",
    ]


@settings(deadline=None)
@given(families, st.sampled_from([0.05, 0.1, 0.3]))
def test_not_attainable_is_exactly_what_no_differences_could_have_decided(differences, level):
    for place, found in enumerate(judge(family(*differences), level)):
        decided = found.outcome in ("better", "worse")
        assert decided == (found.adjusted_p <= level) == (found.p <= found.to_reach)
        utmost = list(differences)
        utmost[place] = [1.0] * len(differences[place])
        could = judge(family(*utmost), level)[place].outcome == "better"
        assert could == (found.outcome != "not attainable")
        assert found.sentence().endswith(".")


@settings(deadline=None)
@given(families, st.randoms(use_true_random=False))
def test_a_family_has_no_order_and_its_arms_no_side(differences, random):
    found = {each.comparison.name: each for each in judge(family(*differences))}
    swapped = [
        Comparison(each.name, "b", "a", [-number for number in each.differences])
        for each in random.sample(family(*differences), len(differences))
    ]
    mirror = {"better": "worse", "worse": "better"}
    for other in judge(swapped):
        one = found[other.comparison.name]
        assert (other.p, other.adjusted_p) == (one.p, one.adjusted_p)
        assert mirror.get(other.outcome, other.outcome) == one.outcome


def test_a_description_has_numbers_and_no_verdict():
    told = describe(Comparison("rte", "random", "fixed", [0.01, 0.02, 0.03]))
    assert told == (
        "descriptive: random minus fixed on rte: +2.0 points (95 % interval -0.5 to +4.5), 3 seeds."
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"first": np.zeros((3, 5), int)}, r"shapes \(3, 5\) and \(2, 5\)"),
        ({"labels": np.zeros(4, int)}, r"labels of shape \(4,\)"),
        (dict.fromkeys(("first", "second"), np.zeros((1, 5), int)), "use row_bootstrap"),
        (dict.fromkeys(("first", "second"), np.zeros(5, int)), r"shapes \(5,\)"),
        (
            {"labels": np.zeros(0, int)}
            | dict.fromkeys(("first", "second"), np.zeros((2, 0), int)),
            r"shape \(0,\)",
        ),
        ({"labels": np.array([0, 1, -100, 1, 0])}, "least value -100"),
        ({"second": np.zeros((2, 5))}, "found float64"),
        ({"score": "nll"}, "found score 'nll' for 2 classes, wanted one of accuracy, f1, f1_macro"),
        ({"score": "f1", "labels": np.array([0, 1, 2, 1, 0])}, "'f1' for 3 classes"),
        ({"draws": 0}, "number of draws of 0"),
    ],
)
def test_wrong_arms_are_told(change, words):
    right = {
        "first": np.zeros((2, 5), int),
        "second": np.ones((2, 5), int),
        "labels": np.array([0, 1, 1, 1, 0]),
        "score": "accuracy",
    }
    multi_bootstrap(**right, draws=2)
    with pytest.raises(ValueError, match=words):
        multi_bootstrap(**(right | change))


# Simulations: the share of wrong verdicts, and of right ones


def share_decided(families, comparisons, seeds, effect=0.0, shared=0.0):
    """Share of families with a decided comparison; only the first may have an effect.

    `shared` is the part of the variance that all comparisons have in common, as when one arm is
    compared with several others.
    """
    generator, decided = np.random.default_rng(11), 0
    for _ in range(families):
        own, common = generator.normal(size=(comparisons, seeds)), generator.normal(size=seeds)
        drawn = math.sqrt(1 - shared) * own + math.sqrt(shared) * common
        drawn[0] += effect
        looked_at = judge(family(*drawn))[: 1 if effect else None]
        decided += any(each.outcome in ("better", "worse") for each in looked_at)
    return decided / families


@pytest.mark.parametrize(
    "families", [1000, pytest.param(20_000, marks=pytest.mark.slow, id="20000")]
)
@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_a_family_without_any_effect_is_decided_in_5_percent_at_most(families, shared):
    share = share_decided(families, comparisons=4, seeds=10, shared=shared)
    assert 0.02 < share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / families)


@pytest.mark.parametrize(
    "families", [500, pytest.param(10_000, marks=pytest.mark.slow, id="10000")]
)
@pytest.mark.parametrize("comparisons", [1, 4])
def test_the_detectable_difference_is_seen_as_often_as_the_power_says(families, comparisons):
    effect = detectable(1.0, 12, level=0.05 / comparisons)
    share = share_decided(families, comparisons, seeds=12, effect=effect)
    assert share == pytest.approx(0.8, abs=0.02 + 3 * math.sqrt(0.8 * 0.2 / families))
