"""Runs a classifier over tokenised rows, batch by batch, and collects the logits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from layermix.core.signals import NO_WORD, Batch
from layermix.errors import ModelError
from layermix.hardware.device import default_device
from layermix.hardware.processes import gathered, share
from layermix.launch import world_size
from layermix.models.encoder import HFEncoder

BATCH_SIZE = 32
"""Rows of a forward pass, if nothing else is said."""
Floats = NDArray[np.float32]
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""`track(items, total, what)` yields the items and shows how many are done."""

Collate = Callable[[list[Any]], Batch]
"""Tokenised rows -> a padded batch."""

Runner = Callable[[Batch], Floats]
"""Computes the logits of a padded batch, (B, C), or (B, W, C) where it has `word_starts`."""


class TorchRunner:
    """Runs an encoder with PyTorch on the default device, in eval mode and without gradient.

    Args:
        encoder: Is moved to the device and set to eval mode.
    """

    def __init__(self, encoder: HFEncoder) -> None:
        self.device = default_device()
        self.encoder = encoder.eval().to(self.device)

    def __call__(self, batch: Batch) -> Floats:
        """Returns the logits of one batch, as `Runner` says, float32."""
        with torch.inference_mode():
            logits = self.encoder(moved(batch, self.device)).logits
        on_cpu: Floats = logits.float().cpu().numpy()
        return on_cpu


def moved(value: Any, device: torch.device) -> Any:
    """Returns a tensor, or a nested dictionary of tensors, on `device`."""
    if isinstance(value, Mapping):
        return {name: moved(inner, device) for name, inner in value.items()}
    return value.to(device)


def logits_of(
    run: Runner,
    rows: Any,
    collate: Collate,
    batch_size: int = BATCH_SIZE,
    track: Track | None = None,
    what: str = "evaluating",
) -> Floats:
    """Runs a classifier over tokenised rows and returns their logits.

    Args:
        run: Batch -> logits.
        rows: Tokenised rows, a data set or a list; they run in order of `length`.
        collate: Rows -> padded batch.
        batch_size: Rows per forward pass.
        track: Shows progress.
        what: The bar's name.

    Returns:
        Logits in the order of the rows, (N, C), or (N, W, C), `NO_WORD` where there is no word.
    """
    lengths = [row["length"] for row in rows] if isinstance(rows, list) else rows["length"]
    indices = batches_by_length(lengths, batch_size)
    batches: Iterable[Sequence[int]] = indices
    if track is not None:
        batches = track(indices, len(indices), what)
    found = joined([run(collate([rows[index] for index in batch])) for batch in batches])
    return found[np.concatenate(indices).argsort()]


def batches_by_length(lengths: Sequence[int], batch_size: int = BATCH_SIZE) -> list[list[int]]:
    """Returns the indices of rows, the shortest first, in batches with little padding.

    Examples:
        >>> batches_by_length([5, 1, 3], batch_size=2)
        [[1, 2], [0]]
    """
    order = np.argsort(lengths, kind="stable").tolist()
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def logits_by_all(run: Runner, rows: Any, collate: Collate, **options: Any) -> Floats:
    """As `logits_of`, each process of a run with its part of the rows; all of them get all logits.

    Args:
        run: Batch -> logits; the same model in all processes.
        rows: Tokenised rows, a data set.
        collate: Rows -> padded batch.
        options: As for `logits_of`.
    """
    if world_size() == 1:
        return logits_of(run, rows, collate, **options)
    # Neighbours in length go to different processes, so that all have as much to do.
    order = np.argsort(rows["length"], kind="stable")
    mine = share(order.tolist())
    found = logits_of(run, rows.select(mine), collate, **options) if mine else None
    parts = [part for part in gathered(found) if part is not None]
    places = np.concatenate([order[number :: world_size()] for number in range(world_size())])
    return joined(parts)[places.argsort()]


def joined(batches: Sequence[Floats]) -> Floats:
    """Returns logits of several batches as those of one, with room for the most words.

    Examples:
        >>> joined([np.zeros((1, 1, 2)), np.zeros((2, 3, 2))])[:, :, 0]
        array([[   0., -100., -100.],
               [   0.,    0.,    0.],
               [   0.,    0.,    0.]])
    """
    if batches[0].ndim == 3:
        width = max(batch.shape[1] for batch in batches)
        wide = ((0, 0), (0, width), (0, 0))
        batches = [np.pad(one, wide, constant_values=NO_WORD)[:, :width] for one in batches]
    return np.concatenate(batches)


def finite(whose: str, logits: Floats, rows: str = "rows") -> Floats:
    """Returns the logits of a model, (N, …), unchanged, after a check that all are finite.

    Raises:
        ModelError: If one is NaN or infinite.
    """
    if broken := int((~np.isfinite(logits)).reshape(len(logits), -1).any(axis=1).sum()):
        raise ModelError(
            f"{whose} logits are NaN or infinite on {broken} of {len(logits)} {rows}; its weights "
            "are damaged, or it diverged when it was fine-tuned: do that again with a lower "
            "learning rate"
        )
    return logits
