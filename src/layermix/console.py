"""What a person sees while work goes on: one bar with the loss by part, the time left, and α."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from transformers import TrainerCallback

Item = TypeVar("Item")
SHADES = " ░▒▓█"


class Reporter:
    """Says what happens on standard error; standard output stays free for results.

    Args:
        quiet: Show no bars and say nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._warnings: list[str] = []

    def say(self, text: str, style: str | None = None) -> None:
        """One remark for the user, broken into lines by the terminal only."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A remark that must not get lost: a run keeps it in its record as well."""
        self.say(text, "yellow")
        self._warnings.append(text)

    def warnings(self) -> list[str]:
        """What has been warned of since the last call."""
        told, self._warnings = self._warnings, []
        return told

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield the items behind a bar."""
        with _bar(self.console) as bar:
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
        with _bar(self.console) as bar:
            task = bar.add_task(what, total=total, parts="")
            yield lambda done: bar.advance(task, done)
            bar.update(task, total=bar.tasks[0].completed)

    @contextmanager
    def training(self, name: str) -> Iterator["TrainingBar"]:
        """A bar for one training, as a callback of the trainer."""
        bar = TrainingBar(self.console, name)
        with bar.live:
            yield bar
        if not self.console.is_terminal:
            self.console.print()  # in a log file the last line of the bar has no end


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[parts]}"),
        console=console,
        disable=console.quiet,
    )


class TrainingBar(TrainerCallback):
    """Follows a training: step, time left, loss by part, last scores, α as shades."""

    def __init__(self, console: Console, name: str) -> None:
        self.progress = _bar(console)
        self.task = self.progress.add_task(name, total=None, parts="")
        self.alpha = Text()
        self.live = Live(Group(self.progress, self.alpha), console=console, transient=False)
        self.scores = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start where a resumed training starts."""
        self.progress.update(self.task, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One step further."""
        self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show the parts of the loss, or the scores of an evaluation."""
        if "loss" in logs:
            parts = {k.removeprefix("loss_"): v for k, v in logs.items() if k.startswith("loss_")}
            shown = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
            self.progress.update(
                self.task, parts=f"loss {logs['loss']:.3f} ({shown}) {self.scores}"
            )
            self.alpha.plain = alpha_shades(logs)
        elif (accuracy := logs.get("eval_validation_accuracy")) is not None:
            self.scores = f"validation accuracy {accuracy:.3f}"
            # Stays above the bar; in a log file, where no bar moves, it is the sign of life.
            epoch = f"epoch {state.epoch:.0f} of {state.num_train_epochs:.0f}"
            self.live.console.print(f"{epoch}: {self.scores}", markup=False, soft_wrap=True)


def alpha_shades(logs: dict[str, float]) -> str:
    """α as one line per student layer: a shade and a number per teacher layer.

    Examples:
        >>> print(alpha_shades({"alpha/0/0": 0.25, "alpha/0/1": 0.75}))
        α of student layer 0: ░ .25  ▓ .75
    """
    rows: dict[str, list[str]] = {}
    for name, weight in logs.items():
        if name.startswith("alpha/"):
            layer = name.split("/")[1]
            shade = SHADES[round(weight * (len(SHADES) - 1))]
            rows.setdefault(layer, []).append(f"{shade} {weight:.2f}".replace("0.", "."))
    return "\n".join(
        f"α of student layer {layer}: {'  '.join(cells)}" for layer, cells in rows.items()
    )
