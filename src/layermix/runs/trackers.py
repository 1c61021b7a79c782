"""Experiment trackers, as users of `transformers.Trainer` know them: logs go there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from layermix.config import Tracker
from layermix.errors import ConfigError

TENSORBOARD = "tensorboard"
"""The tracker's name, and the folder of its files in a run folder."""


def check_trackers(names: Sequence[Tracker]) -> None:
    """Before the work: every tracker is installed.

    Raises:
        ConfigError: If one is not.
    """
    for name in names:
        kind: Any = INTEGRATION_TO_CALLBACK[name]
        try:
            kind()
        except (RuntimeError, ImportError):
            raise ConfigError(
                f"training.report_to names {name}, which is not installed; pip install {name}, or "
                "leave it out"
            ) from None


def trackers(names: Sequence[Tracker], folder: Path) -> list[TrainerCallback]:
    """A callback for every tracker.

    Args:
        names: Of the trackers; each is set up by its own environment variables.
        folder: The run folder, in which TensorBoard writes.
    """
    found: list[TrainerCallback] = []
    for name in dict.fromkeys(names):
        kind: Any = INTEGRATION_TO_CALLBACK[name]
        found.append(kind(_writer(folder)) if name == TENSORBOARD else kind())
    return found


def _writer(folder: Path) -> Any:
    """TensorBoard's own place would be among the checkpoints, which a finished run drops."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter
    return writer(log_dir=str(folder / TENSORBOARD))
