"""The student without a teacher that `--baselines` adds to a study, as arms like any other."""

from collections.abc import Mapping

from pydantic import ValidationError

from layermix.config import merge, problems_of
from layermix.errors import ConfigError
from layermix.studies.plan import OF_STUDENTS, Cell, make_plan
from layermix.studies.spec import StudyConfig, Variant, arms_of

CONTROL = "ce_only"
"""The name of the arm."""
OF_TEACHER = ("logit_weight", "hidden_weight", "embedding_weight", "attention_weight")
"""Weights of the terms of the loss that use the teacher."""
LABELS_ALONE = {"loss": dict.fromkeys(OF_TEACHER, 0)}

Cells = Mapping[int, Cell]
"""Seed -> cell of an arm on a task."""


def with_control(study: StudyConfig) -> tuple[StudyConfig, tuple[str, ...]]:
    """Returns the study with a student that learns from labels alone on each task, and remarks.

    It is the student of the task's first arm, with the same seeds and settings and weight 0 for all
    that uses the teacher: an arm `ce_only` at the end, in no pair of the family, so that it is
    described and never judged. A task that has such an arm gets none.

    Args:
        study: From `load_study`.

    Raises:
        ConfigError: If that makes more cells than a study may have.
    """
    wanted: dict[str, list[str]] = {}  # first arm -> tasks
    remarks = []
    table = make_plan(study, None).table
    for task, arms in table.items():
        first = next(iter(arms))
        cell = next(iter(arms[first].values()))
        if not cell.content["teacher"]["model"]:
            remarks.append(
                f"{task}: no {CONTROL} is added, as its data may have no labels but soft"
            )
        elif not any(_is_control(cells, arms[first]) for cells in arms.values()):
            wanted.setdefault(first, []).append(task)
    if not wanted:
        return study, tuple(remarks)
    names, more = _names(study, list(wanted))
    return _with_arms(_without_axes(study), wanted, names, table), (*remarks, *more)


def _names(study: StudyConfig, firsts: list[str]) -> tuple[dict[str, str], list[str]]:
    """Returns the name of the new arm by the first arm that it follows, and remarks on it."""
    taken = {*study.arms, *(label for _, label, _ in arms_of(study))}
    if len(firsts) == 1 and CONTROL not in taken:
        return {firsts[0]: CONTROL}, []
    names = {first: f"{CONTROL} of {first}" for first in firsts}
    if twice := taken.intersection(names.values()):
        raise ConfigError(f"--baselines adds an arm {min(twice)}, but the study has one; rename it")
    if CONTROL not in taken:
        return names, []
    return names, [
        f"the study's arm {CONTROL} is not the first arm's student with labels alone and the same "
        f"seeds, so {' and '.join(names.values())} is added"
    ]


def _is_control(cells: Cells, first: Cells) -> bool:
    """Whether an arm has the first arm's student, data and seeds, and learns from labels alone."""
    if not first.keys() <= cells.keys():
        return False
    own, others = (next(iter(one.values())).content for one in (cells, first))
    loss = own["loss"]
    return (
        bool(loss["supervised_weight"])
        and not any(loss[weight] for weight in OF_TEACHER)
        and own["student"] == others["student"]
        and _labelled(own) == _labelled(others)
    )


def _labelled(content: Mapping[str, object]) -> dict[str, object]:
    """The settings of the data but for those of rows without labels."""
    data = content["data"]
    assert isinstance(data, Mapping)
    return {key: value for key, value in data.items() if key not in (*OF_STUDENTS, "unlabeled")}


def _without_axes(study: StudyConfig) -> StudyConfig:
    """The same cells under the same names, each combination of values on the axes an arm itself."""
    if not study.axes:
        return study
    arms: dict[str, Variant] = {}
    labels: dict[str, list[str]] = {}
    for name, label, changes in arms_of(study):
        arms[label] = Variant.model_validate({**changes, "seeds": study.arms[name].seeds})
        labels.setdefault(name, []).append(label)
    tasks = {
        name: task
        if task.arms is None
        else task.model_copy(update={"arms": [one for arm in task.arms for one in labels[arm]]})
        for name, task in study.tasks.items()
    }
    return study.model_copy(update={"arms": arms, "tasks": tasks, "axes": {}})


def _with_arms(
    study: StudyConfig,
    wanted: Mapping[str, list[str]],
    names: Mapping[str, str],
    table: Mapping[str, Mapping[str, Cells]],
) -> StudyConfig:
    """The study with the arm `names[first]` on the tasks `wanted[first]`."""
    arms, tasks = dict(study.arms), dict(study.tasks)
    for first, of_tasks in wanted.items():
        variant = study.arms[first]
        changes = merge(variant.changes, LABELS_ALONE)
        if not all(_supervised(table[task][first]) for task in of_tasks):
            changes = merge(changes, {"loss": {"supervised_weight": 1}})
        arms[names[first]] = Variant.model_validate({**changes, "seeds": variant.seeds})
        for task in of_tasks:
            own = tasks[task].arms or list(study.arms)
            tasks[task] = tasks[task].model_copy(update={"arms": [*own, names[first]]})
    for name, variant in tasks.items():
        if variant.arms is None:  # it must not get the new arms of other tasks
            tasks[name] = variant.model_copy(update={"arms": list(study.arms)})
    try:
        return StudyConfig.model_validate(
            {**dict(study), "arms": _given(arms), "tasks": _given(tasks)}
        )
    except ValidationError as error:
        reasons = "; ".join(str(problem["msg"]) for problem in problems_of(error))
        raise ConfigError(f"with {CONTROL}, which --baselines adds: {reasons}") from None


def _given(variants: Mapping[str, Variant]) -> dict[str, dict[str, object]]:
    return {name: variant.model_dump(exclude_defaults=True) for name, variant in variants.items()}


def _supervised(cells: Cells) -> bool:
    """Whether an arm learns from labels, too."""
    return bool(next(iter(cells.values())).content["loss"]["supervised_weight"])
