"""Lists, checks and prunes the stores of a cache folder.

Only folders that `manifest.store_folders` yields are stores, and only files of layermix's own are
removed from them. Another process may fill or prune the same stores at any moment.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layermix.atomic import LockedError, lock
from layermix.teacher_cache.manifest import (
    LOCK,
    MANIFEST,
    Identity,
    ascii_line,
    file_size,
    foreign_entries,
    own_files,
    read_manifest,
    store_folders,
)
from layermix.teacher_cache.store import MISMATCH, SignalStore, damaged

DAY = 24 * 3600


@dataclass(frozen=True)
class StoreInfo:
    """A store on disk.

    Attributes:
        folder: Its folder.
        identity: What it is computed from; None if there is no valid manifest.
        problem: What is wrong with its manifest; empty if nothing is.
        rows: Number of rows in its manifest.
        bytes_on_disk: Size of layermix's own files in it.
        idle_days: Days since a run last opened it.
    """

    folder: Path
    identity: Identity | None
    problem: str
    rows: int
    bytes_on_disk: int
    idle_days: float

    def as_record(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        identity = self.identity
        return {
            "folder": str(self.folder),
            "teacher": identity and identity.teacher,
            "setup": identity and identity.setup,
            "layers": identity and list(identity.layers),
            "embedding": identity and identity.embedding,
            "dtype": identity and identity.dtype,
            "precision": identity and identity.precision,
            "scored": identity and identity.scored,
            "rows": self.rows,
            "bytes": self.bytes_on_disk,
            "idle_days": round(self.idle_days, 2),
            "problem": self.problem or None,
        }


def stores(root: Path) -> Iterator[StoreInfo]:
    """Yields all stores in a cache folder; other things in it are left out."""
    for folder in store_folders(root):
        manifest, problem = read_manifest(folder)
        if manifest is not None and (name := manifest.identity.name) != folder.name:
            manifest, problem = None, f"it belongs to the store {name}"
        yield StoreInfo(
            folder,
            None if manifest is None else manifest.identity,
            problem,
            0 if manifest is None else sum(shard.rows for shard in manifest.shards.values()),
            sum(file_size(file) for file in own_files(folder)),
            _idle_days(folder),
        )


def _idle_days(folder: Path) -> float:
    """Days since a run last opened a store; 0 if another process has just removed it."""
    for name in (LOCK, MANIFEST):
        with suppress(OSError):
            return max(0.0, time.time() - (folder / name).lstat().st_mtime) / DAY
    return 0.0


def stores_text(listed: list[StoreInfo], root: Path) -> str:
    """Returns the stores as a table for people."""
    if not listed:
        return f"no teacher signals in {root}"
    lines = [
        f"{'store':<18}{'teacher':<14}{'layers':<22}{'stored as':<11}{'computed in':<13}"
        f"{'rows':>10}{'size':>12}{'last used':>16}"
    ]
    for store in listed:
        identity = store.identity
        if identity is None:
            columns = f"{'unusable, see below' if store.problem else 'empty':<60}"
        else:
            layers = ",".join(map(str, identity.layers))
            layers += " + embedding" if identity.embedding else ""
            layers = layers or ("logits, scored rows" if identity.scored else "logits only")
            columns = f"{identity.teacher[:12]:<14}{layers:<22}"
            columns += f"{identity.dtype:<11}{identity.precision:<13}"
        lines.append(
            f"{store.folder.name:<18}{columns}{store.rows:>10,}{store.bytes_on_disk / 1e6:>9,.1f} "
            f"MB{store.idle_days:>7.1f} days ago"
        )
    total = sum(store.bytes_on_disk for store in listed)
    lines.append(f"{len(listed)} store(s), {total / 1e9:.2f} GB in {root}")
    problems = [store for store in listed if store.problem]
    lines += [f"{store.folder / MANIFEST}: {store.problem}" for store in problems]
    if problems:
        lines.append("No run reads an unusable store; `layermix cache prune` deletes it in time.")
    return "\n".join(lines)


def verify(store: StoreInfo) -> dict[str, str]:
    """Compares every byte of a store with its checksums; returns what is wrong, by file.

    Deletes damaged shards, so that the next run computes their rows again. Does not check a store
    that is being filled, and reports that.
    """
    folder, identity = store.folder, store.identity
    if not folder.is_dir():  # another process has just pruned it; a lock would make it again
        return {}
    try:
        with lock(folder / LOCK, wait=False):
            manifest, problem = read_manifest(folder)
            if manifest is None or identity is None:
                problem = problem or store.problem
                return {MANIFEST: problem} if problem else {}
            problems = damaged(folder, manifest.shards, full=True)
            opened = SignalStore(folder, identity, lambda _: None)
            for name in manifest.shards.keys() - opened.shards.keys():
                problems.setdefault(name, MISMATCH)
            for name in problems:
                (folder / name).unlink(missing_ok=True)
                opened.shards.pop(name, None)
            opened.renew_stamps()
            return problems
    except LockedError:
        return {LOCK: "a process is filling this store, so it was not checked; try again later"}
    except OSError as error:
        return {error.filename or MANIFEST: f"the store cannot be checked ({error.strerror})"}


@dataclass
class Pruned:
    """What `prune` did.

    Attributes:
        removed: Stores that were removed.
        busy: Stores that were kept because a process fills them.
        kept: What is left in a store's folder and why, by path.
    """

    removed: list[StoreInfo] = field(default_factory=list)
    busy: list[StoreInfo] = field(default_factory=list)
    kept: dict[Path, str] = field(default_factory=dict)


def prune(root: Path, days: float) -> Pruned:
    """Removes the stores that no run has opened for so many days, and only layermix's own files."""
    pruned = Pruned()
    for store in stores(root):
        if store.idle_days < days or not store.folder.is_dir():  # or another process was faster
            continue
        try:
            with lock(store.folder / LOCK, wait=False):
                if _idle_days(store.folder) < days:  # a run has opened it since it was listed
                    continue
                _remove(store.folder)
        except LockedError:
            pruned.busy.append(store)
            continue
        except OSError as error:
            pruned.kept[store.folder] = f"it cannot be removed ({error.strerror})"
            continue
        pruned.removed.append(store)
        if strangers := foreign_entries(store.folder):
            names = ", ".join(ascii_line(path.name, 60) for path in strangers[:3])
            more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
            pruned.kept[store.folder] = f"it holds files that layermix did not make: {names}{more}"
    return pruned


def _remove(folder: Path) -> None:
    """Removes layermix's own files, and the folder if nothing else is in it.

    The manifest goes first and the lock last: if this is stopped, the rest is still a store.
    """
    order = {MANIFEST: 0, LOCK: 2}
    for file in sorted(own_files(folder), key=lambda file: order.get(file.name, 1)):
        file.unlink(missing_ok=True)
    with suppress(OSError):  # not empty: other files, or another process has begun to fill it
        folder.rmdir()
