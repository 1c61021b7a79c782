"""The page of one distillation or fine-tuning, finished or not."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from layermix.evaluation import metrics
from layermix.evaluation.predictions import Answers
from layermix.evaluation.statistics import Score, row_bootstrap
from layermix.report import figures
from layermix.report.charts import (
    MOST_ROWS,
    alpha_figures,
    answer_figures,
    class_name,
    loss_rows,
    search_note,
    shown_text,
)
from layermix.report.figures import Figure
from layermix.report.html import Page, Search, Section, Table
from layermix.runs.model_card import bench_cells, bench_note
from layermix.runs.reader import RunFiles, Texts


def run_page(run: RunFiles) -> Page:
    """The page of one distillation or fine-tuning."""
    reported = run.result.reported
    answers = run.answers(reported)
    sections = [
        Section("Scores", tables=_score_tables(run), figures=_run_scores(run)),
        Section("Size and speed", tables=_speed_tables(run)),
        Section("What was learned", figures=_run_learning(run)),
        Section("α", figures=_run_alpha(run)),
    ]
    classes = _classes(run)
    if answers is not None:
        name = "model" if run.result.student is None else "student"
        sections.append(Section("Answers", figures=answer_figures({name: answers}, classes, "")))
        if answers.taught.all():
            sections.append(
                Section(
                    "Where teacher and student disagree",
                    search=_run_disagreements(answers, classes, run.texts),
                )
            )
    return Page(
        f"{run.name}: {run.result.task or run.result.data.place}",
        run.status,
        _run_headline(run, reported, answers),
        [f"{what}." for what in run.missing],
        [one for one in sections if one.figures or one.tables or one.search],
        {
            "config.yaml": run.config,
            "What the run said": "\n".join([*run.result.warnings, *run.result.notes]),
            "environment.json": json.dumps(run.environment, indent=2, ensure_ascii=False),
            "To repeat it": _repeat(run),
        },
    )


def _repeat(run: RunFiles) -> str:
    command = "teach" if run.result.student is None else "distill"
    return shlex.join(["layermix", command, str(run.folder / "config.yaml"), "--out", "NEW"]) + "\n"


def _classes(run: RunFiles) -> list[str]:
    return (run.result.student or run.result.teacher).classes


def _taught(run: RunFiles, metric: str) -> float | None:
    """The teacher's score, if there is a teacher."""
    return None if run.result.student is None else run.result.teacher.score(metric)


def _run_headline(run: RunFiles, reported: str, answers: Answers | None) -> list[str]:
    told = []
    result = run.result
    if run.status == "unfinished":
        steps = run.history and run.history[-1]["step"]
        where = f"it is at step {steps}" if steps else "no step is logged yet"
        told.append(f"This run is not finished: {where}.")
    elif run.status != "ok":
        told.append(
            f"This run {run.status}: {result.error}. The same command with --resume goes on."
        )
    score, taught = result.score(reported, result.metric), _taught(run, result.metric)
    if score is None:
        return told
    epoch = result.metrics[reported].get("epoch")
    own = f"{result.metric} {score:.4f} on validation ({reported} epoch: {epoch})"
    if taught is None:
        return [*told, f"{own}."]
    kept = f", so it keeps {score / taught:.1%}" if taught > 0 else ""
    told.append(f"The student has {own}; its teacher {taught:.4f}{kept}.")
    told += [*_interval(answers, result.metric), *_majority(run, answers), *_size(run)]
    told.append(
        "This is one run. Another seed would give another score: what the distillation brought, "
        "and which mix is better, only a study tells (`layermix study`)."
    )
    return told


def _majority(run: RunFiles, answers: Answers | None) -> list[str]:
    """What a score is worth: that of always answering the commonest class."""
    if answers is None or not answers.known.any():
        return []
    share = metrics.majority_share(answers.labels)
    given = np.unique(answers.predicted[0])
    warned = ""
    if len(given) == 1 and len(np.unique(answers.labels[answers.known])) > 1:
        only = class_name(_classes(run), int(given[0]))
        warned = f" This student answers {only} on every row: it has learned nothing else."
    return [f"Always answering the commonest class is right on {share:.1%}.{warned}"]


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
    taken = run.result.timings.milliseconds_per_text
    student, teacher = taken.get("student", 0), taken.get("teacher", 0)
    if not student or not teacher:
        return " Its speed was not measured."
    return (
        f" A text takes {student:.1f} ms instead of {teacher:.1f}, so it is "
        f"{teacher / student:.1f} times as fast (medians, one text at a time, as the machine was)."
    )


def _interval(answers: Answers | None, metric: str) -> list[str]:
    """How sure the difference between student and teacher is, over examples."""
    if answers is None or not answers.taught.all() or metric not in get_args(Score):
        return []
    known = answers.known
    if not known.any():
        return []
    score: Any = metric
    found = row_bootstrap(
        answers.predicted[0][known], answers.teacher[0][known], answers.labels[known], score
    )
    same = float((answers.predicted[0] == answers.teacher[0]).mean())
    return [
        f"Student minus teacher: {100 * found.difference:+.1f} points, 95 % interval over the "
        f"{int(known.sum())} examples {100 * found.low:+.1f} to {100 * found.high:+.1f}; they give "
        f"the same answer on {same:.1%} of the rows."
    ]


def _score_tables(run: RunFiles) -> list[Table]:
    """All scores of the reported epochs beside the teacher's."""
    rows: dict[str, Mapping[str, Any]] = {}
    if run.result.student is not None:
        rows = {f"teacher, {split}": one for split, one in run.result.teacher.metrics.items()}
    for name, report in run.result.metrics.items():
        if name == "test":
            rows["test"] = report
            continue
        for split, found in run.result.scores(name).items():
            rows[f"{name} (epoch {report.get('epoch')}), {split}"] = found
    names = list(
        dict.fromkeys(
            key for one in rows.values() for key, value in one.items() if isinstance(value, float)
        )
    )
    if not names:
        return []
    cells = [[title, *(_four(one.get(name)) for name in names)] for title, one in rows.items()]
    return [Table("The teacher, and the reported epochs", ["", *names], cells)]


def _speed_tables(run: RunFiles) -> list[Table]:
    """What `layermix bench` has measured."""
    if run.speed is None:
        return []
    record = run.speed.model_dump()
    return [Table(bench_note(record), *bench_cells(record))]


def _four(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "–"


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
    taught = _taught(run, metric)
    found = [figures.by_epoch("by-epoch", metric, rows, [] if taught is None else [taught])]
    score = run.result.score(run.result.reported, metric)
    if run.result.student is not None and taught is not None and score is not None:
        both = (
            ("teacher", run.result.teacher, taught),
            ("student", run.result.student, score),
        )
        taken = run.result.timings.milliseconds_per_text
        rows = [
            {
                "name": name,
                "kind": name,
                "parameters": one.parameters and one.parameters / 1e6,
                "milliseconds": taken.get(name),
                "score": value,
            }
            for name, one, value in both
        ]
        found += figures.costs("", metric, rows)
    return found


def _logged_metric(history: Sequence[Mapping[str, Any]]) -> str:
    """The score of a run that has no result yet: the first that was logged of the usual ones."""
    logged = {key for line in history for key in line}
    return next(
        (name for name in get_args(Score) if f"eval_validation_{name}" in logged), "accuracy"
    )


def _run_learning(run: RunFiles) -> list[Figure]:
    rows = loss_rows({run.name: [run.history]})
    return [figures.losses("losses", rows)] if rows else []


def _run_alpha(run: RunFiles) -> list[Figure]:
    mix = run.result.mix
    return alpha_figures("", {0: run.history}, mix.model_dump() if mix else {})


def _run_disagreements(answers: Answers, classes: Sequence[str], texts: Texts) -> Search:
    student, sure = answers.predicted[0], answers.confidence[0]
    teacher, teacher_sure = answers.teacher[0], answers.teacher_confidence[0]
    differ = np.flatnonzero(student != teacher)
    order = differ[np.argsort(-(sure[differ] + teacher_sure[differ]), kind="stable")]
    rows = [
        [
            str(answers.row_ids[at]),
            shown_text(texts, int(answers.row_ids[at])),
            class_name(classes, answers.labels[at]),
            f"{class_name(classes, teacher[at])} ({teacher_sure[at]:.0%})",
            f"{class_name(classes, student[at])} ({sure[at]:.0%})",
        ]
        for at in order[:MOST_ROWS]
    ]
    return Search(
        "Rows with different answers",
        search_note(len(differ), len(student), len(rows), bool(texts)),
        ["row", "text", "label", "teacher", "student"],
        rows,
    )
