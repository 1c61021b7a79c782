"""What a run was begun with: recorded at its start, compared when it is resumed."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from layermix.console import Reporter
from layermix.core.checkpoints import (
    CHECKSUMS,
    last_checkpoint,
    newest_whole,
    processes_of,
    seal,
)
from layermix.data.prepared import PreparedData
from layermix.errors import Note, ResumeError
from layermix.hardware.processes import gathered
from layermix.launch import world_size
from layermix.models.encoder import NOT_COMPUTED, Classifier
from layermix.runs.callbacks import needed_to_resume
from layermix.runs.layout import RESULT, START, RunFolder
from layermix.runs.schema import FORMAT, RunRecord, StartRecord, Status

CHANGES = {
    "data": "the data (texts, labels or their order)",
    "classes": "the names of the classes",
    "rows": "what the tokenizers make of the texts",
    "teacher": "the teacher (its weights, config or padding side; or the soft labels)",
    "student": "the student (its config or padding side)",
}
"""Field of a `StartRecord` -> what has changed where it differs."""


def start_record(
    prepared: PreparedData, teacher: Classifier | None, student: Classifier
) -> StartRecord:
    """What a run is begun with.

    Args:
        prepared: Its data.
        teacher: None if it has none; soft labels have a fingerprint in `prepared`.
        student: The model to train; its weights do not count, since a checkpoint replaces them.
    """
    return StartRecord(
        format=FORMAT,
        data=prepared.texts.fingerprint,
        classes=prepared.texts.label_names,
        rows=_rows_hash(prepared),
        teacher=prepared.teacher_fingerprint
        if teacher is None
        else model_hash(teacher, prepared.teacher_fingerprint),
        student=model_hash(student),
    )


def check_start(run: RunFolder, start: StartRecord) -> list[Note]:
    """Compares what an unfinished run was begun with; notes what cannot be compared.

    Args:
        run: To be resumed, restarted or begun.
        start: What the command has now.

    Raises:
        ResumeError: If it was begun with other data or models, or its record is damaged.
    """
    if run.restart or last_checkpoint(run.checkpoints) is None:
        return []
    try:
        begun = StartRecord.from_json((run.work / START).read_text(encoding="utf-8"))
    except FileNotFoundError:
        text = (
            f"{run.work} has no {START}, like all runs of older versions, so layermix cannot check "
            "that data, teacher and student are the same as at the start"
        )
        return [Note("start-unknown", text)]
    except (OSError, ValueError):
        raise ResumeError(
            f"{run.work / START} is damaged, so layermix cannot check that data, teacher and "
            "student are the same as at the start; start over with --restart, or, in a study, by "
            "removing that folder"
        ) from None
    changed = [name for name in CHANGES if getattr(begun, name) != getattr(start, name)]
    if "data" in changed and "rows" in changed:  # other texts have other tokens
        changed.remove("rows")
    if changed:
        raise ResumeError(
            f"{run.work}: the run cannot be resumed, because something has changed since it "
            f"started: {'; '.join(CHANGES[name] for name in changed)}. Restore the original, or "
            "start over with --restart, or, in a study, by removing that folder"
        )
    return []


@contextmanager
def begun(run: RunFolder) -> Iterator[None]:
    """Begins a run's folder; if the work within fails, it writes why and releases the folder.

    Args:
        run: The folder.

    Raises:
        RunExistsError: As `RunFolder.begin`.
    """
    run.begin()
    try:
        yield
    except BaseException as error:
        status: Status = "cancelled" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(OSError):  # a full disk must not hide the error
            ended = RunRecord(format=FORMAT, status=status, error=repr(error))
            if not run.only_lacks_its_name:
                run.write(RESULT, ended.to_json())
        run.leave()
        raise


def resumable(run: RunFolder, start: StartRecord | None, reporter: Reporter) -> Path | None:
    """The checkpoint to resume from, if there is one; records what the run is begun with.

    Args:
        run: Its folder.
        start: From `start_record`.
        reporter: Warns of damaged checkpoints.

    Raises:
        ResumeError: If there are checkpoints, but no whole one.
    """
    has_checksums = (run.work / START).is_file()
    checkpoint, notes = newest_whole(run.checkpoints, has_checksums=has_checksums)
    if checkpoint is not None and (before := processes_of(checkpoint)) != world_size():
        text = (
            f"the run goes on in {world_size()} process(es), and was trained in {before} before: "
            "dropout and the last bits of sums are others than in a run that was never stopped"
        )
        notes.append(Note("other-processes", text))
    for note in notes:
        reporter.warn(note)
    if checkpoint is not None and not (checkpoint / CHECKSUMS).exists():
        seal(checkpoint, run.checkpoints, needed_to_resume(run.work))
    if start is not None:
        run.write(START, start.to_json())
    (run.work / RESULT).unlink(missing_ok=True)  # the outcome of an earlier attempt
    return checkpoint


def check_reachable(checkpoint: Path | None) -> None:
    """Raises a ResumeError if a process does not see the checkpoint that the main one has found."""
    seen = gathered(checkpoint is None or checkpoint.is_dir())
    if not all(seen):
        raise ResumeError(
            f"{checkpoint}: {seen.count(False)} of {len(seen)} processes cannot read the "
            "checkpoint; a run on several machines is resumed from a folder that all of them share"
        )


def model_hash(classifier: Classifier, weights: str | None = None) -> str:
    """A sha256 of the hash of a model's weights and of the rest that decides what it computes."""
    config: Any = classifier.model.config
    entries = {name: one for name, one in config.to_diff_dict().items() if name not in NOT_COMPUTED}
    text = json.dumps(
        [weights, entries, classifier.tokenizer.padding_side], sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _rows_hash(prepared: PreparedData) -> str:
    """A sha256 of the token rows of all splits, in their order."""
    digest = hashlib.sha256()
    for split, rows in sorted(prepared.splits.items()):
        for name in sorted(rows.column_names):
            digest.update(f"{split} {name}\n".encode())
            for numbers in _numbers(rows, name):
                is_whole = np.issubdtype(numbers.dtype, np.integer)
                digest.update(numbers.astype(np.int64 if is_whole else np.float64).tobytes())
    return digest.hexdigest()


def _numbers(rows: Dataset, name: str) -> list[Any]:
    """The numbers in a column: of lists their lengths, then what is in them."""
    column = rows.select_columns(name).with_format("arrow")[:][name].combine_chunks()
    if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
        return [column.to_numpy(zero_copy_only=False)]
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    return [lengths, column.flatten().to_numpy(zero_copy_only=False)]
