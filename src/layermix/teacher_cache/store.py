"""Teacher signals on disk: shards of rows, written completely, checked when opened, read in place.

A store is one folder for one way to compute signals (`Identity`). It finds a row by the hash of the
row's tokens (`row_key`), so any split, order or subset of texts finds what is stored, and a changed
text finds nothing. Padding is not stored. A file that is not in the manifest, or does not match it,
is never read: its rows are computed again.
"""

import hashlib
import math
import os
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, TypeAdapter
from safetensors.torch import save
from torch import Tensor

from layermix.atomic import LockedError, lock, whole_file, write_text
from layermix.errors import CacheError
from layermix.teacher_cache.manifest import (
    FORMAT,
    KEY_BYTES,
    LOCK,
    MANIFEST,
    PLAN,
    Count,
    Identity,
    Manifest,
    Shard,
    file_size,
    own_files,
    plan_json,
    read_manifest,
    read_plan,
)

SHARD_BYTES = 2**27
"""About the size of a shard: lost if one is damaged, held in memory while one is made."""
SHARD_ROWS = 2**14
"""Most rows of a shard: those of logits alone take few bytes."""
MISMATCH = "its content does not match its manifest"
_DTYPES = {
    "U8": torch.uint8,
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
}


class Place(NamedTuple):
    """Where a row is: shard and row in it, first token in the shard, number of tokens."""

    shard: int
    row: int
    start: int
    tokens: int


class Row(NamedTuple):
    """What is stored of a row: logits (C,), or (T, C); hidden (layers and embedding, T, D)."""

    key: bytes
    logits: Tensor
    hidden: Tensor | None
    tokens: int


def row_key(columns: Sequence[Sequence[int]]) -> bytes:
    """Returns the hash of a row's own inputs to the teacher, such as token ids and token types.

    Examples:
        >>> row_key([[1, 2]]) == row_key([[1, 2]]), row_key([[1, 2]]) == row_key([[1], [2]])
        (True, False)
    """
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for column in columns:
        digest.update(len(column).to_bytes(4, "little"))
        digest.update(np.asarray(column, dtype="<i4").tobytes())
    return digest.digest()


class SignalStore:
    """An open store: memory-maps complete shards; reports damaged ones and leaves them out.

    Args:
        folder: Need not exist; nothing is written before `filling`.
        identity: What its signals are computed from.
        say: Called with one sentence per problem.

    Raises:
        CacheError: If the folder or its lock is a link.
    """

    def __init__(self, folder: Path, identity: Identity, say: Callable[[str], None]) -> None:
        self.folder, self.identity, self.say = folder, identity, say
        for path in (folder, folder / LOCK):
            if path.is_symlink():
                raise CacheError(
                    f"{path}: found a link, wanted a {'folder' if path == folder else 'file'} that "
                    "layermix made; remove the link, or choose another --cache.folder"
                )
        self._load()

    def _load(self) -> None:
        self._manifest, problem = read_manifest(self.folder)
        if self._manifest is not None and self._manifest.identity != self.identity:
            self._manifest, problem = None, "it belongs to another store"
        if problem:
            self.say(f"{self.folder / MANIFEST}: {problem}; its signals are computed again")
        self.shards: dict[str, Shard] = {}
        self._mapped: list[dict[str, Tensor]] = []
        self.places: dict[bytes, Place] = {}
        shards = {} if self._manifest is None else self._manifest.shards
        problems = damaged(self.folder, shards)
        for name, shard in shards.items():
            problem = problems.get(name) or self._map(name, shard)
            if problem:
                self.say(
                    f"{self.folder / name}: {problem}; its {shard.rows} rows are computed again"
                )

    def _map(self, name: str, shard: Shard) -> str:
        """Maps a shard and finds its rows; returns what is wrong with it, if anything."""
        try:
            tensors = _mapped(self.folder / name, self.identity, shard)
        except (OSError, ValueError):
            return MISMATCH
        keys, counts = tensors["keys"].numpy().tobytes(), tensors["counts"].tolist()
        start = 0
        for row, tokens in enumerate(counts):
            key = keys[row * KEY_BYTES : (row + 1) * KEY_BYTES]
            self.places[key] = Place(len(self._mapped), row, start, tokens)
            start += tokens
        self._mapped.append(tensors)
        self.shards[name] = shard
        return ""

    def __contains__(self, key: bytes) -> bool:
        return key in self.places

    def logits(self, place: Place) -> Tensor:
        """Returns the logits of a row, (C,), or of its tokens, (T, C), float32."""
        stored = self._mapped[place.shard]["logits"]
        if self.identity.token_logits:
            return stored[place.start : place.start + place.tokens]
        return stored[place.row]

    def hidden(self, place: Place) -> Tensor:
        """Returns block outputs in order, then the embedding output, (S, T, D); a view."""
        per_token = self.identity.token_values
        flat = self._mapped[place.shard]["hidden"]
        row = flat[place.start * per_token : (place.start + place.tokens) * per_token]
        return row.view(-1, place.tokens, self.identity.width)

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of all complete shards."""
        return sum(shard.bytes for shard in self.shards.values())

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Holds the lock for writing; first reads what another process has added meanwhile.

        Removes incomplete and damaged files of layermix's own; other files stay.

        Raises:
            CacheError: If the folder cannot be made.
        """
        with ExitStack() as held:
            try:
                self._take_lock(held)
            except OSError as error:
                raise CacheError(
                    f"{self.folder}: cannot be written ({error.strerror}); choose another "
                    "--cache.folder, or --no-cache.use"
                ) from error
            if read_manifest(self.folder)[0] != self._manifest:
                self._load()
            for file in self._leftovers():
                file.unlink(missing_ok=True)
            yield

    def _take_lock(self, held: ExitStack) -> None:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # `cache prune` has just removed the folder
                try:
                    held.enter_context(lock(self.folder / LOCK, wait=False))
                except LockedError:
                    self.say(f"{self.folder}: waiting for another process that fills this store")
                    held.enter_context(lock(self.folder / LOCK))
                return

    def _leftovers(self) -> list[Path]:
        """Files of layermix's own that are incomplete or damaged."""
        kept = {MANIFEST, PLAN, LOCK, *self.shards}
        return [file for file in own_files(self.folder) if file.name not in kept]

    @property
    def leftover_bytes(self) -> int:
        """Bytes of incomplete and damaged files, which the next filling removes."""
        return sum(file_size(file) for file in self._leftovers())

    def left_plan(self) -> list[list[bytes]]:
        """Returns the batches of row keys that a stopped filling had planned; else none."""
        return read_plan(self.folder)

    def leave_plan(self, batches: Sequence[Sequence[bytes]]) -> None:
        """Writes the batches to come, so that a stopped filling continues with the same batches.

        The last bits of a row's signals depend on the rows in its batch.
        """
        with self._writing(len(batches)):
            write_text(self.folder / PLAN, plan_json([list(batch) for batch in batches]))

    def drop_plan(self) -> None:
        """Removes the plan of a filling that is complete."""
        (self.folder / PLAN).unlink(missing_ok=True)

    def add(self, rows: Sequence[Row]) -> None:
        """Writes rows as a shard, completely or not at all; call it within `filling`.

        Raises:
            CacheError: If it cannot be written, for example because the disk is full.
        """
        keys, classes = b"".join(row.key for row in rows), self.identity.classes
        tensors = {
            "keys": torch.frombuffer(bytearray(keys), dtype=torch.uint8).view(-1, KEY_BYTES),
            "counts": torch.tensor([row.tokens for row in rows], dtype=torch.int32),
            "logits": torch.cat([row.logits.reshape(-1, classes) for row in rows]).float(),
        }
        hidden = [row.hidden.reshape(-1) for row in rows if row.hidden is not None]
        if hidden:
            tensors["hidden"] = torch.cat(hidden)
        content = save(tensors)
        name = f"{hashlib.sha256(keys).hexdigest()[:16]}.safetensors"
        with self._writing(len(content)):
            with whole_file(self.folder / name) as temporary, temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            shard = Shard(
                bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                rows=len(rows),
                tokens=sum(row.tokens for row in rows),
                written=stamp(self.folder / name),
            )
            self._write_manifest({**self.shards, name: shard})
        self._map(name, shard)

    @contextmanager
    def _writing(self, size: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            free = free_bytes(self.folder)
            raise CacheError(
                f"{self.folder}: could not write {size / 1e6:,.3f} MB of teacher signals "
                f"({error.strerror}; {free / 1e6:,.3f} MB are free). The {len(self.places)} rows "
                "written before are kept. Make room (`layermix cache prune`), or choose another "
                "--cache.folder, or --no-cache.use"
            ) from error

    def _write_manifest(self, shards: dict[str, Shard]) -> None:
        manifest = Manifest(format=FORMAT, identity=self.identity, shards=shards)
        write_text(self.folder / MANIFEST, manifest.as_json())
        self._manifest = manifest

    def used(self) -> None:
        """Records that a run reads the store, for `cache prune`, unless the store is read-only."""
        with suppress(OSError):
            os.utime(self.folder / LOCK, follow_symlinks=False)

    def renew_stamps(self) -> None:
        """Records when the shards were last written, after a full check of them.

        Call it while no other process fills the store.
        """
        shards = self.shards.items()
        self._write_manifest(
            {
                name: shard.model_copy(update={"written": stamp(self.folder / name)})
                for name, shard in shards
            }
        )


def damaged(folder: Path, shards: Mapping[str, Shard], *, full: bool = False) -> dict[str, str]:
    """Returns what is wrong with the shards that do not match their manifest, by name.

    Args:
        folder: Of the store.
        shards: From its manifest.
        full: Hash all shards; otherwise only those written to since their checksum was taken.
    """

    def check(name: str) -> str:
        file, shard = folder / name, shards[name]
        try:
            status = file.lstat()
            if not stat.S_ISREG(status.st_mode):
                return "found a link, folder or device, wanted a file"
            if status.st_size != shard.bytes:
                return f"found {status.st_size:,} bytes, wanted {shard.bytes:,}"
            if full or stamp(file) != shard.written:
                with file.open("rb") as stream:
                    if hashlib.file_digest(stream, "sha256").hexdigest() != shard.sha256:
                        return "its content has changed (wrong checksum)"
        except FileNotFoundError:
            return "it is missing"
        except OSError as error:
            return f"it cannot be read ({error.strerror})"
        return ""

    with ThreadPoolExecutor() as pool:  # hashing and reading release the interpreter lock
        problems = dict(zip(shards, pool.map(check, shards), strict=True))
    return {name: problem for name, problem in problems.items() if problem}


def stamp(file: Path) -> tuple[int, int]:
    """Returns the time of a file's last change in nanoseconds, and its inode."""
    status = file.stat()
    return status.st_mtime_ns, status.st_ino


def free_bytes(folder: Path) -> int:
    """Returns the free space where a folder is, or would be made."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


class _TensorEntry(BaseModel):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: tuple[Count, ...]
    data_offsets: tuple[Count, Count]


_HEADER = TypeAdapter(dict[str, _TensorEntry])
_HEADER_BYTES = 2**16


def _mapped(file: Path, identity: Identity, shard: Shard) -> dict[str, Tensor]:
    """Maps the tensors of a shard; their pages are read when they are used.

    safetensors itself maps files as writable, which a limit on a process's memory counts in full.

    Raises:
        ValueError: If the file does not hold the tensors that such a shard has.
    """
    content = np.memmap(file, mode="r")
    size = int.from_bytes(content[:8].tobytes(), "little")
    if size > _HEADER_BYTES:
        raise ValueError(f"a header of {size} bytes")
    header = _HEADER.validate_json(content[8 : 8 + size].tobytes())
    with_logits = shard.tokens if identity.token_logits else shard.rows
    expected = {
        "keys": (torch.uint8, (shard.rows, KEY_BYTES)),
        "counts": (torch.int32, (shard.rows,)),
        "logits": (torch.float32, (with_logits, identity.classes)),
    }
    if identity.token_values:
        expected["hidden"] = (identity.storage, (shard.tokens * identity.token_values,))
    if {
        name: (_DTYPES.get(entry.dtype), entry.shape) for name, entry in header.items()
    } != expected:
        raise ValueError("other tensors")
    tensors = {}
    for name, (dtype, shape) in expected.items():
        first, last = header[name].data_offsets
        part = content[8 + size + first : 8 + size + last]
        if len(part) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"a tensor of {len(part)} bytes")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")  # nobody writes
            tensors[name] = torch.frombuffer(part, dtype=dtype).view(shape)
    counts = tensors["counts"]
    if counts.min() < 0 or counts.sum() != shard.tokens:
        raise ValueError("other numbers of tokens")
    return tensors
