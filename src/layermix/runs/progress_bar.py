"""The bar of one training: step, time left, loss by part, α as shades."""

from collections.abc import Iterator
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


@contextmanager
def training_bar(reporter: Reporter, name: str) -> Iterator[TrainingBar]:
    """Yield a bar for one training, as a callback of the trainer."""
    bar = TrainingBar(reporter.console, name)
    with bar.live:
        yield bar
    if not reporter.console.is_terminal:
        reporter.console.print()  # in a log file the last line of the bar has no end
