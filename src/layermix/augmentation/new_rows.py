"""The new rows of a run: made from its training rows alone, without labels, by several ways."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from datasets import concatenate_datasets

from layermix.augmentation.ways import WAYS, Corpus
from layermix.config import DataConfig
from layermix.core.seeds import derive
from layermix.data.columns import Text
from layermix.data.splits import WORDS, make_split, texts_of, words_by_text
from layermix.data.texts import TextData
from layermix.data.words import Words, cutter_of
from layermix.errors import ConfigError, Note
from layermix.models.encoder import Classifier

PAIRS, SINGLES = ("neighbours", "words"), ("neighbours", "words", "crops")
"""The ways by default."""
EACH, MOST = 5, 16_000
"""New rows for each training row, and in all, that `auto` asks for."""
SHARE = 0.75
"""Of the rows of an epoch, those that `auto` made, unless the config says another share."""
TRIES = 3
"""Texts that a way may make for each one that is wanted; equal ones do not count."""


def with_new_rows(texts: TextData, teacher: Classifier, config: DataConfig) -> TextData:
    """Adds new rows to the rows without labels.

    The same texts, teacher and settings give the same rows: they do not depend on the run's seed,
    so the arms and seeds of a study share the teacher's stored signals.

    Args:
        texts: Made from its `train` rows; those that share a text with another split are left out.
        teacher: Its tokenizer and word embedding say which words are near one another.
        config: `augment` and `augment_ways` are read.

    Raises:
        ConfigError: If a way does not suit the data or the tokenizer, or if no row can be made,
            unless `augment` is `auto`: then a note says so.
    """
    if not config.augment:
        if config.augment_ways is not None:
            raise ConfigError(
                "--data.augment_ways has no effect without the number of rows; give it as "
                "--data.augment, such as 20000"
            )
        return texts
    splits = dict(texts.splits)
    if config.augment == "auto" and "unlabeled" in splits:
        found = f"no new rows are made beside your {len(splits['unlabeled']):,} rows without labels"
        return _none_made(texts, config, found)
    scored = [rows for name, rows in splits.items() if name not in ("train", "unlabeled")]
    known = {part for rows in scored for text in texts_of(rows) for part in text}
    train = [text for text in dict.fromkeys(texts_of(splits["train"])) if known.isdisjoint(text)]
    if len(train) < 2:
        return _none_made(
            texts,
            config,
            "--data.augment makes new rows from training rows that share no text with validation "
            f"or test rows, and there are {len(train)}",
            "leave it out, or give more rows",
        )
    wanted = min(EACH * len(train), MOST) if config.augment == "auto" else config.augment
    ways = _ways(config, teacher, paired=len(train[0]) == 2)
    seen = set(texts_of(splits["train"]))
    if "unlabeled" in splits:
        seen |= set(texts_of(splits["unlabeled"]))
    embedding: Any = teacher.model.get_input_embeddings()
    made: dict[str, list[Text]] = {}
    for way, count in zip(ways, _shares(wanted, len(ways)), strict=True):
        random = np.random.default_rng(derive(0, f"new rows by {way}"))
        corpus = Corpus(train, teacher.tokenizer, embedding.weight.detach(), random)
        candidates = islice(WAYS[way](corpus), TRIES * count)
        made[way] = list(islice(_fresh(candidates, seen, known), count))
    words: list[Words] | None = None
    if WORDS in splits["train"].column_names:
        cut = cutter_of(words_by_text(splits["train"]))
        words = [cut(text[0]) for rows in made.values() for text in rows]
    new = [text for rows in made.values() for text in rows]
    if not new:
        return _none_made(
            texts,
            config,
            f"--data.augment: no new row could be made from {len(train):,} training rows by "
            f"{', '.join(ways)}",
            "choose other ways (--data.augment_ways), or leave it out",
        )
    first = 1 + max(max(rows["row_id"][:]) for rows in splits.values())
    missing = texts.problem.missing(len(texts.label_names))
    labels = [missing] * len(new) if words is None else [[missing] * len(one) for one in words]
    rows = make_split(new, labels, first, words)
    if "unlabeled" in splits:
        rows = concatenate_datasets([splits["unlabeled"], rows])
    by_way = ", ".join(f"{len(rows):,} by {way}" for way, rows in made.items())
    text = f"{len(new):,} new rows without labels from {len(train):,} training rows: {by_way}"
    if len(new) < wanted:
        text += f"; {wanted:,} were asked for, but no more different ones could be made"
    notes = (*texts.split_notes, Note("new-rows", text))
    return replace(texts, splits=splits | {"unlabeled": rows}, split_notes=notes)


def _none_made(texts: TextData, config: DataConfig, found: str, remedy: str = "") -> TextData:
    """The texts as they are, and a note; an error if the rows were asked for by number."""
    if config.augment != "auto":
        raise ConfigError(f"{found}; {remedy}")
    return replace(texts, split_notes=(*texts.split_notes, Note("no-new-rows", found)))


def _ways(config: DataConfig, teacher: Classifier, *, paired: bool) -> Sequence[str]:
    fast = teacher.tokenizer.is_fast
    if config.augment_ways is None:
        return [way for way in (PAIRS if paired else SINGLES) if fast or way != "words"]
    if "swap" in config.augment_ways and not paired:
        raise ConfigError("--data.augment_ways swap needs pairs of texts, and these are single")
    if "words" in config.augment_ways and not fast:
        raise ConfigError(
            f"--data.augment_ways words needs a fast tokenizer, and {teacher.source} has none; "
            "leave it out"
        )
    return config.augment_ways


def _shares(total: int, parts: int) -> list[int]:
    """The total in parts that differ by one at most.

    Examples:
        >>> _shares(8, 3)
        [3, 3, 2]
    """
    return [total // parts + (part < total % parts) for part in range(parts)]


def _fresh(candidates: Iterable[Text], seen: set[Text], known: set[str]) -> Iterator[Text]:
    """Those not seen before that have no text of another split; adds them to `seen`."""
    for text in candidates:
        if text not in seen and known.isdisjoint(text) and all(part.strip() for part in text):
            seen.add(text)
            yield text
