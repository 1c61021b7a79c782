"""The page of a study, finished or not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from layermix import figures
from layermix.conduct import Study
from layermix.exhibits import (
    MOST_ROWS,
    alpha_figures,
    answer_figures,
    class_name,
    loss_rows,
    search_note,
    shown_text,
)
from layermix.figures import Figure
from layermix.findings import Arm, find, gather
from layermix.folder import PREDICTIONS
from layermix.page import Page, Search, Section, Table
from layermix.reading import Answers, Texts, read_answers, read_texts
from layermix.stats import summarise
from layermix.study import Plan


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
    status = "ok" if cells["finished"] == cells["planned"] else "unfinished"
    return Page(
        found["title"],
        status,
        _study_headline(found),
        [f"{_first_upper(note)}." for note in found["notes"]],
        sections,
        {
            f"{study.name}.plan.json": json.dumps(
                plan.record()["study"], indent=2, ensure_ascii=False
            ),
            "Environment of the cells": _environments(arms),
            "To repeat it": f"layermix study {study.name}.yaml --out {study.folder}\n",
        },
    )


def _study_headline(found: Mapping[str, Any]) -> list[str]:
    """How the declared comparisons ended, and what of the teacher is kept."""
    if not found["tasks"]:
        return ["No cell is finished yet."]
    outcomes = [one["outcome"] for one in found["family"]] + ["nothing yet"] * len(found["not_yet"])
    shown = {"not attainable": "without a verdict, which these seeds cannot give"}
    counted = ", ".join(
        f"{outcomes.count(one)} {shown.get(one, one)}" for one in dict.fromkeys(outcomes)
    )
    declared = len(outcomes)
    told = [
        f"{declared} comparison{'s' * (declared != 1)} declared beforehand: {counted}."
        if outcomes
        else "No comparison was declared beforehand, so none has a verdict."
    ]
    for task, of_task in found["tasks"].items():
        taught = float(np.mean(of_task["teacher"]))
        means = [record["mean"] for record in of_task["arms"].values()]
        if taught > 0:
            told.append(
                f"{task}: the students keep {min(means) / taught:.1%} to {max(means) / taught:.1%} "
                f"of the teacher's {of_task['metric']} of {taught:.4f}, means over seeds."
            )
    return told


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
        f"{first} against {second} on {task}: nothing is finished yet."
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
    epochs = [
        {"arm": arm, "epoch": epoch, "score": score}
        for arm, record in records.items()
        for epoch, score in enumerate(record.get("by_epoch", ()), 1)
    ]
    if epochs:
        drawn.append(figures.by_epoch(f"by-epoch-{slug}", metric, epochs, of_task["teacher"]))
    histories = {arm: [one.history for one in a.filed.values()] for arm, a in arms.items()}
    if rows := loss_rows(histories):
        drawn.append(figures.losses(f"losses-{slug}", rows))
    shares = [
        {"arm": arm, "part": part, "share": share}
        for arm, record in records.items()
        for part, share in record.get("gradient_shares", {}).items()
    ]
    if shares:
        drawn.append(figures.gradient_shares(f"gradients-{slug}", shares))
    drawn += _study_alpha(arms, slug)
    drawn += figures.costs(f"-{slug}", metric, _costs(arms, records, of_task["teacher"]))
    answers = _study_answers(study, arms)
    classes = _study_classes(arms)
    search = None
    if answers:
        drawn += answer_figures(answers, classes, f"-{slug}")
        search = _study_disagreements(answers, classes, _study_texts(study, arms))
    return Section(
        f"Task: {task}", tables=[_arm_table(of_task, found)], figures=drawn, search=search
    )


def _arm_table(of_task: Mapping[str, Any], found: Mapping[str, Any]) -> Table:
    taught = float(np.mean(of_task["teacher"]))
    rows = []
    for arm, record in of_task["arms"].items():
        interval = "–" if record["low"] is None else f"{record['low']:.4f} to {record['high']:.4f}"
        spread = "" if record["sd"] is None else f" ± {record['sd']:.4f}"
        added = f"{100 * record['optimism']:+.1f}" if "optimism" in record else "–"
        rows.append(
            [
                arm,
                str(len(record["values"])),
                f"{record['mean']:.4f}{spread}",
                interval,
                f"{record['mean'] / taught:.1%}" if taught > 0 else "–",
                added,
            ]
        )
    return Table(
        f"{of_task['metric']} on {found['split']} ({found['report']} epoch); teacher {taught:.4f}",
        ["arm", "seeds", "mean ± sd", "95 % interval", "of the teacher", "best epoch adds"],
        rows,
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
            pair = f"{one['first']} − {one['second']}"
            both = [arms[one[which]].scores() for which in ("first", "second")]
            seeds = sorted(both[0].keys() & both[1].keys())
            points = [100 * value for value in one["differences"]]
            rows += [
                {"pair": pair, "seed": seed, "points": value}
                for seed, value in zip(seeds, points, strict=True)
            ]
            told = asdict(summarise(points))
            summary.append(
                {
                    "pair": pair,
                    "judged": "judged" if judged == "family" else "described",
                    **{key: told[key] for key in ("mean", "low", "high")},
                }
            )
    return [figures.differences(f"differences-{slug}", rows, summary)] if rows else []


def _study_alpha(arms: Mapping[str, Arm], slug: str) -> list[Figure]:
    """α of the arms that learn it."""
    drawn: list[Figure] = []
    learned = [
        name
        for name, arm in arms.items()
        if all((one["mix"] or {}).get("strategy") == "learned" for one in arm.results.values())
    ]
    own = _slugs(learned)
    for name in learned:
        histories = {seed: one.history for seed, one in arms[name].filed.items()}
        mix = next(iter(arms[name].results.values()))["mix"]
        made = alpha_figures(f"-{slug}-{own[name]}", histories, mix)
        drawn += [replace(figure, title=f"{figure.title} ({name})") for figure in made]
    return drawn


def _costs(
    arms: Mapping[str, Arm], records: Mapping[str, Any], teachers: Sequence[float]
) -> list[dict[str, Any]]:
    """Teacher and arms: mean score, parameters, milliseconds (median over seeds) if measured."""
    first = next(iter(next(iter(arms.values())).results.values()))
    every = [result for arm in arms.values() for result in arm.results.values()]
    rows = [_cost("teacher", "teacher", float(np.mean(teachers)), first["teacher"], every)]
    for name, arm in arms.items():
        results = list(arm.results.values())
        student = results[0].get("student", {})
        rows.append(_cost(name, "student", records[name]["mean"], student, results))
    return rows


def _cost(
    name: str, kind: str, score: float, model: Mapping[str, Any], results: Sequence[Any]
) -> dict[str, Any]:
    taken = [
        result["timings"]["milliseconds_per_text"][kind]
        for result in results
        if "milliseconds_per_text" in result.get("timings", {})
    ]
    parameters = model.get("parameters")
    return {
        "name": name,
        "kind": kind,
        "score": score,
        "parameters": parameters and parameters / 1e6,
        "milliseconds": float(np.median(taken)) if taken else None,
    }


def _study_answers(study: Study, arms: Mapping[str, Arm]) -> dict[str, Answers]:
    """Arm -> answers of all its seeds, for arms scored on the same rows."""
    found: dict[str, Answers] = {}
    for name, arm in arms.items():
        stored = [study.filed(one.cell.name) / PREDICTIONS for one in arm.filed.values()]
        try:
            answers = read_answers(stored, arm.report)
        except (OSError, pa.ArrowException, KeyError, ValueError):
            continue  # findings have told it
        if answers is None:
            continue
        first = next(iter(found.values()), answers)
        if np.array_equal(first.row_ids, answers.row_ids):
            found[name] = answers
    return found


def _study_classes(arms: Mapping[str, Arm]) -> list[str]:
    result = next(iter(next(iter(arms.values())).results.values()))
    return [str(name) for name in result.get("student", {}).get("classes", ())]


def _study_texts(study: Study, arms: Mapping[str, Arm]) -> Texts:
    result = next(iter(next(iter(arms.values())).results.values()))
    return read_texts(study.texts(result["data"]["fingerprint"]))


def _study_disagreements(
    answers: Mapping[str, Answers], classes: Sequence[str], texts: Texts
) -> Search | None:
    """Rows on which an arm, in most seeds, answers otherwise than the teacher."""
    first = next(iter(answers.values()))
    teacher = first.teacher
    if teacher is None:
        return None
    otherwise = np.stack([(one.predicted != teacher).mean(0) for one in answers.values()])
    differ = np.flatnonzero(otherwise.max(0) >= 0.5)
    order = differ[np.argsort(-otherwise.mean(0)[differ], kind="stable")]
    rows = [
        [
            str(first.row_ids[at]),
            shown_text(texts, int(first.row_ids[at])),
            class_name(classes, first.labels[at]),
            class_name(classes, teacher[at]),
            *(
                f"{int((one.predicted[:, at] != teacher[at]).sum())} of {len(one.predicted)}"
                for one in answers.values()
            ),
        ]
        for at in order[:MOST_ROWS]
    ]
    return Search(
        "Rows on which an arm, in at least half of its seeds, answers otherwise than the teacher",
        search_note(len(differ), len(teacher), len(rows), bool(texts))
        + " Columns of arms: seeds that answer otherwise.",
        ["row", "text", "label", "teacher", *answers],
        rows,
    )


def _published_section(found: Mapping[str, Any]) -> Section:
    rows = []
    for one in found["published"]:
        for report in ("best_on_dev", "last"):
            ours = one[report]
            if ours is None or ours["single_run"] is None:
                continue
            rows.append(
                {
                    "what": f"{one['task']}, {one['arm']}, {one['metric']}, {report}",
                    "published": one["published"],
                    "mean": ours["mean"],
                    "low": ours["single_run"][0],
                    "high": ours["single_run"][1],
                }
            )
    drawn = [figures.published("published", rows)] if rows else []
    return Section("Beside the published scores", figures=drawn)


def _environments(arms: Mapping[str, Mapping[str, Arm]]) -> str:
    commits: dict[str, int] = {}
    for of_task in arms.values():
        for arm in of_task.values():
            for one in arm.filed.values():
                commits[str(one.commit)] = commits.get(str(one.commit), 0) + 1
    return "".join(f"{count} cells by layermix {commit}\n" for commit, count in commits.items())
