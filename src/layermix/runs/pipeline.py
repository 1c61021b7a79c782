"""One config and one seed -> one run folder: `distill` loads, `distill_from` computes."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import concatenate_datasets
from torch import Tensor
from transformers import TrainerCallback

from layermix.atomic import write_text
from layermix.augmentation.new_rows import with_new_rows
from layermix.config import (
    DistillConfig,
    LabelLossConfig,
    LossConfig,
    MixConfig,
    PretrainConfig,
    TeachConfig,
    read_yaml,
    to_yaml,
)
from layermix.console import Reporter
from layermix.core.alpha_learner import AlphaLearner
from layermix.core.mixing import MIXES, Mix
from layermix.core.objective import Objective, build_objective
from layermix.core.signals import Teacher
from layermix.core.terms import Term
from layermix.data.prepared import PreparedData
from layermix.data.splits import labels_of, text_batches, texts_of
from layermix.data.texts import TextData, load_texts
from layermix.errors import CacheError, ConfigError, Note
from layermix.hardware.device import default_device
from layermix.hardware.precision import choose_precision
from layermix.launch import is_main
from layermix.models.encoder import Classifier, HFEncoder, blocks_of
from layermix.models.labels import align_labels
from layermix.models.latency import milliseconds_per_text
from layermix.models.loading import load_classifier, problem_of_model
from layermix.models.narrowing import narrow_student
from layermix.models.soft_label_teacher import SoftLabelTeacher
from layermix.models.students import described_student, with_dropout
from layermix.models.vocabulary import old_numbers, trim_vocabulary
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.kinds import PROBLEMS
from layermix.problems.problem import Problem
from layermix.runs.extensions import NONE, Extensions
from layermix.runs.layout import CONFIG, OWN, RunFolder
from layermix.runs.prepare import choose_rows, prepare, tokenize_for
from layermix.runs.projection import fit_projection
from layermix.runs.schema import (
    SOFT_LABELS,
    MixRecord,
    ModelRecord,
    RunRecord,
    ScoresBySplit,
    StartRecord,
)
from layermix.runs.soft_labels import (
    check_probabilities_suffice,
    prepare_mean,
    prepare_soft,
    soft_label_teacher,
)
from layermix.runs.start import check_start, start_record
from layermix.runs.trackers import check_trackers
from layermix.runs.training import Result, Training
from layermix.teacher_cache.cached_teacher import CachedTeacher
from layermix.teacher_cache.choose import signals_for

# -- load at the edge ------------------------------------------------------------------------------


def distill(
    config: DistillConfig,
    out: Path | None = None,
    *,
    resume: bool = False,
    restart: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Load the teacher and data that the config names, and distil.

    Args:
        config: Must name a teacher and data.
        out: The run folder to make; None keeps no run, only the teacher's signals in the cache.
        resume: Continue an unfinished run in `out`, if there is one.
        restart: Discard an unfinished run in `out`.
        reporter: Where progress is shown; quiet if None.

    Raises:
        LayermixError: Says what was found, what was wanted, and what to do.
    """
    reporter = reporter or Reporter(quiet=True)
    run = open_run(out, config, resume, restart)  # before the work, so that it fails early
    if not config.teacher.models:
        return _distill_soft(config, run, reporter)
    texts, teachers, student = _loaded(config)
    if not all(holds_out_the_same_rows(config, model) for model in config.teacher.models):
        reporter.warn(HOLDOUT_WARNING)
    for teacher in teachers:
        if _was_split_otherwise(teacher, texts):
            reporter.warn(Note("teacher-saw-validation", OTHER_GROUPS.format(teacher.source)))
    if len(teachers) > 1:
        prepared = prepare_mean(teachers, student, texts, config, reporter)
        return distill_prepared(prepared, None, student, config, run=run, reporter=reporter)
    prepared = prepare(teachers[0], student, texts, config, reporter)
    return distill_prepared(prepared, teachers[0], student, config, run=run, reporter=reporter)


def _distill_soft(config: DistillConfig, run: RunFolder | None, reporter: Reporter) -> Result:
    """Train the student that the config names on the soft labels of its data."""
    model = config.student.model
    if model is None:
        raise ConfigError(f"{NO_TEACHER}; or, for data with {SOFT}, the model to train: --student")
    named = PROBLEMS[config.data.problem] if config.data.problem else None
    problem = named or problem_of_model(model, declared=True)
    check_probabilities_suffice(config, problem or CLASSIFICATION)  # before the data are read
    texts = load_texts(config.data, soft_labels="beside", problem=problem)
    if texts.soft_labels is None:
        raise ConfigError(f"{NO_TEACHER}; or data with {SOFT}, and {texts.source} has none")
    student = make_student(config, None, texts)
    prepared = prepare_soft(student, texts, config)
    return distill_prepared(prepared, None, student, config, run=run, reporter=reporter)


NO_TEACHER = "no teacher: give --teacher FOLDER (fine-tune one with `layermix teach`)"
SOFT = "soft labels (a column p_CLASS with the probability of each class)"


def build_cache(config: DistillConfig, reporter: Reporter | None = None) -> CachedTeacher:
    """Compute the teacher's signals for the training rows that the config names, and store them.

    Args:
        config: As for `distill`; the mix and the losses say which layers are needed.
        reporter: Where progress is shown; quiet if None.

    Raises:
        LayermixError: Says what was found, what was wanted, and what to do.
    """
    reporter = reporter or Reporter(quiet=True)
    texts, teachers, student = _loaded(config)
    teacher = _only(teachers)
    prepared = prepare(teacher, student, texts, config, reporter)
    objective = objective_for(student, teacher, config)
    if not objective.needs_teacher:
        raise CacheError(
            f"nothing to cache: no term of the loss needs the teacher ({objective.formula()}); "
            "enable one, such as --loss.logit_weight 1"
        )
    signals = signals_for(prepared, teacher, objective, config, reporter)
    if not isinstance(signals, CachedTeacher):
        raise CacheError(
            "nothing was cached: the teacher would run on every batch, for the reason given above"
        )
    return signals


def new_rows(config: DistillConfig, out: Path) -> Note:
    """Write the new rows that a distillation would make (`data.augment`), as JSON lines.

    Args:
        config: Must name a teacher and data.
        out: The file.

    Returns:
        A note on how many there are and how they were made.

    Raises:
        LayermixError: Says what was found, what was wanted, and what to do.
    """
    texts, teachers = _loaded_texts(config)
    teacher = teachers[0]  # of several, the one whose embedding finds similar texts
    made = with_new_rows(choose_rows(texts, config), teacher, config.data)
    own, all_of_them = (len(one.splits.get("unlabeled", ())) for one in (texts, made))
    if own == all_of_them:
        found = made.split_notes[-1].text if config.data.augment else "--data.augment 0 makes none"
        raise ConfigError(f"there are no new rows to write: {found}; give --data.augment 20000")
    lines = [
        json.dumps(dict(zip(texts.text_columns, text, strict=True)), ensure_ascii=False) + "\n"
        for text in texts_of(made.splits["unlabeled"])[own:]
    ]
    write_text(out, "".join(lines))
    return made.split_notes[-1]


def _loaded_texts(config: DistillConfig) -> tuple[TextData, list[Classifier]]:
    """Data and teachers as the config names them."""
    if not config.teacher.models:
        raise ConfigError(NO_TEACHER)
    problem = None if config.data.problem else problem_of_model(config.teacher.models[0])
    texts = load_texts(config.data, problem=problem)
    _check_losses(texts, config.loss)
    teachers = [
        load_classifier(model, texts.label_names, problem=texts.problem)
        for model in config.teacher.models
    ]
    return texts, teachers


def _loaded(config: DistillConfig) -> tuple[TextData, list[Classifier], Classifier]:
    """Data, teachers and student as the config names them."""
    texts, teachers = _loaded_texts(config)
    return texts, teachers, make_student(config, teachers[0], texts)


def _only(teachers: Sequence[Classifier]) -> Classifier:
    if len(teachers) > 1:
        raise CacheError(
            "found several teachers, wanted one: give them one at a time, or none: `layermix "
            "distill` stores what it asks them"
        )
    return teachers[0]


def objective_for(
    student: Classifier,
    teacher: Classifier | None,
    config: DistillConfig,
    extensions: Extensions = NONE,
    supervised: Term | None = None,
) -> Objective:
    """The objective of a student and its teacher: `build_objective` with their sizes.

    Without a teacher model no term can look at layers, and the student's sizes stand for its.
    """
    model = (teacher or student).model
    depth, width = len(blocks_of(model)), int(model.config.hidden_size)
    return build_objective(
        HFEncoder(student.model),
        depth,
        width,
        config,
        mix=extensions.mix,
        terms=extensions.terms,
        supervised=supervised,
        widening=student.widening,
    )


def _supervised(prepared: PreparedData, loss: LabelLossConfig, weight: float = 1.0) -> Term:
    """L_sup for the training rows."""
    labels = labels_of(prepared.splits["train"]["labels"])
    names = prepared.texts.label_names
    if prepared.problem.labelled(labels).any():
        return prepared.problem.supervised_term(loss, weight, labels, names)
    if loss.class_weights is not None or loss.label_smoothing:
        raise ConfigError(
            "loss.class_weights and loss.label_smoothing act on labels, and no training row has "
            "one; leave them out"
        )
    return prepared.problem.supervised_term(loss, 0.0, labels, names)


def open_run(
    out: Path | str | None,
    config: DistillConfig | TeachConfig | PretrainConfig,
    resume: bool,
    restart: bool,
    extensions: Extensions = NONE,
) -> RunFolder | None:
    """The folder of a run, if it is to have one; checks it and the trackers before any work.

    Of several processes, the main one alone has it.

    Raises:
        RunExistsError, ConfigError: As `RunFolder`, or if a tracker is not installed.
    """
    check_trackers(config.training.report_to or ())
    if out is None or not is_main():
        return None
    text = to_yaml(config) + "".join(f"{OWN} {line}\n" for line in extensions.described())
    return RunFolder(Path(out), text, resume=resume, restart=restart)


def make_student(config: DistillConfig, teacher: Classifier | None, texts: TextData) -> Classifier:
    """The student that the config describes: a model, copied blocks, narrowed ones, or a fresh one.

    Args:
        config: Its section student is read, and the seed of new weights.
        teacher: Gives its blocks, its tokenizer and its vocabulary; None if the student is a model.
        texts: Their classes are those of a new head; a narrowed student is fitted on their training
            rows.

    Raises:
        ModelError: If it cannot be made.
        ConfigError: If there is no teacher to make it from.
    """
    wanted = config.student
    if wanted.start == "teacher" and teacher is not None:
        student = narrow_student(
            teacher,
            choose_rows(texts, config),
            wanted.layers,
            wanted.sizes,
            spread=wanted.copied == "spread",
            max_length=config.data.max_length,
        )
        student = with_dropout(student, wanted.dropout)
    else:
        student = described_student(wanted, config.seed, teacher, texts.label_names, texts.problem)
    if wanted.vocabulary is None:
        return student
    rows = choose_rows(texts, config).splits  # no held-out row
    used = [rows[name] for name in ("train", "unlabeled") if name in rows]
    return trim_vocabulary(
        student, wanted.vocabulary, text_batches(used), text_batches([rows["validation"]])
    )[0]


HOLDOUT_WARNING = Note(
    "teacher-saw-holdout",
    "the teacher may have been trained on the held-out rows, where it then looks better than it "
    "is; fine-tune it with `layermix teach --training.selection holdout` and the same "
    "--training.holdout_fraction",
)


def holds_out_the_same_rows(config: DistillConfig, model: str) -> bool:
    """Whether a teacher was not trained on the rows that choose the student's epoch, if any."""
    wanted = config.training
    if wanted.selection == "none":
        return True
    try:
        whole = read_yaml(Path(model) / CONFIG)[0]
    except ConfigError:  # no run folder
        return False
    teacher, data = whole.get("training"), whole.get("data") or {}
    return (
        isinstance(teacher, Mapping)
        and teacher.get("selection") == wanted.selection
        and teacher.get("holdout_fraction") == wanted.holdout_fraction
        and data.get("group_column") == config.data.group_column
    )


OTHER_GROUPS = (
    "{}: was trained on rows that are validation rows here, where it then looks better than it is: "
    "it was given another --data.group_column; fine-tune it with the same one"
)


def _was_split_otherwise(teacher: Classifier, texts: TextData) -> bool:
    """Whether a teacher of the same training file had other validation rows split off from it."""
    entry = getattr(teacher.model.config, "layermix", None) or {}
    same = texts.split_off and entry.get("taught") == texts.train_hash
    return bool(same and entry.get("group_column") != texts.group_column)


# -- compute on objects ----------------------------------------------------------------------------


def distill_from(
    teacher: Classifier | None,
    student: Classifier,
    texts: TextData,
    config: DistillConfig,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    restart: bool = False,
    reporter: Reporter | None = None,
    mix: Mix | None = None,
    terms: Sequence[Term] = (),
    alpha_learner: AlphaLearner | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Result:
    """Distil a teacher into a student.

    Args:
        teacher: Fine-tuned on the task; frozen by this call. None: the student learns from the
            soft labels of `texts`.
        student: Trained in place.
        texts: With the classes of both.
        config: All settings; of those for data and teacher only `data.max_length`, `data.augment`,
            `data.augment_ways`, `data.train_rows` and `teacher.allow_weak` are used, of those for
            the student none (see `make_student`).
        out: The run folder to make; None keeps no run. The teacher's signals are cached in both
            cases, unless `cache.use` is false.
        resume: Continue an unfinished run in `out`, if there is one.
        restart: Discard an unfinished run in `out`.
        reporter: Where progress is shown; quiet if None.
        mix: A way to mix of your own, for the layers that `plan_mix` gives.
        terms: Terms of your own, added to those of the config.
        alpha_learner: The rule by which α learns, instead of the paper's.
        callbacks: Of `transformers.Trainer`; an `OutputCallback` gets every `Output` as well.

    Raises:
        LayermixError: Says what was found, what was wanted, and what to do.
    """
    reporter = reporter or Reporter(quiet=True)
    extensions = Extensions(mix, terms, alpha_learner, callbacks)
    run = open_run(out, config, resume, restart, extensions)
    student = align_labels(student, texts.label_names, named=texts.problem.named)
    if teacher is not None:
        teacher = align_labels(teacher, texts.label_names, named=texts.problem.named)
        prepared = prepare(teacher, student, texts, config, reporter)
    elif texts.soft_labels is None:
        raise ConfigError(
            f"found neither a teacher nor {SOFT}; give a teacher, or read the data with "
            "soft_labels='beside'"
        )
    else:
        prepared = prepare_soft(student, texts, config)
    return distill_prepared(
        prepared, teacher, student, config, run=run, reporter=reporter, extensions=extensions
    )


def distill_prepared(
    prepared: PreparedData,
    teacher: Classifier | None,
    student: Classifier,
    config: DistillConfig,
    *,
    signals: Teacher | None = None,
    run: RunFolder | None = None,
    reporter: Reporter | None = None,
    extensions: Extensions = NONE,
) -> Result:
    """Distil with prepared data, which several arms can share.

    Args:
        prepared: From `prepare`, `prepare_soft` or `prepare_mean`.
        teacher: As in `distill_from`; None with soft labels, or several teachers.
        student: As in `distill_from`.
        config: As in `distill_from`.
        signals: The teacher's signals, if they have been made already.
        run: As in `distill_from`.
        reporter: As in `distill_from`.
        extensions: Objects of the caller's own.
    """
    reporter = reporter or Reporter(quiet=True)
    losses = _losses_for(prepared.problem, config.loss)
    config = config.model_copy(update={"loss": losses})
    for note in prepared.notes:
        reporter.say_once(note)
    if extensions.mix is None:
        warn_of_unused(config, reporter)
    start = _start(run, prepared, teacher, student, reporter)
    supervised = _supervised(prepared, config.loss, config.loss.supervised_weight)
    objective = objective_for(student, teacher, config, extensions, supervised)
    reporter.say(objective.formula())
    if objective.needs_teacher and signals is None and teacher is None:
        signals = soft_label_teacher(prepared)
    elif objective.needs_teacher and signals is None:
        assert teacher is not None
        if extensions.wants_held_out and teacher and old_numbers(student, teacher) is not None:
            raise ConfigError(
                "a rule for α that looks at held-out rows compares hidden states there, where "
                "teacher and student read their own tokens; leave out --student.vocabulary, and "
                "trim the student afterwards (`layermix trim`)"
            )
        rows = _with_held_out_rows(prepared) if extensions.wants_held_out else prepared
        signals = signals_for(rows, teacher, objective, config, reporter)
    if config.loss.projection_start == "fitted" and signals is not None:
        fit_projection(
            objective,
            signals,
            prepared.splits["train"],
            prepared.collate,
            config.training.eval_batch_size,
            reporter,
        )
    known = RunRecord(
        teacher=ModelRecord(
            place=prepared.texts.soft_labels if teacher is None else teacher.source,
            parameters=None if teacher is None else teacher.model.num_parameters(),
            fingerprint=prepared.teacher_fingerprint,
            metrics=ScoresBySplit.model_validate(prepared.teacher_scores),
        ),
        mix=mix_record(objective),
        formula=objective.formula(),
        signals=kind_of(signals),
    )
    name = objective.plan.strategy if objective.plan else "distill"
    speed = None
    if run is not None and teacher is not None:
        speed = _speed(prepared, {"teacher": teacher, "student": student})
    training = Training(
        objective,
        signals,
        prepared,
        student,
        config.training,
        config.mix,
        config.seed,
        speed,
        extensions,
    )
    return training.run(name, "student", known, run, start, reporter)


def mix_record(objective: Objective) -> MixRecord | None:
    """How teacher layers are mixed before the first step; None if no layer is."""
    if objective.plan is None:
        return None
    alpha = getattr(objective.mix, "alpha", None)
    return MixRecord(
        strategy=objective.plan.strategy,
        student_layers=objective.plan.student_layers,
        teacher_layers=objective.plan.teacher_layers,
        start=alpha.tolist() if isinstance(alpha, Tensor) else None,
        learned=objective.learns_mix,
    )


def _check_losses(texts: TextData, loss: LabelLossConfig) -> None:
    """Raise a ConfigError if a formula or an option of a loss does not suit the labels.

    Before models are loaded and the teacher is asked, which takes time.
    """
    if isinstance(loss, LossConfig):
        _losses_for(texts.problem, loss)
    labels = labels_of(texts.splits["train"]["label"])
    if texts.problem.labelled(labels).any():
        texts.problem.supervised_term(loss, 1.0, labels, texts.label_names)


def _losses_for(problem: Problem, loss: LossConfig) -> LossConfig:
    """The losses with the formulas that suit a kind of label.

    Raises:
        ConfigError: If one is named that does not.
    """
    about = f"but the labels of these data are for {problem.name}"
    problems = []
    if loss.supervised not in (None, problem.supervised):
        problems.append(
            f"loss.supervised is {loss.supervised}, {about}; set it to {problem.supervised}"
        )
    if loss.logit not in (None, *problem.logit_losses) and loss.logit_weight:
        problems.append(
            f"loss.logit is {loss.logit}, {about}; set it to {' or '.join(problem.logit_losses)}, "
            "or leave it out"
        )
    if problems:
        raise ConfigError("\n".join(problems))
    return loss.model_copy(update={"logit": loss.logit or problem.logit_losses[0]})


def _start(
    run: RunFolder | None,
    prepared: PreparedData,
    teacher: Classifier | None,
    student: Classifier,
    reporter: Reporter,
) -> StartRecord | None:
    """What a run is begun with, or was begun with; None if there is no folder."""
    if run is None:
        return None
    start = start_record(prepared, teacher, student)
    for note in check_start(run, start):
        reporter.warn(note)
    return start


def warn_of_unused(config: DistillConfig, reporter: Reporter) -> None:
    """Warns of changed settings that only a learned mix uses, if the mix is not learned."""
    if MIXES[config.mix.strategy].learns:
        return
    sections = {
        "mix": (config.mix, ("start", "learning_rate", "schedule")),
        "loss": (config.loss, ("entropy_weight",)),
    }
    unused = [
        f"{section}.{name}"
        for section, (values, names) in sections.items()
        for name in names
        if getattr(values, name) != type(values).model_fields[name].default
    ]
    if unused:
        reporter.warn(
            Note(
                "unused-settings",
                f"settings without effect: {', '.join(unused)}; they need --mix.strategy learned, "
                f"and it is {config.mix.strategy}",
            )
        )


def _with_held_out_rows(prepared: PreparedData) -> PreparedData:
    """The same with the held-out rows among the training rows, so that their signals are stored."""
    splits = dict(prepared.splits)
    if "holdout" in splits:
        splits["train"] = concatenate_datasets([splits["train"], splits["holdout"]])
    return replace(prepared, splits=splits)


SPEED_TEXTS = 20
"""Validation rows on which teacher and student are timed in turns; the first ones warm up."""


def _speed(prepared: PreparedData, classifiers: Mapping[str, Classifier]) -> dict[str, float]:
    """Milliseconds for one text, measured before training, since weights do not change it.

    A rough number, since other processes may be running; the ratio is more reliable.
    """
    rows = prepared.texts.splits["validation"][:SPEED_TEXTS]
    columns = [rows[name] for name in ("text", "text_pair") if name in rows]
    for classifier in classifiers.values():  # only the teacher is on the device already
        model: Any = classifier.model
        model.to(default_device())
    texts = itertools.islice(itertools.cycle(zip(*columns, strict=True)), SPEED_TEXTS)
    return milliseconds_per_text(classifiers, list(texts), prepared.max_length)


def kind_of(signals: Teacher | None) -> str | None:
    """Where the teacher's signals come from, for the record; None if they are not needed."""
    if isinstance(signals, SoftLabelTeacher):
        return SOFT_LABELS
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
        LayermixError: Says what was found, what was wanted, and what to do.
    """
    if config.model is None:
        raise ConfigError("no model to fine-tune: give --model FOLDER, a hub id, or minilm")
    open_run(out, config, resume, restart)  # before the work, so that it fails early
    texts = load_texts(config.data)
    _check_losses(texts, config.loss)
    model = load_classifier(
        config.model, texts.label_names, seed=config.seed, problem=texts.problem
    )
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
        resume: Continue an unfinished run in `out`, if there is one.
        restart: Discard an unfinished run in `out`.
        reporter: Where progress is shown; quiet if None.

    Raises:
        LayermixError: Says what was found, what was wanted, and what to do.
    """
    reporter = reporter or Reporter(quiet=True)
    run = open_run(out, config, resume, restart)
    model = align_labels(model, texts.label_names, named=texts.problem.named)
    chosen = choose_rows(texts, config)
    prepared = tokenize_for(chosen, config, model.max_length, model.tokenizer)
    for note in (*prepared.notes, *model.notes):
        reporter.say_once(note)
    precision = choose_precision(config.training.precision)
    supervised = _supervised(prepared, config.loss)
    objective = Objective(HFEncoder(model.model), [supervised], precision=precision)
    training = Training(objective, None, prepared, model, config.training, MixConfig(), config.seed)
    start = _start(run, prepared, None, model, reporter)
    return training.run("teacher", "teacher", RunRecord(), run, start, reporter)


# -- one training ----------------------------------------------------------------------------------
