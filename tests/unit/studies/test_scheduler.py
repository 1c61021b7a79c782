"""The scheduler with an executor of its own; what a local process leaves when it fails."""

import io
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from layermix.errors import StudyError
from layermix.runs.schema import FORMAT, RunRecord
from layermix.studies.executor import Executor, Handle, Job
from layermix.studies.folder import KEPT, Study
from layermix.studies.local_processes import LocalProcess, LocalProcesses
from layermix.studies.plan import Plan, make_plan
from layermix.studies.scheduler import Scheduler

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

    def start(self, job: Job) -> Handle:
        self.started.append(job)
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
