"""Linear maps by least squares, from sums over batches: a fitted P, a narrowed model's parts."""

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 0.1
"""How strongly a fit is held back, as so many rows for each input: what the rows say nothing about
stays 0."""


class LeastSquares:
    """The matrix W for which Σ ‖t − W x‖² + RIDGE · i · s² ‖W‖² is least.

    i is the width of x, s² its mean square; the sums are over all rows that were added, in double
    precision on the CPU (not every device has it).
    """

    def __init__(self) -> None:
        self.rows = 0
        self._squares: Tensor | None = None
        self._products: Tensor | None = None

    def add(self, inputs: Float[Tensor, "N i"], targets: Float[Tensor, "N o"]) -> None:
        """Add rows x with their targets t."""
        x, t = inputs.cpu().double(), targets.cpu().double()
        squares, products = x.T @ x, x.T @ t
        if self._squares is not None and self._products is not None:
            squares, products = self._squares + squares, self._products + products
        self._squares, self._products, self.rows = squares, products, self.rows + len(x)

    def solution(self) -> Float[Tensor, "o i"]:
        """W, in double precision on the CPU.

        Raises:
            ValueError: If no row was added.
        """
        if self._squares is None or self._products is None or not self.rows:
            raise ValueError("found no rows, wanted some to fit to")
        damping = RIDGE * self._squares.trace() / self.rows
        held_back = self._squares + damping * torch.eye(len(self._squares)).to(self._squares)
        found: Tensor = torch.linalg.solve(held_back, self._products).T
        return found
