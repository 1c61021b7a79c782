"""The teacher's answers on the rows that are scored: asked for once, not in each run of a study."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from layermix.config import CacheConfig
from layermix.console import Reporter
from layermix.core.signals import Needs, Teacher
from layermix.data.prepared import Logits, PreparedData
from layermix.models.encoder import Classifier, HFEncoder
from layermix.models.inference import Runner, TorchRunner, by_length, logits_by_all, logits_of
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
    not_stored,
)
from layermix.teacher_cache.store import SignalStore

STORED_FROM = 50_000
"""Tokens of the scored rows; a teacher answers fewer within seconds, and nothing is stored."""


def answers(
    prepared: PreparedData, teacher: Classifier, config: CacheConfig, reporter: Reporter
) -> dict[str, Logits]:
    """Returns the teacher's logits on each split but `train`, (N, C) or (N, W, C), float32.

    Many rows are answered once, and their logits stored beside the other signals, if the cache is
    used and has room. The batches are those of a pass without it, and so are all bits, unless a
    text occurs twice.

    Args:
        prepared: With the fingerprint of the teacher.
        teacher: Asked for what is not stored.
        config: Where to store, and how much.
        reporter: Shows progress.

    Raises:
        CacheError: If the cache cannot be written.
    """
    scored = {name: rows for name, rows in prepared.splits.items() if name != "train"}
    encoder = HFEncoder(teacher.model, inputs_key="teacher_inputs")
    store = chosen_for_all(
        lambda: _store(prepared, teacher, scored, config, reporter), config, reporter
    )
    found = {}
    for name, rows in scored.items():
        shown: dict[str, Any] = {"track": reporter.track, "what": f"teacher on {name}"}
        if not isinstance(store, SignalStore):
            run = TorchRunner(encoder)
            found[name] = logits_by_all(run, rows, prepared.collate, **shown)
            continue
        live, keys = LiveTeacher(encoder, Needs()), row_keys(rows)
        fill(store, live, rows, keys, collated(prepared), by_length(rows["length"]), **shown)
        cached = CachedTeacher(store, list(rows["row_id"]), keys, encoder.num_layers)
        found[name] = logits_of(reading(cached), rows, prepared.collate)
        store.used()
    return found


def reading(signals: Teacher) -> Runner:
    """Returns what looks up the logits of a batch."""
    return lambda batch: signals(batch).logits.numpy()


def _store(
    prepared: PreparedData,
    teacher: Classifier,
    scored: Mapping[str, Any],
    config: CacheConfig,
    reporter: Reporter,
) -> SignalStore | str:
    """Returns the store of the answers, or why there is none; writes nothing."""
    lengths = [length for rows in scored.values() for length in lengths_of(rows)]
    if sum(lengths) < STORED_FROM:
        return "the teacher answers them within seconds"
    if reason := not_stored(Needs(), config):
        return reason
    identity = replace(identity_of(prepared, teacher, Needs(), "float32"), scored=True)
    store = SignalStore(cache_folder(config) / identity.name, identity, reporter.say)
    keys = [key for rows in scored.values() for key in row_keys(rows)]
    return no_room(store, Size.of(store, keys, lengths), config) or store
