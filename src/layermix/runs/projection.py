"""P of equation (3) fitted to a student before its first step (`loss.projection_start: fitted`)."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from layermix.console import Reporter
from layermix.core.objective import Objective
from layermix.core.signals import Batch, Signal, Teacher
from layermix.hardware.device import default_device
from layermix.models.inference import moved

ROWS = 512
"""Training rows, at equal distances, that P is fitted to: tens of thousands of tokens."""


def fit_projection(
    objective: Objective,
    teacher: Teacher,
    rows: Any,
    collate: Callable[[list[Any]], Batch],
    batch_size: int,
    reporter: Reporter,
) -> None:
    """Set P to the least squares of some training rows.

    Args:
        objective: Its P is set, if it has one; it moves to the device that it is trained on.
        teacher: Gives the signals of these rows.
        rows: All training rows, as `collate` takes them.
        collate: Makes a padded batch.
        batch_size: Rows of a forward pass; only the rounding of the result depends on it.
        reporter: Shows progress.
    """
    if objective.projection is None:
        return
    device = default_device()
    objective.to(device)
    chosen = np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(int).tolist()

    def batches() -> Iterator[tuple[Batch, Signal]]:
        with reporter.counting(len(chosen), "fitting P to rows") as count:
            for first in range(0, len(chosen), batch_size):
                numbers = chosen[first : first + batch_size]
                batch = collate([rows[number] for number in numbers])
                there = moved(batch, device)
                yield there, teacher(batch).to(device) if teacher.in_loader else teacher(there)
                count(len(numbers))

    objective.fit_projection(batches())
