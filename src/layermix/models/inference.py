"""Runs a classifier in memory, batch by batch, and collects its logits."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from layermix.core.signals import Batch
from layermix.errors import ModelError
from layermix.hardware.precision import default_device
from layermix.models.loading import HFEncoder

Floats = NDArray[np.float32]


Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


Runner = Callable[[Batch], Floats]
"""What turns a padded batch into logits, (B, C)."""


class TorchRunner:
    """PyTorch, in eval mode and without gradient, on the default device.

    Args:
        encoder: Is moved there.
    """

    def __init__(self, encoder: HFEncoder) -> None:
        self.device = default_device()
        self.encoder = encoder.eval().to(self.device)

    def __call__(self, batch: Batch) -> Floats:
        """Run one batch."""
        with torch.inference_mode():
            logits = self.encoder(moved(batch, self.device)).logits
        found: Floats = logits.float().cpu().numpy()
        return found


def moved(value: Any, device: torch.device) -> Any:
    """A tensor, or a (nested) dictionary of tensors, on `device`."""
    if isinstance(value, Mapping):
        return {name: moved(inner, device) for name, inner in value.items()}
    return value.to(device)


def logits_of(
    run: Runner,
    rows: Any,
    collate: Callable[[list[Any]], Batch],
    batch_size: int = 32,
    track: Track | None = None,
    what: str = "evaluating",
) -> Floats:
    """Run a classifier over tokenised rows.

    Args:
        run: Batch -> logits.
        rows: Tokenised rows, a data set or a list, run in order of their `length`.
        collate: Rows -> padded batch.
        batch_size: Rows per forward pass.
        track: Shows how far it is.
        what: The bar's name.

    Returns:
        Logits in the order of the rows, (N, C).
    """
    lengths = [row["length"] for row in rows] if isinstance(rows, list) else rows["length"]
    order = np.argsort(lengths, kind="stable")  # little padding, restored below
    starts: Iterable[int] = range(0, len(rows), batch_size)
    if track is not None:
        starts = track(starts, -(-len(rows) // batch_size), what)
    found = [
        run(collate([rows[int(i)] for i in order[start : start + batch_size]])) for start in starts
    ]
    return np.concatenate(found)[order.argsort()]


def finite(whose: str, logits: Floats, rows: str = "rows") -> Floats:
    """The logits of a model, (N, C), as they are.

    Raises:
        ModelError: If one is NaN or infinite.
    """
    if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise ModelError(
            f"{whose} logits are NaN or infinite on {broken} of {len(logits)} {rows}; its weights "
            "are damaged, or it diverged when it was fine-tuned: do that again with a lower "
            "learning rate"
        )
    return logits
