"""The progress bar of one training, with its losses and α as shades."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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


@contextmanager
def training_bar(reporter: Reporter, name: str, metric: str = "accuracy") -> Iterator[TrainingBar]:
    """Yield the progress bar of one training, a callback for its trainer."""
    bar = TrainingBar(reporter.console, name, metric)
    with bar.live:
        yield bar
    if not reporter.console.is_terminal:
        reporter.console.print()  # a log file gets no line end after the bar
