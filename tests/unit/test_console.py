"""Text goes out as it is; Ctrl-C reaches the command wherever it falls."""

import signal
import sys
import time
from collections.abc import Iterator

import pytest
from rich.table import Table

from layermix import console
from layermix.console import Reporter, Terminal, echo, lasting_interrupts


class Interrupted:
    """Ctrl-C is pressed while it is destroyed."""

    ignoring = False

    def __del__(self) -> None:
        if self.ignoring:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)


class Broken:
    def __del__(self) -> None:
        raise ValueError("in a destructor")


@pytest.fixture(autouse=True)
def plain_handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(console, "_RESEND_AFTER", 0.5)  # a busy machine stalls for less
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def destroy_and_wait(many: list[object], destroyed: list[str]) -> None:
    with lasting_interrupts():
        while many:
            many.pop()
        destroyed.append("all")  # Python itself has thrown the first one away
        time.sleep(30)


def test_an_interrupt_in_a_destructor_is_raised_a_moment_later() -> None:
    destroyed: list[str] = []
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        destroy_and_wait([Interrupted()], destroyed)
    assert destroyed == ["all"]
    assert time.monotonic() - began < 20  # in the middle of what it waits for


def test_it_goes_on_until_it_is_heard() -> None:
    destroyed: list[str] = []

    class Slow:
        def __del__(self) -> None:
            destroyed.append("slow")
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        destroy_and_wait([Slow(), Slow(), Interrupted()], destroyed)
    assert destroyed == ["slow", "slow", "all"]


def test_an_interrupt_that_is_lost_at_the_very_end_stops_nothing_after_it() -> None:
    with lasting_interrupts():
        _ = Interrupted()
        del _
    heard = False
    try:
        time.sleep(1)  # longer than a moment
    except KeyboardInterrupt:  # which would end pytest itself
        heard = True
    assert not heard


def test_what_nobody_would_hear_is_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(found.exc_type))
    with lasting_interrupts():
        one = Interrupted()
        one.ignoring = True
        del one
    assert told == [KeyboardInterrupt]


def test_other_faults_of_destructors_are_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(str(found.exc_value)))
    before = sys.unraisablehook
    with lasting_interrupts():
        _ = Broken()
        del _
    assert told == ["in a destructor"]
    assert sys.unraisablehook is before


# -- text ------------------------------------------------------------------------------------------

HOSTILE, SHOWN = (
    "\x1b[2J[red]:smile:\x1b]0;title\x07 [/x]",
    r"\x1b[2J[red]:smile:\x1b]0;title\x07 [/x]",
)


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.usefixtures("on_terminal")
def test_a_terminal_shows_control_characters_and_markup_as_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reporter = Reporter()
    reporter.say(HOSTILE)
    reporter.warn(HOSTILE)
    assert [str(note) for note in reporter.warnings()] == [HOSTILE]
    list(reporter.track([1], 1, HOSTILE))
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    Terminal().print(table)
    written = capsys.readouterr().err
    assert written.count(SHOWN) >= 6
    assert "\x1b[2J" not in written
    assert "\x1b]" not in written
    assert "\x1b[33m" in written  # the warning is yellow


def test_results_show_control_characters_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    echo(HOSTILE)
    echo(HOSTILE, error=True)
    echo("heading", bold=True)
    written = capsys.readouterr()
    assert (written.out, written.err) == (f"{SHOWN}\nheading\n", f"{SHOWN}\n")
