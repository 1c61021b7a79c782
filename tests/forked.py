"""Processes of the command line, or of a program, that begin at once: forked from a warm server.

With $LAYERMIX_CLI (the path of an installed `layermix`) they are of the Python beside it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from .fork_server import STATUS

PIPE = subprocess.PIPE
SERVER = "LAYERMIX_TEST_FORKS"
"""Environment variable with the socket of a server that is there already."""


@cache
def start_server() -> tuple[Path, subprocess.Popen[bytes]]:
    """The socket of this process's server, and the server: it ends with its standard input."""
    address = Path(tempfile.mkdtemp(prefix="forks")) / "socket"
    script = str(Path(__file__).with_name("fork_server.py"))
    installed, variables = os.environ.get("LAYERMIX_CLI"), dict(os.environ)
    if installed:
        variables.pop("PYTHONPATH", None)
    python = str(Path(installed).with_name("python")) if installed else sys.executable
    command = [python, "-P", script, str(address)]
    return address, subprocess.Popen(command, stdin=PIPE, env=variables)


@cache
def address() -> Path:
    """The socket of the server once it listens; of a forked process that of its own server."""
    if SERVER in os.environ:
        return Path(os.environ[SERVER])
    address, server = start_server()
    until = time.monotonic() + 120
    while not address.exists():
        assert server.poll() is None, "the server of forks ended"
        assert time.monotonic() < until
        time.sleep(0.01)
    return address


class Forked:
    """A forked process, with what tests use of `subprocess.Popen`.

    Args:
        words: The arguments of `layermix`, or of the program.
        program: Python source to run in the place of `layermix`.
        folder: Its working directory.
        variables: Its environment.
        stdin: A stream, or PIPE; as this process's if None. So are stdout and stderr.
        start_new_session: Whether Ctrl-C on this process does not reach it.
        file_blocks: The largest file that it may write, in blocks of 512 bytes.
        changes: The arguments of `count_changes`, if its changes to files are counted.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        program: str | None = None,
        folder: Path | None = None,
        variables: Mapping[str, str] | None = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        start_new_session: bool = False,
        file_blocks: int | None = None,
        changes: tuple[str | None, int | None] | None = None,
    ) -> None:
        self.returncode: int | None = None
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        ours: dict[str, Any] = dict.fromkeys(streams)
        given, pipe_ends = [], []
        for number, (name, stream) in enumerate(streams.items()):
            if stream == PIPE:
                read, write = os.pipe()
                theirs, own = (read, write) if name == "stdin" else (write, read)
                ours[name] = os.fdopen(own, "wb" if name == "stdin" else "rb")
                pipe_ends.append(theirs)
                given.append(theirs)
            elif isinstance(stream, int):
                given.append(stream)
            else:
                given.append(number if stream is None else stream.fileno())
        self.stdin, self.stdout, self.stderr = ours.values()
        request = {
            "words": list(words),
            "program": program,
            "folder": str(folder or Path.cwd()),
            "variables": dict(os.environ if variables is None else variables),
            "session": start_new_session,
            "file_blocks": file_blocks,
            "changes": changes,
        }
        message = json.dumps(request).encode()
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(address()))
        self._connection.sendall(STATUS.pack(len(message)))
        socket.send_fds(self._connection, [message], given)
        for end in pipe_ends:
            os.close(end)
        self.pid: int = STATUS.unpack(self._connection.recv(STATUS.size, socket.MSG_WAITALL))[0]

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative if a signal ended it."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                told = self._connection.recv(STATUS.size)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("layermix", timeout or 0) from None
            self._connection.close()
            self.returncode = int(STATUS.unpack(told)[0])
        return self.returncode

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def communicate(
        self, input: bytes | None = None, timeout: float | None = None
    ) -> tuple[bytes, bytes]:
        """Send all input, read all output, wait; what it wrote to its two pipes."""
        outputs: list[bytes] = [b"", b""]

        def read(index: int, stream: BinaryIO) -> None:
            with stream:
                outputs[index] = stream.read()

        readers = [
            threading.Thread(target=read, args=(index, stream), daemon=True)
            for index, stream in enumerate((self.stdout, self.stderr))
            if stream is not None
        ]
        for reader in readers:
            reader.start()
        if self.stdin is not None:
            try:
                with self.stdin:
                    self.stdin.write(input or b"")
            except BrokenPipeError:
                pass
        for reader in readers:
            reader.join(timeout)
        self.wait(timeout)
        return outputs[0], outputs[1]

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdout, self.stderr, self.stdin):
            if stream is not None:
                stream.close()
        self.wait()


class ForkedCell(Forked):
    """A cell of a study, in the place of `subprocess.Popen`."""

    def __init__(self, command: list[str], env: Mapping[str, str], **how: Any) -> None:
        assert command[1:4] == ["-P", "-m", "layermix"]
        super().__init__(command[4:], variables=env, **how)


def together(
    count: int,
    words: Sequence[str],
    names: Mapping[str, str] | None = None,
    machines: Sequence[Mapping[str, str]] = (),
    **how: Any,
) -> list[Forked]:
    """The processes of one run, the main one first, as torchrun would start them.

    Args:
        count: How many.
        words: As for `Forked`.
        names: torchrun's variables -> what another launcher calls them.
        machines: Variables of each, if each process has a machine of its own.
        how: As for `Forked`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = dict(how.pop("variables", None) or os.environ) | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
    }
    processes = []
    for rank in range(count):
        told = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        if machines:
            told |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", **machines[rank]}
        for ours, theirs in (names or {}).items():
            told[theirs] = told.pop(ours)
        processes.append(Forked(words, variables=told, **how))
    return processes
