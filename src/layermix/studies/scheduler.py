"""Runs the cells of a study, several at once, and files their results; resumes after a kill.

A cell is computed in `work/`. Its results are filed in `cells/`, under a name that follows from its
content; a filed cell is never computed again. An `Executor` decides where runs are executed, the
scheduler which and when.
"""

import heapq
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
ASKED = 20
"""Of how many running cells the time that a whole one takes is estimated."""
LEFT_SECONDS = 2.0
"""How long an estimate of the time left is shown before it is made anew."""

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
    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    began: dict[str, tuple[float, float]] = field(default_factory=dict)
    under_way: dict[str, tuple[float, float]] = field(default_factory=dict)
    durations: dict[str, list[float]] = field(default_factory=dict)
    estimate_shown: bool = False
    begun_before: set[str] = field(default_factory=set)
    left_over_shown: bool = False
    left_shown: tuple[float, str] = (-LEFT_SECONDS, "")

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
        unfinished = (self.study.folder / WORK).glob(f"*{PARTIAL}")
        self.begun_before = {folder.name.removesuffix(PARTIAL) for folder in unfinished}
        waiting: dict[str, Cell | TeacherRun] = {}
        for name, cell in self.plan.runs.items():
            if self.study.has(name):
                self.done.add(name)
            elif cell.teacher is not None:
                waiting.setdefault(cell.teacher.name, cell.teacher)
            if name not in self.done or self.study.work(cell).is_dir():
                waiting[name] = cell
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        executor = self.executor or LocalProcesses(self.study.folder / LOGS, threads)
        queue = Queue(list(waiting.values()), self._has_ended)
        # Those that somebody works at, though not for this scheduler.
        elsewhere = queue.take(lambda run: is_busy(self.study.work(run)))
        with self._only_one() as is_only_one, self._shown(), _stopped_at_the_end(executor):
            while queue or self.running or elsewhere:
                self._collect(queue, elsewhere)
                if elsewhere and is_only_one:
                    self._show_left_over(elsewhere)
                self._start_more(queue, elsewhere, is_only_one, executor)
                self._show_first_estimate()
                time.sleep(POLL_SECONDS)
        if self.failed:
            raise StudyError(self._failures())

    def _collect(self, queue: "Queue", elsewhere: list[Cell | TeacherRun]) -> None:
        """Settle the runs that have ended, here or elsewhere."""
        for run in [queue.by_name[name] for name in self.running]:
            if self.running[run.name].is_running():
                continue
            handle = self.running.pop(run.name)
            if self._settled(run, handle):
                queue.release(run)
            else:
                elsewhere.append(run)
        for run in [run for run in elsewhere if not is_busy(self.study.work(run))]:
            elsewhere.remove(run)
            queue.put(run)

    def _start_more(
        self,
        queue: "Queue",
        elsewhere: list[Cell | TeacherRun],
        counts_elsewhere: bool,
        executor: Executor,
    ) -> None:
        """Start what may start, as long as there is room."""

        def room() -> int:
            others = len(elsewhere) if counts_elsewhere else 0
            return self.jobs - len(self.running) - others

        while room() > 0 and (run := queue.pop()) is not None:
            if self._settled(run):
                queue.release(run)
            elif is_busy(self.study.work(run)):
                elsewhere.append(run)
            else:
                self._start(run, executor)

    def _has_ended(self, run: TeacherRun) -> bool:
        return (self.study.work(run) / RESULT).is_file()

    def _settled(self, run: Cell | TeacherRun, handle: Handle | None = None) -> bool:
        """Whether nothing is left to do for a run: finished, failed, or without its teacher.

        Args:
            run: It is not running.
            handle: Of a job that has ended; None if none was started.
        """
        if (self.study.work(run) / RESULT).is_file():
            if isinstance(run, Cell):
                self.study.file(run, keep_student=self.keep_students)
                self._finished(run)
            return True
        if isinstance(run, Cell):
            if self.study.has(run.name):  # by another process
                self.done.add(run.name)
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

    def _show_left_over(self, busy: Iterable[Cell | TeacherRun]) -> None:
        """Say once which runs of a scheduler that was killed have not ended yet."""
        if self.left_over_shown:
            return
        self.left_over_shown = True
        titles = ", ".join(run.title for run in busy)
        self.console.print(
            f"still running from an earlier command, and counted: {titles}",
            markup=False,
            soft_wrap=True,
        )

    def _start(self, run: Cell | TeacherRun, executor: Executor) -> None:
        assert run.config is not None
        restart = self._has_other_config(run)
        if restart:
            self.console.print(
                f"starting over: {run.title} was started with other settings or paths",
                soft_wrap=True,
            )
        begun = 0.0 if restart or isinstance(run, TeacherRun) else self.study.share(run)
        self.began[run.name] = time.monotonic(), begun
        self.under_way.pop(run.name, None)
        job = Job(run.name, run.config, self.study.work(run), restart)
        self.running[run.name] = executor.start(job)

    def _has_other_config(self, run: Cell | TeacherRun) -> bool:
        """Whether an unfinished run was begun with another config, such as other paths."""
        assert run.config is not None
        work = self.study.work(run)
        begun = work.with_name(f"{work.name}{PARTIAL}") / CONFIG
        return begun.is_file() and begun.read_text("utf-8") != to_yaml(run.config)

    def _share(self, cell: Cell) -> float:
        """How much of a cell is done, from 0 to 1; no file of one that nobody has begun is read."""
        begun = cell.name in self.running or cell.name in self.begun_before
        return self.study.share(cell) if begun else 0.0

    def _finished(self, cell: Cell) -> None:
        self.done.add(cell.name)
        if cell.name in self.began:
            began, share = self.began.pop(cell.name)
            seconds = (time.monotonic() - began) / (1 - min(share, 0.99))
            self.durations.setdefault(cell.task, []).append(seconds)
        if not (self.console.is_terminal or self.console.quiet):
            done = f"{len(self.done)} of {len(self.plan.runs)}"
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
        done = len(self.done)
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
        if cell.name in self.done:
            return self._score(cell, 3).replace("0.", ".")
        if cell.name in self.failed:
            return "failed"
        share = self._share(cell)
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

        Empty if nothing is known yet. It is made anew every few seconds.
        """
        if len(self.done) + sum(name in self.plan.runs for name in self.failed) == len(
            self.plan.runs
        ):
            return ""
        since, text = self.left_shown
        if time.monotonic() - since >= LEFT_SECONDS or not text:
            self.left_shown = time.monotonic(), self._estimate()
        return self.left_shown[1]

    def _estimate(self) -> str:
        left = [
            cell
            for cell in self.plan.runs.values()
            if cell.name not in self.done and cell.name not in self.failed
        ]
        tasks = {cell.task for cell in left}
        expected = {
            task: seconds for task in tasks if (seconds := self._expected(task)) is not None
        }
        if not expected:
            return ""
        mean = sum(expected.values()) / len(expected)  # for tasks that have not begun
        seconds = sum(expected.get(cell.task, mean) * (1 - self._share(cell)) for cell in left)
        return f"about {_duration(seconds / self.jobs)} left" if seconds else ""

    def _expected(self, task: str) -> float | None:
        """Seconds for a whole cell; None if no cell of its task has got far enough."""
        if durations := self.durations.get(task):
            return sum(durations) / len(durations)
        for name, (began, share) in itertools.islice(self.began.items(), ASKED):
            other = self.plan.runs.get(name)
            if other is None or other.task != task:
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


class Queue:
    """Runs that wait, in the order of the plan; those that need a teacher come when it is there.

    What it takes to find the next one does not grow with the number of runs.

    Args:
        runs: In their order, teachers before the cells that need them.
        has_ended: Whether a teacher is there.
    """

    def __init__(
        self, runs: Sequence[Cell | TeacherRun], has_ended: Callable[[TeacherRun], bool]
    ) -> None:
        there = {run.name for run in runs if isinstance(run, TeacherRun) and has_ended(run)}
        self.runs = runs
        self.by_name = {run.name: run for run in runs}
        self.place = {run.name: place for place, run in enumerate(runs)}
        self.ready: list[int] = []
        self.blocked: dict[str, list[int]] = {}
        for place, run in enumerate(runs):
            teacher = run.teacher if isinstance(run, Cell) else None
            waits = teacher is not None and teacher.name in self.by_name
            if teacher is not None and waits and teacher.name not in there:
                self.blocked.setdefault(teacher.name, []).append(place)
            else:
                self.ready.append(place)  # in order, so it is a heap

    def __bool__(self) -> bool:
        return bool(self.ready or self.blocked)

    def pop(self) -> Cell | TeacherRun | None:
        """Takes the first that may start."""
        return self.runs[heapq.heappop(self.ready)] if self.ready else None

    def put(self, run: Cell | TeacherRun) -> None:
        """Puts one back to its place."""
        heapq.heappush(self.ready, self.place[run.name])

    def take(self, chosen: Callable[[Cell | TeacherRun], bool]) -> list[Cell | TeacherRun]:
        """Takes out those, of all that may start, for which a function is true."""
        taken = [place for place in sorted(self.ready) if chosen(self.runs[place])]
        self.ready = sorted(set(self.ready) - set(taken))
        return [self.runs[place] for place in taken]

    def release(self, run: Cell | TeacherRun) -> None:
        """Lets the cells start, or fail, that waited for a run that nothing is left to do for."""
        for place in self.blocked.pop(run.name, ()):
            heapq.heappush(self.ready, place)


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
