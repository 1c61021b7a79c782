"""Callbacks that record scores and predictions by epoch, the history and α."""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from transformers import EvalPrediction, TrainerCallback

from layermix.atomic import whole_file, write_text
from layermix.core.objective import Objective, Output
from layermix.core.trainer import OutputCallback
from layermix.data.prepared import PreparedData
from layermix.data.splits import WORDS
from layermix.errors import ResumeError
from layermix.evaluation.predictions import FORM, half_width
from layermix.runs.layout import ALPHA, EPOCHS, HISTORY, PREDICTIONS, ROWS, TEXTS
from layermix.runs.schema import RunRecord

Line = Mapping[str, Any]
START_OVER = "start over with --restart, or, in a study, by removing the folder of this run"


def needed_to_resume(work: Path) -> list[Path]:
    """The files in a working folder, beside the checkpoints, that a resumed run reads."""
    kept = [file for name in (EPOCHS, ROWS) for file in sorted((work / name).glob("[!.]*"))]
    return [*kept, *(file for file in [work / ALPHA] if file.is_file())]


class HistoryRecorder(TrainerCallback):
    """Writes the live history; a resumed run begins with the records of its checkpoint."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the live history with the records of the checkpoint."""
        lines = [json.dumps(line) + "\n" for line in clean_history(state.log_history)]
        write_text(self.work / HISTORY, "".join(lines))

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Append to the live history."""
        with (self.work / HISTORY).open("a", encoding="utf-8") as file:
            for line in clean_history(state.log_history[-1:]):
                file.write(json.dumps(line) + "\n")


class EpochRecorder(HistoryRecorder):
    """Scores each evaluation; keeps its predictions, and the weights of the best epoch.

    Files are named by epoch and written completely or not at all, so a resumed run that repeats an
    epoch writes the same files.
    """

    def __init__(self, work: Path, prepared: PreparedData, keep_selected: bool) -> None:
        super().__init__(work)
        self.prepared, self.keep_selected = prepared, keep_selected
        self.epochs = work / EPOCHS
        self.epochs.mkdir(parents=True, exist_ok=True)
        ids = {name: rows["row_id"] for name, rows in prepared.evaluated.items()}
        self.split_of = {row: name for name, rows in ids.items() for row in rows}
        self.latest: tuple[Any, Any, Any] | None = None

    def score(self, prediction: EvalPrediction) -> dict[str, float]:
        """Scores of one evaluation; agreement with the teacher if its predictions are known."""
        labels, row_ids = prediction.label_ids  # type: ignore[misc]  # one array per label name
        # Rows are ordered by length, and some come twice if several processes share them.
        order = np.unique(row_ids, return_index=True)[1]
        row_ids, labels = row_ids[order], labels[order]
        logits = np.asarray(prediction.predictions)[order]
        self.latest = (row_ids, labels, logits)
        teacher = self.prepared.teacher_logits.get(self.split_of[int(row_ids[0])])
        return self.prepared.problem.scores(logits, labels, teacher)

    def on_train_begin(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Start the live history with the records of the checkpoint; remove later epochs."""
        for file in self.epochs.iterdir():
            epoch = file.stem.rpartition("-")[2]
            if epoch.isdecimal() and int(epoch) > (state.epoch or 0):
                file.unlink()
        super().on_train_begin(args, state, control, **options)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kw: Any
    ) -> None:
        """Keep the predictions of this epoch, and the weights if it is the best so far."""
        assert self.latest is not None
        row_ids, labels, logits = self.latest
        split, epoch = self.split_of[int(row_ids[0])], round(state.epoch)
        with whole_file(self._file(split, epoch)) as temporary, temporary.open("wb") as file:
            np.savez(file, row_ids=row_ids, labels=labels, logits=logits)
        if self.keep_selected and split == "holdout" and self._is_best(state.log_history, epoch):
            weights = {k: v.cpu() for k, v in kw["model"].student.state_dict().items()}
            with whole_file(self.epochs / f"selected-{epoch}.safetensors") as temporary:
                save_file(weights, temporary, metadata={"epoch": str(epoch)})

    def _is_best(self, log_history: Sequence[Line], epoch: int) -> bool:
        by_epoch = _held_out_scores(log_history)
        directions = self.prepared.problem.higher_is_better
        return best_epoch(by_epoch, self.prepared.metric, directions) == epoch

    def restore(self, objective: Objective, epoch: int) -> None:
        """Load the weights of the selected epoch into the student."""
        weights = load_file(self.epochs / f"selected-{epoch}.safetensors")
        objective.student.load_state_dict(weights)

    def _file(self, split: str, epoch: int) -> Path:
        return self.epochs / f"{split}-{epoch}.npz"

    def logits(self, split: str, epoch: int) -> tuple[Any, Any]:
        """Logits, (N, C) or (N, W, C), and labels of one evaluation."""
        stored = self._read(split, epoch)
        return stored["logits"], stored["labels"]

    def _read(self, split: str, epoch: int) -> dict[str, Any]:
        """The arrays of one evaluation by name.

        Raises:
            ResumeError: If the file is damaged.
        """
        file = self._file(split, epoch)
        try:
            with np.load(file) as stored:
                return dict(stored)
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ResumeError(f"{file}: is damaged ({error}); {START_OVER}") from None

    def predictions(self, epochs: Mapping[str, int]) -> None:
        """Write predictions.parquet: the validation rows at the reported epochs.

        Each row has the student's prediction and, if there is a teacher, its prediction and
        confidence. The texts, which the report shows, are in a file of their own, so that the
        numbers of a run can be shared without its data.
        """
        texts = self.prepared.texts.splits["validation"]
        wanted = ("row_id", "text", "text_pair", WORDS)
        names = [name for name in wanted if name in texts.column_names]
        with whole_file(self.work / TEXTS) as temporary:
            pq.write_table(pa.table({name: texts[name][:] for name in names}), temporary)
        teacher, problem = dict[str, Any](), self.prepared.problem
        if (logits := self.prepared.teacher_logits.get("validation")) is not None:
            teacher = problem.teacher_columns(logits)
        groups = self.prepared.groups("validation")
        tables = []
        for report, epoch in epochs.items():
            stored = self._read("validation", epoch)
            rows = len(stored["logits"])
            student = problem.columns(stored["logits"], self.prepared.texts.label_names)
            columns = {
                "epoch": np.full(rows, epoch),
                "row_id": stored["row_ids"],
                "label": stored["labels"],
                "prediction": student.pop("prediction"),
                **teacher,
                **student,
            }
            if groups is not None:
                columns["group"] = groups
            halved = {
                name: half_width(values) if np.issubdtype(values.dtype, np.number) else values
                for name, values in columns.items()
            }
            stored_as = {
                name: list(values) if values.ndim > 1 else values for name, values in halved.items()
            }
            tables.append(pa.table({"report": [report] * rows, **stored_as}))
        table = pa.concat_tables(tables).replace_schema_metadata({FORM: problem.form.encode()})
        with whole_file(self.work / PREDICTIONS) as temporary:
            pq.write_table(table, temporary, compression="zstd")


class EarlyStopping(TrainerCallback):
    """Stops after an epoch if the score on the held-out rows has not risen for some epochs.

    Args:
        patience: For how many; None never stops.
        metric: The score.
        higher_is_better: Whether more of it is.
    """

    def __init__(self, patience: int | None, metric: str, higher_is_better: bool) -> None:
        self.patience, self.metric, self.higher_is_better = patience, metric, higher_is_better

    def is_due(self, log_history: Sequence[Line]) -> bool:
        """Whether a run with these logs ends here."""
        if self.patience is None:
            return False
        by_epoch = _held_out_scores(log_history)
        if not by_epoch:
            return False
        sign = 1 if self.higher_is_better else -1
        rose = max(by_epoch, key=lambda epoch: (sign * by_epoch[epoch][self.metric], -epoch))
        return max(by_epoch) - rose >= self.patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask the trainer to stop."""
        if self.is_due(state.log_history):
            control.should_training_stop = True


class MixRecorder(OutputCallback):
    """Writes α as used in every step to alpha.jsonl, at each log, to avoid synchronising steps.

    Args:
        work: The working folder.
    """

    def __init__(self, work: Path) -> None:
        self.file = work / ALPHA
        self.used: torch.Tensor | None = None
        self.unwritten: list[torch.Tensor] = []

    def on_output(self, output: Output, step: int) -> None:
        """Keep α of the batch; an accumulated step is recorded with that of its last batch."""
        self.used = output.alpha

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the lines up to the checkpoint, which was written after a log.

        Raises:
            ResumeError: If some of them are missing.
        """
        lines = self.file.read_text("utf-8").splitlines(True) if self.file.is_file() else []
        kept = lines[: state.global_step]
        try:
            steps = [json.loads(line)["step"] for line in kept]
        except (ValueError, KeyError, TypeError):
            steps = []
        if steps != [*range(1, state.global_step + 1)]:
            raise ResumeError(f"{self.file}: is damaged; {START_OVER}")
        write_text(self.file, "".join(kept))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep α of the step on its device."""
        assert self.used is not None
        self.unwritten.append(self.used)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write α of the steps since the last log."""
        if not self.unwritten:
            return
        kept = torch.stack(self.unwritten).tolist()
        self.unwritten = []
        with self.file.open("a", encoding="utf-8") as file:
            for step, alpha in enumerate(kept, state.global_step - len(kept) + 1):
                rounded = [[round(weight, 6) for weight in row] for row in alpha]
                file.write(json.dumps({"step": step, "alpha": rounded}) + "\n")


def reported_epochs(
    history: Sequence[Line],
    splits: Sequence[str],
    metric: str,
    selection: str,
    higher_is_better: Mapping[str, bool],
) -> dict[str, Any]:
    """Scores of the reported epochs, under the names of the selection.

    Args:
        history: From `clean_history`.
        splits: The evaluated splits.
        metric: The score by which epochs are compared, see `best_epoch`.
        selection: `none` (reports `last` and `best_on_dev`) or `holdout` (`last` and `selected`).
        higher_is_better: Each score of the problem, and whether more of it is better.
    """
    by_epoch: dict[int, dict[str, Any]] = {}
    for line in history:
        for split in splits:
            numbers = {
                name: line[f"eval_{split}_{name}"]
                for name in higher_is_better
                if f"eval_{split}_{name}" in line
            }
            if numbers:
                by_epoch.setdefault(round(line["epoch"]), {})[split] = numbers
    name, split = (
        ("selected", "holdout") if selection == "holdout" else ("best_on_dev", "validation")
    )
    on_split = {epoch: scores[split] for epoch, scores in by_epoch.items()}
    best = best_epoch(on_split, metric, higher_is_better)
    return {
        report: {"epoch": epoch, **by_epoch[epoch]}
        for report, epoch in (("last", max(by_epoch)), (name, best))
    }


def _held_out_scores(log_history: Sequence[Line]) -> dict[int, dict[str, float]]:
    """Epoch -> scores on the held-out rows, of the epochs that are scored so far."""
    prefix = "eval_holdout_"
    return {
        round(line["epoch"]): {
            key.removeprefix(prefix): line[key] for key in line if key.startswith(prefix)
        }
        for line in log_history
        if any(key.startswith(prefix) for key in line)
    }


def best_epoch(
    by_epoch: Mapping[int, Mapping[str, float]], metric: str, higher_is_better: Mapping[str, bool]
) -> int:
    """The epoch with the best score; of equal ones that with the lowest nll, then the earliest.

    Few held-out rows often give equal scores, and the cross-entropy tells more of each row.

    Examples:
        >>> scores = {1: {"accuracy": 0.8, "nll": 0.7}, 2: {"accuracy": 0.8, "nll": 0.6}}
        >>> best_epoch(scores, "accuracy", {"accuracy": True, "nll": False})
        2
    """
    sign = 1 if higher_is_better[metric] else -1
    return max(
        by_epoch,
        key=lambda epoch: (
            sign * by_epoch[epoch][metric],
            -by_epoch[epoch].get("nll", 0.0),
            -epoch,
        ),
    )


def clean_history(log_history: Sequence[Line]) -> list[dict[str, Any]]:
    """Log records without clock times, their keys in one order; the same for the same seed.

    Examples:
        >>> clean_history([{"loss": 1.0, "alpha": [[0.4, 0.6]], "step": 5, "eval_runtime": 2.5}])
        [{'step': 5, 'alpha': [[0.4, 0.6]], 'loss': 1.0}]
    """
    clocks = ("_runtime", "_per_second", "_preparation_time")
    lines = []
    for record in log_history:
        if "train_runtime" in record:  # the Trainer's summary of this process, not of the run
            continue
        line = {key: value for key, value in record.items() if not key.endswith(clocks)}
        first = {key: line.pop(key) for key in ("step", "epoch") if key in line}
        lines.append(first | dict(sorted(line.items())))  # a checkpoint has its own order
    return lines


def score_table(record: RunRecord) -> str:
    """The scores of a finished run as a table: the teacher, the reported epochs, the test rows."""
    rows: dict[str, Mapping[str, float]] = {}
    if record.teacher.metrics is not None and record.teacher.metrics.validation is not None:
        rows["teacher"] = record.teacher.metrics.validation.numbers
    for name, scores in record.metrics.epochs.items():
        if scores.validation is not None:
            rows[f"{name} (epoch {scores.epoch})"] = scores.validation.numbers
    if record.metrics.test is not None:
        rows["test (the saved model)"] = record.metrics.test.numbers
    names = list(next(reversed(rows.values())))
    widths = {name: max(11, len(name) + 2) for name in names}
    heads = (f"{name:>{width}}" for name, width in widths.items())
    lines = [f"{'validation':<26}" + "".join(heads)]
    for title, numbers in rows.items():
        cells = (
            f"{numbers[name]:{width}.4f}" if name in numbers else f"{'–':>{width}}"
            for name, width in widths.items()
        )
        lines.append(f"{title:<26}" + "".join(cells))
    return "\n".join(lines)
