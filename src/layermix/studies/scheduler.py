"""Runs the cells of a study, several at once, each in a process of its own; goes on after a kill.

A cell is computed in `work/`, and what is worth keeping of it is filed in `cells/` under the name
of its content. What is filed is never computed again.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from rich.console import Console
from rich.live import Live
from rich.table import Table

from layermix.config import to_yaml
from layermix.errors import StudyError
from layermix.runs.layout import (
    ALPHA,
    CONFIG,
    ENVIRONMENT,
    HISTORY,
    PREDICTIONS,
    RESULT,
    TEXTS,
    is_busy,
    write_text,
)
from layermix.studies.plan import TEACHERS, Cell, Plan, TeacherRun

CELLS, WORK, LOGS = "cells", "work", "logs"
FILING = ".filing"
"""Held while a cell is filed."""
KEPT = (CONFIG, RESULT, HISTORY, ENVIRONMENT, PREDICTIONS)
"""Files of a run that are filed, and ALPHA if it is there; the student only if it is wanted."""
TEXT_FOLDER = "texts"
"""Validation texts by fingerprint of the data, for the report; it ignores itself."""
IGNORED = f"# Large, or only of use while cells run.\n/{WORK}/\n/{TEACHERS}/\n/{LOGS}/\n"
UNREADABLE = (OSError, ValueError, KeyError, TypeError)
"""What reading a record raises that is not there, or damaged."""
POLL_SECONDS = 0.2
STOP_SECONDS = 20.0
"""How long a stopped cell may take to leave its folder in order."""


@dataclass(frozen=True)
class Study:
    """The folder of a study: where its cells are, finished or not.

    Attributes:
        folder: May hold several studies, which then share cells and teachers.
        name: Of the files with what this one found.
    """

    folder: Path
    name: str = "results"

    def filed(self, name: str) -> Path:
        """What is kept of a finished cell."""
        return self.folder / CELLS / name

    def has(self, name: str) -> bool:
        """Whether a cell is finished."""
        return all((self.filed(name) / file).is_file() for file in KEPT)

    def result(self, name: str) -> dict[str, Any]:
        """result.json of a finished cell."""
        found: dict[str, Any] = json.loads((self.filed(name) / RESULT).read_text(encoding="utf-8"))
        return found

    def seconds(self, name: str) -> float | None:
        """How long a finished cell trained; None if it is not finished, or damaged."""
        try:
            return float(self.result(name)["timings"]["training_seconds"])
        except UNREADABLE:
            return None

    def texts(self, fingerprint: str) -> Path:
        """The validation texts of some data, which cells do not hold."""
        return self.folder / TEXT_FOLDER / f"{fingerprint}.parquet"

    def work(self, run: Cell | TeacherRun) -> Path:
        """The run folder that its process makes."""
        return self.folder / (TEACHERS if isinstance(run, TeacherRun) else WORK) / run.name

    def share(self, cell: Cell) -> float:
        """How much of an unfinished cell is done, from 0 to 1, by its live history."""
        work = self.work(cell)
        history = work.with_name(f"{work.name}.partial") / HISTORY
        try:
            with history.open("rb") as file:
                file.seek(max(0, history.stat().st_size - 20_000))
                last = file.read().splitlines()[-1]
            return float(json.loads(last)["epoch"]) / int(cell.content["training"]["epochs"])
        except (OSError, ValueError, KeyError, IndexError):  # not begun, or a line half written
            return 0.0

    def file(self, cell: Cell, *, keep_student: bool) -> None:
        """Keep what is worth keeping of a finished run, with places as the user wrote them."""
        work, target = self.work(cell), self.filed(cell.name)
        with FileLock(self.folder / WORK / FILING):  # another process may file the same cell
            if not self.has(cell.name):
                self._file(work, target, _places(cell), keep_student=keep_student)
            shutil.rmtree(work, ignore_errors=True)

    def _file(
        self, work: Path, target: Path, places: Mapping[str, str], *, keep_student: bool
    ) -> None:
        writing = target.with_name(f".{target.name}.writing")
        for leftover in (writing, target):  # of a kill, or a cell that somebody has taken apart
            shutil.rmtree(leftover, ignore_errors=True)
        writing.mkdir(parents=True)
        self._keep_texts(work)
        for name in (*KEPT, *([ALPHA] if (work / ALPHA).is_file() else [])):
            if name == PREDICTIONS:
                shutil.copy(work / name, writing)
            else:
                text = _portable_text(work / name, places)
                (writing / name).write_text(text, encoding="utf-8")
        if keep_student:
            shutil.copytree(work / "student", writing / "student")
            card = writing / "student" / "README.md"
            text = _portable(card.read_text(encoding="utf-8"), places)
            card.write_text(text, encoding="utf-8")
        writing.rename(target)

    def _keep_texts(self, work: Path) -> None:
        """Once for all cells of the same data; a run of an older version has none."""
        texts = self.texts(json.loads((work / RESULT).read_text("utf-8"))["data"]["fingerprint"])
        if texts.is_file() or not (work / TEXTS).is_file():
            return
        texts.parent.mkdir(exist_ok=True)
        write_text(texts.with_name(".gitignore"), "# Your data.\n*\n")
        partial = texts.with_suffix(".writing")
        shutil.copy(work / TEXTS, partial)
        partial.rename(texts)


def _places(cell: Cell) -> dict[str, str]:
    """Place on this machine -> as the user wrote it, the longest first."""
    assert cell.config is not None
    here = cell.config.model_dump(mode="json")
    found = {
        here[section][name]: written
        for section, fields in cell.content.items()
        if isinstance(fields, Mapping)
        for name, written in fields.items()
        if isinstance(written, str) and here[section][name] != written
    }
    if folder := here["cache"]["folder"]:
        found[folder] = "(the cache)"
    return dict(sorted(found.items(), key=lambda one: -len(one[0])))


def _portable_text(file: Path, places: Mapping[str, str]) -> str:
    """The text of a JSON or YAML file with places as the user wrote them."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".yaml":
        value = _portable(yaml.safe_load(text), places)
        written: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
        return written
    if file.suffix == ".json":
        value = _portable(json.loads(text), places)
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return text  # the history holds numbers only


def _portable(value: Any, places: Mapping[str, str]) -> Any:
    """Strings that are, or hold, a place on this machine, wherever they stand in a value."""
    if isinstance(value, dict):
        return {key: _portable(inner, places) for key, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner, places) for inner in value]
    if not isinstance(value, str):
        return value
    for place, written in places.items():
        if value == place:
            return written
        if Path(place).is_absolute():  # a word like "data" may stand anywhere
            value = value.replace(place, written)
    return value


@dataclass
class Conductor:
    """Starts what can be started, files what is finished, and shows both.

    Args:
        plan: What is to be run.
        study: Where.
        jobs: Processes at once.
        console: Where progress is shown.
        keep_students: Whether students are filed as well.
    """

    plan: Plan
    study: Study
    jobs: int
    console: Console
    keep_students: bool = False
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    began: dict[str, tuple[float, float]] = field(default_factory=dict)
    under_way: dict[str, tuple[float, float]] = field(default_factory=dict)
    took: dict[str, list[float]] = field(default_factory=dict)
    early_told: bool = False

    def run(self) -> None:
        """Run all cells that are not finished.

        Raises:
            StudyError: If some failed; the others are finished by then.
        """
        self.study.folder.mkdir(parents=True, exist_ok=True)
        (self.study.folder / WORK).mkdir(exist_ok=True)
        ignore = self.study.folder / ".gitignore"
        if not ignore.exists():
            write_text(ignore, IGNORED)
        waiting: dict[str, Cell | TeacherRun] = {}
        for name, cell in self.plan.runs.items():
            if not self.study.has(name) or self.study.work(cell).is_dir():
                if cell.teacher is not None and not self.study.has(name):
                    waiting.setdefault(cell.teacher.name, cell.teacher)
                waiting[name] = cell
        with self._shown(), self._stopped_at_the_end():
            while waiting or self.running:
                for name, run in list(waiting.items()):
                    if self._settled(run):
                        del waiting[name]
                for run in waiting.values():
                    if len(self.running) < self.jobs and self._may_start(run):
                        self._start(run)
                self._tell_early()
                time.sleep(POLL_SECONDS)
        if self.failed:
            raise StudyError(self._failures())

    def _settled(self, run: Cell | TeacherRun) -> bool:
        """Whether nothing is left to do for a run: finished, failed, or without its teacher."""
        process = self.running.get(run.name)
        if process is not None and process.poll() is None:
            return False
        if process is not None:
            del self.running[run.name]
        if (self.study.work(run) / RESULT).is_file():
            if isinstance(run, Cell):
                self.study.file(run, keep_student=self.keep_students)
                self._finished(run)
            return True
        if isinstance(run, Cell):
            if self.study.has(run.name):  # by another process
                return True
            if run.teacher is not None and run.teacher.name in self.failed:
                self.failed[run.name] = "its teacher could not be fine-tuned"
                return True
        if process is None or is_busy(self.study.work(run)):
            return False
        self.began.pop(run.name, None)  # its progress tells nothing any more
        self.failed[run.name] = self._error(run)
        self.console.print(f"failed: {run.title}: {self.failed[run.name]}", markup=False)
        return True

    def _may_start(self, run: Cell | TeacherRun) -> bool:
        if run.name in self.running or is_busy(self.study.work(run)):
            return False
        teacher = run.teacher if isinstance(run, Cell) else None
        return teacher is None or (self.study.work(teacher) / RESULT).is_file()

    def _start(self, run: Cell | TeacherRun) -> None:
        assert run.config is not None
        logs = self.study.folder / LOGS
        logs.mkdir(exist_ok=True)
        config = logs / f"{run.name}.yaml"
        write_text(config, to_yaml(run.config))
        command = "teach" if isinstance(run, TeacherRun) else "distill"
        work = self.study.work(run)
        how = self._how(work, config)
        if how == "--restart":
            self.console.print(
                f"from the start: {run.title} was begun with other settings or places",
                markup=False,
                soft_wrap=True,
            )
        arguments = [command, str(config), "--out", str(work), how]
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        done = 0.0 if how == "--restart" else self._share(run)
        self.began[run.name] = time.monotonic(), done
        self.under_way.pop(run.name, None)
        with self._log(run).open("wb") as log:
            self.running[run.name] = subprocess.Popen(
                # -P: a file in the user's folder must not stand in for a module
                [sys.executable, "-P", "-m", "layermix", *arguments, "--quiet", "--json"],
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={"OMP_NUM_THREADS": str(threads), **os.environ},
                start_new_session=True,  # Ctrl-C reaches the conductor, who tells the others
            )

    @staticmethod
    def _how(work: Path, config: Path) -> str:
        """Resume an unfinished run, unless it was begun elsewhere, with other places."""
        begun = work.with_name(f"{work.name}.partial") / CONFIG
        same = not begun.is_file() or begun.read_text("utf-8") == config.read_text("utf-8")
        return "--resume" if same else "--restart"

    def _share(self, run: Cell | TeacherRun) -> float:
        return self.study.share(run) if isinstance(run, Cell) else 0.0

    def _finished(self, cell: Cell) -> None:
        if cell.name in self.began:
            began, share = self.began.pop(cell.name)
            seconds = (time.monotonic() - began) / (1 - min(share, 0.99))
            self.took.setdefault(cell.task, []).append(seconds)
        if not self.console.is_terminal:
            done = f"{sum(map(self.study.has, self.plan.runs))} of {len(self.plan.runs)}"
            self.console.print(
                f"{done}: {cell.title}: {self._score(cell, 4)}{self._time_left()}",
                markup=False,
                soft_wrap=True,
            )

    def _tell_early(self) -> None:
        """Where there is no live table: the time left once, as soon as the first steps tell it."""
        if self.early_told or self.console.is_terminal or not (left := self._time_left()):
            return
        self.early_told = True
        if not any(self.took.values()):  # else a finished cell has told it already
            self.console.print(f"from the first steps: {left.removeprefix(', ')}", soft_wrap=True)

    def _log(self, run: Cell | TeacherRun) -> Path:
        return self.study.folder / LOGS / f"{run.name}.log"

    def _error(self, run: Cell | TeacherRun) -> str:
        """What a failed process said last."""
        said = self._log(run).read_text(encoding="utf-8", errors="replace").strip()
        message = said.rpartition("Error: ")[2] if "Error: " in said else said[-500:]
        return message or f"it ended without a word (killed?); see {self._log(run)}"

    def _failures(self) -> str:
        titles = {
            **{name: teacher.title for name, teacher in self.plan.teachers.items()},
            **{name: cell.title for name, cell in self.plan.runs.items()},
        }
        done = sum(map(self.study.has, self.plan.runs))
        lines = [f"  {titles[name]}: {why}" for name, why in self.failed.items()]
        return "\n".join(
            [
                f"{len(self.failed)} of the runs failed; {done} of {len(self.plan.runs)} cells are "
                "finished:",
                *lines,
                "Mend the cause and give the same command again: finished cells are kept, failed "
                f"ones are tried again. Logs are in {self.study.folder / LOGS}",
            ]
        )

    @contextmanager
    def _stopped_at_the_end(self) -> Iterator[None]:
        """Stop what still runs if the conductor is stopped; it can be resumed."""
        before = signal.getsignal(signal.SIGTERM)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main:
            signal.signal(signal.SIGTERM, _interrupt)
        try:
            yield
        finally:
            if in_main:
                signal.signal(signal.SIGTERM, before)
            for stop in (_ask, subprocess.Popen.terminate, subprocess.Popen.kill):
                left = [one for one in self.running.values() if one.poll() is None]
                for process in left:
                    stop(process)
                until = time.monotonic() + STOP_SECONDS
                for process in left:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(max(0, until - time.monotonic()))

    # -- what is shown -----------------------------------------------------------------------------

    @contextmanager
    def _shown(self) -> Iterator[None]:
        if not self.console.is_terminal or self.console.quiet:
            yield
            return
        with Live(get_renderable=self._table, console=self.console, refresh_per_second=1):
            yield

    def _table(self) -> Table:
        """Arms × seeds: a score, how much is done, or what is wrong."""
        done = sum(map(self.study.has, self.plan.runs))
        table = Table(
            title=f"{self.plan.study.title}: {done} of {len(self.plan.runs)}{self._time_left()}"
        )
        for column in ("task", "arm", "by seed"):
            table.add_column(column, overflow="fold")
        for task, arms in self.plan.table.items():
            for arm, cells in arms.items():
                table.add_row(task, arm, "  ".join(self._state(cell) for cell in cells.values()))
        return table

    def _state(self, cell: Cell) -> str:
        if self.study.has(cell.name):
            return self._score(cell, 3).replace("0.", ".")
        if cell.name in self.failed:
            return "failed"
        share = self.study.share(cell)
        return f"{share:.0%}" if cell.name in self.running or share else "·"

    def _score(self, cell: Cell, digits: int) -> str:
        """What the study compares of a finished cell."""
        wanted = self.plan.study
        try:
            result = self.study.result(cell.name)
            score = float(result["metrics"][wanted.report][wanted.split][result["metric"]])
        except UNREADABLE:  # the findings say what to do about it
            return "damaged"
        return f"{score:.{digits}f}"

    def _time_left(self) -> str:
        """From what the cells of a task took, or from how far the running ones are."""
        left = [
            cell
            for cell in self.plan.runs.values()
            if not self.study.has(cell.name) and cell.name not in self.failed
        ]
        known = {cell.task: took for cell in left if (took := self._expected(cell)) is not None}
        if not known:
            return ""
        mean = sum(known.values()) / len(known)  # of the tasks that have not begun nothing is known
        seconds = sum(known.get(cell.task, mean) * (1 - self.study.share(cell)) for cell in left)
        return f", about {_duration(seconds / self.jobs)} left" if seconds else ""

    def _expected(self, cell: Cell) -> float | None:
        """Seconds that a whole cell takes; None if none of its task is far enough to tell."""
        if took := self.took.get(cell.task):
            return sum(took) / len(took)
        for name, (began, share) in list(self.began.items()):
            other = self.plan.runs.get(name)
            if other is None or other.task != cell.task:
                continue
            now, done = time.monotonic(), self.study.share(other)
            if done <= share:
                continue
            # Between two sights: what comes before the first step is long, and comes once.
            first, seen = self.under_way.setdefault(name, (now, done))
            if done < seen:  # it began anew
                self.under_way[name] = now, done
            if done > seen:
                whole = (now - first) / (done - seen)
                return whole + max(0.0, first - began - whole * (seen - share))
        return None


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _ask(process: "subprocess.Popen[bytes]") -> None:
    """Ctrl-C, so that a run leaves its folder in order."""
    if sys.platform == "win32":
        process.terminate()
    else:
        process.send_signal(signal.SIGINT)


def _duration(seconds: float) -> str:
    """For people.

    Examples:
        >>> [_duration(seconds) for seconds in (40, 200, 9000)]
        ['40 s', '3 min', '2.5 h']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
