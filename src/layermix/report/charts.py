"""Charts and table cells that run and study pages share, from histories and predictions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layermix.evaluation.predictions import Predictions
from layermix.report import figures
from layermix.report.figures import Figure, thin
from layermix.runs.reader import Texts
from layermix.runs.schema import MixRecord

MOST_ROWS = 1000
"""Largest number of rows in a table of disagreements."""
MOST_TEXT = 600
"""Largest number of characters of a text on a page."""
BINS = 10
"""Number of bins in a calibration chart."""


def loss_rows(
    histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
) -> list[dict[str, Any]]:
    """Rows of the loss chart: the mean of each part over seeds, at the steps that all seeds have.

    Args:
        histories: Arm -> histories of its seeds.
    """
    rows = []
    for arm, by_seed in histories.items():
        parts = dict.fromkeys(
            key for lines in by_seed for line in lines for key in line if key.startswith("loss_")
        )
        for part in parts:
            by_step: dict[int, list[float]] = {}
            for lines in by_seed:
                for line in lines:
                    if line.get(part) is not None and "step" in line:
                        by_step.setdefault(line["step"], []).append(line[part])
            steps = sorted(step for step, losses in by_step.items() if len(losses) == len(by_seed))
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


def alpha_charts(
    name: str, histories: Mapping[int, Sequence[Mapping[str, Any]]], mix: MixRecord | None
) -> list[Figure]:
    """Charts of α over time, of its final values by seed, and of its entropy.

    Args:
        name: End of the charts' names.
        histories: Seed -> history.
        mix: Has the numbers of the layers.
    """
    alphas: dict[int, dict[int, Any]] = {
        seed: {line["step"]: np.asarray(line["alpha"]) for line in lines if "alpha" in line}
        for seed, lines in histories.items()
    }
    common = sorted(set.intersection(*(set(by_step) for by_step in alphas.values())))
    shapes = {alpha.shape for by_step in alphas.values() for alpha in by_step.values()}
    if not common or len(shapes) != 1:
        return []
    ((students, teachers),) = shapes
    student_names = _layers(None if mix is None else mix.student_layers, students)
    teacher_names = _layers(None if mix is None else mix.teacher_layers, teachers)
    steps = thin(common)
    stacked = np.stack([[by_step[step] for step in steps] for by_step in alphas.values()])
    changes = bool(np.ptp(stacked, axis=1).max() > 0)
    if not changes:  # one step shows all of a fixed α
        steps, stacked = steps[-1:], stacked[:, -1:]
    means = stacked.mean(0)
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
    charts = [figures.alpha(f"alpha{name}", rows, steps, len(alphas))]
    if changes and len(alphas) > 1:
        last = [
            {
                "seed": seed,
                "student": student_names[k],
                "teacher": teacher_names[index],
                "alpha": round(float(by_step[max(by_step)][k, index]), 4),
            }
            for seed, by_step in alphas.items()
            for k in range(students)
            for index in range(teachers)
        ]
        charts.append(figures.alpha_by_seed(f"alpha-seeds{name}", last))
    if changes:
        entropies = -(stacked * np.log(np.clip(stacked, 1e-12, 1))).sum(-1)
        mean_entropy = entropies.mean(0)  # not the entropy of the mean α
        lines = [
            {"layer": str(student_names[k]), "step": step, "entropy": float(mean_entropy[frame, k])}
            for frame, step in enumerate(steps)
            for k in range(students)
        ]
        charts.append(figures.entropy(f"entropy{name}", lines, math.log(teachers)))
    return charts


def _layers(names: Sequence[int] | None, count: int) -> Sequence[int]:
    """The numbers of the layers; counted from 0 if they are not on record."""
    return names if names and len(names) == count else range(count)


# -- predictions -----------------------------------------------------------------------------------


def prediction_charts(
    models: Mapping[str, Predictions], classes: Sequence[str], name: str
) -> list[Figure]:
    """Charts of confusion and calibration of the models and of their teachers."""
    confusion: list[dict[str, Any]] = []
    calibration: list[dict[str, Any]] = []
    first = next(iter(models.values()))
    all_models: dict[str, tuple[Any, Any]] = {}
    with_teacher = [model for model in models.values() if model.has_teacher.any()]
    if with_teacher:
        predicted = np.concatenate([model.teacher[model.has_teacher] for model in with_teacher])
        confidence = np.concatenate(
            [model.teacher_confidence[model.has_teacher] for model in with_teacher]
        )
        _, first_rows = np.unique(predicted, axis=0, return_index=True)  # each teacher once
        all_models["teacher"] = predicted[first_rows], confidence[first_rows]
    for title, model in models.items():
        all_models[title] = model.predicted, model.confidence
    known, labels = first.known, first.labels[first.known]
    if not known.any():
        return []
    for title, (predicted, confidence) in all_models.items():
        predicted, confidence = predicted[:, known], confidence[:, known]
        confusion += _confusion_rows(title, predicted, labels, classes)
        if np.isfinite(confidence).all():  # not every kind of label has probabilities
            correct = (predicted == labels).ravel()
            calibration += _calibration_rows(title, confidence.ravel(), correct)
    shown = list(classes) or [str(index) for index in range(int(labels.max()) + 1)]
    seeds = max(len(model.predicted) for model in models.values())
    charts = [figures.confusion(f"confusion{name}", confusion, shown, seeds)]
    if calibration:
        charts.append(figures.calibration(f"calibration{name}", calibration, seeds))
    return charts


def _confusion_rows(
    model: str, predicted: Any, labels: Any, classes: Sequence[str]
) -> list[dict[str, Any]]:
    rows = []
    count = max(len(classes), int(labels.max()) + 1, int(predicted.max()) + 1)
    names = [classes[index] if index < len(classes) else str(index) for index in range(count)]
    for label in range(count):
        of_label = predicted[:, labels == label]
        if not of_label.size:
            continue
        for prediction in range(count):
            rows_of_pair = float((of_label == prediction).sum(1).mean())
            if not rows_of_pair and count > figures.MANY_CLASSES:
                continue
            share = rows_of_pair / of_label.shape[1]
            rows.append(
                {
                    "model": model,
                    "label": names[label],
                    "prediction": names[prediction],
                    "share": share,
                    "rows": rows_of_pair,
                }
            )
    return rows


def _calibration_rows(model: str, confidence: Any, correct: Any) -> list[dict[str, Any]]:
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "model": model,
            "confidence": float(confidence[bins == index].mean()),
            "accuracy": float(correct[bins == index].mean()),
            "rows": int((bins == index).sum()),
        }
        for index in range(BINS)
        if (bins == index).any()
    ]


def joined_text(texts: Texts, row: int) -> str:
    """The text or texts of a row; empty if they are not on record."""
    return " ⏐ ".join(str(part) for part in texts.get(row, ()))


def shortened(text: str) -> str:
    """A text of at most `MOST_TEXT` characters."""
    if len(text) > MOST_TEXT:
        return f"{text[:MOST_TEXT]}… ({len(text):,} characters)"
    return text


def class_name(classes: Sequence[str], index: int) -> str:
    """The name of a class; its number if it has none; a dash for a row without a label."""
    if index < 0:
        return "–"
    return classes[index] if index < len(classes) else str(index)


def search_note(differ: int, rows: int, shown: int, texts: bool) -> str:
    """A sentence on the rows in a table of disagreements."""
    note = f"{differ} of {rows} rows"
    if shown < differ:
        note += f"; the {shown} with the most disagreement or the highest confidence are shown"
    return note + ("." if texts else ". Only row numbers are on record here, not the texts.")
