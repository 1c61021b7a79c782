"""The whole job on a teacher and data that need no download: teach, distil five arms, compare.

A folder of finished runs is read, not made again; a stopped demo goes on where it was.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layermix.config import DistillConfig, TeachConfig, to_yaml
from layermix.console import Reporter
from layermix.core.signals import Teacher
from layermix.data.docstrings import docstring_pairs, write_pairs
from layermix.data.prepared import PreparedData
from layermix.data.texts import TextData, load_texts
from layermix.errors import RunExistsError
from layermix.models.encoder import Classifier
from layermix.models.latency import milliseconds_per_text
from layermix.models.loading import load_classifier
from layermix.models.students import copy_blocks
from layermix.runs.layout import CONFIG, RESULT, RunFolder
from layermix.runs.pipeline import distill_prepared, objective_for, teach_from
from layermix.runs.prepare import prepare
from layermix.teacher_cache.choose import signals_for

TRAIN_ROWS = 1500
TEXTS_TIMED = 100
TEACHER_EPOCHS = 3
RECIPE: Mapping[str, Any] = {
    "student": {"layers": 3},
    "mix": {"learning_rate": 0.05, "schedule": "constant"},
    "loss": {"hidden_weight": 1},
    "training": {"epochs": 5, "learning_rate": 2e-4},
}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "ce_only": {"loss": {"logit_weight": 0, "hidden_weight": 0}},
    "logit_only": {"loss": {"hidden_weight": 0}},
    "fixed": {"mix": {"strategy": "fixed"}},
    "uniform": {"mix": {"strategy": "uniform"}},
    "learned": {"mix": {"strategy": "learned"}},
}
REMARK = (
    "This demo is small (94 steps an epoch), so it has a recipe of its own: five epochs at a "
    "learning rate of 2e-4, and λ_hid = 1; and α's learning rate is 0.05, constant, instead of "
    "0.001 (with which α could hardly move)."
)


def run_demo(out: Path, *, full: bool, seed: int, reporter: Reporter) -> dict[str, Any]:
    """Make (or finish, or read) the demo in a folder.

    Args:
        out: Gets data, teacher and one run folder per arm.
        full: All training pairs instead of 1,500.
        seed: Of the teacher and of all arms.
        reporter: Where progress is shown.

    Returns:
        `rows`, one per model with its scores, sizes and latency, and what they were measured on.

    Raises:
        RunExistsError: If the folder holds a demo with other settings.
    """
    texts = _data(out, full)
    reporter.say(
        f"Docstrings of this Python's library: does a sentence describe the named object? "
        f"{len(texts.splits['train'])} training and {len(texts.splits['validation'])} validation "
        "pairs."
    )
    reporter.say(REMARK)
    teacher = _teacher(out, texts, seed, reporter)
    prepared: PreparedData | None = None
    signals: Teacher | None = None
    for arm in ARMS:
        config = DistillConfig.model_validate(_settings(arm, out, seed))
        if _finished(out / arm, to_yaml(config)):
            continue
        student = copy_blocks(teacher, config.student.layers)
        if prepared is None or signals is None:
            shared = DistillConfig.model_validate(_settings("learned", out, seed))
            prepared = prepare(teacher, student, texts, shared, Reporter(quiet=True))
            objective = objective_for(student, teacher, shared)
            signals = signals_for(prepared, teacher, objective, shared, reporter)
        run = RunFolder(out / arm, to_yaml(config), resume=True)
        distill_prepared(
            prepared, teacher, student, config, signals=signals, run=run, reporter=reporter
        )
    return _table(out, texts, teacher)


def _settings(arm: str, out: Path, seed: int) -> dict[str, Any]:
    sections: dict[str, Any] = {name: dict(values) for name, values in RECIPE.items()}
    for name, values in ARMS[arm].items():
        sections[name] = {**sections.get(name, {}), **values}
    named = {"teacher": str(out / "teacher"), "data": str(out / "data")}
    return {"seed": seed, **named, **sections, "cache": {"folder": str(out / "cache")}}


def _data(out: Path, full: bool) -> TextData:
    """The pairs, written as files, so that they can be looked at and used with other commands."""
    folder = out / "data"
    if not folder.exists():
        write_pairs(folder, docstring_pairs(None if full else TRAIN_ROWS))
    texts = load_texts(
        DistillConfig(data=str(folder)).data.model_copy(update={"task": "docstrings"})
    )
    if (len(texts.splits["train"]) == TRAIN_ROWS) == full:
        raise RunExistsError(
            f"{out}: found a demo with {len(texts.splits['train'])} training pairs, wanted "
            f"{'all of them' if full else TRAIN_ROWS}; choose another --out"
        )
    return texts


def _teacher(out: Path, texts: TextData, seed: int, reporter: Reporter) -> Classifier:
    """The packaged MiniLM, fine-tuned on the task."""
    config = TeachConfig.model_validate(
        {
            "seed": seed,
            "model": "minilm",
            "data": str(out / "data"),
            "training": {"epochs": TEACHER_EPOCHS},
        }
    )
    folder = out / "teacher"
    if not _finished(folder, to_yaml(config)):
        model = load_classifier("minilm", texts.label_names, seed=seed)
        teach_from(model, texts, config, out=folder, resume=True, reporter=reporter)
    return load_classifier(str(folder), texts.label_names)


def _finished(folder: Path, config: str) -> bool:
    """Whether this very run is there already.

    Raises:
        RunExistsError: If a run with another config is there.
    """
    if not (folder / RESULT).is_file():
        return False
    if (folder / CONFIG).read_text(encoding="utf-8") != config:
        raise RunExistsError(f"{folder}: found a run with another config; choose another --out")
    return True


def _table(out: Path, texts: TextData, teacher: Classifier) -> dict[str, Any]:
    records = {arm: json.loads((out / arm / RESULT).read_text(encoding="utf-8")) for arm in ARMS}
    student = load_classifier(str(out / "learned"))
    validation = texts.splits["validation"].select(range(TEXTS_TIMED))
    pairs = list(zip(validation["text"], validation["text_pair"], strict=True))
    length = records["learned"]["data"]["max_length"]
    times = milliseconds_per_text({"teacher": teacher, "student": student}, pairs, length)
    taught = json.loads((out / "teacher" / RESULT).read_text(encoding="utf-8"))
    rows = [_row("teacher", taught, "teacher", times["teacher"])]
    rows += [_row(arm, record, "student", times["student"]) for arm, record in records.items()]
    return {"rows": rows, "validation_rows": len(texts.splits["validation"]), "out": str(out)}


def _row(name: str, record: Mapping[str, Any], role: str, latency: float) -> dict[str, Any]:
    scores = record["metrics"]["last"]["validation"]
    return {
        "model": name,
        "accuracy": scores["accuracy"],
        "f1": scores["f1"],
        "agreement": scores.get("agreement"),
        "best_on_dev": record["metrics"]["best_on_dev"]["validation"]["accuracy"],
        "parameters": record[role]["parameters"],
        "megabytes": record[role]["bytes_on_disk"] / 1e6,
        "ms_per_text": latency,
    }


def table_text(table: Mapping[str, Any]) -> str:
    """The comparison for people, with what it does not show, and what to do next."""
    rows: Sequence[Mapping[str, Any]] = table["rows"]
    teacher = rows[0]
    lines = [
        f"{'':<12}{'accuracy':>9}{'F1':>8}{'agrees':>8}{'best ep.':>9}{'params':>9}{'disk':>9}"
        f"{'ms/text':>9}{'speed':>7}"
    ]
    for row in rows:
        agreement = "–" if row["agreement"] is None else f"{row['agreement']:.3f}"
        lines.append(
            f"{row['model']:<12}{row['accuracy']:9.3f}{row['f1']:8.3f}{agreement:>8}"
            f"{row['best_on_dev']:9.3f}{row['parameters'] / 1e6:8.1f}M{row['megabytes']:7.0f}MB"
            f"{row['ms_per_text']:9.2f}{teacher['ms_per_text'] / row['ms_per_text']:6.1f}×"
        )
    share = rows[-1]["accuracy"]
    noise = 196 * math.sqrt(share * (1 - share) / table["validation_rows"])
    out = table["out"]
    return "\n".join(
        [
            *lines,
            "",
            "accuracy: last epoch, on the validation pairs; agrees: same answer as the teacher;",
            "best ep.: the best epoch picked on those same pairs, so too good; ms/text: median, "
            "one",
            "text at a time, teacher and student in turns; speed: against the teacher.",
            f"One seed and {table['validation_rows']} pairs: each accuracy is known to "
            f"±{noise:.1f} points (95 %), so",
            "differences below that say nothing about which mix is better.",
            "",
            "Next:",
            f"  the student         {out}/learned/student (a plain transformers model)",
            f"  what α did          {out}/learned/alpha.jsonl",
            f"  see it              layermix report {out}/learned",
            f"  try it              layermix evaluate {out}/learned --data {out}/data",
            "  your own data       layermix teach --model FOLDER --data FOLDER --out TEACHER",
            "                      layermix distill --teacher TEACHER --data FOLDER --out RUN",
        ]
    )
