"""A run's folder: it has a working name, `NAME.partial`, until it is complete; then `NAME`."""

import shutil
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import yaml

from layermix.atomic import LockedError, is_locked, lock, sync, temporary_of, write_text
from layermix.config import read_yaml
from layermix.errors import ConfigError, RunExistsError

CONFIG, RESULT, HISTORY, ALPHA, PREDICTIONS, ENVIRONMENT, TEXTS = (
    "config.yaml",
    "result.json",
    "history.jsonl",
    "alpha.jsonl",
    "predictions.parquet",
    "environment.json",
    "texts.parquet",
)

OWN = "# own"
"""Begins the lines of a config.yaml that name objects of the caller's own."""

CARD, EXPORT, BENCH = "README.md", "onnx/export.json", "bench.json"
"""Model card and record of an export, in a model's folder; measured speeds, in a run's folder."""

SCRATCH = CHECKPOINTS, EPOCHS, ROWS = "checkpoints", "epochs", "rows"
"""Folders that an unfinished run needs to resume; removed when it is finished."""

START = "start.json"
"""What an unfinished run was begun with; removed when it is finished."""

LOCK = ".lock"
"""The lock file in a working folder, held by the process that works there."""

PARTIAL = ".partial"
"""Suffix of a run's folder until it is complete."""

DISCARDED = ".discarded"
"""Suffix of folders that are being removed."""

BEGUN = {temporary_of(Path(CONFIG)).name, LOCK}
"""Files that a run killed in `begin` may leave."""


class RunFolder:
    """The folder that a run writes: `NAME.partial` while it works, `NAME` once it is finished.

    Nothing is created or removed before `begin`, so a run that fails while it loads its models and
    data leaves nothing behind.

    Args:
        final: The folder the user named.
        config: The resolved config as YAML; a resumed run must have the same.
        resume: Resume an unfinished run if there is one.
        restart: Discard an unfinished run.

    Raises:
        RunExistsError: If the folder exists, if an unfinished run exists and neither `resume` nor
            `restart` is set, or if another process works there.
        ConfigError: If the unfinished run has another config.
    """

    def __init__(
        self, final: Path, config: str, *, resume: bool = False, restart: bool = False
    ) -> None:
        if resume and restart:
            raise ConfigError("--resume and --restart contradict each other; give one of them")
        self.final = final.absolute()
        self._config = config
        self.restart = restart
        self.work = self.final.with_name(f"{self.final.name}{PARTIAL}")
        self._lock = ExitStack()
        self._check_final()
        if not self.work.exists():
            return
        if is_busy(self.final):
            raise self._busy()
        old = self.work / CONFIG
        if not old.is_file():
            if self.work.is_dir() and {file.name for file in self.work.iterdir()} <= BEGUN:
                return
            raise RunExistsError(
                f"The run would be built in {self.work}, but this holds something other than an "
                "unfinished run. Choose another --out, or move it elsewhere."
            )
        if not (resume or restart):
            raise RunExistsError(
                f"The folder {self.work} holds an unfinished run. Give --resume to continue it, "
                "or --restart to discard it and start over."
            )
        if not resume:
            return
        try:
            before, _ = read_yaml(old)
        except ConfigError as error:
            raise ConfigError(
                f"The unfinished run in {self.work} cannot be resumed. Give --restart to start "
                f"over.\n{error}"
            ) from None
        before |= _own(old.read_text(encoding="utf-8"))
        if changed := _differences(before, yaml.safe_load(config) | _own(config)):
            raise ConfigError(
                f"{self.work}: the unfinished run has another config, so it cannot be resumed: "
                f"{'; '.join(changed)}. Give the same config, or --restart to start over"
            )

    def _check_final(self) -> None:
        if self.final.exists():
            finished = (self.final / RESULT).is_file()
            unlocked(self.final)
            raise RunExistsError(
                f"{self.final} already {'holds a finished run' if finished else 'exists'}, and "
                "layermix does not overwrite it. Choose another --out, or move it elsewhere."
            )

    def begin(self) -> None:
        """Creates the working folder with the config in it, and locks it.

        Raises:
            RunExistsError: If another process has started or finished there in the meantime.
        """
        self._check_final()
        self.work.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.enter_context(lock(self.work / LOCK, wait=False))
        except LockedError:
            raise self._busy() from None
        self._drop_discarded()
        if self.restart:
            for old in sorted(self.work.iterdir(), key=Path.is_file):  # first the checkpoints
                if old.is_dir():
                    self._discard(old)
                elif old.name not in (LOCK, CONFIG):  # the config marks it as a run
                    old.unlink()
        write_text(self.work / CONFIG, self._config)

    def _discard(self, folder: Path) -> None:
        """Removes a folder; renames it first, since a kill must not leave half a checkpoint."""
        if folder.is_dir():
            folder.rename(folder.with_name(f".{folder.name}{DISCARDED}"))
            self._drop_discarded()

    def _drop_discarded(self) -> None:
        for old in self.work.glob(f".*{DISCARDED}"):
            shutil.rmtree(old)

    def leave(self) -> None:
        """Releases the lock, so that another process can resume the run."""
        self._lock.close()

    def _busy(self) -> RunExistsError:
        return RunExistsError(
            f"Another process is working on this run, in {self.work}. Wait until it has finished, "
            "or stop it."
        )

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints, while the run is unfinished."""
        return self.work / CHECKPOINTS

    def write(self, name: str, text: str) -> None:
        """Write one file of the run, whole or not at all."""
        write_text(self.work / name, text)

    def finish(self) -> None:
        """Removes what only an unfinished run needs and gives the folder its final name.

        The results are on the disk before the checkpoints are removed. A run that is killed in
        between has a result and no checkpoints; calling this again finishes it.

        Raises:
            RunExistsError: If the final name exists by now; the run keeps its working name.
        """
        self._check_final()
        sync(self.work)
        for name in SCRATCH:
            self._discard(self.work / name)
        (self.work / START).unlink(missing_ok=True)
        if sys.platform == "win32":  # it renames no folder with an open file in it
            self._lock.close()
        self.work.rename(self.final)
        self._lock.close()
        (self.final / LOCK).unlink(missing_ok=True)
        sync(self.final.parent, deep=False)

    @property
    def only_lacks_its_name(self) -> bool:
        """Whether a run was killed in `finish`, after its checkpoints were removed."""
        return (self.work / RESULT).is_file() and not self.checkpoints.exists()


def is_busy(final: Path) -> bool:
    """Whether a process works on the unfinished run of a folder."""
    return is_locked(final.with_name(f"{final.name}{PARTIAL}") / LOCK)


def unlocked(final: Path) -> None:
    """Removes the lock file of a finished run whose process was killed before it did so."""
    with suppress(OSError):
        (final / LOCK).unlink(missing_ok=True)


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The differences between two configs, as `field: was x, is y`."""
    before, after = _flat(old), _flat(new)
    return [
        f"{name}: was {before.get(name)}, is {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _own(text: str) -> dict[str, Any]:
    """The caller's own objects that a config names."""
    lines = [line.removeprefix(OWN).strip() for line in text.splitlines() if line.startswith(OWN)]
    return {"objects of your own": lines or "none"}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {
        key: v
        for name, child in value.items()
        for key, v in _flat(child, f"{prefix}{name}.").items()
    }
