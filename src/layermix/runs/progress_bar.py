"""The progress bar of one training, with its losses and α as shades."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from transformers import TrainerCallback

from layermix.console import Reporter, progress_bar

SHADES = " ░▒▓█"


class TrainingBar(TrainerCallback):
    """Follows a training: a bar with the time left, the losses and α below it.

    Scores stay above the bar, one line per epoch.

    Args:
        console: Where it is drawn; a quiet console draws nothing.
        name: Of the training, in front of the bar.
        metric: The score of an epoch that is shown.
    """

    def __init__(self, console: Console, name: str, metric: str = "accuracy") -> None:
        self.metric = metric
        self.progress = progress_bar(console)
        self.task = self.progress.add_task(name, total=None)
        self.details = Text()
        self.live = Live(Group(self.progress, self.details), console=console, transient=False)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start where a resumed training starts."""
        self.progress.update(self.task, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the bar to this step."""
        self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show the parts of the loss and α, or the score of an evaluation."""
        if "loss" in logs:
            parts = " ".join(
                f"{name.removeprefix('loss_')} {value:.3f}"
                for name, value in logs.items()
                if name.startswith("loss_")
            )
            loss_line = f"loss {logs['loss']:.3f} ({parts})"
            self.details.plain = "\n".join(
                filter(None, [loss_line, alpha_shades(logs.get("alpha", ()))])
            )
        elif (score := logs.get(f"eval_validation_{self.metric}")) is not None:
            # Stays above the bar; in a log file, where no bar moves, it is the sign of life.
            epoch = f"epoch {state.epoch:.0f} of {state.num_train_epochs:.0f}"
            line = f"{epoch}: validation {self.metric} {score:.3f}"
            self.live.console.print(line, soft_wrap=True)


class PretrainingBar(TrainingBar):
    """The same for a training without scores: tokens per second, and the loss on held-out rows.

    Args:
        console: Where it is drawn.
        name: Of the training.
        epoch_tokens: Tokens of an epoch.
    """

    def __init__(self, console: Console, name: str, epoch_tokens: int) -> None:
        super().__init__(console, name)
        self.epoch_tokens = epoch_tokens
        self.begun: tuple[float, float] = 0.0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Start where a resumed training starts, and the clock."""
        super().on_train_begin(args, state, control, **options)
        self.begun = time.monotonic(), state.epoch or 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **options: Any) -> None:
        """Show the losses and the speed, or the loss on the held-out rows."""
        super().on_log(args, state, control, logs, **options)
        seconds, epoch = time.monotonic() - self.begun[0], state.epoch - self.begun[1]
        if "loss" in logs:
            speed = epoch * self.epoch_tokens / max(seconds, 1e-9)
            self.details.append(f"\n{logs['tokens']:,} tokens, {speed:,.0f} per second")
        elif (loss := logs.get("eval_held_out_loss")) is not None:
            line = f"{logs['tokens']:,} tokens: loss on held-out rows {loss:.4f}"
            self.live.console.print(line, soft_wrap=True)


def alpha_shades(alpha: Sequence[Sequence[float]]) -> str:
    """α as one line per student layer: a shade and a number per teacher layer.

    Examples:
        >>> print(alpha_shades([[0.25, 0.75]]))
        α of student layer 0: ░ .25  ▓ .75
    """
    lines = []
    for layer, row in enumerate(alpha):
        shades = [SHADES[round(weight * (len(SHADES) - 1))] for weight in row]
        numbers = [f"{weight:.2f}".replace("0.", ".") for weight in row]
        cells = [f"{shade} {number}" for shade, number in zip(shades, numbers, strict=True)]
        lines.append(f"α of student layer {layer}: {'  '.join(cells)}")
    return "\n".join(lines)


Bar = TypeVar("Bar", bound=TrainingBar)


@contextmanager
def training_bar(reporter: Reporter, name: str, metric: str = "accuracy") -> Iterator[TrainingBar]:
    """Yield the progress bar of one training, a callback for its trainer."""
    with shown(TrainingBar(reporter.console, name, metric)) as bar:
        yield bar


@contextmanager
def shown(bar: Bar) -> Iterator[Bar]:
    """Draw a bar while the block within runs."""
    console = bar.live.console
    with bar.live:
        yield bar
    if not console.is_terminal:
        console.print()  # a log file gets no line end after the bar
