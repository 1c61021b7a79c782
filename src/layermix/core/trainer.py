"""A `transformers.Trainer` for the objective: loss, parameter groups, logs by part, safe saving."""

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import send_to_device
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from layermix.atomic import whole_folder
from layermix.config import MixConfig, TrainingConfig
from layermix.core.alpha_learner import AlphaLearner, TaughtBatch, held_out_indices
from layermix.core.checkpoints import (
    PREFIX,
    checkpoints_in,
    last_checkpoint,
    processes_of,
    seal,
)
from layermix.core.objective import Objective, Output, gradient_norms, param_groups
from layermix.core.seeds import EpochSampler, StepShares, derive, seeded
from layermix.core.signals import Signal, Teacher
from layermix.errors import ConfigError, ModelError, NonFiniteLossError
from layermix.hardware.device import default_device
from layermix.hardware.processes import gathered, smallest, summed
from layermix.launch import is_main, rank, world_size

CHECKPOINTS_KEPT = 2
ALPHA_LEARNER = "alpha_learner.pt"
"""The state of the rule by which α learns, in a checkpoint."""
GRADIENT = ""
"""The name of the whole gradient among the parts of the loss."""
STAND_IN = "stand_in"
"""A batch has this entry if it holds one row in the place of none: see `ShareCollator`."""
NEVER = 2**62
"""A step that no training reaches."""


class DistillTrainer(Trainer):
    """Trains an `Objective` with a `Teacher`, exactly resumable at any step.

    Several processes train one run: each takes its part of every batch, and all that is a sum over
    rows (loss, gradients, logs) is the same as in one process, up to rounding and dropout. The
    main process alone writes.

    Args:
        objective: What learns.
        teacher: Where its targets come from; None if no term needs one.
        config: Optimisation, and how often to log and save.
        mix: Learning rate and schedule of the mix.
        seed: Fixes the row order and dropout.
        folder: Where checkpoints go.
        alpha_learner: By which rule α learns; the paper's if None.
        held_out: Tokenised rows for it that are not trained on.
        labelled: Which training rows have a label, (N,), if `unlabeled_share` is set.
        beside: Files outside of `folder` that a resumed run reads, for the checksums.
        trainer_options: Passed to `transformers.Trainer`: datasets, collator, metrics, callbacks.
            A callback that is an `OutputCallback` gets the `Output` of every batch.

    Raises:
        ModelError: If the teacher does not provide what the losses need.
        ConfigError: If `alpha_learner` wants held-out rows and there are none, or several processes
            cannot do what one does.
    """

    objective: Objective

    def __init__(
        self,
        objective: Objective,
        teacher: Teacher | None,
        config: TrainingConfig,
        mix: MixConfig,
        seed: int,
        folder: Path,
        *,
        alpha_learner: AlphaLearner | None = None,
        held_out: Any = None,
        labelled: Sequence[bool] = (),
        beside: Callable[[], Iterable[Path]] = tuple,
        **trainer_options: Any,
    ) -> None:
        if objective.needs_teacher:
            if teacher is None:
                raise ModelError(
                    f"the objective needs a teacher, found none: {objective.formula()}"
                )
            if missing := objective.teacher_needs.missing_from(teacher.provides):
                raise ModelError(
                    f"the teacher gives the layers {list(teacher.provides.layers)}, but the losses "
                    f"also need {', '.join(missing)}; ask the teacher for more, or change "
                    "mix.teacher_layers or the losses"
                )
        self.alpha_learner, self.held_out = alpha_learner or AlphaLearner(), held_out
        if self.alpha_learner.held_out_rows and not held_out:
            raise ConfigError(
                f"{type(self.alpha_learner).__name__} learns α from rows that are not trained on, "
                "but none are held out; set training.selection to holdout"
            )
        if world_size() > 1 and (problems := self._needs_one_process(objective, config)):
            raise ConfigError("\n".join(problems))
        self.step_begun: int | None = None
        self.unreached: list[torch.nn.Parameter] = []
        self.labelled = labelled
        self.teacher = teacher if objective.needs_teacher else None
        self.config, self.mix, self.seed = config, mix, seed
        self.meter = PartMeter()
        self.objective, self.folder, self.beside = objective, folder, beside
        args = training_arguments(config, seed, folder)
        super().__init__(objective, args, **trainer_options)
        self.add_callback(Cadence(config.save_every))

    def _needs_one_process(self, objective: Objective, config: TrainingConfig) -> list[str]:
        """What the parts of a batch, each in its process, cannot be asked for."""
        problems, rule = [], type(self.alpha_learner)
        if rule.before_step is not AlphaLearner.before_step:
            problems.append(
                f"{rule.__name__} moves α by the rows of one process, so α would not be the same "
                "in all of them; train in one process"
            )
        if objective.student_needs.padding and config.padding != "max_length":
            problems.append(
                "a loss counts positions of padding, and each process pads its part of a batch to "
                "the part's own length; set training.padding to max_length, or train in one process"
            )
        return problems

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Train, with the same dropout whatever was drawn since the trainer was made."""
        set_seed(self._dropout_seed("dropout"))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            try:
                return super().train(*arguments, **options)
            finally:
                for weight in self.unreached:
                    weight.requires_grad_(True)

    def _dropout_seed(self, stream: str) -> int:
        """A seed of this process's own; in the main one that of a run in one process."""
        return derive(self.seed, stream if is_main() else f"{stream} of process {rank()}")

    # -- one step --------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Ask the teacher, then the objective; equation (4)."""
        batch, signal = taught = self._taught(inputs)
        step = self.state.global_step
        if self.step_begun != step:  # else a further batch of an accumulated step
            self.step_begun = step
            if self.objective.mix is not None:
                self.alpha_learner.before_step(self.objective, taught, self._held_out(step))
        output: Output = model(batch, signal, num_items_in_batch)
        if STAND_IN in inputs:
            output = output.without_rows()
        self.meter.add(output, step)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, OutputCallback):
                callback.on_output(output, step)
        every = self.config.gradients_every
        last = self.accelerator.sync_gradients  # of the batches of this step
        if every and last and step % every == 0:
            self.meter.norms = gradient_norms(output, self.objective.student, summed)
        # Gradients are averaged over processes, but num_items already counts the rows of all.
        loss = output.loss * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def _taught(self, inputs: Mapping[str, Any]) -> TaughtBatch:
        """A batch and the teacher's signal, which the collator has read or a live teacher gives."""
        signal: Signal | None = inputs.get("teacher_signal")
        beside = ("teacher_signal", STAND_IN)
        batch = {name: value for name, value in inputs.items() if name not in beside}
        if signal is None and self.teacher is not None:
            signal = self.teacher(batch)
        return TaughtBatch(batch, signal)

    def _held_out(self, step: int) -> TaughtBatch | None:
        """The held-out rows that the rule for α gets in this step."""
        if not (count := self.alpha_learner.held_out_rows):
            return None
        chosen = held_out_indices(len(self.held_out), count, self.seed, step)
        inputs = self._training_collator()([self.held_out[index] for index in chosen])
        return self._taught(send_to_device(inputs, self.args.device))

    def _training_collator(self) -> Callable[[list[Any]], dict[str, Any]]:
        """Rows -> batch, with the teacher's stored signal in it."""
        if self.teacher is None or not self.teacher.in_loader:
            return self.data_collator
        return SignalCollator(self.data_collator, self.teacher)

    def get_train_dataloader(self) -> Any:
        """The loader of training rows, whose workers read the teacher's stored signals ahead.

        Each process loads its part of every batch; `batch_size` is that of all processes together.
        """
        rows, args = self.train_dataset, self.args
        assert rows is not None
        parts = args.process_index, args.world_size
        loader = DataLoader(
            rows,
            batch_sampler=StepShares(self._get_train_sampler(), self.config.batch_size, *parts),
            collate_fn=ShareCollator(self._training_collator(), rows),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
        )
        # Not by `self.accelerator`, which would share out the shares.
        return prepare_data_loader(
            loader,
            args.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            non_blocking=args.dataloader_pin_memory,
        )

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        """Clip within the optimizer's step where it can: on a CPU, a pass over all gradients fewer.

        Fused optimizers divide float32 gradients by `grad_scale`; `torch.amp.GradScaler` uses it.
        """
        optimizer: Any = self.optimizer
        optimizer = optimizer.optimizer  # in accelerate's wrapper
        for weight in self._moved_by_the_learner:
            weight.grad = None
        gradients = [one.grad for one in model.parameters() if one.grad is not None]
        if (
            self.args.device.type != "cpu"
            or not getattr(optimizer, "_step_supports_amp_scaling", False)
            or any(one.dtype != torch.float32 for one in gradients)
        ):
            return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]  # transformers
        norm = torch.nn.utils.get_total_norm(gradients)
        optimizer.grad_scale = ((norm + 1e-6) / self.args.max_grad_norm).clamp(min=1)
        return norm

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """The norm of the gradient; by an infinite one, clipping would scale the gradient to 0."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]  # transformers
        self.meter.add_gradient(norm, self.state.global_step)
        return norm

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Count rows, with or without a label, over the accumulated, global batch."""
        count = sum(len(batch["row_id"]) for batch in batch_samples if STAND_IN not in batch)
        return summed(torch.full((), count, device=device))  # filled there: no wait for a copy

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """Score with the student alone: no teacher, no loss; row ids travel with the labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            logits = self.objective.student(inputs).logits
        return None, logits, (inputs["labels"], inputs["row_id"])

    # -- order, optimiser, schedule --------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        """The same order for every arm of a seed, also after a resume.

        Grouped are the rows of a step, so that it has the same ones however they are split.
        """
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        grouped = self.config.batching == "by_length"
        step = self.config.batch_size * self.config.accumulation
        share = self.config.unlabeled_share
        return EpochSampler(list(rows["length"]), self.seed, step, grouped, share, self.labelled)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Rows of similar length together; row ids tell which is which."""
        lengths = list(eval_dataset["length"])
        return sorted(range(len(lengths)), key=lengths.__getitem__)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over `param_groups`."""
        if self.optimizer is None:
            config = self.config
            groups = param_groups(self.objective, config.learning_rate, config.weight_decay, None)
            if self.objective.learns_mix:
                groups += self.alpha_learner.parameter_groups(self.objective.mix, self.mix)
            self.optimizer = torch.optim.AdamW(groups, fused=True)
            if world_size() > 1:  # the optimiser has the groups of one process all the same
                self.unreached = self._unreached()
                for weight in self.unreached:
                    weight.requires_grad_(False)
        return self.optimizer

    def _unreached(self) -> list[torch.nn.Parameter]:
        """Weights to which no term leads, such as a head whose logits nobody looks at.

        DDP would wait for their gradients.
        """
        rows: Any = self.train_dataset
        batch = send_to_device(self._training_collator()([rows[0]]), self.args.device)
        weights = [one for one in self.objective.parameters() if one.requires_grad]
        with seeded(self.seed, "which weights are reached"):
            loss = self.objective(*self._taught(batch)).loss
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        return [one for one, gradient in zip(weights, found, strict=True) if gradient is None]

    @cached_property
    def _moved_by_the_learner(self) -> list[torch.nn.Parameter]:
        """Parameters of the mix that are not in the student's optimiser."""
        assert self.optimizer is not None
        groups = self.optimizer.param_groups
        ours = {id(weight) for group in groups for weight in group["params"]}
        mix = () if self.objective.mix is None else self.objective.mix.parameters()
        return [weight for weight in mix if id(weight) not in ours]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LambdaLR:
        """The schedule of the config for each group; the mix may stay constant."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.create_optimizer()
            student = schedule(self.config.schedule, self.config.warmup, num_training_steps)
            constant = schedule("constant", 0, num_training_steps)
            self.lr_scheduler = LambdaLR(
                optimizer,
                [
                    constant
                    if group["name"] == "mix" and self.mix.schedule == "constant"
                    else student
                    for group in optimizer.param_groups
                ],
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # -- logs and checkpoints --------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss, α and its entropy, the learning rate of the mix.

        Raises:
            NonFiniteLossError: If a part has been NaN or infinite since the last log.
        """
        if "loss" in logs:
            self._check_finite()
            logs = logs | self._mix_rate() | self.meter.drain()
        super().log(logs, start_time)

    def _mix_rate(self) -> dict[str, float]:
        """The mix's rate in the step that is logged, as Trainer logs the first group's."""
        assert isinstance(self.lr_scheduler, LambdaLR)
        assert self.optimizer is not None
        step = self.state.global_step - 1
        names = [group["name"] for group in self.optimizer.param_groups]
        groups = zip(names, self.lr_scheduler.base_lrs, self.lr_scheduler.lr_lambdas, strict=True)
        rates = {name: float(base) * factor(step) for name, base, factor in groups}
        return {"learning_rate_mix": rates["mix"]} if "mix" in rates else {}

    def _check_finite(self) -> None:
        if not (bad := self.meter.first_bad_steps()):  # in any process, so that all of them stop
            return
        step = min(bad.values())
        parts = " and ".join(
            name for name, first in bad.items() if first == step and name != GRADIENT
        )
        if not parts:  # the gradient came first, or alone
            raise NonFiniteLossError(
                f"the gradient became NaN or infinite at step {step + 1}, though the loss was "
                f"finite; training stopped, since such a step teaches nothing. {self._last_good()}."
                " Try smaller weights for the losses (--loss.…_weight), or a lower learning rate"
            )
        raise NonFiniteLossError(
            f"the loss part {parts} became NaN or infinite at step {step + 1}; training stopped. "
            f"{self._last_good()}. Try a lower learning rate or a smaller weight for that part; if "
            "it happens at step 1, look at the teacher's outputs"
        )

    def _last_good(self) -> str:
        return f"Last good checkpoint: {last_checkpoint(self.folder) or 'none yet'}"

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write under a temporary name and rename, so that what has the final name is whole.

        Raises:
            NonFiniteLossError: If a weight is NaN or infinite.
        """
        step = self.state.global_step
        weights = self.objective.named_parameters()  # the same in all processes
        if bad := [name for name, weight in weights if not weight.isfinite().all()]:
            raise NonFiniteLossError(
                f"{bad[0]} became NaN or infinite by step {step}; training stopped. "
                f"{self._last_good()}. Try a lower learning rate, or other losses"
            )
        if not is_main():
            super()._save_checkpoint(model, trial)  # takes part, and writes nothing
            return
        earlier = [old for other, old in checkpoints_in(self.folder).items() if other < step]
        target = self.folder / f"{PREFIX}{step}"
        # The folder that is filled has the same name, since Trainer chooses it.
        with whole_folder(target, replace=True, durable=True) as folder:
            self._checkpoint_parent = folder.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                del self._checkpoint_parent
            seal(folder, self.folder, self.beside())
        for old in earlier[: 1 - CHECKPOINTS_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def _save_rng_state(self, output_dir: str) -> None:
        """Write the states of all processes' generators, by the main one, which owns the folder."""
        if world_size() == 1:
            super()._save_rng_state(output_dir)
            return
        with tempfile.TemporaryDirectory(prefix="layermix-") as own:
            super()._save_rng_state(own)
            files = gathered([(file.name, file.read_bytes()) for file in Path(own).iterdir()])
        if is_main():
            for name, content in itertools.chain(*files):
                (Path(output_dir) / name).write_bytes(content)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Take the generators' states back; new ones for a checkpoint of another number of them."""
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and processes_of(Path(checkpoint)) != world_size():
            set_seed(self._dropout_seed(f"dropout from step {self.state.global_step}"))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if is_main() and (state := self.alpha_learner.state_dict()):
            torch.save(state, Path(output_dir) / ALPHA_LEARNER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and (file := Path(checkpoint) / ALPHA_LEARNER).is_file():
            state = torch.load(file, map_location=self.args.device, weights_only=True)
            self.alpha_learner.load_state_dict(state)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Stop where a checkpoint is not of this model: Trainer would go on with what fits.

        Raises:
            ModelError: If it lacks weights, or has others.
        """
        if other := [*load_result.missing_keys, *load_result.unexpected_keys]:
            raise ModelError(
                f"{self.folder}: the checkpoint was written by another version of layermix "
                f"({len(other)} weights are missing or unknown, such as {other[0]}); start over "
                f"with --restart, or, in a study, by removing {self.folder.parent}"
            )

    def _get_output_dir(self, trial: Any) -> str:
        return str(getattr(self, "_checkpoint_parent", self.folder))


class SignalCollator:
    """Collates rows and reads the teacher's stored signal for them; loader workers run it.

    Args:
        collate: Rows -> padded batch.
        teacher: Reads stored signals on the CPU.
    """

    def __init__(self, collate: Callable[[list[Any]], dict[str, Any]], teacher: Teacher) -> None:
        self.collate, self.teacher = collate, teacher

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        """The padded batch, with the signal as `teacher_signal`."""
        batch = self.collate(rows)
        return {**batch, "teacher_signal": self.teacher(batch)}


class ShareCollator:
    """Collates this process's rows of a batch; loader workers run it.

    Every process must take part in every step, since gradients are summed over all. One that has no
    row in a batch, such as the last one of an epoch, gets the first row as a stand-in, which counts
    nothing.

    Args:
        collate: Rows -> padded batch.
        rows: All training rows.
    """

    def __init__(self, collate: Callable[[list[Any]], dict[str, Any]], rows: Any) -> None:
        self.collate, self.rows = collate, rows

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        """The padded batch, with an entry `STAND_IN` if it has no row of its own."""
        return self.collate(rows) if rows else {**self.collate([self.rows[0]]), STAND_IN: True}


class OutputCallback(TrainerCallback):
    """A callback that also gets the `Output` of every batch, as tensors on the device."""

    def on_output(self, output: Output, step: int) -> None:
        """Take what the objective gave.

        Args:
            output: Detached, but for its loss and weighted terms; reading a number of it waits for
                the device, so keep tensors until `on_log`.
            step: The optimiser step it belongs to, from 0.
        """


class PartMeter:
    """Sums the parts of the loss as tensors between two logs, without a sync per step."""

    def __init__(self) -> None:
        self.rows = 0
        self.sums: dict[str, Tensor] = {}
        self.first_bad: dict[str, Tensor] = {}
        self.alpha: tuple[Tensor, Tensor] | None = None
        self.norms: dict[str, Tensor] = {}

    def add(self, output: Output, step: int) -> None:
        """Count one batch, and remember the first step at which a part was not finite."""
        self.rows += len(output.logits)
        if output.alpha is not None and output.entropy is not None:
            self.alpha = output.alpha, output.entropy
        for name, part in output.parts.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(part)) + part
            self._note(name, part, step)

    def add_gradient(self, norm: Tensor, step: int) -> None:
        """Remember the first step at which the norm of the gradient was not finite."""
        self._note(GRADIENT, norm, step)

    def _note(self, name: str, value: Tensor, step: int) -> None:
        first = self.first_bad.get(name, torch.full_like(value, -1, dtype=torch.long))
        fresh = ~value.isfinite() & (first < 0)
        self.first_bad[name] = torch.where(fresh, torch.full_like(first, step), first)

    def first_bad_steps(self) -> dict[str, int]:
        """Part, or GRADIENT -> the first step (from 0) at which it was NaN or infinite.

        In whichever process: call it in all of them.
        """
        mine = torch.stack(list(self.first_bad.values()))
        steps = smallest(mine.where(mine >= 0, NEVER)).tolist()
        return {
            name: step for name, step in zip(self.first_bad, steps, strict=True) if step < NEVER
        }

    def drain(self) -> dict[str, Any]:
        """Means per example since the last call, the latest α (K, L), entropy (K,) and norms.

        Of the rows of all processes: call it in all of them.
        """
        device = next(iter(self.sums.values())).device
        rows = int(summed(torch.tensor(self.rows, device=device)))
        logs: dict[str, Any] = {
            f"loss_{name}": float(summed(total)) / rows for name, total in self.sums.items()
        }
        logs |= {f"gradient_{name}": float(norm) for name, norm in self.norms.items()}
        if self.alpha is not None:
            alpha, entropy = self.alpha
            logs |= {"alpha": alpha.tolist(), "entropy": entropy.tolist()}
        self.rows, self.sums, self.norms = 0, {}, {}
        return logs


class Cadence(TrainerCallback):
    """When to save and evaluate: after every epoch, and a checkpoint now and then within one.

    A checkpoint is always logged first, so that a resumed history equals an undisturbed one; the
    last step of an epoch is saved only after its evaluation, so that a resume cannot skip it.
    """

    def __init__(self, save_every: int) -> None:
        self.save_every = save_every

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Checkpoint within an epoch."""
        if state.global_step % self.save_every == 0 and not float(state.epoch).is_integer():
            control.should_log = control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Log, evaluate, checkpoint, in this order."""
        control.should_log = control.should_evaluate = control.should_save = True


def training_arguments(config: TrainingConfig, seed: int, folder: Path) -> TrainingArguments:
    """The Trainer's own settings; what the config does not name is fixed here, with its reason."""
    on_gpu = torch.cuda.is_available()
    on_cpu = default_device().type == "cpu"
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=max(1, config.batch_size // world_size()),  # only reported
        per_device_eval_batch_size=config.eval_batch_size,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.learning_rate,
        max_grad_norm=config.max_grad_norm,
        logging_steps=config.log_every,
        seed=derive(seed, "dropout"),
        eval_strategy="no",  # Cadence says when
        save_strategy="no",
        report_to="none",
        log_level="error",
        disable_tqdm=True,
        remove_unused_columns=False,  # row_id must reach the teacher
        label_names=["labels", "row_id"],
        logging_nan_inf_filter=False,  # PartMeter finds them, and says which part
        # Not persistent: a loader that is made anew in each epoch draws the same random numbers as
        # one without workers, so dropout has the same bits.
        dataloader_num_workers=config.loader_workers,
        dataloader_pin_memory=on_gpu,
        accelerator_config={"non_blocking": on_gpu},
        use_cpu=on_cpu,  # else several processes on CPUs would train a run each
        # A term or layer that gets no gradient is a fault, and buffers are the same everywhere.
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
    )
    # On several GPUs Trainer would use DataParallel, which cannot gather an Output.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def schedule(name: str, warmup: float, total: int) -> Callable[[int], float]:
    """Learning-rate factor by step: linear warmup, then linear to 0 or constant.

    Args:
        name: `linear` or `constant`.
        warmup: Steps; below 1, the share of `total`.
        total: Number of optimiser steps of the run.

    Examples:
        >>> factor = schedule("linear", 10, 110)
        >>> [factor(step) for step in (0, 5, 10, 60, 110)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
        >>> [schedule("constant", 0.1, 100)(step) for step in (5, 50)]
        [0.5, 1.0]
    """
    steps = warmup_steps(warmup, total)

    def factor(step: int) -> float:
        if step < steps:
            return step / steps
        return max(0.0, (total - step) / max(1, total - steps)) if name == "linear" else 1.0

    return factor


def warmup_steps(warmup: float, total: int) -> float:
    """`warmup` in steps: below 1 it is a share of `total`."""
    return warmup * total if warmup < 1 else warmup
