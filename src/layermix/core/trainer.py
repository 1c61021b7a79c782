"""A `transformers.Trainer` for the objective: loss, parameter groups, logs by part, safe saving."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import rotate_checkpoints, sort_checkpoints

from layermix.config import MixConfig, TrainingConfig
from layermix.core.objective import Objective, Output, gradient_norms, param_groups
from layermix.core.seeds import EpochSampler, derive
from layermix.core.signals import Teacher
from layermix.errors import ModelError, NonFiniteLossError

CHECKPOINTS_KEPT = 2


class DistillTrainer(Trainer):
    """Trains an `Objective` with a `Teacher`, exactly resumable at any step.

    Args:
        objective: What learns.
        teacher: Where its targets come from; None if no term needs one.
        config: Optimisation, and how often to log and save.
        mix: Learning rate and schedule of the mix.
        seed: Fixes the row order and dropout.
        folder: Where checkpoints go.
        trainer_options: Passed to `transformers.Trainer`: datasets, collator, metrics, callbacks.

    Raises:
        ModelError: If the teacher does not provide what the losses need.
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
        self.teacher = teacher if objective.needs_teacher else None
        self.config, self.mix, self.seed = config, mix, seed
        self.meter = PartMeter()
        self.objective, self.folder = objective, folder
        args = training_arguments(config, seed, folder)
        super().__init__(objective, args, **trainer_options)
        self.add_callback(Cadence(config.save_every))

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Train, with the same dropout whatever was drawn since the trainer was made."""
        set_seed(self.args.seed)
        return super().train(*arguments, **options)

    # -- one step --------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Ask the teacher, then the objective; equation (4)."""
        signal = self.teacher(inputs) if self.teacher else None
        output: Output = model(inputs, signal, num_items_in_batch)
        self.meter.add(output, self.state.global_step)
        every = self.config.gradients_every
        last = self.accelerator.sync_gradients  # of the batches of this step
        if every and last and self.state.global_step % every == 0:
            self.meter.norms = gradient_norms(output, self.objective.student)
        # Gradients are averaged over processes, but num_items already counts the rows of all.
        loss = output.loss * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        """Clip within the optimizer's step where it can: on a CPU, a pass over all gradients fewer.

        Fused optimizers divide float32 gradients by `grad_scale`; `torch.amp.GradScaler` uses it.
        """
        optimizer: Any = self.optimizer
        optimizer = optimizer.optimizer  # in accelerate's wrapper
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

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Count rows, with or without a label, over the accumulated, global batch."""
        rows = torch.tensor(sum(len(batch["row_id"]) for batch in batch_samples), device=device)
        return self.accelerator.gather(rows).sum() if self.args.world_size > 1 else rows

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
        return EpochSampler(list(rows["length"]), self.seed, step, grouped)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Rows of similar length together; row ids tell which is which."""
        lengths = list(eval_dataset["length"])
        return sorted(range(len(lengths)), key=lengths.__getitem__)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over `param_groups`."""
        if self.optimizer is None:
            config = self.config
            groups = param_groups(
                self.objective, config.learning_rate, config.weight_decay, self.mix.learning_rate
            )
            self.optimizer = torch.optim.AdamW(groups, fused=True)
        return self.optimizer

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
        if not (bad := self.meter.first_bad_steps()):
            return
        step = min(bad.values())
        names = " and ".join(name for name, first in bad.items() if first == step)
        raise NonFiniteLossError(
            f"the loss part {names} became NaN or infinite at step {step + 1}; training stopped. "
            f"{self._last_good()}. Try a lower learning rate or a smaller weight for that part; if "
            "it happens at step 1, look at the teacher's outputs"
        )

    def _last_good(self) -> str:
        return f"Last good checkpoint: {last_checkpoint(self.folder) or 'none yet'}"

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write under a temporary name and rename, so that what has the final name is whole.

        Raises:
            NonFiniteLossError: If a weight is NaN or infinite: a finite loss can have a gradient
                that is not.
        """
        weights = self.objective.named_parameters()
        if bad := [name for name, weight in weights if not weight.isfinite().all()]:
            raise NonFiniteLossError(
                f"the gradient became NaN or infinite by step {self.state.global_step}, and so did "
                f"{bad[0]}; training stopped. {self._last_good()}. Try a lower learning rate, or "
                "other losses"
            )
        writing = self.folder / "writing"
        shutil.rmtree(writing, ignore_errors=True)
        self._checkpoint_parent = writing
        try:
            super()._save_checkpoint(model, trial)
        finally:
            del self._checkpoint_parent
        (written,) = writing.iterdir()
        shutil.rmtree(self.folder / written.name, ignore_errors=True)
        written.rename(self.folder / written.name)
        rotate_checkpoints(str(self.folder), save_total_limit=CHECKPOINTS_KEPT)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Stop where a checkpoint is not of this model: Trainer would go on with what fits.

        Raises:
            ModelError: If it lacks weights, or has others.
        """
        if other := [*load_result.missing_keys, *load_result.unexpected_keys]:
            raise ModelError(
                f"{self.folder}: the checkpoint was written by another version of layermix "
                f"({len(other)} weights are missing or unknown, such as {other[0]}); begin anew "
                f"with --restart, or, in a study, by removing {self.folder.parent}"
            )

    def _get_output_dir(self, trial: Any) -> str:
        return str(getattr(self, "_checkpoint_parent", self.folder))


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
        if output.weights is not None and output.entropy is not None:
            self.alpha = output.weights, output.entropy
        for name, part in output.parts.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(part)) + part
            first = self.first_bad.get(name, torch.full_like(part, -1, dtype=torch.long))
            fresh = ~part.isfinite() & (first < 0)
            self.first_bad[name] = torch.where(fresh, torch.full_like(first, step), first)

    def first_bad_steps(self) -> dict[str, int]:
        """Part -> the first step (from 0) at which it was NaN or infinite."""
        steps = {name: int(first) for name, first in self.first_bad.items()}
        return {name: step for name, step in steps.items() if step >= 0}

    def drain(self) -> dict[str, float]:
        """Means per example since the last call, the latest α (K, L), entropy (K,) and norms."""
        logs = {f"loss_{name}": float(total) / self.rows for name, total in self.sums.items()}
        logs |= {f"gradient_{name}": float(norm) for name, norm in self.norms.items()}
        if self.alpha is not None:
            weights, entropy = self.alpha
            for k, row in enumerate(weights.tolist()):
                logs |= {f"alpha/{k}/{index}": weight for index, weight in enumerate(row)}
            logs |= {f"entropy/{k}": value for k, value in enumerate(entropy.tolist())}
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
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
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
        dataloader_pin_memory=torch.cuda.is_available(),
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


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, or None; what is in `writing` is not whole."""
    found = sort_checkpoints(str(folder)) if folder.is_dir() else []
    return Path(found[-1]) if found else None
