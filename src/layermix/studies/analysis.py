"""What the finished cells of a study show: scores with intervals, verdicts, α.

Reads files only, so it can be asked at any time, also while cells still run.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from layermix.atomic import write_text
from layermix.errors import StudyError
from layermix.evaluation.metrics import HIGHER_IS_BETTER
from layermix.evaluation.predictions import Rows, combine, read_rows
from layermix.evaluation.statistics import (
    LEVEL,
    Score,
    holm,
    multi_bootstrap,
    single_run,
    smallest_p,
    stochastic_order,
    summarise,
)
from layermix.evaluation.verdicts import Comparison, Verdict, describe, judge
from layermix.runs.layout import ENVIRONMENT, HISTORY, PREDICTIONS
from layermix.runs.schema import EnvironmentRecord, RunRecord
from layermix.studies.folder import Study
from layermix.studies.plan import Cell, Plan

Pair = tuple[str, str, str]
"""Task, first arm, second arm."""

EARLY_STEPS = 300
"""What the paper calls early: up to here the shares of the gradient are averaged."""


@dataclass(frozen=True)
class Filed:
    """What a finished cell left, read once.

    Attributes:
        cell: Which one.
        result: result.json.
        history: Lines of history.jsonl.
        environment: environment.json.
        answers: Reported epoch -> answers on the validation rows.
    """

    cell: Cell
    result: RunRecord
    history: Sequence[Mapping[str, Any]]
    environment: EnvironmentRecord
    answers: Mapping[str, Rows]

    @property
    def code(self) -> str:
        """The state of the code that ran it: a commit, `+` if it was changed, or a version."""
        if commit := self.environment.commit:
            return commit.removesuffix("+")[:8] + "+" * commit.endswith("+")
        return f"version {self.packages.get('layermix', 'unknown')}"

    @property
    def packages(self) -> Mapping[str, str]:
        """Name -> version of what it ran with."""
        return self.environment.packages


@dataclass(frozen=True)
class Arm:
    """The finished cells of one arm on one task.

    Attributes:
        filed: By seed.
        report: The epoch whose scores are compared.
        split: The rows.
    """

    filed: Mapping[int, Filed]
    report: str
    split: str

    @property
    def results(self) -> dict[int, RunRecord]:
        """Seed -> result.json."""
        return {seed: one.result for seed, one in self.filed.items()}

    @property
    def metric(self) -> str:
        """The task's primary score."""
        return next(iter(self.results.values())).metric

    def taught(self) -> dict[int, float]:
        """Seed -> score of its teacher."""
        return {
            seed: score
            for seed, result in self.results.items()
            if (score := result.teacher.score(self.metric, self.split)) is not None
        }

    def scores(self, report: str | None = None, metric: str | None = None) -> dict[int, float]:
        """Seed -> score at a reported epoch, the primary one if not told otherwise."""
        wanted = report or self.report
        return {
            seed: score
            for seed, result in self.results.items()
            if wanted in result.metrics.epochs
            if (score := result.metrics.epochs[wanted].score(metric or self.metric, self.split))
            is not None
        }


@dataclass(frozen=True)
class Evidence:
    """All finished cells of a study.

    Attributes:
        arms: Task -> arm -> its cells; arms and tasks without any are left out.
        damaged: What is told of cells that cannot be read.
    """

    arms: Mapping[str, Mapping[str, Arm]]
    damaged: Sequence[str]


def declare(plan: Plan, study: Study) -> None:
    """Write down the plan, and what will be judged, before cells run; a later change is kept.

    What is judged is the pairs, the cells of both arms (so their seeds and settings), and the
    scores that are compared.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    write_text(plan_file(study), json.dumps(plan.record(), indent=1, ensure_ascii=False) + "\n")
    judged = {
        "report": plan.study.report,
        "split": plan.study.split,
        "pairs": [
            {
                "task": task,
                "arms": [first, second],
                "cells": [
                    cell.name for arm in (first, second) for cell in plan.table[task][arm].values()
                ],
            }
            for task, first, second in plan.judged
        ],
    }
    before = _declarations(study)
    if before and before[-1]["judged"] == judged:
        return
    earlier = before[-1]["judged"]["pairs"] if before else []
    known = {*plan.runs, *(name for pair in earlier for name in pair["cells"])}
    finished = sum(map(study.has, known))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"written": now, "finished_cells": finished, "judged": judged}
    text = json.dumps([*before, entry], indent=2, ensure_ascii=False) + "\n"
    write_text(declared_file(study), text)


def declared_file(study: Study) -> Path:
    """What was declared, and when."""
    return study.folder / f"{study.name}.declared.json"


def plan_file(study: Study) -> Path:
    """The plan as it was run, for whoever reads the folder without the study's own file."""
    return study.folder / f"{study.name}.plan.json"


def results_file(study: Study) -> Path:
    """What the cells show, as JSON; the text stands beside it, as Markdown."""
    return study.folder / f"{study.name}.json"


def _declarations(study: Study) -> list[dict[str, Any]]:
    file = declared_file(study)
    if not file.is_file():
        return []
    try:
        found: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))
        for one in found:
            one["finished_cells"], [pair["cells"] for pair in one["judged"]["pairs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{file} is damaged ({str(error)[:100]}): it says what was declared beforehand, so "
            "put a whole copy there, or remove it to declare anew"
        ) from None
    return found


def find(plan: Plan, study: Study, evidence: Evidence | None = None) -> dict[str, Any]:
    """All that the finished cells show; what results.json holds.

    Args:
        plan: Says which cells belong to which task and arm.
        study: Where they are filed.
        evidence: From `gather`, if the cells have been read already.
    """
    evidence = evidence or gather(plan, study)
    arms, notes = evidence.arms, list(evidence.damaged)
    higher = {
        task: HIGHER_IS_BETTER[next(iter(found.values())).metric] for task, found in arms.items()
    }
    judged = _comparisons(plan, arms, higher, plan.judged, notes)
    family = len(plan.judged)
    verdicts = {
        (verdict.comparison.name, verdict.comparison.first, verdict.comparison.second): verdict
        for verdict in (judge(list(judged.values()), family=family) if judged else [])
    }
    open_to = _open_verdicts(plan, verdicts)
    baselines = {task: next(iter(found)) for task, found in arms.items()}
    others = [
        (task, arm, baseline)
        for task, found in arms.items()
        for arm, baseline in ((arm, baselines[task]) for arm in found)
        if arm != baseline
        if (task, arm, baseline) not in judged and (task, baseline, arm) not in judged
    ]
    described = _comparisons(plan, arms, higher, others, notes)
    return {
        "title": plan.study.title,
        "report": plan.study.report,
        "split": plan.study.split,
        "cells": {"planned": len(plan.runs), "finished": sum(map(study.has, plan.runs))},
        "tasks": {
            task: {
                "metric": next(iter(found.values())).metric,
                "teacher": _teacher_scores(found),
                "arms": {arm: _arm_record(one) for arm, one in found.items()},
            }
            for task, found in arms.items()
        },
        "alpha_between_tasks": _between_tasks(arms),
        "family": [
            {
                "task": task,
                "first": first,
                "second": second,
                "differences": list(verdict.comparison.differences),
                "mean": verdict.summary.mean,
                "interval": [verdict.summary.low, verdict.summary.high],
                "p": verdict.p,
                "adjusted_p": verdict.adjusted_p,
                "bootstrap": verdict.comparison.bootstrap and asdict(verdict.comparison.bootstrap),
                "stochastic_order": _order(arms[task][first], arms[task][second], higher[task]),
                "outcome": verdict.outcome,
                "sentence": open_to[task, first, second] + verdict.sentence(),
            }
            for (task, first, second), verdict in verdicts.items()
        ],
        "not_yet": [list(pair) for pair in plan.judged if pair not in verdicts],
        "descriptive": [
            {
                "task": task,
                "first": first,
                "second": second,
                "differences": list(one.differences),
                "sentence": describe(one),
            }
            for (task, first, second), one in described.items()
        ],
        "published": _published(plan, arms),
        "notes": [*_notes(plan, study, arms), *dict.fromkeys(notes)],
    }


def _open_verdicts(plan: Plan, verdicts: Mapping[Pair, Verdict]) -> dict[Pair, str]:
    """What each verdict begins with while it may still change.

    That is while some of its own seeds are missing, or while other comparisons of the family are
    unfinished and Holm would decide otherwise if they all showed nothing, or all they can.
    """
    planned = {pair: plan.seeds_of_both(*pair) for pair in plan.judged}
    done = {pair: len(verdict.summary.values) for pair, verdict in verdicts.items()}
    whole = {pair for pair in plan.judged if done.get(pair) == planned[pair]}
    least = {pair: smallest_p(seeds) if seeds else 1.0 for pair, seeds in planned.items()}
    adjusted = []
    for unfinished in (dict.fromkeys(plan.judged, 1.0), least) if verdicts else ():
        raw = [verdicts[pair].p if pair in whole else unfinished[pair] for pair in plan.judged]
        adjusted.append(dict(zip(plan.judged, holm(raw), strict=True)))
    told = {}
    for pair in verdicts:
        decided = {found[pair] <= LEVEL for found in adjusted}
        told[pair] = ""
        if pair not in whole:
            told[pair] = f"preliminary, after {done[pair]} of {planned[pair]} seeds: "
        elif len(decided) > 1:
            told[pair] = "preliminary, while others of its family are unfinished: "
    return told


def gather(plan: Plan, study: Study) -> Evidence:
    """Read all finished cells, once.

    Args:
        plan: Says which cells belong to which task and arm.
        study: Where they are filed.
    """
    arms: dict[str, dict[str, Arm]] = {}
    damaged = []
    for task, of_task in plan.table.items():
        for arm, cells in of_task.items():
            filed = {}
            for seed, cell in cells.items():
                if not study.has(cell.name):
                    continue
                try:
                    filed[seed] = _read(study, cell)
                except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
                    damaged.append(
                        f"the cell of {cell.title} is damaged and left out ({error!r}); remove "
                        f"{study.filed(cell.name)}, and the same command runs it again"
                    )
            if filed:
                arms.setdefault(task, {})[arm] = Arm(filed, plan.study.report, plan.study.split)
    return Evidence(arms, damaged)


def _read(study: Study, cell: Cell) -> Filed:
    """A filed cell, if all of its files can be read and are what a run writes."""
    folder = study.filed(cell.name)
    environment = EnvironmentRecord.from_json((folder / ENVIRONMENT).read_text("utf-8"))
    lines = (folder / HISTORY).read_text("utf-8").splitlines()
    history = json.loads(f"[{','.join(lines)}]")  # at once: a study has many lines
    if not any("step" in line for line in history):
        raise ValueError(f"{HISTORY} has no step")
    result = study.result(cell.name)
    if result.teacher.metrics is None or result.teacher.fingerprint is None:
        raise ValueError("its teacher has no scores or no fingerprint")
    for by_split in (*result.metrics.epochs.values(), result.teacher.metrics):
        for scores in by_split.splits.values():
            if not math.isfinite(score := scores.number(result.metric) or 0.0):
                raise ValueError(f"{result.metric} is {score}")
    return Filed(cell, result, history, environment, read_rows(folder / PREDICTIONS))


def _comparisons(
    plan: Plan,
    arms: Mapping[str, Mapping[str, Arm]],
    higher: Mapping[str, bool],
    pairs: Sequence[tuple[str, str, str]],
    notes: list[str],
) -> dict[tuple[str, str, str], Comparison]:
    """The paired differences of pairs of arms that have seeds in common."""
    found = {}
    for task, first, second in pairs:
        of_task = arms.get(task, {})
        if first not in of_task or second not in of_task:
            continue
        one, two = of_task[first], of_task[second]
        scores = one.scores(), two.scores()
        seeds = sorted(scores[0].keys() & scores[1].keys())
        if not seeds:
            continue
        sign = 1 if higher[task] else -1
        differences = [sign * (scores[0][seed] - scores[1][seed]) for seed in seeds]
        bootstrap = None
        if len(seeds) > 1 and one.metric in get_args(Score) and one.split == "validation":
            stored = _predictions(plan.study.report, one, two, seeds)
            score: Any = one.metric
            if stored is None:
                notes.append(f"the cells of {task} were not scored on the same rows")
            else:
                bootstrap = multi_bootstrap(stored[0], stored[1], stored[2], score)
        found[task, first, second] = Comparison(
            task, first, second, differences, bootstrap=bootstrap
        )
    return found


def _predictions(report: str, one: Arm, two: Arm, seeds: Sequence[int]) -> Any:
    """Predicted classes of both arms (seeds, examples), and labels (examples,).

    None if the cells do not have the same rows with the same labels.
    """
    runs = [arm.filed[seed].answers for arm in (one, two) for seed in seeds]
    answers = combine(runs, report)
    if answers is None:
        return None
    known = answers.known
    first, second = np.split(answers.predicted[:, known], 2)
    return first, second, answers.labels[known]


def _order(first: Arm, second: Arm, higher: bool) -> float | None:
    """Almost stochastic order, a secondary reading; None with fewer than two seeds."""
    sign = 1 if higher else -1
    one, two = ([sign * score for score in arm.scores().values()] for arm in (first, second))
    return stochastic_order(one, two) if min(len(one), len(two)) > 1 else None


def _arm_record(arm: Arm) -> dict[str, Any]:
    """Every raw score, mean and spread, scores by epoch, what picking the best one adds, and α."""
    scores = arm.scores()
    spread = asdict(summarise(list(scores.values())))
    record = {"seeds": list(scores), **spread, "values": list(scores.values())}
    taught = float(np.mean([arm.taught()[seed] for seed in scores]))
    record["of_teacher"] = record["mean"] / taught if taught > 0 else None
    best = arm.scores("best_on_dev")
    if best and arm.report == "last":
        record["best_on_dev"] = list(best.values())
        record["optimism"] = float(np.mean([best[seed] - scores[seed] for seed in best]))
    histories = [one.history for one in arm.filed.values()]
    key = f"eval_{arm.split}_{arm.metric}"
    by_epoch = [[line[key] for line in lines if key in line] for lines in histories]
    if len(set(map(len, by_epoch))) == 1:
        record["by_epoch"] = np.mean(by_epoch, 0).tolist()
    if (alphas := _learned_alphas(arm)) is not None:
        record["alpha"] = _alpha_record(alphas, _start(arm, alphas[0]), histories[0])
    if all(shares := [_gradient_shares(lines) for lines in histories]):
        record["gradient_shares"] = {
            part: float(np.mean([one[part] for one in shares])) for part in shares[0]
        }
    return record


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
    return {part: float(np.mean([one[part] for one in shares])) for part in shares[0]}


def _learned_alphas(arm: Arm) -> Any:
    """The final α of every seed, (seeds, K, L), if it is learned; else None."""
    results = list(arm.results.values())
    if any(result.mix is None or result.mix.strategy != "learned" for result in results):
        return None
    return np.asarray([result.alpha for result in results])


def _start(arm: Arm, final: Any) -> Any:
    """The α that an arm began with, (K, L); uniform where a cell does not say."""
    mix = next(iter(arm.results.values())).mix
    start = None if mix is None else mix.start
    return np.asarray(start or np.full_like(final, 1 / final.shape[-1]))


def _distance(one: Any, two: Any) -> Any:
    """Total variation between the rows of two α, from 0 to 1."""
    return np.abs(one - two).sum(-1) / 2


def _alpha_record(alphas: Any, start: Any, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a learned α did: (seeds, K, L) -> its mean, how far it moved, whether seeds agree.

    Distances are total variations, on average over rows. `moved` is from the start, as a share of
    the largest there is; for `reachable` see `_reachable`.
    """
    layers = alphas.shape[-1]
    farthest = 1 - start.min(-1)  # of each row, to the corner where it had least
    moves = bool(layers > 1)
    uniform = bool(np.ptp(start) < 1e-6)
    logged = [
        (line["step"], line["learning_rate_mix"]) for line in history if "learning_rate_mix" in line
    ]
    known = len(logged) >= LOGS_FOR_RATES and moves and uniform
    pairs = [float(_distance(a, b).mean()) for a, b in combinations(alphas, 2)]
    return {
        "mean": alphas.mean(0).tolist(),
        "moved": (_distance(alphas, start) / farthest).mean(0).tolist() if moves else None,
        "reachable": _reachable(layers, logged) if known else None,
        "between_seeds": float(np.mean(pairs)) if pairs else None,
    }


LOGS_FOR_RATES = 2
"""With fewer logged learning rates, their sum is not known well enough."""


def _reachable(layers: int, logged: Sequence[tuple[int, float]]) -> float:
    """The share of the largest distance that Adam could have put between α and a uniform start.

    Its steps move a logit by about the learning rate each: some logits of a row up, the others
    down, all the way; how many up, is what goes farthest.

    Args:
        layers: Of the teacher, in the mix.
        logged: Steps and the learning rates of the mix there; between them it is a straight line.
    """
    steps, rates = (np.asarray(column, dtype=float) for column in zip(*logged, strict=True))
    way = float(np.trapezoid([rates[0], *rates], [0.0, *steps]))
    up = np.arange(1, layers)
    risen, fallen = up * np.exp(way), (layers - up) * np.exp(-way)
    distances = risen / (risen + fallen) - up / layers
    return float(distances.max() / (1 - 1 / layers))


def _between_tasks(arms: Mapping[str, Mapping[str, Arm]]) -> dict[str, float]:
    """Arm -> distance of the mean learned α of two tasks, on average over pairs of tasks.

    To be read beside the distance between two seeds of a task: an α that suits its task differs
    more between tasks than between seeds.
    """
    means: dict[str, list[Any]] = {}
    for of_task in arms.values():
        for name, arm in of_task.items():
            if (alphas := _learned_alphas(arm)) is not None:
                means.setdefault(name, []).append(alphas.mean(0))
    return {
        name: float(np.mean([_distance(a, b).mean() for a, b in combinations(found, 2)]))
        for name, found in means.items()
        if len(found) > 1 and len({one.shape for one in found}) == 1
    }


def _published(plan: Plan, arms: Mapping[str, Mapping[str, Arm]]) -> list[dict[str, Any]]:
    """Published scores beside ours, by the usual protocol (best epoch on dev) and by the last one.

    A published score is one run, so it is compared with where one run of ours would lie.
    """
    return [
        {
            "task": task,
            "arm": arm,
            "metric": metric,
            "published": value,
            **{
                report: _beside(value, list(arms[task][arm].scores(report, metric).values()))
                for report in ("best_on_dev", "last")
            },
        }
        for task, of_task in plan.study.published.items()
        for arm, scores in of_task.items()
        for metric, value in scores.items()
        if arm in arms.get(task, {})
    ]


def _beside(value: float, ours: Sequence[float]) -> dict[str, Any] | None:
    if not ours:  # no such epoch was reported
        return None
    interval = single_run(ours)
    within = None if interval is None else interval[0] <= value <= interval[1]
    return {
        "mean": float(np.mean(ours)),
        "single_run": interval and list(interval),
        "within": within,
    }


def _teacher_scores(arms: Mapping[str, Arm]) -> list[float]:
    """The score of every teacher that taught these arms, each once."""
    by_teacher = {
        arm.results[seed].teacher.fingerprint: score
        for arm in arms.values()
        for seed, score in arm.taught().items()
    }
    return list(by_teacher.values())


def _notes(plan: Plan, study: Study, arms: Mapping[str, Mapping[str, Arm]]) -> list[str]:
    """What a reader must know before believing a table."""
    notes = []
    finished = sum(map(study.has, plan.runs))
    if finished < len(plan.runs):
        notes.append(
            f"{finished} of {len(plan.runs)} cells are finished: what follows is preliminary"
        )
    try:
        late = [one["finished_cells"] for one in _declarations(study) if one["finished_cells"]]
    except StudyError as error:
        notes.append(str(error))
        late = []
    if late and plan.judged:
        notes.append(
            f"what is judged (pairs, seeds, settings, scores) was declared or changed when "
            f"{' and '.join(map(str, late))} cells were finished, so not beforehand; "
            f"{declared_file(study).name} has what it was"
        )
    filed = [one for of in arms.values() for arm in of.values() for one in arm.filed.values()]
    codes = sorted({one.code for one in filed})
    if len(codes) > 1 or any(code.endswith("+") for code in codes):
        notes.append(
            f"the cells were run by {len(codes)} states of the code: {', '.join(codes)}"
            + " (+: changed since that commit, so not known)" * ("+" in "".join(codes))
        )
    versions = sorted({one.packages.get("torch", "unknown") for one in filed})
    if len(versions) > 1:
        notes.append(
            f"the cells were run by {len(versions)} versions of torch: {', '.join(versions)}"
        )
    warned = Counter(note.text for one in filed for note in one.result.warnings)
    notes += [f"{count} of the cells warned: {text}" for text, count in warned.items()]
    for task, of_task in arms.items():
        results = [result for arm in of_task.values() for result in arm.results.values()]
        for what, values in {
            "data": {result.data.fingerprint for result in results},
            "precisions": {result.precision for result in results},
            "kinds of teacher signals": {result.signals for result in results} - {None},
            "teachers": {result.teacher.fingerprint for result in results},
        }.items():
            if len(values) > 1 and not (what == "teachers" and plan.study.teachers == "per_seed"):
                notes.append(f"the cells of {task} had {len(values)} different {what}")
    return notes
