"""What is in the cache of teacher signals: list it, check it, make room."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layermix.atomic import LockedError, lock
from layermix.teacher_cache.store import (
    LOCK,
    MANIFEST,
    Identity,
    SignalStore,
    damaged,
    identity_of,
    read_manifest,
)

DAY = 24 * 3600


@dataclass(frozen=True)
class Found:
    """A store as it stands on disk.

    Attributes:
        folder: Where.
        identity: What it is made from; None if its manifest cannot be read.
        rows: Rows that its manifest names.
        bytes_on_disk: Of all its files.
        idle_days: Since it was last opened by a run.
    """

    folder: Path
    identity: Identity | None
    rows: int
    bytes_on_disk: int
    idle_days: float

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        made = self.identity
        return {
            "folder": str(self.folder),
            "teacher": made and made.teacher,
            "layers": made and list(made.layers),
            "embedding": made and made.embedding,
            "dtype": made and made.dtype,
            "precision": made and made.precision,
            "rows": self.rows,
            "bytes": self.bytes_on_disk,
            "idle_days": round(self.idle_days, 2),
        }


def stores(root: Path) -> Iterator[Found]:
    """All stores below a folder; other things in it are left alone."""
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        lock_file = folder / LOCK
        if not lock_file.is_file():
            continue
        shards, _ = read_manifest(folder)
        files = [file.stat() for file in folder.iterdir()]
        yield Found(
            folder,
            identity_of(folder),
            sum(entry["rows"] for entry in (shards or {}).values()),
            sum(status.st_size for status in files),
            max(0.0, time.time() - lock_file.stat().st_mtime) / DAY,
        )


def stores_text(found: list[Found], root: Path) -> str:
    """The stores as a table for people."""
    if not found:
        return f"no teacher signals in {root}"
    lines = [
        f"{'store':<18}{'teacher':<14}{'layers':<22}{'stored as':<11}{'computed in':<13}"
        f"{'rows':>10}{'size':>12}{'last used':>16}"
    ]
    for one in found:
        made = one.identity
        if made is None:
            told = f"{'its manifest cannot be read':<60}"
        else:
            layers = ",".join(map(str, made.layers)) + (" + embedding" if made.embedding else "")
            told = f"{made.teacher[:12]:<14}{layers or 'logits only':<22}{made.dtype:<11}"
            told += f"{made.precision:<13}"
        lines.append(
            f"{one.folder.name:<18}{told}{one.rows:>10,}{one.bytes_on_disk / 1e6:>9,.1f} MB"
            f"{one.idle_days:>7.1f} days ago"
        )
    total = sum(one.bytes_on_disk for one in found)
    return "\n".join([*lines, f"{len(found)} store(s), {total / 1e9:.2f} GB in {root}"])


def verify(folder: Path) -> dict[str, str]:
    """Compare every byte of a store with its checksums; what is wrong, by file.

    The damaged shards are dropped, so that the next run computes their rows again. A store that is
    being filled is not checked, and that is told.
    """
    try:
        with lock(folder / LOCK, wait=False):
            return _verified(folder)
    except LockedError:
        return {LOCK: "a process is filling this store, so it was not checked; try again later"}


def _verified(folder: Path) -> dict[str, str]:
    shards, problem = read_manifest(folder)
    if shards is None:  # without a problem it was stopped before its first shard
        return {MANIFEST: problem} if problem else {}
    if (identity := identity_of(folder)) is None:
        return {MANIFEST: "it does not say what the store is made from"}
    wrong = damaged(folder, shards, full=True)
    for name in wrong:
        (folder / name).unlink(missing_ok=True)
    SignalStore(folder, identity, lambda _: None).renew_stamps()
    return wrong


def prune(root: Path, days: float) -> tuple[list[Found], list[Found]]:
    """Remove the stores that no run has opened for so many days.

    Returns:
        What was removed, and what would have been but is being filled.
    """
    removed, busy = [], []
    for one in stores(root):
        if one.idle_days < days:
            continue
        try:
            with lock(one.folder / LOCK, wait=False):
                shutil.rmtree(one.folder)
            removed.append(one)
        except LockedError:
            busy.append(one)
    return removed, busy
