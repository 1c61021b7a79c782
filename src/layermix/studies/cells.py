"""The finished cells of a study, read from its folder: by task, arm and seed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layermix.errors import Note
from layermix.evaluation.predictions import Rows, read_rows
from layermix.runs.layout import ENVIRONMENT, HISTORY, PREDICTIONS
from layermix.runs.reader import UNREADABLE, read_history, reason_of
from layermix.runs.schema import EnvironmentRecord, RunRecord, Scores, read_text
from layermix.studies.folder import Study
from layermix.studies.plan import Cell, Plan


@dataclass(frozen=True)
class FiledCell:
    """The files of a finished cell, read once.

    Attributes:
        cell: The cell in the plan.
        result: result.json.
        history: Lines of history.jsonl.
        environment: environment.json.
        predictions: Reported epoch -> predictions on the validation rows.
    """

    cell: Cell
    result: RunRecord
    history: Sequence[Mapping[str, Any]]
    environment: EnvironmentRecord
    predictions: Mapping[str, Rows]

    @property
    def has_unknown_code(self) -> bool:
        """Whether the source tree that ran it had uncommitted changes."""
        return (self.environment.commit or "").endswith("+")

    @property
    def code(self) -> str:
        """The code that ran it: a commit, with `+` if it was changed, or a version."""
        if commit := self.environment.commit:
            return commit.removesuffix("+")[:8] + "+" * self.has_unknown_code
        return f"version {self.environment.packages.get('layermix', 'unknown')}"


@dataclass(frozen=True)
class Arm:
    """The finished cells of one arm on one task.

    Attributes:
        cells: By seed; at least one.
        report: The epoch whose scores are compared.
        split: The rows whose scores are compared.
    """

    cells: Mapping[int, FiledCell]
    report: str
    split: str

    @property
    def results(self) -> dict[int, RunRecord]:
        """Seed -> result.json."""
        return {seed: cell.result for seed, cell in self.cells.items()}

    @property
    def first(self) -> RunRecord:
        """result.json of the first seed."""
        return next(iter(self.cells.values())).result

    @property
    def metric(self) -> str:
        """The task's primary score."""
        return self.first.metric

    @property
    def sign(self) -> int:
        """1 if more of the primary score is better, else −1."""
        return 1 if self.first.prefers_more else -1

    @property
    def learns_alpha(self) -> bool:
        """Whether α is learned in every cell."""
        return all(
            result.alpha is not None and result.mix is not None and result.mix.learns
            for result in self.results.values()
        )

    def teacher_scores(self) -> dict[int, float]:
        """Seed -> score of its teacher, of seeds whose teacher (or soft labels) were scored."""
        found = {seed: _teacher_score(cell, self.split) for seed, cell in self.results.items()}
        return {seed: score for seed, score in found.items() if score is not None}

    def scores(self, report: str | None = None, metric: str | None = None) -> dict[int, float]:
        """Seed -> score, of seeds that have it.

        Args:
            report: A reported epoch; the compared one if None.
            metric: Name of a score; the primary one if None.
        """
        by_seed = {}
        for seed, result in self.results.items():
            epoch = result.metrics.epochs.get(report or self.report)
            score = None if epoch is None else epoch.score(metric or self.metric, self.split)
            if score is not None:
                by_seed[seed] = score
        return by_seed


@dataclass(frozen=True)
class FinishedCells:
    """All finished cells of a study.

    Attributes:
        arms: Task -> arm -> its cells; arms and tasks without any are left out.
        notes: One for each cell that cannot be read.
    """

    arms: Mapping[str, Mapping[str, Arm]]
    notes: Sequence[Note]

    def __iter__(self) -> Iterator[FiledCell]:
        """Every cell of every arm."""
        for arms in self.arms.values():
            for arm in arms.values():
                yield from arm.cells.values()


def gather(plan: Plan, study: Study) -> FinishedCells:
    """Read all finished cells.

    Args:
        plan: Says which cells belong to which task and arm.
        study: Where they are filed.
    """
    arms: dict[str, dict[str, Arm]] = {}
    notes = []
    for task, cells_by_arm in plan.table.items():
        for arm, cells in cells_by_arm.items():
            filed = {}
            for seed, cell in cells.items():
                if not study.has(cell.name):
                    continue
                try:
                    filed[seed] = _read(study, cell, plan.study.split)
                except (*UNREADABLE, TypeError) as error:
                    notes.append(
                        Note(
                            "damaged-cell",
                            f"the cell of {cell.title} is damaged and left out "
                            f"({reason_of(error)}); remove {study.filed(cell.name)}, and the same "
                            "command runs it again",
                        )
                    )
            if filed:
                arms.setdefault(task, {})[arm] = Arm(filed, plan.study.report, plan.study.split)
    return FinishedCells(arms, notes)


def _read(study: Study, cell: Cell, split: str) -> FiledCell:
    """A filed cell; raises if a file of it cannot be read, or is not what a run writes."""
    folder = study.filed(cell.name)
    environment = EnvironmentRecord.from_json(read_text(folder / ENVIRONMENT))
    result = study.result(cell.name)
    for scores in _all_scores(result):
        if not math.isfinite(scores.number(result.metric) or 0.0):
            raise ValueError(f"{result.metric} is {scores.number(result.metric)}")
    _teacher_score(result, split)
    history = read_history(folder / HISTORY)
    return FiledCell(cell, result, history, environment, read_rows(folder / PREDICTIONS))


def _all_scores(result: RunRecord) -> Iterator[Scores]:
    for epoch in result.metrics.epochs.values():
        yield from epoch.splits.values()
    if result.metrics.test is not None:
        yield result.metrics.test
    if result.teacher.metrics is not None:
        yield from result.teacher.metrics.splits.values()


def _teacher_score(result: RunRecord, split: str) -> float | None:
    """None if there is no teacher model, and no soft labels on these rows."""
    teacher = result.teacher
    score = teacher.score(result.metric, split)
    is_a_model = teacher.parameters is not None or teacher.place is None
    if score is None and is_a_model:
        raise ValueError(f"the teacher has no {result.metric} on {split}")
    return score
