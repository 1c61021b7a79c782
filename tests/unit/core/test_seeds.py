"""Seeds: streams that do not disturb one another, and an order that is a pure function."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layermix.core.seeds import WINDOW, EpochSampler, derive, seeded


def order(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_seeds_differ_by_seed_and_by_stream_and_fit_31_bits() -> None:
    found = {derive(seed, stream) for seed in range(50) for stream in ("mix", "order", "dropout")}
    assert len(found) == 150
    assert max(found) < 2**31


def test_a_seeded_block_does_not_move_the_global_generator() -> None:
    torch.manual_seed(5)
    straight = torch.rand(2)
    torch.manual_seed(5)
    with seeded(1, "projection"):
        inside = torch.rand(2)
    assert torch.rand(2).equal(straight)
    torch.manual_seed(6)
    with seeded(1, "projection"):
        assert torch.rand(2).equal(inside)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=200),
    batch_size=st.integers(1, 7),
    grouped=st.booleans(),
)
def test_every_epoch_sees_every_row_once(
    lengths: list[int], batch_size: int, grouped: bool
) -> None:
    sampler = EpochSampler(lengths, 3, batch_size, grouped)
    assert len(sampler) == len(lengths)
    assert sorted(order(sampler, 0)) == sorted(order(sampler, 1)) == list(range(len(lengths)))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    for grouped in (False, True):
        lengths = [n % 17 for n in range(100)]
        sampler = EpochSampler(lengths, 3, 4, grouped)
        first, second = order(sampler, 0), order(sampler, 1)
        torch.manual_seed(0)
        torch.rand(7)
        assert order(EpochSampler(lengths, 3, 4, grouped), 1) == second
        assert order(sampler, 0) == first
        assert first != second
        assert order(EpochSampler(lengths, 4, 4, grouped), 0) != first


def test_grouped_batches_pad_less_and_are_not_in_order_of_length() -> None:
    lengths = torch.randint(1, 100, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    size = 8

    def longest(grouped: bool) -> list[int]:
        rows = order(EpochSampler(lengths, 0, size, grouped), 0)
        return [max(lengths[r] for r in rows[i : i + size]) for i in range(0, 1000, size)]

    random, grouped = longest(False), longest(True)
    assert sum(grouped) < 0.65 * sum(random)
    assert sum(later > earlier for earlier, later in pairwise(grouped)) > 40


@pytest.mark.parametrize(("batches", "windows"), [(8, 4), (4 * WINDOW, 4), (8 * WINDOW, 8)])
def test_an_epoch_has_four_windows_or_more(batches: int, windows: int) -> None:
    """Rows are as long as their number: a window's batches are sorted, its longest row is last."""
    rows = list(range(2 * batches))
    found = order(EpochSampler(rows, 0, 2, grouped=True), 0)
    plain = order(EpochSampler(rows, 0, 2, grouped=False), 0)
    size = len(rows) // windows
    wanted = [sorted(plain[start : start + size]) for start in range(0, len(rows), size)]
    pairs = {pair for window in wanted for pair in zip(window[::2], window[1::2], strict=True)}
    assert set(zip(found[::2], found[1::2], strict=True)) == pairs


def test_a_short_last_batch_has_rows_of_any_length() -> None:
    """Rows are as long as their number; over the epochs their mean is that of all rows."""
    size, rows = 4, 8 * WINDOW + 3
    sampler = EpochSampler(list(range(rows)), 0, size, grouped=True)
    plain = EpochSampler(list(range(rows)), 0, size, grouped=False)
    last = [order(sampler, epoch)[-3:] for epoch in range(200)]
    assert last == [order(plain, epoch)[-3:] for epoch in range(200)]
    mean = sum(sum(batch) / 3 for batch in last) / len(last)
    assert mean == pytest.approx(rows / 2, rel=0.1)


def test_rows_that_fill_their_batches_keep_their_order() -> None:
    """What a seed gives does not change with the version: results that were published stay."""
    lengths = [n * 7 % 13 for n in range(24)]
    wanted = "13 2 4 18 21 23 16 9 12 14 3 5 17 6 1 7 0 20 22 11 15 19 8 10"
    assert order(EpochSampler(lengths, 0, 4, grouped=True), 1) == [*map(int, wanted.split())]


@given(
    labels=st.lists(st.booleans(), min_size=1, max_size=80).filter(any),
    share=st.sampled_from((0.25, 0.5, 0.75)),
    grouped=st.booleans(),
)
def test_at_a_share_every_epoch_has_all_labels_and_the_next_others(
    labels: list[bool], share: float, grouped: bool
) -> None:
    labelled = [row for row, has in enumerate(labels) if has]
    others = [row for row, has in enumerate(labels) if not has]
    wanted = min(len(others), round(len(labelled) * share / (1 - share)))
    sampler = EpochSampler([1] * len(labels), 3, 4, grouped, share, labels)
    assert len(sampler) == len(labelled) + wanted
    taken: list[int] = []
    for epoch in range(5):
        rows = order(sampler, epoch)
        assert len(rows) == len(sampler)
        assert sorted(set(rows) - set(others)) == labelled
        taken += sorted(row for row in rows if row in others)
    if wanted:
        counts = {taken.count(row) for row in others}
        assert max(counts) - min(counts) <= 1  # all have been seen before one comes again


def test_the_others_of_an_epoch_depend_on_seed_and_epoch_alone() -> None:
    labels = [n % 5 == 0 for n in range(100)]
    sampler = EpochSampler([1] * 100, 3, 4, False, 0.5, labels)
    first, second = order(sampler, 0), order(sampler, 1)
    assert order(EpochSampler([1] * 100, 3, 4, False, 0.5, labels), 1) == second != first
    assert set(order(EpochSampler([1] * 100, 4, 4, False, 0.5, labels), 0)) != set(first)
    assert len({*first, *second}) == 20 + 2 * 20
