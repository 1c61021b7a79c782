"""Experiment trackers, as users of `transformers.Trainer` know them: logs go there."""

from collections.abc import Mapping, Sequence
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
        kind: Any = _with_flat_logs(INTEGRATION_TO_CALLBACK[name])
        found.append(kind(_writer(folder)) if name == TENSORBOARD else kind())
    return found


def _with_flat_logs(tracker: Any) -> Any:
    """A tracker's callback that gets α and its entropy number by number: trackers take scalars."""

    class Flat(tracker):  # type: ignore[misc]  # a class that is known at run time only
        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any
        ) -> Any:
            return super().on_log(args, state, control, logs=flat_logs(logs), **others)

    return Flat


def flat_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of numbers as numbers.

    Examples:
        >>> flat_logs({"loss": 1.0, "alpha": [[0.4, 0.6]], "entropy": [0.7]})
        {'loss': 1.0, 'alpha/0/0': 0.4, 'alpha/0/1': 0.6, 'entropy/0': 0.7}
    """
    flat: dict[str, Any] = {}
    for name, value in logs.items():
        if isinstance(value, list):
            flat |= flat_logs({f"{name}/{index}": one for index, one in enumerate(value)})
        else:
            flat[name] = value
    return flat


def _writer(folder: Path) -> Any:
    """TensorBoard's own place would be among the checkpoints, which a finished run drops."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter
    return writer(log_dir=str(folder / TENSORBOARD))
