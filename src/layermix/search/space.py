"""The students that a search tries: every combination of the values on its axes."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from layermix.config import DistillConfig, explain, field_names, merge, nest, problems_of
from layermix.errors import ConfigError
from layermix.studies.spec import not_a_field

Axes = Mapping[str, Sequence[Any]]
"""Dotted field of a distillation -> its values."""

DEPTHS = (1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3)
"""Shares of the teacher's blocks that are tried by default."""
VOCABULARIES = (None, "occurring")
"""Vocabularies that are tried by default: the teacher's, and the words of the training texts."""
DEPTH_FIELDS = ("layers", "blocks", "model")
"""Fields of the student that say how many blocks it has."""
MOST_CANDIDATES = 100
"""Most students of a search."""
ANY_DATA = ("data.augment", "data.augment_ways")
"""Fields of the data that may be an axis: they leave all rows with labels as they are."""
OF_SEARCH = {
    "seed": "a search takes fresh seeds for the last comparison",
    "training.selection": "a search holds out rows to choose on, and trains on all in the end",
}
"""Fields that a search sets, and why."""


@dataclass(frozen=True)
class Candidate:
    """A student that may be chosen.

    Attributes:
        name: Its values on the axes, such as `layers 2, vocabulary occurring`.
        changes: What it changes in the base, by section.
    """

    name: str
    changes: Mapping[str, Any]


def parse_axis(text: str) -> tuple[str, tuple[Any, ...]]:
    """The field and the values of `FIELD=VALUE,VALUE`; null leaves the field as it is.

    Values that have commas are written as a YAML list: `student.blocks=[[0, 3], [1, 4]]`.

    Raises:
        ConfigError: If it has another form.

    Examples:
        >>> parse_axis("student.layers=1,2"), parse_axis("student.vocabulary=null,occurring")
        (('student.layers', (1, 2)), ('student.vocabulary', (None, 'occurring')))
        >>> parse_axis("student.blocks=[[0, 3], [1, 4]]")
        ('student.blocks', ([0, 3], [1, 4]))
    """
    field, sign, written = text.partition("=")
    listed = written.strip() if written.strip().startswith("[") else f"[{written}]"
    try:
        values = yaml.safe_load(listed)
    except (yaml.YAMLError, ValueError):  # the second one for what looks like a date and is none
        values = None
    if not field.strip() or not sign or not values:
        raise ConfigError(
            f"--axis: found {text!r}, wanted a field and its values, such as student.layers=1,2,3"
        )
    return field.strip(), tuple(values)


def default_axes(depth: int, settings: DistillConfig) -> Axes:
    """The axes of a search whose user names none: numbers of blocks, and vocabularies.

    Args:
        depth: Number of the teacher's blocks.
        settings: What the base says about the student is no axis.
    """
    student, axes = settings.student, dict[str, Sequence[Any]]()
    if student.model is None and student.blocks is None and student.layers is None:
        axes["student.layers"] = sorted({max(1, round(share * depth)) for share in DEPTHS})
    if student.vocabulary is None:
        axes["student.vocabulary"] = VOCABULARIES
    return axes


def check_axes(axes: Sequence[tuple[str, tuple[Any, ...]]]) -> Axes:
    """The axes as a mapping.

    Raises:
        ConfigError: Listing fields that are none, that are named twice, or that a search cannot
            vary.
    """
    fields, problems = field_names(DistillConfig), list[str]()
    named = [field for field, _ in axes]
    for field, values in axes:
        if field not in fields:
            problems.append(f"--axis {field}: {not_a_field(field)}")
        elif (why := _not_to_vary(field)) is not None:
            problems.append(f"--axis {field}: {why}")
        elif named.count(field) > 1:
            problems.append(
                f"--axis {field}: named {named.count(field)} times; give all its values"
            )
        elif len({str(value) for value in values}) < len(values):
            problems.append(f"--axis {field}: a value is named twice in {list(values)}")
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return dict(axes)


def _not_to_vary(field: str) -> str | None:
    """Why a field cannot be an axis; None if it can."""
    if field in OF_SEARCH:
        return OF_SEARCH[field]
    section = field.partition(".")[0]
    if section in ("teacher", "cache") or (section == "data" and field not in ANY_DATA):
        return f"all students of a search have the same {section}"
    if field == "training.holdout_fraction":
        return "all students of a search are compared on the same rows"
    return None


def candidates(base: Mapping[str, Any], axes: Axes) -> list[Candidate]:
    """Every combination of values, in the order of the axes.

    Args:
        base: The distillation that they change, as written.
        axes: May be empty: then the base is the only one.

    Raises:
        ConfigError: Listing every combination that is no distillation, or if they are too many.
    """
    count = math.prod(map(len, axes.values()))
    if count > MOST_CANDIDATES:
        raise ConfigError(
            f"the axes make {count:,} students, wanted at most {MOST_CANDIDATES}; give fewer values"
        )
    made, problems = list[Candidate](), dict[str, None]()
    leaves = [field.rpartition(".")[2] for field in axes]
    names = [
        leaf if leaves.count(leaf) == 1 else field for field, leaf in zip(axes, leaves, strict=True)
    ]
    for values in itertools.product(*axes.values()):
        given = [(name, value) for name, value in zip(names, values, strict=True)]
        name = ", ".join(f"{name} {_shown(value)}" for name, value in given if value is not None)
        chosen = zip(axes, values, strict=True)
        changes = nest({field: value for field, value in chosen if value is not None})
        made.append(Candidate(name or "as given", changes))
        try:
            DistillConfig.model_validate(merge(base, changes), context={"expand": False})
        except ValidationError as error:
            for problem in problems_of(error):
                field, message = explain(DistillConfig, problem)
                problems[f"{name or 'as given'}: {field}: {message}"] = None
    if problems:
        raise ConfigError("\n".join(["the axes make students that cannot be:", *problems]))
    return made


def ask_for_other_layers(students: Sequence[Candidate]) -> bool:
    """Whether students differ in depth or mix, so that other layers of the teacher teach them."""
    asked = set[str]()
    for one in students:
        student = one.changes.get("student", {})
        asked.add(repr([one.changes.get("mix"), *(student.get(name) for name in DEPTH_FIELDS)]))
    return len(asked) > 1


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
