"""By which signal, and with which optimiser, α learns: the paper's rule, and the place for others.

The paper's: α follows the gradient of the training loss, in the student's optimiser, with a rate of
its own. A rule of your own moves α itself before each step, for example along the gradient of the
loss on rows that are held out of training: `distill_from(…, alpha_learner=…)`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from layermix.config import MixConfig
from layermix.core.objective import Objective
from layermix.core.seeds import derive
from layermix.core.signals import Batch, Signal


class TaughtBatch(NamedTuple):
    """A padded batch on its device, and the teacher's signal for it."""

    batch: Batch
    signal: Signal | None


class AlphaLearner:
    """The paper's rule, and the base of others.

    A rule of your own overrides what differs. It keeps what it knows between steps in
    `state_dict`, which goes into checkpoints, so that a resumed run has the same bits.

    Attributes:
        held_out_rows: Rows of a held-out batch in each step; 0 asks for none. They are drawn from
            the rows that `training.selection: holdout` keeps out of training.
    """

    held_out_rows = 0

    def parameter_groups(self, mix: nn.Module, config: MixConfig) -> list[dict[str, Any]]:
        """Return what the student's optimiser is to move; what is left out only you move.

        Args:
            mix: Whose parameters they are.
            config: Its learning rate is read; there is no weight decay, which would pull a learned
                α to uniform without anybody asking.

        Returns:
            Groups with `params`, `lr`, `weight_decay` and the `name` mix.
        """
        params = [one for one in mix.parameters() if one.requires_grad]
        return [{"name": "mix", "params": params, "lr": config.learning_rate, "weight_decay": 0.0}]

    def before_step(
        self, objective: Objective, taught: TaughtBatch, held_out: TaughtBatch | None
    ) -> None:
        """Move α before an optimiser step, if it is not moved by the student's optimiser.

        Gradients that a call leaves in `.grad` count in the step, so use `torch.autograd.grad`.

        Args:
            objective: Student, mix, projection and terms: `objective(*taught).loss`.
            taught: The first batch of the step.
            held_out: Rows that are not trained on, or None if `held_out_rows` is 0.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what must be in a checkpoint: tensors and numbers, nested as you like."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take `state_dict` back when a run is resumed."""


def held_out_indices(rows: int, count: int, seed: int, step: int) -> list[int]:
    """The held-out rows of a step: a pure function of (seed, step), so a resume draws the same.

    Args:
        rows: How many there are.
        count: How many are wanted; all of them if there are fewer.
        seed: Of the run.
        step: Number of the optimiser step, from 0.

    Examples:
        >>> held_out_indices(100, 3, 0, 7) == held_out_indices(100, 3, 0, 7)
        True
        >>> sorted(held_out_indices(2, 5, 0, 0))
        [0, 1]
    """
    generator = torch.Generator().manual_seed(derive(seed, f"held-out rows of step {step}"))
    indices: list[int] = torch.randperm(rows, generator=generator)[:count].tolist()
    return indices
