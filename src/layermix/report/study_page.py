"""The page of a study, finished or not."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import yaml

from layermix.errors import Note
from layermix.evaluation.predictions import Predictions, combine
from layermix.evaluation.statistics import summarise
from layermix.report import figures
from layermix.report.answers import ANSWERS, ShownRow
from layermix.report.charts import (
    MOST_ROWS,
    alpha_charts,
    joined_text,
    loss_rows,
    search_note,
    shortened,
)
from layermix.report.figures import Figure
from layermix.report.html import Page, Search, Section, Table
from layermix.runs.reader import Texts, Words, read_texts, read_words
from layermix.runs.schema import ModelRecord, RunRecord
from layermix.studies.analysis import analyse
from layermix.studies.cells import Arm, FinishedCells, gather
from layermix.studies.folder import Study
from layermix.studies.plan import Plan
from layermix.studies.schema import (
    ComparisonRecord,
    PublishedScore,
    StudyRecord,
    TaskScores,
    VerdictRecord,
)
from layermix.studies.text import arm_cells, arm_columns, beside_text, not_yet_sentences


def study_page(plan: Plan, study: Study) -> Page:
    """The page of a study, finished or not."""
    cells = gather(plan, study)
    record, arms = analyse(plan, study, cells), cells.arms
    sections = [_verdicts(record)]
    slugs = _slugs(list(record.tasks))
    sections += [_task_section(task, record, arms[task], study, slugs[task]) for task in arms]
    if record.published:
        sections.append(_published_section(record.published))
    return Page(
        record.title,
        "ok" if record.cells.complete and not cells.notes else "unfinished",
        _study_headline(record, arms),
        [f"{_first_upper(note.text)}." for note in record.notes],
        sections,
        {
            "Environment of the cells": _environments(cells),
            "To repeat it": _repeat(plan, study),
        },
    )


def _study_headline(record: StudyRecord, arms: Mapping[str, Mapping[str, Arm]]) -> list[str]:
    """The outcomes of the declared comparisons, and the share of the teacher's score."""
    if not record.tasks:
        return ["No cell is finished yet."]
    lines = [_outcomes(record)]
    for task, scores in record.tasks.items():
        shares = [arm.of_teacher for arm in scores.arms.values() if arm.of_teacher is not None]
        if len(shares) == len(scores.arms):
            lines.append(
                f"{task}: by arm, the students keep {min(shares):.1%} to {max(shares):.1%} of the "
                f"teacher's {scores.metric} of {_mean(scores.teacher):.4f}, means over seeds."
            )
        lines += _cost_sentences(task, arms[task], scores)
    return lines


def _outcomes(record: StudyRecord) -> str:
    """How many of the declared comparisons had which outcome."""
    shown = {"not attainable": "without a verdict (too few seeds)"}
    outcomes = [shown.get(verdict.outcome, verdict.outcome) for verdict in record.family]
    outcomes += ["not finished"] * len(record.not_yet)
    if not outcomes:
        return "No comparison was declared beforehand, so none has a verdict."
    counted = ", ".join(
        f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes)
    )
    declared = f"{len(outcomes)} comparison{'s' * (len(outcomes) != 1)} declared"
    if not any(note.code == "declared-late" for note in record.notes):
        declared += " beforehand"
    if not record.cells.complete:
        declared += f"; {record.cells.finished} of {record.cells.planned} cells are finished"
    return f"{declared}: {counted}."


def _mean(scores: Sequence[float]) -> float:
    return float(np.mean(scores))


def _cost_sentences(task: str, arms: Mapping[str, Arm], scores: TaskScores) -> list[str]:
    """How much smaller and faster the students are."""
    if not scores.teacher:
        return []
    teacher, *students = _costs(arms, scores)
    parts = []
    sizes = [student["parameters"] for student in students if student["parameters"]]
    if sizes and teacher["parameters"]:
        parts.append(
            f"{max(sizes):.1f} million parameters instead of {teacher['parameters']:.1f} million"
        )
    times = [student["milliseconds"] for student in students if student["milliseconds"]]
    if times and teacher["milliseconds"]:
        parts.append(
            f"{np.median(times):.1f} ms for one text instead of {teacher['milliseconds']:.1f} "
            "(medians, measured while other cells ran)"
        )
    return [f"{task}: the students have {' and take '.join(parts)}."] if parts else []


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _slugs(names: Sequence[str]) -> dict[str, str]:
    """Names as parts of file names, all different.

    Examples:
        >>> _slugs(["MRPC", "a/b", "a b"])
        {'MRPC': 'mrpc', 'a/b': 'a-b', 'a b': 'a-b-2'}
    """
    slugs: dict[str, str] = {}
    for name in names:
        plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower()).strip("-")
        slug, number = plain or "x", 1
        while slug in slugs.values():
            number += 1
            slug = f"{plain or 'x'}-{number}"
        slugs[name] = slug
    return slugs


def _verdicts(record: StudyRecord) -> Section:
    text = [_first_upper(verdict.sentence) for verdict in record.family]
    text += not_yet_sentences(record)
    described = [[_first_upper(description.sentence)] for description in record.descriptive]
    tables = [Table("Described without a verdict", ["comparison"], described)] if described else []
    return Section("Verdicts", text or ["No comparison was declared."], tables)


def _task_section(
    task: str, record: StudyRecord, arms: Mapping[str, Arm], study: Study, slug: str
) -> Section:
    scores = record.tasks[task]
    charts = _score_charts(task, record, arms, slug)
    charts += _study_alpha(arms, slug)
    charts += figures.costs(f"-{slug}", scores.metric, _costs(arms, scores))
    search = None
    text: list[str] = []
    if record.split == "validation":
        if by_arm := _study_predictions(arms):
            classes, problems = _study_classes(arms), list[Note]()
            form = next(iter(by_arm.values())).form
            charts += ANSWERS[form].charts(by_arm, classes, f"-{slug}")
            search = _study_disagreements(by_arm, classes, *_study_texts(study, arms, problems))
            text += [f"{problem}." for problem in problems]
        if others := [name for name in arms if name not in by_arm]:
            text.append(
                f"Not shown, because they were not scored on the same rows: {', '.join(others)}."
            )
    else:
        text.append(
            f"Scores are on {record.split} rows. Predictions on the validation rows are not shown, "
            "so that a choice made here can be confirmed on rows that were not used for it."
        )
    return Section(
        f"Task: {task}", text, tables=[_arm_table(scores, record)], figures=charts, search=search
    )


def _score_charts(
    task: str, record: StudyRecord, arms: Mapping[str, Arm], slug: str
) -> list[Figure]:
    """Scores, differences, scores by epoch, losses and shares of the gradient."""
    scores = record.tasks[task]
    dots = [
        {"arm": name, "seed": seed, "score": score}
        for name, arm in scores.arms.items()
        for seed, score in zip(arm.seeds, arm.values, strict=True)
    ]
    summary = [
        {"arm": name, "mean": arm.mean, "low": arm.low, "high": arm.high}
        for name, arm in scores.arms.items()
    ]
    charts = [figures.scores(f"scores-{slug}", scores.metric, dots, summary, scores.teacher)]
    charts += _difference_charts(task, record, arms, slug)
    seeds = max(len(arm.cells) for arm in arms.values())
    epochs = [
        {"arm": name, "epoch": epoch, "score": score}
        for name, arm in scores.arms.items()
        for epoch, score in enumerate(arm.by_epoch or (), 1)
    ]
    if epochs:
        charts.append(
            figures.by_epoch(f"by-epoch-{slug}", scores.metric, epochs, scores.teacher, seeds)
        )
    histories = {name: [cell.history for cell in arm.cells.values()] for name, arm in arms.items()}
    if rows := loss_rows(histories):
        charts.append(figures.losses(f"losses-{slug}", rows, seeds))
    shares = [
        {"arm": name, "part": part, "share": share}
        for name, arm in scores.arms.items()
        for part, share in (arm.gradient_shares or {}).items()
    ]
    if shares:
        charts.append(figures.gradient_shares(f"gradients-{slug}", shares))
    return charts


def _arm_table(scores: TaskScores, record: StudyRecord) -> Table:
    return Table(
        f"{scores.metric} on {record.split}; {beside_text(scores)}",
        ["arm", *arm_columns(record.report)],
        [[name, *arm_cells(arm)] for name, arm in scores.arms.items()],
    )


def _difference_charts(
    task: str, record: StudyRecord, arms: Mapping[str, Arm], slug: str
) -> list[Figure]:
    rows: list[dict[str, Any]] = []
    summary: list[dict[str, Any]] = []
    comparisons: list[ComparisonRecord] = [*record.family, *record.descriptive]
    for comparison in comparisons:
        if comparison.task != task:
            continue
        both_names = len(comparison.first) + len(comparison.second)
        new_line = "\n" if both_names > figures.LONG_NAME else " "
        pair = f"{comparison.first} −{new_line}{comparison.second}"
        first, second = arms[comparison.first].scores(), arms[comparison.second].scores()
        points = [100 * difference for difference in comparison.differences]
        rows += [
            {"pair": pair, "seed": seed, "points": value}
            for seed, value in zip(sorted(first.keys() & second.keys()), points, strict=True)
        ]
        statistics = summarise(points)
        summary.append(
            {
                "pair": pair,
                "judged": "judged" if isinstance(comparison, VerdictRecord) else "described",
                "mean": statistics.mean,
                "low": statistics.low,
                "high": statistics.high,
            }
        )
    return [figures.differences(f"differences-{slug}", rows, summary)] if rows else []


def _study_alpha(arms: Mapping[str, Arm], slug: str) -> list[Figure]:
    """α of the arms that learn it."""
    charts: list[Figure] = []
    learned = [name for name, arm in arms.items() if arm.learns_alpha]
    slugs = _slugs(learned)
    for name in learned:
        histories = {seed: cell.history for seed, cell in arms[name].cells.items()}
        charts_of_arm = alpha_charts(f"-{slug}-{slugs[name]}", histories, arms[name].first.mix)
        charts += [replace(chart, title=f"{chart.title} ({name})") for chart in charts_of_arm]
    return charts


def _costs(arms: Mapping[str, Arm], scores: TaskScores) -> list[dict[str, Any]]:
    """Teacher and arms: mean score, parameters, milliseconds (median over seeds) if measured."""
    first = next(iter(arms.values())).first
    all_results = [result for arm in arms.values() for result in arm.results.values()]
    rows = []
    if scores.teacher:
        of_teacher = _mean(scores.teacher), first.teacher
        rows = [_cost("teacher", "teacher", *of_teacher, all_results)]
    for name, arm in arms.items():
        results = list(arm.results.values())
        rows.append(_cost(name, "student", scores.arms[name].mean, arm.first.student, results))
    return rows


def _cost(
    name: str, kind: str, score: float, model: ModelRecord | None, results: Sequence[RunRecord]
) -> dict[str, Any]:
    milliseconds = [
        result.timings.milliseconds_per_text[kind]
        for result in results
        if result.timings.milliseconds_per_text is not None
    ]
    parameters = None if model is None else model.parameters
    return {
        "name": name,
        "kind": kind,
        "score": score,
        "parameters": parameters and parameters / 1e6,
        "milliseconds": float(np.median(milliseconds)) if milliseconds else None,
    }


def _study_predictions(arms: Mapping[str, Arm]) -> dict[str, Predictions]:
    """Arm -> predictions of all its seeds, for arms scored on the same rows."""
    by_arm: dict[str, Predictions] = {}
    for name, arm in arms.items():
        predictions = combine([cell.predictions for cell in arm.cells.values()], arm.report)
        first = next(iter(by_arm.values()), predictions)
        if predictions and first and np.array_equal(first.row_ids, predictions.row_ids):
            by_arm[name] = predictions
    return by_arm


def _study_classes(arms: Mapping[str, Arm]) -> Sequence[str]:
    return next(iter(arms.values())).first.trained.classes


def _study_texts(
    study: Study, arms: Mapping[str, Arm], problems: list[Note]
) -> tuple[Texts, Words]:
    file = study.texts(next(iter(arms.values())).first.data.fingerprint or "")
    texts = read_texts(file, problems)
    return texts, read_words(file, problems) if texts else {}


def _study_disagreements(
    by_arm: Mapping[str, Predictions], classes: Sequence[str], texts: Texts, words: Words
) -> Search | None:
    """Rows on which an arm, in at least half of its seeds, disagrees with the teacher."""
    first = next(iter(by_arm.values()))
    with_teacher = {name: arm for name, arm in by_arm.items() if arm.has_teacher.any()}
    if not with_teacher:
        return None
    shown = ANSWERS[first.form]
    differs = {
        name: shown.differ(arm.predicted, arm.teacher)[arm.has_teacher]
        for name, arm in with_teacher.items()
    }  # (S, N), each seed against its own teacher
    shares = np.stack([seeds.mean(0) for seeds in differs.values()])
    teachers = np.unique(
        np.concatenate([arm.teacher[arm.has_teacher] for arm in with_teacher.values()]), axis=0
    )
    differ = np.flatnonzero(shares.max(0) >= 0.5)
    order = differ[np.argsort(-shares.mean(0)[differ], kind="stable")]
    students = np.concatenate([arm.predicted[arm.has_teacher] for arm in with_teacher.values()])
    rows = []
    for row in order[:MOST_ROWS]:
        number, label = int(first.row_ids[row]), first.labels[row]
        about = ShownRow(joined_text(texts, number), words.get(number, ()))
        of_students = list(students[:, row])
        of_teachers = [shown.text_in(about, classes, one, of_students) for one in teachers[:, row]]
        rows.append(
            [
                str(number),
                shortened(shown.marked(about, classes, label)),
                shown.text_in(about, classes, label, [*teachers[:, row], *of_students]),
                ", ".join(dict.fromkeys(of_teachers)),
                *(f"{int(seeds[:, row].sum())} of {len(seeds)}" for seeds in differs.values()),
            ]
        )
    return Search(
        "Rows on which an arm disagrees with the teacher in at least half of its seeds",
        search_note(len(differ), len(first.row_ids), len(rows), bool(texts))
        + " Columns of arms: number of seeds that disagree."
        + shown.explained,
        ["row", "text", "label", "teacher", *differs],
        rows,
    )


def _published_section(published: Sequence[PublishedScore]) -> Section:
    rows, lines = [], []
    for score in published:
        for report, ours in (("best_on_dev", score.best_on_dev), ("last", score.last)):
            if ours is None:
                continue
            name = f"{score.task}, {score.arm}, {score.metric}, {report}"
            interval, where = "none (one seed, or all equal)", "–"
            if ours.single_run is not None:
                low, high = ours.single_run
                interval = f"{low:.4f} to {high:.4f}"
                where = "inside" if ours.within else "outside"
                numbers = {"published": score.published, "mean": ours.mean}
                rows.append({"what": name, **numbers, "low": low, "high": high})
            lines.append([name, f"{score.published:.4f}", f"{ours.mean:.4f}", interval, where])
    charts = [figures.published("published", rows)] if rows else []
    columns = ["score", "published", "ours (mean)", "interval of one run", "published is"]
    caption = "Published scores and ours; in 95 of 100 cases one run of ours lies in the interval"
    return Section(
        "Comparison with published scores", tables=[Table(caption, columns, lines)], figures=charts
    )


def _environments(cells: FinishedCells) -> str:
    """The versions of the code that ran the cells, and the environment of the first cell."""
    by_name = {cell.cell.name: cell for cell in cells}
    if not by_name:
        return ""
    codes = [cell.code for cell in by_name.values()]
    lines = [f"{codes.count(code)} cell(s) by layermix {code}" for code in dict.fromkeys(codes)]
    first = next(iter(by_name.values())).environment
    return "\n".join([*lines, "", "environment of the first cell:", first.to_json().rstrip()])


def _repeat(plan: Plan, study: Study) -> str:
    """The study's file and the command."""
    spec = plan.study.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)
    command = shlex.join(["layermix", "study", f"{study.name}.yaml", "--out", str(study.folder)])
    return f"# Save this as {study.name}.yaml, then:\n# {command}\n{text}"
