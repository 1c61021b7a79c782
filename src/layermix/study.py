"""What a study consists of: one file -> its cells, each a distillation named by its content.

Knows no torch and reads no data, so that a plan can be seen before anything is there.
"""

import difflib
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from layermix.config import (
    Config,
    DistillConfig,
    Section,
    TeachConfig,
    explain,
    load,
    merge,
    nest,
    read_yaml,
    spell_out,
)
from layermix.errors import ConfigError

TEACHERS = "teachers"
"""The folder of a study that holds the teachers it fine-tunes."""
OWN = ("seeds", "arms")
"""Keys of a task or an arm that are not fields of a distillation."""
NOT_CONTENT = {"cache": ("use", "folder", "max_gb")}
"""Fields that say where things are kept, not what is computed."""


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a seed is named twice in {seeds}")
    return seeds


def _one_task() -> dict[str, dict[str, Any]]:
    return {"task": {}}


Overrides = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]
Seeds = (
    Annotated[int, Field(ge=1)]
    | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_different)]
)


class StudyConfig(Section):
    """A comparison of arms on tasks over seeds, with the comparisons that will be judged."""

    title: str = "study"
    """What the tables are headed with."""
    base: Overrides = Field(default_factory=dict)
    """What all cells share: a distillation, as in its YAML file."""
    teach: Overrides | None = None
    """How each task's teacher is fine-tuned, as in the YAML file of `teach` (the data are the
    task's); without it, base or tasks name a teacher."""
    teachers: Literal["one", "per_seed"] = "one"
    """One teacher for all seeds of a task, or one for each seed."""
    tasks: dict[str, Overrides] = Field(default_factory=_one_task, min_length=1)
    """Name -> what the task changes in the base, such as its data. `seeds` and `arms` there are
    the task's own."""
    arms: dict[str, Overrides] = Field(min_length=1)
    """Name -> what the arm changes in the base. `seeds` there are the arm's own."""
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Dotted field -> values; every arm is run with every combination of them."""
    seeds: Seeds = 5
    """Number of seeds (0, 1, …), or a list of them."""
    family: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(
        default_factory=list
    )
    """The primary family: pairs of arms, such as [learned, fixed], that get a verdict on every
    task. Declared before the runs; everything else is descriptive."""
    published: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)
    """Task -> arm -> score -> value that somebody has published, to be shown beside ours."""
    report: Literal["last", "best_on_dev", "selected"] = "last"
    """The epoch whose scores are compared."""
    split: Literal["validation", "holdout"] = "validation"
    """The rows whose scores are compared: a recipe is chosen on rows held out of training."""


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
        found: dict[str, Cell] = {}
        for cell in self.cells:
            found.setdefault(cell.name, cell)
        return found

    @property
    def teachers(self) -> dict[str, TeacherRun]:
        """Name -> fine-tuning, every content once."""
        return {cell.teacher.name: cell.teacher for cell in self.cells if cell.teacher}

    @cached_property
    def table(self) -> dict[str, dict[str, dict[int, Cell]]]:
        """Task -> arm -> seed -> cell, tasks and arms in the order of the file."""
        found: dict[str, dict[str, dict[int, Cell]]] = {}
        for cell in self.cells:
            found.setdefault(cell.task, {}).setdefault(cell.arm, {})[cell.seed] = cell
        return found

    @property
    def judged(self) -> list[tuple[str, str, str]]:
        """(task, first arm, second arm) of every comparison of the primary family."""
        return [
            (task, first, second)
            for task, arms in self.table.items()
            for first, second in self.study.family
            if first in arms and second in arms
        ]


def paper_study(name: str) -> Path:
    """The study that repeats the paper's table on one task.

    Args:
        name: A task of the paper, or `local-` and a task for the packaged model.

    Raises:
        ConfigError: If there is none of this name.
    """
    package = Path(__file__).parent
    folders = (package / "paper", package.parents[1] / "configs" / "paper")  # a wheel, a checkout
    found = {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}
    if name not in found:
        raise ConfigError(f"no table is called {name}; there are {', '.join(found)}")
    return found[name]


def load_study(file: Path, seeds: int | None = None) -> StudyConfig:
    """Read a study and check every cell of it.

    Args:
        file: YAML, of the shape of `StudyConfig`.
        seeds: Instead of the file's.

    Raises:
        ConfigError: Listing every problem at once, each by its line in the file.
    """
    study = load(StudyConfig, file, {} if seeds is None else {"seeds": seeds})
    problems = [*_problems(study, file), *_unknown_names(study)]
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) != 1)} in the study:"
        raise ConfigError("\n".join([count, *(f"  {problem}" for problem in problems)]))
    return study


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
    for task, arm, seed, given in _combinations(study):
        teacher = config = None
        try:
            if study.teach is not None:
                teacher = _teacher(study, task, seed, resolve=out is not None)
                given = merge(given, {"teacher": {"model": f"{TEACHERS}/{teacher.name}"}})
            if out is not None:
                places = given
                if teacher is not None:
                    place = out.absolute() / TEACHERS / teacher.name
                    places = merge(given, {"teacher": {"model": str(place)}})
                config = DistillConfig.model_validate(places)
        except ValidationError as error:
            problems |= dict.fromkeys(
                ": ".join(explain(DistillConfig, problem)) for problem in error.errors()
            )
            continue
        content = _content(DistillConfig, given)
        cells.append(Cell(_name(content), task, arm, seed, content, config, teacher))
    if problems:
        raise ConfigError("\n".join(problems))
    cells.sort(key=lambda cell: cell.seed)  # stable: within a seed the order of the file
    return Plan(study, tuple(cells))


def _combinations(study: StudyConfig) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """(task, arm, seed, what the distillation is given), arm by arm."""
    for task, of_task in study.tasks.items():
        for arm, label, of_arm in _arms(study):
            if arm not in of_task.get("arms", study.arms):
                continue
            seeds: Any = of_arm.get("seeds", of_task.get("seeds", study.seeds))
            given = _distillation(study.base)
            for changes in (of_task, of_arm):
                given = merge(given, _distillation(changes))
            for seed in range(seeds) if isinstance(seeds, int) else seeds:
                yield task, label, seed, given | {"seed": seed}


def _arms(study: StudyConfig) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, name with the values on the axes, changes)."""
    leaves = [field.rpartition(".")[2] for field in study.axes]
    shown = [
        leaf if leaves.count(leaf) == 1 else field
        for field, leaf in zip(study.axes, leaves, strict=True)
    ]
    for arm, changes in study.arms.items():
        for values in itertools.product(*study.axes.values()):
            label = ", ".join([arm, *(f"{n}={v}" for n, v in zip(shown, values, strict=True))])
            chosen = nest(dict(zip(study.axes, values, strict=True)))
            own = {key: value for key, value in changes.items() if key in OWN}
            yield arm, label, merge(_distillation(changes), chosen) | own


def _distillation(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a distillation among the keys of a base, task or arm, sections spelled out."""
    return spell_out(DistillConfig, {k: v for k, v in changes.items() if k not in OWN})


def _teacher(study: StudyConfig, task: str, seed: int, *, resolve: bool) -> TeacherRun:
    """The fine-tuning that gives a cell its teacher: on the task's data, whatever the arm."""
    assert study.teach is not None
    data: dict[str, Any] = {}
    for changes in (study.base, study.tasks[task]):
        data = merge(data, _distillation(changes).get("data", {}))
    wanted = merge(spell_out(TeachConfig, study.teach), {"data": data})
    if study.teachers == "per_seed":
        wanted["seed"] = seed
    name = _name(_content(TeachConfig, wanted))
    return TeacherRun(name, task, TeachConfig.model_validate(wanted) if resolve else None)


def _content(kind: type[Config], given: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config, with places as they were written."""
    config = kind.model_validate(given, context={"expand": False})
    dumped: dict[str, Any] = config.model_dump(mode="json")
    for section, places in NOT_CONTENT.items():
        if section in dumped:
            dumped[section] = {k: v for k, v in dumped[section].items() if k not in places}
    return dumped


def _name(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _problems(study: StudyConfig, file: Path) -> list[str]:
    """What is wrong with a cell or a teacher, each once, by its line in the file."""
    _, lines = read_yaml(file)
    found: dict[str, None] = {}

    def check(kind: type[Config], given: Mapping[str, Any], *parents: str) -> None:
        try:
            kind.model_validate(given, context={"expand": False})
        except ValidationError as error:
            for problem in error.errors():
                name, message = explain(kind, problem)
                keys = [f"{parent}.{name}" for parent in parents]
                short = [key.rpartition(".")[0] for key in keys]  # a section written as one word
                key = next((key for key in [*keys, *short] if key in lines), None)
                place = name if key is None else f"{file}:{lines[key]}: {key}"
                found[f"{place}: {message}"] = None

    for task, label, _, given in _combinations(study):
        arm = next(arm for arm in study.arms if label == arm or label.startswith(f"{arm}, "))
        check(DistillConfig, given, "axes", f"arms.{arm}", f"tasks.{task}", "base")
    if study.teach is not None:
        check(TeachConfig, spell_out(TeachConfig, study.teach), "teach")
    return list(found)


def _unknown_names(study: StudyConfig) -> list[str]:
    """Names of arms and tasks that stand in the study, but that it does not have."""
    labels = [label for _, label, _ in _arms(study)]
    named = [("family", arm, labels) for pair in study.family for arm in pair]
    named += [("published", arm, labels) for arms in study.published.values() for arm in arms]
    named += [("published", task, list(study.tasks)) for task in study.published]
    named += [
        (f"tasks.{task}.arms", arm, list(study.arms))
        for task, changes in study.tasks.items()
        for arm in changes.get("arms", ())
    ]
    problems: dict[str, None] = {}
    for where, arm, known in named:
        if arm not in known:
            close = difflib.get_close_matches(arm, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
            problems[f"{where}: nothing is called {arm}{hint}"] = None
    return list(problems)
