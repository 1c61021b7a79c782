"""Analyses the finished cells of a study: scores with intervals, verdicts, α.

It only reads files, so it can be used at any time, also while cells are running.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermix.errors import Note, StudyError
from layermix.evaluation.predictions import combine
from layermix.evaluation.statistics import (
    LEVEL,
    Bootstrap,
    holm,
    multi_bootstrap,
    single_run,
    smallest_p,
    stochastic_order,
    summarise,
)
from layermix.evaluation.verdicts import Comparison, Verdict, describe, judge
from layermix.evaluation.weighted_scores import WEIGHTED
from layermix.runs.schema import FORMAT, ScoresBySplit
from layermix.studies.baselines import read_baselines
from layermix.studies.cells import Arm, FinishedCells, gather
from layermix.studies.declarations import read_declarations
from layermix.studies.folder import Study
from layermix.studies.plan import Plan
from layermix.studies.schema import (
    AgreementRecord,
    AlphaRecord,
    ArmScores,
    BootstrapRecord,
    CellCounts,
    DescriptionRecord,
    OwnScore,
    Pair,
    Preliminary,
    PublishedScore,
    StudyRecord,
    TaskScores,
    VerdictRecord,
)

Arms = Mapping[str, Mapping[str, Arm]]
"""Task -> arm -> its finished cells."""

Array = NDArray[np.float64]

EARLY_STEPS = 300
"""Steps over which shares of the gradient are averaged; the paper calls them early."""


def analyse(plan: Plan, study: Study, cells: FinishedCells | None = None) -> StudyRecord:
    """Return the record of what the finished cells show.

    Args:
        plan: Says which cells belong to which task and arm.
        study: Folder of the study.
        cells: From `gather`, if they have been read already.
    """
    cells = cells or gather(plan, study)
    arms, notes = cells.arms, list(cells.notes)
    try:
        baselines = read_baselines(study)
    except StudyError as error:
        baselines = {}
        notes.append(Note("baselines-damaged", str(error)))
    judged = _comparisons(plan, arms, plan.judged, notes)
    verdicts = dict(
        zip(judged, judge(list(judged.values()), family=len(plan.judged)), strict=True)
        if judged
        else ()
    )
    preliminary = _preliminary(plan, verdicts)
    described = _comparisons(plan, arms, list(_undeclared_pairs(arms, judged)), notes)
    finished = sum(map(study.has, plan.runs))
    return StudyRecord(
        format=FORMAT,
        title=plan.study.title,
        report=plan.study.report,
        split=plan.study.split,
        cells=CellCounts(planned=len(plan.runs), finished=finished),
        tasks={
            task: TaskScores(
                metric=_metric(by_arm),
                teacher=_teacher_scores(by_arm),
                arms={name: _arm_scores(arm) for name, arm in by_arm.items()},
                baselines=_baseline_scores(baselines.get(task, {}), _metric(by_arm), plan),
            )
            for task, by_arm in arms.items()
        },
        alpha_between_tasks=_between_tasks(arms),
        family=tuple(
            _verdict_record(verdict, arms[pair[0]], preliminary[pair], plan.seeds_of_both(*pair))
            for pair, verdict in verdicts.items()
        ),
        not_yet=tuple(pair for pair in plan.judged if pair not in verdicts),
        descriptive=tuple(
            DescriptionRecord(
                task=task,
                first=first,
                second=second,
                differences=tuple(comparison.differences),
                sentence=describe(comparison),
            )
            for (task, first, second), comparison in described.items()
        ),
        published=tuple(_published(plan, arms)),
        notes=(*_notes(plan, study, cells), *dict.fromkeys(notes)),
    )


def _undeclared_pairs(arms: Arms, judged: Mapping[Pair, Comparison]) -> Iterator[Pair]:
    """Every arm against the first one of its task, except for judged pairs."""
    for task, by_arm in arms.items():
        baseline, *others = by_arm
        for arm in others:
            if (task, arm, baseline) not in judged and (task, baseline, arm) not in judged:
                yield task, arm, baseline


def _baseline_scores(
    by_name: Mapping[str, ScoresBySplit], metric: str, plan: Plan
) -> dict[str, float] | None:
    """The score of each baseline on the rows of the study; None if there is none."""
    scores = {name: one.score(metric, plan.study.split) for name, one in by_name.items()}
    return {name: score for name, score in scores.items() if score is not None} or None


def _metric(by_arm: Mapping[str, Arm]) -> str:
    return next(iter(by_arm.values())).metric


def _verdict_record(
    verdict: Verdict, by_arm: Mapping[str, Arm], preliminary: Preliminary | None, planned: int
) -> VerdictRecord:
    comparison, summary = verdict.comparison, verdict.summary
    bootstrap = comparison.bootstrap
    opening = _opening(preliminary, len(summary.values), planned)
    return VerdictRecord(
        task=comparison.name,
        first=comparison.first,
        second=comparison.second,
        differences=tuple(comparison.differences),
        mean=summary.mean,
        interval=(summary.low, summary.high),
        p=verdict.p,
        adjusted_p=verdict.adjusted_p,
        bootstrap=None if bootstrap is None else BootstrapRecord(**asdict(bootstrap)),
        stochastic_order=_order(by_arm[comparison.first], by_arm[comparison.second]),
        outcome=verdict.outcome,
        preliminary=preliminary,
        sentence=opening + verdict.sentence(),
    )


def _opening(preliminary: Preliminary | None, seeds: int, planned: int) -> str:
    """The first words of a verdict that may still change."""
    if preliminary == "seeds":
        return f"preliminary, after {seeds} of {planned} seeds: "
    return "preliminary, while others of its family are unfinished: " if preliminary else ""


def _preliminary(plan: Plan, verdicts: Mapping[Pair, Verdict]) -> dict[Pair, Preliminary | None]:
    """Why each verdict may still change, if it may.

    That is while some of its own seeds are missing, or while other comparisons of the family are
    unfinished and Holm would decide otherwise if they all showed nothing, or all they can.
    """
    planned = {pair: plan.seeds_of_both(*pair) for pair in plan.judged}
    complete = {
        pair for pair, verdict in verdicts.items() if len(verdict.summary.values) == planned[pair]
    }
    nothing = dict.fromkeys(plan.judged, 1.0)
    most = {pair: smallest_p(seeds) if seeds else 1.0 for pair, seeds in planned.items()}
    adjusted = []
    for unfinished in (nothing, most) if verdicts else ():
        raw = [verdicts[pair].p if pair in complete else unfinished[pair] for pair in plan.judged]
        adjusted.append(dict(zip(plan.judged, holm(raw), strict=True)))
    reasons: dict[Pair, Preliminary | None] = {}
    for pair in verdicts:
        decisions = {p_values[pair] <= LEVEL for p_values in adjusted}
        reasons[pair] = None
        if pair not in complete:
            reasons[pair] = "seeds"
        elif len(decisions) > 1:
            reasons[pair] = "family"
    return reasons


def _comparisons(
    plan: Plan, arms: Arms, pairs: Sequence[Pair], notes: list[Note]
) -> dict[Pair, Comparison]:
    """The paired differences of pairs of arms that have seeds in common."""
    comparisons = {}
    for task, first_name, second_name in pairs:
        by_arm = arms.get(task, {})
        if first_name not in by_arm or second_name not in by_arm:
            continue
        first, second = by_arm[first_name], by_arm[second_name]
        scores = first.scores(), second.scores()
        seeds = sorted(scores[0].keys() & scores[1].keys())
        if not seeds:
            continue
        differences = [first.sign * (scores[0][seed] - scores[1][seed]) for seed in seeds]
        bootstrap = None
        if len(seeds) > 1 and first.metric in WEIGHTED and first.split == "validation":
            bootstrap = _bootstrap(plan.study.report, first, second, seeds)
            if bootstrap is None:
                notes.append(
                    Note("different-rows", f"the cells of {task} were not scored on the same rows")
                )
        comparisons[task, first_name, second_name] = Comparison(
            task, first_name, second_name, differences, bootstrap=bootstrap
        )
    return comparisons


def _bootstrap(report: str, first: Arm, second: Arm, seeds: Sequence[int]) -> Bootstrap | None:
    """Over seeds and examples; None if the cells do not have the same rows and labels."""
    runs = [arm.cells[seed].predictions for arm in (first, second) for seed in seeds]
    predictions = combine(runs, report)
    if predictions is None:
        return None
    known = predictions.known
    ours, theirs = np.split(predictions.predicted[:, known], 2)
    better, other = (ours, theirs) if first.sign > 0 else (theirs, ours)
    labels, groups = predictions.labels[known], predictions.groups_of_known
    return multi_bootstrap(better, other, labels, first.metric, groups=groups)


def _order(first: Arm, second: Arm) -> float | None:
    """Almost stochastic order, a secondary result; None with fewer than two seeds."""
    ours, theirs = (
        [first.sign * score for score in arm.scores().values()] for arm in (first, second)
    )
    return stochastic_order(ours, theirs) if min(len(ours), len(theirs)) > 1 else None


def _arm_scores(arm: Arm) -> ArmScores:
    """Raw scores, mean and spread, scores by epoch, gain from picking the best epoch, and α."""
    scores = arm.scores()
    summary = summarise(list(scores.values()))
    teachers = arm.teacher_scores()
    all_known = teachers.keys() >= scores.keys()
    teacher = float(np.mean([teachers[seed] for seed in scores])) if all_known else 0.0
    best = arm.scores("best_on_dev") if arm.report == "last" else {}
    histories = [cell.history for cell in arm.cells.values()]
    return ArmScores(
        seeds=tuple(scores),
        **asdict(summary),
        of_teacher=summary.mean / teacher if teacher > 0 and arm.sign > 0 else None,
        agreement=_agreement(arm),
        best_on_dev=tuple(best.values()) or None,
        optimism=float(np.mean([best[seed] - scores[seed] for seed in best])) if best else None,
        by_epoch=_by_epoch(histories, f"eval_{arm.split}_{arm.metric}"),
        alpha=_alpha_record(arm) if arm.learns_alpha else None,
        gradient_shares=_mean_gradient_shares(histories),
    )


def _agreement(arm: Arm) -> AgreementRecord | None:
    shares = list(arm.scores(metric="agreement").values())
    if not shares:
        return None
    summary = summarise(shares)
    ends = {"low": summary.low, "high": summary.high}
    is_correlation = arm.first.form == "number" or None
    return AgreementRecord(mean=summary.mean, **ends, correlation=is_correlation)


def _by_epoch(histories: Sequence[Sequence[Mapping[str, Any]]], key: str) -> Any:
    """A score after each epoch, mean over seeds; None if seeds have different numbers of epochs."""
    by_seed = [[line[key] for line in lines if key in line] for lines in histories]
    return tuple(np.mean(by_seed, 0).tolist()) if len(set(map(len, by_seed))) == 1 else None


def _mean_gradient_shares(
    histories: Sequence[Sequence[Mapping[str, Any]]],
) -> dict[str, float] | None:
    """Part -> its share of the gradient, mean over seeds; None if not all of them measured it."""
    shares = [_gradient_shares(lines) for lines in histories]
    if not all(shares):
        return None
    return {part: float(np.mean([each[part] for each in shares])) for part in shares[0]}


def _gradient_shares(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Part -> norm of its gradient on the student over the sum of all, mean of the first steps.

    Empty if `training.gradients_every` measured none.
    """
    prefix = "gradient_"
    measured = [
        {key.removeprefix(prefix): line[key] for key in line if key.startswith(prefix)}
        for line in history
        if line.get("step", 0) <= EARLY_STEPS
    ]
    measured = [norms for norms in measured if sum(norms.values()) > 0]
    if not measured:
        return {}
    shares = [
        {part: norm / sum(norms.values()) for part, norm in norms.items()} for norms in measured
    ]
    return {part: float(np.mean([each[part] for each in shares])) for part in shares[0]}


def _alphas(arm: Arm) -> Array:
    """The final α of every seed, (seeds, K, L)."""
    return np.asarray([result.alpha for result in arm.results.values()], dtype=np.float64)


def _start(arm: Arm, final: Array) -> Array:
    """The α that an arm started from, (K, L); uniform if it is not on record."""
    mix = arm.first.mix
    start = None if mix is None else mix.start
    return np.full_like(final, 1 / final.shape[-1]) if start is None else np.asarray(start)


def _distance(first: Array, second: Array) -> Array:
    """Total variation between the rows of two α, (K,), from 0 to 1."""
    distance: Array = np.abs(first - second).sum(-1) / 2
    return distance


def _alpha_record(arm: Arm) -> AlphaRecord:
    """How far the learned α of an arm moved, and whether its seeds agree."""
    alphas = _alphas(arm)
    start = _start(arm, alphas[0])
    layers = alphas.shape[-1]
    moves = layers > 1
    farthest = 1 - start.min(-1)  # of each row, to the corner of its smallest weight
    logged = [
        (line["step"], line["learning_rate_mix"])
        for line in next(iter(arm.cells.values())).history
        if "learning_rate_mix" in line
    ]
    is_uniform = np.ptp(start) < 1e-6
    reachable_known = len(logged) >= LOGS_FOR_RATES and moves and is_uniform
    pairs = [float(_distance(a, b).mean()) for a, b in combinations(alphas, 2)]
    moved = (_distance(alphas, start) / farthest).mean(0).tolist() if moves else None
    return AlphaRecord(
        mean=alphas.mean(0).tolist(),
        moved=moved,
        reachable=_reachable(layers, logged) if reachable_known else None,
        between_seeds=float(np.mean(pairs)) if pairs else None,
    )


LOGS_FOR_RATES = 2
"""Logged learning rates that are needed to know their sum well enough."""


def _reachable(layers: int, logged: Sequence[tuple[int, float]]) -> float:
    """The share of the largest distance that Adam could have put between α and a uniform start.

    Each step moves a logit by about the learning rate: some logits of a row always up, the others
    always down. The result is for the number of rising logits with the largest distance.

    Args:
        layers: Number of teacher layers in the mix.
        logged: Steps and the learning rates of the mix there; in between it is linear.
    """
    steps, rates = (np.asarray(column, dtype=float) for column in zip(*logged, strict=True))
    path = float(np.trapezoid([rates[0], *rates], [0.0, *steps]))
    up = np.arange(1, layers)
    risen, fallen = up * np.exp(path), (layers - up) * np.exp(-path)
    distances = risen / (risen + fallen) - up / layers
    return float(distances.max() / (1 - 1 / layers))


def _between_tasks(arms: Arms) -> dict[str, float]:
    """Arm -> distance of the mean learned α of two tasks, on average over pairs of tasks.

    Compare it with the distance between two seeds of a task: an α that suits its task differs more
    between tasks than between seeds.
    """
    means: dict[str, list[Array]] = {}
    for by_arm in arms.values():
        for name, arm in by_arm.items():
            if arm.learns_alpha:
                means.setdefault(name, []).append(_alphas(arm).mean(0))
    return {
        name: float(np.mean([_distance(a, b).mean() for a, b in combinations(by_task, 2)]))
        for name, by_task in means.items()
        if len(by_task) > 1 and len({mean.shape for mean in by_task}) == 1
    }


def _published(plan: Plan, arms: Arms) -> Iterator[PublishedScore]:
    """Published scores beside ours, by the usual protocol (best epoch on dev) and the last epoch.

    A published score is one run, so it is compared with the interval of one run of ours.
    """
    for task, by_arm in plan.study.published.items():
        for name, scores in by_arm.items():
            arm = arms.get(task, {}).get(name)
            if arm is None:
                continue
            for metric, value in scores.items():
                yield PublishedScore(
                    task=task,
                    arm=name,
                    metric=metric,
                    published=value,
                    best_on_dev=_own_score(value, arm.scores("best_on_dev", metric)),
                    last=_own_score(value, arm.scores("last", metric)),
                )


def _own_score(published: float, scores: Mapping[int, float]) -> OwnScore | None:
    """None if no such epoch was reported."""
    if not scores:
        return None
    ours = list(scores.values())
    interval = single_run(ours)
    within = None if interval is None else interval[0] <= published <= interval[1]
    return OwnScore(mean=float(np.mean(ours)), single_run=interval, within=within)


def _teacher_scores(by_arm: Mapping[str, Arm]) -> tuple[float, ...]:
    """The score of every teacher that taught these arms, each once."""
    by_fingerprint = {
        arm.results[seed].teacher.fingerprint: score
        for arm in by_arm.values()
        for seed, score in arm.teacher_scores().items()
    }
    return tuple(by_fingerprint.values())


def _notes(plan: Plan, study: Study, cells: FinishedCells) -> list[Note]:
    """Notes that a reader needs before the tables."""
    notes = []
    finished = sum(map(study.has, plan.runs))
    if finished < len(plan.runs):
        notes.append(
            Note(
                "unfinished-cells",
                f"{finished} of {len(plan.runs)} cells are finished: what follows is preliminary",
            )
        )
    notes += _declaration_notes(plan, study)
    notes += _code_notes(cells)
    warnings = Counter(note for cell in cells for note in cell.result.warnings)
    notes += [
        Note("cells-warned", f"{count} of the cells warned: {warning}")
        for warning, count in warnings.items()
    ]
    for task, by_arm in cells.arms.items():
        notes += _mixture_notes(task, by_arm, per_seed=plan.study.teachers == "per_seed")
    return notes


def _declaration_notes(plan: Plan, study: Study) -> list[Note]:
    """A note if what is judged was declared or changed when results were known."""
    try:
        counts = [entry.finished_cells for entry in read_declarations(study)]
    except StudyError as error:
        return [Note("declaration-damaged", str(error))]
    late = [str(count) for count in counts if count]
    if not late or not plan.judged:
        return []
    return [
        Note(
            "declared-late",
            "the declared comparisons (pairs, seeds, settings, scores) were added or changed when "
            f"{' and '.join(late)} cells were finished, not beforehand; "
            f"{study.declared_file.name} keeps the earlier declarations",
        )
    ]


def _code_notes(cells: FinishedCells) -> list[Note]:
    """Notes if the cells were run by different code or versions of torch."""
    notes = []
    codes = sorted({cell.code for cell in cells})
    unknown = any(cell.has_unknown_code for cell in cells)
    if len(codes) > 1 or unknown:
        changed = " (+: changed since that commit, so not known)" if unknown else ""
        states = f"{len(codes)} states of the code: {', '.join(codes)}{changed}"
        notes.append(Note("several-codes", f"the cells were run by {states}"))
    versions = sorted({cell.environment.packages.get("torch", "unknown") for cell in cells})
    if len(versions) > 1:
        listed = f"{len(versions)} versions of torch: {', '.join(versions)}"
        notes.append(Note("several-torch-versions", f"the cells were run by {listed}"))
    return notes


def _mixture_notes(task: str, by_arm: Mapping[str, Arm], per_seed: bool) -> list[Note]:
    """Notes if the cells of a task differ in what should be the same for all of them."""
    results = [result for arm in by_arm.values() for result in arm.results.values()]
    different = {
        "data": ("data", {result.data.fingerprint for result in results}),
        "precisions": ("precisions", {result.precision for result in results}),
        "signals": ("kinds of teacher signals", {result.signals for result in results} - {None}),
    }
    if not per_seed:
        different["teachers"] = ("teachers", {result.teacher.fingerprint for result in results})
    return [
        Note(f"several-{code}", f"the cells of {task} had {len(values)} different {name}")
        for code, (name, values) in different.items()
        if len(values) > 1
    ]
