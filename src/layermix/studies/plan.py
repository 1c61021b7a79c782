"""What a study consists of: one file -> its cells, each a distillation named by its content.

Knows no torch and reads no data, so that a plan can be seen before anything is there.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from layermix.config import (
    WAYS,
    Config,
    DistillConfig,
    LossConfig,
    TeachConfig,
    explain,
    merge,
    problems_of,
    spell_out,
    with_implied_preset,
)
from layermix.errors import ConfigError
from layermix.studies.spec import StudyConfig, arms_of, combinations, teach_of

TEACHERS = "teachers"
"""The folder of a study that holds the teachers it fine-tunes."""
NOT_CONTENT = {
    "cache": ("folder", "max_gb", "layers"),
    "training": ("report_to", "loader_workers"),
}
"""Fields that say where things are stored or reported, not what is computed."""
OF_STUDENTS = ("augment", "augment_ways")
"""Fields of the data that a teacher does not see."""
DEFAULTS = 1
"""Part of a cell's name; raised when a default changes, so that no table mixes two of them."""


@dataclass(frozen=True)
class TeacherRun:
    """One fine-tuning that cells wait for.

    Attributes:
        name: From its content.
        task: What it is for.
        config: What `teach` is given; None in a plan without places.
    """

    name: str
    task: str
    config: TeachConfig | None

    @property
    def title(self) -> str:
        """For people."""
        return f"teacher of {self.task}"


@dataclass(frozen=True)
class Cell:
    """One distillation of a study.

    Attributes:
        name: From its content: equal cells of two arms, or of two studies, have the same.
        task: Name of the task.
        arm: Name of the arm, with its values on the axes.
        seed: Shared by all arms, so that their differences are paired.
        content: The resolved config, with places as the user wrote them.
        config: What `distill` is given; None in a plan without places.
        teacher: The fine-tuning it waits for, if the study makes its teachers.
    """

    name: str
    task: str
    arm: str
    seed: int
    content: Mapping[str, Any]
    config: DistillConfig | None
    teacher: TeacherRun | None

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.task}, {self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """All cells of a study, in the order in which they are run: seed by seed."""

    study: StudyConfig
    cells: Sequence[Cell]

    @cached_property
    def runs(self) -> dict[str, Cell]:
        """Name -> cell, every content once."""
        runs: dict[str, Cell] = {}
        for cell in self.cells:
            runs.setdefault(cell.name, cell)
        return runs

    @property
    def teachers(self) -> dict[str, TeacherRun]:
        """Name -> fine-tuning, every content once."""
        return {cell.teacher.name: cell.teacher for cell in self.cells if cell.teacher}

    @cached_property
    def table(self) -> dict[str, dict[str, dict[int, Cell]]]:
        """Task -> arm -> seed -> cell, tasks and arms in the order of the file."""
        labels = [label for _, label, _ in arms_of(self.study)]
        table: dict[str, dict[str, dict[int, Cell]]] = {
            task: {label: {} for label in labels} for task in self.study.tasks
        }
        for cell in self.cells:
            table[cell.task][cell.arm][cell.seed] = cell
        return {
            task: {arm: cells for arm, cells in arms.items() if cells}
            for task, arms in table.items()
            if any(arms.values())
        }

    @property
    def judged(self) -> list[tuple[str, str, str]]:
        """(task, first arm, second arm) of every comparison of the primary family."""
        return [
            (task, first, second)
            for task, arms in self.table.items()
            for first, second in self.study.family
            if first in arms and second in arms
        ]

    def seeds_of_both(self, task: str, first: str, second: str) -> int:
        """Number of seeds that two arms of a task share."""
        return len(self.table[task][first].keys() & self.table[task][second].keys())


def make_plan(study: StudyConfig, out: Path | None) -> Plan:
    """All cells of a study.

    Args:
        study: From `load_study`.
        out: Its folder, where the teachers will be; with None no `$VARIABLE` is looked up, for a
            plan that needs neither data nor models.

    Raises:
        ConfigError: If a `$VARIABLE` is not set.
    """
    cells: list[Cell] = []
    problems: dict[str, None] = {}
    for task, arm, seed, given in combinations(study):
        teacher = config = None
        try:
            if study.teach is not None:
                teacher = _teacher(study, task, seed, resolve=out is not None)
                given = merge(given, {"teacher": {"model": f"{TEACHERS}/{teacher.name}"}})
            given = dict(with_implied_preset(given))
            if out is not None:
                places = given
                if teacher is not None:
                    place = out.absolute() / TEACHERS / teacher.name
                    places = merge(given, {"teacher": {"model": str(place)}})
                config = DistillConfig.model_validate(places)
        except ValidationError as error:
            problems |= dict.fromkeys(
                ": ".join(explain(DistillConfig, problem)) for problem in problems_of(error)
            )
            continue
        name, content = _name(DistillConfig, given), _content(DistillConfig, given)
        cells.append(Cell(name, task, arm, seed, content, config, teacher))
    if problems:
        raise ConfigError("\n".join(problems))
    cells.sort(key=lambda cell: cell.seed)  # stable: within a seed the order of the file
    return Plan(study, tuple(cells))


def _teacher(study: StudyConfig, task: str, seed: int, *, resolve: bool) -> TeacherRun:
    """The fine-tuning of a cell's teacher on the task's data, the same for all arms."""
    assert study.teach is not None
    data: dict[str, Any] = {}
    for changes in (spell_out(DistillConfig, study.base), study.tasks[task].changes):
        data = merge(data, changes.get("data", {}))
    data = {key: value for key, value in data.items() if key not in OF_STUDENTS}
    wanted = merge(teach_of(study, task), {"data": data})
    if study.teachers == "per_seed":
        wanted["seed"] = seed
    config = TeachConfig.model_validate(wanted) if resolve else None
    return TeacherRun(_name(TeachConfig, wanted), task, config)


def _content(kind: type[Config], given: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """The resolved config, with places as they were written."""
    config = kind.model_validate(given, context={"expand": False})
    dumped: dict[str, Any] = config.model_dump(mode="json", **options)
    for section, places in NOT_CONTENT.items():
        if section in dumped:
            dumped[section] = {k: v for k, v in dumped[section].items() if k not in places}
    return dumped


def _name(kind: type[Config], given: Mapping[str, Any]) -> str:
    """A hash of what differs from the defaults, so that new fields do not change old names."""
    changed = _content(kind, given, exclude_defaults=True)
    changed = {key: value for key, value in changed.items() if value not in ({}, None)}
    changed.pop("preset", None)  # its values are in the other fields
    loss = LossConfig().model_dump() | changed.get("loss", {})
    if not loss["hidden_weight"] and not loss["attention_weight"]:
        changed.pop("mix", None)  # no term of the loss uses it
    student, data = changed.get("student", {}), changed.get("data", {})
    if student.keys() & (set(WAYS) - {"layers"}) and "start" not in student:
        student.pop("copied", None)  # it says which blocks `layers` are
    if data.get("augment") == 0:
        del data["augment"]
    if kind is DistillConfig and not student.keys() - {"layers", "dropout"}:
        changed["copied"] = "first blocks"  # once they were spaced evenly, under the same fields
    text = json.dumps([DEFAULTS, changed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
