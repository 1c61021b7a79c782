"""A run's folder: built beside its final name, renamed when whole, resumable until then."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from layermix.errors import ConfigError, RunExistsError

CONFIG, RESULT, HISTORY, PREDICTIONS = (
    "config.yaml",
    "result.json",
    "history.jsonl",
    "predictions.parquet",
)


class RunFolder:
    """Where a run writes: `NAME.partial` while it works, `NAME` once it is finished.

    Args:
        final: The folder the user named.
        config: The resolved config as YAML; a resume must have the same.
        resume: Go on with an unfinished run if there is one.
        restart: Throw an unfinished run away.

    Raises:
        RunExistsError: If something is there already and neither resume nor restart was asked for.
        ConfigError: If the unfinished run has another config.
    """

    def __init__(
        self, final: Path, config: str, *, resume: bool = False, restart: bool = False
    ) -> None:
        self.final = final.absolute()
        self.work = self.final.with_name(f"{self.final.name}.partial")
        if self.final.exists():
            finished = (self.final / RESULT).is_file()
            raise RunExistsError(
                f"{final}: found {'a finished run' if finished else 'something else'} there, "
                "nothing is "
                "written over; choose another --out, or move it away"
            )
        if restart:
            shutil.rmtree(self.work, ignore_errors=True)
        old = self.work / CONFIG
        self.resumed = old.is_file()
        if self.resumed and not resume:
            raise RunExistsError(
                f"{self.work}: found an unfinished run; --resume goes on with it, --restart "
                "starts over"
            )
        if self.resumed and (changed := _differences(old.read_text(encoding="utf-8"), config)):
            raise ConfigError(
                f"{self.work}: the unfinished run has another config, so it cannot be resumed: "
                f"{'; '.join(changed)}. Give the same config, or --restart to start over"
            )
        self.work.mkdir(parents=True, exist_ok=True)
        write_text(old, config)

    @property
    def checkpoints(self) -> Path:
        """Resumable state, while the run is unfinished."""
        return self.work / "checkpoints"

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write one JSON file whole or not at all."""
        write_text(self.work / name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """Drop the resumable state and give the folder its final name."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.work.rename(self.final)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _differences(old: str, new: str) -> list[str]:
    """What differs between two YAML configs, as `field: was x, is y`."""
    before, after = _flat(yaml.safe_load(old)), _flat(yaml.safe_load(new))
    return [
        f"{name}: was {before.get(name)}, is {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {
        key: v
        for name, child in value.items()
        for key, v in _flat(child, f"{prefix}{name}.").items()
    }
