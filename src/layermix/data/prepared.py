"""What teacher and data fix for every arm of a comparison: tokens, held-out rows, answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermix.data.tasks import TASKS
from layermix.data.texts import TextData
from layermix.data.tokenization import Collator
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.problem import Problem

Logits = NDArray[np.floating[Any]]


Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class PreparedData:
    """What teacher and data fix for every arm: tokens, the teacher's scores, its signals.

    Attributes:
        texts: The data, checked.
        splits: Tokenised rows: train, validation, and test, holdout if there are any.
        collate: Rows -> padded batch.
        max_length: In tokens.
        cut: Share of rows cut by `max_length`, by split.
        teacher_logits: By split but train, (N, C).
        teacher_scores: By split that has labelled rows, but train.
        notes: Sentences worth telling the user.
        problem: The kind of label.
    """

    texts: TextData
    splits: Mapping[str, Any]
    collate: Collator
    max_length: int
    cut: Mapping[str, float]
    teacher_logits: Mapping[str, Logits] = field(default_factory=dict)
    teacher_scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problem: Problem = CLASSIFICATION

    @property
    def evaluated(self) -> dict[str, Any]:
        """The splits that are scored after every epoch."""
        return {
            name: self.splits[name] for name in ("validation", "holdout") if name in self.splits
        }

    @property
    def metric(self) -> str:
        """The score by which epochs are compared."""
        task = TASKS.get(self.texts.task or "")
        return (task.metrics if task else self.problem.default_scores)[0]
