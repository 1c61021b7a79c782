"""What a model without a neural network has on the tasks of a study, kept beside its cells."""

from collections.abc import Callable

from layermix.atomic import write_text
from layermix.errors import ConfigError, StudyError
from layermix.runs.reader import reason_of
from layermix.runs.schema import FORMAT, ScoresBySplit, read_text
from layermix.studies.folder import Study
from layermix.studies.plan import Plan
from layermix.studies.schema import BaselinesRecord


def add_baselines(plan: Plan, study: Study, say: Callable[[str], object]) -> None:
    """Fits a baseline to each task that has none yet, and writes their scores.

    The rows are those of the task's first arm.

    Args:
        plan: With places.
        study: Its folder.
        say: Is given a line for each task.

    Raises:
        StudyError: If the file of baselines is damaged.
        LayermixError: If the data of a task cannot be used.
    """
    from layermix.models.loading import problem_of_model  # these import torch
    from layermix.runs.baseline import TFIDF, baseline

    found = dict(read_baselines(study))
    for task, arms in plan.table.items():
        if task in found:
            continue
        cell = next(iter(next(iter(arms.values())).values()))
        assert cell.config is not None  # the plan has places
        # A teacher that the study makes is taught as the data say; another one says what it knows.
        models = () if cell.teacher else cell.config.teacher.models
        try:
            scores = baseline(cell.config, problem_of_model(models[0]) if models else None)
        except ConfigError as error:
            say(f"{task}: no baseline ({error})")
            continue
        found[task] = {TFIDF: ScoresBySplit.model_validate(scores)}
        numbers = found[task][TFIDF].splits[plan.study.split].numbers
        name = next(name for name in numbers if name != "rows")
        say(f"{task}: {TFIDF} and a linear model have {name} {numbers[name]:.4f}")
        record = BaselinesRecord(format=FORMAT, tasks=found)
        study.folder.mkdir(parents=True, exist_ok=True)
        write_text(study.baselines_file, record.to_json())


def read_baselines(study: Study) -> dict[str, dict[str, ScoresBySplit]]:
    """Returns the baselines of a study: task -> name -> scores; none if there is no file.

    Raises:
        StudyError: If the file is damaged.
    """
    file = study.baselines_file
    if not file.is_file():
        return {}
    try:
        return BaselinesRecord.from_json(read_text(file)).tasks
    except ValueError as error:
        raise StudyError(
            f"{file} is damaged ({reason_of(error)}); remove it, and --baselines makes it again"
        ) from None
