"""The third source of teacher signals, beside a live and a cached teacher: given probabilities."""

import numpy as np
import torch
from numpy.typing import NDArray

from layermix.core.signals import LOGITS_ONLY, Batch, Signal
from layermix.errors import ModelError


class SoftLabelTeacher:
    """Looks up the logits of soft labels by `row_id`; it has no hidden states.

    Args:
        row_ids: Of the rows that batches may contain, N different ones.
        logits: With the soft labels as probabilities (or numbers), (N, C).
    """

    in_loader = True
    num_layers = hidden_size = 0
    provides = LOGITS_ONLY

    def __init__(self, row_ids: NDArray[np.integer], logits: NDArray[np.floating]) -> None:
        self.logits = torch.from_numpy(logits)
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
