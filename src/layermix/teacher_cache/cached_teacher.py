"""Reads the teacher's signals from a store, and fills the store."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from layermix.core.signals import Batch, Needs, Signal, at_words
from layermix.errors import CacheError, ModelError
from layermix.hardware.processes import from_main, gathered, share, share_on_machine
from layermix.launch import world_size
from layermix.models.encoder import MODEL_INPUTS
from layermix.models.inference import Collate, Track
from layermix.teacher_cache.manifest import Identity, read_manifest, store_folders
from layermix.teacher_cache.store import (
    SHARD_BYTES,
    SHARD_ROWS,
    Place,
    Row,
    SignalStore,
    row_key,
)

FILL_TOKENS = 4096
"""Tokens per batch when a store is filled, sorted by length: large products, little padding."""

_TEACHER = "teacher_"  # prefix of the inputs of a teacher whose tokenizer is not the student's


class CachedTeacher:
    """Looks up stored signals by `row_id`; pads them with zeros where the batch has padding.

    Copies the rows of the batch only; the rest of the store stays mapped from its files.

    Args:
        store: Must hold every row.
        row_ids: Ids of the rows that batches may contain.
        keys: Their `row_key`s, in the same order.
        num_layers: Number of blocks of the teacher.
        needs: Which of the stored signals are read; all by default.

    Raises:
        ModelError: If a row is not in the store.
    """

    in_loader = True

    def __init__(
        self,
        store: SignalStore,
        row_ids: Sequence[int],
        keys: Sequence[bytes],
        num_layers: int,
        needs: Needs | None = None,
    ) -> None:
        self.store, self.num_layers = store, num_layers
        self.hidden_size, self.provides = store.identity.width, needs or store.identity.needs
        self.parts = store.identity.parts(self.provides)
        if missing := sum(key not in store for key in keys):
            raise ModelError(
                f"{store.folder}: {missing} of {len(keys)} rows are missing; fill the store first"
            )
        self.places = {row: store.places[key] for row, key in zip(row_ids, keys, strict=True)}

    def __call__(self, batch: Batch) -> Signal:
        """Returns the signal of a batch, in float32.

        Raises:
            ModelError: If a row is unknown, or has another number of tokens than it had when it
                was stored.
        """
        mask = batch.get("teacher_inputs", batch)["attention_mask"].bool()
        rows = batch["row_id"].tolist()
        places = [self._place(row) for row in rows]
        lengths, starts = mask.sum(-1).tolist(), mask.int().argmax(-1).tolist()
        for row, place, tokens in zip(rows, places, lengths, strict=True):
            if place.tokens != tokens:
                raise ModelError(
                    f"row {row} has {tokens} tokens in the batch, but {place.tokens} when it was "
                    "stored; tokenise both in the same way"
                )
        logits = [self.store.logits(place) for place in places]
        words: Tensor | None = None
        if self.store.identity.token_logits:
            of_tokens = torch.zeros(*mask.shape, self.store.identity.classes)
            for example, (start, found) in enumerate(zip(starts, logits, strict=True)):
                of_tokens[example, start : start + len(found)] = found
            word_starts = batch.get("teacher_inputs", batch)["word_starts"]
            stacked, words = at_words(of_tokens.to(mask.device), word_starts)
        else:
            stacked = torch.stack(logits).to(mask.device)
        layers, embedding = self.provides.layers, self.provides.embedding
        if not layers and not embedding:
            return Signal(stacked, mask, words=words)
        shape = (len(layers) + embedding, *mask.shape, self.hidden_size)
        padded = torch.zeros(shape)
        for example, (place, start) in enumerate(zip(places, starts, strict=True)):
            padded[:, example, start : start + place.tokens] = self.store.hidden(place)[self.parts]
        padded = padded.to(mask.device)
        hidden = padded[: len(layers)] if layers else None
        return Signal(stacked, mask, layers, hidden, padded[-1] if embedding else None, words=words)

    def _place(self, row: int) -> Place:
        if row not in self.places:
            raise ModelError(
                f"row {row} is not among the {len(self.places)} rows of this teacher; give it the "
                "rows that are trained on"
            )
        return self.places[row]


def row_keys(rows: Any) -> list[bytes]:
    """Returns the key of every tokenised row: a hash of the teacher's inputs.

    Args:
        rows: A tokenised split.
    """
    named = [_TEACHER + name for name in MODEL_INPUTS]
    columns = [name for name in named if name in rows.column_names] or [
        name for name in MODEL_INPUTS if name in rows.column_names
    ]
    return [row_key(values) for values in zip(*(rows[name] for name in columns), strict=True)]


def find_store(root: Path, identity: Identity, say: Callable[[str], None]) -> SignalStore:
    """Opens the store of this identity, or another one that holds more layers.

    Raises:
        CacheError: If the store's folder is a link.
    """
    own = root / identity.name
    if not own.exists():
        for folder in store_folders(root):
            manifest, _ = read_manifest(folder)
            if manifest is None or manifest.identity.name != folder.name:
                continue
            if manifest.identity.serves(identity):
                return SignalStore(folder, manifest.identity, say)
    return SignalStore(own, identity, say)


def fill(
    store: SignalStore,
    teacher: Callable[[Batch], Signal],
    rows: Any,
    keys: Sequence[bytes],
    collate: Collate,
    batches: Sequence[Sequence[int]] | None = None,
    *,
    track: Track | None = None,
    what: str = "teacher signals",
) -> None:
    """Computes the teacher's signals for every row that the store lacks, and stores them.

    It may be stopped at any time: shards that are written are kept and not computed again.
    Several processes of a run each compute a part of the batches; where machines share no disk,
    those of each machine then compute what it lacks.

    Args:
        store: To write to.
        teacher: Provides `store.identity.needs`, such as a `LiveTeacher`.
        rows: Tokenised rows with `length`.
        keys: Their `row_key`s.
        collate: Rows -> padded batch.
        batches: Indices of rows, one list per batch of the teacher; if None, rows of similar length
            are batched, about `FILL_TOKENS` tokens each.
        track: Shows how many batches are done.
        what: The bar's name.

    Raises:
        CacheError: If a value does not fit the store's dtype, or the disk is full.
    """
    work = _Filling(store, teacher, rows, keys, collate, track, what)
    if world_size() == 1:
        with store.filling():
            if left := work.plan(batches):
                for shard in work.shards(left):
                    store.add(shard)
                store.drop_plan()
        return

    def plan() -> list[Sequence[int]]:
        with store.filling():
            return work.plan(batches)

    left = from_main(plan)
    every = work.all_batches(left) if batches is None else batches
    # The second finds nothing on a shared disk; without one, each machine may lack other rows.
    for mine in (share(left), share_on_machine(every)):
        with store.filling():
            lacking = [batch for batch in mine if work.lacks(batch)]
        for shard in work.shards(lacking):
            with store.filling():  # not for long: the others write there, too
                if rest := [row for row in shard if row.key not in store]:
                    store.add(rest)
        gathered(None)  # all have written
    with store.filling():  # reads what the others have written
        if left:
            store.drop_plan()


class _Filling(NamedTuple):
    """What `fill` works with."""

    store: SignalStore
    teacher: Callable[[Batch], Signal]
    rows: Any
    keys: Sequence[bytes]
    collate: Collate
    track: Track | None
    what: str

    def lacks(self, batch: Sequence[int]) -> bool:
        """Whether the store lacks a row of a batch."""
        return any(self.keys[index] not in self.store for index in batch)

    def plan(self, batches: Sequence[Sequence[int]] | None) -> list[Sequence[int]]:
        """Returns the batches that the store lacks, and leaves them for whoever continues."""
        if batches is None:
            index_of = {key: index for index, key in enumerate(self.keys)}
            batches = _planned(self.store, index_of, self.rows["length"])
        left = [batch for batch in batches if self.lacks(batch)]
        if left:
            self.store.leave_plan([[self.keys[index] for index in batch] for batch in left])
        return left

    def all_batches(self, left: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Returns batches of all rows, beginning with those that are left."""
        taken = {self.keys[index] for batch in left for index in batch}
        index_of = {key: index for index, key in enumerate(self.keys) if key not in taken}
        rest, lengths = list(index_of.values()), list(self.rows["length"])
        return [*left, *_by_length(rest, [lengths[index] for index in rest])]

    def shards(self, batches: Sequence[Sequence[int]]) -> Iterator[list[Row]]:
        """Yields the rows of batches, as many at a time as a shard takes."""
        steps: Iterable[Sequence[int]] = batches
        if self.track is not None and batches:
            steps = self.track(batches, len(batches), self.what)
        identity, waiting, size = self.store.identity, dict[bytes, Row](), 0
        for indices in steps:
            batch = _of_tokens(self.collate([self.rows[index] for index in indices]))
            keys = [self.keys[index] for index in indices]
            for row in _stored(self.teacher(batch), keys, identity):
                if row.key not in self.store and row.key not in waiting:
                    waiting[row.key] = row
                    size += row.tokens * identity.token_bytes + identity.row_bytes
            if size >= SHARD_BYTES or len(waiting) >= SHARD_ROWS:
                yield list(waiting.values())
                waiting, size = {}, 0
        if waiting:
            yield list(waiting.values())


def _of_tokens(batch: Batch) -> Batch:
    """Returns a batch for which a token classifier gives the logits of all tokens, not of words."""
    inner = {name: _of_tokens(part) for name, part in batch.items() if isinstance(part, Mapping)}
    return {name: part for name, part in batch.items() if name != "word_starts"} | inner


def _planned(
    store: SignalStore, index_of: Mapping[bytes, int], lengths: Sequence[int]
) -> list[list[int]]:
    """Returns the batches that a stopped filling had planned, then the other rows by length."""
    left = [
        [index_of[key] for key in batch]
        for batch in store.left_plan()
        if all(key in index_of for key in batch)
    ]
    taken = {index for batch in left for index in batch}
    rest = [index for key, index in index_of.items() if key not in store and index not in taken]
    return left + _by_length(rest, [lengths[index] for index in rest])


def _by_length(indices: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Returns batches of rows of similar length; the longest first, so that it fails early.

    Examples:
        >>> _by_length([0, 1, 2, 3], [9, 3000, 1000, 1000])
        [[1], [2, 3, 0]]
    """
    batches: list[list[int]] = []
    room = 0  # rows that the batch still takes; each is padded to the first, the longest
    for length, index in sorted(zip(lengths, indices, strict=True), key=lambda pair: -pair[0]):
        if room == 0:
            batches.append([])
            room = max(1, FILL_TOKENS // length)
        batches[-1].append(index)
        room -= 1
    return batches


def _stored(signal: Signal, keys: Sequence[bytes], identity: Identity) -> list[Row]:
    """Returns the rows of a batch as they are stored, without padding."""
    parts = [] if signal.hidden is None else list(signal.select(identity.layers))
    names = [f"layer {layer}" for layer in identity.layers]
    if identity.embedding:
        assert signal.embedding is not None
        parts, names = [*parts, signal.embedding], [*names, "the embedding output"]
    limit = torch.finfo(identity.storage).max
    for name, part in zip(names, parts, strict=True):
        largest = float(part[signal.mask].abs().max())
        if not largest <= limit:
            raise CacheError(
                f"{name} of the teacher has the value {largest:g}, but {identity.dtype} holds at "
                f"most {limit:g}; use --cache.dtype bfloat16 (or float32)"
            )
    hidden = torch.stack(parts).to(identity.storage).cpu() if parts else None
    mask, logits = signal.mask.cpu(), signal.logits.float().cpu()
    return [
        Row(
            key,
            logits[row, mask[row]] if identity.token_logits else logits[row],
            None if hidden is None else hidden[:, row, mask[row]],
            int(mask[row].sum()),
        )
        for row, key in enumerate(keys)
    ]
