"""A run's folder: built beside its final name, renamed when whole, resumable until then."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from layermix.atomic import write_text
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
"""The model card and what an export tells, in a model's folder; the speeds, in a run's folder."""

SCRATCH = CHECKPOINTS, EPOCHS = "checkpoints", "epochs"
"""Folders that an unfinished run needs to go on."""

LOCK = ".lock"
"""Held in a working folder by the process that works there."""

DISCARDED = ".discarded"
"""The end of the names of folders that are being removed."""

BEGUN = {f".{CONFIG}.writing", LOCK}
"""What a run that was killed in `begin` may leave."""


class RunFolder:
    """Where a run writes: `NAME.partial` while it works, `NAME` once it is finished.

    Nothing is made, and nothing thrown away, before `begin`: a run that fails while it loads its
    models and data leaves no trace.

    Args:
        final: The folder the user named.
        config: The resolved config as YAML; a resume must have the same.
        resume: Go on with an unfinished run if there is one.
        restart: Throw an unfinished run away.

    Raises:
        RunExistsError: If something is there already and neither resume nor restart was asked for,
            or another process works there.
        ConfigError: If the unfinished run has another config.
    """

    def __init__(
        self, final: Path, config: str, *, resume: bool = False, restart: bool = False
    ) -> None:
        if resume and restart:
            raise ConfigError("--resume and --restart contradict each other; give one of them")
        self.final = final.absolute()
        self._config = config
        self._restart = restart
        self.work = self.final.with_name(f"{self.final.name}.partial")
        self._lock = FileLock(self.work / LOCK)
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
                f"{self.work}: found something that is not an unfinished run where one would "
                "be built; choose another --out, or move it away"
            )
        if not (resume or restart):
            raise RunExistsError(
                f"{self.work}: found an unfinished run; --resume goes on with it, --restart "
                "starts over"
            )
        if resume and (changed := _differences(old.read_text(encoding="utf-8"), config)):
            raise ConfigError(
                f"{self.work}: the unfinished run has another config, so it cannot be resumed: "
                f"{'; '.join(changed)}. Give the same config, or --restart to start over"
            )

    def _check_final(self) -> None:
        if self.final.exists():
            finished = (self.final / RESULT).is_file()
            raise RunExistsError(
                f"{self.final}: found {'a finished run' if finished else 'something else'} there; "
                "nothing is written over, so choose another --out, or move it away"
            )

    def begin(self) -> None:
        """Make the working folder, with the config in it, and keep other processes out.

        Raises:
            RunExistsError: If another process has begun there since.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise self._busy() from None
        self._drop_discarded()
        if self._restart:
            for old in list(self.work.iterdir()):
                if old.is_dir():  # renamed first: a kill must not leave half a checkpoint
                    old.rename(old.with_name(f".{old.name}{DISCARDED}"))
                elif old.name not in (LOCK, CONFIG):  # by its config it is known as a run
                    old.unlink()
        self._drop_discarded()
        (self.work / RESULT).unlink(missing_ok=True)  # it says how an earlier attempt ended
        write_text(self.work / CONFIG, self._config)

    def _drop_discarded(self) -> None:
        for old in self.work.glob(f".*{DISCARDED}"):
            shutil.rmtree(old)

    def leave(self) -> None:
        """Let others go on with an unfinished run."""
        self._lock.release()

    def _busy(self) -> RunExistsError:
        return RunExistsError(
            f"{self.work}: another process works on this run; wait for it, or stop it"
        )

    @property
    def checkpoints(self) -> Path:
        """Resumable state, while the run is unfinished."""
        return self.work / CHECKPOINTS

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write one JSON file whole or not at all."""
        write_text(self.work / name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """Give the folder its final name, then drop what was only needed until then.

        Raises:
            RunExistsError: If something has been put there since; the run keeps its working name.
        """
        self._check_final()
        if sys.platform == "win32":  # which renames no folder in which a file is open
            self._lock.release()
        self.work.rename(self.final)
        self._lock.release()
        (self.final / LOCK).unlink(missing_ok=True)
        for name in SCRATCH:
            shutil.rmtree(self.final / name, ignore_errors=True)


def is_busy(final: Path) -> bool:
    """Whether a process works on the unfinished run of a folder."""
    lock = final.with_name(f"{final.name}.partial") / LOCK
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _differences(old: str, new: str) -> list[str]:
    """What differs between two YAML configs, as `field: was x, is y`."""
    before, after = (_flat(yaml.safe_load(text)) | _own(text) for text in (old, new))
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
