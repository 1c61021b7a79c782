"""Paired comparisons over seeds: intervals, tests, power, verdicts; NumPy and SciPy only.

A difference is first minus second with the same seed, in a score where higher is better. Only
`judge` gives verdicts; every other number is descriptive. Arrays of numbers are (seeds,) and
finite, intervals are of 95 % and not corrected for the size of a family.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, nct, norm, t

from layermix.evaluation.weighted_scores import ratio, weighted_score

Array = NDArray[np.float64]
Values = NDArray[Any]
Numbers = Sequence[float] | NDArray[np.floating[Any]]

LEVEL = 0.05
"""Default significance level of a family of verdicts."""

TAILS = (0.025, 0.975)
"""Quantiles at which the intervals end."""

ENUMERATED_SEEDS = 16
"""Up to this many seeds `sign_flip` tries every pattern of signs, else `SIGN_DRAWS` of them."""

SIGN_DRAWS = 100_000

SAME = 1e-12
"""Scores of seeds that differ by no more than this are equal up to rounding."""


@dataclass(frozen=True)
class Summary:
    """Mean of one number per seed, with its t interval.

    One seed has no `sd` and no interval; equal numbers have an `sd` of 0 and no interval.
    """

    values: tuple[float, ...]
    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Bootstrap:
    """Score of the first arm minus the second, its percentile interval, and a two-sided p."""

    difference: float
    low: float
    high: float
    p: float


def summarise(values: Numbers) -> Summary:
    """Mean, standard deviation (ddof 1) and t interval over seeds.

    Raises:
        ValueError: No value, more than one dimension, or NaN.

    Examples:
        >>> summarise([1.0, 2.0, 3.0]).sd, round(summarise([1.0, 2.0, 3.0]).high, 3)
        (1.0, 4.484)
    """
    numbers = checked_numbers(values, "values")
    each, mean, seeds = tuple(numbers.tolist()), float(numbers.mean()), len(numbers)
    if seeds == 1:
        return Summary(each, mean, None, None, None)
    if np.ptp(numbers) <= SAME:  # equal seeds do not show how others would vary
        return Summary(each, mean, 0.0, None, None)
    sd = float(numbers.std(ddof=1))
    half = float(t.ppf(TAILS[1], seeds - 1)) * sd / math.sqrt(seeds)
    return Summary(each, mean, sd, mean - half, mean + half)


def single_run(values: Numbers) -> tuple[float, float] | None:
    """Interval in which one more run lies in 95 of 100 cases; None for one seed or equal ones.

    A published number of one run is compared with this, not with the interval of the mean.

    Args:
        values: (seeds,), finite.

    Raises:
        ValueError: As `summarise`.

    Examples:
        >>> low, high = single_run([0.71, 0.73, 0.72])
        >>> round(low, 3), round(high, 3), single_run([0.71])
        (0.67, 0.77, None)
    """
    summary = summarise(values)
    if not summary.sd:
        return None
    seeds = len(summary.values)
    half = float(t.ppf(TAILS[1], seeds - 1)) * summary.sd * math.sqrt(1 + 1 / seeds)
    return summary.mean - half, summary.mean + half


def sign_flip(differences: Numbers) -> float:
    """Two-sided p of the paired sign-flip permutation test on the mean difference.

    Exact up to `ENUMERATED_SEEDS` seeds; beyond, (1 + hits) / (1 + draws) with a fixed generator.

    Raises:
        ValueError: No value, more than one dimension, or NaN.

    Examples:
        >>> sign_flip([0.1, 0.2, 0.3]), sign_flip([0.0, 0.0]), sign_flip([0.1, -0.2, 0.3])
        (0.25, 1.0, 0.75)
    """
    paired = checked_numbers(differences, "differences")
    seeds = len(paired)
    # sums that are equal but for rounding have to count
    observed = abs(paired.sum()) - 1e-12 * np.abs(paired).sum()
    if seeds <= ENUMERATED_SEEDS:
        # the last sign is fixed, since flipping all signs gives the same absolute sum
        patterns = np.arange(2 ** (seeds - 1))[:, None] >> np.arange(seeds) & 1
        return float((np.abs((1 - 2 * patterns) @ paired) >= observed).mean())
    generator, hits, chunk = np.random.default_rng(0), 0, SIGN_DRAWS // 20
    for _ in range(SIGN_DRAWS // chunk):
        signs = generator.choice([-1.0, 1.0], (chunk, seeds))
        hits += int((np.abs(signs @ paired) >= observed).sum())
    return (1 + hits) / (1 + SIGN_DRAWS)


def smallest_p(seeds: int) -> float:
    """The smallest p that a sign-flip test can give: 2 / 2^seeds.

    Examples:
        >>> smallest_p(1), smallest_p(3), smallest_p(6)
        (1.0, 0.25, 0.03125)
    """
    check_between(seeds, 0, math.inf, "number of seeds")
    return float(2.0 ** (1 - seeds))


def mcnemar(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> float:
    """Exact two-sided p of McNemar's test on two single runs.

    Args:
        right_a: (examples,) bool, whether run A is right on the example.
        right_b: The same of run B.

    Raises:
        ValueError: Not two bool arrays of one length, or empty.

    Examples:
        >>> mcnemar(np.array([True, True, True, False]), np.array([False, False, False, False]))
        0.25
    """
    a, b = np.asarray(right_a), np.asarray(right_b)
    if a.ndim != 1 or a.shape != b.shape or not a.size or {a.dtype, b.dtype} != {np.dtype(bool)}:
        raise ValueError(
            f"found {a.dtype} of shape {a.shape} and {b.dtype} of shape {b.shape}, wanted two bool "
            "arrays of shape (examples,); give predicted == labels of both runs on the same rows"
        )
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def multi_bootstrap(
    first: Values,
    second: Values,
    labels: Values,
    score: str,
    draws: int = 2000,
    seed: int = 0,
    groups: NDArray[np.integer[Any]] | None = None,
) -> Bootstrap:
    """Multi-Bootstrap (arXiv 2106.16163), paired: seeds and examples are both resampled.

    An arm's score in a draw is the mean over the drawn seeds of the score on the drawn examples;
    both arms use the same draws. The paper's p is one-sided, the share of draws ≤ 0; this is twice
    the smaller of the two one-sided ones, each (1 + hits) / (1 + draws). With few seeds the
    interval is too narrow: n resampled seeds vary (n − 1) / n as much as new ones.

    Args:
        first: (seeds, examples), class indices or numbers that the first arm predicts; or (seeds,
            examples, C), 0 or 1 for each of several labels.
        second: The same of the second arm, seed by seed.
        labels: (examples,) or (examples, C) of the same kind; leave out rows without a label.
        score: A name of `layermix.evaluation.weighted_scores.WEIGHTED`, 0 where undefined. A
            difference is first minus second, also where lower is better (`mae`).
        draws: Bootstrap samples.
        seed: Seed of the draws.
        groups: (examples,), the number of each example's group: groups are drawn whole, since
            examples of one document or author are not independent. By default each is its own.

    Raises:
        ValueError: Shapes do not fit, fewer than two seeds or groups, a value is not what the score
            needs, the score is unknown, or it is `f1` and there are more than two classes.
    """
    first, second, labels = np.asarray(first), np.asarray(second), np.asarray(labels)
    dimensions, rows = _row_shape(labels)
    fits = first.ndim == dimensions + 1 and first.shape == second.shape
    fits = fits and first.shape[1:] == labels.shape
    if not fits or len(first) < 2 or not labels.size:
        raise ValueError(
            f"found arms of shapes {first.shape} and {second.shape} and labels of shape "
            f"{labels.shape}, wanted (seeds, {rows}) twice and {_as_shape(rows)}, with at least "
            "two seeds; give all runs on the same rows, and for two single runs use row_bootstrap"
        )
    return _bootstrap(first, second, labels, score, draws, seed, groups)


def row_bootstrap(
    first: Values,
    second: Values,
    labels: Values,
    score: str,
    draws: int = 2000,
    seed: int = 0,
    groups: NDArray[np.integer[Any]] | None = None,
) -> Bootstrap:
    """Paired bootstrap of two single runs over examples; it does not cover other seeds.

    Args:
        first: (examples,) or (examples, C), what the first run predicts, as in `multi_bootstrap`.
        second: The same of the second run.
        labels: The same of the labels; leave out rows without a label.
        score: As in `multi_bootstrap`.
        draws: Bootstrap samples.
        seed: Seed of the draws.
        groups: As in `multi_bootstrap`.

    Raises:
        ValueError: As `multi_bootstrap`.
    """
    first, second, labels = np.asarray(first), np.asarray(second), np.asarray(labels)
    dimensions, rows = _row_shape(labels)
    same = first.ndim == dimensions and first.shape == second.shape == labels.shape
    if not same or not labels.size:
        raise ValueError(
            f"found runs of shapes {first.shape} and {second.shape} and labels of shape "
            f"{labels.shape}, wanted {_as_shape(rows)} three times; give both runs on the same rows"
        )
    return _bootstrap(first[None], second[None], labels, score, draws, seed, groups)


def row_error(
    first: Values,
    second: Values,
    labels: Values,
    score: str,
    draws: int = 2000,
    seed: int = 0,
    groups: NDArray[np.integer[Any]] | None = None,
) -> tuple[Array, float]:
    """Differences of the scores of several runs and one other, and what the examples add to them.

    Args:
        first: (seeds, examples) or (seeds, examples, C), as in `multi_bootstrap`; one seed is
            enough.
        second: (examples,) or (examples, C), what the other run predicts.
        labels: The same of the labels; leave out rows without a label.
        score: As in `multi_bootstrap`.
        draws: Bootstrap samples.
        seed: Seed of the draws.
        groups: As in `multi_bootstrap`.

    Returns:
        Each seed's score minus that of the other run, (seeds,), and the standard error of their
        mean over examples: its standard deviation over resampled examples.

    Raises:
        ValueError: As `multi_bootstrap`.
    """
    first, second, labels = np.asarray(first), np.asarray(second), np.asarray(labels)
    dimensions, rows = _row_shape(labels)
    fits = first.ndim == dimensions + 1 and first.shape[1:] == second.shape == labels.shape
    if not fits or not len(first) or not labels.size:
        raise ValueError(
            f"found runs of shapes {first.shape} and {second.shape} and labels of shape "
            f"{labels.shape}, wanted (seeds, {rows}) and {_as_shape(rows)} twice; give all runs on "
            "the same rows"
        )
    runs = np.concatenate([first, second[None]])
    weighted = weighted_score(score, runs, labels)
    check_between(draws, 0, math.inf, "number of draws")

    def differences(weights: Array) -> Array:
        """(draws, examples) -> (draws, seeds)."""
        scores = weighted.function(runs, labels, weights)
        return scores[:, :-1] - scores[:, -1:]

    resampled = np.concatenate(
        [
            differences(on_examples).mean(-1)
            for _, on_examples in _weights(draws, 1, len(labels), seed, groups)
        ]
    )
    return differences(np.ones((1, len(labels))))[0], float(resampled.std())


def score_interval(
    predicted: Values,
    labels: Values,
    score: str,
    draws: int = 2000,
    seed: int = 0,
    groups: NDArray[np.integer[Any]] | None = None,
) -> tuple[float, float]:
    """Percentile interval of one run's score over examples; it does not cover other seeds.

    Args:
        predicted: (examples,) or (examples, C), as in `multi_bootstrap`.
        labels: The same of the labels; leave out rows without a label.
        score: As in `multi_bootstrap`.
        draws: Bootstrap samples.
        seed: Seed of the draws.
        groups: As in `multi_bootstrap`.

    Raises:
        ValueError: As `multi_bootstrap`.

    Examples:
        >>> import numpy as np
        >>> right = np.arange(400) % 4 > 0  # scipy's exact interval is .705 to .792
        >>> low, high = score_interval(right.astype(int), np.ones(400, int), "accuracy")
        >>> round(low, 2), round(high, 2)
        (0.71, 0.79)
    """
    runs, labels = np.asarray(predicted)[None], np.asarray(labels)
    weighted = weighted_score(score, runs, labels)
    drawn_scores = np.concatenate(
        [
            weighted.function(runs, labels, weights)[:, 0]
            for _, weights in _weights(draws, 1, len(labels), seed, groups)
        ]
    )
    low, high = np.quantile(drawn_scores, TAILS).tolist()
    return low, high


def _row_shape(labels: Values) -> tuple[int, str]:
    """Number and names of the dimensions of labels: several of a row have a second one."""
    return (2, "examples, labels") if labels.ndim == 2 else (1, "examples")


def _as_shape(names: str) -> str:
    return f"({names})" if "," in names else f"({names},)"


def _bootstrap(
    first: Values,
    second: Values,
    labels: Values,
    score: str,
    draws: int,
    seed: int,
    groups: NDArray[np.integer[Any]] | None,
) -> Bootstrap:
    """Resample seeds and examples alike for both arms; (seeds, examples[, C]) twice."""
    runs = np.concatenate([first, second])
    weighted = weighted_score(score, runs, labels)
    check_between(draws, 0, math.inf, "number of draws")
    seeds, examples = first.shape[:2]

    def differences(weights: Array) -> Array:
        """(draws, examples) -> (draws, seeds)."""
        arms = weighted.function(runs, labels, weights)
        return arms[:, :seeds] - arms[:, seeds:]

    resampled = np.concatenate(
        [
            (differences(on_examples) * on_seeds).sum(-1)
            for on_seeds, on_examples in _weights(draws, seeds, examples, seed, groups)
        ]
    )
    low, high = np.quantile(resampled, TAILS).tolist()
    # differences that cancel may miss 0 by rounding
    hits = min(int((resampled <= 1e-12).sum()), int((resampled >= -1e-12).sum()))
    difference = float(differences(np.ones((1, examples))).mean())
    return Bootstrap(difference, low, high, min(1.0, 2 * (1 + hits) / (1 + draws)))


def holm(p_values: Numbers) -> list[float]:
    """Holm's step-down adjusted p values, in the order given.

    Raises:
        ValueError: No value, or one outside [0, 1].

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    raw = checked_numbers(p_values, "p values")
    if raw.min() < 0 or raw.max() > 1:
        raise ValueError(f"found p values from {raw.min()} to {raw.max()}, wanted 0 to 1")
    order = raw.argsort()
    steps = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    return [min(1.0, float(steps[rank])) for rank in order.argsort()]


def violation_ratio(first: Numbers, second: Numbers) -> float:
    """How far the first arm is from always better, by del Barrio et al. (arXiv 1705.01788).

    The share of ∫(F⁻¹ − G⁻¹)² over the quantiles, F of the first arm and G of the second, where
    F⁻¹ < G⁻¹: 0 means better at every quantile, 1 worse. The ratios of a pair and of the swapped
    pair sum to 1, so equal samples get .5, where the definition has 0 / 0.

    Raises:
        ValueError: An arm has no value, more than one dimension, or NaN.

    Examples:
        >>> violation_ratio([3.0, 4.0], [1.0, 2.0]), violation_ratio([1.0, 4.0], [2.0, 3.0])
        (0.0, 0.5)
    """
    return float(_violation(checked_numbers(first, "first"), checked_numbers(second, "second")))


def stochastic_order(
    first: Numbers, second: Numbers, level: float = LEVEL, draws: int = 1000, seed: int = 0
) -> float:
    """ε_min of almost stochastic order (Dror et al. 2019; arXiv 2204.06815).

    The upper bound of `violation_ratio` with confidence 1 − level, from the normal distribution
    and the bootstrap's standard deviation, kept within [0, 1]: below .5 the first arm is almost
    always better. Equal samples give .5 or more. Arms that do not overlap give 0 with any number
    of seeds, so this is no verdict. The arms need be neither paired nor of one size.

    Raises:
        ValueError: An arm has fewer than two values or NaN, or the level is not within (0, 1).

    Examples:
        >>> stochastic_order([0.8, 0.9], [0.6, 0.7]), stochastic_order([0.6, 0.7], [0.8, 0.9])
        (0.0, 1.0)
    """
    arms = [checked_numbers(first, "first", least=2), checked_numbers(second, "second", least=2)]
    check_between(level, 0, 1, "level")
    check_between(draws, 0, math.inf, "number of draws")
    generator = np.random.default_rng(seed)
    spread = _violation(*(generator.choice(arm, (draws, len(arm))) for arm in arms)).std()
    return float(np.clip(_violation(*arms) + norm.isf(level) * spread, 0, 1))


def detectable(sd: float, seeds: int, power: float = 0.8, level: float = LEVEL) -> float:
    """Smallest mean difference of normal values that the two-sided sign-flip test detects.

    A difference is detected if it is significant and has the right sign, with this power. Up to
    `SIMULATED_SEEDS` seeds the test itself is simulated, since it has few p values and needs more
    than a t test; for more seeds the t test replaces it.

    Args:
        sd: Standard deviation of the paired differences, above 0.
        seeds: Paired seeds; infinity is returned if they are too few for the level.
        power: Chance of detecting it, above the level.
        level: Significance level of the test, two-sided.

    Raises:
        ValueError: An argument is out of its range.

    Examples:
        >>> round(detectable(sd=1.0, seeds=10), 3), detectable(sd=1.0, seeds=1)
        (1.008, inf)
    """
    check_between(sd, 0, math.inf, "standard deviation")
    check_between(seeds, 0, math.inf, "number of seeds")
    check_between(level, 0, 1, "level")
    check_between(power, level, 1, "power")
    if smallest_p(seeds) > level:
        return math.inf
    if seeds <= SIMULATED_SEEDS:
        return _simulated_shift(seeds, power, level) * sd
    significant = t.isf(level / 2, seeds - 1)

    def missing(shift: float) -> float:
        return float(power - nct.sf(significant, seeds - 1, shift))

    high = 1.0
    while missing(high) > 0:
        high *= 2
    return float(brentq(missing, 0, high)) * sd / math.sqrt(seeds)


SIMULATED_SEEDS = 12
"""Largest number of seeds for which `detectable` simulates the test."""


@lru_cache
def _simulated_shift(seeds: int, power: float, level: float) -> float:
    """`detectable` for a standard deviation of 1, from 4,000 draws of a fixed generator."""
    draws = np.random.default_rng(0).standard_normal((4000, seeds))
    signs = 1.0 - 2 * (np.arange(2 ** (seeds - 1))[:, None] >> np.arange(seeds) & 1)
    flipped, totals = draws @ signs.T, signs.sum(-1)
    allowed = math.floor(level * len(signs) + 1e-9)  # patterns as extreme, including its own

    def missing(shift: float) -> float:
        observed = draws.sum(-1) + seeds * shift
        extreme = np.abs(flipped + shift * totals) >= np.abs(observed)[:, None] - 1e-9
        return float(power - np.mean((extreme.sum(-1) <= allowed) & (observed > 0)))

    low, high = 0.0, 1.0
    while missing(high) > 0:
        low, high = high, 2 * high
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if missing(middle) > 0 else (low, middle)
    return high


def seeds_needed(sd: float, difference: float, power: float = 0.8, level: float = LEVEL) -> int:
    """Fewest seeds that detect this mean difference, of either sign, as in `detectable`.

    Never fewer than a sign-flip test needs to reach the level at all: 6 for .05.

    Raises:
        ValueError: An argument is out of its range, or the difference is 0.

    Examples:
        >>> seeds_needed(sd=0.02, difference=0.01), seeds_needed(sd=0.02, difference=0.5)
        (34, 6)
    """
    check_between(abs(difference), 0, math.inf, "difference")
    check_between(level, 0, 1, "level")

    def enough(seeds: int) -> bool:
        return detectable(sd, seeds, power, level) <= abs(difference)

    most = least = least_seeds(level)
    while not enough(most):
        most *= 2
    return bisect_left(range(most), True, lo=least, key=enough)


CACHED_WEIGHTS = 2**25
"""Largest set of weights that is cached, since a study uses the same draws often: 4 × 64 MiB."""


PART = 2**22
"""Weights of examples that are made at once: 32 MiB."""


def _weights(
    draws: int, seeds: int, examples: int, seed: int, groups: NDArray[np.integer[Any]] | None
) -> Iterator[tuple[Array, Array]]:
    """Weights of seeds (draws, seeds), which add up to 1, and of examples (draws, examples).

    Yields parts of the draws. Examples of one group have one weight.

    Raises:
        ValueError: There are groups, but not one for each example, or fewer than two.
    """
    units, unit = examples, None
    if groups is not None:
        names, unit = np.unique(groups, return_inverse=True)
        units = len(names)
        if np.shape(groups) != (examples,) or units < 2:
            raise ValueError(
                f"found {units} group(s) in an array of shape {np.shape(groups)} for {examples} "
                "examples, wanted two or more, and one number for each example"
            )
    parts = _cached_parts if draws * units <= CACHED_WEIGHTS else _parts
    step = max(1, PART // examples)
    for on_seeds, counts in parts(draws, seeds, units, seed):
        if unit is None:
            yield on_seeds, counts.astype(float)
            continue
        for start in range(0, len(counts), step):
            chosen = slice(start, start + step)
            yield on_seeds[chosen], counts[chosen][:, unit].astype(float)


def _parts(
    draws: int, seeds: int, examples: int, seed: int
) -> Iterator[tuple[Array, NDArray[np.uint16]]]:
    """Weights of seeds (draws, seeds), which add up to 1, and counts of examples (draws, examples).

    Yields parts of the draws, with 32 MiB of weights each.
    """
    generator = np.random.default_rng(seed)
    on_seeds = _drawn(generator, draws, seeds) / seeds
    part = max(1, PART // examples)
    for chosen in np.split(on_seeds, range(part, draws, part)):
        yield chosen, _drawn(generator, len(chosen), examples).astype(np.uint16)


@lru_cache(maxsize=4)
def _cached_parts(
    draws: int, seeds: int, examples: int, seed: int
) -> tuple[tuple[Array, NDArray[np.uint16]], ...]:
    return tuple(_parts(draws, seeds, examples, seed))


def _drawn(generator: np.random.Generator, draws: int, items: int) -> Array:
    """(draws, items): how often each item is drawn, with replacement, in `items` draws."""
    picked = generator.integers(items, size=(draws, items)) + items * np.arange(draws)[:, None]
    return np.bincount(picked.ravel(), minlength=draws * items).reshape(draws, items).astype(float)


def _violation(first: Array, second: Array) -> Array:
    """Violation ratios of samples (…, n) and (…, m): shape (…,)."""
    n, m = first.shape[-1], second.shape[-1]
    # both quantile functions are constant between these edges, in units of 1 / (n m)
    edges = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    starts, widths = edges[:-1], np.diff(edges)
    gap = np.sort(second)[..., starts // n] - np.sort(first)[..., starts // m]
    worse, better = (np.maximum(side, 0) ** 2 @ widths for side in (gap, -gap))
    return np.where(worse == better, 0.5, ratio(worse, worse + better))


def checked_numbers(values: Numbers, name: str, least: int = 1) -> Array:
    """Values as float64; raises a ValueError unless they are finite and enough."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) < least:
        raise ValueError(
            f"found {name} of shape {numbers.shape}, wanted one dimension of at least {least}; "
            "give one number per seed"
        )
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"found NaN or infinity in {name} at {np.flatnonzero(~np.isfinite(numbers)).tolist()}, "
            "wanted finite numbers; run these seeds again, or leave them out of all arms and say so"
        )
    return numbers


def check_between(number: float, low: float, high: float, name: str) -> None:
    """Raise a ValueError unless a number is within its bounds."""
    if not low < number < high:
        raise ValueError(f"found a {name} of {number}, wanted one above {low} and below {high}")


def least_seeds(level: float) -> int:
    """Fewest seeds whose `smallest_p` is at most the level."""
    return math.ceil(1 - math.log2(level))
