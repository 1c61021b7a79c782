"""A study's folder: where its cells are, and which files of each are kept."""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layermix.atomic import lock, temporary_of, whole_file, whole_folder, write_text
from layermix.config import dump_yaml, read_own_yaml
from layermix.runs.layout import (
    ALPHA,
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
        """File the results of a finished run, with paths as the user wrote them."""
        work, target = self.work(cell), self.filed(cell.name)
        with lock(self.folder / WORK / FILING):  # another process may file the same cell
            if not self.has(cell.name):
                self._file(work, target, _places(cell), keep_student=keep_student)
            discarded = work.with_name(f".{work.name}{DISCARDED}")
            shutil.rmtree(discarded, ignore_errors=True)  # of a filing that was killed
            with suppress(FileNotFoundError):  # renamed first: a kill must not leave half a run
                work.rename(discarded)
                shutil.rmtree(discarded)

    def tidy(self) -> None:
        """Removes what a kill left of runs whose cells are filed."""
        with lock(self.folder / WORK / FILING):
            self._drop_discarded()
            for old in (self.folder / CELLS).glob(temporary_of(Path("*")).name):
                shutil.rmtree(old)
        for teacher in (self.folder / TEACHERS).glob("*"):
            if teacher.suffix != PARTIAL:
                unlocked(teacher)

    def _drop_discarded(self) -> None:
        for old in (self.folder / WORK).glob(f".*{DISCARDED}"):
            shutil.rmtree(old)

    def _file(
        self, work: Path, target: Path, places: Mapping[str, str], *, keep_student: bool
    ) -> None:
        self._keep_texts(work)
        with whole_folder(target, replace=True) as folder:
            for name in (*KEPT, *([ALPHA] if (work / ALPHA).is_file() else [])):
                if name == PREDICTIONS:
                    shutil.copy(work / name, folder)
                else:
                    text = _portable_text(work / name, places)
                    (folder / name).write_text(text, encoding="utf-8")
            if keep_student:
                shutil.copytree(work / "student", folder / "student")
                card = folder / "student" / "README.md"
                text = _portable(card.read_text(encoding="utf-8"), places)
                card.write_text(text, encoding="utf-8")

    def _keep_texts(self, work: Path) -> None:
        """Once for all cells of the same data; a run of an older version has none."""
        texts = self.texts(read_result(work).data.fingerprint or "")
        if texts.is_file() or not (work / TEXTS).is_file():
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


def _portable_text(file: Path, places: Mapping[str, str]) -> str:
    """The text of a JSON or YAML file with paths as the user wrote them."""
    if file.suffix == ".yaml":
        return dump_yaml(_portable(read_own_yaml(file), places))
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        value = _portable(json.loads(text), places)
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return text  # the history holds numbers only


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
        if Path(place).is_absolute():  # a word like "data" may occur anywhere
            value = value.replace(place, written)
    return value
