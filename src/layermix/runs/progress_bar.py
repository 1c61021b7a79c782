"""The bar of one training: step, time left, loss by part, α as shades."""

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
    """Follows a training: step, time left, loss by part, last scores, α as shades."""

    def __init__(self, console: Console, name: str) -> None:
        self.progress = progress_bar(console)
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
            self.alpha.plain = alpha_shades(logs.get("alpha", ()))
        elif (accuracy := logs.get("eval_validation_accuracy")) is not None:
            self.scores = f"validation accuracy {accuracy:.3f}"
            # Stays above the bar; in a log file, where no bar moves, it is the sign of life.
            epoch = f"epoch {state.epoch:.0f} of {state.num_train_epochs:.0f}"
            self.live.console.print(f"{epoch}: {self.scores}", markup=False, soft_wrap=True)


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
def training_bar(reporter: Reporter, name: str) -> Iterator[TrainingBar]:
    """Yield a bar for one training, as a callback of the trainer."""
    bar = TrainingBar(reporter.console, name)
    with bar.live:
        yield bar
    if not reporter.console.is_terminal:
        reporter.console.print()  # in a log file the last line of the bar has no end
