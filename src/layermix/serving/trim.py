"""Trims the vocabulary of a saved classifier to the words of its texts, without training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from layermix.atomic import whole_folder, write_text
from layermix.config import DataConfig, DistillConfig, TrainingConfig, read_yaml
from layermix.console import Reporter
from layermix.data.columns import columns_for_model
from layermix.data.splits import text_batches
from layermix.data.texts import TextData, load_texts
from layermix.data.tokenization import Collator, tokenize_split
from layermix.errors import ConfigError, RunExistsError
from layermix.models.inference import Floats, logits_of
from layermix.models.loading import load_classifier, model_folder
from layermix.models.tokenizers import save_tokenizer
from layermix.models.vocabulary import trim_vocabulary
from layermix.runs.layout import CARD, CONFIG
from layermix.runs.model_card import of_changed_model, read_card, with_section
from layermix.runs.prepare import choose_rows
from layermix.serving.evaluation_rows import run_of
from layermix.serving.predictor import Predictor, predictor_of

COMPARED = 512
"""Training rows on which the answers of both models are compared."""


@dataclass(frozen=True)
class Trimming:
    """What trimming a saved model did.

    Attributes:
        tokens: Size of the new vocabulary.
        tokens_before: Size of the old one.
        bytes: Size of the new folder.
        bytes_before: Size of the old folder's files but its card; 0 for a hub id.
        rows: Training rows on which logits were compared.
        max_difference: The largest difference of a logit on them; 0 is the same to the last bit.
        validation_rows: All validation rows.
        other_answers: How many of them get another answer.
        note: What happened to the validation texts, in words.
    """

    tokens: int
    tokens_before: int
    bytes: int
    bytes_before: int
    rows: int
    max_difference: float
    validation_rows: int
    other_answers: int
    note: str


def trim(
    source: str,
    data: DataConfig,
    out: Path,
    *,
    vocabulary: int | Literal["occurring"] = "occurring",
    reporter: Reporter | None = None,
) -> Trimming:
    """Write a copy of a saved classifier that knows fewer tokens.

    Args:
        source: Run folder, model folder or hub id.
        data: Its training texts and those without labels say which tokens stay; by default the data
            of the model's run.
        out: A new folder.
        vocabulary: How many tokens to keep, or all that occur.
        reporter: Where progress is shown; quiet if None.

    Raises:
        LayermixError: If model or texts cannot be used, too much would be lost, or `out` exists.
    """
    reporter = reporter or Reporter(quiet=True)
    if out.exists():
        raise RunExistsError(
            f"--out {out} already exists, and layermix does not overwrite it; choose another name"
        )
    classifier = load_classifier(source)
    before = predictor_of(classifier)
    texts = _texts(source, data, before)  # of a run without its held-out rows, as in training
    for note in texts.notes:
        reporter.say(note)
    used = [texts.splits[name] for name in ("train", "unlabeled") if name in texts.splits]
    smaller, trimmed = trim_vocabulary(
        classifier, vocabulary, text_batches(used), text_batches([texts.splits["validation"]])
    )
    after = predictor_of(smaller)
    first = texts.splits["train"].select(range(len(texts.splits["train"]))[:COMPARED])
    one, other = (_logits(way, first, reporter, "training rows") for way in (before, after))
    rest = texts.splits["validation"]
    was, now = (_logits(way, rest, reporter, "validation rows") for way in (before, after))
    note = trimmed.note()
    reporter.say(note)
    with whole_folder(out.absolute()) as folder:
        smaller.model.save_pretrained(folder)
        smaller.tokenizer.model_max_length = smaller.max_length
        save_tokenizer(smaller.tokenizer, folder)
        size = sum(file.stat().st_size for file in folder.iterdir())
        other_answers = int((~before.problem.same(was, now)).sum())
        changes = (
            f"## Vocabulary\n\n{note.text[0].upper()}{note.text[1:]}. {other_answers:,} of "
            f"{len(rest):,} validation rows get another answer. Scores in this card are those of "
            "the model before."
        )
        of_both = (one.model.num_parameters() for one in (classifier, smaller))
        was_said, is_so = (f"{count:,} parameters" for count in of_both)
        folder_before = model_folder(source)
        card = "" if folder_before is None else read_card(folder_before)
        card = of_changed_model(card).replace(was_said, is_so)
        write_text(folder / CARD, with_section(card, "vocabulary", changes))
    return Trimming(
        tokens=len(trimmed.kept),
        tokens_before=trimmed.before,
        bytes=size,
        bytes_before=_size(source),
        rows=len(first),
        max_difference=float(np.abs(one - other).max(initial=0)),
        validation_rows=len(rest),
        other_answers=other_answers,
        note=note.text,
    )


def _texts(source: str, data: DataConfig, predictor: Predictor) -> TextData:
    """The texts that the user names, or those that the model's run was trained on."""
    training = TrainingConfig()
    if data.path is None and data.train is None:
        run = run_of(source)
        if run is None:
            raise ConfigError(
                f"{source}: is not in a run folder, so there are no training texts beside it; give "
                "--data FOLDER or FILE with labelled texts like those that the model will get"
            )
        given, config = data.model_dump(exclude_unset=True), read_yaml(run / CONFIG)[0]
        data = DataConfig.model_validate(config.get("data", {}) | given)
        training = TrainingConfig.model_validate(config.get("training", {}))
    with columns_for_model(
        predictor.source,
        predictor.text_columns,
        data.text_columns,
        by_word=predictor.problem.by_word,
    ) as columns:
        data = data.model_copy(update={"text_columns": columns})
        texts = load_texts(
            data,
            classes=predictor.label_names,
            problem=predictor.problem,
            soft_labels="instead",
        )
    return choose_rows(texts, DistillConfig(data=data, training=training))


def _logits(predictor: Predictor, texts: Any, reporter: Reporter, what: str) -> Floats:
    rows, _ = tokenize_split(texts, predictor.tokenizer, predictor.max_length)
    return logits_of(
        predictor.run, rows, Collator(predictor.tokenizer), track=reporter.track, what=what
    )


def _size(source: str) -> int:
    """The size of a saved model's own files, without exports; 0 for a hub id."""
    folder = model_folder(source)
    files = [] if folder is None else [file for file in folder.iterdir() if file.is_file()]
    return sum(file.stat().st_size for file in files if file.name != CARD)


def trimming_text(trimming: Trimming, out: Path) -> str:
    """A summary of a trimming for the command line."""
    saved = 1 - trimming.bytes / trimming.bytes_before if trimming.bytes_before else None
    size = f"{trimming.bytes / 1e6:.1f} MB"
    if saved is not None:
        size += f" instead of {trimming.bytes_before / 1e6:.1f} ({saved:.0%} less)"
    same = (
        "are the same to the last bit"
        if trimming.max_difference == 0
        else f"differ by at most {trimming.max_difference:.2g}"
    )
    return (
        f"{out}: {trimming.tokens:,} tokens instead of {trimming.tokens_before:,}, {size}.\n"
        f"The logits of {trimming.rows:,} training texts {same}; "
        f"{trimming.other_answers:,} of {trimming.validation_rows:,} validation rows get another "
        "answer."
    )
