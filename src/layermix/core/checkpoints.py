"""Checkpoints that can be trusted: each holds the sizes and hashes of its files, written last.

A resumed run believes the newest checkpoint whose files are all as they were written. So a file
that is missing, cut off, zeroed or changed costs some steps, never a wrong result.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, NonNegativeInt
from safetensors.torch import load_file

from layermix.atomic import sync, write_text
from layermix.errors import Note, ResumeError

PREFIX = "checkpoint-"
"""Begins the name of a checkpoint; its step ends it. transformers has the same."""

CHECKSUMS = "checksums.json"
"""The file of a checkpoint that holds the sizes and hashes of the others."""

WEIGHTS, STATE = "model.safetensors", "trainer_state.json"
NEEDED = (WEIGHTS, STATE, "optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Files without which a run does not go on as it was."""


class Digest(BaseModel):
    """The size of a file and the sha256 of so many bytes of it."""

    bytes: NonNegativeInt
    sha256: str


class Checksums(BaseModel):
    """checksums.json.

    Attributes:
        files: All other files of the checkpoint.
        beside: Files outside of it that a resumed run reads, by their path from the folder of
            checkpoints. They may have grown since.
        sha256: Of both, so that no entry can get lost unseen.
    """

    files: dict[str, Digest]
    beside: dict[str, Digest]
    sha256: str = ""

    def own_sha256(self) -> str:
        """What `sha256` is to be."""
        return hashlib.sha256(self.model_dump_json(exclude={"sha256"}).encode()).hexdigest()


def seal(checkpoint: Path, folder: Path, beside: Iterable[Path] = ()) -> None:
    """Writes the checksums of a checkpoint; files beside it are on the disk by then.

    Args:
        checkpoint: Complete, but for its checksums; it may have a temporary name.
        folder: Of all checkpoints.
        beside: Files outside of `folder` that a resumed run reads.
    """
    files = {file.name: _digest(file) for file in sorted(checkpoint.iterdir())}
    others = {}
    for file in beside:
        sync(file)
        seen = file.stat()
        name = Path(os.path.relpath(file, folder)).as_posix()
        others[name] = _digest_once(file, seen.st_ino, seen.st_mtime_ns, seen.st_size)
    known = Checksums(files=files, beside=others)
    known.sha256 = known.own_sha256()
    write_text(checkpoint / CHECKSUMS, known.model_dump_json(indent=2) + "\n")


def damage(checkpoint: Path) -> list[str]:
    """What is wrong with the files of a checkpoint, by their checksums; empty if it is whole."""
    try:
        text = (checkpoint / CHECKSUMS).read_text(encoding="utf-8")
        known = Checksums.model_validate_json(text)
        is_sound = known.sha256 == known.own_sha256()
    except (OSError, ValueError):
        is_sound = False
    if not is_sound:
        return [f"{CHECKSUMS} is missing or damaged"]
    there = {file.name for file in checkpoint.iterdir()} - {CHECKSUMS}
    return [
        *(f"{name} does not belong there" for name in sorted(there - known.files.keys())),
        *_changed(checkpoint, known.files, may_grow=False),
        *_changed(checkpoint.parent, known.beside, may_grow=True),
    ]


def damage_without_checksums(checkpoint: Path) -> list[str]:
    """What is wrong with a checkpoint of an older version, as far as it shows without checksums."""
    problems = [f"{name} is missing" for name in NEEDED if not (checkpoint / name).is_file()]
    if problems:
        return problems
    for name in NEEDED:
        try:
            sound = _is_sound(checkpoint / name)
        except Exception:  # each library has its own for what it cannot read
            sound = False
        if not sound:
            problems.append(f"{name} is damaged")
    return problems


def _is_sound(file: Path) -> bool:
    """Whether the content of a checkpoint's file can be what a run writes."""
    if file.name == STATE:
        step = json.loads(file.read_text(encoding="utf-8"))["global_step"]
        return file.parent.name.endswith(f"-{step}")
    if file.name == WEIGHTS:
        weights = load_file(file).values()
        return all(bool(one.isfinite().all()) for one in weights) and any(
            bool(one.any()) for one in weights
        )
    with zipfile.ZipFile(file) as parts:  # torch.save writes a checksum for each
        return parts.testzip() is None


def newest_whole(folder: Path, *, has_checksums: bool) -> tuple[Path | None, list[Note]]:
    """The newest whole checkpoint, None if there are no checkpoints; and notes on what it costs.

    Args:
        folder: Of checkpoints; need not exist.
        has_checksums: Whether the version that began the run writes checksums. Otherwise a
            checkpoint without them is believed if nothing is wrong with it.

    Raises:
        ResumeError: If there are checkpoints, but none is whole.
    """
    damaged = []
    for checkpoint in reversed(checkpoints_in(folder).values()):
        is_older = not has_checksums and not (checkpoint / CHECKSUMS).exists()
        problems = damage_without_checksums(checkpoint) if is_older else damage(checkpoint)
        if problems:
            damaged.append(f"{checkpoint}: {'; '.join(problems)}")
            continue
        notes = []
        if damaged:
            text = f"damaged checkpoints are not used: {'; '.join(damaged)}"
            notes.append(Note("checkpoint-damaged", f"{text}. Resuming from {checkpoint.name}"))
        if is_older:
            text = (
                f"{checkpoint} is from an older version without checksums: its files can be read, "
                "but layermix cannot check that their numbers are unchanged"
            )
            notes.append(Note("checkpoint-without-checksums", text))
        return checkpoint, notes
    if damaged:
        raise ResumeError(
            "\n".join(
                [
                    f"{folder.parent}: the run cannot be resumed: no checkpoint is whole:",
                    *(f"  {line}" for line in damaged),
                    "Start over with --restart, or, in a study, by removing that folder.",
                ]
            )
        )
    return None, []


def checkpoints_in(folder: Path) -> dict[int, Path]:
    """Step -> checkpoint, from the oldest to the newest; the folder need not exist."""
    found = folder.glob(f"{PREFIX}*")
    steps = {one.name.removeprefix(PREFIX): one for one in found if one.is_dir()}
    return {int(step): steps[step] for step in sorted(filter(str.isdecimal, steps), key=int)}


def processes_of(checkpoint: Path) -> int:
    """How many processes trained the run that wrote a checkpoint."""
    return max(1, len(list(checkpoint.glob("rng_state_*.pth"))))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, or None."""
    return next(reversed(checkpoints_in(folder).values()), None)


def _changed(folder: Path, known: Mapping[str, Digest], *, may_grow: bool) -> list[str]:
    """Files that are missing, or not as they were."""
    problems = []
    for name, digest in known.items():
        file = folder / name
        if file.is_symlink() or not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size < digest.bytes or (
            not may_grow and file.stat().st_size > digest.bytes
        ):
            found = f"{file.stat().st_size:,} bytes, wanted {digest.bytes:,}"
            problems.append(f"{name} has {found}")
        elif _digest(file, digest.bytes) != digest:
            problems.append(f"{name} is not as it was written")
    return problems


@lru_cache(maxsize=1000)
def _digest_once(file: Path, inode: int, changed: int, size: int) -> Digest:
    """The digest of a file; computed once, as long as nobody writes it."""
    return _digest(file, size)


def _digest(file: Path, size: int | None = None) -> Digest:
    """The digest of a file, or of its first bytes."""
    digest, left = hashlib.sha256(), file.stat().st_size if size is None else size
    whole = left
    with file.open("rb") as stream:
        while left and (block := stream.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return Digest(bytes=whole - left, sha256=digest.hexdigest())
