"""A study's plan and its findings as text: tables in Markdown, sentences."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layermix.atomic import write_text
from layermix.evaluation.statistics import LEVEL, holm, smallest_p
from layermix.studies.analysis import EARLY_STEPS, results_file
from layermix.studies.folder import Study
from layermix.studies.plan import Plan


def write(found: Mapping[str, Any], study: Study) -> None:
    """Write the findings into the study's folder, as JSON and as text."""
    file = results_file(study)
    write_text(file, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    write_text(file.with_suffix(".md"), text(found))


def text(found: Mapping[str, Any]) -> str:
    """The findings as Markdown: notes, a table per task, verdicts, descriptions."""
    lines = [f"# {found['title']}", ""]
    lines += [f"- Note: {note}." for note in found["notes"]]
    for task, of_task in found["tasks"].items():
        teachers = of_task["teacher"]
        taught = f"{np.mean(teachers):.4f}" + (f" (mean of {len(teachers)})" * (len(teachers) > 1))
        lines += [
            "",
            f"## {task}",
            "",
            f"{of_task['metric']} on {found['split']}; teacher {taught}.",
            "",
        ]
        lines += [
            f"| arm | {' | '.join(arm_columns(found['report']))} |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for arm, record in of_task["arms"].items():
            lines.append(f"| {' | '.join([arm, *arm_cells(record)])} |")
        lines += _epoch_lines(of_task["arms"])
        lines += _gradient_lines(of_task["arms"])
        lines += _alpha_lines(of_task["arms"])
    for arm, apart in found["alpha_between_tasks"].items():
        lines += ["", f"α of {arm}: the means of two tasks are {apart:.3f} apart."]
    lines += _published_lines(found["published"])
    lines += ["", "## Verdicts on the primary family", ""]
    lines += [f"- {one['sentence']}" for one in found["family"]]
    lines += [
        f"- {first} against {second} on {task}: no seed of both is finished yet."
        for task, first, second in found["not_yet"]
    ]
    if not found["family"] and not found["not_yet"]:
        lines.append("- none was declared.")
    if found["descriptive"]:
        lines += ["", "## Without verdict", ""]
        lines += [f"- {one['sentence']}" for one in found["descriptive"]]
    return "\n".join(lines) + "\n"


def arm_columns(report: str) -> list[str]:
    """What `arm_cells` holds, of the epoch that is reported."""
    return ["seeds", f"{report}, mean ± sd", "95 % interval", "of the teacher", "best epoch adds"]


def arm_cells(record: Mapping[str, Any]) -> list[str]:
    """An arm's line in a table of scores, without its name."""
    spread = "" if record["sd"] is None else f" ± {record['sd']:.4f}"
    return [
        str(len(record["values"])),
        f"{record['mean']:.4f}{spread}",
        "–" if record["low"] is None else f"{record['low']:.4f} to {record['high']:.4f}",
        "–" if record["of_teacher"] is None else f"{record['of_teacher']:.1%}",
        f"{100 * record['optimism']:+.1f}" if "optimism" in record else "–",
    ]


def _alpha_lines(arms: Mapping[str, Any]) -> list[str]:
    lines = []
    for arm, record in arms.items():
        if "alpha" not in record:
            continue
        alpha = record["alpha"]
        rows = "; ".join(
            f"layer {k}: {' '.join(f'{weight:.2f}' for weight in row)}"
            + (f" (moved {alpha['moved'][k]:.0%})" if alpha["moved"] else "")
            for k, row in enumerate(alpha["mean"])
        )
        between, reachable = alpha["between_seeds"], alpha["reachable"]
        could = "" if reachable is None else f" It could have moved {reachable:.0%}."
        apart = "" if between is None else f" Two seeds are {between:.3f} apart."
        lines += ["", f"α of {arm}, mean over seeds. {rows}.{could}{apart}"]
    return lines


def _epoch_lines(arms: Mapping[str, Any]) -> list[str]:
    """Mean scores by epoch, if there is more than one."""
    rows = {arm: record["by_epoch"] for arm, record in arms.items() if "by_epoch" in record}
    shown = [
        f"- {arm}: {' '.join(f'{score:.4f}' for score in scores)}"
        for arm, scores in rows.items()
        if len(scores) > 1
    ]
    return ["", "By epoch, mean over seeds:", "", *shown] if shown else []


def _gradient_lines(arms: Mapping[str, Any]) -> list[str]:
    """Which part of the loss pulls how much at the beginning, if it was measured."""
    shown = [
        f"- {arm}: " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items())
        for arm, record in arms.items()
        if (shares := record.get("gradient_shares"))
    ]
    heading = f"Share of each part in the gradient on the student, first {EARLY_STEPS} steps:"
    return ["", heading, "", *shown] if shown else []


def _published_lines(published: Sequence[Mapping[str, Any]]) -> list[str]:
    if not published:
        return []
    lines = [
        "",
        "## Beside the published scores",
        "",
        "In brackets: where one more run of ours would lie in 95 of 100 cases.",
        "",
        "| task | arm | score | published | ours, best epoch on dev | ours, last epoch |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in published:
        ours = " | ".join(_beside_text(one[report]) for report in ("best_on_dev", "last"))
        lines.append(
            f"| {one['task']} | {one['arm']} | {one['metric']} | {one['published']:.4f} | {ours} |"
        )
    return lines


def _beside_text(ours: Mapping[str, Any] | None) -> str:
    if ours is None:
        return "–"
    if ours["single_run"] is None:
        return f"{ours['mean']:.4f} (one seed, or all equal: no interval)"
    low, high = ours["single_run"]
    where = "within" if ours["within"] else "outside"
    return f"{ours['mean']:.4f} [{low:.4f} to {high:.4f}]: published is {where}"


def plan_text(plan: Plan, study: Study | None) -> str:
    """What a study will run, and what its seeds can show."""
    finished = sum(map(study.has, plan.runs)) if study else 0
    lines = [f"{plan.study.title}: {len(plan.runs)} runs, teachers to make: {len(plan.teachers)}"]
    for task, arms in plan.table.items():
        counted = ", ".join(f"{arm} × {len(cells)}" for arm, cells in arms.items())
        lines.append(f"  {task}: {counted}")
    family = plan.judged
    if not family:
        lines.append("primary family: none declared, so nothing will get a verdict")
    seeds = [plan.seeds_of_both(*pair) for pair in family]
    least = [smallest_p(count) if count else 1.0 for count in seeds]
    best = holm(least) if family else []  # if all of them came out as clearly as they can
    for (task, first, second), count, alone, last in zip(family, seeds, least, best, strict=True):
        adjusted = min(1.0, alone * len(family))
        can = "no verdict is possible"
        if adjusted <= LEVEL:
            can = "a verdict is possible"
        elif last <= LEVEL:
            can = "a verdict is possible only after others of the family are decided"
        lines.append(
            f"  judged: {first} against {second} on {task}, {count} seeds: smallest p after Holm "
            f"{adjusted:.2g}, so {can}"
        )
    if finished and study:
        took = [seconds for name in plan.runs if (seconds := study.seconds(name)) is not None]
        each = f" ({np.mean(took):.0f} s each on average)" if took else ""
        lines.append(f"finished runs: {finished}{each}, left: {len(plan.runs) - finished}")
    return "\n".join(lines)
