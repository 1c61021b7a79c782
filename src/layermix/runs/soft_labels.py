"""What a run learns from without a single teacher: soft labels of the data, or several teachers."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from layermix.config import DistillConfig
from layermix.console import Reporter
from layermix.core.objective import Objective
from layermix.core.terms import terms_of
from layermix.data.prepared import Logits, PreparedData
from layermix.data.splits import PROBABILITIES, with_soft_labels, without_guessed_labels
from layermix.data.texts import TextData
from layermix.errors import ConfigError, Note
from layermix.models.encoder import Classifier, HFEncoder
from layermix.models.inference import TorchRunner, logits_by_all
from layermix.models.soft_label_teacher import SoftLabelTeacher
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.problem import Problem
from layermix.runs.prepare import (
    OTHER_SCALE,
    answered,
    check_knows_more,
    choose_rows,
    scores_of,
    tokenize_for,
    with_new_rows_at_share,
)
from layermix.teacher_cache.answers import reading
from layermix.teacher_cache.cached_teacher import CachedTeacher
from layermix.teacher_cache.choose import signals_for


def check_probabilities_suffice(config: DistillConfig, problem: Problem = CLASSIFICATION) -> None:
    """Check that every term of the loss can do with probabilities alone.

    Args:
        config: Its section loss is read.
        problem: The kind of label.

    Raises:
        ConfigError: With every term that cannot.
    """
    if problem.by_word:
        raise ConfigError(
            f"labels of words ({problem.name}) are learned from one teacher model, since soft "
            "labels, and the mean of several teachers, are probabilities of rows; give one "
            "--teacher"
        )
    loss = config.loss
    needs = {
        "hidden_weight": "hidden states",
        "embedding_weight": "an embedding output",
        "attention_weight": "attention scores",
    }
    problems = [
        f"loss.{name} is {getattr(loss, name):g}, but the term needs {what} of one teacher model, "
        "and probabilities have none; set it to 0"
        for name, what in needs.items()
        if getattr(loss, name)
    ]
    needs_logits = set(problem.logit_losses) - set(problem.soft_losses)
    if loss.logit_weight and loss.logit in needs_logits:
        problems.append(
            f"loss.logit is {loss.logit}, which compares logits, but probabilities give logits "
            f"only up to a constant; use {' or '.join(problem.soft_losses)}"
        )
    if problems:
        raise ConfigError(
            "\n".join(
                ["soft labels (or several teachers) cannot give what these settings need:"]
                + [f"  {problem}" for problem in problems]
                + ["or start from --preset soft, which learns from probabilities alone"]
            )
        )


def prepare_soft(student: Classifier, texts: TextData, config: DistillConfig) -> PreparedData:
    """Hold out rows, tokenise, and check the soft labels on the validation rows.

    Args:
        student: Its tokenizer and longest input are looked at.
        texts: With soft labels for all training rows.
        config: Its sections data, loss, teacher and training are read.

    Raises:
        ConfigError: If a setting needs more than probabilities, or new rows are asked for.
        WeakTeacherError: If the soft labels are no better than always answering one class.
    """
    check_probabilities_suffice(config, texts.problem)
    if config.data.augment not in (None, 0, "auto"):
        raise ConfigError(
            f"data.augment is {config.data.augment}, but without a teacher model nobody can label "
            "new rows; leave it out, or give texts with probabilities in the training file"
        )
    splits, notes = dict(texts.splits), list(texts.split_notes)
    if "unlabeled" in splits:
        text = (
            f"{len(splits.pop('unlabeled'))} rows without labels are left out: without a teacher "
            "model nobody can label them; rows with probabilities belong into the training file"
        )
        notes.append(Note("unlabeled-left-out", text))
    texts = choose_rows(replace(texts, splits=splits, split_notes=tuple(notes)), config)
    data = config.data.model_copy(update={"augment": None})
    prepared = _prepared(student, texts, config.model_copy(update={"data": data}))
    return replace(prepared, notes=(*prepared.notes, *student.notes), unlabeled_share=None)


def prepare_mean(
    teachers: Sequence[Classifier],
    student: Classifier,
    texts: TextData,
    config: DistillConfig,
    reporter: Reporter,
) -> PreparedData:
    """As `prepare`, with the mean of several teachers' probabilities as soft labels.

    Args:
        teachers: With the same classes in the same order; the first one makes new rows.
        student: As for `prepare`.
        texts: As for `prepare`.
        config: As for `prepare`.
        reporter: Where progress is shown.

    Raises:
        ConfigError: If a setting needs more than probabilities.
        WeakTeacherError, ModelError: As `prepare`, for each teacher.
    """
    problem = texts.problem
    check_probabilities_suffice(config, problem)
    texts = choose_rows(texts, config)
    config, texts = with_new_rows_at_share(config, texts, teachers[0])
    objective = Objective(HFEncoder(student.model), terms_of(config.loss, learns_mix=False))
    means: dict[str, Logits] = {}
    notes, fingerprints = list[Note](), list[str]()
    for teacher in teachers:
        prepared = answered(teacher, student, texts, config, reporter)
        found = dict(prepared.teacher_logits)
        if objective.needs_teacher:
            found["train"] = _train_logits(prepared, teacher, objective, config, reporter)
        for split, logits in found.items():
            means[split] = means.get(split, 0) + problem.values(logits) / len(teachers)
        notes += [*teacher.notes, *(one for one in prepared.notes if one.code == OTHER_SCALE)]
        fingerprints.append(str(prepared.teacher_fingerprint))
    splits = dict(texts.splits)
    if "train" in means and "unlabeled" in splits:  # they are trained on after the labelled rows
        own = len(splits["train"])
        means["train"], means["unlabeled"] = means["train"][:own], means["train"][own:]
    for split, values in means.items():
        splits[split] = with_soft_labels(splits[split], values.tolist())
    names = ", ".join(Path(teacher.source).name for teacher in teachers)
    texts = replace(texts, splits=splits, soft_labels=f"the mean of {names}")
    prepared = _prepared(student, texts, config)
    return replace(
        prepared,
        # Their weights, not what they answer here: sums differ by threads and machine.
        teacher_fingerprint=" ".join(fingerprints),
        notes=(*prepared.notes, *notes, *student.notes),
    )


def _train_logits(
    prepared: PreparedData,
    teacher: Classifier,
    objective: Objective,
    config: DistillConfig,
    reporter: Reporter,
) -> Logits:
    """A teacher's logits on the training rows, from the cache if it may be used."""
    signals = signals_for(prepared, teacher, objective, config, reporter)
    live = TorchRunner(HFEncoder(teacher.model, inputs_key="teacher_inputs"))
    return logits_by_all(
        reading(signals) if isinstance(signals, CachedTeacher) else live,
        prepared.splits["train"],
        prepared.collate,
        track=reporter.track,
        what=f"probabilities of {Path(teacher.source).name}",
    )


def soft_label_teacher(prepared: PreparedData) -> SoftLabelTeacher:
    """The source of signals for the training rows, and for rows held out from them."""
    rows, values = list[int](), list[list[float]]()
    for split in ("train", "unlabeled", "holdout"):
        if split in prepared.texts.splits:
            texts = prepared.texts.splits[split]
            rows += texts["row_id"][:]
            values += texts[PROBABILITIES][:]
    logits = prepared.problem.logits_of(np.asarray(values))
    return SoftLabelTeacher(np.asarray(rows), logits)


def _prepared(student: Classifier, texts: TextData, config: DistillConfig) -> PreparedData:
    """Tokens and soft labels of chosen rows."""
    of_scored = {
        name: np.asarray(rows[PROBABILITIES][:])
        for name, rows in texts.splits.items()
        if PROBABILITIES in rows.column_names and name not in ("train", "unlabeled")
    }
    train = without_guessed_labels(texts.splits["train"], texts.problem)
    texts = replace(texts, splits={**texts.splits, "train": train})
    prepared = tokenize_for(texts, config, student.max_length, student.tokenizer)
    logits = {name: texts.problem.logits_of(values) for name, values in of_scored.items()}
    labels = {name: prepared.own_labels(name) for name in logits}
    if "validation" in logits and prepared.problem.labelled(labels["validation"]).any():
        check_knows_more(
            f"{texts.source}: the soft labels have",
            logits["validation"],
            labels["validation"],
            prepared.metric,
            f"Check that the probabilities are those of the classes {list(texts.label_names)}",
            allow_weak=config.teacher.allow_weak,
            problem=prepared.problem,
        )
    return replace(
        prepared,
        teacher_fingerprint=soft_fingerprint(texts),
        teacher_logits=logits,
        teacher_scores=scores_of(prepared, logits, labels),
    )


def soft_fingerprint(texts: TextData) -> str:
    """A sha256 of the soft labels of all splits."""
    digest = hashlib.sha256()
    for name, rows in texts.splits.items():
        if PROBABILITIES in rows.column_names:
            digest.update(name.encode())
            digest.update(np.asarray(rows[PROBABILITIES][:], dtype=np.float64).tobytes())
    return digest.hexdigest()
