"""One seed, separate streams: new weights, mix, row order and dropout never disturb one another."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import Sampler


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
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives (accelerate calls this)."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derive(self.seed, f"order of epoch {self.epoch}"))
        order: list[int] = torch.randperm(self.rows, generator=generator).tolist()
        return iter(order)

    def __len__(self) -> int:
        return self.rows
