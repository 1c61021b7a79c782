"""Sends logs to experiment trackers, with the callbacks of `transformers.Trainer`."""

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
    """Raise a ConfigError unless every tracker is installed.

    Raises:
        ConfigError: Names the first one that is not.
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
    """Return a callback for every tracker.

    Args:
        names: Names of trackers; each is configured by its own environment variables.
        folder: The run folder, into which TensorBoard writes.
    """
    callbacks: list[TrainerCallback] = []
    for name in dict.fromkeys(names):
        kind: Any = _with_flat_logs(INTEGRATION_TO_CALLBACK[name])
        callbacks.append(kind(_writer(folder)) if name == TENSORBOARD else kind())
    return callbacks


def _with_flat_logs(tracker: Any) -> Any:
    """A tracker's callback that logs lists as single numbers, since trackers take no lists."""

    class Flat(tracker):  # type: ignore[misc]  # a class known only at run time
        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any
        ) -> Any:
            return super().on_log(args, state, control, logs=flat_logs(logs), **others)

    return Flat


def flat_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Return logs with lists as single numbers.

    Examples:
        >>> flat_logs({"loss": 1.0, "alpha": [[0.4, 0.6]], "entropy": [0.7]})
        {'loss': 1.0, 'alpha/0/0': 0.4, 'alpha/0/1': 0.6, 'entropy/0': 0.7}
    """
    flat: dict[str, Any] = {}
    for name, value in logs.items():
        if isinstance(value, list):
            flat |= flat_logs({f"{name}/{index}": number for index, number in enumerate(value)})
        else:
            flat[name] = value
    return flat


def _writer(folder: Path) -> Any:
    """TensorBoard's writer in the run folder; by default it writes beside removed checkpoints."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter
    return writer(log_dir=str(folder / TENSORBOARD))
