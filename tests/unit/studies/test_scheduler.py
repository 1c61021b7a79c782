"""The scheduler with an executor of its own; what a local process leaves when it fails."""

import errno
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import layermix
from layermix.atomic import lock, temporary_of
from layermix.config import to_yaml
from layermix.errors import StudyError
from layermix.runs.layout import CONFIG, DISCARDED, LOCK, RESULT
from layermix.runs.schema import FORMAT, RunRecord
from layermix.studies.executor import Executor, Handle, Job
from layermix.studies.folder import CELLS, KEPT, WORK, Study
from layermix.studies.local_processes import LocalProcess, LocalProcesses
from layermix.studies.plan import TEACHERS, Cell, Plan, TeacherRun, make_plan
from layermix.studies.scheduler import POLL_SECONDS, SCHEDULER, Queue, Scheduler

from ...study_folders import fill, make


@dataclass
class Ended:
    """A job that has run to its end within `start`."""

    message: str

    def is_running(self) -> bool:
        return False

    def error(self) -> str:
        return self.message


@dataclass
class Elsewhere:
    """An executor without processes: copies cells that are ready, and lets one fail."""

    ready: Study
    fails: str = ""
    started: list[Job] = field(default_factory=list)
    stopped: int = 0
    on_start: Callable[[], None] = lambda: None

    def start(self, job: Job) -> Handle:
        self.started.append(job)
        self.on_start()
        if job.name == self.fails:
            return Ended("the disk of the other machine is full")
        job.work.mkdir(parents=True)
        for name in KEPT:
            (job.work / name).write_bytes((self.ready.filed(job.name) / name).read_bytes())
        return Ended("")

    def stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(make(seeds=2, base={"teacher": "T", "data": "D"}).study, tmp_path)


@pytest.fixture
def elsewhere(plan: Plan, tmp_path: Path) -> Elsewhere:
    ready = Study(tmp_path / "ready")
    fill(plan, ready)
    return Elsewhere(ready)


def scheduler(plan: Plan, study: Study, executor: Executor) -> Scheduler:
    return Scheduler(plan, study, 2, Console(file=io.StringIO(), width=200), executor=executor)


def test_an_executor_runs_each_cell_once_and_the_scheduler_files_them(
    plan: Plan, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    study = Study(tmp_path / "study")
    scheduler(plan, study, elsewhere).run()
    assert [job.name for job in elsewhere.started] == list(plan.runs)
    assert {job.command for job in elsewhere.started} == {"distill"}
    assert not any(job.restart for job in elsewhere.started)
    assert all(map(study.has, plan.runs))
    assert elsewhere.stopped == 1
    scheduler(plan, study, elsewhere).run()
    assert len(elsewhere.started) == len(plan.runs)  # nothing is run again


def test_the_error_of_a_job_is_reported_and_the_other_cells_are_filed(
    plan: Plan, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    study = Study(tmp_path / "study")
    elsewhere.fails = next(iter(plan.runs))
    with pytest.raises(StudyError) as failure:
        scheduler(plan, study, elsewhere).run()
    assert "the disk of the other machine is full" in str(failure.value)
    assert [study.has(name) for name in plan.runs] == [False] + [True] * (len(plan.runs) - 1)


def test_a_run_that_a_killed_scheduler_left_counts_as_running(
    plan: Plan, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    study = Study(tmp_path / "study")
    first = next(iter(plan.runs.values()))
    partial = study.work(first).with_name(f"{first.name}.partial")
    partial.mkdir(parents=True)
    shown = io.StringIO()
    once = Scheduler(plan, study, 1, Console(file=shown, width=500), executor=elsewhere)
    with ExitStack() as left_over, ThreadPoolExecutor(1) as pool:
        left_over.enter_context(lock(partial / LOCK))
        running = pool.submit(once.run)
        while "still running" not in shown.getvalue():
            time.sleep(0.01)
        time.sleep(3 * POLL_SECONDS)
        assert not elsewhere.started
        left_over.close()
        running.result(60)
    assert shown.getvalue().count(
        f"still running from an earlier command, and counted: {first.title}"
    )
    assert [job.name for job in elsewhere.started] == list(plan.runs)


def test_a_run_of_another_scheduler_does_not_count(
    plan: Plan, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    study = Study(tmp_path / "study")
    first, *others = plan.runs.values()
    partial = study.work(first).with_name(f"{first.name}.partial")
    partial.mkdir(parents=True)
    with ExitStack() as other, ThreadPoolExecutor(1) as pool:
        other.enter_context(lock(study.folder / WORK / SCHEDULER))
        other.enter_context(lock(partial / LOCK))
        running = pool.submit(scheduler(plan, study, elsewhere).run)
        while len(elsewhere.started) < len(others):
            time.sleep(0.01)
        other.close()
        running.result(60)
    assert [job.name for job in elsewhere.started] == [*(cell.name for cell in others), first.name]


def test_what_a_kill_left_of_a_filed_run_is_removed(
    plan: Plan, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    study = Study(tmp_path / "study")
    scheduler(plan, study, elsewhere).run()
    name = next(iter(plan.runs))
    left = study.folder / WORK / f".{name}{DISCARDED}", temporary_of(study.filed(name))
    for folder in left:
        (folder / "checkpoints").mkdir(parents=True)
    locks = [study.folder / TEACHERS / run / LOCK for run in ("finished", "at-work.partial")]
    for file in locks:
        file.parent.mkdir(parents=True)
        file.touch()
    scheduler(plan, study, elsewhere).run()
    assert all(path.name.startswith(".") for path in (study.folder / WORK).iterdir())
    assert not any(folder.exists() for folder in left)
    assert [file.exists() for file in locks] == [False, True]


@pytest.mark.parametrize("keep_student", [False, True])
@pytest.mark.parametrize("disks", [1, 2])
def test_a_filing_that_is_killed_anywhere_is_done_again(
    elsewhere: Elsewhere,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    disks: int,
    keep_student: bool,
) -> None:
    """With both folders on one disk, and with `cells` as a link to another."""
    monkeypatch.setenv("PLACE", str(tmp_path))
    base = {"teacher": "$PLACE/T", "data": "$PLACE/D"}
    plan = make_plan(make(seeds=2, base=base).study, tmp_path)
    cell = next(iter(plan.runs.values()))
    fill(plan, elsewhere.ready)
    assert cell.config is not None
    config = to_yaml(cell.config)
    assert str(tmp_path) in config
    study = Study(tmp_path / "study")
    (study.folder / WORK).mkdir(parents=True)
    work, filed = study.work(cell), study.filed(cell.name)
    expected: dict[str, bytes] = {}
    for steps in itertools.count(-1):  # the first one is not killed
        elsewhere.start(Job(cell.name, cell.config, work, False))
        (work / CONFIG).write_text(config, encoding="utf-8")
        (work / "student").mkdir()
        (work / "student" / "README.md").write_text(f"of {tmp_path / 'T'}", encoding="utf-8")
        (work / "yours.parquet").touch()
        with monkeypatch.context() as patch:
            killed = Killed(patch, after=steps, disks=disks)
            with suppress(KeyboardInterrupt):
                study.file(cell, keep_student=keep_student)
        study.tidy()
        if killed.at_last:
            assert study.has(cell.name) or (work / RESULT).is_file()
            study.file(cell, keep_student=keep_student)
        found = {
            str(file.relative_to(filed)): file.read_bytes()
            for file in filed.rglob("*")
            if file.is_file()
        }
        expected = expected or found
        assert found == expected
        assert [path.name for path in (study.folder / WORK).iterdir()] == [".filing"]
        if steps >= 0 and not killed.at_last:
            break
        shutil.rmtree(filed)
    assert steps > 5
    assert expected.keys() == {*KEPT, *(["student/README.md"] if keep_student else [])}
    assert b"$PLACE/T" in expected[CONFIG]
    assert not any(str(tmp_path).encode() in content for content in expected.values())


class Killed:
    """Lets an interrupt come instead of a number of changes of the disk.

    Args:
        patch: Where they are caught.
        after: So many are done; none comes if it is negative.
        disks: If 2, none can be moved from one folder to another.
    """

    def __init__(self, patch: pytest.MonkeyPatch, after: int, disks: int) -> None:
        self.left, self.at_last = after, False
        for owner, name in (
            (Path, "rename"),
            (Path, "unlink"),
            (Path, "mkdir"),
            (os, "replace"),
            (shutil, "rmtree"),
            (shutil, "copytree"),
        ):
            patch.setattr(owner, name, self.counted(getattr(owner, name), disks))

    def counted(self, change: Callable[..., Any], disks: int) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            if self.left == 0:
                self.at_last = True
            if self.at_last:
                raise KeyboardInterrupt
            self.left -= 1
            folders = [Path(one).parent.name for one in given if isinstance(one, Path)]
            if disks == 2 and change.__name__ == "rename" and folders == [WORK, CELLS]:
                raise OSError(errno.EXDEV, "another disk")
            return change(*given, **named)

        return counted


def ended(folder: Path, script: str) -> LocalProcess:
    record, log = folder / "run.json", folder / "run.log"
    with record.open("wb") as output, log.open("wb") as errors:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=output, stderr=errors)
    process.wait()
    return LocalProcess(process, record, log)


def test_a_process_hands_its_error_over_as_a_record(tmp_path: Path) -> None:
    failed = RunRecord(format=FORMAT, status="failed", error="Error: it is α\nin two lines")
    script = f"import sys; sys.stdout.buffer.write({failed.to_json().encode()!r}); sys.exit(2)"
    process = ended(tmp_path, script)
    assert not process.is_running()
    assert process.error() == failed.error


def test_without_a_record_the_end_of_the_log_is_shown(tmp_path: Path) -> None:
    assert ended(tmp_path, "1 / 0").error().endswith("ZeroDivisionError: division by zero")
    killed = ended(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    log = tmp_path / "run.log"
    assert killed.error() == f"exited without an error message (killed?); see {log}"


def test_a_job_that_cannot_begin_says_why(plan: Plan, tmp_path: Path) -> None:
    cell = next(iter(plan.runs.values()))
    assert cell.config is not None
    local = LocalProcesses(tmp_path / "logs", threads=1)
    handle = local.start(Job(cell.name, cell.config, tmp_path / "work", restart=False))
    handle.process.wait()
    assert not (tmp_path / "work").exists()
    record = RunRecord.from_json(handle.record.read_text("utf-8"))
    assert record.status == "failed"
    assert handle.error() == record.error
    assert f"Error: {record.error}\n" == handle.log.read_text("utf-8")
    local.stop()


CONDUCTOR = """
import sys, time
from pathlib import Path
from layermix.config import TeachConfig
from layermix.studies.executor import Job
from layermix.studies.local_processes import LocalProcesses
folder = Path(sys.argv[1])
config = TeachConfig.model_validate({"model": "m", "data": "d"})
job = Job("a", config, folder / "work", False)
print(LocalProcesses(folder, 1).start(job).process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_process_does_not_outlive_the_one_that_started_it(tmp_path: Path) -> None:
    """Its place is taken by a command that waits for ever, as a training would."""
    (tmp_path / "layermix").mkdir()
    (tmp_path / "layermix" / "__main__.py").write_text(
        "from layermix.console import lasting_interrupts, stop_with_parent\n"
        "import time\n"
        "with lasting_interrupts():\n"
        "    stop_with_parent()\n"
        "    open('begun', 'w').close()\n"
        "    time.sleep(600)\n"
    )
    source = str(Path(layermix.__file__).parent)
    (tmp_path / "layermix" / "__init__.py").write_text(f"__path__.append({source!r})\n")
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", CONDUCTOR, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE
    ) as conductor:
        assert conductor.stdout is not None
        cell = int(conductor.stdout.readline())
        _until(lambda: (tmp_path / "begun").exists())
        conductor.kill()
    _until(lambda: not _is_running(cell))


def _is_running(process: int) -> bool:
    with suppress(FileNotFoundError):
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    return False


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_stops_the_runs_unless_nohup_ignores_it(
    plan: Plan, elsewhere: Elsewhere, tmp_path: Path, ignored: bool
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        study = Study(tmp_path / "study")
        elsewhere.on_start = lambda: os.kill(os.getpid(), signal.SIGHUP)
        with nullcontext() if ignored else pytest.raises(KeyboardInterrupt):
            scheduler(plan, study, elsewhere).run()
        assert len(elsewhere.started) == (len(plan.runs) if ignored else 1)
        assert elsewhere.stopped == 1
    finally:
        signal.signal(signal.SIGHUP, before)


def test_stopped_processes_have_ended(tmp_path: Path) -> None:
    local = LocalProcesses(tmp_path, threads=1)
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print(flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(600)"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout as ready:
        ready.readline()
    local.started.append(LocalProcess(process, tmp_path / "record", tmp_path / "log"))
    assert local.started[0].is_running()
    local.stop()
    assert not local.started[0].is_running()


def test_cells_wait_for_their_teacher_and_start_in_the_order_of_the_plan(tmp_path: Path) -> None:
    teach = {"model": "M", "data": "D"}
    plan = make(seeds=2, base={"data": "D"}, teach=teach)
    runs: dict[str, Cell | TeacherRun] = {}
    for cell in plan.runs.values():
        assert cell.teacher is not None
        runs.setdefault(cell.teacher.name, cell.teacher)
        runs[cell.name] = cell
    cells = list(plan.runs.values())
    (teacher,) = plan.teachers.values()
    queue = Queue(list(runs.values()), lambda _: False)
    assert queue.pop() == teacher
    assert queue.pop() is None
    assert queue
    queue.release(teacher)
    assert queue.pop() == cells[0]
    assert queue.take(lambda run: run in cells[2:4]) == cells[2:4]
    queue.put(cells[0])
    queue.put(cells[3])
    order = [cells[0], cells[1], cells[3], *cells[4:]]
    assert [queue.pop() for _ in order] == order
    assert not queue
    known = Queue(list(runs.values()), lambda run: run == teacher)
    assert [known.pop() for _ in runs] == list(runs.values())
