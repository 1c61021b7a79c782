"""From outside the package: a mix, a term and a rule for α reach a run folder, a resume, a report.

Each is written as a user would write it, against the protocols of the heart alone.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertForSequenceClassification, BertTokenizer, TrainerCallback

from layermix.config import DistillConfig
from layermix.core.alpha_learner import AlphaLearner, TaughtBatch
from layermix.core.mixing import MixPlan, Mixture
from layermix.core.objective import Objective
from layermix.core.signals import LOGITS_ONLY
from layermix.core.terms import Asks, ForwardPass, Term
from layermix.core.trainer import OutputCallback
from layermix.data.texts import TextData
from layermix.errors import ConfigError
from layermix.models.encoder import Classifier
from layermix.models.students import copy_blocks
from layermix.report.build import report
from layermix.runs.pipeline import distill_from
from layermix.runs.schema import read_result

WIDTH, LAYERS = 32, 2


class AttendingMix(nn.Module):
    """Each student token weighs the teacher's layers by its own state (in the manner of ALP-KD)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.eye(width))

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Mixture:
        scores = torch.einsum("kbtd,de,lbte->kblt", student.detach(), self.query, teacher)
        by_token = (scores / teacher.shape[-1] ** 0.5).softmax(2)  # (K, B, L, T)
        targets = torch.einsum("kblt,lbtd->kbtd", by_token, teacher)
        alpha = (by_token * mask[None, :, None]).sum((1, 3)) / mask.sum()
        return Mixture(targets, alpha, torch.special.entr(alpha).sum(-1))


class Margin(Term):
    """The gap between the two largest logits follows the teacher's, times a learned scale."""

    name, symbol = "margin", "L_margin"

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.scale = nn.Parameter(torch.ones(()))

    def asks(self, plan: MixPlan | None) -> Asks:
        return Asks(teacher=LOGITS_ONLY)

    def forward(self, given: ForwardPass) -> Tensor:
        assert given.teacher is not None
        own, wanted = (side.logits.diff(dim=-1)[:, 0] for side in (given.student, given.teacher))
        return (self.scale * own - wanted).square()


class HeldOut(AlphaLearner):
    """α moves along the gradient of the hidden loss on held-out rows, with momentum of its own."""

    held_out_rows = 4

    def __init__(self, rate: float = 0.5) -> None:
        self.rate = rate
        self.momentum: Tensor | None = None

    def parameter_groups(self, mix: nn.Module, config: Any) -> list[dict[str, Any]]:
        return []

    def before_step(
        self, objective: Objective, taught: TaughtBatch, held_out: TaughtBatch | None
    ) -> None:
        assert held_out is not None
        logits = objective.mix.logits
        loss = objective(*held_out).weighted["hidden"]
        (gradient,) = torch.autograd.grad(loss, logits)
        kept = torch.zeros_like(gradient) if self.momentum is None else self.momentum
        self.momentum = 0.9 * kept + gradient
        with torch.no_grad():
            logits -= self.rate * self.momentum

    def state_dict(self) -> dict[str, Any]:
        return {} if self.momentum is None else {"momentum": self.momentum}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.momentum = state["momentum"]


class Watch(OutputCallback):
    """Counts batches, and sees α of each."""

    def __init__(self) -> None:
        self.alphas: list[Tensor] = []

    def on_output(self, output: Any, step: int) -> None:
        assert output.alpha is not None
        self.alphas.append(output.alpha)


class Kill(TrainerCallback):
    """Ends the run where a kill would, between two checkpoints."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt


def own_objects(which: str) -> dict[str, Any]:
    return {
        "mix": lambda: {"mix": AttendingMix(WIDTH)},
        "term": lambda: {"terms": [Margin(0.5)]},
        "rule": lambda: {"alpha_learner": HeldOut()},
    }[which]()


@pytest.fixture
def teacher(bert: Callable[..., BertForSequenceClassification], tokenizer: BertTokenizer) -> Any:
    return Classifier(bert(4, WIDTH, seed=2), tokenizer, "a tiny teacher")


def config(**training: Any) -> DistillConfig:
    return DistillConfig.model_validate(
        {
            "preset": "quick",
            "teacher": {"allow_weak": True},
            "mix": {"strategy": "learned"},
            "loss": {"hidden_weight": 1},
            "training": {
                "epochs": 2,
                "batch_size": 4,
                "log_every": 2,
                "save_every": 2,
                "selection": "holdout",
                "holdout_fraction": 0.25,
                **training,
            },
        }
    )


@pytest.mark.parametrize("which", ["mix", "term", "rule"])
def test_an_object_of_ones_own_reaches_run_folder_resume_and_report(
    which: str, teacher: Classifier, texts: Callable[..., TextData], tmp_path: Path
) -> None:
    data, settings = texts(26), config()

    def distil(out: Path, *callbacks: Any, **options: Any) -> Any:
        student = copy_blocks(teacher, LAYERS)
        own = own_objects(which)
        return distill_from(
            teacher, student, data, settings, out=out, callbacks=callbacks, **own, **options
        )

    watch = Watch()
    straight = distil(tmp_path / "straight", watch)
    assert not watch.alphas[0].equal(watch.alphas[-1])
    with pytest.raises(KeyboardInterrupt):
        distil(tmp_path / "killed", Kill())
    with pytest.raises(ConfigError, match="objects of your own"):
        distill_from(
            teacher,
            copy_blocks(teacher, LAYERS),
            data,
            settings,
            out=tmp_path / "killed",
            resume=True,
        )
    resumed = distil(tmp_path / "killed", resume=True)

    first, second = (
        load_file(one.folder / "student" / "model.safetensors") for one in (straight, resumed)
    )
    assert all(first[name].equal(second[name]) for name in first)
    lines = [(one.folder / "alpha.jsonl").read_text() for one in (straight, resumed)]
    assert lines[0] == lines[1]
    alphas = [json.loads(line)["alpha"] for line in lines[0].splitlines()]
    assert torch.tensor(alphas).sum(-1).allclose(torch.ones(len(alphas), LAYERS), atol=1e-4)
    record = read_result(straight.folder)
    if which == "mix":
        assert record.mix is not None
        assert record.mix.strategy == "AttendingMix"
        assert record.mix.start is None
    if which == "term":
        assert "+ 0.5·L_margin" in (record.formula or "")
        assert all("loss_margin" in line for line in straight.history if "loss" in line)
    page, _ = report(straight.folder)
    shown = {"mix": "AttendingMix", "term": "margin", "rule": "learned"}[which]
    assert shown in page.read_text(encoding="utf-8")


def test_the_rule_alone_moves_alpha(
    teacher: Classifier, texts: Callable[..., TextData], tmp_path: Path
) -> None:
    still = distill_from(
        teacher,
        copy_blocks(teacher, LAYERS),
        texts(26),
        config(),
        out=tmp_path / "still",
        alpha_learner=HeldOut(rate=0.0),
    )
    assert torch.tensor(still.record.alpha).allclose(torch.full((LAYERS, LAYERS), 0.5))


def test_a_rule_that_learns_from_held_out_rows_needs_some(
    teacher: Classifier, texts: Callable[..., TextData]
) -> None:
    with pytest.raises(ConfigError, match="HeldOut learns α from rows that are not trained on"):
        distill_from(
            teacher,
            copy_blocks(teacher, LAYERS),
            texts(26),
            config(selection="none"),
            alpha_learner=HeldOut(),
        )
