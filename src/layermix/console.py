"""Text that goes to the terminal, messages and progress bars, and Ctrl-C that is not lost.

What others wrote (labels, titles, paths) may hold control characters. All text leaves through
`echo`, `Terminal` or a bar made here, which show them as escapes.
"""

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
)
from rich.text import Text

from layermix.errors import Note
from layermix.escaping import printable
from layermix.launch import is_main

Item = TypeVar("Item")


def echo(text: str, *, error: bool = False, bold: bool = False) -> None:
    """Print text and a line end on standard output, or on standard error.

    Results are printed by the main process alone, errors by any.
    """
    if not (error or is_main()):
        return
    shown = printable(text)
    click.echo(click.style(shown, bold=True) if bold else shown, err=error)


class Terminal(Console):
    """Standard error as `rich` draws on it; strings are shown as they are, never as markup.

    Args:
        quiet: Print nothing; so does every process but the main one.
    """

    def __init__(self, quiet: bool = False) -> None:
        quiet = quiet or not is_main()
        super().__init__(stderr=True, quiet=quiet, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """Render a string, wherever it stands: in a line or in a cell of a table."""
        return super().render_str(printable(text), **how)


class Reporter:
    """Prints messages and progress on standard error; standard output stays free for results.

    Args:
        quiet: Print no messages and no bars.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Terminal(quiet)
        self._warnings: list[Note] = []
        self._said: set[str] = set()

    def say(self, note: Note | str, style: str | None = None) -> None:
        """Print a message; only the terminal breaks its lines."""
        self.console.print(str(note), style=style, soft_wrap=True)

    def say_once(self, note: Note | str) -> None:
        """Print a message unless this reporter has printed the same words through it before.

        For facts that several runs share, such as the data's columns.
        """
        if str(note) not in self._said:
            self._said.add(str(note))
            self.say(note)

    def warn(self, note: Note | str) -> None:
        """Print a warning and keep it for the run's record."""
        self.say(note, "yellow")
        self._warnings.append(note if isinstance(note, Note) else Note("", note))

    def warnings(self) -> list[Note]:
        """The warnings since the last call."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield the items and show a bar that counts them.

        Args:
            items: What to iterate over.
            total: How many there are.
            what: The bar's name.
        """
        with progress_bar(self.console) as bar:
            task = bar.add_task(what, total=total)
            for item in items:
                yield item
                bar.advance(task)

    @contextmanager
    def counting(self, total: int | None, what: str) -> Iterator[Callable[[int], None]]:
        """Show a bar; yields a function that advances it by a number of items.

        Args:
            total: How many items there are, None if unknown. It may be an estimate: at the end the
                bar shows the number that was done.
            what: The bar's name.
        """
        with progress_bar(self.console) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.advance(task, done)
            bar.update(task, total=bar.tasks[0].completed)


class _Name(ProgressColumn):
    """The name of a bar."""

    def render(self, task: Task) -> Text:
        """Show the name as it is."""
        return Text(printable(task.description))


def progress_bar(console: Console) -> Progress:
    """A bar with counts and the time left; hidden if the console is quiet."""
    return Progress(
        _Name(),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=console.quiet,
    )


# -- interrupts ------------------------------------------------------------------------------------

_RESEND_AFTER = 0.05  # seconds; a garbage collection may take several


@contextmanager
def lasting_interrupts() -> Iterator[None]:
    """Resends a KeyboardInterrupt that Python swallowed in `__del__`.

    An exception in a destructor is printed and dropped. Each training begins with a garbage
    collection that destroys thousands of objects of `regex` in Python code; Ctrl-C in that tenth
    of a second would stop nothing.
    """
    previous_hook, left, pending = sys.unraisablehook, threading.Event(), threading.Event()

    def resend_later() -> None:
        # Not at once: that would still be within the destructor, and lost like the first.
        has_left = left.wait(_RESEND_AFTER)
        pending.clear()
        if not has_left:
            _send_interrupt()

    def hook(lost: "sys.UnraisableHookArgs") -> None:
        handled = callable(signal.getsignal(signal.SIGINT))  # not if the shell ignores SIGINT
        if not issubclass(lost.exc_type, KeyboardInterrupt) or not handled:
            previous_hook(lost)
        elif not pending.is_set():
            pending.set()
            _thread.start_new_thread(resend_later, ())

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous_hook
        left.set()


STOP_WITH_PARENT = "LAYERMIX_STOP_WITH_PARENT"
"""Environment variable by which a parent says that it keeps our standard input open and empty."""

STOP_SECONDS = 20.0
"""How long a stopped process may take to leave its folder in order."""


def stop_with_parent() -> None:
    """Interrupts this process when its parent has ended, however, if the parent asked for it.

    The end of standard input tells. A process that does not end after the interrupt is ended.
    """
    if os.environ.pop(STOP_WITH_PARENT, None) is None:
        return

    # A shell that runs the parent in the background has it, and so us, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if (
        sys.platform != "win32"
    ):  # a parent that blocks the signal, as Ray's workers do, hands that on
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def wait() -> None:
        while os.read(0, 1):
            pass
        _send_interrupt()
        time.sleep(STOP_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _send_interrupt() -> None:
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:  # a signal also wakes the main thread from a blocking call
        main_thread = threading.main_thread().ident
        assert main_thread is not None  # it has been started
        signal.pthread_kill(main_thread, signal.SIGINT)
