import io
from pathlib import Path

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from layermix.console import Reporter
from layermix.runs.progress_bar import TrainingBar, alpha_shades, training_bar


def test_remarks_go_to_standard_error_in_one_piece(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter().say("[bold]" + "long " * 60)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "[bold]" + "long " * 60 + "\n")


def test_a_bar_yields_every_item_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(Reporter().track("abc", 3, "reading")) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading" in err
    assert "3/3" in err


@pytest.mark.parametrize(("total", "shown"), [(9, "5/5"), (5, "5/5"), (None, "5/5")])
def test_a_bar_of_parts_ends_at_what_was_done(
    capsys: pytest.CaptureFixture[str], total: int | None, shown: str
) -> None:
    with Reporter().counting(total, "counting") as advance:
        advance(2)
        advance(3)
    out, err = capsys.readouterr()
    assert out == ""
    assert "counting" in err
    assert shown in err


def test_a_bar_of_parts_that_was_broken_off_shows_how_far_it_came() -> None:
    reporter, said = Reporter(), io.StringIO()
    reporter.console.file = said

    def stopped() -> None:
        with reporter.counting(9, "counting") as advance:
            advance(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert "2/9" in said.getvalue()


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    reporter = Reporter(quiet=True)
    reporter.say("hello")
    assert list(reporter.track("abc", 3, "reading")) == ["a", "b", "c"]
    with reporter.counting(3, "counting") as advance:
        advance(3)
    with training_bar(reporter, "learned") as bar:
        follow(bar, tmp_path)
    assert capsys.readouterr() == ("", "")


def follow(bar: TrainingBar, folder: Path) -> None:
    """Three steps of a training that was resumed at step 5 of 20, and an evaluation."""
    arguments, control = (
        TrainingArguments(output_dir=str(folder), report_to="none"),
        TrainerControl(),
    )
    state = TrainerState(max_steps=20, global_step=5, num_train_epochs=2, epoch=1.0)
    bar.on_train_begin(arguments, state, control)
    for _ in range(3):
        state.global_step += 1
        bar.on_step_end(arguments, state, control)
    losses = {
        "loss": 1.5,
        "loss_hidden": 0.5,
        "loss_logit": 1.0,
        "alpha": [[0.3, 0.7]],
    }
    bar.on_log(arguments, state, control, logs={"eval_validation_accuracy": 0.75})
    bar.on_log(arguments, state, control, logs=losses)
    bar.on_log(arguments, state, control, logs={"train_runtime": 1.0})


def test_a_training_shows_step_losses_scores_and_alpha(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    bar = TrainingBar(console, "learned")
    with bar.live:
        follow(bar, tmp_path)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "epoch 1 of 2: validation accuracy 0.750" in shown
    assert "learned" in shown
    assert "8/20" in shown
    assert "loss 1.500 (hidden 0.500 logit 1.000)" in shown
    assert "α of student layer 0: ░ .30  ▓ .70" in shown


def test_an_epoch_shows_the_score_of_the_kind_of_label(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    bar = TrainingBar(console, "learned", "pearson")
    arguments, state = TrainingArguments(str(tmp_path)), TrainerState(epoch=1, num_train_epochs=2)
    with bar.live:
        bar.on_log(arguments, state, TrainerControl(), logs={"eval_validation_pearson": 0.5})
    assert isinstance(console.file, io.StringIO)
    assert "epoch 1 of 2: validation pearson 0.500" in console.file.getvalue()


def test_alpha_by_student_layer() -> None:
    assert alpha_shades([[0.0, 1.0], [0.5, 0.5]]) == (
        "α of student layer 0:   .00  █ 1.00\nα of student layer 1: ▒ .50  ▒ .50"
    )
    assert alpha_shades(()) == ""
