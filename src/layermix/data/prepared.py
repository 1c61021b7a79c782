"""The data of a run, ready to train on: tokens, held-out rows, the teacher's logits on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermix.data.splits import GROUP, HAS_LABEL, labels_of
from layermix.data.tasks import TASKS
from layermix.data.texts import TextData
from layermix.data.tokenization import Collator
from layermix.errors import Note
from layermix.problems.problem import Problem

Logits = NDArray[np.floating[Any]]
"""(N, C), or (N, W, C) where each word has its own."""

Labels = NDArray[Any]
"""As the kind of label has them, one for each row: class indices, (N,), if nothing else is said."""


@dataclass(frozen=True)
class PreparedData:
    """The data of a run, ready to train on; the same for every student of the same teacher.

    Attributes:
        texts: The checked texts that were tokenised: `train` without the rows held out.
        splits: Token rows by split, as in `Tokens`: `train`, `validation`, and perhaps `test` and
            `holdout` (training rows that are scored, not trained on).
        collate: Rows -> padded batch.
        max_length: Tokens that no row exceeds.
        cut: Share of the rows of each split that were cut, in [0, 1].
        teacher_fingerprint: Hash of the teacher's weights, computed once per run; None for `teach`.
        teacher_logits: The teacher's logits, (N, C), for each split but `train`; empty for `teach`.
        teacher_scores: The teacher's scores for each of these splits that has labelled rows.
        notes: Notes for the user.
        unlabeled_share: Of the rows of an epoch, those without a label; None takes all.
    """

    texts: TextData
    splits: Mapping[str, Any]
    collate: Collator
    max_length: int
    cut: Mapping[str, float]
    teacher_fingerprint: str | None = None
    teacher_logits: Mapping[str, Logits] = field(default_factory=dict)
    teacher_scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    unlabeled_share: float | None = None

    def guessed(self, split: str) -> NDArray[np.bool_]:
        """Returns the rows of a split whose label is the most probable class of a soft label."""
        rows = self.texts.splits[split]
        if HAS_LABEL not in rows.column_names:
            return np.zeros(len(rows), dtype=bool)
        without: NDArray[np.bool_] = ~np.asarray(rows[HAS_LABEL][:])
        return without

    def groups(self, split: str) -> NDArray[np.integer[Any]] | None:
        """Returns the number of each row's group, (N,); None if rows do not belong together."""
        rows = self.texts.splits[split]
        if GROUP not in rows.column_names:
            return None
        return np.unique(np.asarray(rows[GROUP][:]), return_inverse=True)[1]

    def own_labels(self, split: str) -> Labels:
        """Returns the labels of a split, without those that were guessed from soft labels."""
        labels = labels_of(self.splits[split]["labels"]).copy()
        if (guessed := self.guessed(split)).any():
            labels[guessed] = self.problem.missing(len(self.texts.label_names))
        return labels

    @property
    def evaluated(self) -> dict[str, Any]:
        """Returns the splits that are scored after every epoch."""
        return {
            name: self.splits[name] for name in ("validation", "holdout") if name in self.splits
        }

    @property
    def problem(self) -> Problem:
        """Returns the kind of label."""
        return self.texts.problem

    @property
    def metric(self) -> str:
        """Returns the name of the score by which epochs are compared."""
        return main_score(self.texts)


def main_score(texts: TextData) -> str:
    """Returns the name of the score by which models of these data are compared."""
    task = TASKS.get(texts.task or "")
    of_task = task is not None and task.metrics[0] in texts.problem.higher_is_better
    return (task.metrics if task and of_task else texts.problem.default_scores)[0]
