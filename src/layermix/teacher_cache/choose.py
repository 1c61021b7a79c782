"""Where a run's teacher signals come from: the cache, filled first, or the teacher on every batch.

The size is worked out and told before anything is computed.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layermix.config import CacheConfig, DistillConfig
from layermix.console import Reporter
from layermix.core.objective import Objective
from layermix.core.signals import Batch, Needs, Teacher
from layermix.data.prepared import PreparedData
from layermix.hardware.device import default_device
from layermix.hardware.precision import choose_precision
from layermix.models.encoder import Classifier, HFEncoder
from layermix.models.inference import moved
from layermix.models.live_teacher import LiveTeacher
from layermix.teacher_cache.cached_teacher import CachedTeacher, fill, find_store, row_keys
from layermix.teacher_cache.store import Identity, SignalStore, free_bytes

PROBED = 64
"""Rows on which a bfloat16 pass of the teacher must predict what a float32 pass predicts."""
SPARE_BYTES = 2**30
"""Free space that is left to others."""


def cache_folder(config: CacheConfig) -> Path:
    """Where stores are: as configured, else `$LAYERMIX_CACHE`, else the user's cache folder."""
    if config.folder is not None:
        return Path(config.folder)
    if own := os.environ.get("LAYERMIX_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "layermix" / "signals"


@dataclass(frozen=True)
class Size:
    """What the signals of some rows take on disk, and how much of it is there.

    Attributes:
        rows: Different rows.
        tokens: Their tokens.
        total: Bytes.
        there: Bytes that need not be computed.
    """

    rows: int
    tokens: int
    total: int
    there: int

    @classmethod
    def of(cls, store: SignalStore, keys: list[bytes], lengths: list[int]) -> "Size":
        """Count every row once, however often its text occurs."""
        identity = store.identity
        tokens = dict(zip(keys, lengths, strict=True))

        def size(counts: list[int]) -> int:
            return sum(counts) * identity.token_bytes + len(counts) * identity.row_bytes

        there = [count for key, count in tokens.items() if key in store]
        counts = list(tokens.values())
        return cls(len(counts), sum(counts), size(counts), size(there))

    @property
    def missing(self) -> int:
        """Bytes that must be computed and written."""
        return self.total - self.there


def signals_for(
    prepared: PreparedData,
    teacher: Classifier,
    objective: Objective,
    config: DistillConfig,
    reporter: Reporter,
) -> Teacher:
    """The teacher of a run: read from the cache if it has room, else live on every batch.

    Args:
        prepared: Whose training rows are asked for.
        teacher: Frozen by this call.
        objective: Says what is needed.
        config: Its section cache is read.
        reporter: Is told the size first, then why the teacher runs live if it does.

    Raises:
        CacheError: If the cache cannot be written, or cannot hold a value.
    """
    needs = objective.teacher_needs
    encoder = HFEncoder(teacher.model, inputs_key="teacher_inputs")
    live = LiveTeacher(encoder, needs, choose_precision(config.training.precision))
    if needs.padding:
        reporter.say("the hidden loss looks at padding, so the teacher runs live on every batch")
        return live
    if needs.attention:
        reporter.say(
            "the attention loss needs scores of all pairs of tokens, which are not stored: the "
            "teacher runs live on every batch"
        )
        return live
    if not config.cache.use:
        reporter.say("cache.use is off: the teacher runs live on every batch")
        return live
    store, size = open_cache(prepared, teacher, needs, config, reporter)
    if not fits(store, size, config.cache, reporter):
        return live
    return filled(prepared, teacher, store, reporter)


def open_cache(
    prepared: PreparedData,
    teacher: Classifier,
    needs: Needs,
    config: DistillConfig,
    reporter: Reporter,
) -> tuple[SignalStore, Size]:
    """Open the store for these signals and say what they take; nothing is written.

    Args:
        prepared: Whose training rows are asked for.
        teacher: Whose signals they are.
        needs: Which of them.
        config: Its section cache is read.
        reporter: Is told.
    """
    assert prepared.teacher_fingerprint is not None  # set by `prepare`
    rows = prepared.splits["train"]
    keys = row_keys(rows)
    root = cache_folder(config.cache)
    precise = Identity(
        teacher=prepared.teacher_fingerprint,
        layers=needs.layers,
        embedding=needs.embedding,
        width=int(teacher.model.config.hidden_size),
        classes=len(teacher.label_names),
        dtype=config.cache.dtype,
        precision="float32",
    )
    store = find_store(root, precise, reporter.say)
    if choose_precision(config.cache.precision) == torch.bfloat16:
        rough = find_store(root, replace(precise, precision="bfloat16"), reporter.say)
        if all(key in rough for key in keys) or agree(prepared, teacher, reporter):
            store = rough
    size = Size.of(store, keys, list(_lengths(rows)))
    identity = store.identity
    layers = f"{len(identity.layers)} layers × {identity.width}" if identity.layers else "no layers"
    reporter.say(
        f"teacher signals: {size.rows:,} texts, {size.tokens:,} tokens, {layers} in "
        f"{identity.dtype}, computed in {identity.precision}: {size.total / 1e9:.2f} GB, of which "
        f"{size.there / size.total:.0%} is in {store.folder}"
    )
    return store, size


def fits(store: SignalStore, size: Size, config: CacheConfig, reporter: Reporter) -> bool:
    """Whether what is missing may be written; else the reason is told.

    The teacher's live pass gives logits and hidden states together, so to keep the logits alone
    would save nothing: below the whole there is only the live teacher.
    """
    used = sum(
        file.stat().st_size
        for file in cache_folder(config).rglob("*.safetensors")
        if file.is_file()
    )
    room = {
        f"cache.max_gb {config.max_gb:g}, of which {used / 1e9:.2f} GB are used": config.max_gb
        * 1e9
        - used,
        f"the {free_bytes(store.folder) / 1e9:.2f} GB that are free, less {SPARE_BYTES / 1e9:.2f} "
        "to spare": free_bytes(store.folder) - SPARE_BYTES,
    }
    for limit, left in room.items():
        if size.missing > max(0, left):
            reporter.say(
                f"they need {size.missing / 1e9:.2f} GB more, which does not fit into {limit}: the "
                "teacher runs live on every batch. Fewer layers (--mix.teacher_layers) need less; "
                "`layermix cache prune` makes room"
            )
            return False
    return True


def filled(
    prepared: PreparedData, teacher: Classifier, store: SignalStore, reporter: Reporter
) -> CachedTeacher:
    """Compute what is missing, and read from now on.

    Args:
        prepared: Whose training rows are asked for.
        teacher: Asked for what the store lacks.
        store: From `open_cache`.
        reporter: Shows how far it is.
    """
    rows = prepared.splits["train"]
    keys = row_keys(rows)
    encoder = HFEncoder(teacher.model, inputs_key="teacher_inputs")
    precision = getattr(torch, store.identity.precision)
    if not all(key in store for key in keys):
        live = LiveTeacher(encoder, store.identity.needs, precision)
        fill(store, live, rows, keys, _collate(prepared), reporter.track)
    store.used()
    return CachedTeacher(store, list(rows["row_id"]), keys, encoder.num_layers)


def agree(prepared: PreparedData, teacher: Classifier, reporter: Reporter) -> bool:
    """Whether a bfloat16 pass predicts what a float32 pass does, on rows of all lengths."""
    rows = prepared.splits["train"]
    order = np.argsort(_lengths(rows), kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(PROBED, len(order))).astype(int)]
    batch = _collate(prepared)([rows[int(index)] for index in chosen])
    encoder = HFEncoder(teacher.model, inputs_key="teacher_inputs")
    exact, rough = (
        LiveTeacher(encoder, Needs(), precision)(batch).logits.argmax(-1)
        for precision in (torch.float32, torch.bfloat16)
    )
    differ = int((exact != rough).sum())
    if differ:
        reporter.say(
            f"a bfloat16 pass of the teacher predicts another class on {differ} of {len(chosen)} "
            "rows: its signals are computed in float32"
        )
    return not differ


def _lengths(rows: Any) -> Any:
    """Tokens of each row as the teacher is given it."""
    own = "teacher_input_ids"
    return [len(ids) for ids in rows[own]] if own in rows.column_names else list(rows["length"])


def _collate(prepared: PreparedData) -> Any:
    def collate(chosen: list[Any]) -> Batch:
        return moved(prepared.collate(chosen), default_device())  # type: ignore[no-any-return]  # a Batch stays one

    return collate
