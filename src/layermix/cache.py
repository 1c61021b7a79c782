"""Teacher signals that are computed once: in memory, shared by all epochs and arms."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from layermix.errors import ModelError
from layermix.signals import Batch, Needs, Signal, Teacher

FILL_BATCH = 32
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""`progress(items, total, what)` yields the items and shows how far it is."""


class MemoryTeacher:
    """Remembers a teacher's signals for a set of rows, without padding.

    Rows are run in order of their length, in batches of their own, so a signal does not depend on
    the training batches: an interrupted run that computes them again gets the same bits.

    Args:
        teacher: Asked once for every row.
        rows: Tokenised rows with `row_id` and `length`.
        collate: Rows -> padded batch.
        progress: Shows how far it is.
    """

    def __init__(
        self,
        teacher: Teacher,
        rows: Sequence[Any],
        collate: Callable[[list[Any]], Batch],
        progress: Progress | None = None,
    ) -> None:
        self.num_layers, self.hidden_size = teacher.num_layers, teacher.hidden_size
        self.provides = replace(teacher.provides, padding=False)
        order = sorted(range(len(rows)), key=lambda index: (rows[index]["length"], index))
        batches: Iterable[list[int]] = [
            order[start : start + FILL_BATCH] for start in range(0, len(order), FILL_BATCH)
        ]
        if progress is not None:
            batches = progress(batches, -(-len(order) // FILL_BATCH), "teacher signals")
        ids, logits, counts = [], [], []
        hidden, embedding = [], []
        for indices in batches:
            batch = collate([rows[index] for index in indices])
            signal = teacher(batch)
            ids += batch["row_id"].tolist()
            logits.append(signal.logits)
            counts += signal.mask.sum(-1).tolist()
            if signal.hidden is not None:
                hidden.append(signal.hidden[:, signal.mask])
            if signal.embedding is not None:
                embedding.append(signal.embedding[signal.mask])
        self.position = {row: position for position, row in enumerate(ids)}
        self.logits = torch.cat(logits)
        self.counts = torch.tensor(counts)
        self.offsets = self.counts.cumsum(0) - self.counts
        self.hidden = torch.cat(hidden, 1) if hidden else None  # (L, all tokens, D)
        self.embedding = torch.cat(embedding) if embedding else None  # (all tokens, D)

    def __call__(self, batch: Batch) -> Signal:
        """Look a batch up by `row_id` and pad it as the batch is padded, with zeros.

        Raises:
            ModelError: If a row was not among those remembered, or has another number of tokens.
        """
        mask = batch.get("teacher_inputs", batch)["attention_mask"].bool()
        rows = batch["row_id"].tolist()
        if unknown := [row for row in rows if row not in self.position]:
            raise ModelError(
                f"rows {unknown} were not among the {len(self.position)} remembered ones; remember "
                "the rows that are trained on"
            )
        at = torch.tensor([self.position[row] for row in rows], device=self.counts.device)
        counts = self.counts[at]
        found = mask.sum(-1).to(counts.device)
        for row, wanted, tokens in zip(rows, counts.tolist(), found.tolist(), strict=True):
            if wanted != tokens:
                raise ModelError(
                    f"row {row} has {tokens} tokens in the batch, but {wanted} when it was "
                    "remembered; tokenise both in the same way"
                )
        # Token t of row r stands at offset[r] + t: ranges of all rows, one after the other.
        starts = (self.offsets[at] - (counts.cumsum(0) - counts)).repeat_interleave(counts)
        places = starts + torch.arange(len(starts), device=starts.device)
        return Signal(
            self.logits[at].to(mask.device),
            mask,
            self.provides.layers,
            None if self.hidden is None else _padded(self.hidden, places, mask),
            None if self.embedding is None else _padded(self.embedding[None], places, mask)[0],
        )


def _padded(store: Tensor, places: Tensor, mask: Tensor) -> Tensor:
    """(L, all tokens, D) at `places` -> (L, B, T, D) with zeros where `mask` is False."""
    padded = store.new_zeros(len(store), *mask.shape, store.shape[-1], device=mask.device)
    padded[:, mask] = store[:, places].to(mask.device)
    return padded


def signal_bytes(needs: Needs, width: int, tokens: int) -> int:
    """Memory that the remembered block outputs need, in bytes (float32)."""
    return 4 * width * tokens * (len(needs.layers) + needs.embedding)
