"""The whole job with a packaged teacher and data: teach, distil five students, compare.

Or the search for the smallest student, with the same teacher on another task.

Finished runs in its folder are read, not repeated; a demo that was stopped continues.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch

from layermix.config import DistillConfig, TeachConfig, to_yaml
from layermix.console import Reporter, Terminal
from layermix.core.signals import Teacher
from layermix.data.docstrings import TOPICS, docstring_pairs, docstring_topics, write_rows
from layermix.data.prepared import PreparedData
from layermix.data.texts import TextData, load_texts
from layermix.errors import RunExistsError
from layermix.hardware.cpu_kernels import fast_pass, prepare_process
from layermix.hardware.precision import choose_precision
from layermix.models.encoder import Classifier
from layermix.models.latency import milliseconds_per_text, seconds_in_turns
from layermix.models.loading import load_classifier
from layermix.models.students import copy_blocks
from layermix.runs.layout import CONFIG, RESULT, RunFolder
from layermix.runs.pipeline import distill_prepared, objective_for, teach_from
from layermix.runs.prepare import prepare
from layermix.runs.schema import RunRecord, read_result
from layermix.search.schema import SearchSettings
from layermix.search.search import Search
from layermix.teacher_cache.choose import signals_for

TRAIN_ROWS = 1500
SECONDS, STEPS, STEPS_PER_BATCH = 30, 190, 15
"""What the demo takes: seconds, and steps of the teacher, some of them for each training batch."""
OF_SEARCH = 120, 0, 12
"""The same of the demo of a search."""
BATCH, BATCHES_TIMED = 16, 4
TEXTS_TIMED = 100
TEACHER_EPOCHS = 3
RECIPE: Mapping[str, Any] = {
    "preset": "quick",
    "student": {"layers": 3},
    "loss": {"hidden_weight": 1},
    "training": {"epochs": 5, "learning_rate": 2e-4},
}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "ce_only": {"loss": {"logit_weight": 0, "hidden_weight": 0}},
    "logit_only": {"loss": {"hidden_weight": 0}},
    "fixed": {"mix": {"strategy": "fixed"}},
    "uniform": {"mix": {"strategy": "uniform"}},
    "learned": {"mix": {"strategy": "learned", "learning_rate": 0.05, "schedule": "constant"}},
}
LEARNS_FROM: Mapping[str, str] = {
    "ce_only": "the labels only",
    "logit_only": "the labels and the teacher's logits",
    "fixed": "labels, logits and hidden states, each student layer from one teacher layer",
    "uniform": "the same, each student layer from the mean of the teacher layers",
    "learned": "the same, each student layer from a mix of teacher layers with learned weights α",
}
"""What each arm's student learns from, in words."""
OUTLINE = (
    "The demo fine-tunes a teacher (MiniLM, 6 blocks), distils it into five students of 3 blocks "
    "that differ only in what they learn from, and compares them."
)
OWN_SETTINGS = (
    "Few rows need larger steps, so the demo has its own settings: 5 epochs, learning rate 2e-4, "
    "weight 1 for hidden states, and a constant learning rate of 0.05 for α."
)


def run_demo(out: Path, *, full: bool, seed: int, reporter: Reporter) -> dict[str, Any]:
    """Run the demo in a folder; runs that are finished there are read, not repeated.

    Args:
        out: Gets data, teacher and one run folder per arm.
        full: Train on all pairs instead of 1,500.
        seed: Of the teacher and of all students.
        reporter: Where progress is shown.

    Returns:
        `rows`, one per model with its scores, sizes and latency, and what they were measured on.

    Raises:
        RunExistsError: If the folder holds a demo with other settings.
    """
    texts = _pairs(out, full, reporter)
    reporter.say(
        "Task: does this sentence describe this Python object? "
        f"{len(texts.splits['train']):,} training and {len(texts.splits['validation']):,} "
        "validation pairs, made from the docstrings of Python's standard library."
    )
    reporter.say(OUTLINE)
    reporter.say(OWN_SETTINGS)
    teacher = _teacher(out / "teacher", texts, {"epochs": TEACHER_EPOCHS}, seed, reporter)
    prepared: PreparedData | None = None
    signals: Teacher | None = None
    for number, arm in enumerate(ARMS, 1):
        config = DistillConfig.model_validate(_settings(arm, out, seed))
        if _finished(out / arm, to_yaml(config)):
            continue
        student = copy_blocks(teacher, config.student.layers)
        if prepared is None or signals is None:
            shared = DistillConfig.model_validate(_settings("learned", out, seed))
            prepared = prepare(teacher, student, texts, shared, Reporter(quiet=True))
            objective = objective_for(student, teacher, shared)
            signals = signals_for(prepared, teacher, objective, shared, reporter)
        reporter.say(
            f"\nStudent {number} of {len(ARMS)}, {arm}: learns from {LEARNS_FROM[arm]}", "bold"
        )
        run = RunFolder(out / arm, to_yaml(config), resume=True)
        distill_prepared(
            prepared, teacher, student, config, signals=signals, run=run, reporter=reporter
        )
    return _table(out, texts, teacher)


SEARCH_AXES: Mapping[str, tuple[Any, ...]] = {"student.layers": (1, 2, 3)}
SEARCH_TEACHER: Mapping[str, Any] = {"epochs": 5, "learning_rate": 1e-4, "selection": "holdout"}
SEARCH_FLOOR, SEARCH_SEEDS, SEARCH_EPOCHS = 5.0, 3, 3
"""Of the demo of a search: points, fresh seeds, epochs of a student."""


def demo_search(
    out: Path, *, seed: int, jobs: int, reporter: Reporter, quiet: bool = False
) -> Search:
    """Search for the smallest student of a task of single texts.

    Its texts are short, so a search takes no longer than the demo, and small students learn it.

    Args:
        out: Gets data, teacher and the search.
        seed: Of the teacher, and the first one of students.
        jobs: Students that are trained at the same time.
        reporter: Where progress is shown.
        quiet: Whether to hide the progress of trainings.

    Returns:
        The finished search, with its record.

    Raises:
        RunExistsError: If the folder holds a demo with other settings.
    """
    data, teacher = out / "topics", out / "topics-teacher"
    if not data.exists():
        topics = docstring_topics()
        _say_minutes(topics["train"], OF_SEARCH, reporter)
        write_rows(data, topics)
    texts = _texts(data)
    reporter.say(
        f"Task: which part of Python's library does this sentence describe ({', '.join(TOPICS)})? "
        f"{len(texts.splits['train']):,} training and {len(texts.splits['validation']):,} "
        "validation sentences from its docstrings."
    )
    _teacher(teacher, texts, SEARCH_TEACHER, seed, reporter)
    base: dict[str, Any] = {
        "seed": seed,
        "teacher": str(teacher),
        "data": str(data),
        "preset": RECIPE["preset"],
        "loss": RECIPE["loss"],
        "training": {**RECIPE["training"], "epochs": SEARCH_EPOCHS},
        "cache": {"folder": str(out / "cache")},
    }
    settings = SearchSettings(
        floor=SEARCH_FLOOR, seeds=SEARCH_SEEDS, axes=dict(SEARCH_AXES), base=base
    )
    search = Search(settings, out / "search", jobs, Terminal(quiet), reporter)
    search.run()
    return search


def _settings(arm: str, out: Path, seed: int) -> dict[str, Any]:
    sections: dict[str, Any] = dict(RECIPE)
    for name, values in ARMS[arm].items():
        sections[name] = {**sections.get(name, {}), **values}
    named = {"teacher": str(out / "teacher"), "data": str(out / "data")}
    return {"seed": seed, **named, **sections, "cache": {"folder": str(out / "cache")}}


def _pairs(out: Path, full: bool, reporter: Reporter) -> TextData:
    """The pairs, read from files that other commands can use as well."""
    folder = out / "data"
    if not folder.exists():
        pairs = docstring_pairs(None if full else TRAIN_ROWS)
        _say_minutes(pairs["train"], (SECONDS, STEPS, STEPS_PER_BATCH), reporter)
        write_rows(folder, pairs)
    texts = _texts(folder, "docstrings")
    if (len(texts.splits["train"]) == TRAIN_ROWS) == full:
        raise RunExistsError(
            f"{out}: found a demo with {len(texts.splits['train'])} training pairs, wanted "
            f"{'all pairs' if full else TRAIN_ROWS}; choose another --out"
        )
    return texts


def _texts(folder: Path, task: str | None = None) -> TextData:
    return load_texts(DistillConfig(data=str(folder)).data.model_copy(update={"task": task}))


def _say_minutes(
    rows: Sequence[Mapping[str, Any]], takes: tuple[int, int, int], reporter: Reporter
) -> None:
    """Say how long it takes, from a few steps.

    Args:
        rows: Of training.
        takes: Seconds, steps, and steps for each batch of the rows.
        reporter: Where it is said.
    """
    seconds, steps, steps_per_batch = takes
    step = _step_seconds(rows)
    minutes = (seconds + (steps + len(rows) / BATCH * steps_per_batch) * step) / 60
    reporter.say(
        f"A training step of {BATCH} rows takes {step:.2f} s here, so the demo takes about "
        f"{math.ceil(minutes)} minutes."
    )


def _step_seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    """The median time of a training step of the packaged MiniLM, forward and backward."""
    prepare_process()
    names = sorted({row["label"] for row in rows})
    classifier = load_classifier("minilm", names, seed=0)
    model, device = classifier.model.train(), classifier.model.device
    batches = [rows[start : start + BATCH] for start in range(0, BATCHES_TIMED * BATCH, BATCH)]

    def step(batch: Sequence[Mapping[str, Any]]) -> None:
        columns = [name for name in ("text", "text_pair") if name in batch[0]]
        texts = ([row[name] for row in batch] for name in columns)
        inputs = classifier.tokenizer(*texts, padding=True, return_tensors="pt").to(device)
        labels = torch.tensor([names.index(row["label"]) for row in batch], device=device)
        with fast_pass(device, choose_precision("auto")):
            loss = model(**inputs, labels=labels).loss
        loss.backward()
        model.zero_grad()

    # Twice: the first time, kernels are made for the length of each batch.
    return float(
        np.median(seconds_in_turns({"step": step}, [*batches, *batches])["step"][BATCHES_TIMED:])
    )


def _teacher(
    folder: Path, texts: TextData, training: Mapping[str, Any], seed: int, reporter: Reporter
) -> Classifier:
    """The packaged MiniLM, fine-tuned on the task, from its run folder."""
    config = TeachConfig.model_validate(
        {"seed": seed, "model": "minilm", "data": texts.source, "training": training}
    )
    if not _finished(folder, to_yaml(config)):
        reporter.say("\nTeacher: learns from the labels", "bold")
        model = load_classifier("minilm", texts.label_names, seed=seed)
        teach_from(model, texts, config, out=folder, resume=True, reporter=reporter)
    return load_classifier(str(folder), texts.label_names)


def _finished(folder: Path, config: str) -> bool:
    """Whether the folder holds this run, finished.

    Raises:
        RunExistsError: If the folder holds a run with another config.
    """
    if not (folder / RESULT).is_file():
        return False
    if (folder / CONFIG).read_text(encoding="utf-8") != config:
        raise RunExistsError(
            f"{folder}: found a run with another config, perhaps of another --seed or version of "
            "layermix; choose another --out"
        )
    return True


def _table(out: Path, texts: TextData, teacher: Classifier) -> dict[str, Any]:
    records = {arm: read_result(out / arm) for arm in ARMS}
    student = load_classifier(str(out / "learned"))
    validation = texts.splits["validation"].select(range(TEXTS_TIMED))
    pairs = list(zip(validation["text"], validation["text_pair"], strict=True))
    length = records["learned"].data.max_length
    assert length is not None  # the run is finished
    times = milliseconds_per_text({"teacher": teacher, "student": student}, pairs, length)
    rows = [_row("teacher", read_result(out / "teacher"), times["teacher"])]
    rows += [_row(arm, record, times["student"]) for arm, record in records.items()]
    return {"rows": rows, "validation_rows": len(texts.splits["validation"]), "out": str(out)}


def _row(name: str, record: RunRecord, latency: float) -> dict[str, Any]:
    last, best = record.metrics.epochs["last"], record.metrics.epochs["best_on_dev"]
    return {
        "model": name,
        "accuracy": last.score("accuracy"),
        "f1": last.score("f1"),
        "agreement": last.score("agreement"),
        "best_on_dev": best.score("accuracy"),
        "parameters": record.trained.parameters,
        "megabytes": (record.trained.bytes_on_disk or 0) / 1e6,
        "ms_per_text": latency,
    }


def table_text(table: Mapping[str, Any]) -> str:
    """The comparison as a table, with an explanation of its columns and the next steps.

    Args:
        table: From `run_demo`.
    """
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
            "accuracy, F1  on the validation pairs, after the last epoch",
            "agrees        share of validation pairs with the teacher's answer",
            "best ep.      accuracy of the best epoch, chosen on these same pairs: optimistic",
            "ms/text       median time for one text; teacher and student take turns",
            "speed         compared with the teacher",
            "",
            f"With one seed and {table['validation_rows']} pairs, an accuracy is uncertain by "
            f"±{noise:.1f} points (95 %).",
            "Smaller differences do not show which student is better.",
            "",
            "Next:",
            f"  see a report        layermix report {quote(f'{out}/learned')}",
            f"  score the student   layermix evaluate {quote(f'{out}/learned')} "
            f"--data {quote(f'{out}/data')}",
            f"  use the student     {out}/learned/student (a plain transformers model)",
            "  your own data       layermix teach --model minilm --data FOLDER --out TEACHER",
            "                      layermix distill --teacher TEACHER --data FOLDER --out RUN",
        ]
    )
