"""Runs the cells of a study, several at once, each in a process of its own; goes on after a kill.

A cell is computed in `work/`, and what is worth keeping of it is filed in `cells/` under the name
of its content. What is filed is never computed again.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from layermix.atomic import write_text
from layermix.config import to_yaml
from layermix.errors import StudyError
from layermix.runs.layout import CONFIG, RESULT, is_busy
from layermix.studies.folder import IGNORED, LOGS, UNREADABLE, WORK, Study
from layermix.studies.plan import Cell, Plan, TeacherRun

POLL_SECONDS = 0.2
STOP_SECONDS = 20.0
"""How long a stopped cell may take to leave its folder in order."""


@dataclass
class Scheduler:
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
                start_new_session=True,  # Ctrl-C reaches the scheduler, who tells the others
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
        """Stop what still runs if the scheduler is stopped; it can be resumed."""
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
            score = result.metrics.epochs[wanted.report].score(result.metric, wanted.split)
        except UNREADABLE:  # the analysis says what to do about it
            return "damaged"
        return "damaged" if score is None else f"{score:.{digits}f}"

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
