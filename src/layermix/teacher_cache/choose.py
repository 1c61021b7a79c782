"""Chooses where a run's teacher signals come from: the cache, filled first, or a live teacher.

Says how large the signals are before anything is computed, and why a teacher runs live.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from layermix.config import CacheConfig, DistillConfig
from layermix.console import Reporter
from layermix.core.objective import Objective
from layermix.core.signals import Batch, Needs, Teacher
from layermix.data.prepared import PreparedData
from layermix.errors import ConfigError
from layermix.hardware.device import default_device
from layermix.hardware.precision import choose_precision
from layermix.hardware.processes import from_main, gathered
from layermix.models.encoder import Classifier, HFEncoder, blocks_of, setup_fingerprint
from layermix.models.inference import moved
from layermix.models.live_teacher import LiveTeacher
from layermix.teacher_cache.cached_teacher import CachedTeacher, fill, find_store, row_keys
from layermix.teacher_cache.manifest import Dtype, Identity, file_size, own_files, store_folders
from layermix.teacher_cache.store import SignalStore, free_bytes

PROBED = 64
"""Rows on which a bfloat16 pass of the teacher must predict what a float32 pass predicts."""
SPARE_BYTES = 2**30
"""Free space that is left to others."""


def cache_folder(config: CacheConfig) -> Path:
    """Returns the configured cache folder, else `$LAYERMIX_CACHE`, else one in the user's cache.

    Raises:
        ConfigError: If the user has no home folder, as in a container with an unknown user id.
    """
    if config.folder is not None:
        return Path(config.folder)
    if own := os.environ.get("LAYERMIX_CACHE"):
        return Path(own)
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise ConfigError(
            "no folder for the teacher cache: found no $HOME and no home folder of the user; set "
            "$LAYERMIX_CACHE, or give --cache.folder FOLDER"
        ) from None
    return Path(caches) / "layermix" / "signals"


@dataclass(frozen=True)
class Size:
    """The size of the signals of some rows, and how much of it is stored.

    Attributes:
        rows: Number of different rows.
        tokens: Number of their tokens.
        total: Bytes.
        stored: Bytes that need not be computed.
    """

    rows: int
    tokens: int
    total: int
    stored: int

    @classmethod
    def of(cls, store: SignalStore, keys: list[bytes], lengths: list[int]) -> "Size":
        """Counts every row once, however often its text occurs."""
        identity = store.identity
        tokens = dict(zip(keys, lengths, strict=True))

        def size(counts: list[int]) -> int:
            return sum(counts) * identity.token_bytes + len(counts) * identity.row_bytes

        stored = [count for key, count in tokens.items() if key in store]
        counts = list(tokens.values())
        return cls(len(counts), sum(counts), size(counts), size(stored))

    @property
    def missing(self) -> int:
        """Bytes that must be computed and written."""
        return self.total - self.stored


def signals_for(
    prepared: PreparedData,
    teacher: Classifier,
    objective: Objective,
    config: DistillConfig,
    reporter: Reporter,
) -> Teacher:
    """Returns the teacher of a run: read from the cache if it has room, else live on every batch.

    Either computes in bfloat16 only if its predictions stay the same (`agree`).

    Args:
        prepared: Its training rows are those that the teacher is asked for.
        teacher: Frozen by this call.
        objective: Decides which signals are needed.
        config: Its sections cache and training are read.
        reporter: Shows the size first, or why the teacher runs live.

    Raises:
        CacheError: If the cache cannot be written, or cannot hold a value.
    """
    # Of several processes, one decides for all, by its disk and its processor.
    needs = objective.teacher_needs
    chosen = chosen_for_all(
        lambda: _chosen(prepared, teacher, needs, config, reporter), config.cache, reporter
    )
    if isinstance(chosen, SignalStore):
        return filled(prepared, teacher, chosen, reporter, needs)
    encoder = HFEncoder(teacher.model, inputs_key="teacher_inputs")
    return LiveTeacher(encoder, needs, chosen)


Other = TypeVar("Other")


def chosen_for_all(
    choose: Callable[[], SignalStore | Other], config: CacheConfig, reporter: Reporter
) -> SignalStore | Other:
    """Returns what one of several processes chooses for all, by its disk and its processor.

    Args:
        choose: Returns the store to fill and read, which the others open for themselves, or
            something else.
        config: Where stores are.
        reporter: Shows problems of a store.
    """
    opened: list[SignalStore] = []

    def told() -> Identity | Other:
        found = choose()
        if not isinstance(found, SignalStore):
            return found
        opened.append(found)
        return found.identity

    found = from_main(told)
    if not isinstance(found, Identity):
        return found
    return opened[0] if opened else find_store(cache_folder(config), found, reporter.say)


def _chosen(
    prepared: PreparedData,
    teacher: Classifier,
    needs: Needs,
    config: DistillConfig,
    reporter: Reporter,
) -> SignalStore | torch.dtype:
    """Returns which store to fill and read, or the number format of a live teacher; says why."""
    agreed = functools.cache(functools.partial(agree, prepared, teacher, reporter))
    reason = not_stored(needs, config.cache)
    if not reason:
        store, size = open_cache(prepared, teacher, needs, config, reporter, agreed)
        reason = no_room(store, size, config.cache)
        if not reason:
            reporter.say(
                f"teacher signals: {_described(store, size)}, computed in "
                f"{store.identity.precision}: {size.total / 1e9:.2f} GB, of which "
                f"{size.stored / size.total:.0%} is in {store.folder}"
            )
            return store
    precision = choose_precision(config.training.precision)
    if precision == torch.bfloat16 and not agreed():
        precision = torch.float32
    reporter.say(f"{reason}: the teacher runs live on every batch, in {str(precision)[6:]}")
    return precision


def not_stored(needs: Needs, config: CacheConfig) -> str:
    """Returns why signals are not stored, whatever room there is; empty if they are."""
    if needs.padding:
        return "the hidden loss needs the teacher's outputs at padding, which are not stored"
    if needs.qkv:
        return "the relation loss needs queries, keys and values, which are not stored"
    if needs.attention:
        return "the attention loss needs scores of all pairs of tokens, which are not stored"
    return "" if config.use else "cache.use is off"


def open_cache(
    prepared: PreparedData,
    teacher: Classifier,
    needs: Needs,
    config: DistillConfig,
    reporter: Reporter,
    agreed: Callable[[], bool] | None = None,
) -> tuple[SignalStore, Size]:
    """Opens the store for these signals and returns it with their size; writes nothing.

    With `cache.layers: all` it is one of all layers, if those that are needed are not stored, and
    there is room.

    Args:
        prepared: Its training rows are those that the teacher is asked for.
        teacher: The teacher.
        needs: Which signals.
        config: Its section cache is read.
        reporter: Shows problems.
        agreed: Whether bfloat16 leaves the teacher's predictions as they are; by default `agree`.
    """
    rows = prepared.splits["train"]
    keys = row_keys(rows)
    root = cache_folder(config.cache)
    precise = identity_of(prepared, teacher, needs, config.cache.dtype)
    agreed = agreed or functools.partial(agree, prepared, teacher, reporter)

    def opened(wanted: Identity) -> tuple[SignalStore, Size]:
        store = find_store(root, wanted, reporter.say)
        if choose_precision(config.cache.precision) == torch.bfloat16:
            rough = find_store(root, replace(wanted, precision="bfloat16"), reporter.say)
            if all(key in rough for key in keys) or agreed():
                store = rough
        return store, Size.of(store, keys, list(lengths_of(rows)))

    needed = opened(precise)
    if config.cache.layers == "needed" or not needs.layers or not needed[1].missing:
        return needed
    layers = tuple(range(len(blocks_of(teacher.model))))
    if set(needed[0].identity.layers) == set(layers):  # as a store of all layers serves it
        return needed
    every = opened(replace(precise, layers=layers))
    return needed if no_room(*every, config.cache) else every


def identity_of(
    prepared: PreparedData, teacher: Classifier, needs: Needs, dtype: Dtype
) -> Identity:
    """Returns what decides the teacher's signals, computed in float32 and stored in `dtype`."""
    assert prepared.teacher_fingerprint is not None  # set by `prepare`
    collate = prepared.collate
    return Identity(
        teacher=prepared.teacher_fingerprint,
        layers=needs.layers,
        embedding=needs.embedding,
        width=int(teacher.model.config.hidden_size),
        classes=len(teacher.label_names),
        dtype=dtype,
        precision="float32",
        setup=setup_fingerprint(teacher.model, collate.teacher_tokenizer or collate.tokenizer),
        token_logits=prepared.problem.by_word,
    )


def no_room(store: SignalStore, size: Size, config: CacheConfig) -> str:
    """Returns why the missing signals may not be written; empty if they may.

    Logits alone are not stored instead: the teacher's live pass gives them with the hidden states.

    Args:
        store: From `open_cache`.
        size: Of the signals.
        config: Its limit is read.
    """
    if not size.missing:
        return ""
    needed = (
        f"teacher signals of {_described(store, size)} need {size.missing / 1e9:.2f} GB more in "
        f"{store.folder.parent}"
    )
    if config.max_gb == 0:
        return f"{needed}, but cache.max_gb is 0"
    used = _used(store, cache_folder(config))
    free = free_bytes(store.folder) + store.leftover_bytes
    limit = ""
    if size.missing > config.max_gb * 1e9 - used:
        limit = f"of cache.max_gb {config.max_gb:g}, {used / 1e9:.2f} GB are used"
    elif size.missing > free - SPARE_BYTES:
        limit = f"{free / 1e9:.2f} GB are free, of which {SPARE_BYTES / 1e9:.2f} are left to others"
    if not limit:
        return ""
    return (
        f"{needed}, but {limit} (fewer layers, by --mix.teacher_layers, need less; `layermix cache "
        "prune` makes room)"
    )


def _used(store: SignalStore, root: Path) -> int:
    """Bytes of all stores' files; of this store's, only those that the next filling keeps."""
    folders = {store.folder, *store_folders(root)}
    total = sum(file_size(file) for folder in folders for file in own_files(folder))
    return total - store.leftover_bytes


def _described(store: SignalStore, size: Size) -> str:
    identity = store.identity
    layers = f"{len(identity.layers)} layers × {identity.width}" if identity.layers else "no layers"
    return f"{size.rows:,} texts, {size.tokens:,} tokens, {layers} in {identity.dtype}"


def filled(
    prepared: PreparedData,
    teacher: Classifier,
    store: SignalStore,
    reporter: Reporter,
    needs: Needs | None = None,
) -> CachedTeacher:
    """Computes the signals that the store lacks; returns the teacher that reads them.

    Args:
        prepared: Its training rows are those that the teacher is asked for.
        teacher: Asked for what the store lacks.
        store: From `open_cache`.
        reporter: Shows progress.
        needs: Which of the stored signals are read; all by default.
    """
    rows = prepared.splits["train"]
    keys = row_keys(rows)
    encoder = HFEncoder(teacher.model, inputs_key="teacher_inputs")
    precision = getattr(torch, store.identity.precision)
    if not all(gathered(all(key in store for key in keys))):
        live = LiveTeacher(encoder, store.identity.needs, precision)
        fill(store, live, rows, keys, collated(prepared), track=reporter.track)
    store.used()
    return CachedTeacher(store, list(rows["row_id"]), keys, encoder.num_layers, needs)


def agree(prepared: PreparedData, teacher: Classifier, reporter: Reporter) -> bool:
    """Whether a bfloat16 pass predicts what a float32 pass does, on rows of all lengths."""
    rows = prepared.splits["train"]
    order = np.argsort(lengths_of(rows), kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(PROBED, len(order))).astype(int)]
    batch = collated(prepared)([rows[int(index)] for index in chosen])
    encoder = HFEncoder(teacher.model, inputs_key="teacher_inputs")
    exact, rough = (
        LiveTeacher(encoder, Needs(), precision)(batch).logits.cpu().numpy()
        for precision in (torch.float32, torch.bfloat16)
    )
    differ = int((~prepared.problem.same(exact, rough)).sum())
    if differ:
        reporter.say(
            f"a bfloat16 pass of the teacher answers otherwise on {differ} of {len(chosen)} "
            "rows: its signals are computed in float32"
        )
    return not differ


def lengths_of(rows: Any) -> Any:
    """Tokens of each row, by the teacher's tokenizer."""
    own = "teacher_input_ids"
    return [len(ids) for ids in rows[own]] if own in rows.column_names else list(rows["length"])


def collated(prepared: PreparedData) -> Any:
    """Returns what pads rows to a batch, on the default device."""

    def collate(chosen: list[Any]) -> Batch:
        return moved(prepared.collate(chosen), default_device())  # type: ignore[no-any-return]  # a Batch stays one

    return collate
