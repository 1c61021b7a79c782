"""A study's plan and results as text: tables in Markdown, sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from layermix.atomic import write_text
from layermix.escaping import markdown
from layermix.evaluation.statistics import LEVEL, holm, smallest_p
from layermix.studies.analysis import EARLY_STEPS
from layermix.studies.folder import Study
from layermix.studies.plan import Plan
from layermix.studies.schema import ArmScores, OwnScore, PublishedScore, StudyRecord, TaskScores


def write(record: StudyRecord, study: Study) -> None:
    """Write the results into the study's folder, as JSON and as Markdown."""
    write_text(study.results_file, record.to_json())
    write_text(study.results_file.with_suffix(".md"), study_text(record))


def study_text(record: StudyRecord) -> str:
    """The results as Markdown: notes, a table per task, verdicts, descriptions."""
    lines = [f"# {markdown(record.title)}", ""]
    lines += [f"- Note: {markdown(str(note))}." for note in record.notes]
    for task, scores in record.tasks.items():
        lines += ["", f"## {markdown(task)}", "", *_task_lines(record, scores)]
    for arm, distance in record.alpha_between_tasks.items():
        lines += ["", f"α of {markdown(arm)}: the means of two tasks are {distance:.3f} apart."]
    lines += _published_lines(record.published)
    lines += ["", "## Verdicts on the primary family", ""]
    lines += [f"- {markdown(verdict.sentence)}" for verdict in record.family]
    lines += [f"- {markdown(sentence)}" for sentence in not_yet_sentences(record)]
    if not record.family and not record.not_yet:
        lines.append("- none was declared.")
    if record.descriptive:
        lines += ["", "## Without verdict", ""]
        lines += [f"- {markdown(description.sentence)}" for description in record.descriptive]
    return "\n".join(lines) + "\n"


def not_yet_sentences(record: StudyRecord) -> list[str]:
    """One sentence for each pair of the family that cannot be compared yet."""
    return [
        f"{first} against {second} on {task}: no seed of both is finished yet."
        for task, first, second in record.not_yet
    ]


def _task_lines(record: StudyRecord, scores: TaskScores) -> list[str]:
    columns = ["arm", *arm_columns(record.report)]
    lines = [
        f"{scores.metric} on {record.split}; {beside_text(scores)}.",
        "",
        f"| {' | '.join(columns)} |",
        f"| {' | '.join('---' for _ in columns)} |",
    ]
    lines += [
        f"| {' | '.join([markdown(name), *arm_cells(arm)])} |" for name, arm in scores.arms.items()
    ]
    lines += _epoch_lines(scores.arms)
    lines += _gradient_lines(scores.arms)
    lines += _alpha_lines(scores.arms)
    return lines


def beside_text(scores: TaskScores) -> str:
    """The score of the teachers, or of soft labels, and of baselines, in words."""
    several = f" (mean of {len(scores.teacher)})" if len(scores.teacher) > 1 else ""
    parts = [f"teacher {np.mean(scores.teacher):.4f}{several}" if scores.teacher else NO_TEACHER]
    parts += [f"{name} {score:.4f}" for name, score in (scores.baselines or {}).items()]
    return "; ".join(parts)


NO_TEACHER = "no teacher was scored"


def arm_columns(report: str) -> list[str]:
    """The headings of `arm_cells`."""
    return [
        "seeds",
        f"{report}, mean ± sd",
        "95 % interval",
        "of the teacher",
        "agrees with the teacher",
        "best epoch adds",
    ]


def arm_cells(arm: ArmScores) -> list[str]:
    """An arm's row in a table of scores, without its name."""
    spread = "" if arm.sd is None else f" ± {arm.sd:.4f}"
    return [
        str(len(arm.values)),
        f"{arm.mean:.4f}{spread}",
        "–" if arm.low is None else f"{arm.low:.4f} to {arm.high:.4f}",
        _of_teacher(arm),
        _agreement(arm),
        "–" if arm.optimism is None else f"{100 * arm.optimism:+.1f}",
    ]


def _of_teacher(arm: ArmScores) -> str:
    """The mean score over the teacher's, with the interval of the score in the same measure."""
    if arm.of_teacher is None:
        return "–"
    if arm.low is None or arm.high is None or not arm.mean:
        return _share(arm.of_teacher)
    teacher = arm.mean / arm.of_teacher
    return _share(arm.of_teacher, arm.low / teacher, arm.high / teacher)


def _agreement(arm: ArmScores) -> str:
    if (found := arm.agreement) is None:
        return "–"
    if not found.correlation:
        return _share(found.mean, found.low, found.high)
    known = found.low is not None and found.high is not None
    spread = f" ({found.low:.3f} to {found.high:.3f})" if known else ""
    return f"r = {found.mean:.3f}{spread}"


def _share(mean: float, low: float | None = None, high: float | None = None) -> str:
    spread = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{mean:.1%}{spread}"


def _alpha_lines(arms: Mapping[str, ArmScores]) -> list[str]:
    lines = []
    for name, arm in arms.items():
        if (alpha := arm.alpha) is None:
            continue
        rows = "; ".join(
            f"layer {k}: {' '.join(f'{weight:.2f}' for weight in row)}"
            + ("" if alpha.moved is None else f" (moved {alpha.moved[k]:.0%})")
            for k, row in enumerate(alpha.mean)
        )
        reachable = (
            "" if alpha.reachable is None else f" It could have moved {alpha.reachable:.0%}."
        )
        between = (
            ""
            if alpha.between_seeds is None
            else f" Two seeds are {alpha.between_seeds:.3f} apart."
        )
        lines += ["", f"α of {markdown(name)}, mean over seeds. {rows}.{reachable}{between}"]
    return lines


def _epoch_lines(arms: Mapping[str, ArmScores]) -> list[str]:
    """Mean scores by epoch, if there is more than one."""
    lines = [
        f"- {markdown(name)}: {' '.join(f'{score:.4f}' for score in arm.by_epoch)}"
        for name, arm in arms.items()
        if arm.by_epoch is not None and len(arm.by_epoch) > 1
    ]
    return ["", "By epoch, mean over seeds:", "", *lines] if lines else []


def _gradient_lines(arms: Mapping[str, ArmScores]) -> list[str]:
    """The share of each part of the loss in the first steps, if it was measured."""
    lines = [
        f"- {markdown(name)}: "
        + ", ".join(f"{part} {share:.0%}" for part, share in arm.gradient_shares.items())
        for name, arm in arms.items()
        if arm.gradient_shares
    ]
    heading = f"Share of each part in the gradient on the student, first {EARLY_STEPS} steps:"
    return ["", heading, "", *lines] if lines else []


def _published_lines(published: Sequence[PublishedScore]) -> list[str]:
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
    for score in published:
        ours = " | ".join(_own_text(own) for own in (score.best_on_dev, score.last))
        task, arm = markdown(score.task), markdown(score.arm)
        lines.append(f"| {task} | {arm} | {score.metric} | {score.published:.4f} | {ours} |")
    return lines


def _own_text(ours: OwnScore | None) -> str:
    if ours is None:
        return "–"
    if ours.single_run is None:
        return f"{ours.mean:.4f} (one seed, or all equal: no interval)"
    low, high = ours.single_run
    where = "within" if ours.within else "outside"
    return f"{ours.mean:.4f} [{low:.4f} to {high:.4f}]: published is {where}"


def plan_text(plan: Plan, study: Study | None) -> str:
    """What a study will run, and what its seeds can show."""
    finished = sum(map(study.has, plan.runs)) if study else 0
    lines = [f"{plan.study.title}: {len(plan.runs)} runs, teachers to make: {len(plan.teachers)}"]
    for task, arms in plan.table.items():
        counted = ", ".join(f"{arm} × {len(cells)}" for arm, cells in arms.items())
        lines.append(f"  {task}: {counted}")
    family = plan.judged
    if not family:
        lines.append("primary family: none declared, so no comparison will get a verdict")
    seeds = [plan.seeds_of_both(*pair) for pair in family]
    least = [smallest_p(count) if count else 1.0 for count in seeds]
    best = holm(least) if family else []  # if all differences have one sign
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
        durations = [seconds for name in plan.runs if (seconds := study.seconds(name)) is not None]
        each = f" ({np.mean(durations):.0f} s each on average)" if durations else ""
        lines.append(f"finished runs: {finished}{each}, left: {len(plan.runs) - finished}")
    return "\n".join(lines)
