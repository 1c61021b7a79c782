"""The test of non-inferiority: known answers, its error at the margin, its power."""

import numpy as np
import pytest
from scipy.stats import t

from layermix.evaluation.noninferiority import counting_rows, judged, non_inferiority, power
from layermix.evaluation.statistics import multi_bootstrap, row_error

ROWS, SEEDS, MARGIN = 300, 4, 0.02


def test_without_spread_over_examples_it_is_a_t_test() -> None:
    values = np.array([-0.004, 0.002, -0.001, 0.0])
    found = judged(values, error=0.0, margin=MARGIN)
    error = values.std(ddof=1) / 2
    assert found.freedom == pytest.approx(3)
    assert found.low == pytest.approx(values.mean() - t.isf(0.05, 3) * error)
    assert found.p == pytest.approx(t.sf((values.mean() + MARGIN) / error, 3))
    assert found.shown


def test_variances_of_seeds_and_examples_add_up() -> None:
    values, error = np.array([0.01, -0.01, 0.0]), 0.03
    found = judged(values, error, margin=MARGIN)
    of_seeds = 0.01**2 / 3
    spread = np.sqrt(of_seeds + error**2)
    assert found.freedom == pytest.approx((of_seeds + error**2) ** 2 / (of_seeds**2 / 2))
    assert found.low == pytest.approx(0 - t.isf(0.05, found.freedom) * spread)
    assert not found.shown


def test_shown_and_p_agree_at_the_margin() -> None:
    values = np.array([-0.004, 0.002, -0.001, 0.0])
    low = judged(values, error=0.004, margin=MARGIN).low
    for margin in (-low - 1e-9, -low + 1e-9):
        found = judged(values, error=0.004, margin=margin)
        assert found.shown == (found.p < 0.05) == (margin > -low)


def test_few_differing_examples_do_not_make_it_sure() -> None:
    labels = np.zeros(50, dtype=int)
    teacher = labels.copy()
    students = np.stack([teacher, teacher])
    found = non_inferiority(students, teacher, labels, "accuracy", 0.02)
    assert found.difference == 0 == found.sd
    assert found.error == pytest.approx(np.sqrt(0.02 * 0.98 / 50))
    assert not found.shown  # 50 rows cannot show that one in fifty is not lost
    many = np.zeros(2000, dtype=int)
    assert non_inferiority(np.stack([many, many]), many, many, "accuracy", 0.02).shown


def test_a_loss_that_is_not_excluded_is_not_beyond_the_limit() -> None:
    """An interval of the test: its end is no surer because the floor is small."""
    same = np.ones(408, dtype=int)
    found = [non_inferiority(np.stack([same] * 5), same, same, "accuracy", m) for m in (1e-3, 4e-3)]
    assert not any(one.shown for one in found)
    quantile = t.isf(0.05, 407)
    end = quantile**2 / (407 + quantile**2)  # m = t·√(m(1 − m)/408 · 408/407)
    assert [one.low for one in found] == pytest.approx([-end, -end])
    assert non_inferiority(np.stack([same] * 5), same, same, "accuracy", end + 1e-9).shown


def test_the_limit_holds_for_losses_above_the_floor() -> None:
    """It is below the true loss in about one of twenty, whatever the floor."""
    generator, rows, loss = np.random.default_rng(0), 400, 0.01
    below = []
    for _ in range(300):
        teacher = np.ones(rows, dtype=int)
        wrong = generator.random(rows) < loss
        students = np.stack([np.where(wrong, 0, 1)] * SEEDS)
        found = non_inferiority(students, teacher, np.ones(rows, dtype=int), "accuracy", 0.002)
        below.append(found.low > -loss)
    assert np.mean(below) < 0.09  # 5 %, and what four differing rows are from normal


def test_few_groups_make_the_error_over_them_uncertain() -> None:
    values, error = np.array([0.01, -0.01, 0.0]), 0.03
    found = judged(values, error, MARGIN, independent=5)
    of_seeds, of_rows = 0.01**2 / 3, error**2 * 5 / 4
    freedom = (of_seeds + of_rows) ** 2 / (of_seeds**2 / 2 + of_rows**2 / 4)
    assert found.freedom == pytest.approx(freedom)
    spread = np.sqrt(of_seeds + of_rows)
    assert found.low == pytest.approx(0 - t.isf(0.05, freedom) * spread)
    assert power(MARGIN, 0.0, 0.01, 0.01, 3, independent=5) < power(MARGIN, 0.0, 0.01, 0.01, 3)


def test_few_groups_of_numbers_rarely_make_it_err() -> None:
    """Students worse by the margin in expectation: shown in about one of twenty."""
    generator, shown = np.random.default_rng(0), []
    groups = np.repeat(np.arange(4), 10)
    for _ in range(200):
        labels = generator.normal(size=40)
        shift = np.repeat(generator.normal(MARGIN, 0.01, size=4), 10)
        students = np.stack([labels + shift + 0.5, labels + shift + 0.5])
        found = non_inferiority(students, labels + 0.5, labels, "mae", MARGIN, groups)
        shown.append(found.shown)
    assert np.mean(shown) < 0.1


def test_numbers_without_any_spread() -> None:
    for difference, shown in ((-0.01, True), (-0.02, False), (-0.03, False)):
        found = judged([difference, difference], error=0.0, margin=MARGIN)
        assert (found.shown, found.p) == (shown, 0.0 if shown else 1.0)
        assert power(MARGIN, difference, sd=0.0, error=0.0, seeds=2) == float(shown)


def test_where_less_is_better_less_is_better() -> None:
    labels = np.linspace(0, 1, 200)
    teacher = labels + 0.1
    better, worse = (np.stack([labels + shift, labels + shift]) for shift in (0.05, 0.3))
    assert non_inferiority(better, teacher, labels, "mae", 0.02).shown
    found = non_inferiority(worse, teacher, labels, "mae", 0.02)
    assert found.difference == pytest.approx(-0.2)
    assert not found.shown


def test_groups_count_as_one_example() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=60)
    teacher = np.where(generator.random(60) < 0.8, labels, 1 - labels)
    students = np.stack([np.where(generator.random(60) < 0.8, labels, 1 - labels)] * 3)
    alone = non_inferiority(students, teacher, labels, "accuracy", 0.05)
    copied = [np.repeat(values, 10, axis=-1) for values in (students, teacher, labels)]
    groups = np.repeat(np.arange(60), 10)
    grouped = non_inferiority(*copied, "accuracy", 0.05, groups)
    assert grouped.difference == pytest.approx(alone.difference)
    assert grouped.low == pytest.approx(alone.low, abs=0.01)
    assert non_inferiority(*copied, "accuracy", 0.05).low > grouped.low + 0.05


def test_the_error_over_examples_is_that_of_a_mean() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(2, size=ROWS)
    teacher = np.where(generator.random(ROWS) < 0.9, labels, 1 - labels)
    students = np.where(generator.random((SEEDS, ROWS)) < 0.85, labels, 1 - labels)
    differences, error = row_error(students, teacher, labels, "accuracy")
    right = (students == labels).astype(float) - (teacher == labels)
    assert differences == pytest.approx(right.mean(1))
    assert error == pytest.approx(right.mean(0).std() / np.sqrt(ROWS), rel=0.06)
    both = multi_bootstrap(students, np.stack([teacher] * SEEDS), labels, "accuracy")
    assert both.difference == pytest.approx(differences.mean())


@pytest.mark.parametrize(
    ("labels", "score", "rows"),
    [
        ([0, 0, 0, 1], "accuracy", 4),
        ([0, 0, 0, 1], "f1", 1),
        ([0, 0, 0, 1, 1, 2], "f1_macro", 1),
        ([1, 1, 1, 0], "matthews", 1),
        ([0, 0], "f1", 1),  # none is positive
        ([[1, 0], [0, 0], [1, 1]], "f1_micro", 2),
        ([[1, 0], [0, 0], [1, 1]], "f1_macro", 2),
        ([[0, 0], [3, -100]], "entity_f1", 1),
        ([0.5, 1.5], "pearson", None),
    ],
)
def test_rows_on_which_a_score_rests(labels: list[object], score: str, rows: int | None) -> None:
    assert counting_rows(np.array(labels), score) == rows


def test_groups_on_which_a_score_rests() -> None:
    labels, groups = np.array([0, 1, 1, 1]), np.array([0, 1, 1, 2])
    assert counting_rows(labels, "accuracy", groups) == 3
    assert counting_rows(labels, "f1", groups) == 2


def test_rare_positives_do_not_make_it_err() -> None:
    recall, floor, shown = 0.95, 0.02, 0
    least = 2 * recall / (1 + recall) - floor  # F1 with no false alarm is 2r / (1 + r)
    lost = 1 - least / (2 - least) / recall
    for trial in range(60):
        generator = np.random.default_rng(trial)
        labels = (generator.random(400) < 0.05).astype(int)
        teacher = np.where(generator.random(400) < recall, labels, 0)
        student = np.where(generator.random(400) < lost, 0, teacher)  # all seeds fail alike
        shown += non_inferiority(np.stack([student] * 5), teacher, labels, "f1", floor).shown
    assert shown <= 6  # with the plain bootstrap it is half of them


def simulated(generator: np.random.Generator, below: float) -> tuple[np.ndarray, float]:
    """Seeds' differences and the error over rows; expected difference −below."""
    worse, better = (0.1 + below) / 2, (0.1 - below) / 2
    loses = generator.beta(worse, 1 - worse, ROWS)
    wins = generator.beta(better, 1 - better, ROWS)
    shift = generator.normal(0, 0.01, (SEEDS, 1))
    lost = generator.random((SEEDS, ROWS)) < loses * (1 + shift / worse)
    won = ~lost & (generator.random((SEEDS, ROWS)) < wins / np.maximum(1 - loses, 1e-9))
    each = won.astype(float) - lost
    return each.mean(1), float(each.mean(0).std() / np.sqrt(ROWS))


def test_it_errs_in_at_most_one_of_twenty_at_the_margin_and_keeps_its_promise() -> None:
    trials = 400
    shown: dict[float, float] = {}
    sd = error = 0.0
    for below in (MARGIN, 0.0):
        generator = np.random.default_rng(2)
        tries = [simulated(generator, below) for _ in range(trials)]
        shown[below] = float(np.mean([judged(*one, MARGIN, ROWS).shown for one in tries]))
        sd = float(np.mean([np.std(values, ddof=1) for values, _ in tries]))
        error = float(np.mean([of_rows for _, of_rows in tries]))
    uncertain = 3 * np.sqrt(0.05 * 0.95 / trials)
    assert shown[MARGIN] <= 0.05 + uncertain
    assert shown[MARGIN] >= 0.01  # it is no test that never shows anything
    told = power(MARGIN, 0.0, sd, error, SEEDS, ROWS)
    assert shown[0.0] == pytest.approx(told, abs=0.08)


def test_power_rises_with_rows_seeds_and_margin() -> None:
    def of(margin: float = 0.02, seeds: int = 5, error: float = 0.006) -> float:
        return power(margin, 0.0, sd=0.01, error=error, seeds=seeds)

    assert of(margin=0.01) < of() < of(margin=0.04)
    assert of(seeds=2) < of() < of(seeds=20)
    assert of(error=0.012) < of() < of(error=0.003)
    assert power(0.02, -0.02, sd=0.01, error=0.006, seeds=5) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"differences": [0.1]}, "at least 2"),
        ({"differences": [0.1, float("nan")]}, "NaN"),
        ({"margin": 0.0}, "margin of 0.0"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"differences": [0.0, 0.0], "error": 0.1, "margin": 0.01}
    with pytest.raises(ValueError, match=message):
        judged(**given | change)  # wrong on purpose


def test_shapes_that_do_not_fit_are_refused() -> None:
    ones = np.ones(4, dtype=int)
    with pytest.raises(ValueError, match=r"wanted \(seeds, examples\) and \(examples,\) twice"):
        row_error(ones, ones, ones, "accuracy")
    with pytest.raises(ValueError, match="seeds of 1"):
        power(0.01, 0.0, 0.01, 0.01, seeds=1)
