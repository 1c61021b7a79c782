"""The trainer, on real tiny BERTs: who is asked, what is logged, what is kept, when it stops."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from layermix.core.alpha_learner import AlphaLearner
from layermix.core.checkpoints import checkpoints_in, damage, last_checkpoint, processes_of
from layermix.core.objective import param_groups
from layermix.core.seeds import EpochSampler
from layermix.core.signals import Batch, Needs, Signal
from layermix.core.trainer import CHECKPOINTS_KEPT, DistillTrainer, ShareCollator, schedule
from layermix.errors import ConfigError, ModelError, NonFiniteLossError
from layermix.models.live_teacher import LiveTeacher

Make = Callable[..., DistillTrainer]
EVERY_STEP = {"epochs": 1, "batch_size": 4, "log_every": 1, "warmup": 0, "learning_rate": 1e-3}
CE_ONLY = {"logit_weight": 0, "hidden_weight": 0}
WEIGHTS = "model.safetensors"


def steps_of(trainer: DistillTrainer) -> list[dict[str, float]]:
    """The records of training steps."""
    return [line for line in trainer.state.log_history if "loss" in line]


# -- the teacher -----------------------------------------------------------------------------------


class CountingTeacher(LiveTeacher):
    """A live teacher that keeps the rows it was asked for."""

    def __init__(self, encoder: Any, provides: Needs) -> None:
        super().__init__(encoder, provides)
        self.asked: list[int] = []

    def __call__(self, batch: Batch) -> Signal:
        self.asked += batch["row_id"].tolist()
        return super().__call__(batch)


def test_the_teacher_is_asked_once_per_training_row_and_never_in_evaluation(trainer: Make) -> None:
    made = trainer(teacher=CountingTeacher, training=EVERY_STEP | {"epochs": 2})
    made.train()
    assert isinstance(made.teacher, CountingTeacher)
    assert sorted(made.teacher.asked) == sorted([*range(13)] * 2)
    assert sum("eval_validation_accuracy" in line for line in made.state.log_history) == 2


def test_a_teacher_that_no_term_needs_is_not_asked(trainer: Make) -> None:
    unneeded = trainer(loss=CE_ONLY, training=EVERY_STEP)
    needed = trainer(teacher=CountingTeacher, training=EVERY_STEP)
    assert unneeded.teacher is None
    made = DistillTrainer(
        unneeded.objective,
        needed.teacher,
        unneeded.config,
        unneeded.mix,
        0,
        unneeded.folder,
        train_dataset=unneeded.train_dataset,
        eval_dataset=unneeded.eval_dataset,
        data_collator=unneeded.data_collator,
    )
    made.train()
    assert isinstance(needed.teacher, CountingTeacher)
    assert needed.teacher.asked == []


def test_a_teacher_that_gives_too_little_is_refused_when_the_trainer_is_built(
    trainer: Make,
) -> None:
    with pytest.raises(ModelError) as caught:
        trainer(
            teacher=lambda encoder, _: LiveTeacher(encoder, Needs((1,))),
            loss={"embedding_weight": 1},
        )
    assert str(caught.value) == (
        "the teacher gives the layers [1], but the losses also need layer 3, the embedding "
        "output; ask the teacher for more, or change mix.teacher_layers or the losses"
    )


def test_a_missing_teacher_is_refused_when_the_trainer_is_built(trainer: Make) -> None:
    with pytest.raises(ModelError, match=r"the objective needs a teacher, found none: L = 1·L_sup"):
        trainer(teacher=lambda *_: None)


def test_the_teacher_stays_in_eval_mode_and_does_not_learn(trainer: Make) -> None:
    made = trainer(training=EVERY_STEP)
    assert isinstance(made.teacher, LiveTeacher)
    before = copy.deepcopy(made.teacher.module.state_dict())
    made.train()
    assert not made.teacher.module.training
    assert all(p.grad is None and not p.requires_grad for p in made.teacher.module.parameters())
    after = made.teacher.module.state_dict()
    assert all(after[name].equal(value) for name, value in before.items())


# -- optimiser and schedule ------------------------------------------------------------------------


def test_every_trained_parameter_is_in_one_group_of_the_optimiser(trainer: Make) -> None:
    made = trainer(
        mix={"learning_rate": 0.5}, training=EVERY_STEP | {"weight_decay": 0.3, "warmup": 2}
    )
    made.train()
    assert made.optimizer is not None
    groups = {group["name"]: group for group in made.optimizer.param_groups}
    held = [id(parameter) for group in groups.values() for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in made.objective.parameters())
    found = {name: (group["initial_lr"], group["weight_decay"]) for name, group in groups.items()}
    assert found == {"matrices": (1e-3, 0.3), "vectors": (1e-3, 0), "mix": (0.5, 0)}
    assert [id(p) for p in groups["mix"]["params"]] == [id(made.objective.mix.logits)]
    assert all(parameter.ndim == 1 for parameter in groups["vectors"]["params"])


def test_the_optimiser_and_the_schedule_are_made_once(trainer: Make) -> None:
    made = trainer()
    optimizer = made.create_optimizer()
    assert made.create_optimizer() is optimizer
    scheduler = made.create_scheduler(10)
    assert made.create_scheduler(10) is scheduler


def test_schedules() -> None:
    assert [schedule("linear", 0, 4)(step) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert [schedule("constant", 0.5, 4)(step) for step in range(5)] == [0, 0.5, 1, 1, 1]
    assert [schedule("linear", 2, 4)(step) for step in range(5)] == [0, 0.5, 1, 0.5, 0]
    longer_than_the_run = schedule("linear", 10, 4)
    assert [longer_than_the_run(step) for step in range(5)] == [0, 0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("of_mix", "expected"), [("same", [0, 0.5, 1, 0.5]), ("constant", [1, 1, 1, 1])]
)
def test_the_rates_that_are_logged_are_those_of_the_step(
    trainer: Make, of_mix: str, expected: list[float]
) -> None:
    made = trainer(
        mix={"schedule": of_mix, "learning_rate": 0.01}, training=EVERY_STEP | {"warmup": 2}
    )
    made.train()
    lines = steps_of(made)
    assert [line["learning_rate"] / 1e-3 for line in lines] == pytest.approx([0, 0.5, 1, 0.5])
    assert [line["learning_rate_mix"] / 0.01 for line in lines] == pytest.approx(expected)


def test_a_mix_that_does_not_learn_has_no_rate(trainer: Make) -> None:
    made = trainer(mix={"strategy": "random"}, training=EVERY_STEP)
    made.train()
    assert all("learning_rate_mix" not in line for line in steps_of(made))


# -- logs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_logged_parts_add_up_to_the_logged_loss(trainer: Make, accumulation: int) -> None:
    made = trainer(
        loss={"hidden_weight": 0.3, "embedding_weight": 2, "entropy_weight": 0.7},
        training=EVERY_STEP | {"batch_size": 2, "accumulation": accumulation},
    )
    made.train()
    lines = steps_of(made)
    assert len(lines) == -(-7 // accumulation)
    for line in lines:
        parts = {name: line[f"loss_{name}"] for name in made.objective.weights}
        whole = sum(made.objective.weights[name] * part for name, part in parts.items())
        assert line["loss"] == pytest.approx(whole, rel=1e-5)
        assert line["loss_entropy"] == pytest.approx(sum(line["entropy"]))


def test_alpha_and_its_entropy_are_logged(trainer: Make) -> None:
    made = trainer(training=EVERY_STEP | {"epochs": 3}, mix={"learning_rate": 0.3})
    made.train()
    first, *_, last = steps_of(made)
    assert first["alpha"] == [[0.5, 0.5], [0.5, 0.5]]
    assert first["entropy"][0] == pytest.approx(0.6931, abs=1e-4)
    assert sum(last["alpha"][0]) == pytest.approx(1)
    assert last["alpha"][0][0] != pytest.approx(0.5, abs=0.01)
    assert last["entropy"][0] < first["entropy"][0]


def test_parts_are_means_over_the_examples_since_the_last_log(trainer: Make) -> None:
    logged = []
    for log_every in (1, 2):
        made = trainer(rows=16, training=EVERY_STEP | {"log_every": log_every})
        made.train()
        logged.append([line["loss_hidden"] for line in steps_of(made)])
    single, double = logged
    means = [(single[0] + single[1]) / 2, (single[2] + single[3]) / 2]
    assert double == pytest.approx(means, rel=1e-5)


def test_measuring_gradients_changes_nothing_but_the_log(trainer: Make) -> None:
    parts = {"hidden_weight": 0.3, "entropy_weight": 0.7}
    plain = trainer(loss=parts, training=EVERY_STEP)
    plain.train()
    measured = trainer(loss=parts, training=EVERY_STEP | {"gradients_every": 2})
    measured.train()
    assert all(
        one.equal(other)
        for one, other in zip(
            plain.objective.parameters(), measured.objective.parameters(), strict=True
        )
    )
    names = {"gradient_supervised", "gradient_logit", "gradient_hidden"}
    found = [{name for name in line if name.startswith("gradient_")} for line in steps_of(measured)]
    assert found == [names, set()] * 2  # of steps 1 and 3; the entropy does not reach the student
    assert not names & steps_of(plain)[0].keys()


# -- loss and gradients ----------------------------------------------------------------------------


def test_compute_loss_gives_the_output_if_asked(trainer: Make) -> None:
    made = trainer()
    batch = next(iter(made.get_train_dataloader()))
    loss, output = made.compute_loss(made.objective.eval(), batch, return_outputs=True)
    assert loss.equal(output.loss)
    torch.testing.assert_close(
        made.compute_loss(made.objective, batch, num_items_in_batch=torch.tensor(26)), loss / 2
    )


def test_items_are_rows_with_or_without_a_label(trainer: Make) -> None:
    made = trainer()
    batch = next(iter(made.get_train_dataloader()))
    batch["labels"][:] = -100
    assert made._get_num_items_in_batch([batch, batch], torch.device("cpu")) == 26


def test_predictions_need_no_label(trainer: Make) -> None:
    made = trainer(loss=CE_ONLY)
    assert isinstance(made.eval_dataset, dict)
    rows = made.eval_dataset["validation"].map(lambda row: row | {"labels": -100})
    found = made.predict(rows)
    assert found.label_ids[0].tolist() == [-100] * 6
    assert sorted(found.label_ids[1].tolist()) == sorted(rows["row_id"])
    assert found.predictions.shape == (6, 2)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("double", [False, True])
def test_clipping_keeps_the_gradient_below_the_norm(
    trainer: Make, double: bool, fused: bool
) -> None:
    """By what AdamW averages: m = .9 m + .1 g, so it tells the gradient that it was given."""

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.average: Any = 0.0
            self.norms: list[float] = []

        def on_step_end(self, *_: Any, optimizer: Any, **__: Any) -> None:
            parts = [state["exp_avg"].flatten() for state in optimizer.state.values()]
            before, self.average = self.average, torch.cat(parts).double()
            self.norms.append(float((self.average - 0.9 * before).norm()) * 10)

    def norms(limit: float) -> list[float]:
        watch = Watch()
        training = EVERY_STEP | {"max_grad_norm": limit}
        made = trainer(double=double, training=training, callbacks=[watch])
        if not fused:
            made.optimizer = torch.optim.AdamW(param_groups(made.objective, 1e-3, 0.01, 1e-3))
        made.train()
        optimizer: Any = made.optimizer
        within = hasattr(optimizer.optimizer, "grad_scale")
        assert within == (limit > 0 and fused and not double)
        return watch.norms

    free, clipped = norms(0), norms(0.01)
    assert min(free) > 0.1
    assert len(clipped) == len(free) == 4
    assert max(clipped) <= 0.01 * (1 + 1e-5)
    assert min(clipped) > 0.01 * (1 - 1e-4)
    assert norms(100) == pytest.approx(free, rel=1e-5)


# -- NaN and infinity ------------------------------------------------------------------------------


class OverflowingTeacher(LiveTeacher):
    """A teacher that overflows on one row: the ninth that is trained on, if batches are random."""

    def __call__(self, batch: Batch) -> Signal:
        signal = super().__call__(batch)
        ninth = list(EpochSampler([1] * 13, seed=0))[8]
        bad = batch["row_id"] == ninth
        hidden = signal.hidden
        if hidden is not None:
            hidden = hidden.masked_fill(bad[:, None, None], torch.inf)
        logits = signal.logits.masked_fill(bad[:, None], torch.inf)
        return replace(signal, logits=logits, hidden=hidden)


def test_a_part_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    trainer: Make,
) -> None:
    training = EVERY_STEP | {"save_every": 1, "batching": "random"}
    made = trainer(teacher=OverflowingTeacher, training=training)
    with pytest.raises(NonFiniteLossError) as caught:
        made.train()
    good = made.folder / "checkpoint-2"
    assert str(caught.value) == (
        "the loss part logit and hidden became NaN or infinite at step 3; training stopped. Last "
        f"good checkpoint: {good}. Try a lower learning rate or a smaller weight for that part; "
        "if it happens at step 1, look at the teacher's outputs"
    )
    assert last_checkpoint(made.folder) == good
    assert all(weight.isfinite().all() for weight in load_file(good / WEIGHTS).values())


def test_the_first_bad_step_is_named_although_it_is_logged_later(trainer: Make) -> None:
    training = EVERY_STEP | {"log_every": 100, "batching": "random"}
    made = trainer(teacher=OverflowingTeacher, loss={"hidden_weight": 0}, training=training)
    with pytest.raises(NonFiniteLossError) as caught:
        made.train()
    assert str(caught.value).startswith(
        "the loss part logit became NaN or infinite at step 3; training stopped. "
        "Last good checkpoint: none yet."
    )


def test_a_gradient_that_is_not_finite_is_never_saved(trainer: Make) -> None:
    """The square root of 0 is 0, its slope is infinite: no part of the loss shows it in time."""
    made = trainer(loss={"hidden_weight": 0}, training=EVERY_STEP | {"save_every": 1})
    steps = 0

    def root(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        nonlocal steps
        steps += 1
        return ((student - student.detach()).square().sum(-1) + (steps < 3)).sqrt()

    logit = next(term for term in made.objective.terms if term.name == "logit")
    logit.loss = root
    with pytest.raises(NonFiniteLossError) as caught:
        made.train()
    good = made.folder / "checkpoint-2"
    message = str(caught.value)
    assert message.startswith("the gradient became NaN or infinite at step 3, though the loss was")
    assert f"such a step teaches nothing. Last good checkpoint: {good}. Try smaller" in message
    assert last_checkpoint(made.folder) == good


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize("double", [False, True])
def test_a_gradient_whose_norm_is_infinite_stops_the_run(
    trainer: Make, max_grad_norm: float, double: bool
) -> None:
    """The loss and each gradient are finite; clipped by the norm, the step would be 0."""
    training = EVERY_STEP | {"log_every": 100, "max_grad_norm": max_grad_norm}
    weight = 1e200 if double else 1e30
    made = trainer(loss={"hidden_weight": weight}, double=double, training=training)
    with pytest.raises(NonFiniteLossError, match="the gradient became NaN or infinite at step 1,"):
        made.train()
    assert made.state.log_history == []
    assert last_checkpoint(made.folder) is None


def test_a_weight_that_is_not_finite_is_never_saved(trainer: Make) -> None:
    class Overflow(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                made.objective.mix.logits.data[0] = torch.inf

    made = trainer(callbacks=[Overflow()], training=EVERY_STEP | {"save_every": 1})
    with pytest.raises(NonFiniteLossError, match=r"mix\.logits became NaN or infinite by step 2;"):
        made.train()
    assert last_checkpoint(made.folder) == made.folder / "checkpoint-1"


# -- checkpoints -----------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_checkpoints_are_kept_and_nothing_else(trainer: Make) -> None:
    made = trainer(training=EVERY_STEP | {"epochs": 3, "save_every": 3})
    assert last_checkpoint(made.folder) is None
    made.train()
    assert CHECKPOINTS_KEPT == 2
    assert names(made.folder) == ["checkpoint-12", "checkpoint-9"]
    assert last_checkpoint(made.folder) == made.folder / "checkpoint-12"
    saved = load_file(made.folder / "checkpoint-12" / WEIGHTS)
    assert saved["mix.logits"].equal(made.objective.mix.logits)
    assert saved.keys() == made.objective.state_dict().keys()


def test_there_is_a_checkpoint_after_every_epoch_and_now_and_then_within_one(
    trainer: Make,
) -> None:
    saved: list[int] = []

    class Watch(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            saved.append(state.global_step)

    trainer(
        training=EVERY_STEP | {"epochs": 3, "save_every": 2}, callbacks=[Watch()]
    ).train()  # 4 steps an epoch
    assert saved == [2, 4, 6, 8, 10, 12]
    saved.clear()
    trainer(
        folder="other", training=EVERY_STEP | {"epochs": 2, "save_every": 100}, callbacks=[Watch()]
    ).train()
    assert saved == [4, 8]


class Unsaveable(TrainerCallback, ExportableState):
    """A callback whose state cannot be written from some step on: saving breaks off half-way.

    It notes which files there are then.
    """

    def __init__(self, from_step: int, folder: Path) -> None:
        self.from_step, self.step, self.folder = from_step, 0, folder
        self.files: list[str] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step = state.global_step

    def state(self) -> dict[str, Any]:
        if self.broken:
            self.files = [str(file.relative_to(self.folder)) for file in self.folder.rglob("*")]
        return {
            "args": {"from_step": 0, "folder": ""},
            "attributes": {"x": object()} if self.broken else {},
        }

    @property
    def broken(self) -> bool:
        return self.step >= self.from_step


def test_a_checkpoint_has_its_name_only_when_it_is_whole(trainer: Make) -> None:
    training = EVERY_STEP | {"save_every": 1}
    broken = trainer(training=training)
    unsaveable = Unsaveable(from_step=3, folder=broken.folder)
    broken.add_callback(unsaveable)
    with pytest.raises(TypeError):
        broken.train()
    assert f".checkpoint-3.writing/checkpoint-3/{WEIGHTS}" in unsaveable.files  # it was half-way
    assert names(broken.folder) == ["checkpoint-1", "checkpoint-2"]
    assert last_checkpoint(broken.folder) == broken.folder / "checkpoint-2"
    assert damage(broken.folder / "checkpoint-2") == []
    resumed = trainer(training=training)
    resumed.train(resume_from_checkpoint=str(last_checkpoint(broken.folder)))
    straight = trainer(training=training, folder="straight")
    straight.train()
    for name, weight in straight.objective.state_dict().items():
        assert resumed.objective.state_dict()[name].equal(weight), name
    assert last_checkpoint(broken.folder) == broken.folder / "checkpoint-4"


# -- several processes, which tests/invariant/test_processes.py starts -----------------------------


def as_if_of_two(monkeypatch: pytest.MonkeyPatch, rank: int = 0) -> None:
    """What the trainer knows of other processes, though there are none to talk to."""
    monkeypatch.setattr("layermix.core.trainer.world_size", lambda: 2)
    monkeypatch.setattr("layermix.core.trainer.is_main", lambda: rank == 0)
    monkeypatch.setattr("layermix.core.trainer.rank", lambda: rank)


def test_a_process_without_rows_takes_part_with_one_that_counts_nothing(trainer: Make) -> None:
    made = trainer(training=EVERY_STEP)
    batch = next(iter(made.get_train_dataloader()))
    rows: Any = made.train_dataset
    alone = ShareCollator(made._training_collator(), rows)([])
    assert alone["row_id"].tolist() == [rows[0]["row_id"]]
    count = made._get_num_items_in_batch([batch, alone], torch.device("cpu"))
    assert int(count) == len(batch["row_id"])
    loss, output = made.compute_loss(made.objective, alone, True, count)
    loss.backward()
    assert float(loss.detach()) == 0
    assert output.parts.keys() == made.meter.sums.keys()
    assert not any(made.meter.sums.values())
    assert made.meter.rows == len(output.logits) == 0
    gradients = [one.grad for one in made.objective.student.parameters() if one.grad is not None]
    assert gradients
    assert not any(gradient.any() for gradient in gradients)


def test_weights_that_no_term_reaches_are_left_out_of_several_processes(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimiser has them all the same, so that a checkpoint fits any number of processes."""
    hidden = {"supervised_weight": 0, "logit_weight": 0, "hidden_weight": 1}
    alone = trainer(loss=hidden, training=EVERY_STEP)
    sizes = [len(group["params"]) for group in alone.create_optimizer().param_groups]
    as_if_of_two(monkeypatch)
    made = trainer(loss=hidden, training=EVERY_STEP)
    groups = made.create_optimizer().param_groups
    assert [len(group["params"]) for group in groups] == sizes
    names = {id(weight): name for name, weight in made.objective.student.named_parameters()}
    left_out = {names[id(weight)] for weight in made.unreached}
    assert "model.classifier.weight" in left_out
    assert "model.bert.embeddings.word_embeddings.weight" not in left_out
    assert not any(weight.requires_grad for weight in made.unreached)
    made.train()
    assert all(weight.requires_grad for weight in made.unreached)


def test_only_the_main_process_writes_checkpoints(
    trainer: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_if_of_two(monkeypatch, rank=1)
    made = trainer(training=EVERY_STEP)
    monkeypatch.setattr(type(made.args), "should_save", False)  # as its number says
    made.train()
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_each_process_drops_out_for_itself(trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for rank in (None, 0, 1):
        if rank is not None:
            as_if_of_two(monkeypatch, rank)
        made = trainer(training=EVERY_STEP, dropout=0.5, folder=f"of {rank}")
        made.train()
        losses.append([line["loss"] for line in steps_of(made)])
    assert losses[0] == losses[1]
    assert losses[1] != losses[2]


def test_a_checkpoint_of_two_processes_is_resumed_by_one(trainer: Make) -> None:
    training = EVERY_STEP | {"epochs": 2}
    made = trainer(training=training)
    made.train()
    first = min(checkpoints_in(made.folder).values())
    (first / "rng_state.pth").rename(first / "rng_state_0.pth")
    (first / "rng_state_1.pth").write_bytes((first / "rng_state_0.pth").read_bytes())
    assert processes_of(first) == 2
    losses = []
    for _ in range(2):
        again = trainer(training=training, folder="again")
        again.train(resume_from_checkpoint=str(first))
        losses.append([line["loss"] for line in steps_of(again)])
    assert losses[0] == losses[1]
    assert len(losses[0]) == len(steps_of(made))


def test_what_several_processes_cannot_do_is_told_before_training(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_of_two(monkeypatch)
    with pytest.raises(ConfigError, match="set training\\.padding to max_length"):
        trainer(loss={"hidden": "tinybert_mean"})
    made = trainer()
    made.alpha_learner = OwnRule()
    assert made._needs_one_process(made.objective, made.config) == [
        "OwnRule moves α by the rows of one process, so α would not be the same in all of them; "
        "train in one process"
    ]


class OwnRule(AlphaLearner):
    """A rule that moves α itself."""

    def before_step(self, *_: Any) -> None:
        """Do nothing."""
