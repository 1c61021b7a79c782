"""A study's folder: where its cells are, and which files of each are kept."""

import errno
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layermix.atomic import lock, temporary_of, whole_file, whole_folder, write_text
from layermix.config import DistillConfig, dump_yaml, read_own_yaml, to_yaml
from layermix.runs.layout import (
    ALPHA,
    CARD,
    CONFIG,
    DISCARDED,
    ENVIRONMENT,
    HISTORY,
    PARTIAL,
    PREDICTIONS,
    RESULT,
    TEXTS,
    unlocked,
)
from layermix.runs.schema import RunRecord, read_result
from layermix.studies.plan import TEACHERS, Cell, TeacherRun

FILING = ".filing"
"""Held while a cell is filed."""

CELLS, WORK, LOGS = "cells", "work", "logs"
KEPT = (CONFIG, RESULT, HISTORY, ENVIRONMENT, PREDICTIONS)
"""Files of a run that are always filed; ALPHA if there is one, the student on request."""
STUDENT = "student"


TEXT_FOLDER = "texts"
"""Validation texts by fingerprint of the data, for the report; it ignores itself."""


IGNORED = f"# Large, or only of use while cells run.\n/{WORK}/\n/{TEACHERS}/\n/{LOGS}/\n"


PLAN_SUFFIX = ".plan.json"


@dataclass(frozen=True)
class Study:
    """The folder of a study: where its cells are, finished or not.

    Attributes:
        folder: May hold several studies, which then share cells and teachers.
        name: Name of the plan and result files.
    """

    folder: Path
    name: str = "results"

    @property
    def plan_file(self) -> Path:
        """The plan as it was run, for readers without the study's own file."""
        return self.folder / f"{self.name}{PLAN_SUFFIX}"

    @property
    def declared_file(self) -> Path:
        """What was declared, and when."""
        return self.folder / f"{self.name}.declared.json"

    @property
    def results_file(self) -> Path:
        """What the cells show, as JSON; the same as Markdown is beside it."""
        return self.folder / f"{self.name}.json"

    @property
    def baselines_file(self) -> Path:
        """Scores of models without a neural network, if they were asked for."""
        return self.folder / f"{self.name}.baselines.json"

    def filed(self, name: str) -> Path:
        """The folder with the kept files of a finished cell."""
        return self.folder / CELLS / name

    def has(self, name: str) -> bool:
        """Whether a cell is finished."""
        return all((self.filed(name) / file).is_file() for file in KEPT)

    def result(self, name: str) -> RunRecord:
        """result.json of a finished cell.

        Raises:
            OSError, ValueError: If it cannot be read, or is damaged.
        """
        return read_result(self.filed(name))

    def seconds(self, name: str) -> float | None:
        """Training time of a finished cell; None if it is not on record."""
        try:
            return self.result(name).timings.training_seconds
        except (OSError, ValueError):
            return None

    def texts(self, fingerprint: str) -> Path:
        """The validation texts of some data, which cells do not hold."""
        return self.folder / TEXT_FOLDER / f"{fingerprint}.parquet"

    def work(self, run: Cell | TeacherRun) -> Path:
        """The run folder of the process that computes it."""
        return self.folder / (TEACHERS if isinstance(run, TeacherRun) else WORK) / run.name

    def share(self, cell: Cell) -> float:
        """How much of an unfinished cell is done, from 0 to 1, by its live history."""
        work = self.work(cell)
        history = work.with_name(f"{work.name}{PARTIAL}") / HISTORY
        try:
            with history.open("rb") as file:
                file.seek(max(0, history.stat().st_size - 20_000))
                last = file.read().splitlines()[-1]
            return float(json.loads(last)["epoch"]) / int(cell.content["training"]["epochs"])
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return 0.0  # not started, or an incomplete line

    def file(self, cell: Cell, *, keep_student: bool) -> None:
        """File the results of a finished run, with paths as the user wrote them.

        The run's folder itself becomes the cell's, by one renaming at the end. A filing that is
        killed before it is done again.
        """
        work = self.work(cell)
        with lock(self.folder / WORK / FILING):  # another process may file the same cell
            if not self.has(cell.name):
                self._file(cell, keep_student=keep_student)
            elif work.is_dir():
                self._discard(work)

    def tidy(self) -> None:
        """Removes what a kill left of runs whose cells are filed."""
        with lock(self.folder / WORK / FILING):
            self._drop_discarded()
            for old in (self.folder / CELLS).glob(temporary_of(Path("*")).name):
                shutil.rmtree(old)
        for teacher in (self.folder / TEACHERS).glob("*"):
            if teacher.suffix != PARTIAL:
                unlocked(teacher)

    def _discard(self, folder: Path) -> None:
        """Removes a folder; renames it first: a kill must not leave half of it under its name."""
        discarded = self.folder / WORK / f".{folder.name}{DISCARDED}"
        shutil.rmtree(discarded, ignore_errors=True)  # of a filing that was killed
        folder.rename(discarded)
        shutil.rmtree(discarded)

    def _drop_discarded(self) -> None:
        for old in (self.folder / WORK).glob(f".*{DISCARDED}"):
            shutil.rmtree(old)

    def _file(self, cell: Cell, *, keep_student: bool) -> None:
        work, target, places = self.work(cell), self.filed(cell.name), _places(cell)
        self._keep_texts(work)
        kept = {*KEPT, ALPHA, *([STUDENT] if keep_student else [])}
        for extra in [one for one in work.iterdir() if one.name not in kept]:
            if extra.is_dir():
                self._discard(extra)
            else:
                extra.unlink()
        if places:
            _make_portable(work / CONFIG, places, cell.config)
            for file in filter(Path.is_file, (work / RESULT, work / STUDENT / CARD)):
                _make_portable(file, places)
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)  # what is there is no finished cell
        try:
            work.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:  # one of the two is a link to another disk
                raise
            with whole_folder(target) as folder:
                shutil.copytree(work, folder, dirs_exist_ok=True)
            self._discard(work)

    def _keep_texts(self, work: Path) -> None:
        """Once for all cells of the same data; a run of an older version has none."""
        if not (work / TEXTS).is_file():
            return
        texts = self.texts(read_result(work).data.fingerprint or "")
        if texts.is_file():
            return
        texts.parent.mkdir(exist_ok=True)
        write_text(texts.with_name(".gitignore"), "# Your data.\n*\n")
        with whole_file(texts) as temporary:
            shutil.copyfile(work / TEXTS, temporary)


def _places(cell: Cell) -> dict[str, str]:
    """Path on this machine -> path as the user wrote it, the longest first."""
    assert cell.config is not None
    here = cell.config.model_dump(mode="json")
    places = {
        here[section][name]: written
        for section, fields in cell.content.items()
        if isinstance(fields, Mapping)
        for name, written in fields.items()
        if isinstance(written, str) and here[section][name] != written
    }
    if folder := here["cache"]["folder"]:
        places[folder] = "(the cache)"
    return dict(sorted(places.items(), key=lambda item: -len(item[0])))


def _make_portable(
    file: Path, places: Mapping[str, str], config: DistillConfig | None = None
) -> None:
    """Rewrites a file of a run with paths as the user wrote them.

    Args:
        file: JSON, YAML or any text.
        places: Path on this machine -> path as the user wrote it.
        config: What a file of YAML should hold; read from the file if it holds something else.
    """
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".yaml":
        if config is not None and text == to_yaml(config):
            value = config.model_dump(mode="json")
        else:
            value = read_own_yaml(file)
        text = dump_yaml(_portable(value, places))
    elif file.suffix == ".json":
        value = _portable(json.loads(text), places)
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    else:
        text = _portable(text, places)
    write_text(file, text)


def _portable(value: Any, places: Mapping[str, str]) -> Any:
    """Replace paths of this machine in all strings of a value."""
    if isinstance(value, dict):
        return {key: _portable(inner, places) for key, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner, places) for inner in value]
    if not isinstance(value, str):
        return value
    for place, written in places.items():
        if value == place:
            return written
        # a word like "data" may occur anywhere
        if place in value and Path(place).is_absolute():
            value = value.replace(place, written)
    return value
