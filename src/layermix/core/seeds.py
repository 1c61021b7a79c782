"""One seed, separate streams: new weights, mix, row order and dropout never disturb one another."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils.data import Sampler

WINDOW = 50
"""Batches that are sorted by length together, at most: so little is padded (MRPC 1.6 %).

An epoch has four such windows or more, so that its batches are not those of the epoch before;
transformers groups by the same two numbers.
"""


def derive(seed: int, stream: str) -> int:
    """A seed for one stream, so that drawing more from one does not shift another.

    Examples:
        >>> derive(0, "order") == derive(0, "order"), derive(0, "order") == derive(1, "order")
        (True, False)
    """
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1  # 31 bits: what NumPy and transformers accept


@contextmanager
def seeded(seed: int, stream: str) -> Iterator[None]:
    """Run a block with the global torch generator at `derive(seed, stream)`, then put it back."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, stream))
        yield


class EpochSampler(Sampler[int]):
    """A permutation of the rows that is a pure function of (seed, epoch).

    The stock samplers draw from the global generator: after a resume their order changes, and an
    arm that draws random numbers would see other batches than its siblings.

    Args:
        lengths: Tokens of each row.
        seed: Of the run.
        batch_size: Rows of a step.
        grouped: Make batches of rows of similar length, so that little is padded: within windows
            of up to `WINDOW` shuffled batches rows are sorted, then the batches are shuffled again.
            A short last batch has rows of any length.
    """

    def __init__(
        self, lengths: Sequence[int], seed: int, batch_size: int = 1, grouped: bool = False
    ) -> None:
        self.lengths, self.seed, self.batch_size, self.grouped = lengths, seed, batch_size, grouped
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives (accelerate calls this)."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derive(self.seed, f"order of epoch {self.epoch}"))
        order: list[int] = torch.randperm(len(self), generator=generator).tolist()
        if not self.grouped:
            return iter(order)
        size, full = self.batch_size, len(order) // self.batch_size
        # What no batch is full of comes last, unsorted: else it had the longest rows in each epoch.
        order, rest = order[: full * size], order[full * size :]
        window = size * max(1, min(full // 4, WINDOW))
        for start in range(0, len(order), window):
            part = order[start : start + window]
            order[start : start + window] = sorted(part, key=self.lengths.__getitem__)
        turns: list[int] = torch.randperm(full, generator=generator).tolist()
        batches = [order[turn * size : (turn + 1) * size] for turn in turns]
        return itertools.chain(*batches, rest)

    def __len__(self) -> int:
        return len(self.lengths)
