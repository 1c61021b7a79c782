"""Executes the runs of a study as tasks of a Ray cluster, which share the study's folder.

The driver stays the only scheduler and the only one that files. A task starts a process of the
command line on its node, as on this machine, and hands over what the process wrote. All nodes must
see the study's folder, the data and the models under the same paths; each has a teacher cache of
its own, unless they share that folder, too. A run whose node or worker was lost is resumed on
another.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from layermix.atomic import write_text
from layermix.config import to_yaml
from layermix.console import STOP_SECONDS, STOP_WITH_PARENT
from layermix.errors import ConfigError
from layermix.launch import NUMBERS, SIZES
from layermix.runs.layout import RESULT, is_busy
from layermix.studies.executor import Job
from layermix.studies.local_processes import command_of, error_of

ATTEMPTS = 4
"""How often a run is started, if nodes or workers that run it are lost."""
ANSWER_SECONDS = 10.0
"""How long a cluster's address may take to answer."""
WATCH_SECONDS = 0.1
SETTINGS = b"\x04"
"""The kind of the first frame that a server of gRPC sends, as Ray's is."""
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00" + SETTINGS + b"\x00" * 5
"""What a client of gRPC begins with: the preface of HTTP/2, and settings, all as they are."""


class NotSharedError(Exception):
    """A node does not see the folder of the study."""


@dataclass
class RayTask:
    """A run as a task; started again if its node or worker is lost."""

    tasks: "RayTasks"
    job: Job
    config: Path
    ref: Any
    attempts: int = 1
    why: str = ""

    def is_running(self) -> bool:
        """Whether it has not ended yet, or is started once more."""
        if self.why or not ray.wait([self.ref], timeout=0)[0]:
            return not self.why
        try:
            node, code = ray.get(self.ref)
        except TaskCancelledError:
            self.why = "stopped"
        except RayTaskError as error:
            self.why = str(error.cause)
        except RayError as error:  # of the cluster, not of the run
            return self._again(type(error).__name__)
        else:
            if code == 0:
                self.tasks.has_cache[self.cache_key] = node
        return False

    def _again(self, lost: str) -> bool:
        """Start it once more, unless it had finished, or was lost too often."""
        if (self.job.work / RESULT).is_file():
            return False
        if self.attempts == ATTEMPTS:
            self.why = f"its node or worker was lost {ATTEMPTS} times, at last by {lost}"
            return False
        self.attempts += 1
        self.ref = self.tasks.submit(self.job, self.config, restart=False)
        return True

    @property
    def cache_key(self) -> str:
        """Runs with the same key read the same stored signals."""
        teacher = getattr(self.job.config, "teacher", None)
        return "" if teacher is None else ",".join(teacher.models)

    def error(self) -> str:
        """Why it failed."""
        return self.why or error_of(
            self.config.with_suffix(".json"), self.config.with_suffix(".log")
        )


@dataclass
class RayTasks:
    """Starts `layermix` in tasks of a cluster.

    Args:
        folder: Where configs, records and logs go; all nodes must see it.
        address: Of the cluster; None takes the one that Ray knows of ($RAY_ADDRESS, or one started
            on this machine), or else starts one here.
        cpus: Processors, and threads, of a run.
        gpus: Share of a GPU of a run, or a number of them.

    Raises:
        ConfigError: If the cluster does not answer.
    """

    folder: Path
    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0
    started: list[RayTask] = field(default_factory=list)
    has_cache: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()
        if self.address is not None:
            _check_answers(self.address)
        try:
            ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{_named(self.address)}: found no Ray cluster there: {error}"
            ) from None

    def room(self) -> int:
        """How many runs the cluster has room for at once."""
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # ray
        rooms = [there.get("CPU", 0.0) / self.cpus]
        if self.gpus:
            rooms.append(there.get("GPU", 0.0) / self.gpus)
        if (room := int(min(rooms))) < 1:
            raise ConfigError(
                f"a run needs {self.cpus} CPU(s) and {self.gpus:g} GPU(s), and the cluster has "
                f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g}; ask for less, by --cpus or "
                "--gpus"
            )
        return room

    def start(self, job: Job) -> RayTask:
        """Start a job; it ends with this process, however that ends."""
        self.folder.mkdir(exist_ok=True)
        job = replace(job, work=job.work.absolute())  # tasks have other working directories
        config = self.folder / f"{job.name}.yaml"
        write_text(config, to_yaml(job.config))
        task = RayTask(self, job, config, None)
        task.ref = self.submit(job, config, job.restart, self.has_cache.get(task.cache_key))
        self.started = [other for other in self.started if other.is_running()] + [task]
        return task

    def submit(self, job: Job, config: Path, restart: bool, node: str | None = None) -> Any:
        """Hand a run to the cluster, for a node that has its teacher's signals if one is known."""
        variables = {
            "OMP_NUM_THREADS": str(self.cpus),
            **{name: value for name, value in os.environ.items() if name.startswith(HANDED)},
        }
        strategy: Any = "DEFAULT"
        if node is not None:  # there if it has room, else anywhere
            strategy = NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)
        how = {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "max_retries": 0,  # a lost run is resumed, not restarted: see `RayTask`
            "scheduling_strategy": strategy,
            "name": f"layermix {job.name}",
        }
        return _run.options(**how).remote(
            job.work, config, command_of(job, config, restart), variables
        )

    def stop(self) -> None:
        """Interrupt all runs; end those that do not end in time, and leave the cluster."""
        for forced in (False, True):
            refs = [task.ref for task in self.started if not ray.wait([task.ref], timeout=0)[0]]
            for ref in refs:
                ray.cancel(ref, force=forced)
            if refs:
                ray.wait(refs, num_returns=len(refs), timeout=STOP_SECONDS + 5)
        ray.shutdown()


HANDED = ("LAYERMIX_", "HF_", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "PYTHONPATH")
"""Beginnings of the variables that a run on a node has as this process has them."""


@ray.remote
def _run(
    work: Path, config: Path, arguments: Sequence[str], variables: Mapping[str, str]
) -> tuple[str, int]:
    """On a node: run a command in a process of its own; its node, and the exit code."""
    if not config.is_file():
        raise NotSharedError(
            f"the node {socket.gethostname()} does not see {config}; put the study's folder on a "
            "disk that all nodes share"
        )
    until = time.monotonic() + 2 * STOP_SECONDS
    while is_busy(work) and time.monotonic() < until:  # a lost predecessor is about to end
        time.sleep(WATCH_SECONDS)
    with (
        config.with_suffix(".json").open("wb") as record,
        config.with_suffix(".log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "layermix", *arguments],
            stdin=subprocess.PIPE,  # its end tells the process that this worker has ended
            stdout=record,
            stderr=log,
            env=environment(variables),
        ) as process,
    ):
        try:
            while process.poll() is None:  # not `wait`, which a cancellation cannot interrupt
                time.sleep(WATCH_SECONDS)
        finally:
            _end(process)
    return ray.get_runtime_context().get_node_id(), process.returncode


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a run: those of its node and those handed over.

    A node that was started by `srun` or `mpirun` has their numbers, which are not the run's.
    """
    of_launchers = {*NUMBERS, *SIZES, "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
    own = {name: value for name, value in os.environ.items() if name not in of_launchers}
    return {**own, **variables, STOP_WITH_PARENT: "1"}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt a process, so that it can be resumed; kill it if it does not end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def _named(address: str | None) -> str:
    return f"--address {address}" if address else "Ray"


def _check_answers(address: str) -> None:
    """Raise a ConfigError if nobody answers; Ray itself would try for a minute and more."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--address {address}: wanted HOST:PORT, such as 10.0.0.1:6379, or auto")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as connection:
            connection.sendall(GREETING)
            answer = connection.recv(4)
    except OSError as error:
        problem = f"does not answer ({error})"
    else:
        if answer[3:] == SETTINGS or os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        problem = "something answers, but it is no Ray cluster"
    raise ConfigError(
        f"--address {address}: {problem}; is the cluster's head running (`ray start --head`), and "
        "is this its address?"
    )
