"""The records of a finished training, put together from its objects."""

from collections.abc import Mapping, Sequence
from typing import Any

from layermix.data.prepared import PreparedData
from layermix.errors import Note
from layermix.models.encoder import Classifier
from layermix.runs.schema import (
    FORMAT,
    Calibration,
    DataRecord,
    Interval,
    Metrics,
    ModelRecord,
    Role,
    RunRecord,
    SavedModelEntry,
    Timings,
)


def run_record(
    role: Role,
    known: RunRecord,
    prepared: PreparedData,
    model: Classifier,
    *,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    warnings: Sequence[Note],
    precision: str,
    timings: Timings,
    interval: Interval | None,
    calibration: Calibration | None,
) -> RunRecord:
    """The record of a finished training, without the size of its files.

    Args:
        role: Of the trained model.
        known: What is known before the training: teacher, mix, formula, signals.
        prepared: The data.
        model: The trained model.
        metrics: Reported epoch -> epoch and scores by split; `test` -> scores.
        history: One line per log and evaluation; α is recorded as it was in the last step of the
            epoch whose weights are saved.
        warnings: Given to the user.
        precision: Number format of the training.
        timings: Durations.
        interval: Of the saved model's score.
        calibration: Of the saved model.
    """
    texts = prepared.texts
    scored = (split for split in texts.splits if split not in ("train", "unlabeled"))
    counts = {split: int(prepared.guessed(split).sum()) for split in scored}
    guessed = {split: count for split, count in counts.items() if count}
    trained = ModelRecord.model_validate(
        {
            **model.start,
            "parameters": model.model.num_parameters(),
            "classes": texts.label_names,
        }
    )
    scores = Metrics.model_validate(metrics)
    learned = [line for line in history if "alpha" in line and line["epoch"] <= scores.saved.epoch]
    return RunRecord(
        format=FORMAT,
        status="ok",
        problem=prepared.problem.name,
        form=prepared.problem.form,
        task=texts.task,
        metric=prepared.metric,
        higher_is_better=prepared.problem.higher_is_better[prepared.metric],
        metrics=scores,
        teacher=trained if role == "teacher" else known.teacher,
        student=trained if role == "student" else None,
        mix=known.mix,
        formula=known.formula,
        signals=known.signals,
        alpha=learned[-1]["alpha"] if learned else None,
        data=DataRecord(
            place=texts.source,
            fingerprint=texts.fingerprint,
            rows={split: len(rows) for split, rows in prepared.splits.items()},
            max_length=prepared.max_length,
            cut=dict(prepared.cut),
            guessed=guessed or None,
        ),
        pair=len(texts.text_columns) == 2,
        notes=prepared.notes,
        warnings=tuple(warnings),
        precision=precision,
        timings=timings,
        interval=interval,
        calibration=calibration,
    )


def with_size(record: RunRecord, role: Role, size: int) -> RunRecord:
    """A record with the size of the trained model's files, in bytes."""
    trained = record.trained.model_copy(update={"bytes_on_disk": size})
    return record.model_copy(update={role: trained})


def saved_model_entry(
    prepared: PreparedData, calibration: Calibration | None = None
) -> SavedModelEntry:
    """The entry `layermix` of the trained model's config.json."""
    return SavedModelEntry(
        max_length=prepared.max_length,
        text_columns=prepared.texts.text_columns,
        taught=prepared.texts.train_hash,
        split_off=prepared.texts.split_off,
        group_column=prepared.texts.group_column,
        problem=prepared.problem.name,
        temperature=None if calibration is None else calibration.temperature,
        thresholds=None if calibration is None else calibration.thresholds,
    )
