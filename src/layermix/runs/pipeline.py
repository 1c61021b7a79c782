"""One config and one seed -> one run folder: `distill` loads, `distill_from` computes."""

import copy
import itertools
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import yaml
from transformers import PrinterCallback

from layermix.evaluation import metrics
from layermix.teacher_cache.cached_teacher import CachedTeacher
from layermix.runs.model_card import model_card
from layermix.config import (
    DistillConfig,
    LossConfig,
    MixConfig,
    TeachConfig,
    TrainingConfig,
    to_yaml,
)
from layermix.data.texts import TextData, load_texts
from layermix.errors import CacheError, ConfigError
from layermix.runs.layout import CHECKPOINTS, CONFIG, ENVIRONMENT, HISTORY, RESULT, RunFolder, write_text
from layermix.models.loading import (
    Classifier,
    HFEncoder,
    align_labels,
    blocks_of,
    copy_blocks,
    fingerprint,
    fresh_student,
    load_classifier,
)
from layermix.evaluation.latency import milliseconds_per_text
from layermix.runs.prepare import Lesson, prepare, tokenize_for
from layermix.hardware.precision import choose_precision, default_device, reuse_memory
from layermix.core.objective import Objective, build_objective
from layermix.console import Reporter
from layermix.runs.callbacks import (
    EpochRecorder,
    MixRecorder,
    clean_history,
    environment,
    reported_epochs,
)
from layermix.teacher_cache.choose import signals_for
from layermix.serving.predictor import TorchRunner, logits_of
from layermix.core.signals import Teacher
from layermix.evaluation.statistics import Score, row_bootstrap, score_interval
from layermix.runs.trackers import check_trackers, trackers
from layermix.core.trainer import DistillTrainer, last_checkpoint
from layermix.models.embedding_rows import occurring, only_occurring_trained

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
        student: The trained classifier (for `teach`, the teacher).
        metrics: Scores by reported epoch (`last`, and `best_on_dev` or `selected`) and split.
        history: One record per log and evaluation.
        record: All that result.json holds.
        folder: The run folder, if there is one.
    """

    student: Classifier
    metrics: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    record: Mapping[str, Any]
    folder: Path | None = None


# -- load at the edge ------------------------------------------------------------------------------


def distill(
    config: DistillConfig,
    out: Path | None = None,
    *,
    resume: bool = False,
    restart: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Load what the config names and distil it.

    Args:
        config: Teacher and data must be named in it.
        out: The run folder to make; None keeps no run, only the teacher's signals in the cache.
        resume: Go on with an unfinished run in `out`, if there is one.
        restart: Throw an unfinished run in `out` away.
        reporter: Where progress is shown; quiet if None.

    Raises:
        LayermixError: With what was found, what was wanted, and what to do.
    """
    reporter = reporter or Reporter(quiet=True)
    run = _open(out, config, resume, restart)  # before the work, so that it fails early
    texts, teacher, student = _loaded(config)
    if not _left_out_the_same_rows(config):
        reporter.warn(HOLDOUT_WARNING)
    lesson = prepare(teacher, student, texts, config, reporter)
    return distill_lesson(lesson, teacher, student, config, run=run, reporter=reporter)


def build_cache(config: DistillConfig, reporter: Reporter | None = None) -> CachedTeacher:
    """Compute the teacher's signals for the training rows that the config names, and store them.

    Args:
        config: As for `distill`; the mix and the losses say which layers are needed.
        reporter: Where progress is shown; quiet if None.

    Raises:
        LayermixError: With what was found, what was wanted, and what to do.
    """
    reporter = reporter or Reporter(quiet=True)
    texts, teacher, student = _loaded(config)
    lesson = prepare(teacher, student, texts, config, reporter)
    objective = objective_for(student, teacher, config)
    if not objective.needs_teacher:
        raise CacheError(f"these losses ask the teacher for nothing: {objective.formula()}")
    found = signals_for(lesson, teacher, objective, config, reporter)
    if not isinstance(found, CachedTeacher):
        raise CacheError(
            "nothing was stored: the teacher would run live, for the reason given above"
        )
    return found


def _loaded(config: DistillConfig) -> tuple[TextData, Classifier, Classifier]:
    """Data, teacher and student as the config names them."""
    if config.teacher.model is None:
        raise ConfigError("no teacher: give --teacher FOLDER (fine-tune one with `layermix teach`)")
    texts = load_texts(config.data)
    teacher = load_classifier(config.teacher.model, texts.label_names, named=texts.named)
    return texts, teacher, make_student(config, teacher, texts)


def objective_for(student: Classifier, teacher: Classifier, config: DistillConfig) -> Objective:
    """The objective of a student and its teacher; as `build_objective`, which knows neither."""
    depth, width = len(blocks_of(teacher.model)), int(teacher.model.config.hidden_size)
    return build_objective(HFEncoder(student.model), depth, width, config)


def _open(
    out: Path | str | None, config: DistillConfig | TeachConfig, resume: bool, restart: bool
) -> RunFolder | None:
    check_trackers(config.training.report_to or ())
    if out is None:
        return None
    return RunFolder(Path(out), to_yaml(config), resume=resume, restart=restart)


def make_student(config: DistillConfig, teacher: Classifier, texts: TextData) -> Classifier:
    """The student that the config describes: a model as it is, copied blocks, or a fresh one.

    Raises:
        ModelError: If it cannot be made.
    """
    wanted = config.student
    if wanted.model is not None:
        return load_classifier(wanted.model, texts.label_names, named=texts.named, seed=config.seed)
    if wanted.sizes:
        return fresh_student(teacher, config.seed, wanted.layers, wanted.sizes)
    return copy_blocks(teacher, wanted.layers, wanted.blocks)


HOLDOUT_WARNING = (
    "the teacher is not known to have left out the held-out rows, on which it may look better "
    "than it "
    "is; fine-tune it with `layermix teach --training.selection holdout` and the same fraction"
)


def _left_out_the_same_rows(config: DistillConfig) -> bool:
    """Whether the rows that choose the student's epoch, if any, were kept from the teacher."""
    wanted = config.training
    if wanted.selection == "none":
        return True
    file = Path(config.teacher.model or "") / CONFIG
    taught = yaml.safe_load(file.read_text(encoding="utf-8"))["training"] if file.is_file() else {}
    return bool(
        taught.get("selection") == wanted.selection
        and taught.get("holdout_fraction") == wanted.holdout_fraction
    )


# -- compute on objects ----------------------------------------------------------------------------


def distill_from(
    teacher: Classifier,
    student: Classifier,
    texts: TextData,
    config: DistillConfig,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    restart: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Distil a teacher into a student.

    Args:
        teacher: Fine-tuned on the task; frozen by this call.
        student: Trained in place.
        texts: With the classes of both.
        config: All but the places of data, teacher and student; `data.max_length`,
            `data.train_rows`, `teacher.allow_weak` and `cache` count.
        out: The run folder to make; None keeps no run. The teacher's signals go into the cache
            even so, unless `cache.use` is false.
        resume: Go on with an unfinished run in `out`, if there is one.
        restart: Throw an unfinished run in `out` away.
        reporter: Where progress is shown; quiet if None.

    Raises:
        LayermixError: With what was found, what was wanted, and what to do.
    """
    reporter = reporter or Reporter(quiet=True)
    run = _open(out, config, resume, restart)
    teacher = align_labels(teacher, texts.label_names, texts.named)
    student = align_labels(student, texts.label_names, texts.named)
    lesson = prepare(teacher, student, texts, config, reporter)
    return distill_lesson(lesson, teacher, student, config, run=run, reporter=reporter)


def distill_lesson(
    lesson: Lesson,
    teacher: Classifier,
    student: Classifier,
    config: DistillConfig,
    *,
    signals: Teacher | None = None,
    run: RunFolder | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Distil with a prepared lesson, so that arms may share it.

    Args:
        lesson: From `prepare`.
        teacher: As in `distill_from`.
        student: As in `distill_from`.
        config: As in `distill_from`.
        signals: The teacher's signals, if they are there already.
        run: As in `distill_from`.
        reporter: As in `distill_from`.
    """
    reporter = reporter or Reporter(quiet=True)
    if config.loss.supervised != "cross_entropy":
        raise ConfigError(
            f"loss.supervised is {config.loss.supervised}, but these data have classes; wanted "
            "cross_entropy (the other two are for an Objective of your own in Python)"
        )
    for note in lesson.notes:
        reporter.say(note)
    if idle := _idle(config):
        reporter.warn(
            "without effect, since α is learned with --mix.strategy learned only, and this is "
            f"{config.mix.strategy}: {', '.join(idle)}"
        )
    objective = objective_for(student, teacher, config)
    reporter.say(objective.formula())
    if objective.needs_teacher and signals is None:
        signals = signals_for(lesson, teacher, objective, config, reporter)
    extra = {
        "teacher": {
            "from": teacher.source,
            "parameters": teacher.model.num_parameters(),
            "fingerprint": fingerprint(teacher.model),
            "metrics": lesson.teacher_scores,
        },
        "mix": None
        if objective.plan is None
        else {
            "strategy": objective.plan.strategy,
            "student_layers": list(objective.plan.student_layers),
            "teacher_layers": list(objective.plan.teacher_layers),
            "start": None if objective.mix is None else objective.mix.weights.tolist(),
        },
        "formula": objective.formula(),
        "signals": _kind_of(signals),
    }
    name = config.mix.strategy if config.loss.hidden_weight else "distill"
    speed = None if run is None else _speed(lesson, {"teacher": teacher, "student": student})
    training = _Training(
        objective, signals, lesson, student, config.training, config.mix, config.seed, speed
    )
    return training.run(name, "student", extra, run, reporter)


def _idle(config: DistillConfig) -> list[str]:
    """Settings of a learned mix that were changed, where none is learned."""
    if config.mix.strategy == "learned":
        return []
    sections = {
        "mix": (config.mix, ("start", "learning_rate", "schedule")),
        "loss": (config.loss, ("entropy_weight",)),
    }
    return [
        f"{section}.{name}"
        for section, (values, names) in sections.items()
        for name in names
        if getattr(values, name) != type(values).model_fields[name].default
    ]


SPEED_TEXTS = 20
"""Validation rows on which teacher and student are timed in turns, some of them to warm up."""


def _speed(lesson: Lesson, classifiers: Mapping[str, Classifier]) -> dict[str, float]:
    """Milliseconds for one text; what the weights are does not matter, so before they are trained.

    Rough, since other processes may run beside it; its ratio less so.
    """
    rows = lesson.texts.splits["validation"][:SPEED_TEXTS]
    columns = [rows[name] for name in ("text", "text_pair") if name in rows]
    for one in classifiers.values():  # the teacher is there already, the student would stay behind
        model: Any = one.model
        model.to(default_device())
    texts = itertools.islice(itertools.cycle(zip(*columns, strict=True)), SPEED_TEXTS)
    return milliseconds_per_text(classifiers, list(texts), lesson.max_length)


def _kind_of(signals: Teacher | None) -> str | None:
    """How the teacher was asked, for the record."""
    if not isinstance(signals, CachedTeacher):
        return None if signals is None else "live"
    identity = signals.store.identity
    return f"stored in {identity.dtype}, computed in {identity.precision}"


def teach(
    config: TeachConfig,
    out: Path | None = None,
    *,
    resume: bool = False,
    restart: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Fine-tune the model that the config names; as `distill`, without a teacher.

    Raises:
        LayermixError: With what was found, what was wanted, and what to do.
    """
    if config.model is None:
        raise ConfigError("no model to fine-tune: give --model FOLDER, a hub id, or minilm")
    _open(out, config, resume, restart)  # before the work, so that it fails early
    texts = load_texts(config.data)
    model = load_classifier(config.model, texts.label_names, named=texts.named, seed=config.seed)
    return teach_from(
        model, texts, config, out=out, resume=resume, restart=restart, reporter=reporter
    )


def teach_from(
    model: Classifier,
    texts: TextData,
    config: TeachConfig,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    restart: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Fine-tune a classifier in place on labelled texts: the same trainer, L_sup alone.

    Args:
        model: Trained in place.
        texts: With its classes.
        config: Training and seed.
        out: The run folder to make; None keeps nothing on disk.
        resume: Go on with an unfinished run in `out`, if there is one.
        restart: Throw an unfinished run in `out` away.
        reporter: Where progress is shown; quiet if None.

    Raises:
        LayermixError: With what was found, what was wanted, and what to do.
    """
    reporter = reporter or Reporter(quiet=True)
    run = _open(out, config, resume, restart)
    model = align_labels(model, texts.label_names, texts.named)
    lesson = tokenize_for(texts, config, model.max_length, model.tokenizer)
    for note in (*lesson.notes, *model.notes):
        reporter.say(note)
    supervised_only = LossConfig(logit_weight=0, hidden_weight=0, entropy_weight=0)
    precision = choose_precision(config.training.precision)
    objective = Objective(HFEncoder(model.model), supervised_only, precision=precision)
    training = _Training(objective, None, lesson, model, config.training, MixConfig(), config.seed)
    return training.run("teacher", "teacher", {}, run, reporter)


def _saved(reports: Row) -> Row:
    """The reported epoch whose weights are saved."""
    found: Row = reports["selected" if "selected" in reports else "last"]
    return found


# -- one training ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Training:
    """One training from its objects to a result, in a run folder or in a temporary one."""

    objective: Objective
    teacher: Teacher | None
    lesson: Lesson
    student: Classifier
    config: TrainingConfig
    mix: MixConfig
    seed: int
    speed: Row | None = None

    def run(
        self, name: str, role: str, extra: Row, run: RunFolder | None, reporter: Reporter
    ) -> Result:
        """Train, collect, write; a failure is recorded in an unfinished run folder."""
        if run is None:
            with tempfile.TemporaryDirectory(prefix="layermix-") as folder:
                return self._run(name, role, extra, Path(folder), None, reporter)
        run.begin()
        try:
            return self._run(name, role, extra, run.work, run, reporter)
        except BaseException as error:
            status = "cancelled" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(OSError):  # a full disk must not hide the error
                run.write_json(RESULT, {"status": status, "error": repr(error)})
            run.leave()
            raise

    def _run(
        self,
        name: str,
        role: str,
        extra: Row,
        work: Path,
        run: RunFolder | None,
        reporter: Reporter,
    ) -> Result:
        started = time.monotonic()
        reuse_memory()
        checkpoints = work / CHECKPOINTS
        recorder = EpochRecorder(work, self.lesson, self.config.selection == "holdout")
        watching = [MixRecorder(work, self.objective)] if self.objective.learns_mix else []
        train = self.lesson.splits["train"]
        tokens = occurring(train, self.student.tokenizer.pad_token_id)
        chosen = only_occurring_trained(self.student.model, tokens)
        with chosen, reporter.training(name) as bar:
            trainer = DistillTrainer(
                self.objective,
                self.teacher,
                self.config,
                self.mix,
                self.seed,
                checkpoints,
                train_dataset=train,
                eval_dataset=self.lesson.evaluated,
                data_collator=self.lesson.collate,
                compute_metrics=recorder.score,
                callbacks=[recorder, *watching, bar, *trackers(self.config.report_to or (), work)],
            )
            trainer.remove_callback(PrinterCallback)
            resume_from = last_checkpoint(checkpoints)
            trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
            history = clean_history(trainer.state.log_history)
            reports = reported_epochs(
                history, list(self.lesson.evaluated), self.lesson.metric, self.config.selection
            )
            if self.config.selection == "holdout":
                recorder.restore(self.objective, reports["selected"]["epoch"])
        for report in reports.values():
            logits, labels = recorder.logits("validation", report["epoch"])
            report["validation"]["per_class"] = metrics.per_class(
                logits, labels, self.lesson.texts.label_names
            )
        trained = time.monotonic() - started
        self._warn_of_one_answer(recorder, reports, reporter)
        if "test" in self.lesson.splits:
            reports |= self._test(reporter)
        self.student.model.eval()  # type: ignore[no-untyped-call]  # transformers
        # Kept in config.json, so that `predict` reads the same columns and cuts at the same length.
        self.student.model.config.layermix = {
            "text_columns": list(self.lesson.texts.text_columns),
            "max_length": self.lesson.max_length,
            "taught": self.lesson.texts.taught,
            "split_off": self.lesson.texts.split_off,
        }
        record = {
            "status": "ok",
            "task": self.lesson.texts.task,
            "metric": self.lesson.metric,
            "metrics": reports,
            **extra,
            role: {
                **self.student.start,
                "parameters": self.student.model.num_parameters(),
                "classes": list(self.lesson.texts.label_names),
            },
            "alpha": next((line["alpha"] for line in reversed(history) if "alpha" in line), None),
            "data": {
                "from": self.lesson.texts.source,
                "fingerprint": self.lesson.texts.fingerprint,
                "rows": {split: len(rows) for split, rows in self.lesson.splits.items()},
                "max_length": self.lesson.max_length,
                "cut": dict(self.lesson.cut),
            },
            "pair": len(self.lesson.texts.text_columns) == 2,
            "notes": list(self.lesson.notes),
            "warnings": reporter.warnings(),
            "precision": str(self.objective.precision).removeprefix("torch."),
            "timings": {"training_seconds": round(trained, 3), "resumed": resume_from is not None},
        }
        if (sure := self._interval(recorder, reports)) is not None:
            record["interval"] = sure
        if self.speed is not None:
            record["timings"]["milliseconds_per_text"] = self.speed
        if run is not None:
            self._write(role, record, history, reports, recorder, run)
        return Result(self.student, reports, history, record, run.final if run else None)

    def _warn_of_one_answer(
        self, recorder: EpochRecorder, reports: Row, reporter: Reporter
    ) -> None:
        """Say so where the model that is saved answers the same on every validation row."""
        logits, labels = recorder.logits("validation", _saved(reports)["epoch"])
        answers = np.unique(logits.argmax(-1))
        if len(answers) == 1 < len(np.unique(labels[labels != metrics.UNLABELLED])):
            only = self.lesson.texts.label_names[int(answers[0])]
            reporter.warn(
                f"it answers {only!r} on every validation row, so it has learned nothing yet; more "
                "steps (--training.epochs), a higher rate (--training.learning_rate) or, with a "
                "teacher, a smaller --loss.hidden_weight may get it off the ground"
            )

    def _interval(self, recorder: EpochRecorder, reports: Row) -> dict[str, Any] | None:
        """How sure the saved student's score is over examples, and its difference to the teacher's.

        None where no validation row has a label, or the score is one that has no interval here.
        """
        metric: Any = self.lesson.metric
        logits, labels = recorder.logits("validation", _saved(reports)["epoch"])
        known = labels != metrics.UNLABELLED
        if metric not in get_args(Score) or not known.any():
            return None
        predicted, labels = logits.argmax(-1)[known], labels[known]
        low, high = score_interval(predicted, labels, metric)
        found = {"metric": metric, "rows": len(labels), "low": low, "high": high}
        if (teacher := self.lesson.teacher_logits.get("validation")) is not None:
            paired = row_bootstrap(predicted, teacher.argmax(-1)[known], labels, metric)
            found |= {
                "difference": paired.difference,
                "difference_low": paired.low,
                "difference_high": paired.high,
            }
        return found

    def _test(self, reporter: Reporter) -> dict[str, Any]:
        """Scores on the test rows of the student that is saved, once."""
        rows = self.lesson.splits["test"]
        labels = np.asarray(rows["labels"])
        student = TorchRunner(HFEncoder(self.student.model))
        logits = logits_of(student, rows, self.lesson.collate, track=reporter.track, what="test")
        if not (labels != metrics.UNLABELLED).any():
            return {}
        return {"test": metrics.scores(logits, labels, self.lesson.teacher_logits.get("test"))}

    def _write(
        self,
        role: str,
        record: dict[str, Any],
        history: Sequence[Row],
        reports: Row,
        recorder: EpochRecorder,
        run: RunFolder,
    ) -> None:
        folder = run.work / role
        self.student.model.save_pretrained(folder)
        # Some tokenizers know no limit, and transformers.js no other place to look for one.
        tokenizer: Any = copy.deepcopy(self.student.tokenizer)
        tokenizer.model_max_length = self.student.max_length
        tokenizer.save_pretrained(folder)
        size = sum(file.stat().st_size for file in folder.iterdir())
        record[role]["bytes_on_disk"] = size
        write_text(folder / "README.md", model_card(record, role))
        write_text(run.work / HISTORY, "".join(json.dumps(line) + "\n" for line in history))
        recorder.predictions(
            {name: report["epoch"] for name, report in reports.items() if name != "test"}
        )
        run.write_json(ENVIRONMENT, environment(self.seed))
        run.write_json(RESULT, record)
        run.finish()
