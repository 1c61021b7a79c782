"""Teacher signals on disk: shards of rows, written whole, checked when opened, read in place.

A store is one folder for one way to compute signals (`Identity`); in it a row is known by the hash
of its tokens (`row_key`), so any split, order or subset of texts finds what is there, and a changed
text finds nothing. No padding is stored. What is not in the manifest, or does not match it, is
never read: it is computed again.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from layermix.atomic import LockedError, lock, whole_file, write_text
from layermix.core.signals import Needs
from layermix.errors import CacheError

FORMAT = 1
MANIFEST, PLAN, LOCK = "manifest.json", "plan.json", "lock"
SHARD_BYTES = 2**27
"""About how large a shard becomes: what is lost if one is damaged, or held while one is made."""
KEY_BYTES = 16
_DTYPES = {
    "U8": torch.uint8,
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
}


@dataclass(frozen=True)
class Identity:
    """What makes the numbers of a store.

    Attributes:
        teacher: The `fingerprint` of its weights.
        layers: Numbers of the blocks whose outputs are stored.
        embedding: Whether the embedding output is stored, too.
        width: Hidden size, D.
        classes: Number of logits, C.
        dtype: How hidden states are stored: float16, bfloat16 or float32 (logits always float32).
        precision: How they were computed: float32 or bfloat16.
    """

    teacher: str
    layers: tuple[int, ...]
    embedding: bool
    width: int
    classes: int
    dtype: str
    precision: str

    @property
    def name(self) -> str:
        """The folder's name."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def needs(self) -> Needs:
        """What a store of this kind can give."""
        return Needs(self.layers, self.embedding)

    @property
    def token_bytes(self) -> int:
        """What a token takes on disk."""
        return (len(self.layers) + self.embedding) * self.width * self.storage.itemsize

    @property
    def row_bytes(self) -> int:
        """What a row takes beside its tokens: key, number of tokens, logits."""
        return KEY_BYTES + 4 + 4 * self.classes

    @property
    def storage(self) -> torch.dtype:
        """`dtype` as torch names it."""
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found

    def serves(self, wanted: "Identity") -> bool:
        """Whether a store of this kind holds all that one of the other would."""
        same = asdict(self) | {"layers": wanted.layers, "embedding": wanted.embedding}
        return same == asdict(wanted) and not wanted.needs.missing_from(self.needs)


class Place(NamedTuple):
    """Where a row stands: shard and row in it, first token in the shard, number of tokens."""

    shard: int
    row: int
    start: int
    tokens: int


class Row(NamedTuple):
    """What is stored of a row: logits (C,); hidden (layers and embedding, T, D) in `storage`."""

    key: bytes
    logits: Tensor
    hidden: Tensor | None
    tokens: int


def row_key(columns: Sequence[Sequence[int]]) -> bytes:
    """The hash of a row's own inputs to the teacher, such as token ids and token types.

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
    """A folder of shards, opened: what is whole is mapped into memory, the rest is told and left.

    Args:
        folder: It need not be there yet; nothing is written before `filling`.
        identity: What its signals are made from.
        say: Is told of every shard that cannot be believed.
    """

    def __init__(self, folder: Path, identity: Identity, say: Callable[[str], None]) -> None:
        self.folder, self.identity, self.say = folder, identity, say
        self._load()

    def _load(self) -> None:
        self._seen, problem = read_manifest(self.folder)
        shards = dict(self._seen or {})
        if problem:
            self.say(f"{self.folder / MANIFEST}: {problem}; its signals are computed again")
        for name, wrong in damaged(self.folder, shards).items():
            rows = shards.pop(name)["rows"]
            self.say(f"{self.folder / name}: {wrong}; its {rows} rows are computed again")
        self.shards: dict[str, Any] = shards
        self._mapped: list[dict[str, Tensor]] = []
        self.places: dict[bytes, Place] = {}
        for name in shards:
            self._map(name)

    def _map(self, name: str) -> None:
        tensors = _mapped(self.folder / name)
        keys, counts = tensors["keys"].numpy().tobytes(), tensors["counts"].tolist()
        start = 0
        for row, tokens in enumerate(counts):
            key = keys[row * KEY_BYTES : (row + 1) * KEY_BYTES]
            self.places[key] = Place(len(self._mapped), row, start, tokens)
            start += tokens
        self._mapped.append(tensors)

    def __contains__(self, key: bytes) -> bool:
        return key in self.places

    def logits(self, place: Place) -> Tensor:
        """The logits of a row, (C,), float32."""
        return self._mapped[place.shard]["logits"][place.row]

    def hidden(self, place: Place) -> Tensor:
        """(S, T, D): block outputs in order, the embedding output last; a view of the file."""
        per_token = (len(self.identity.layers) + self.identity.embedding) * self.identity.width
        flat = self._mapped[place.shard]["hidden"]
        row = flat[place.start * per_token : (place.start + place.tokens) * per_token]
        return row.view(-1, place.tokens, self.identity.width)

    @property
    def bytes_on_disk(self) -> int:
        """Of all shards that are whole."""
        return sum(entry["bytes"] for entry in self.shards.values())

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Be the only one that writes; what another process has added meanwhile is read first.

        Raises:
            CacheError: If the folder cannot be made.
        """
        with ExitStack() as held:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                try:
                    held.enter_context(lock(self.folder / LOCK, wait=False))
                except LockedError:
                    self.say(f"{self.folder}: waiting for another process that fills this store")
                    held.enter_context(lock(self.folder / LOCK))
            except OSError as error:
                raise CacheError(
                    f"{self.folder}: cannot be written ({error.strerror}); choose another "
                    "--cache.folder, or --no-cache.use"
                ) from error
            if read_manifest(self.folder)[0] != self._seen:
                self._load()
            for file in self.folder.iterdir():
                if file.name not in (MANIFEST, PLAN, LOCK, *self.shards):
                    file.unlink()  # incomplete or damaged
            yield

    def left_plan(self) -> list[list[bytes]]:
        """The batches of keys that a process meant to fill in when it was stopped; else none."""
        try:
            plan = json.loads((self.folder / PLAN).read_text(encoding="utf-8"))
            return [[bytes.fromhex(key) for key in batch] for batch in plan]
        except (OSError, ValueError, TypeError):
            return []

    def leave_plan(self, batches: Sequence[Sequence[bytes]]) -> None:
        """Note the batches to come, so that after a stop they are made up in the same way.

        What a row's signals are depends, in the last bits, on the rows beside it.
        """
        plan = [[key.hex() for key in batch] for batch in batches]
        with self._writing(len(plan)):
            write_text(self.folder / PLAN, json.dumps(plan))

    def drop_plan(self) -> None:
        """Everything is there."""
        (self.folder / PLAN).unlink(missing_ok=True)

    def add(self, rows: Sequence[Row]) -> None:
        """Write rows as a shard, whole or not at all; call it within `filling`.

        Raises:
            CacheError: If it cannot be written, as when the disk is full.
        """
        keys = b"".join(row.key for row in rows)
        tensors = {
            "keys": torch.frombuffer(bytearray(keys), dtype=torch.uint8).view(-1, KEY_BYTES),
            "counts": torch.tensor([row.tokens for row in rows], dtype=torch.int32),
            "logits": torch.stack([row.logits for row in rows]).float(),
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
            entry = {
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "rows": len(rows),
                "tokens": sum(row.tokens for row in rows),
                "written": _stamp(self.folder / name),
            }
            self._write_manifest({**self.shards, name: entry})
        self.shards[name] = entry
        self._map(name)

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

    def _write_manifest(self, shards: dict[str, Any]) -> None:
        manifest = {"format": FORMAT, "identity": asdict(self.identity), "shards": shards}
        write_text(self.folder / MANIFEST, json.dumps(manifest, indent=1))
        self._seen = shards

    def used(self) -> None:
        """Note that a run reads it, for `cache prune`; a read-only store stays as it is."""
        with suppress(OSError):
            os.utime(self.folder / LOCK)

    def renew_stamps(self) -> None:
        """Note when the shards were last written, after they have been checked in full.

        To be called while no other process fills the store.
        """
        for name, entry in self.shards.items():
            entry["written"] = _stamp(self.folder / name)
        self._write_manifest(self.shards)


def read_manifest(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The shards that a folder should hold, and what is wrong with its manifest, if anything."""
    file = folder / MANIFEST
    if not file.is_file():
        strays = list(folder.glob("*.safetensors")) if folder.is_dir() else []
        return None, f"it is gone, and {len(strays)} shards with it" if strays else ""
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT and isinstance(manifest["shards"], dict)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        return None, "it cannot be read"
    return manifest["shards"], ""


def identity_of(folder: Path) -> Identity | None:
    """What a store is made from; None if it cannot be known."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["identity"]
        return Identity(**found | {"layers": tuple(found["layers"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def damaged(folder: Path, shards: dict[str, Any], *, full: bool = False) -> dict[str, str]:
    """What is wrong with the shards, by name.

    A shard that has not been written to since its checksum was taken is believed, unless `full`.
    """

    def check(name: str) -> str:
        file, entry = folder / name, shards[name]
        if not file.is_file():
            return "it is gone"
        if (size := file.stat().st_size) != entry["bytes"]:
            return f"found {size:,} bytes, wanted {entry['bytes']:,}"
        if full or _stamp(file) != entry["written"]:
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != entry["sha256"]:
                    return "its content has changed (wrong checksum)"
        return ""

    with ThreadPoolExecutor() as pool:  # hashing and reading release the interpreter lock
        found = dict(zip(shards, pool.map(check, shards), strict=True))
    return {name: wrong for name, wrong in found.items() if wrong}


def free_bytes(folder: Path) -> int:
    """Free space where a folder is, or would be made."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def _mapped(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: pages are read when they are used, and stay the file's.

    safetensors itself maps files so that they could be written to, which a limit on a process's
    memory counts in full.
    """
    content = np.memmap(file, mode="r")
    size = int.from_bytes(content[:8].tobytes(), "little")
    found = {}
    for name, entry in json.loads(content[8 : 8 + size].tobytes()).items():
        first, last = entry["data_offsets"]
        part = content[8 + size + first : 8 + size + last]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")  # nobody writes
            flat = torch.frombuffer(part, dtype=_DTYPES[entry["dtype"]])
        found[name] = flat.view(entry["shape"])
    return found


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_mtime_ns, status.st_ino]
