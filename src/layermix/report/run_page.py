"""The page of one distillation or fine-tuning, finished or not."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layermix.evaluation.predictions import Predictions
from layermix.evaluation.statistics import row_bootstrap
from layermix.evaluation.weighted_scores import WEIGHTED
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
from layermix.runs.model_card import bench_note, bench_tables, guessed_note
from layermix.runs.reader import RunFiles


def run_page(run: RunFiles) -> Page:
    """The page of one distillation or fine-tuning."""
    predictions = run.predictions(run.result.metrics.saved_epoch)
    sections = [
        Section("Scores", tables=_score_tables(run), figures=_run_scores(run)),
        Section("Size and speed", tables=_speed_tables(run)),
        Section("What was learned", figures=_run_learning(run)),
        Section("α", figures=_run_alpha(run)),
    ]
    classes = _classes(run)
    if predictions is not None:
        name = "model" if run.result.student is None else "student"
        charts = ANSWERS[predictions.form].charts({name: predictions}, classes, "")
        sections.append(Section("Predictions", figures=charts))
        if predictions.has_teacher.all():
            sections.append(
                Section(
                    "Where teacher and student disagree",
                    search=_run_disagreements(predictions, classes, run),
                )
            )
    return Page(
        f"{run.name}: {run.result.task or run.result.data.place or 'a run'}",
        run.status,
        _run_headline(run, predictions),
        [f"{problem}." for problem in run.problems],
        [section for section in sections if section.figures or section.tables or section.search],
        {
            "config.yaml": run.config,
            "Warnings and notes": "\n".join(map(str, [*run.result.warnings, *run.result.notes])),
            "environment.json": run.environment,
            "To repeat it": _repeat(run),
        },
    )


def _repeat(run: RunFiles) -> str:
    command = "teach" if run.result.student is None else "distill"
    return shlex.join(["layermix", command, str(run.folder / "config.yaml"), "--out", "NEW"]) + "\n"


def _classes(run: RunFiles) -> Sequence[str]:
    return run.result.trained.classes


def _teacher_score(run: RunFiles, metric: str) -> float | None:
    """The teacher's score, if there is a teacher."""
    return None if run.result.student is None else run.result.teacher.score(metric)


def _run_headline(run: RunFiles, predictions: Predictions | None) -> list[str]:
    lines = []
    result = run.result
    if run.status == "unfinished":
        steps = run.history and run.history[-1]["step"]
        progress = f"it is at step {steps}" if steps else "no step is logged yet"
        lines.append(f"This run is not finished: {progress}.")
    elif run.status != "ok":
        reason = result.error or "no reason is on record"
        ended = "was cancelled" if run.status == "cancelled" else run.status
        lines.append(f"This run {ended}: {reason}. The same command with --resume continues it.")
    score, teacher_score = result.score, _teacher_score(run, result.metric)
    if score is None:
        return lines
    name, epoch = result.metrics.saved_epoch, result.metrics.saved.epoch
    own = f"{result.metric} {score:.4f} on validation ({name} epoch: {epoch})"
    if teacher_score is None:
        return [*lines, f"{own}.", *filter(None, [guessed_note(result)])]
    is_share = teacher_score > 0 and result.prefers_more
    kept = f", so it keeps {score / teacher_score:.1%}" if is_share else ""
    lines.append(f"The student has {own}; its teacher has {teacher_score:.4f}{kept}.")
    guessed = guessed_note(result)  # there the teacher is compared with itself
    lines += [guessed] if guessed else _interval(predictions, result.metric)
    lines += [*_constant(run, predictions), *_size(run)]
    lines.append(
        "This is one run, and another seed would give another score. To measure what the "
        "distillation gains, and which mix is better, run a study (`layermix study`)."
    )
    return lines


def _constant(run: RunFiles, predictions: Predictions | None) -> list[str]:
    """What always answering the same would have, for comparison."""
    if predictions is None or not predictions.known.any():
        return []
    return ANSWERS[predictions.form].constant(predictions, _classes(run))


def _size(run: RunFiles) -> list[str]:
    student, teacher = run.result.student, run.result.teacher
    if student is None or not student.parameters or not teacher.parameters:
        return []
    disk = student.bytes_on_disk
    on_disk = f" ({disk / 1e6:.1f} MB on disk)" if disk else ""
    return [
        f"It has {student.parameters / 1e6:.1f} million parameters{on_disk}, "
        f"{student.parameters / teacher.parameters:.1%} of the teacher's "
        f"{teacher.parameters / 1e6:.1f} million.{_speed(run)}"
    ]


def _speed(run: RunFiles) -> str:
    milliseconds = run.result.timings.milliseconds_per_text or {}
    student, teacher = milliseconds.get("student", 0), milliseconds.get("teacher", 0)
    if not student or not teacher:
        return " Its speed was not measured."
    return (
        f" A text takes {student:.1f} ms instead of {teacher:.1f}, so it is "
        f"{teacher / student:.1f} times as fast (medians, one text at a time, during the run)."
    )


def _interval(predictions: Predictions | None, metric: str) -> list[str]:
    """The interval of the difference between student and teacher over rows."""
    if predictions is None or not predictions.has_teacher.all() or metric not in WEIGHTED:
        return []
    known = predictions.known
    if not known.any():
        return []
    student, teacher = predictions.predicted[0], predictions.teacher[0]
    labels, groups = predictions.labels[known], predictions.groups_of_known
    paired = row_bootstrap(student[known], teacher[known], labels, metric, groups=groups)
    of_groups = "" if groups is None else f" in {len(np.unique(groups))} groups"
    same = float((~ANSWERS[predictions.form].differ(student, teacher)).mean())
    return [
        f"Student minus teacher: {100 * paired.difference:+.1f} points, 95 % interval over the "
        f"{int(known.sum())} examples{of_groups} {100 * paired.low:+.1f} to "
        f"{100 * paired.high:+.1f}; {ANSWERS[predictions.form].agree} "
        f"{same:.1%} of the rows."
    ]


def _score_tables(run: RunFiles) -> list[Table]:
    """All scores of the reported epochs beside the teacher's."""
    rows: dict[str, Mapping[str, float]] = {}
    teacher = run.result.teacher.metrics
    if run.result.student is not None and teacher is not None:
        rows = {f"teacher, {split}": scores.numbers for split, scores in teacher.splits.items()}
    for name, epoch_scores in run.result.metrics.epochs.items():
        for split, scores in epoch_scores.splits.items():
            rows[f"{name} (epoch {epoch_scores.epoch}), {split}"] = scores.numbers
    if run.result.metrics.test is not None:
        rows["test"] = run.result.metrics.test.numbers
    names = list(dict.fromkeys(name for numbers in rows.values() for name in numbers))
    if not names:
        return []
    cells = [
        [title, *(f"{numbers[name]:.4f}" if name in numbers else "–" for name in names)]
        for title, numbers in rows.items()
    ]
    return [Table("Scores of the teacher and of the reported epochs", ["", *names], cells)]


def _speed_tables(run: RunFiles) -> list[Table]:
    """The tables of `layermix bench`."""
    if run.bench is None:
        return []
    sizes, ratios = bench_tables(run.bench)
    return [Table("Sizes and times", *sizes), Table(bench_note(run.bench), *ratios)]


def _run_scores(run: RunFiles) -> list[Figure]:
    metric = run.result.metric or _logged_metric(run.history)
    rows = [
        {"split": split, "epoch": round(line["epoch"]), "score": line[f"eval_{split}_{metric}"]}
        for line in run.history
        for split in ("validation", "holdout")
        if line.get(f"eval_{split}_{metric}") is not None and "epoch" in line
    ]
    if not rows:
        return []
    teacher_score = _teacher_score(run, metric)
    teachers = [] if teacher_score is None else [teacher_score]
    charts = [figures.by_epoch("by-epoch", metric, rows, teachers)]
    score = run.result.metrics.saved.score(metric)
    if run.result.student is not None and teacher_score is not None and score is not None:
        both = (
            ("teacher", run.result.teacher, teacher_score),
            ("student", run.result.student, score),
        )
        milliseconds = run.result.timings.milliseconds_per_text or {}
        rows = [
            {
                "name": name,
                "kind": name,
                "parameters": model.parameters and model.parameters / 1e6,
                "milliseconds": milliseconds.get(name),
                "score": value,
            }
            for name, model, value in both
        ]
        charts += figures.costs("", metric, rows)
    return charts


def _logged_metric(history: Sequence[Mapping[str, Any]]) -> str:
    """The score that a run without a result shows: the first known one in its history."""
    logged = {key for line in history for key in line}
    return next((name for name in WEIGHTED if f"eval_validation_{name}" in logged), "accuracy")


def _run_learning(run: RunFiles) -> list[Figure]:
    rows = loss_rows({run.name: [run.history]})
    return [figures.losses("losses", rows)] if rows else []


def _run_alpha(run: RunFiles) -> list[Figure]:
    return alpha_charts("", {0: run.history}, run.result.mix)


def _run_disagreements(predictions: Predictions, classes: Sequence[str], run: RunFiles) -> Search:
    shown = ANSWERS[predictions.form]
    student, confidence = predictions.predicted[0], predictions.confidence[0]
    teacher, teacher_confidence = predictions.teacher[0], predictions.teacher_confidence[0]
    differ = np.flatnonzero(shown.differ(student, teacher))
    strength = shown.strength(student, teacher, confidence + teacher_confidence)
    order = differ[np.argsort(-strength[differ], kind="stable")]
    rows = []
    for row in order[:MOST_ROWS]:
        number = int(predictions.row_ids[row])
        about = ShownRow(joined_text(run.texts, number), run.words.get(number, ()))
        label, by_teacher, by_student = predictions.labels[row], teacher[row], student[row]
        rows.append(
            [
                str(number),
                shortened(shown.marked(about, classes, label)),
                shown.text_in(about, classes, label, [by_teacher, by_student]),
                shown.text_in(about, classes, by_teacher, [by_student], teacher_confidence[row]),
                shown.text_in(about, classes, by_student, [by_teacher], confidence[row]),
            ]
        )
    note = search_note(len(differ), len(student), len(rows), bool(run.texts))
    return Search(
        shown.differing,
        note + shown.explained,
        ["row", "text", "label", "teacher", "student"],
        rows,
    )
