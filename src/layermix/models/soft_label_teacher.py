"""The third source of teacher signals, beside a live and a cached teacher: given probabilities."""

import numpy as np
import torch
from numpy.typing import NDArray

from layermix.core.signals import LOGITS_ONLY, Batch, Signal
from layermix.errors import ModelError

SMALLEST = 1e-7
"""A probability of 0 counts as this: `layermix predict` rounds to six decimals."""


def logits_from(probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Returns logits with these probabilities: their logarithms, at least that of `SMALLEST`.

    Any constant could be added to the logits of a row, so only losses that compare probabilities
    can use them.

    Args:
        probabilities: (N, C).

    Examples:
        >>> logits_from(np.array([[1.0, 0.0]])).round(2)
        array([[  0.  , -16.12]], dtype=float32)
    """
    values = np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST)
    logits: NDArray[np.float32] = np.log(values).astype(np.float32)
    return logits


class SoftLabelTeacher:
    """Looks up the logits of soft labels by `row_id`; it has no hidden states.

    Args:
        row_ids: Of the rows that batches may contain, N different ones.
        probabilities: (N, C).
    """

    in_loader = True
    num_layers = hidden_size = 0
    provides = LOGITS_ONLY

    def __init__(self, row_ids: NDArray[np.integer], probabilities: NDArray[np.floating]) -> None:
        self.logits = torch.from_numpy(logits_from(probabilities))
        self.places = {int(row): place for place, row in enumerate(row_ids)}

    def __call__(self, batch: Batch) -> Signal:
        """Returns the logits of a batch's rows.

        Raises:
            ModelError: If a row has no soft label.
        """
        rows = batch["row_id"].tolist()
        if missing := [row for row in rows if row not in self.places]:
            raise ModelError(f"row {missing[0]} has no soft label; give one for each training row")
        mask = batch["attention_mask"].bool()
        return Signal(self.logits[[self.places[row] for row in rows]].to(mask.device), mask)
