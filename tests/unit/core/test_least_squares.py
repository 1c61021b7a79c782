"""Least squares from sums."""

import pytest
import torch

from layermix.core.least_squares import RIDGE, LeastSquares


def test_sums_of_batches_give_the_map_of_all_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(3, 5, generator=generator)
    inputs = torch.randn(400, 5, generator=generator)
    noise = 0.1 * torch.randn(400, 3, generator=generator)
    targets = inputs @ true.T + noise
    fit = LeastSquares()
    for part in range(4):
        fit.add(inputs[part::4], targets[part::4])
    x, t = inputs.double(), targets.double()
    held_back = x.T @ x + RIDGE * 5 * x.square().mean() * torch.eye(5)
    torch.testing.assert_close(fit.solution(), torch.linalg.solve(held_back, x.T @ t).T)
    assert fit.rows == 400
    assert (fit.solution() - true).abs().max() < 0.02


def test_what_no_row_tells_of_is_0() -> None:
    fit = LeastSquares()
    fit.add(torch.eye(3)[:1].expand(1000, -1), torch.ones(1000, 2))
    assert fit.solution()[:, 1:].equal(torch.zeros(2, 2).double())
    torch.testing.assert_close(fit.solution()[:, 0], torch.ones(2).double(), atol=1e-3, rtol=0)


def test_without_rows_there_is_nothing_to_fit() -> None:
    fit = LeastSquares()
    fit.add(torch.ones(0, 2), torch.ones(0, 3))
    with pytest.raises(ValueError, match="found no rows, wanted some to fit to"):
        fit.solution()
    with pytest.raises(ValueError, match="found no rows"):
        LeastSquares().solution()
