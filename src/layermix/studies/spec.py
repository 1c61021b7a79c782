"""The content of a study file (tasks, variants, seeds, comparisons), and its checks."""

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from layermix.config import (
    Config,
    DistillConfig,
    Section,
    TeachConfig,
    explain,
    field_names,
    load,
    merge,
    nest,
    problems_of,
    read_yaml,
    spell_out,
)
from layermix.errors import ConfigError


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a seed is named twice in {seeds}")
    return seeds


def _number(seeds: int | list[int]) -> int:
    return seeds if isinstance(seeds, int) else len(seeds)


def _or_empty(value: Any) -> Any:
    return {} if value is None else value


Overrides = Annotated[dict[str, Any], BeforeValidator(_or_empty)]


Score = Literal[
    "accuracy",
    "f1",
    "f1_macro",
    "matthews",
    "pearson",
    "spearman",
    "mae",
    "f1_micro",
    "f1_samples",
    "exact_match",
    "entity_f1",
    "entity_precision",
    "entity_recall",
]
"""As in `evaluation.weighted_scores`, whose SciPy would cost every `--help` half a second."""


MOST_SEEDS = 1_000
"""Most seeds of an arm."""
MOST_CELLS = 10_000
"""Most distillations of a study."""

Seeds = (
    Annotated[int, Field(ge=1, le=MOST_SEEDS)]
    | Annotated[
        list[Annotated[int, Field(ge=0)]],
        Field(min_length=1, max_length=MOST_SEEDS),
        AfterValidator(_different),
    ]
)


class Variant(Section):
    """A task or an arm: fields of a distillation that it changes, and perhaps seeds of its own.

    A task may also choose its arms, and change how its teacher is fine-tuned.
    """

    model_config = ConfigDict(extra="allow")

    seeds: Seeds | None = None
    arms: list[str] | None = None
    teach: Overrides | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of a distillation, sections spelled out."""
        return spell_out(DistillConfig, self.model_extra or {})


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
    tasks: dict[str, Annotated[Variant, BeforeValidator(_or_empty)]] = Field(
        default_factory=lambda: {"task": Variant()}, min_length=1
    )
    """Name -> what the task changes in the base, such as its data. `seeds`, `arms` and `teach`
    there are the task's own; `teach` is laid over that of the study."""
    arms: dict[str, Annotated[Variant, BeforeValidator(_or_empty)]] = Field(min_length=1)
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
    published: dict[str, dict[str, dict[Score, float]]] = Field(default_factory=dict)
    """Task -> arm -> score -> value that somebody has published, to be shown beside ours."""
    report: Literal["last", "best_on_dev", "selected"] = "last"
    """The epoch whose scores are compared."""
    split: Literal["validation", "holdout"] = "validation"
    """The rows whose scores are compared: a recipe is chosen on rows held out of training."""

    @model_validator(mode="after")
    def _of_a_size_that_can_be_run(self) -> Self:
        values = math.prod(map(len, self.axes.values()))
        cells = sum(
            values * _number(self.arms[name].seeds or task.seeds or self.seeds)
            for task in self.tasks.values()
            for name in self.arms
            if task.arms is None or name in task.arms
        )
        if cells > MOST_CELLS:
            raise ValueError(
                f"tasks, arms, values on axes and seeds make {cells:,} distillations, wanted at "
                f"most {MOST_CELLS:,}; split the study"
            )
        return self


def paper_study(name: str) -> Path:
    """The study that repeats the paper's table on one task.

    Args:
        name: A task of the paper, or `local-` and a task for the packaged model.

    Raises:
        ConfigError: If there is none of this name.
    """
    package = Path(__file__).parents[1]
    folders = (package / "paper", package.parents[1] / "configs" / "paper")  # a wheel, a checkout
    tables = {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}
    if name not in tables:
        raise ConfigError(f"no table is called {name}; there are {', '.join(tables)}")
    return tables[name]


def load_study(file: Path, seeds: int | None = None) -> StudyConfig:
    """Read a study and check every cell of it.

    Args:
        file: YAML, of the shape of `StudyConfig`.
        seeds: Instead of the file's.

    Raises:
        ConfigError: Listing every problem at once, each by its line in the file.
    """
    study = load(StudyConfig, file, {} if seeds is None else {"seeds": seeds})
    wrong_axes = _wrong_axes(study)
    problems = [*wrong_axes, *_misplaced(study)]
    if not wrong_axes:  # else there are no cells, nor names of arms
        problems = [*_unknown_names(study), *problems]
        problems += [*_problems(study, file), *_unjudged(study), *_teacher_problems(study)]
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) != 1)} in the study:"
        raise ConfigError("\n".join([count, *(f"  {problem}" for problem in problems)]))
    return study


def _problems(study: StudyConfig, file: Path) -> list[str]:
    """Problems of cells and teachers, each once, by its line in the file."""
    _, lines = read_yaml(file)
    problems: dict[str, None] = {}

    def check(kind: type[Config], given: Mapping[str, Any], *parents: str) -> None:
        try:
            kind.model_validate(given, context={"expand": False})
        except ValidationError as error:
            for problem in problems_of(error):
                name, message = explain(kind, problem)
                keys = [f"{parent}.{name}" for parent in parents]
                short = [key.rpartition(".")[0] for key in keys]  # a section written as one word
                key = next((key for key in [*keys, *short] if key in lines), None)
                place = name if key is None else f"{file}:{lines[key]}: {key}"
                problems[f"{place}: {message}"] = None

    names = {label: name for name, label, _ in arms_of(study)}
    for task, label, _, given in combinations(study):
        check(DistillConfig, given, "axes", f"arms.{names[label]}", f"tasks.{task}", "base")
        selection = _section(spell_out(DistillConfig, given), "training").get("selection", "none")
        reports = REPORTED.get(selection, ())
        if reports and (study.report not in reports or study.split == "holdout" != selection):
            problems[
                f"report is {study.report} and split {study.split}, but {label} has "
                f"training.selection {selection}, which scores {' and '.join(reports)} on "
                f"validation{' and holdout' * (selection == 'holdout')}"
            ] = None
    if study.teach is not None:
        for task in study.tasks:
            check(TeachConfig, teach_of(study, task), f"tasks.{task}.teach", "teach")
    return list(problems)


def _section(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns a section of a distillation; an empty one where it is absent or no section."""
    section = given.get(name)
    return section if isinstance(section, Mapping) else {}


def _teacher_problems(study: StudyConfig) -> list[str]:
    """Cells without a teacher (and without a model that learns from soft labels), or with two."""
    named = {
        label: "model" in _section(given, "teacher") for _, label, _, given in combinations(study)
    }
    if study.teach is None:
        without = [
            label
            for _, label, _, given in combinations(study)
            if not named[label] and "model" not in _section(given, "student")
        ]
        return [
            f"{label} has no teacher: give teach (how to fine-tune one), or base: {{teacher: …}}; "
            "for data with soft labels, the model to train: base: {student: {model: …}}"
            for label in without[:1]
        ]
    twice = [label for label, there in named.items() if there]
    problems = [
        f"{label} names a teacher, but teach fine-tunes one; give one of the two"
        for label in twice[:1]
    ]
    return problems + ["teach names no model to fine-tune"] * ("model" not in study.teach)


def _unjudged(study: StudyConfig) -> list[str]:
    """Pairs of the family that have no task in common, or share no seed on one."""
    seeds: dict[str, dict[str, set[int]]] = {}
    for task, label, seed, _ in combinations(study):
        seeds.setdefault(task, {}).setdefault(label, set()).add(seed)
    known = {label for _, label, _ in arms_of(study)}  # `_unknown_names` reports others
    problems = []
    for first, second in study.family:
        if not {first, second} <= known:
            continue
        met = {task: arms for task, arms in seeds.items() if {first, second} <= arms.keys()}
        if not met:
            problems.append(f"family: no task has both {first} and {second}")
        problems += [
            f"family: {first} and {second} share no seed on {task}, so they are not paired there"
            for task, arms in met.items()
            if not arms[first] & arms[second]
        ]
    return problems


def _wrong_axes(study: StudyConfig) -> list[str]:
    """Axes that are not fields of a distillation."""
    fields = field_names(DistillConfig)
    wrong = [axis for axis in study.axes if axis not in fields or axis == "seed"]
    return [f"axes.{axis}: {not_a_field(axis)}" for axis in wrong]


def not_a_field(name: str) -> str:
    """What is wrong with a dotted name that is no field of a distillation, and what is like it."""
    close = difflib.get_close_matches(name, field_names(DistillConfig), n=1)
    return "not a field of a distillation" + (f"; did you mean {close[0]}?" if close else "")


def _misplaced(study: StudyConfig) -> list[str]:
    """Pairs of one arm or named twice; seeds, arms and teach in wrong places."""
    problems = []
    pairs = [frozenset(pair) for pair in study.family]
    for pair in study.family:
        if len(set(pair)) < 2:
            problems.append(f"family: {pair[0]} is compared with itself")
        elif pairs.count(frozenset(pair)) > 1:
            problems.append(f"family: {' and '.join(sorted(pair))} are named twice")
    places = {"base": study.base}
    places |= {f"tasks.{name}": task.model_extra or {} for name, task in study.tasks.items()}
    places |= {f"arms.{name}": arm.model_extra or {} for name, arm in study.arms.items()}
    problems += [
        f"{place}.seed: a study does not set one seed; give seeds, the number of them or a list"
        for place, fields in places.items()
        if "seed" in fields
    ]
    problems += [
        f"arms.{name}.{field}: only a task may have {field}"
        for name, arm in study.arms.items()
        for field in ("arms", "teach")
        if getattr(arm, field) is not None
    ]
    problems += [
        f"tasks.{name}.teach changes the study's teach, but there is none; add teach to the study"
        for name, task in study.tasks.items()
        if task.teach is not None and study.teach is None
    ]
    return list(dict.fromkeys(problems))


def _unknown_names(study: StudyConfig) -> list[str]:
    """Names of arms and tasks that the study uses but does not define."""
    labels = [label for _, label, _ in arms_of(study)]
    named = [("family", arm, labels) for pair in study.family for arm in pair]
    named += [("published", arm, labels) for arms in study.published.values() for arm in arms]
    named += [("published", task, list(study.tasks)) for task in study.published]
    named += [
        (f"tasks.{task}.arms", arm, list(study.arms))
        for task, changes in study.tasks.items()
        for arm in changes.arms or ()
    ]
    problems: dict[str, None] = {}
    for where, arm, known in named:
        if arm not in known:
            close = difflib.get_close_matches(arm, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
            problems[f"{where}: nothing is called {arm}{hint}"] = None
    return list(problems)


REPORTED = {"none": ("last", "best_on_dev"), "holdout": ("last", "selected")}
"""Epochs that are reported, by how the epoch is selected."""


def combinations(study: StudyConfig) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """(task, arm, seed, what the distillation is given), arm by arm."""
    for task, of_task in study.tasks.items():
        for name, label, changes in arms_of(study):
            if of_task.arms is not None and name not in of_task.arms:
                continue
            seeds: Any = study.arms[name].seeds or of_task.seeds or study.seeds
            given = merge(spell_out(DistillConfig, study.base), of_task.changes)
            given = merge(given, changes)
            for seed in range(seeds) if isinstance(seeds, int) else seeds:
                yield task, label, seed, given | {"seed": seed}


def arms_of(study: StudyConfig) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, name with the values on the axes, changes)."""
    leaves = [field.rpartition(".")[2] for field in study.axes]
    shown = [
        leaf if leaves.count(leaf) == 1 else field
        for field, leaf in zip(study.axes, leaves, strict=True)
    ]
    for arm, variant in study.arms.items():
        for values in itertools.product(*study.axes.values()):
            label = ", ".join([arm, *(f"{n}={v}" for n, v in zip(shown, values, strict=True))])
            chosen = nest(dict(zip(study.axes, values, strict=True)))
            yield arm, label, merge(variant.changes, chosen)


def teach_of(study: StudyConfig, task: str) -> dict[str, Any]:
    """How a task's teacher is fine-tuned, but for its data."""
    own = spell_out(TeachConfig, study.tasks[task].teach or {})
    return merge(spell_out(TeachConfig, study.teach or {}), own)
