"""One training from its objects to a result, in a run folder or without one."""

import copy
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from transformers import PrinterCallback, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from layermix.atomic import whole_folder, write_text
from layermix.config import (
    MixConfig,
    TrainingConfig,
)
from layermix.console import Reporter
from layermix.core.objective import Objective
from layermix.core.signals import Teacher
from layermix.core.trainer import DistillTrainer
from layermix.data.prepared import PreparedData
from layermix.data.splits import labels_of
from layermix.errors import Note
from layermix.hardware.cpu_kernels import prepare_process
from layermix.hardware.processes import as_in_main, from_main
from layermix.launch import is_main, world_size
from layermix.models.embedding_rows import occurring, only_occurring_trained
from layermix.models.encoder import Classifier, HFEncoder
from layermix.models.inference import TorchRunner, logits_by_all
from layermix.models.labels import write_kind
from layermix.models.tokenizers import save_tokenizer
from layermix.problems.problem import Problem
from layermix.runs.callbacks import (
    EarlyStopping,
    EpochRecorder,
    MixRecorder,
    clean_history,
    needed_to_resume,
    reported_epochs,
)
from layermix.runs.environment import environment
from layermix.runs.extensions import NONE, Extensions
from layermix.runs.layout import CHECKPOINTS, ENVIRONMENT, HISTORY, RESULT, RunFolder
from layermix.runs.model_card import model_card
from layermix.runs.progress_bar import training_bar
from layermix.runs.recording import run_record, saved_model_entry, with_size
from layermix.runs.schema import (
    Calibration,
    Interval,
    Role,
    RunRecord,
    StartRecord,
    Timings,
    read_result,
)
from layermix.runs.start import begun, check_reachable, resumable
from layermix.runs.trackers import trackers

Row = Mapping[str, Any]


def state_of(checkpoint: Path | None) -> TrainerState | None:
    """The trainer's state in a checkpoint; None without one."""
    if checkpoint is None:
        return None
    state: TrainerState = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    return state


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        student: The trained classifier (for `teach`, the teacher).
        metrics: Scores by reported epoch (`last`, and `best_on_dev` or `selected`) and split.
        history: One record per log and evaluation.
        record: The content of result.json.
        folder: The run folder, if there is one.
    """

    student: Classifier
    metrics: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    record: RunRecord
    folder: Path | None = None


Made = TypeVar("Made")


def in_all(result: Made | None, student: Classifier) -> Made:
    """The result of the main process, which alone has one, in all processes; with its weights.

    Args:
        result: A dataclass with a `student`; None in the other processes.
        student: This process's, which gets the weights of the main one's.
    """
    as_in_main(list(student.model.state_dict().values()))
    others: Any = result
    if world_size() > 1:  # a student is not sent as a whole
        facts = from_main(lambda: replace(others, student=None))
        others = replace(facts, student=student)
    made: Made = others
    return made


def _saved(reports: Row) -> Row:
    """The reported epoch whose weights are saved."""
    saved: Row = reports["selected" if "selected" in reports else "last"]
    return saved


def _in_words(calibration: Calibration) -> str:
    """What was fitted, up to the verb."""
    if calibration.thresholds is None:
        return f"temperature {calibration.temperature:.2f} suits"
    low, high = min(calibration.thresholds), max(calibration.thresholds)
    if low == high:
        return f"a threshold of {low:.2f} for all labels suits"
    return f"thresholds from {low:.2f} to {high:.2f} suit"


@dataclass(frozen=True)
class Training:
    """One training from its objects to a result, in a run folder or in a temporary one."""

    objective: Objective
    teacher: Teacher | None
    prepared: PreparedData
    student: Classifier
    config: TrainingConfig
    mix: MixConfig
    seed: int
    speed: Row | None = None
    extensions: Extensions = NONE

    @property
    def problem(self) -> Problem:
        """The kind of label."""
        return self.prepared.problem

    def run(
        self,
        name: str,
        role: Role,
        known: RunRecord,
        run: RunFolder | None,
        start: StartRecord | None,
        reporter: Reporter,
    ) -> Result:
        """Train, collect, write; a failure is recorded in an unfinished run folder.

        Args:
            name: Name of the progress bar.
            role: Role of the trained model.
            known: The part of the record that is known before the training.
            run: Where the run is written; None keeps nothing.
            start: What the run is begun with; None if nothing is kept.
            reporter: Where progress is shown.

        Raises:
            ResumeError: If an unfinished run has checkpoints, but no whole one.
        """
        if run is None:  # as in every process but the main one
            finished, checkpoint = from_main(lambda: (False, None))
            with tempfile.TemporaryDirectory(prefix="layermix-") as folder:
                if finished:
                    return in_all(None, self.student)
                return self._run(name, role, known, Path(folder), None, checkpoint, reporter)
        with begun(run):
            result = None
            if run.only_lacks_its_name:
                result = self._finished(role, run)
            finished, checkpoint = from_main(
                lambda: (True, None) if result else (False, resumable(run, start, reporter))
            )
            if finished:
                return in_all(result, self.student)
            return self._run(name, role, known, run.work, run, checkpoint, reporter)

    def _finished(self, role: Role, run: RunFolder) -> Result | None:
        """The result of a run that was killed in its last moments; None if it was not."""
        try:
            record = read_result(run.work)
        except (OSError, ValueError):
            return None
        model: Any = self.student.model
        model.load_state_dict(type(model).from_pretrained(run.work / role).state_dict())
        lines = (run.work / HISTORY).read_text(encoding="utf-8").splitlines()
        run.finish()
        metrics = record.to_dict()["metrics"]
        return Result(self.student, metrics, [*map(json.loads, lines)], record, run.final)

    def _run(
        self,
        name: str,
        role: Role,
        known: RunRecord,
        work: Path,
        run: RunFolder | None,
        resume_from: Path | None,
        reporter: Reporter,
    ) -> Result:
        started = time.monotonic()
        prepare_process()
        check_reachable(resume_from)
        checkpoints = work / CHECKPOINTS
        recorder = EpochRecorder(work, self.prepared, self.config.selection == "holdout")
        metric, directions = self.prepared.metric, self.problem.higher_is_better
        stopping = EarlyStopping(self.config.patience, metric, directions[metric])
        mix = self.objective.mix
        watching: list[TrainerCallback] = []
        if is_main():
            watching += [recorder, *trackers(self.config.report_to or (), work)]
            if mix is not None and not getattr(mix, "constant", False):
                watching.append(MixRecorder(work))
        train, held_out = self.prepared.splits["train"], None
        tokens = occurring(train, self.student.tokenizer.pad_token_id)
        if self.extensions.wants_held_out and "holdout" in self.prepared.splits:
            held_out = self.prepared.splits["holdout"]
            tokens |= occurring(held_out, self.student.tokenizer.pad_token_id)
        share = {"unlabeled_share": self.prepared.unlabeled_share}
        chosen = only_occurring_trained(self.student.model, tokens)
        with chosen, training_bar(reporter, name, metric) as bar:
            trainer = DistillTrainer(
                self.objective,
                self.teacher,
                self.config.model_copy(update=share),
                self.mix,
                self.seed,
                checkpoints,
                alpha_learner=self.extensions.alpha_learner,
                held_out=held_out,
                labelled=self.problem.labelled(labels_of(train["labels"])).tolist(),
                beside=lambda: needed_to_resume(work),
                train_dataset=train,
                eval_dataset=self.prepared.evaluated,
                data_collator=self.prepared.collate,
                compute_metrics=recorder.score,
                callbacks=[*watching, stopping, bar, *self.extensions.callbacks],
            )
            trainer.remove_callback(PrinterCallback)
            state = state_of(resume_from)
            if state is None or not stopping.is_due(state.log_history):
                trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
                state = trainer.state
            history = clean_history(state.log_history)
            reports = reported_epochs(
                history,
                list(self.prepared.evaluated),
                metric,
                self.config.selection,
                directions,
            )
            if self.config.selection == "holdout":
                if is_main():
                    recorder.restore(self.objective, reports["selected"]["epoch"])
                as_in_main(list(self.objective.student.state_dict().values()))
        test = self._test(reporter) if "test" in self.prepared.splits else {}
        if not is_main():
            return in_all(None, self.student)
        for report in reports.values():
            logits, labels = recorder.logits("validation", report["epoch"])
            report["validation"] |= self.problem.details(
                logits, labels, self.prepared.texts.label_names
            )
        trained = time.monotonic() - started
        if (ended := reports["last"]["epoch"]) < self.config.epochs:
            text = (
                f"stopped after epoch {ended} of {self.config.epochs}: {self.prepared.metric} on "
                f"the held-out rows is no better than {self.config.patience} epoch(s) before"
            )
            reporter.say(Note("stopped-early", text))
        self._warn_of_one_class(recorder, reports, reporter)
        calibration = self._calibration(recorder, reports, reporter)
        reports |= test
        self.student.model.eval()  # type: ignore[no-untyped-call]  # transformers
        entry = saved_model_entry(self.prepared, calibration)
        write_kind(self.student.model.config, self.problem)
        self.student.model.config.layermix = entry.model_dump(mode="json", exclude_none=True)
        record = run_record(
            role,
            known,
            self.prepared,
            self.student,
            metrics=reports,
            history=history,
            warnings=reporter.warnings(),
            precision=str(self.objective.precision).removeprefix("torch."),
            timings=Timings(
                training_seconds=round(trained, 3),
                resumed=resume_from is not None,
                milliseconds_per_text=self.speed,
            ),
            interval=self._interval(recorder, reports),
            calibration=calibration,
        )
        if run is not None:
            record = self._write(role, record, history, recorder, run)
        folder = run.final if run else None
        return in_all(Result(self.student, reports, history, record, folder), self.student)

    def _warn_of_one_class(self, recorder: EpochRecorder, reports: Row, reporter: Reporter) -> None:
        """Warn if the saved model predicts the same class on every validation row."""
        logits, labels = recorder.logits("validation", _saved(reports)["epoch"])
        only = self.problem.only_answer(logits, labels, self.prepared.texts.label_names)
        if only is not None:
            reporter.warn(
                Note(
                    "one-class-predicted",
                    f"the model predicts {only!r} on every validation row: it has learned nothing "
                    "yet; try more epochs (--training.epochs), a higher learning rate "
                    "(--training.learning_rate) or, with a teacher, a smaller --loss.hidden_weight",
                )
            )

    def _interval(self, recorder: EpochRecorder, reports: Row) -> Interval | None:
        """The interval of the saved model's score over rows; None if there is none for it."""
        logits, labels = recorder.logits("validation", _saved(reports)["epoch"])
        teacher = self.prepared.teacher_logits.get("validation")
        if self.prepared.guessed("validation").any():
            teacher = None  # it would be compared with itself
        groups = self.prepared.groups("validation")
        interval = self.problem.interval(self.prepared.metric, logits, labels, teacher, groups)
        return None if interval is None else Interval.model_validate(interval)

    def _calibration(
        self, recorder: EpochRecorder, reports: Row, reporter: Reporter
    ) -> Calibration | None:
        """What suits the held-out rows, and what it does on the validation rows."""
        names = self.problem.calibrated_scores
        if "holdout" not in self.prepared.evaluated or not names:
            return None
        epoch = _saved(reports)["epoch"]
        logits, labels = recorder.logits("holdout", epoch)
        if (guessed := self.prepared.guessed("holdout")).any():
            labels = labels.copy()
            labels[guessed] = self.problem.missing(logits.shape[-1])
        found = self.problem.calibration(logits, labels)
        if found is None:
            text = (
                "nothing is fitted for --calibrated: the held-out rows do not say what would be "
                "better"
            )
            reporter.say(Note("not-calibrated", text))
            return None
        judged = int(self.problem.labelled(labels).sum())
        logits, labels = recorder.logits("validation", epoch)
        before, after = (
            self.problem.scores(values, labels)
            for values in (logits, self.problem.calibrated(logits, found))
        )
        calibration = Calibration(
            **found,
            scores={name: before[name] for name in names},
            calibrated={name: after[name] for name in names},
        )
        on_validation = ", ".join(
            f"{name} {score:.3f} with it, {calibration.scores[name]:.3f} without"
            for name, score in calibration.calibrated.items()
        )
        text = (
            f"{_in_words(calibration)} the {judged} held-out rows best; on the validation rows: "
            f"{on_validation} (`layermix predict --calibrated`)"
        )
        reporter.say(Note("temperature" if calibration.temperature else "thresholds", text))
        return calibration

    def _test(self, reporter: Reporter) -> dict[str, Any]:
        """Scores of the saved student on the test rows."""
        rows = self.prepared.splits["test"]
        labels = labels_of(rows["labels"])
        student = TorchRunner(HFEncoder(self.student.model))
        logits = logits_by_all(
            student, rows, self.prepared.collate, track=reporter.track, what="test"
        )
        if not self.problem.labelled(labels).any():
            return {}
        teacher = self.prepared.teacher_logits.get("test")
        return {"test": self.problem.scores(logits, labels, teacher)}

    def _write(
        self,
        role: Role,
        record: RunRecord,
        history: Sequence[Row],
        recorder: EpochRecorder,
        run: RunFolder,
    ) -> RunRecord:
        """Write and finish the run folder; return the record with the size of the model."""
        with whole_folder(run.work / role, replace=True) as folder:
            self.student.model.save_pretrained(folder)
            # Some tokenizers have no limit, and transformers.js reads it only from here.
            tokenizer: Any = copy.deepcopy(self.student.tokenizer)
            tokenizer.model_max_length = self.student.max_length
            save_tokenizer(tokenizer, folder)
            size = sum(file.stat().st_size for file in folder.iterdir())
            record = with_size(record, role, size)
            write_text(folder / "README.md", model_card(record, role))
        write_text(run.work / HISTORY, "".join(json.dumps(line) + "\n" for line in history))
        recorder.predictions({name: scores.epoch for name, scores in record.metrics.epochs.items()})
        run.write(ENVIRONMENT, environment(self.seed).to_json())
        run.write(RESULT, record.to_json())
        run.finish()
        return record
