"""What must not change a training: accumulation, padding, the arm's name, an interruption."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification, BertTokenizer, TrainerCallback

from layermix.config import MixName
from layermix.core.checkpoints import last_checkpoint
from layermix.core.objective import build_objective
from layermix.core.trainer import DistillTrainer
from layermix.data.texts import TextData
from layermix.data.tokenization import Collator, tokenize
from layermix.models.encoder import HFEncoder
from layermix.models.live_teacher import LiveTeacher
from layermix.runs.callbacks import clean_history

from ..tiny_configs import whole

Make = Callable[..., DistillTrainer]
TRAINING = {"epochs": 2, "batch_size": 4, "log_every": 1, "warmup": 0, "learning_rate": 1e-3}


class Gradients(TrainerCallback):
    """Keeps the gradient of every parameter at every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
        named = model.named_parameters()
        self.steps.append({n: p.grad.clone() for n, p in named if p.grad is not None})


@pytest.mark.parametrize("batching", ["random", "by_length"])
@pytest.mark.parametrize("hidden", ["mean", "literal_sum"])
def test_8_times_1_is_2_times_4_with_a_short_last_group(
    trainer: Make, hidden: str, batching: str
) -> None:
    """13 rows: groups of 8 and 5, the second one of batches of 2, 2 and 1."""
    found = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        gradients = Gradients()
        made = trainer(
            folder=f"{batch_size}x{accumulation}",
            dropout=0,
            double=True,
            callbacks=[gradients],
            loss={"hidden": hidden, "embedding_weight": 0.5},
            training=TRAINING
            | {"batch_size": batch_size, "accumulation": accumulation, "batching": batching},
        )
        made.train()
        found.append(
            (gradients.steps, made.objective.state_dict(), clean_history(made.state.log_history))
        )
    (steps, weights, history), (other_steps, other_weights, other_history) = found
    assert len(steps) == len(other_steps) == 4
    for one, other in zip(steps, other_steps, strict=True):
        for name, gradient in one.items():
            torch.testing.assert_close(other[name], gradient, atol=1e-9, rtol=1e-6, msg=name)
    for name, weight in weights.items():
        torch.testing.assert_close(other_weights[name], weight, atol=1e-6, rtol=1e-6, msg=name)
    for line, other_line in zip(history, other_history, strict=True):
        numbers = {key: value for key, value in line.items() if isinstance(value, float)}
        del numbers["epoch"]  # counted in batches
        assert {key: other_line[key] for key in numbers} == pytest.approx(numbers, rel=1e-6)


def test_padding_changes_neither_loss_nor_gradients(
    bert: Callable[..., BertForSequenceClassification],
    texts: Callable[..., TextData],
    tokenizer: BertTokenizer,
) -> None:
    student, teacher = HFEncoder(bert(2, 16, dropout=0)), HFEncoder(bert(4, 32))
    config = whole(loss={"embedding_weight": 1})
    objective = build_objective(student, 4, 32, config).double()
    live = LiveTeacher(teacher.double(), objective.teacher_needs)
    rows = tokenize(texts(), tokenizer, 16).splits["train"]
    batch = Collator(tokenizer)(list(rows))
    longer = {
        name: torch.nn.functional.pad(value, (0, 9)) if value.ndim == 2 else value
        for name, value in batch.items()
    }
    found = []
    for one in (batch, longer):
        objective.zero_grad()
        output = objective(one, live(one))
        output.loss.backward()
        named = objective.named_parameters()
        found.append((output.loss, {n: p.grad.clone() for n, p in named if p.grad is not None}))
    torch.testing.assert_close(found[0], found[1], atol=1e-9, rtol=1e-6)


# -- arms of one seed ------------------------------------------------------------------------------

ARMS: dict[str, dict[str, Any]] = {
    "ce_only": {"loss": {"logit_weight": 0, "hidden_weight": 0}},
    "logit_only": {"loss": {"hidden_weight": 0}},
    "diagonal": {"mix": {"start": "diagonal"}},
} | {name: {"mix": {"strategy": name}} for name in MixName.__args__}


class Watched:
    """Two epochs of an arm, with a rate so small that no weight moves.

    So the student's answers in training show its start and every dropout mask.
    """

    def __init__(self, make: Make, name: str, **sections: Any) -> None:
        made = make(folder=name, training=TRAINING | {"learning_rate": 1e-30}, **sections)
        self.start = copy.deepcopy(made.objective.state_dict())
        self.rows: list[int] = []
        self.logits: list[Tensor] = []

        def watch(student: nn.Module, inputs: Any, signal: Any) -> None:
            if student.training:
                self.rows += inputs[0]["row_id"].tolist()
                self.logits.append(signal.logits.detach())

        made.objective.student.register_forward_hook(watch)
        made.train()


def test_arms_of_a_seed_share_start_order_and_dropout(trainer: Make) -> None:
    runs = {name: Watched(trainer, name, **arm) for name, arm in ARMS.items()}
    first = runs["learned"]
    assert sorted(first.rows[:13]) == sorted(first.rows[13:]) == list(range(13))
    assert first.rows[:13] != first.rows[13:]
    for name, run in runs.items():
        assert run.rows == first.rows, name
        assert all(a.equal(b) for a, b in zip(run.logits, first.logits, strict=True)), name
        shared = [key for key in run.start if not key.startswith("mix.")]
        assert all(run.start[key].equal(first.start[key]) for key in shared), name


def test_another_seed_has_another_order_dropout_and_projection(trainer: Make) -> None:
    one, other = Watched(trainer, "one", seed=0), Watched(trainer, "other", seed=1)
    assert one.rows != other.rows
    by_row = [
        dict(zip(run.rows[:13], torch.cat(run.logits[:4]), strict=True)) for run in (one, other)
    ]
    assert all(not by_row[0][row].equal(by_row[1][row]) for row in range(13))
    projection = "projection.matrices.0.weight"
    assert not one.start[projection].equal(other.start[projection])
    assert one.start["student.model.classifier.weight"].equal(  # the student was given
        other.start["student.model.classifier.weight"]
    )


# -- again, and after an interruption --------------------------------------------------------------


def history(made: DistillTrainer) -> list[dict[str, Any]]:
    return clean_history(made.state.log_history)


def test_the_same_seed_twice_gives_the_same_history_and_another_seed_another(
    trainer: Make,
) -> None:
    torch.manual_seed(1)
    first = trainer(folder="first", training=TRAINING)
    first.train()
    torch.manual_seed(2)
    again = trainer(folder="again", training=TRAINING)
    again.train()
    other = trainer(folder="other", training=TRAINING, seed=1)
    other.train()
    assert history(first) == history(again)
    assert history(first) != history(other)


class Stop(TrainerCallback):
    """Breaks off after a step, as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


RESUMABLE = TRAINING | {
    "epochs": 3,
    "batch_size": 2,
    "accumulation": 2,
    "save_every": 3,
    "log_every": 5,
}
"""13 rows: 7 batches, the last of one row; 4 steps an epoch, saved after 3, 4, 6, 8, 9, 12."""


@pytest.mark.parametrize(
    ("stops", "batching"),
    [
        ((5, 6), "random"),
        ((9, 10), "by_length"),
        ((2, 4, 7, 12), "random"),
        pytest.param((4,), "by_length", marks=pytest.mark.slow),
        pytest.param((4,), "random", marks=pytest.mark.slow),
        pytest.param((5, 6), "by_length", marks=pytest.mark.slow),
        pytest.param((9, 10), "random", marks=pytest.mark.slow),
        pytest.param((2, 4, 7, 12), "by_length", marks=pytest.mark.slow),
    ],
)
def test_resumed_is_straight_bit_for_bit(
    trainer: Make, stops: tuple[int, ...], batching: str
) -> None:
    """Stopped once or more: before the first checkpoint, within an epoch, at its end."""
    sections = {"training": RESUMABLE | {"batching": batching}, "mix": {"learning_rate": 0.05}}
    straight = trainer(folder="straight", **sections)
    straight.train()
    for step in stops:
        torch.manual_seed(step)  # whatever another process's generator holds
        broken = trainer(callbacks=[Stop(step)], **sections)
        found = last_checkpoint(broken.folder)
        with pytest.raises(KeyboardInterrupt):
            broken.train(resume_from_checkpoint=None if found is None else str(found))
    torch.manual_seed(77)
    resumed = trainer(**sections)
    found = last_checkpoint(resumed.folder)
    resumed.train(resume_from_checkpoint=None if found is None else str(found))
    assert history(resumed) == history(straight)
    for name, weight in straight.objective.state_dict().items():
        assert resumed.objective.state_dict()[name].equal(weight), name
