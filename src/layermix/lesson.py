"""What teacher and data fix for every arm: tokens, held-out rows, the teacher's answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from layermix import metrics
from layermix.config import DistillConfig, TeachConfig
from layermix.data import TextData, hold_out, take
from layermix.errors import ConfigError, ModelError, WeakTeacherError
from layermix.hf import Classifier, HFEncoder, same_tokens
from layermix.predict import logits_of
from layermix.progress import Reporter
from layermix.tokens import Collator, Tokens, choose_max_length, tokenize
from layermix.trainer import warmup_steps

PROBES = 100
"""Training texts on which two tokenizers must agree to be called the same."""


@dataclass(frozen=True)
class Lesson:
    """What teacher and data fix for every arm: tokens, the teacher's scores, its signals.

    Attributes:
        texts: The data, checked.
        splits: Tokenised rows: train, validation, and test, holdout if there are any.
        collate: Rows -> padded batch.
        max_length: In tokens.
        cut: Share of rows cut by `max_length`, by split.
        same_tokens: Whether teacher and student read the same tokens.
        teacher_logits: By split that is evaluated, (N, C).
        teacher_scores: By split that is evaluated.
        notes: Sentences worth telling the user.
    """

    texts: TextData
    splits: Mapping[str, Any]
    collate: Collator
    max_length: int
    cut: Mapping[str, float]
    same_tokens: bool
    teacher_logits: Mapping[str, Any] = field(default_factory=dict)
    teacher_scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def evaluated(self) -> dict[str, Any]:
        """The splits that are scored after every epoch."""
        return {
            name: self.splits[name] for name in ("validation", "holdout") if name in self.splits
        }

    @property
    def metric(self) -> str:
        """The score by which epochs are compared."""
        task = metrics.TASKS.get(self.texts.task or "")
        return task.metrics[0] if task else metrics.DEFAULT_METRICS[0]


def prepare(
    teacher: Classifier,
    student: Classifier,
    texts: TextData,
    config: DistillConfig,
    reporter: Reporter,
) -> Lesson:
    """Tokenise, hold out, and check the teacher on the validation rows.

    Raises:
        WeakTeacherError: If the teacher does not beat always answering the commonest class.
        ModelError: If a hidden loss is wanted between different tokenizers.
    """
    pairs = zip(*(texts.splits["train"][:PROBES][c] for c in _text_columns(texts)), strict=True)
    same = same_tokens(teacher.tokenizer, student.tokenizer, list(pairs))
    wants_tokens = config.loss.hidden_weight or config.loss.embedding_weight
    if wants_tokens and not same:
        raise ModelError(
            "the tokenizers of teacher and student differ, so their hidden states stand for "
            "different "
            "tokens; use --loss.hidden_weight 0 (logits only), or a student with the teacher's "
            "tokenizer (--student.layers copies its blocks)"
        )
    limit = min(teacher.max_length, student.max_length)
    lesson = tokenize_for(
        texts, config, limit, student.tokenizer, None if same else teacher.tokenizer
    )
    encoder = HFEncoder(teacher.model, inputs_key="teacher_inputs")
    logits = {
        name: logits_of(
            encoder, rows, lesson.collate, track=reporter.track, what=f"teacher on {name}"
        )
        for name, rows in lesson.splits.items()
        if name != "train"
    }
    scores = {
        name: metrics.scores(found, np.asarray(lesson.splits[name]["labels"]))
        for name, found in logits.items()
    }
    check_teacher(teacher, lesson, logits["validation"], config)
    notes = (*lesson.notes, *teacher.notes, *student.notes)
    return Lesson(
        **{**vars(lesson), "teacher_logits": logits, "teacher_scores": scores, "notes": notes}
    )


def check_teacher(teacher: Classifier, lesson: Lesson, logits: Any, config: DistillConfig) -> None:
    """Refuse a teacher from which nothing can be learned.

    Raises:
        WeakTeacherError: Unless `teacher.allow_weak` is set.
    """
    labels = np.asarray(lesson.splits["validation"]["labels"])
    known = labels != metrics.UNLABELLED
    right = int((logits.argmax(-1) == labels)[known].sum())
    share = metrics.majority_share(labels)
    total = int(known.sum())
    if metrics.exceeds_majority(right, total, share) or config.teacher.allow_weak:
        return
    raise WeakTeacherError(
        f"{teacher.source}: the teacher is right on {right} of {total} validation rows "
        f"({right / total:.1%}); always answering the commonest class is right on {share:.1%}. "
        "Fine-tune it on this task (`layermix teach`); check that its classes "
        f"{list(teacher.label_names)} "
        "stand in the data's order; or go on all the same with --teacher.allow_weak true"
    )


def tokenize_for(
    texts: TextData,
    config: DistillConfig | TeachConfig,
    limit: int,
    tokenizer: Any,
    teacher_tokenizer: Any = None,
) -> Lesson:
    """Tokenise all splits and set the held-out rows aside.

    Raises:
        ConfigError: If the wanted length is more than the models take.
    """
    length = config.data.max_length or choose_max_length(texts, tokenizer, limit)
    if length > limit:
        raise ConfigError(
            f"data.max_length is {length}, but the models take at most {limit} tokens"
        )
    splits = dict(texts.splits)
    if config.data.train_rows is not None:
        splits["train"] = take(splits["train"], config.data.train_rows)
    if config.training.selection == "holdout":
        splits["train"], splits["holdout"] = hold_out(
            splits["train"], config.training.holdout_fraction
        )
    chosen = replace(texts, splits=splits)
    tokens: Tokens = tokenize(chosen, tokenizer, length, teacher_tokenizer)
    notes = list(texts.notes)
    steps = -(
        -len(tokens.splits["train"]) // (config.training.batch_size * config.training.accumulation)
    )
    total = steps * config.training.epochs
    if (warmup := warmup_steps(config.training.warmup, total)) > total / 2:
        notes.append(
            f"the warmup of {warmup:.0f} steps is more than half of the {total} steps: the "
            "learning rate "
            "is hardly ever at its peak (see --training.warmup)"
        )
    cut = {name: share for name, share in tokens.cut.items() if share}
    shares = ", ".join(f"{share:.1%} of {name}" for name, share in cut.items()) or "no row"
    notes.append(f"at most {length} tokens per row; cut by that: {shares}")
    return Lesson(
        chosen,
        tokens.splits,
        Collator(tokenizer, teacher_tokenizer),
        length,
        tokens.cut,
        teacher_tokenizer is None,
        notes=tuple(notes),
    )


def _text_columns(texts: TextData) -> list[str]:
    return [c for c in ("text", "text_pair") if c in texts.splits["train"].column_names]
