"""What simple models have on the tasks of a study, kept beside its cells."""

from collections.abc import Callable, Iterator
from typing import Any

from layermix.atomic import write_text
from layermix.errors import ConfigError, ModelError, StudyError
from layermix.runs.reader import reason_of
from layermix.runs.schema import FORMAT, ScoresBySplit, read_text
from layermix.studies.folder import Study
from layermix.studies.plan import Cell, Plan
from layermix.studies.schema import BaselinesRecord

Say = Callable[[str], object]


def add_baselines(plan: Plan, study: Study, say: Say) -> None:
    """Fits to each task the baselines that it does not have yet, and writes their scores.

    The rows are those of the task's first arm, and static embeddings are made of its teacher.

    Args:
        plan: With places.
        study: Its folder.
        say: Is given a line for each baseline of a task, or why there is none.

    Raises:
        StudyError: If the file of baselines is damaged.
        LayermixError: If the data of a task cannot be used.
    """
    from layermix.models.static_embeddings import check_installed  # these import torch
    from layermix.runs.baseline import STATIC, TFIDF

    found = dict(read_baselines(study))
    wanted = [TFIDF, STATIC]
    try:
        check_installed()
    except ConfigError as error:
        say(f"no {STATIC}: {error}")
        wanted.remove(STATIC)
    embeddings: dict[str, Any] = {}  # tasks of one teacher share them
    for task, arms in plan.table.items():
        missing = [name for name in wanted if name not in found.get(task, {})]
        if not missing:
            continue
        cell = next(iter(next(iter(arms.values())).values()))
        for name, scores in _fitted(cell, missing, embeddings, say):
            found[task] = found.get(task, {}) | {name: scores}
            numbers = scores.splits[plan.study.split].numbers
            metric = next(metric for metric in numbers if metric != "rows")
            say(f"{task}: {name} and a linear model have {metric} {numbers[metric]:.4f}")
            record = BaselinesRecord(format=FORMAT, tasks=found)
            study.folder.mkdir(parents=True, exist_ok=True)
            write_text(study.baselines_file, record.to_json())


def _fitted(
    cell: Cell, names: list[str], embeddings: dict[str, Any], say: Say
) -> Iterator[tuple[str, ScoresBySplit]]:
    """Yields the baselines of a task with their scores; says which ones it cannot have."""
    from layermix.evaluation.tfidf import tfidf_values
    from layermix.models.loading import problem_of_model
    from layermix.runs.baseline import TFIDF, baseline_of, baseline_texts, static_embeddings

    assert cell.config is not None  # the plan has places
    # A teacher that the study makes is taught as the data say; another one says what it knows.
    models = () if cell.teacher else cell.config.teacher.models
    texts = baseline_texts(cell.config, problem_of_model(models[0]) if models else None)
    for name in names:
        try:
            values: Any = tfidf_values
            if name != TFIDF:
                source = str(_model_of(cell) or "")
                if source not in embeddings:
                    embeddings[source] = static_embeddings(source or None, say)
                values = embeddings[source]
            yield name, ScoresBySplit.model_validate(baseline_of(texts, cell.config, values))
        except (ConfigError, ModelError) as error:
            say(f"{cell.task}: no {name} ({error})")


def _model_of(cell: Cell) -> str | None:
    """The teacher, or what becomes it where the study makes it; for soft labels the student."""
    assert cell.config is not None
    if cell.teacher is not None:
        assert cell.teacher.config is not None
        return cell.teacher.config.model
    return next(iter(cell.config.teacher.models), cell.config.student.model)


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
