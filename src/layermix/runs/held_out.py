"""Trains an objective and measures its loss on rows that are held out, without any scores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from transformers import TrainerCallback

from layermix.core.objective import Objective
from layermix.core.signals import Teacher
from layermix.core.trainer import DistillTrainer
from layermix.hardware.processes import share, summed
from layermix.launch import world_size
from layermix.runs.schema import HeldOutLoss

PREFIX = "eval_held_out_"
"""Begins the names of the losses on held-out rows in a log."""


class HeldOutLosses:
    """The losses on held-out rows, in eval mode: without dropout, and drawing no random number.

    Args:
        objective: Measured.
        teacher: Asked live; None if no term needs one.
        rows: Token rows.
        collate: Rows -> padded batch.
        batch_size: Rows per forward pass.
    """

    def __init__(
        self,
        objective: Objective,
        teacher: Teacher | None,
        rows: Any,
        collate: Callable[[list[Any]], Mapping[str, Any]],
        batch_size: int,
    ) -> None:
        self.objective, self.teacher = objective, teacher
        self.rows, self.collate, self.batch_size = rows, collate, batch_size

    def __call__(self) -> dict[str, float]:
        """Returns the mean over rows of each part of the loss, and `loss`, their weighted sum."""
        device = next(self.objective.parameters()).device
        was_training, sums = self.objective.training, dict[str, torch.Tensor]()
        self.objective.eval()
        shared = len(self.rows) >= world_size()  # else some process would have nothing to add
        rows = share(range(len(self.rows))) if shared else range(len(self.rows))
        with torch.no_grad():
            for start in range(0, len(rows), self.batch_size):
                batch = self.collate(
                    [self.rows[row] for row in rows[start : start + self.batch_size]]
                )
                batch = send_to_device(batch, device)
                signal = None if self.teacher is None else self.teacher(batch)
                for name, part in self.objective(batch, signal).parts.items():
                    sums[name] = sums.get(name, torch.zeros_like(part)) + part
        self.objective.train(was_training)
        if shared:
            sums = {name: summed(total) for name, total in sums.items()}
        parts = {name: float(total) / len(self.rows) for name, total in sums.items()}
        weights = self.objective.weights
        return {"loss": sum(weights[name] * part for name, part in parts.items()), **parts}


class Measuring(TrainerCallback):
    """Asks for a measurement every so many steps; the end of an epoch has one anyway."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure within an epoch; logged first, so that logs are in the order of steps."""
        if state.global_step % self.every == 0 and not float(state.epoch).is_integer():
            control.should_log = control.should_evaluate = True


class HeldOutTrainer(DistillTrainer):
    """A `DistillTrainer` that measures the loss on held-out rows where others score.

    Args:
        measured: The losses.
        epoch_tokens: Tokens of an epoch, which logs count.
        arguments: As for `DistillTrainer`.
        options: As for `DistillTrainer`.
    """

    def __init__(
        self, *arguments: Any, measured: HeldOutLosses, epoch_tokens: int, **options: Any
    ) -> None:
        self.measured, self.epoch_tokens = measured, epoch_tokens
        super().__init__(*arguments, **options)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure and log."""
        metrics = {f"{PREFIX}{name}": value for name, value in self.measured().items()}
        self.log(metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the number of tokens that were learned from."""
        if "train_runtime" not in logs:
            logs = {**logs, "tokens": round((self.state.epoch or 0) * self.epoch_tokens)}
        super().log(logs, start_time)


def held_out_losses(history: Sequence[Mapping[str, Any]]) -> list[HeldOutLoss]:
    """The measurements in a history."""
    return [
        HeldOutLoss(
            step=line["step"],
            epoch=line["epoch"],
            tokens=line["tokens"],
            loss=line[f"{PREFIX}loss"],
            parts={
                name.removeprefix(PREFIX): value
                for name, value in line.items()
                if name.startswith(PREFIX) and name != f"{PREFIX}loss"
            },
        )
        for line in history
        if f"{PREFIX}loss" in line
    ]
