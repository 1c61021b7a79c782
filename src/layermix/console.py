"""What a person sees while work goes on: one bar with the loss by part, the time left, and α."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from layermix.errors import Note

Item = TypeVar("Item")


class Reporter:
    """Says what happens on standard error; standard output stays free for results.

    Args:
        quiet: Show no bars and say nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._warnings: list[Note] = []

    def say(self, note: Note | str, style: str | None = None) -> None:
        """Print one message; only the terminal breaks it into lines."""
        self.console.print(str(note), style=style, markup=False, soft_wrap=True)

    def warn(self, note: Note | str) -> None:
        """Print a message and keep it, so that a run can write it into its record."""
        self.say(note, "yellow")
        self._warnings.append(note if isinstance(note, Note) else Note("", note))

    def warnings(self) -> list[Note]:
        """The warnings since the last call."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield the items behind a bar."""
        with progress_bar(self.console) as bar:
            task = bar.add_task(what, total=total, parts="")
            for item in items:
                yield item
                bar.advance(task)

    @contextmanager
    def counting(self, total: int | None, what: str) -> Iterator[Callable[[int], None]]:
        """A bar for what is done by parts; yields what is told how many more are done.

        Args:
            total: How many there are, if that is known; may be off, the bar ends at what was done.
            what: The bar's name.
        """
        with progress_bar(self.console) as bar:
            task = bar.add_task(what, total=total, parts="")
            yield lambda done: bar.advance(task, done)
            bar.update(task, total=bar.tasks[0].completed)


def progress_bar(console: Console) -> Progress:
    """A bar with counts, time left and a field `parts`; hidden if the console is quiet."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[parts]}"),
        console=console,
        disable=console.quiet,
    )
