"""Threads sleep while they wait on a busy machine, unless the user has said how they wait."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from layermix.hardware import waiting
from layermix.hardware.waiting import POLICY, busy_cores, prepare_waiting


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A process whose user has said nothing and that has not loaded torch."""
    for name in (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "torch")
    yield monkeypatch
    os.environ.pop(POLICY, None)


@pytest.mark.parametrize(("cores", "policy"), [(0.1, None), (1.0, "PASSIVE")])
def test_only_a_busy_machine_makes_threads_sleep(
    fresh: pytest.MonkeyPatch, cores: float, policy: str | None
) -> None:
    fresh.setattr(waiting, "busy_cores", lambda: cores)
    prepare_waiting()
    assert os.environ.get(POLICY) == policy


@pytest.mark.parametrize("name", [POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_has_said_stays(fresh: pytest.MonkeyPatch, name: str) -> None:
    fresh.setattr(waiting, "busy_cores", lambda: 2.0)
    fresh.setenv(name, "7")
    prepare_waiting()
    assert os.environ[name] == "7"
    assert {POLICY, name} & os.environ.keys() == {name}


def test_one_thread_waits_for_nobody(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(waiting, "busy_cores", lambda: 2.0)
    fresh.setenv("OMP_NUM_THREADS", "1")
    prepare_waiting()
    assert POLICY not in os.environ


def test_it_is_too_late_once_torch_is_loaded(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(waiting, "busy_cores", lambda: 2.0)
    fresh.setitem(sys.modules, "torch", os)
    prepare_waiting()
    assert POLICY not in os.environ


def test_a_busy_process_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        seen = max(busy_cores() for _ in range(20))
        process.kill()
    assert seen > 0.5


def test_a_command_that_computes_decides_before_torch_is_loaded() -> None:
    code = (
        "import sys; from layermix.cli import command, main\n"
        "def decide():\n"
        "    print('torch' in sys.modules)\n"
        "    sys.exit()  # what follows takes seconds\n"
        "command.prepare_waiting = decide\n"
        "main(['predict', 'nowhere'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
