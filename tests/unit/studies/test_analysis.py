"""Findings from filed cells: scores, pairs, verdicts, α, and what a reader must be told."""

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy.stats import t

from layermix.evaluation.statistics import multi_bootstrap, sign_flip
from layermix.evaluation.verdicts import Comparison, judge
from layermix.runs.layout import HISTORY
from layermix.studies import analysis
from layermix.studies.analysis import analyse
from layermix.studies.declarations import declare, read_declarations
from layermix.studies.folder import Study
from layermix.studies.plan import Plan
from layermix.studies.scheduler import Scheduler
from layermix.studies.schema import AlphaRecord, OwnScore, PlanRecord, StudyRecord
from layermix.studies.text import plan_text, study_text, write

from ...study_folders import ROWS, SEEDS, fill, make, right


def notes_of(record: StudyRecord) -> list[str]:
    return [note.text for note in record.notes]


@pytest.fixture
def plan() -> Plan:
    return make(family=[["learned", "fixed"]])


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "study")


def test_scores_pairs_and_the_verdict(plan: Plan, study: Study) -> None:
    declare(plan, study)
    fill(plan, study)
    found = analyse(plan, study)
    assert notes_of(found) == []
    arms = found.tasks["mrpc"].arms
    assert found.tasks["mrpc"].teacher == (0.9,)
    expected = [right(cell) / ROWS for cell in plan.table["mrpc"]["fixed"].values()]
    assert arms["fixed"].values == tuple(expected)
    assert arms["fixed"].sd == pytest.approx(np.std(expected, ddof=1))
    assert arms["fixed"].optimism == pytest.approx(1 - np.mean(expected))
    (judged,) = found.family
    assert judged.differences == pytest.approx((0.01,) * SEEDS)
    assert judged.p == 2 / 2**SEEDS
    assert judged.outcome == "better"
    assert judged.stochastic_order < 0.5
    described = [(one.first, one.second) for one in found.descriptive]
    assert described == [("uniform", "fixed")]  # the pair of the family is not told twice
    assert "1.0" in judged.sentence


def test_agreement_and_the_share_of_the_teacher_have_intervals(plan: Plan, study: Study) -> None:
    fill(plan, study)
    assert analyse(plan, study).tasks["mrpc"].arms["fixed"].agreement is None
    shares = [0.8, 0.9, *[0.85] * (SEEDS - 2)]
    for cell, share in zip(plan.table["mrpc"]["fixed"].values(), shares, strict=True):
        file = study.filed(cell.name) / "result.json"
        record = json.loads(file.read_text(encoding="utf-8"))
        record["metrics"]["last"]["validation"]["agreement"] = share
        file.write_text(json.dumps(record), encoding="utf-8")
    record = analyse(plan, study)
    arm = record.tasks["mrpc"].arms["fixed"]
    assert arm.agreement is not None
    assert arm.agreement.mean == pytest.approx(0.85)
    half = t.ppf(0.975, SEEDS - 1) * np.std(shares, ddof=1) / SEEDS**0.5
    assert (arm.agreement.low, arm.agreement.high) == pytest.approx((0.85 - half, 0.85 + half))
    assert f"85.0% ({100 * (0.85 - half):.1f} to {100 * (0.85 + half):.1f})" in study_text(record)
    assert arm.low is not None
    assert arm.high is not None
    kept = f"{arm.mean / 0.9:.1%} ({100 * arm.low / 0.9:.1f} to {100 * arm.high / 0.9:.1f})"
    assert kept in study_text(record)


def test_the_bootstrap_is_that_of_the_stored_predictions(plan: Plan, study: Study) -> None:
    fill(plan, study)
    labels = np.arange(ROWS) % 2
    both = [
        np.stack(
            [np.where(np.arange(ROWS) < right(cell), labels, 1 - labels) for cell in cells.values()]
        )
        for cells in (plan.table["mrpc"]["learned"], plan.table["mrpc"]["fixed"])
    ]
    expected = multi_bootstrap(both[0], both[1], labels, "accuracy")
    (judged,) = analyse(plan, study).family
    assert judged.bootstrap.difference == pytest.approx(expected.difference)
    assert judged.bootstrap.low == expected.low
    assert judged.bootstrap.p == expected.p


def test_alpha_says_how_far_it_moved_and_whether_seeds_agree(plan: Plan, study: Study) -> None:
    fill(plan, study, lambda cell: cell.seed < 2)
    record = analyse(plan, study).tasks["mrpc"].arms
    alpha = record["learned"].alpha
    assert alpha.mean == ((0.9, pytest.approx(0.1)), (0.5, 0.5))
    assert alpha.moved == (pytest.approx(0.8), 0)
    assert alpha.between_seeds == pytest.approx(0.1)  # (0.2 + 0) / 2
    # 50 · 0.01 + 50 · (0.01 + 0.02) / 2 = 1.25: one logit up by it, the other down
    assert alpha.reachable == pytest.approx(2 / (1 + np.exp(-2.5)) - 1)
    assert record["fixed"].alpha is None
    shown = study_text(analyse(plan, study))
    assert "layer 0: 0.90 0.10 (moved 80%); layer 1: 0.50 0.50 (moved 0%). It could" in shown
    assert record["fixed"].by_epoch == (record["fixed"].mean,) * 2
    mean = record["fixed"].mean
    assert f"- fixed: {mean:.4f} {mean:.4f}" in shown


@pytest.mark.parametrize(
    ("layers", "way", "most"), [(3, 0.577, 0.42), (4, 0.2, 0.132), (12, 0.2, 0.108)]
)
def test_how_far_alpha_could_have_moved_is_the_farthest(
    layers: int, way: float, most: float
) -> None:
    """Found by trying every pattern of logits up and down."""
    patterns = np.array(list(itertools.product([-way, way], repeat=layers)))
    weights = np.exp(patterns) / np.exp(patterns).sum(-1, keepdims=True)
    farthest = np.abs(weights - 1 / layers).sum(-1).max() / 2 / (1 - 1 / layers)
    found = analysis._reachable(layers, [(50, way / 100), (100, way / 100)])
    assert found == pytest.approx(farthest)
    assert found == pytest.approx(most, abs=0.01)


def test_alpha_moves_from_where_it_started(plan: Plan, study: Study) -> None:
    mix = {"strategy": "learned", "student_layers": [0, 1], "teacher_layers": [1, 3]}
    start = [[0.9, 0.1], [0.1, 0.9]]
    ended = [[0.9, 0.1], [0.55, 0.45]]
    fill(plan, study, lambda cell: cell.seed == 0, mix=mix | {"start": start}, alpha=ended)
    alpha = analyse(plan, study).tasks["mrpc"].arms["learned"].alpha
    assert alpha.moved == pytest.approx((0, 0.45 / 0.9))
    assert alpha.reachable is None


def test_shares_of_the_gradient_are_those_of_the_first_steps(plan: Plan, study: Study) -> None:
    norms = [(10, 3.0, 1.0), (300, 1.0, 1.0), (310, 0.0, 9.0)]
    history = [
        {"step": step, "gradient_supervised": one, "gradient_hidden": other}
        for step, one, other in norms
    ]
    fill(
        plan, study, lambda cell: cell.arm != "fixed", history=[*history, {"step": 400, "epoch": 1}]
    )
    fill(plan, study, lambda cell: cell.arm == "fixed")
    arms = analyse(plan, study).tasks["mrpc"].arms
    assert arms["uniform"].gradient_shares == {"supervised": 0.625, "hidden": 0.375}
    assert arms["fixed"].gradient_shares is None
    shown = study_text(analyse(plan, study))
    assert "first 300 steps:\n\n- uniform: supervised 62%, hidden 38%\n- learned" in shown


def test_alpha_of_one_layer_cannot_move(plan: Plan, study: Study) -> None:
    fill(plan, study, lambda cell: cell.seed == 0, alpha=[[1.0], [1.0]], history=[{"step": 1}])
    alpha = analyse(plan, study).tasks["mrpc"].arms["learned"].alpha
    assert alpha == AlphaRecord(mean=((1,), (1,)))
    assert "layer 0: 1.00; layer 1: 1.00." in study_text(analyse(plan, study))


def test_alpha_of_two_tasks_is_compared(study: Study) -> None:
    plan = make(tasks={"a": {}, "b": {"data": "E"}, "c": {"data": "F", "arms": ["fixed"]}})
    fill(plan, study, lambda cell: cell.task != "b", alpha=[[0.5, 0.5], [0.5, 0.5]])
    fill(plan, study, lambda cell: cell.task == "b", alpha=[[0.9, 0.1], [0.5, 0.5]])
    found = analyse(plan, study)
    assert found.alpha_between_tasks == {"learned": pytest.approx(0.2)}
    assert "α of learned: the means of two tasks are 0.200 apart." in study_text(found)


def test_only_seeds_that_both_arms_have_are_compared(plan: Plan, study: Study) -> None:
    fill(plan, study, lambda cell: cell.seed < (5 if cell.arm == "learned" else 3))
    found = analyse(plan, study)
    (judged,) = found.family
    assert len(judged.differences) == 3
    assert judged.outcome == "not attainable"
    assert found.tasks["mrpc"].arms["learned"].seeds == (0, 1, 2, 3, 4)
    assert notes_of(found) == ["11 of 24 cells are finished: what follows is preliminary"]
    fill(plan, study, lambda cell: cell.seed > 5)


def test_arms_without_a_common_seed_or_without_cells_are_not_compared(
    plan: Plan, study: Study
) -> None:
    fill(plan, study, lambda cell: (cell.arm, cell.seed) in (("learned", 1), ("fixed", 0)))
    found = analyse(plan, study)
    assert found.family == ()
    assert found.descriptive == ()
    assert found.tasks["mrpc"].arms["fixed"].low is None
    assert "| fixed | 1 | 0.7500 | – |" in study_text(found)
    assert analyse(plan, Study(study.folder / "empty")).tasks == {}


def test_a_family_changed_afterwards_is_told(plan: Plan, study: Study) -> None:
    declare(plan, study)
    declare(plan, study)
    other = make(family=[["uniform", "fixed"]])
    declare(other, study)
    assert "changed" not in str(notes_of(analyse(other, study)))  # nothing had been seen
    fill(plan, study)
    declare(plan, study)
    assert "changed when 24 cells were finished" in notes_of(analyse(plan, study))[0]
    assert len(read_declarations(study)) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": SEEDS + 1},
        {"report": "best_on_dev"},
        {"arms": {"fixed": {"mix": "fixed"}, "learned": {"mix": {"learning_rate": 0.1}}}},
        {"base": {"teacher": "T", "data": "D", "training": {"epochs": 2}}},  # no cell is left
    ],
    ids=str,
)
def test_seeds_settings_or_scores_changed_afterwards_are_told(
    plan: Plan, study: Study, changes: dict[str, Any]
) -> None:
    declare(plan, study)
    fill(plan, study)
    other = make(family=[["learned", "fixed"]], **changes)
    declare(other, study)
    assert "changed when " in str(notes_of(analyse(other, study)))


def test_a_first_declaration_after_the_runs_is_told(plan: Plan, study: Study) -> None:
    fill(plan, study)
    declare(plan, study)
    assert "when 24 cells were finished, not beforehand" in notes_of(analyse(plan, study))[0]


def test_the_plan_that_was_written_down_finds_the_same(study: Study) -> None:
    published = {"mrpc": {"fixed": {"accuracy": 0.7}}}
    plan = make(family=[["learned", "fixed"]], published=published)
    declare(plan, study)
    fill(plan, study)
    read = PlanRecord.from_json(study.plan_file.read_text("utf-8")).plan()
    assert analyse(read, study) == analyse(plan, study)


def test_a_pair_without_a_seed_of_both_is_no_crash(study: Study) -> None:
    """A study of an older version may have one; it is not read through `load_study`."""
    apart = {"fixed": {"mix": "fixed", "seeds": [1]}, "learned": {"mix": "learned", "seeds": [2]}}
    plan = make(arms=apart, family=[["learned", "fixed"]])
    fill(plan, study)
    assert "no seed of both is finished yet" in study_text(analyse(plan, study))


def test_a_verdict_waits_for_the_others_where_holm_does() -> None:
    plan = make(seeds=10, family=[["learned", "fixed"], ["learned", "uniform"]])
    rising = [0.001 * number for number in range(1, 11)]

    def told(first: list[float], second: list[float]) -> list[str]:
        both = [("fixed", first), ("uniform", second)]
        found = [Comparison("mrpc", "learned", arm, differences) for arm, differences in both]
        verdicts = dict(zip(plan.judged, judge(found), strict=True))
        return [
            analysis._opening(why, len(verdicts[pair].summary.values), 10)
            for pair, why in analysis._preliminary(plan, verdicts).items()
        ]

    clear, close = rising, [-0.003, -0.005, *rising[2:]]
    assert 0.05 / 2 < sign_flip(close) <= 0.05
    few = [0.001, 0.002]
    waiting = "preliminary, while others of its family are unfinished: "
    assert told(close, few) == [waiting, "preliminary, after 2 of 10 seeds: "]
    assert told(clear, few) == ["", "preliminary, after 2 of 10 seeds: "]
    assert told(close, clear) == ["", ""]


def test_what_is_not_finished_counts_in_the_family(study: Study) -> None:
    plan = make(family=[["learned", "fixed"], ["learned", "uniform"]])
    fill(plan, study, lambda cell: cell.arm != "uniform" and cell.seed < 6)
    found = analyse(plan, study)
    (judged,) = found.family
    assert judged.adjusted_p == 2 * 2 / 2**6
    assert judged.sentence.startswith("preliminary, after 6 of 8 seeds: no verdict is possible")
    assert "- learned against uniform on mrpc: no seed of both is finished yet." in study_text(
        found
    )
    fill(plan, study)
    assert not any("preliminary" in one.sentence for one in analyse(plan, study).family)


@pytest.mark.parametrize("column", ["label", "row_id"])
def test_cells_with_other_rows_or_labels_have_no_bootstrap(
    plan: Plan, study: Study, column: str
) -> None:
    fill(plan, study)
    file = study.filed(plan.table["mrpc"]["fixed"][3].name) / "predictions.parquet"
    table = pq.read_table(file)
    changed = pa.array([1 - v if column == "label" else v + 1 for v in table[column].to_pylist()])
    pq.write_table(table.set_column(table.column_names.index(column), column, changed), file)
    found = analyse(plan, study)
    assert found.family[0].bootstrap is None
    assert notes_of(found) == ["the cells of mrpc were not scored on the same rows"]


@pytest.mark.parametrize(
    "name", ["result.json", "environment.json", "history.jsonl", "predictions.parquet"]
)
def test_a_damaged_cell_is_left_out_and_named(plan: Plan, study: Study, name: str) -> None:
    fill(plan, study)
    cell = plan.table["mrpc"]["learned"][2]
    file = study.filed(cell.name) / name
    file.write_bytes(b"{" + file.read_bytes()[:20])
    found = analyse(plan, study)
    assert found.tasks["mrpc"].arms["learned"].seeds == (0, 1, 3, 4, 5, 6, 7)
    assert len(notes_of(found)) == 1
    assert "mrpc, learned, seed 2 is damaged and left out" in notes_of(found)[0]
    assert str(study.filed(cell.name)) in notes_of(found)[0]
    file.unlink()
    assert not study.has(cell.name)  # so it is run again


def test_cells_of_unlike_making_are_told(plan: Plan, study: Study) -> None:
    fill(plan, study)
    other = {"precision": "bfloat16", "commit": "def+", "data": {"fingerprint": "other"}}
    fill(plan, study, lambda cell: cell.seed == 0, **other)
    assert notes_of(analyse(plan, study)) == [
        "the cells were run by 2 states of the code: abc, def+ (+: changed since that commit, so "
        "not known)",
        "the cells of mrpc had 2 different data",
        "the cells of mrpc had 2 different precisions",
    ]
    for teachers, told in (("one", True), ("per_seed", False)):
        plan = make(teachers=teachers)
        fill(plan, study)
        score = {"validation": {"accuracy": 0.7}}
        other = {"fingerprint": "u", "metrics": score}
        fill(plan, study, lambda cell: cell.seed == 1, teacher=other)
        found = analyse(plan, study)
        assert ("the cells of mrpc had 2 different teachers" in notes_of(found)) == told
        assert sorted(found.tasks["mrpc"].teacher) == [0.7, 0.9]
        assert "0.8000 (mean of 2)" in study_text(found)


def test_cells_of_other_versions_are_told_where_there_is_no_commit(
    plan: Plan, study: Study
) -> None:
    fill(plan, study, commit=None, packages={"layermix": "0.1.0", "torch": "2.9"})
    assert notes_of(analyse(plan, study)) == []
    newer = {"layermix": "0.2.0", "torch": "2.10"}
    fill(plan, study, lambda cell: cell.seed > 3, commit=None, packages=newer)
    assert notes_of(analyse(plan, study)) == [
        "the cells were run by 2 states of the code: version 0.1.0, version 0.2.0",
        "the cells were run by 2 versions of torch: 2.10, 2.9",
    ]


def test_what_cells_warned_of_is_told(plan: Plan, study: Study) -> None:
    fill(plan, study)
    fill(plan, study, lambda cell: cell.seed < 2, warnings=["it answers 'no' on every row"])
    assert notes_of(analyse(plan, study)) == ["6 of the cells warned: it answers 'no' on every row"]


def test_tasks_and_arms_stand_in_the_order_of_the_file_whatever_their_seeds(study: Study) -> None:
    arms = {"fixed": {"mix": "fixed", "seeds": [10, 11]}, "learned": {"mix": "learned"}}
    plan = make(arms=arms, seeds=[10, 11, 3])
    assert [cell.arm for cell in plan.cells][:2] == ["learned", "fixed"]
    assert list(plan.table["mrpc"]) == ["fixed", "learned"]
    fill(plan, study)
    (described,) = analyse(plan, study).descriptive
    assert (described.first, described.second) == ("learned", "fixed")


def test_without_cells_of_the_first_arm_the_next_one_is_compared_with(study: Study) -> None:
    plan = make()
    fill(plan, study, lambda cell: cell.arm != "fixed")
    (described,) = analyse(plan, study).descriptive
    assert (described.first, described.second) == ("learned", "uniform")


def test_a_recipe_is_chosen_on_the_rows_held_out(study: Study) -> None:
    plan = make(split="holdout", family=[["learned", "fixed"]])
    fill(plan, study)
    found = analyse(plan, study)
    assert found.tasks["mrpc"].arms["learned"].mean == 0.5
    assert found.tasks["mrpc"].teacher == (0.8,)
    assert found.family[0].bootstrap is None  # predictions are kept of validation only
    assert "accuracy on holdout" in study_text(found)


def test_a_score_whose_low_is_good_is_turned_about(study: Study) -> None:
    plan = make(family=[["learned", "fixed"]])
    losses = {name: {"epoch": 1, "validation": {"nll": 0.5}} for name in ("last", "best_on_dev")}
    taught = {"fingerprint": "t", "metrics": {"validation": {"nll": 0.1}}}
    fill(plan, study, metric="nll", metrics=losses, teacher=taught)
    better = {name: {"epoch": 1, "validation": {"nll": 0.25}} for name in losses}
    fill(plan, study, lambda c: c.arm == "learned", metric="nll", metrics=better, teacher=taught)
    (judged,) = analyse(plan, study).family
    assert judged.differences == (0.25,) * SEEDS
    assert judged.outcome == "better"
    assert judged.bootstrap is None


def test_published_scores_stand_beside_ours(study: Study) -> None:
    scores = {"fixed": {"accuracy": 0.77}, "learned": {"accuracy": 0.5}, "uniform": {"accuracy": 1}}
    plan = make(published={"mrpc": scores})
    fill(plan, study, lambda cell: cell.arm != "uniform")
    one, two = analyse(plan, study).published  # nothing of uniform is finished
    assert one.last.within
    assert one.last.mean == pytest.approx(
        np.mean([right(c) for c in plan.cells if c.arm == "fixed"]) / ROWS
    )
    assert one.best_on_dev == OwnScore(mean=1)
    assert not two.last.within
    shown = study_text(analyse(plan, study))
    assert "| 0.7700 | 1.0000 (one seed, or all equal: no interval) |" in shown
    assert "]: published is within |" in shown
    few = Study(study.folder / "few")
    fill(plan, few, lambda cell: cell.seed == 0)
    assert "(one seed, or all equal: no interval)" in study_text(analyse(plan, few))
    fill(plan, study, metrics={"last": {"epoch": 1, "validation": {"accuracy": 0.7}}})
    assert analyse(plan, study).published[0].best_on_dev is None
    assert "| – |" in study_text(analyse(plan, study))


def test_results_are_written_beside_the_cells(plan: Plan, study: Study) -> None:
    fill(plan, study)
    found = analyse(plan, study)
    write(found, study)
    assert StudyRecord.from_json((study.folder / "results.json").read_text()) == found
    assert (study.folder / "results.md").read_text() == study_text(found)


def test_a_plan_says_what_its_seeds_can_show(plan: Plan, study: Study) -> None:
    assert plan_text(plan, None).splitlines() == [
        "small: 24 runs, teachers to make: 0",
        "  mrpc: fixed × 8, uniform × 8, learned × 8",
        "  judged: learned against fixed on mrpc, 8 seeds: smallest p after Holm 0.0078, so a "
        "verdict is possible",
    ]
    few = make(seeds=3, family=[["learned", "fixed"]])
    assert "smallest p after Holm 0.25, so no verdict is possible" in plan_text(few, None)
    both = [["learned", "fixed"], ["learned", "uniform"]]
    two = plan_text(make(seeds=6, family=both), None)
    assert two.count("smallest p after Holm 0.062, so no verdict is possible") == 2
    more = {"fixed": {"mix": "fixed"}, "uniform": {"mix": "uniform", "seeds": 6}}
    more["learned"] = {"mix": "learned"}
    mixed = plan_text(make(arms=more, seeds=8, family=both), None)
    assert "8 seeds: smallest p after Holm 0.016, so a verdict is possible\n" in mixed
    assert (
        "6 seeds: smallest p after Holm 0.062, so a verdict is possible only after others of the "
        "family are decided" in mixed
    )
    apart = {"fixed": {"mix": "fixed", "seeds": [1]}, "learned": {"mix": "learned", "seeds": [2]}}
    assert "0 seeds: smallest p after Holm 1," in plan_text(
        make(arms=apart, family=[["learned", "fixed"]]), study
    )
    assert "none declared, so no comparison will get a verdict" in plan_text(make(), study)
    fill(plan, study, lambda cell: cell.seed == 0)
    assert plan_text(plan, study).endswith("finished runs: 3 (60 s each on average), left: 21")
    broken = study.filed(plan.table["mrpc"]["fixed"][0].name) / "result.json"
    broken.write_text("{")
    assert "finished runs: 3 (60 s each" in plan_text(plan, study)
    for cell in plan.runs:
        if study.has(cell):
            (study.filed(cell) / "result.json").write_text("{")
    assert plan_text(plan, study).endswith("\nfinished runs: 3, left: 21")
    screen = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    scheduler = Scheduler(plan, study, 1, screen, done=set(plan.runs))
    assert scheduler._state(plan.table["mrpc"]["fixed"][0]) == "damaged"


def test_the_live_table_shows_arms_by_seeds(plan: Plan, study: Study) -> None:
    fill(plan, study)
    screen = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    Scheduler(plan, study, 1, screen).run()  # nothing is left to do
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    assert "small: 24 of 24" in shown
    scores = "  ".join(f"{right(c) / ROWS:.3f}"[1:] for c in plan.table["mrpc"]["learned"].values())
    assert scores in shown


def test_without_a_live_table_the_time_left_is_told_once_from_the_first_steps(
    plan: Plan, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Console(file=io.StringIO(), width=120)
    scheduler = Scheduler(plan, study, 2, screen)
    cell = next(iter(plan.runs.values()))
    scheduler.begun_before = {cell.name}
    scheduler._show_first_estimate()
    clock = [0.0]
    monkeypatch.setattr("layermix.studies.scheduler.time.monotonic", lambda: clock[0])
    scheduler.began[cell.name] = 0.0, 0.0
    history = study.work(cell).with_name(f"{cell.name}.partial") / HISTORY
    history.parent.mkdir(parents=True)
    epochs = int(cell.content["training"]["epochs"])
    assert isinstance(screen.file, io.StringIO)
    for clock[0], share in ((90.0, 0.25), (95.0, 0.25), (150.0, 0.5)):
        assert not screen.file.getvalue()
        history.write_text(json.dumps({"step": 1, "epoch": epochs * share}) + "\n")
        scheduler._show_first_estimate()
        scheduler._show_first_estimate()
    # A quarter takes a minute, and half a minute went before the first step: 4.5 minutes a cell.
    # 23.5 of them are left, for two processes.
    scheduler.under_way[cell.name] = clock[0], 0.9  # of a run that then began anew
    assert not scheduler._estimate()
    clock[0] += 60
    history.write_text(json.dumps({"step": 1, "epoch": epochs * 0.75}) + "\n")
    assert scheduler._estimate() == "about 52 min left"
    assert screen.file.getvalue() == "estimated from the first steps: about 53 min left\n"


def test_baselines_stand_beside_the_teacher(plan: Plan, study: Study) -> None:
    fill(plan, study)
    assert all(scores.baselines is None for scores in analyse(plan, study).tasks.values())
    task = next(iter(plan.table))
    scores = {"TF-IDF": {"validation": {"accuracy": 0.6125, "rows": 8}, "test": {"accuracy": 1}}}
    study.baselines_file.write_text(json.dumps({"format": 0, "tasks": {task: scores}}))
    record = analyse(plan, study)
    assert record.tasks[task].baselines == {"TF-IDF": 0.6125}
    assert "; TF-IDF 0.6125." in study_text(record)
    study.baselines_file.write_text("{")
    record = analyse(plan, study)
    assert record.tasks[task].baselines is None
    (note,) = (note for note in record.notes if note.code == "baselines-damaged")
    assert note.text.endswith("remove it, and --baselines makes it again")
