"""The environment of a run: versions, code and machine."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from layermix.hardware.device import processor_name
from layermix.launch import world_size
from layermix.runs.schema import FORMAT, EnvironmentRecord


def environment(seed: int) -> EnvironmentRecord:
    """The versions, code and machine of this process."""
    packages = (
        "layermix",
        "transformers",
        "accelerate",
        "datasets",
        "tokenizers",
        "numpy",
    )
    return EnvironmentRecord(
        format=FORMAT,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        python=sys.version.split()[0],
        # torch's own version names the build, such as +cpu or +cu130; its package's may not.
        packages={"torch": str(torch.__version__), **{name: version(name) for name in packages}},
        commit=_commit(),
        platform=platform.platform(),
        processor=processor_name(),
        threads=torch.get_num_threads(),
        processes=world_size(),
        seed=seed,
    )


def _commit() -> str | None:
    """The commit of layermix's own source tree, with `+` if it was changed; None if installed."""
    here = Path(__file__).parents[1]
    try:
        git = ["git", "-C", str(here)]
        inside = subprocess.run(
            [*git, "ls-files", "--error-unmatch", __file__], capture_output=True
        )
        if inside.returncode:
            return None
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
