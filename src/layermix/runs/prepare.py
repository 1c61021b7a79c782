"""What teacher and data fix for every arm: tokens, held-out rows, the teacher's answers."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from layermix.augmentation.new_rows import SHARE, with_new_rows
from layermix.config import DistillConfig, TeachConfig, TrainingConfig
from layermix.console import Reporter
from layermix.core.seeds import rows_at_share
from layermix.core.trainer import warmup_steps
from layermix.data.prepared import Labels, Logits, PreparedData
from layermix.data.splits import hold_out, labels_of, take, text_batches
from layermix.data.texts import TextData
from layermix.data.tokenization import Collator, choose_max_length, tokenize
from layermix.errors import ConfigError, ModelError, Note, WeakTeacherError
from layermix.hardware.cpu_kernels import prepare_process
from layermix.hardware.processes import from_main
from layermix.models.encoder import MODEL_INPUTS, Classifier, fingerprint
from layermix.models.inference import finite
from layermix.models.tokenizers import equal_inputs, equal_padding
from layermix.models.vocabulary import old_numbers
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.problem import Problem
from layermix.teacher_cache.answers import answers

OTHER_SCALE = "teacher-on-another-scale"
"""The code of a note on a teacher whose numbers have another scale than the labels."""


def prepare(
    teacher: Classifier,
    student: Classifier,
    texts: TextData,
    config: DistillConfig,
    reporter: Reporter,
) -> PreparedData:
    """Hold out, make new rows, tokenise, and check the teacher on the validation rows.

    Args:
        teacher: Asked for its logits on all rows but the training rows.
        student: Only its tokenizer and longest input are looked at.
        texts: With the classes of both.
        config: Its sections data, loss, teacher and training are read.
        reporter: Where progress is shown.

    Raises:
        WeakTeacherError: If the teacher does not beat always answering one class.
        ModelError: If a hidden loss is wanted between different tokenizers, or a logit of the
            teacher is not finite.
        ConfigError: If the wanted length is more than the models take.
        CacheError: If the teacher's answers cannot be stored, as the disk is full.
    """
    prepare_process()  # the teacher's products come first
    texts = choose_rows(texts, config)
    if _asks_teacher(config):
        config, texts = with_new_rows_at_share(config, texts, teacher)
    elif config.data.augment:
        text = "no new rows are made (data.augment): no term of the config uses the teacher"
        texts = replace(texts, split_notes=(*texts.split_notes, Note("no-new-rows", text)))
    return answered(teacher, student, texts, config, reporter)


def answered(
    teacher: Classifier,
    student: Classifier,
    texts: TextData,
    config: DistillConfig,
    reporter: Reporter,
) -> PreparedData:
    """Tokenise chosen rows, and have the teacher answer all but the training rows.

    Args:
        teacher: As for `prepare`.
        student: As for `prepare`.
        texts: From `choose_rows`, with new rows if any are wanted.
        config: As for `prepare`.
        reporter: Where progress is shown.

    Raises:
        WeakTeacherError, ModelError, ConfigError, CacheError: As `prepare`.
    """
    tokenizers = teacher.tokenizer, student.tokenizer
    loss = config.loss
    of_tokens = loss.hidden_weight or loss.embedding_weight or loss.attention_weight
    numbers = old_numbers(student, teacher) if of_tokens else None
    if numbers is None:
        equal = equal_inputs(*tokenizers, text_batches(texts.splits.values()))
    else:  # training rows are cut by the student's tokenizer, for both
        equal = frozenset({"input_ids"})
    if of_tokens and "input_ids" not in equal:
        raise ModelError(
            "the tokenizers of teacher and student differ, so their hidden states stand for "
            "different tokens; use --loss.hidden_weight 0 --loss.embedding_weight 0 "
            "--loss.attention_weight 0 (logits only), "
            "or a student with the teacher's tokenizer (--student.layers copies its blocks)"
        )
    # BERT and DistilBERT have the same tokens, but only BERT is told which text a token is from.
    shared = equal == set(MODEL_INPUTS) and equal_padding(*tokenizers)
    limit = min(teacher.max_length, student.max_length)
    teacher_tokenizer = None if shared else teacher.tokenizer
    prepared = tokenize_for(texts, config, limit, student.tokenizer, teacher_tokenizer, numbers)
    prepared = replace(prepared, teacher_fingerprint=fingerprint(teacher.model))
    logits = answers(prepared, teacher, config.cache, reporter)
    labels = {name: labels_of(prepared.splits[name]["labels"]) for name in logits}
    check_teacher(
        teacher,
        logits,
        labels["validation"],
        prepared.metric,
        allow_weak=config.teacher.allow_weak,
        problem=prepared.problem,
    )
    notes = [*prepared.notes, *teacher.notes, *student.notes]
    if config.loss.supervised_weight and (
        doubt := prepared.problem.doubt(logits["validation"], labels["validation"])
    ):
        notes.append(Note(OTHER_SCALE, f"{teacher.source}: {doubt}"))
    return replace(
        prepared,
        teacher_logits=logits,
        teacher_scores=scores_of(prepared, logits, labels),
        notes=tuple(notes),
    )


def scores_of(
    prepared: PreparedData, logits: Mapping[str, Logits], labels: Mapping[str, Labels]
) -> dict[str, Mapping[str, float]]:
    """The scores of a teacher's logits, (N, C), on each split that has labels, (N,)."""
    return {
        name: prepared.problem.scores(found, labels[name])
        for name, found in logits.items()
        if prepared.problem.labelled(labels[name]).any()
    }


def with_new_rows_at_share(
    config: DistillConfig, texts: TextData, teacher: Classifier
) -> tuple[DistillConfig, TextData]:
    """The texts with new rows, if they are wanted, and the config with the share they have."""
    had_others = "unlabeled" in texts.splits
    # One process chooses neighbours: others might break a tie by the last bit otherwise.
    texts = from_main(lambda: with_new_rows(texts, teacher, config.data))
    is_auto = config.data.augment == "auto" and config.training.unlabeled_share is None
    if is_auto and not had_others and "unlabeled" in texts.splits:
        training = config.training.model_copy(update={"unlabeled_share": SHARE})
        config = config.model_copy(update={"training": training})
    return config, texts


def check_teacher(
    teacher: Classifier,
    logits: Mapping[str, Logits],
    labels: Labels,
    score: str,
    *,
    allow_weak: bool,
    problem: Problem = CLASSIFICATION,
) -> None:
    """Refuse a teacher from which nothing can be learned.

    Args:
        teacher: Whose logits they are.
        logits: By split, `validation` among them, (N, C).
        labels: Of the validation rows, (N,).
        score: The task's own, by which the teacher is judged.
        allow_weak: Go on although it does not beat always answering one class.
        problem: The kind of label.

    Raises:
        ModelError: If a logit is NaN or infinite.
        WeakTeacherError: Unless `allow_weak`.
    """
    for split, found in logits.items():
        finite(f"{teacher.source}: the teacher's", found, f"{split} rows")
    names = list(teacher.label_names)
    order = f"; check that its classes {names} are in the data's order" if len(names) > 1 else ""
    check_knows_more(
        f"{teacher.source}: the teacher has",
        logits["validation"],
        labels,
        score,
        "Fine-tune it on this task (`layermix teach`), with more epochs (--training.epochs 10) "
        "and a higher rate (--training.learning_rate 1e-4) if it learned from a few thousand "
        f"rows{order}",
        allow_weak=allow_weak,
        problem=problem,
    )


def check_knows_more(
    subject: str,
    logits: Logits,
    labels: Labels,
    score: str,
    advice: str,
    *,
    allow_weak: bool,
    problem: Problem = CLASSIFICATION,
) -> None:
    """Refuse logits of the validation rows that are no better than the trivial answer.

    Args:
        subject: Begins the message, before the two scores.
        logits: (N, C).
        labels: (N,).
        score: The one that is compared.
        advice: What to do about it.
        allow_weak: Whether to accept them all the same.
        problem: The kind of label.

    Raises:
        WeakTeacherError: Unless `allow_weak`.
    """
    trivial, rows = problem.trivial(labels, score), int(problem.labelled(labels).sum())
    if trivial.perfect and not allow_weak:
        raise WeakTeacherError(
            f"all {rows} validation rows have the same label, so they cannot show whether a model "
            "is good; give a validation file with other labels, too (--data.validation), or "
            "more rows; or continue anyway with --teacher.allow_weak"
        )
    if not allow_weak and not trivial.beaten_by(logits):
        raise WeakTeacherError(
            f"{subject} {trivial.compared(logits)}. {advice}; or continue anyway with "
            "--teacher.allow_weak"
        )


def tokenize_for(
    texts: TextData,
    config: DistillConfig | TeachConfig,
    limit: int,
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_numbers: NDArray[np.int64] | None = None,
) -> PreparedData:
    """Tokenise all splits.

    Args:
        texts: From `choose_rows`.
        config: Its sections data and training are read.
        limit: Most tokens that the models take.
        tokenizer: The student's.
        teacher_tokenizer: The teacher's, if it does not give the same.
        teacher_numbers: See `tokenize`.

    Raises:
        ConfigError: If the wanted length is more than the models take.
    """
    both = [one for one in (tokenizer, teacher_tokenizer) if one is not None]
    length = config.data.max_length or max(choose_max_length(texts, one, limit) for one in both)
    if length > limit:
        raise ConfigError(
            f"data.max_length is {length}, but the models take at most {limit} tokens; give "
            "at most that, or leave it out to have it chosen from the data"
        )
    splits, notes = dict(texts.splits), list(texts.notes)
    if "unlabeled" in splits and not _asks_teacher(config):
        text = (
            f"{len(splits.pop('unlabeled'))} rows without labels are left out: they need a loss "
            "that uses the teacher, and none is enabled"
        )
        notes.append(Note("unlabeled-left-out", text))
    share = config.training.unlabeled_share
    if share is not None and not config.data.augment and "unlabeled" not in splits:
        text = (
            "training.unlabeled_share has no effect: no rows without labels are trained on (see "
            "data.unlabeled and data.augment)"
        )
        notes.append(Note("unused-settings", text))
    chosen = replace(texts, splits=splits)
    tokens = tokenize(chosen, tokenizer, length, teacher_tokenizer, teacher_numbers)
    cut = [f"{share:.1%} of {name}" for name, share in tokens.cut.items() if share]
    text = f"at most {length} tokens per row; cut by that: {', '.join(cut) or 'no row'}"
    notes += [
        Note("max-length", text),
        *_warmup_note(config.training, chosen),
    ]
    padded = length if config.training.padding == "max_length" else None
    collate = Collator(tokenizer, teacher_tokenizer, padded)
    return PreparedData(
        chosen,
        tokens.splits,
        collate,
        length,
        tokens.cut,
        notes=tuple(notes),
        unlabeled_share=config.training.unlabeled_share,
    )


def choose_rows(texts: TextData, config: DistillConfig | TeachConfig) -> TextData:
    """The training rows that the config wants, without those held out, which become `holdout`.

    Args:
        texts: Checked.
        config: Its sections data and training are read.
    """
    splits = dict(texts.splits)
    if config.data.train_rows is not None:
        splits["train"] = take(splits["train"], config.data.train_rows)
    if config.training.selection == "holdout":
        splits["train"], splits["holdout"] = hold_out(
            splits["train"], config.training.holdout_fraction
        )
    return replace(texts, splits=splits)


def _asks_teacher(config: DistillConfig | TeachConfig) -> bool:
    return isinstance(config, DistillConfig) and config.loss.asks_teacher


def _warmup_note(config: TrainingConfig, texts: TextData) -> list[Note]:
    rows = len(texts.splits["train"])
    if "unlabeled" in texts.splits:
        every = len(texts.splits["unlabeled"])
        share = config.unlabeled_share
        rows += every if share is None else rows_at_share(share, rows, every)
    total = math.ceil(rows / (config.batch_size * config.accumulation)) * config.epochs
    warmup = warmup_steps(config.warmup, total)
    if warmup <= total / 2:
        return []
    text = (
        f"the warmup of {warmup:.0f} steps is more than half of the {total} steps: the learning "
        "rate is hardly ever at its peak (see --training.warmup)"
    )
    return [Note("long-warmup", text)]
