"""One seed, separate streams: new weights, mix, row order and dropout never disturb one another."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
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
        share: Of the rows of an epoch, those without a label, at most all of them; None takes all.
            Epochs take one after the other, so that all have been seen before one comes again.
        labelled: Which rows have a label, (N,); they are in every epoch. Needed if there is a
            share.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        seed: int,
        batch_size: int = 1,
        grouped: bool = False,
        share: float | None = None,
        labelled: Sequence[bool] = (),
    ) -> None:
        self.lengths, self.seed, self.batch_size, self.grouped = lengths, seed, batch_size, grouped
        self.always = torch.arange(len(lengths))
        self.others, self.wanted = self.always[:0], 0
        if share is not None:
            has_label = torch.tensor(labelled, dtype=torch.bool)
            self.others, self.always = self.always[~has_label], self.always[has_label]
            self.wanted = rows_at_share(share, len(self.always), len(self.others))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives (accelerate calls this)."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = self._generator(f"order of epoch {self.epoch}")
        shuffled = torch.randperm(len(self), generator=generator)
        order: list[int] = torch.cat([self.always, self._others_of_epoch()])[shuffled].tolist()
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

    def _others_of_epoch(self) -> Tensor:
        """The next rows without a label, in an endless row of permutations of all of them."""
        if not self.wanted:
            return self.others[:0]
        first, count = self.epoch * self.wanted, len(self.others)
        passes = range(first // count, (first + self.wanted - 1) // count + 1)
        orders = [
            torch.randperm(count, generator=self._generator(f"rows without a label, pass {one}"))
            for one in passes
        ]
        start = first - passes[0] * count
        return self.others[torch.cat(orders)[start : start + self.wanted]]

    def _generator(self, stream: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive(self.seed, stream))

    def __len__(self) -> int:
        return len(self.always) + self.wanted


class StepShares(Sampler[list[int]]):
    """The batches of a sampler, of which each process of a run gets its part.

    The batches are those of a run in one process, whatever the number of processes, and no row is
    repeated to make the parts even: the last may be empty. The loss is a sum over rows divided by
    their number in all processes, so uneven parts are exact.

    Args:
        sampler: The order of the rows.
        batch_size: Rows of a batch of all processes.
        part: Number of this process, from 0.
        parts: Number of processes.

    Examples:
        >>> [list(StepShares(range(5), 4, part, parts=2)) for part in (0, 1)]
        [[[0, 2], [4]], [[1, 3], []]]
    """

    def __init__(
        self, sampler: Sampler[int] | Sequence[int], batch_size: int, part: int = 0, parts: int = 1
    ) -> None:
        self.sampler, self.batch_size, self.part, self.parts = sampler, batch_size, part, parts

    def __iter__(self) -> Iterator[list[int]]:
        order = iter(self.sampler)
        while batch := list(itertools.islice(order, self.batch_size)):
            yield batch[self.part :: self.parts]

    def __len__(self) -> int:
        rows = len(self.sampler)  # type: ignore[arg-type]  # torch's base class has no length
        return -(-rows // self.batch_size)


def rows_at_share(share: float, rows: int, others: int) -> int:
    """How many of the others beside `rows` are this share of both together, at most all of them.

    Examples:
        >>> rows_at_share(0.75, 100, others=1000), rows_at_share(0.75, 100, others=200)
        (300, 200)
    """
    return min(others, round(rows * share / (1 - share)))
