"""The teacher's answers on the rows that are scored: asked for once, not in each run of a study."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from layermix.config import CacheConfig
from layermix.console import Reporter
from layermix.core.signals import Batch, Needs, Signal, Teacher
from layermix.data.prepared import Logits, PreparedData
from layermix.errors import CacheError, ConfigError
from layermix.hardware.processes import gathered
from layermix.models.encoder import Classifier, HFEncoder
from layermix.models.inference import (
    Runner,
    TorchRunner,
    batches_by_length,
    finite,
    logits_by_all,
    logits_of,
)
from layermix.models.live_teacher import LiveTeacher
from layermix.teacher_cache.cached_teacher import CachedTeacher, fill, row_keys
from layermix.teacher_cache.choose import (
    Size,
    cache_folder,
    chosen_for_all,
    collated,
    identity_of,
    lengths_of,
    no_room,
)
from layermix.teacher_cache.store import SignalStore

STORED_FROM = 50_000
"""Tokens of the scored rows; a teacher answers fewer within seconds, and nothing is stored."""


def answers(
    prepared: PreparedData, teacher: Classifier, config: CacheConfig, reporter: Reporter
) -> dict[str, Logits]:
    """Returns the teacher's logits on each split but `train`, (N, C) or (N, W, C), float32.

    Many rows are answered once, and their logits stored beside the other signals, if the cache is
    used, has room and can be written. The batches are those of one process without it, so the
    numbers are the same up to rounding.

    Args:
        prepared: With the fingerprint of the teacher.
        teacher: Asked for what is not stored.
        config: Where to store, and how much.
        reporter: Shows progress, and why many answers are not stored.

    Raises:
        CacheError: If the disk becomes full, or the store's folder is a link.
        ModelError: If a logit that would be stored is not finite.
    """
    scored = {name: rows for name, rows in prepared.splits.items() if name != "train"}
    lengths = [length for rows in scored.values() for length in lengths_of(rows)]
    keys: dict[str, list[bytes]] = {}
    store = None
    if config.use and sum(lengths) >= STORED_FROM:
        keys = {name: row_keys(rows) for name, rows in scored.items()}
        every = [key for of_split in keys.values() for key in of_split]
        store = chosen_for_all(
            lambda: _store(prepared, teacher, every, lengths, config, reporter), config, reporter
        )
    encoder = HFEncoder(teacher.model, inputs_key="teacher_inputs")
    found = {}
    for name, rows in scored.items():
        shown: dict[str, Any] = {"track": reporter.track, "what": f"teacher on {name}"}
        if store is None:
            found[name] = logits_by_all(TorchRunner(encoder), rows, prepared.collate, **shown)
            continue
        if not all(gathered(all(key in store for key in keys[name]))):
            live = _checked(LiveTeacher(encoder, Needs()), teacher.source)
            batches = batches_by_length(rows["length"])
            fill(store, live, rows, keys[name], collated(prepared), batches, **shown)
        if prepared.problem.by_word:  # which tokens begin a word, batches know
            cached = CachedTeacher(store, list(rows["row_id"]), keys[name], encoder.num_layers)
            found[name] = logits_of(reading(cached), rows, prepared.collate)
        else:
            found[name] = np.stack([store.logits(store.places[key]).numpy() for key in keys[name]])
    if store is not None:
        store.used()
    return found


def reading(signals: Teacher) -> Runner:
    """Returns what looks up the logits of a batch."""
    return lambda batch: signals(batch).logits.numpy()


def _checked(live: LiveTeacher, source: str) -> Callable[[Batch], Signal]:
    """Returns the same teacher, whose broken answers are refused, not stored."""

    def ask(batch: Batch) -> Signal:
        signal = live(batch)
        finite(f"{source}: the teacher's", signal.logits.cpu().numpy(), "rows that are scored")
        return signal

    return ask


def _store(
    prepared: PreparedData,
    teacher: Classifier,
    keys: list[bytes],
    lengths: list[int],
    config: CacheConfig,
    reporter: Reporter,
) -> SignalStore | None:
    """Returns the store of the answers; None if they cannot be stored, and says why."""
    identity = replace(identity_of(prepared, teacher, Needs(), "float32"), scored=True)
    try:
        store = SignalStore(cache_folder(config) / identity.name, identity, reporter.say)
        reason = no_room(store, Size.of(store, keys, lengths), config)
        if not reason and any(key not in store for key in keys):
            with store.filling():  # it can be written
                return store
    except (CacheError, ConfigError) as error:
        reason = str(error)
    if reason:
        reporter.say(f"{reason}: the teacher answers the rows that are scored in each run anew")
        return None
    return store
