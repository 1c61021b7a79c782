"""The page of a study, finished or not."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import yaml

from layermix.errors import Note
from layermix.evaluation.predictions import Predictions, combine
from layermix.evaluation.statistics import summarise
from layermix.report import figures
from layermix.report.charts import (
    MOST_ROWS,
    alpha_charts,
    class_name,
    loss_rows,
    prediction_charts,
    search_note,
    shown_text,
)
from layermix.report.figures import Figure
from layermix.report.html import Page, Search, Section, Table
from layermix.runs.reader import Texts, read_texts
from layermix.runs.schema import ModelRecord, RunRecord
from layermix.studies.analysis import Arm, find, gather
from layermix.studies.folder import Study
from layermix.studies.plan import Plan
from layermix.studies.text import arm_cells, arm_columns


def study_page(plan: Plan, study: Study) -> Page:
    """The page of a study, finished or not."""
    evidence = gather(plan, study)
    found, arms = find(plan, study, evidence), evidence.arms
    sections = [_verdicts(found)]
    slugs = _slugs(list(found["tasks"]))
    for task, of_task in found["tasks"].items():
        sections.append(_task_section(task, of_task, found, arms[task], study, slugs[task]))
    if found["published"]:
        sections.append(_published_section(found))
    cells = found["cells"]
    whole = cells["finished"] == cells["planned"] and not evidence.damaged
    status = "ok" if whole else "unfinished"
    return Page(
        found["title"],
        status,
        _study_headline(found, arms),
        [f"{_first_upper(note)}." for note in found["notes"]],
        sections,
        {
            "Environment of the cells": _environments(arms),
            "To repeat it": _repeat(plan, study),
        },
    )


def _study_headline(found: Mapping[str, Any], arms: Mapping[str, Mapping[str, Arm]]) -> list[str]:
    """The outcomes of the declared comparisons, and the share of the teacher's score."""
    if not found["tasks"]:
        return ["No cell is finished yet."]
    outcomes = [one["outcome"] for one in found["family"]] + ["nothing yet"] * len(found["not_yet"])
    shown = {"not attainable": "without a verdict, which these seeds cannot give"}
    counted = ", ".join(
        f"{outcomes.count(one)} {shown.get(one, one)}" for one in dict.fromkeys(outcomes)
    )
    declared, cells = len(outcomes), found["cells"]
    beforehand = (
        "" if any("so not beforehand" in note for note in found["notes"]) else " beforehand"
    )
    so_far = ""
    if cells["finished"] < cells["planned"]:
        so_far = f", so far, with {cells['finished']} of {cells['planned']} cells"
    lines = [
        f"{declared} comparison{'s' * (declared != 1)} declared{beforehand}{so_far}: {counted}."
        if outcomes
        else "No comparison was declared beforehand, so none has a verdict."
    ]
    for task, of_task in found["tasks"].items():
        taught = float(np.mean(of_task["teacher"]))
        kept = [record["of_teacher"] for record in of_task["arms"].values()]
        if None not in kept:
            lines.append(
                f"{task}: by arm, the students keep {min(kept):.1%} to {max(kept):.1%} of the "
                f"teacher's {of_task['metric']} of {taught:.4f}, means over seeds."
            )
        lines += _cost_sentences(task, arms[task], of_task)
    return lines


def _cost_sentences(task: str, arms: Mapping[str, Arm], of_task: Mapping[str, Any]) -> list[str]:
    """How much smaller and faster the students are."""
    teacher, *students = _costs(arms, of_task["arms"], of_task["teacher"])
    parts = []
    sizes = [one["parameters"] for one in students if one["parameters"]]
    if sizes and teacher["parameters"]:
        parts.append(
            f"{max(sizes):.1f} million parameters instead of {teacher['parameters']:.1f} million"
        )
    times = [one["milliseconds"] for one in students if one["milliseconds"]]
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
    found: dict[str, str] = {}
    for name in names:
        plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower()).strip("-")
        slug, number = plain or "x", 1
        while slug in found.values():
            number += 1
            slug = f"{plain or 'x'}-{number}"
        found[name] = slug
    return found


def _verdicts(found: Mapping[str, Any]) -> Section:
    text = [_first_upper(one["sentence"]) for one in found["family"]]
    text += [
        f"{first} against {second} on {task}: no seed of both is finished yet."
        for task, first, second in found["not_yet"]
    ]
    described = [[_first_upper(one["sentence"])] for one in found["descriptive"]]
    tables = [Table("Described without a verdict", ["comparison"], described)] if described else []
    return Section("Verdicts", text or ["None was declared."], tables)


def _task_section(
    task: str,
    of_task: Mapping[str, Any],
    found: Mapping[str, Any],
    arms: Mapping[str, Arm],
    study: Study,
    slug: str,
) -> Section:
    metric = of_task["metric"]
    records = of_task["arms"]
    dots = [
        {"arm": arm, "seed": seed, "score": score}
        for arm, record in records.items()
        for seed, score in zip(record["seeds"], record["values"], strict=True)
    ]
    summary = [
        {"arm": arm, **{key: record[key] for key in ("mean", "low", "high")}}
        for arm, record in records.items()
    ]
    drawn = [figures.scores(f"scores-{slug}", metric, dots, summary, of_task["teacher"])]
    drawn += _difference_figures(task, found, arms, slug)
    seeds = max(len(arm.filed) for arm in arms.values())
    epochs = [
        {"arm": arm, "epoch": epoch, "score": score}
        for arm, record in records.items()
        for epoch, score in enumerate(record.get("by_epoch", ()), 1)
    ]
    if epochs:
        teachers = of_task["teacher"]
        drawn.append(figures.by_epoch(f"by-epoch-{slug}", metric, epochs, teachers, seeds))
    histories = {arm: [one.history for one in a.filed.values()] for arm, a in arms.items()}
    if rows := loss_rows(histories):
        drawn.append(figures.losses(f"losses-{slug}", rows, seeds))
    shares = [
        {"arm": arm, "part": part, "share": share}
        for arm, record in records.items()
        for part, share in record.get("gradient_shares", {}).items()
    ]
    if shares:
        drawn.append(figures.gradient_shares(f"gradients-{slug}", shares))
    drawn += _study_alpha(arms, slug)
    drawn += figures.costs(f"-{slug}", metric, _costs(arms, records, of_task["teacher"]))
    search = None
    text: list[str] = []
    if found["split"] == "validation":
        if by_arm := _study_predictions(arms):
            classes, problems = _study_classes(arms), list[Note]()
            drawn += prediction_charts(by_arm, classes, f"-{slug}")
            search = _study_disagreements(by_arm, classes, _study_texts(study, arms, problems))
            text += [f"{problem}." for problem in problems]
        if others := [name for name in arms if name not in by_arm]:
            text.append(
                f"Not scored on the same rows, so without predictions here: {', '.join(others)}."
            )
    else:
        text.append(
            f"Scores are on {found['split']} rows. Predictions on the validation rows are not "
            "shown: a choice made on held-out rows is confirmed on rows that nobody has seen."
        )
    return Section(
        f"Task: {task}", text, tables=[_arm_table(of_task, found)], figures=drawn, search=search
    )


def _arm_table(of_task: Mapping[str, Any], found: Mapping[str, Any]) -> Table:
    taught = float(np.mean(of_task["teacher"]))
    return Table(
        f"{of_task['metric']} on {found['split']}; teacher {taught:.4f}",
        ["arm", *arm_columns(found["report"])],
        [[arm, *arm_cells(record)] for arm, record in of_task["arms"].items()],
    )


def _difference_figures(
    task: str, found: Mapping[str, Any], arms: Mapping[str, Arm], slug: str
) -> list[Figure]:
    rows: list[dict[str, Any]] = []
    summary: list[dict[str, Any]] = []
    for judged in ("family", "descriptive"):
        for one in found[judged]:
            if one["task"] != task:
                continue
            both_names = len(one["first"]) + len(one["second"])
            new_line = "\n" if both_names > figures.LONG_NAME else " "
            pair = f"{one['first']} −{new_line}{one['second']}"
            both = [arms[one[which]].scores() for which in ("first", "second")]
            seeds = sorted(both[0].keys() & both[1].keys())
            points = [100 * value for value in one["differences"]]
            rows += [
                {"pair": pair, "seed": seed, "points": value}
                for seed, value in zip(seeds, points, strict=True)
            ]
            statistics = asdict(summarise(points))
            summary.append(
                {
                    "pair": pair,
                    "judged": "judged" if judged == "family" else "described",
                    **{key: statistics[key] for key in ("mean", "low", "high")},
                }
            )
    return [figures.differences(f"differences-{slug}", rows, summary)] if rows else []


def _study_alpha(arms: Mapping[str, Arm], slug: str) -> list[Figure]:
    """α of the arms that learn it."""
    drawn: list[Figure] = []
    learned = [
        name
        for name, arm in arms.items()
        if all(result.mix and result.mix.strategy == "learned" for result in arm.results.values())
    ]
    own = _slugs(learned)
    for name in learned:
        histories = {seed: one.history for seed, one in arms[name].filed.items()}
        mix = next(iter(arms[name].results.values())).mix
        charts = alpha_charts(f"-{slug}-{own[name]}", histories, mix)
        drawn += [replace(chart, title=f"{chart.title} ({name})") for chart in charts]
    return drawn


def _costs(
    arms: Mapping[str, Arm], records: Mapping[str, Any], teachers: Sequence[float]
) -> list[dict[str, Any]]:
    """Teacher and arms: mean score, parameters, milliseconds (median over seeds) if measured."""
    first = next(iter(next(iter(arms.values())).results.values()))
    every = [result for arm in arms.values() for result in arm.results.values()]
    rows = [_cost("teacher", "teacher", float(np.mean(teachers)), first.teacher, every)]
    for name, arm in arms.items():
        results = list(arm.results.values())
        rows.append(_cost(name, "student", records[name]["mean"], results[0].student, results))
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
        predictions = combine([cell.answers for cell in arm.filed.values()], arm.report)
        first = next(iter(by_arm.values()), predictions)
        if predictions and first and np.array_equal(first.row_ids, predictions.row_ids):
            by_arm[name] = predictions
    return by_arm


def _study_classes(arms: Mapping[str, Arm]) -> Sequence[str]:
    result = next(iter(next(iter(arms.values())).results.values()))
    return result.trained.classes


def _study_texts(study: Study, arms: Mapping[str, Arm], problems: list[Note]) -> Texts:
    result = next(iter(next(iter(arms.values())).results.values()))
    return read_texts(study.texts(result.data.fingerprint or ""), problems)


def _study_disagreements(
    by_arm: Mapping[str, Predictions], classes: Sequence[str], texts: Texts
) -> Search | None:
    """Rows on which an arm, in at least half of its seeds, disagrees with the teacher."""
    first = next(iter(by_arm.values()))
    with_teacher = {name: arm for name, arm in by_arm.items() if arm.has_teacher.any()}
    if not with_teacher:
        return None
    differs = {
        name: (arm.predicted != arm.teacher)[arm.has_teacher] for name, arm in with_teacher.items()
    }  # (S, N), each seed against its own teacher
    shares = np.stack([seeds.mean(0) for seeds in differs.values()])
    teachers = np.unique(
        np.concatenate([arm.teacher[arm.has_teacher] for arm in with_teacher.values()]), axis=0
    )
    differ = np.flatnonzero(shares.max(0) >= 0.5)
    order = differ[np.argsort(-shares.mean(0)[differ], kind="stable")]
    rows = [
        [
            str(first.row_ids[row]),
            shown_text(texts, int(first.row_ids[row])),
            class_name(classes, first.labels[row]),
            ", ".join(class_name(classes, index) for index in dict.fromkeys(teachers[:, row])),
            *(f"{int(seeds[:, row].sum())} of {len(seeds)}" for seeds in differs.values()),
        ]
        for row in order[:MOST_ROWS]
    ]
    return Search(
        "Rows on which an arm disagrees with the teacher in at least half of its seeds",
        search_note(len(differ), len(first.row_ids), len(rows), bool(texts))
        + " Columns of arms: number of seeds that disagree.",
        ["row", "text", "label", "teacher", *differs],
        rows,
    )


def _published_section(found: Mapping[str, Any]) -> Section:
    rows, lines = [], []
    for one in found["published"]:
        for report in ("best_on_dev", "last"):
            if (ours := one[report]) is None:
                continue
            what = f"{one['task']}, {one['arm']}, {one['metric']}, {report}"
            interval = ours["single_run"]
            lines.append(
                [
                    what,
                    f"{one['published']:.4f}",
                    f"{ours['mean']:.4f}",
                    "one seed, or all equal: no interval"
                    if interval is None
                    else f"{interval[0]:.4f} to {interval[1]:.4f}",
                    "–" if interval is None else ("within" if ours["within"] else "outside"),
                ]
            )
            if interval is not None:
                low, high = interval
                rows.append(
                    {
                        "what": what,
                        "published": one["published"],
                        "mean": ours["mean"],
                        "low": low,
                        "high": high,
                    }
                )
    drawn = [figures.published("published", rows)] if rows else []
    columns = ["score", "published", "ours", "where one more run would lie", "published is"]
    caption = "Published scores and ours; the interval holds 95 of 100 runs"
    return Section(
        "Beside the published scores", tables=[Table(caption, columns, lines)], figures=drawn
    )


def _environments(arms: Mapping[str, Mapping[str, Arm]]) -> str:
    """The states of the code that ran the cells, and the environment of the first."""
    cells = {
        cell.cell.name: cell
        for of_task in arms.values()
        for arm in of_task.values()
        for cell in arm.filed.values()
    }
    if not cells:
        return ""
    codes = [cell.code for cell in cells.values()]
    lines = [f"{codes.count(code)} cell(s) by layermix {code}" for code in dict.fromkeys(codes)]
    first = next(iter(cells.values())).environment
    return "\n".join([*lines, "", "environment of the first:", first.to_json().rstrip()])


def _repeat(plan: Plan, study: Study) -> str:
    """The study's file and the command."""
    text = yaml.safe_dump(plan.record()["study"], sort_keys=False, allow_unicode=True)
    command = shlex.join(["layermix", "study", f"{study.name}.yaml", "--out", str(study.folder)])
    return f"# Save this as {study.name}.yaml, then:\n# {command}\n{text}"
