"""Finds labels that are probably wrong: rows on which a model, trained without them, disagrees."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray

from layermix.atomic import whole_file, write_text
from layermix.config import AuditConfig, DataConfig, DistillConfig, TeachConfig, to_yaml
from layermix.console import Reporter
from layermix.data.soft_labels import PREFIX
from layermix.data.splits import HAS_LABEL, PROBABILITIES, folds_of, take, texts_of
from layermix.data.texts import TextData, load_texts
from layermix.data.writing import row_writer
from layermix.errors import ConfigError, DataError, RunExistsError
from layermix.models.loading import load_classifier
from layermix.runs.layout import PREDICTIONS, RESULT
from layermix.runs.pipeline import distill_from, teach_from
from layermix.runs.schema import read_result
from layermix.runs.soft_labels import soft_fingerprint

Probabilities = NDArray[np.float64]
"""(N, C)."""


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        rows: Number of rows.
        other_answers: Rows for which the model's class is not that of the label.
        share: The mean disagreement, in [0, 1].
    """

    rows: int
    other_answers: int
    share: float


def audit(config: AuditConfig, out: Path, ending: str, reporter: Reporter | None = None) -> Audit:
    """Fine-tune a model for each fold without the fold's rows, and write all training rows.

    The rows on which label and model disagree most come first. The disagreement of a row is the
    total variation ½ Σ_c |p_c − q_c| between the model's probabilities q and the label's: p is 1
    for the label, or the soft label where a row has no other (with a label it is 1 − q_label, the
    "self-confidence" of confident learning: Northcutt et al., arXiv 1911.00068).

    An audit that was stopped leaves its folds in `OUT.folds`, and the same call continues it.

    Args:
        config: Must name a model and data.
        out: The file to write.
        ending: Its format, one of `writing.ENDINGS`.
        reporter: Where progress is shown; quiet if None.

    Raises:
        LayermixError: Says what was found, what was wanted, and what to do.
    """
    reporter = reporter or Reporter(quiet=True)
    if config.model is None:
        raise ConfigError("no model to fine-tune: give --model FOLDER, a hub id, or minilm")
    texts = _with_all_rows(load_texts(config.data, soft_labels="beside"), config.data.train_rows)
    if texts.problem.form != "class":
        raise ConfigError(
            f"{texts.source}: its labels are for {texts.problem.name}, wanted one class for each "
            "row; an audit of other labels is not supported"
        )
    _check_columns(texts)
    rows = texts.splits["train"]
    folds = np.asarray(folds_of(rows, config.folds))
    _check_folds(texts, folds, config.folds)
    work = out.with_name(f"{out.name}.folds")
    data = f"{texts.fingerprint} {soft_fingerprint(texts)}"
    _begin(work, f"{to_yaml(config)}# data: {data}\n")
    answers: Probabilities = np.zeros((len(rows), len(texts.label_names)))
    for fold in range(config.folds):
        reporter.say(f"fold {fold + 1} of {config.folds}")
        answers[folds == fold] = _fold_answers(
            config, texts, folds == fold, work / str(fold), reporter
        )
    found = _given(texts)
    disagreement = np.abs(found - answers).sum(1) / 2
    with whole_file(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write = row_writer(file, ending, _columns(texts))
        for values in _rows(texts, answers, disagreement):
            write(values)
    shutil.rmtree(work)
    other = int((found.argmax(1) != answers.argmax(1)).sum())
    return Audit(len(rows), other, float(disagreement.mean()))


def _with_all_rows(texts: TextData, rows: int | None) -> TextData:
    """The training rows, with those that were split off for validation; so many if not all."""
    train = texts.splits["train"]
    if texts.split_off:
        train = concatenate_datasets([train, texts.splits["validation"]])
        train = train.select(np.argsort(train["row_id"][:]))
    return replace(texts, splits={"train": train if rows is None else take(train, rows)})


def _check_folds(texts: TextData, folds: NDArray[Any], count: int) -> None:
    """Raise a DataError if a fold has no rows, or leaves one class to train on."""
    labels = np.asarray(texts.splits["train"]["label"][:])
    for fold in range(count):
        if not (folds == fold).any() or len(set(labels[folds != fold])) < 2:
            raise DataError(
                [
                    f"{texts.source}: {len(labels)} training rows are too few for {count} folds: "
                    "each fold needs rows (with data.group_column a group), and two classes in the "
                    "others; give fewer (--folds) or more rows"
                ]
            )


def _begin(work: Path, settings: str) -> None:
    """Make the folder of the folds, or check that the one that is there has these settings.

    Raises:
        RunExistsError: If it has others.
    """
    file = work / "audit.yaml"
    if not work.exists():
        work.mkdir()
        write_text(file, settings)
    elif not file.is_file() or file.read_text(encoding="utf-8") != settings:
        raise RunExistsError(
            f"{work}: holds the folds of an audit with other settings or data; remove it, or "
            "choose another --out"
        )


def _fold_answers(
    config: AuditConfig, texts: TextData, held: NDArray[np.bool_], folder: Path, reporter: Reporter
) -> Probabilities:
    """The probabilities for the held rows, of a model that was fine-tuned on the others."""
    if not (folder / RESULT).is_file():
        rows = texts.splits["train"]
        train, validation = rows.select(np.flatnonzero(~held)), rows.select(np.flatnonzero(held))
        splits = {"train": train, "validation": validation}
        _train(config, replace(texts, splits=splits), folder, reporter)
    saved = read_result(folder).metrics.saved_epoch
    table = pq.read_table(folder / PREDICTIONS, filters=[("report", "==", saved)])
    columns = [np.asarray(table[f"{PREFIX}{name}"]) for name in texts.label_names]
    in_order = np.argsort(np.asarray(table["row_id"]))
    answers: Probabilities = np.stack(columns, 1)[in_order].astype(np.float64)
    return answers


def _train(config: AuditConfig, texts: TextData, folder: Path, reporter: Reporter) -> None:
    assert config.model is not None
    model = load_classifier(config.model, texts.label_names, seed=config.seed)
    data = DataConfig(max_length=config.data.max_length)
    if texts.soft_labels is None:
        plain = TeachConfig(seed=config.seed, data=data, loss=config.loss, training=config.training)
        teach_from(model, texts, plain, out=folder, resume=True, reporter=reporter)
        return
    soft = DistillConfig.model_validate(
        {
            "preset": "soft",
            "seed": config.seed,
            "data": data.model_dump(),
            "teacher": {"allow_weak": True},
            "loss": config.loss.model_dump(),
            "training": config.training.model_dump(),
        }
    )
    distill_from(None, model, texts, soft, out=folder, resume=True, reporter=reporter)


def _given(texts: TextData) -> Probabilities:
    """The probabilities that the data give: 1 for the label, or the soft label without one."""
    rows = texts.splits["train"]
    labels = np.asarray(rows["label"][:])
    given: Probabilities = np.eye(len(texts.label_names))[labels]
    if texts.soft_labels is not None:
        without = ~np.asarray(rows[HAS_LABEL][:])
        given[without] = np.asarray(rows[PROBABILITIES][:])[without]
    return given


OWN_COLUMNS = ("row", "answer", "answer_probability", "label_probability", "disagreement")


def _columns(texts: TextData) -> list[str]:
    soft = [] if texts.soft_labels is None else [f"{PREFIX}{name}" for name in texts.label_names]
    return [*texts.text_columns, "label", *soft, *OWN_COLUMNS]


def _check_columns(texts: TextData) -> None:
    """Raise a ConfigError if a text column has the name of a column that the table adds."""
    names = Counter(_columns(texts))
    if repeated := [name for name in texts.text_columns if names[name] > 1]:
        raise ConfigError(
            f"the text column {repeated[0]!r} has the name of a column of the table that audit "
            "writes; rename it in the file"
        )


def _rows(
    texts: TextData, answers: Probabilities, disagreement: NDArray[np.float64]
) -> Iterator[list[Any]]:
    """Yields the rows of the table, the most doubtful first, in the order of `_columns`."""
    rows: Dataset = texts.splits["train"]
    texts_of_rows, labels, row_ids = texts_of(rows), rows["label"][:], rows["row_id"][:]
    is_soft = texts.soft_labels is not None
    soft = rows[PROBABILITIES][:] if is_soft else [[]] * len(rows)
    labelled = rows[HAS_LABEL][:] if is_soft else [True] * len(rows)
    for row in np.argsort(-disagreement, kind="stable").tolist():
        label, answer = labels[row], int(answers[row].argmax())
        yield [
            *texts_of_rows[row],
            texts.label_names[label] if labelled[row] else None,
            *(round(value, 6) for value in soft[row]),
            row_ids[row] + 1,
            texts.label_names[answer],
            round(float(answers[row, answer]), 6),
            round(float(answers[row, label]), 6),
            round(float(disagreement[row]), 6),
        ]
