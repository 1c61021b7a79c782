"""What a store holds: the schema of its manifest, and the names of the files that layermix makes.

A manifest is read through the schema, so that nothing in a file from elsewhere can name a path or
another size than a store has. Whatever does not fit the schema is one problem, in one line.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from layermix.config import describe_problems
from layermix.core.signals import Needs

FORMAT = 2
"""Version of the layout of a store and of what its identity says; part of the store's name."""
MANIFEST, PLAN, LOCK = "manifest.json", "plan.json", "lock"
LARGEST = 2**24
"""Bytes of the largest manifest that is read: some 60,000 shards, or 8 TB of signals."""
KEY_BYTES = 16
_SHARD = r"[0-9a-f]{16}\.safetensors"
_WRITTEN = rf"(manifest\.json|plan\.json|{_SHARD})"
_OWN_FILE = re.compile(rf"{LOCK}|{_WRITTEN}|\.{_WRITTEN}\.writing")  # see `atomic.temporary_of`
_STORE = re.compile(r"[0-9a-f]{16}")
_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)

Count = Annotated[int, Field(ge=0, lt=2**48)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Dtype = Literal["float16", "bfloat16", "float32"]
Word = Annotated[str, Field(pattern="^[A-Za-z0-9._-]{1,64}$")]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Identity:
    """What decides the numbers of a store.

    Attributes:
        teacher: The `fingerprint` of its weights.
        layers: Numbers of the blocks whose outputs are stored.
        embedding: Whether the embedding output is stored, too.
        width: Hidden size, D.
        classes: Number of logits, C.
        dtype: How hidden states are stored: float16, bfloat16 or float32 (logits always float32).
        precision: How they were computed: float32 or bfloat16.
        setup: The `setup_fingerprint` of the teacher: whatever else decides what it computes.
        token_logits: Whether logits are stored of each token, not of each row.
        scored: Whether its rows are those that are scored, not those that are trained on.
    """

    teacher: Word
    layers: tuple[Count, ...]
    embedding: bool
    width: Count
    classes: Count
    dtype: Dtype
    precision: Literal["bfloat16", "float32"]
    setup: Word
    token_logits: bool = False
    scored: bool = False

    @property
    def name(self) -> str:
        """The folder's name."""
        fields = asdict(self)
        for name in ("token_logits", "scored"):
            if not fields[name]:  # as stores were named before there was this field
                del fields[name]
        text = json.dumps({"format": FORMAT, **fields}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def needs(self) -> Needs:
        """What a store of this identity provides."""
        return Needs(self.layers, self.embedding)

    def parts(self, needs: Needs) -> slice | list[int]:
        """Where the hidden states of `needs` are among those of a row: blocks, then embedding."""
        if (needs.layers, needs.embedding) == (self.layers, self.embedding):
            return slice(None)
        of_layers = [self.layers.index(layer) for layer in needs.layers]
        return [*of_layers, *[len(self.layers)] * needs.embedding]

    @property
    def token_values(self) -> int:
        """Numbers of hidden states per token."""
        return (len(self.layers) + self.embedding) * self.width

    @property
    def token_bytes(self) -> int:
        """Bytes of a token on disk."""
        return self.token_values * self.storage.itemsize + 4 * self.classes * self.token_logits

    @property
    def row_bytes(self) -> int:
        """Bytes of a row on disk beside its tokens: key, number of tokens, logits."""
        return KEY_BYTES + 4 + 4 * self.classes * (not self.token_logits)

    @property
    def storage(self) -> torch.dtype:
        """`dtype` as a torch dtype."""
        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    def serves(self, wanted: "Identity") -> bool:
        """Whether a store of this identity holds everything that one of `wanted` would hold."""
        same = asdict(self) | {"layers": wanted.layers, "embedding": wanted.embedding}
        return same == asdict(wanted) and not wanted.needs.missing_from(self.needs)


class Shard(BaseModel):
    """A shard as it was written.

    Attributes:
        bytes: Size of the file.
        sha256: Of its content.
        rows: Number of rows.
        tokens: Number of their tokens.
        written: Time of the last change in nanoseconds, and inode, when the checksum was taken.
    """

    model_config = _STRICT

    bytes: Count
    sha256: Sha256
    rows: Annotated[int, Field(ge=1, lt=2**48)]
    tokens: Count
    written: tuple[Annotated[int, Field(ge=-(2**63), lt=2**63)], Annotated[int, Field(lt=2**64)]]


class Manifest(BaseModel):
    """The file `manifest.json` of a store.

    Attributes:
        format: Version of the layout.
        identity: What the signals were computed from.
        shards: The complete shards, by file name.
    """

    model_config = _STRICT

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    identity: Identity
    shards: dict[Annotated[str, Field(pattern=f"^{_SHARD}$")], Shard]

    def as_json(self) -> str:
        """Returns its text, without `scored` where that is false: versions before read it, too."""
        without = None if self.identity.scored else {"identity": {"scored"}}
        return self.model_dump_json(indent=1, exclude=without)


def read_manifest(folder: Path) -> tuple[Manifest | None, str]:
    """Returns the manifest of a store, if it is valid, and what is wrong with it, if anything.

    A store without a manifest and without shards has no problem: its first filling was stopped.
    """
    file = folder / MANIFEST
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            return None, "found a link, folder or device, wanted a file"
        if status.st_size > LARGEST:
            return None, f"found {status.st_size:,} bytes, wanted at most {LARGEST:,}"
        return Manifest.model_validate_json(file.read_bytes()), ""
    except FileNotFoundError:
        shards = sum(path.suffix == ".safetensors" for path in own_files(folder))
        return None, f"it is missing, so {shards} shards cannot be used" if shards else ""
    except OSError as error:
        return None, f"it cannot be read ({error.strerror})"
    except ValidationError as error:
        return None, _first_problem(error)


def _first_problem(error: ValidationError) -> str:
    """One line of printable ASCII about a manifest that does not fit the schema."""
    problems = error.errors(include_url=False)
    for problem in problems:
        if problem["loc"] == ("format",) and isinstance(problem["input"], int):
            found = ascii_line(str(problem["input"]), 20)
            return f"found format {found}, wanted {FORMAT}: another version of layermix wrote it"
    reason = ascii_line(describe_problems(error, shown=1), 180)
    return f"it is not a manifest of layermix ({reason})"


def ascii_line(text: str, limit: int) -> str:
    r"""Returns a text from elsewhere with everything but ASCII escaped, cut to `limit` characters.

    Examples:
        >>> print(ascii_line("a" + chr(27) + "[31m" + "b" * 20, 12))
        a\x1b[31mbb…
    """
    escaped = ascii(text[: limit + 1])[1:-1]
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


_PLAN: TypeAdapter[list[list[bytes]]] = TypeAdapter(
    list[list[Annotated[bytes, Field(min_length=KEY_BYTES, max_length=KEY_BYTES)]]],
    config=ConfigDict(val_json_bytes="hex", ser_json_bytes="hex"),
)


def read_plan(folder: Path) -> list[list[bytes]]:
    """Returns the batches of row keys that a filling has planned; none without a valid plan."""
    file = folder / PLAN
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return []
        return _PLAN.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return []


def plan_json(batches: list[list[bytes]]) -> str:
    """Returns a plan as JSON text."""
    return _PLAN.dump_json(batches).decode("ascii")


# -- files and folders -----------------------------------------------------------------------------


def store_folders(root: Path) -> Iterator[Path]:
    """Yields the folders of stores in a cache folder, in order of their names; links are left out.

    A store's folder has a name that layermix makes, and a lock or a manifest in it.
    """
    try:
        folders = sorted(root.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for folder in folders:
        named = _STORE.fullmatch(folder.name) and not folder.is_symlink()
        if named and any(_is_file(folder / name) for name in (LOCK, MANIFEST)):
            yield folder


def own_files(folder: Path) -> list[Path]:
    """Returns the files in a store's folder that have a name of layermix's own, in order."""
    return [path for path in _entries(folder) if _OWN_FILE.fullmatch(path.name) and _is_file(path)]


def foreign_entries(folder: Path) -> list[Path]:
    """Returns what else is in a store's folder: other names, links, folders."""
    return [
        path
        for path in _entries(folder)
        if not (_OWN_FILE.fullmatch(path.name) and _is_file(path)) and os.path.lexists(path)
    ]


def file_size(file: Path) -> int:
    """Returns the size of a file in bytes; 0 if another process has just removed it."""
    try:
        return file.lstat().st_size
    except OSError:
        return 0


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # another process has just removed it, or it may not be read
        return []


def _is_file(path: Path) -> bool:
    """Whether this is a regular file; a link is none."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
