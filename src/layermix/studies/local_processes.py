"""Executes the runs of a study on this machine, each in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from layermix.atomic import write_text
from layermix.config import to_yaml
from layermix.console import STOP_SECONDS, STOP_WITH_PARENT
from layermix.runs.schema import RunRecord
from layermix.studies.executor import Job

SHOWN = 500
"""Characters of a log that are shown if a process left no error record."""


@dataclass(frozen=True)
class LocalProcess:
    """A run in a process.

    Attributes:
        process: Of the command line.
        record: The file of its standard output: one JSON record, of the result or of the error.
        log: The file of its standard error.
    """

    process: "subprocess.Popen[bytes]"
    record: Path
    log: Path

    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        if self.process.poll() is None:
            return True
        self.close()
        return False

    def close(self) -> None:
        """Close its standard input, which ends it if it has not ended."""
        if self.process.stdin is not None:
            self.process.stdin.close()

    def error(self) -> str:
        """The error of its record; without one, the end of its log."""
        return error_of(self.record, self.log)


def error_of(record: Path, log: Path) -> str:
    """The error of a run in its record; without one, the end of its log."""
    with suppress(OSError, ValidationError):
        found = RunRecord.from_json(record.read_text(encoding="utf-8"))
        if found.error:
            return found.error
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    return said[-SHOWN:] or f"exited without an error message (killed?); see {log}"


def command_of(job: Job, config: Path, restart: bool) -> list[str]:
    """The arguments of `layermix` that run a job, whose config is in a file."""
    how = "--restart" if restart else "--resume"
    return [job.command, str(config), "--out", str(job.work), how, "--quiet", "--json"]


@dataclass
class LocalProcesses:
    """Starts `layermix` in processes.

    Args:
        folder: Where configs, records and logs go.
        threads: Of each process, unless OMP_NUM_THREADS is set.
    """

    folder: Path
    threads: int
    started: list[LocalProcess] = field(default_factory=list)

    def start(self, job: Job) -> LocalProcess:
        """Start a job; it outlives Ctrl-C on this process, until `stop`, but not its end.

        Its standard input, which it does not read, ends with this process, also by SIGKILL.
        """
        self.folder.mkdir(exist_ok=True)
        config = self.folder / f"{job.name}.yaml"
        write_text(config, to_yaml(job.config))
        record, log = config.with_suffix(".json"), config.with_suffix(".log")
        arguments = command_of(job, config, job.restart)
        with record.open("wb") as output, log.open("wb") as errors:
            process = subprocess.Popen(
                # -P: a file in the user's folder must not stand in for a module
                [sys.executable, "-P", "-m", "layermix", *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                env={
                    "OMP_NUM_THREADS": str(self.threads),
                    **os.environ,
                    STOP_WITH_PARENT: "1",
                },
                start_new_session=True,  # Ctrl-C reaches this process only
            )
        local = LocalProcess(process, record, log)
        self.started = [other for other in self.started if other.is_running()] + [local]
        return local

    def stop(self) -> None:
        """Interrupt all processes; terminate, then kill those that do not end in time."""
        for stop in (_interrupt, subprocess.Popen.terminate, subprocess.Popen.kill):
            running = [local.process for local in self.started if local.is_running()]
            for process in running:
                stop(process)
            until = time.monotonic() + STOP_SECONDS
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0, until - time.monotonic()))
        for local in self.started:
            local.close()


def _interrupt(process: "subprocess.Popen[bytes]") -> None:
    """Send Ctrl-C, so that a run leaves its folder in order."""
    if sys.platform == "win32":
        process.terminate()
    else:
        process.send_signal(signal.SIGINT)
