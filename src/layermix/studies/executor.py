"""Where the runs of a study are executed: the protocol that the scheduler uses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from layermix.config import DistillConfig, TeachConfig


@dataclass(frozen=True)
class Job:
    """One run to execute.

    Attributes:
        name: Unique within the study.
        config: Of the command.
        work: The run folder to make.
        restart: Whether an unfinished run in that folder is thrown away; else it is resumed.
    """

    name: str
    config: DistillConfig | TeachConfig
    work: Path
    restart: bool

    @property
    def command(self) -> Literal["teach", "distill"]:
        """The layermix command that runs it."""
        return "teach" if isinstance(self.config, TeachConfig) else "distill"


class Handle(Protocol):
    """A job that was started."""

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        ...

    def error(self) -> str:
        """Why it failed, for a job that ended without a finished run folder."""
        ...


class Executor(Protocol):
    """Executes jobs; `Scheduler` decides which and when, and files what they leave.

    A job that succeeds leaves a finished run folder at `job.work`. One that fails, or is stopped,
    leaves what it had at `NAME.partial` beside it, to be resumed. No job outlives the scheduler's
    process, however that ends.
    """

    def start(self, job: Job) -> Handle:
        """Start a job and return at once."""
        ...

    def stop(self) -> None:
        """Stop all jobs that run, so that they can be resumed, and wait until they have ended."""
        ...
