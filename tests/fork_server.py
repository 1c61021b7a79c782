"""A process that imports everything once and forks a child for each Python program it is sent.

Run as a script by `forked.py`. Python, torch and transformers take seconds to start; a fork takes
milliseconds, and the child is a process like any other: it can be killed, interrupted and limited.

Argument: the socket to listen at. It ends, and ends its children, when its standard input closes.
"""

import atexit
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress
from typing import Any

STATUS = struct.Struct("i")
WARM = (
    "torch",
    "transformers.models.bert.modeling_bert",
    "layermix.cli",
    "layermix.report.build",
    "layermix.runs.pipeline",
    "layermix.serving.benchmark",
    "layermix.serving.evaluate",
    "layermix.serving.export",
    "layermix.serving.predict",
    "layermix.studies.analysis",
    "layermix.studies.scheduler",
    "onnxscript",
)
CHANGES = ("os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
"""Audit events of changes to files, beside those of `open` that may write."""


def warm() -> None:
    """Import what commands import when they run; no threads, no computing."""
    for name in WARM:
        importlib.import_module(name)


def count_changes(log: str | None, last: int | None) -> None:
    """Count what this process changes in its working folder, from Python.

    Args:
        log: A file that gets a line for each change.
        last: The number of a change, from 0, before which the process is killed.
    """
    home, number = os.getcwd(), -1
    lines = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal number
        writes = event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not (writes or event in CHANGES) or isinstance(details[0], int):
            return
        path = os.path.abspath(os.fsdecode(details[0]))
        if not path.startswith(home):
            return
        number += 1
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)
        if lines is not None:
            os.write(lines, f"{event} {path.removeprefix(home)}\n".encode())

    sys.addaudithook(hook)


def child(request: dict[str, Any], streams: list[int]) -> int:
    """Become the program; its exit code."""
    if request["session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 2**16)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["variables"])
    if request["file_blocks"] is not None:
        size = 512 * request["file_blocks"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)
        for number, mode in enumerate("rww")
    )
    if request["changes"] is not None:
        count_changes(*request["changes"])
    sys.argv = ["layermix", *request["words"]]
    code = 0
    try:
        if request["program"] is None:
            runpy.run_module("layermix", run_name="__main__", alter_sys=True)
        else:
            sys.argv[0] = "-c"
            exec(compile(request["program"], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


def serve(address: str) -> None:
    """Fork a child for each connection and send its process number, later its exit code."""
    warm()
    wake, woken = os.pipe()
    for end in (wake, woken):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.bound")
    listener.listen()
    os.rename(f"{address}.bound", address)  # whoever sees it can connect
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([0, wake, listener], [], [])
        if 0 in ready:
            for number in running:
                os.kill(number, signal.SIGKILL)
            return
        if wake in ready:
            os.read(wake, 512)
        if listener in ready:
            connection, _ = listener.accept()
            size = STATUS.unpack(connection.recv(STATUS.size, socket.MSG_WAITALL))[0]
            message, streams, _, _ = socket.recv_fds(connection, size, 3, socket.MSG_WAITALL)
            number = os.fork()
            if number == 0:
                code = 1
                try:
                    code = child(json.loads(message), streams)
                finally:
                    os._exit(code)
            for stream in streams:
                os.close(stream)
            connection.sendall(STATUS.pack(number))
            running[number] = connection
        for number, connection in list(running.items()):
            ended, status = os.waitpid(number, os.WNOHANG)
            if ended:
                with suppress(BrokenPipeError):  # who asked for it has been killed
                    connection.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))
                running.pop(number).close()


if __name__ == "__main__":
    serve(sys.argv[1])
