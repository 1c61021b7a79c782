"""Runs the cells of a study, several at once, and files their results; resumes after a kill.

A cell is computed in `work/`. Its results are filed in `cells/`, under a name that follows from its
content; a filed cell is never computed again. An `Executor` decides where runs are executed, the
scheduler which and when.
"""

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from layermix.atomic import LockedError, lock, write_text
from layermix.config import to_yaml
from layermix.errors import StudyError
from layermix.runs.layout import CONFIG, PARTIAL, RESULT, is_busy
from layermix.studies.executor import Executor, Handle, Job
from layermix.studies.folder import IGNORED, LOGS, WORK, Study
from layermix.studies.local_processes import LocalProcesses
from layermix.studies.plan import Cell, Plan, TeacherRun

POLL_SECONDS = 0.2

SCHEDULER = ".scheduler"
"""Held in WORK by the scheduler that works there, by one of them if there are several."""

STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that stop a study as Ctrl-C does: SIGHUP comes when its terminal is closed."""


@dataclass
class Scheduler:
    """Starts the runs that can start, files those that have finished, and shows both.

    Args:
        plan: The runs.
        study: Folder of the study.
        jobs: Number of runs at once.
        console: Where progress is shown.
        keep_students: Whether to file the students as well.
        executor: Where runs are executed; if None on this machine, each in a process.
    """

    plan: Plan
    study: Study
    jobs: int
    console: Console
    keep_students: bool = False
    executor: Executor | None = None
    running: dict[str, Handle] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    began: dict[str, tuple[float, float]] = field(default_factory=dict)
    under_way: dict[str, tuple[float, float]] = field(default_factory=dict)
    durations: dict[str, list[float]] = field(default_factory=dict)
    estimate_shown: bool = False
    left_over_shown: bool = False

    def run(self) -> None:
        """Run all cells that are not finished.

        Raises:
            StudyError: If some failed; the others are finished by then.
        """
        self.study.folder.mkdir(parents=True, exist_ok=True)
        (self.study.folder / WORK).mkdir(exist_ok=True)
        self.study.tidy()
        ignore = self.study.folder / ".gitignore"
        if not ignore.exists():
            write_text(ignore, IGNORED)
        waiting: dict[str, Cell | TeacherRun] = {}
        for name, cell in self.plan.runs.items():
            if not self.study.has(name) or self.study.work(cell).is_dir():
                if cell.teacher is not None and not self.study.has(name):
                    waiting.setdefault(cell.teacher.name, cell.teacher)
                waiting[name] = cell
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        executor = self.executor or LocalProcesses(self.study.folder / LOGS, threads)
        with self._only_one() as is_only_one, self._shown(), _stopped_at_the_end(executor):
            while waiting or self.running:
                for name, run in list(waiting.items()):
                    if self._settled(run):
                        del waiting[name]
                left_over = self._left_over(waiting.values()) if is_only_one else 0
                for run in waiting.values():
                    if len(self.running) + left_over < self.jobs and self._may_start(run):
                        self._start(run, executor)
                self._show_first_estimate()
                time.sleep(POLL_SECONDS)
        if self.failed:
            raise StudyError(self._failures())

    def _settled(self, run: Cell | TeacherRun) -> bool:
        """Whether nothing is left to do for a run: finished, failed, or without its teacher."""
        handle = self.running.get(run.name)
        if handle is not None and handle.is_running():
            return False
        if handle is not None:
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
        if handle is None or is_busy(self.study.work(run)):
            return False
        self.began.pop(run.name, None)  # estimates do not use failed runs
        self.failed[run.name] = handle.error()
        self.console.print(f"failed: {run.title}: {self.failed[run.name]}", soft_wrap=True)
        return True

    @contextmanager
    def _only_one(self) -> Iterator[bool]:
        """Whether no other scheduler works in this folder."""
        with ExitStack() as stack:
            try:
                stack.enter_context(lock(self.study.folder / WORK / SCHEDULER, wait=False))
            except LockedError:
                yield False
            else:
                yield True

    def _left_over(self, waiting: Iterable[Cell | TeacherRun]) -> int:
        """How many runs of a scheduler that was killed have not ended yet; says so once."""
        busy = [
            run for run in waiting if run.name not in self.running and is_busy(self.study.work(run))
        ]
        if busy and not self.left_over_shown:
            self.left_over_shown = True
            titles = ", ".join(run.title for run in busy)
            self.console.print(
                f"still running from an earlier command, and counted: {titles}",
                markup=False,
                soft_wrap=True,
            )
        return len(busy)

    def _may_start(self, run: Cell | TeacherRun) -> bool:
        if run.name in self.running or is_busy(self.study.work(run)):
            return False
        teacher = run.teacher if isinstance(run, Cell) else None
        return teacher is None or (self.study.work(teacher) / RESULT).is_file()

    def _start(self, run: Cell | TeacherRun, executor: Executor) -> None:
        assert run.config is not None
        restart = self._has_other_config(run)
        if restart:
            self.console.print(
                f"starting over: {run.title} was started with other settings or paths",
                soft_wrap=True,
            )
        self.began[run.name] = time.monotonic(), 0.0 if restart else self._share(run)
        self.under_way.pop(run.name, None)
        job = Job(run.name, run.config, self.study.work(run), restart)
        self.running[run.name] = executor.start(job)

    def _has_other_config(self, run: Cell | TeacherRun) -> bool:
        """Whether an unfinished run was begun with another config, such as other paths."""
        assert run.config is not None
        work = self.study.work(run)
        begun = work.with_name(f"{work.name}{PARTIAL}") / CONFIG
        return begun.is_file() and begun.read_text("utf-8") != to_yaml(run.config)

    def _share(self, run: Cell | TeacherRun) -> float:
        return self.study.share(run) if isinstance(run, Cell) else 0.0

    def _finished(self, cell: Cell) -> None:
        if cell.name in self.began:
            began, share = self.began.pop(cell.name)
            seconds = (time.monotonic() - began) / (1 - min(share, 0.99))
            self.durations.setdefault(cell.task, []).append(seconds)
        if not self.console.is_terminal:
            done = f"{sum(map(self.study.has, self.plan.runs))} of {len(self.plan.runs)}"
            left = self._time_left()
            self.console.print(
                f"{done}: {cell.title}: {self._score(cell, 4)}{left and f', {left}'}",
                soft_wrap=True,
            )

    def _show_first_estimate(self) -> None:
        """Without a live table: show the time left once, when the first steps allow an estimate."""
        if self.estimate_shown or self.console.is_terminal or not (left := self._time_left()):
            return
        self.estimate_shown = True
        if not any(self.durations.values()):  # else a finished cell has shown it already
            self.console.print(f"estimated from the first steps: {left}", soft_wrap=True)

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
                "Correct the cause and give the same command again: finished cells are kept, "
                f"failed ones are tried again. Logs are in {self.study.folder / LOGS}",
            ]
        )

    # -- what is shown -----------------------------------------------------------------------------

    @contextmanager
    def _shown(self) -> Iterator[None]:
        if not self.console.is_terminal or self.console.quiet:
            yield
            return
        with Live(get_renderable=self._table, console=self.console, refresh_per_second=1):
            yield

    def _table(self) -> Table:
        """Arms × seeds: the score, the progress, or the failure."""
        done = sum(map(self.study.has, self.plan.runs))
        left = self._time_left()
        table = Table(
            title=f"{self.plan.study.title}: {done} of {len(self.plan.runs)}{left and f', {left}'}"
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
        """The compared score of a finished cell."""
        spec = self.plan.study
        try:
            result = self.study.result(cell.name)
        except (OSError, ValueError):  # the analysis says what to do
            return "damaged"
        epoch = result.metrics.epochs.get(spec.report)
        score = None if epoch is None else epoch.score(result.metric, spec.split)
        return "damaged" if score is None else f"{score:.{digits}f}"

    def _time_left(self) -> str:
        """An estimate from the durations of finished cells, or from the progress of running ones.

        Empty if nothing is known yet.
        """
        left = [
            cell
            for cell in self.plan.runs.values()
            if not self.study.has(cell.name) and cell.name not in self.failed
        ]
        expected = {
            cell.task: seconds for cell in left if (seconds := self._expected(cell)) is not None
        }
        if not expected:
            return ""
        mean = sum(expected.values()) / len(expected)  # for tasks that have not begun
        seconds = sum(expected.get(cell.task, mean) * (1 - self.study.share(cell)) for cell in left)
        return f"about {_duration(seconds / self.jobs)} left" if seconds else ""

    def _expected(self, cell: Cell) -> float | None:
        """Seconds for a whole cell; None if no cell of its task has got far enough."""
        if durations := self.durations.get(cell.task):
            return sum(durations) / len(durations)
        for name, (began, share) in list(self.began.items()):
            other = self.plan.runs.get(name)
            if other is None or other.task != cell.task:
                continue
            now, done = time.monotonic(), self.study.share(other)
            if done <= share:
                continue
            # Between two readings, since the time before the first step is long and occurs once.
            first, seen = self.under_way.setdefault(name, (now, done))
            if done < seen:  # it was started over
                self.under_way[name] = now, done
            if done > seen:
                whole = (now - first) / (done - seen)
                return whole + max(0.0, first - began - whole * (seen - share))
        return None


@contextmanager
def _stopped_at_the_end(executor: Executor) -> Iterator[None]:
    """Stop all runs when the scheduler ends early, by a signal too; they can be resumed."""
    before = {
        number: handler
        for number in STOPPING
        if threading.current_thread() is threading.main_thread()
        # `nohup` ignores SIGHUP
        and (handler := signal.getsignal(number)) != signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        executor.stop()


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _duration(seconds: float) -> str:
    """A duration as text.

    Examples:
        >>> [_duration(seconds) for seconds in (40, 200, 9000)]
        ['40 s', '3 min', '2.5 h']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
