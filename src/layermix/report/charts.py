"""What the pages of runs and studies share: histories and answers -> figures and table cells."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layermix.evaluation.predictions import Answers
from layermix.report import figures
from layermix.report.figures import Figure, thin
from layermix.runs.reader import Texts

MOST_ROWS = 1000
"""Rows of the table of disagreements; those on which most answers differ are kept."""
MOST_TEXT = 600
"""Characters of a text that a page shows."""
BINS = 10
"""Of a calibration figure."""


def loss_rows(
    histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
) -> list[dict[str, Any]]:
    """Arm -> histories of its seeds; the mean of every part at the steps that all have."""
    rows = []
    for arm, of_arm in histories.items():
        parts = dict.fromkeys(
            key for lines in of_arm for line in lines for key in line if key.startswith("loss_")
        )
        for part in parts:
            by_step: dict[int, list[float]] = {}
            for lines in of_arm:
                for line in lines:
                    if line.get(part) is not None and "step" in line:
                        by_step.setdefault(line["step"], []).append(line[part])
            steps = sorted(step for step, found in by_step.items() if len(found) == len(of_arm))
            rows += [
                {
                    "part": part.removeprefix("loss_"),
                    "arm": arm,
                    "step": step,
                    "loss": float(np.mean(by_step[step])),
                }
                for step in thin(steps)
            ]
    return sorted(rows, key=lambda row: row["part"] == "entropy")


def alpha_figures(
    name: str, histories: Mapping[int, Sequence[Mapping[str, Any]]], mix: Mapping[str, Any]
) -> list[Figure]:
    """Seed -> history: α over time, its final values by seed, its entropy."""
    trails: dict[int, dict[int, Any]] = {
        seed: {line["step"]: np.asarray(line["alpha"]) for line in lines if "alpha" in line}
        for seed, lines in histories.items()
    }
    common = sorted(set.intersection(*(set(trail) for trail in trails.values())))
    shapes = {found.shape for trail in trails.values() for found in trail.values()}
    if not common or len(shapes) != 1:
        return []
    ((students, teachers),) = shapes
    student_names = _layers(mix.get("student_layers"), students)
    teacher_names = _layers(mix.get("teacher_layers"), teachers)
    steps = thin(common)
    every = np.stack([[trail[step] for step in steps] for trail in trails.values()])
    moves = bool(np.ptp(every, axis=1).max() > 0)
    if not moves:  # a fixed α: one picture will do
        steps, every = steps[-1:], every[:, -1:]
    means = every.mean(0)
    rows = [
        {
            "frame": frame,
            "step": step,
            "student": student_names[k],
            "teacher": teacher_names[index],
            "alpha": round(float(means[frame, k, index]), 4),
        }
        for frame, step in enumerate(steps)
        for k in range(students)
        for index in range(teachers)
    ]
    found = [figures.alpha(f"alpha{name}", rows, steps, len(trails))]
    if moves and len(trails) > 1:
        last = [
            {
                "seed": seed,
                "student": student_names[k],
                "teacher": teacher_names[index],
                "alpha": round(float(trail[max(trail)][k, index]), 4),
            }
            for seed, trail in trails.items()
            for k in range(students)
            for index in range(teachers)
        ]
        found.append(figures.alpha_by_seed(f"alpha-seeds{name}", last))
    if moves:
        entropies = -(every * np.log(np.clip(every, 1e-12, 1))).sum(-1).mean(0)  # not of the mean α
        lines = [
            {"layer": str(student_names[k]), "step": step, "entropy": float(entropies[frame, k])}
            for frame, step in enumerate(steps)
            for k in range(students)
        ]
        found.append(figures.entropy(f"entropy{name}", lines, math.log(teachers)))
    return found


def _layers(names: Sequence[int] | None, count: int) -> Sequence[int]:
    """The numbers of the layers; those of an α whose layers are not on record count from 0."""
    return names if names and len(names) == count else range(count)


# -- answers ---------------------------------------------------------------------------------------


def answer_figures(
    models: Mapping[str, Answers], classes: Sequence[str], name: str
) -> list[Figure]:
    """Confusion and calibration of the models and, once, of their teacher."""
    confusion: list[dict[str, Any]] = []
    calibration: list[dict[str, Any]] = []
    first = next(iter(models.values()))
    everybody: dict[str, tuple[Any, Any]] = {}
    taught = [one for one in models.values() if one.taught.any()]
    if taught:
        answers = np.concatenate([one.teacher[one.taught] for one in taught])
        sure = np.concatenate([one.teacher_confidence[one.taught] for one in taught])
        _, each = np.unique(answers, axis=0, return_index=True)  # each teacher once
        everybody["teacher"] = answers[each], sure[each]
    for model, one in models.items():
        everybody[model] = one.predicted, one.confidence
    known, labels = first.known, first.labels[first.known]
    if not known.any():
        return []
    for model, (predicted, confidence) in everybody.items():
        answers, sure = predicted[:, known], confidence[:, known]
        confusion += _confusion_rows(model, answers, labels, classes)
        calibration += _calibration_rows(model, sure.ravel(), (answers == labels).ravel())
    shown = list(classes) or [str(index) for index in range(int(labels.max()) + 1)]
    seeds = max(len(one.predicted) for one in models.values())
    return [
        figures.confusion(f"confusion{name}", confusion, shown, seeds),
        figures.calibration(f"calibration{name}", calibration, seeds),
    ]


def _confusion_rows(
    model: str, answers: Any, labels: Any, classes: Sequence[str]
) -> list[dict[str, Any]]:
    rows = []
    count = max(len(classes), int(labels.max()) + 1, int(answers.max()) + 1)
    names = [classes[index] if index < len(classes) else str(index) for index in range(count)]
    for label in range(count):
        of_label = answers[:, labels == label]
        if not of_label.size:
            continue
        for answer in range(count):
            given = float((of_label == answer).sum(1).mean())
            if not given and count > figures.MANY_CLASSES:
                continue
            share = given / of_label.shape[1]
            rows.append(
                {
                    "model": model,
                    "label": names[label],
                    "answer": names[answer],
                    "share": share,
                    "rows": given,
                }
            )
    return rows


def _calibration_rows(model: str, sure: Any, right: Any) -> list[dict[str, Any]]:
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    return [
        {
            "model": model,
            "confidence": float(sure[bins == index].mean()),
            "accuracy": float(right[bins == index].mean()),
            "rows": int((bins == index).sum()),
        }
        for index in range(BINS)
        if (bins == index).any()
    ]


def shown_text(texts: Texts, row: int) -> str:
    """The text or texts of a row, cut if it is long; empty if it is not on record."""
    found = " ⏐ ".join(str(part) for part in texts.get(row, ()))
    if len(found) > MOST_TEXT:
        return f"{found[:MOST_TEXT]}… ({len(found):,} characters)"
    return found


def class_name(classes: Sequence[str], index: int) -> str:
    """The name of a class, its number if it has none, a dash for a row without label."""
    if index < 0:
        return "–"
    return classes[index] if index < len(classes) else str(index)


def search_note(differ: int, rows: int, shown: int, texts: bool) -> str:
    """What a table of disagreements holds."""
    told = f"{differ} of {rows} rows"
    if shown < differ:
        told += f"; {shown} are shown, those on which most differ or are surest first"
    return told + ("." if texts else ". The texts are not on record here, only row numbers.")
