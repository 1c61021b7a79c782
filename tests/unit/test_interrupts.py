"""Ctrl-C reaches the command wherever it falls."""

import signal
import sys
import time
from collections.abc import Iterator

import pytest

from layermix.interrupts import lasting_interrupts


class Interrupted:
    """Ctrl-C is pressed while it is destroyed."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


class Broken:
    def __del__(self) -> None:
        raise ValueError("in a destructor")


@pytest.fixture(autouse=True)
def plain_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)


def destroy_and_wait(many: list[object], destroyed: list[str]) -> None:
    with lasting_interrupts():
        while many:
            many.pop()
        destroyed.append("all")  # Python itself has thrown the first one away
        wait(30)


def test_an_interrupt_in_a_destructor_is_raised_a_moment_later() -> None:
    destroyed: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        destroy_and_wait([Interrupted()], destroyed)
    assert destroyed == ["all"]


def test_it_goes_on_until_it_is_heard() -> None:
    destroyed: list[str] = []

    class Slow:
        def __del__(self) -> None:
            destroyed.append("slow")
            wait(5)

    with pytest.raises(KeyboardInterrupt):
        destroy_and_wait([Slow(), Slow(), Interrupted()], destroyed)
    assert destroyed == ["slow", "slow", "all"]


def test_other_faults_of_destructors_are_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(str(found.exc_value)))
    before = sys.unraisablehook
    with lasting_interrupts():
        _ = Broken()
        del _
    assert told == ["in a destructor"]
    assert sys.unraisablehook is before
