"""The fast path against the slow reference, in loss and in the gradient of every parameter."""

from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from layermix.config import (
    AttentionReduction,
    DistillConfig,
    HiddenReduction,
    LogitLoss,
    MixName,
    SupervisedLoss,
)
from layermix.core.objective import Objective, build_objective
from layermix.core.signals import LOGITS_ONLY, Batch, Needs, Signal

from ..tiny_configs import whole
from .reference import Learned, Sides, total_loss

TOLERANCE = 1e-6


class FreeStudent(nn.Module):
    """A student whose answers are its parameters, so that every one of them has a gradient."""

    def __init__(self, sides: Sides, mask: Tensor) -> None:
        super().__init__()
        self.num_layers, self.hidden_size = sides.layers.shape[0], sides.layers.shape[-1]
        self.num_labels = sides.logits.shape[-1]
        self.mask = mask
        self.logits = nn.Parameter(sides.logits)
        self.layers = nn.Parameter(sides.layers)
        self.embedding = nn.Parameter(sides.embedding)
        self.attention = nn.Parameter(sides.attention)

    def forward(self, batch: Batch, needs: Needs = LOGITS_ONLY) -> Signal:
        hidden = self.layers[list(needs.layers)] if needs.layers else None
        embedding = self.embedding if needs.embedding else None
        attention = self.attention[list(needs.attention)] if needs.attention else None
        return Signal(
            self.logits, self.mask, needs.layers, hidden, embedding, attention, needs.attention
        )


class Problem:
    """One random problem: an objective on the fast path, and what the reference needs to know."""

    def __init__(self, config: DistillConfig, sizes: dict[str, int], seed: int) -> None:
        torch.manual_seed(seed)
        examples, tokens, classes = sizes["B"], sizes["T"], sizes["C"]

        averaged = config.loss.attention_heads == "averaged"

        def sides(layers: int, width: int, heads: int = 2) -> Sides:
            return Sides(
                torch.randn(examples, classes, dtype=torch.double),
                torch.randn(layers, examples, tokens, width, dtype=torch.double),
                torch.randn(examples, tokens, width, dtype=torch.double),
                torch.randn(layers, examples, heads, tokens, tokens, dtype=torch.double),
            )

        self.config = config
        self.teacher = sides(sizes["N"], sizes["D"], heads=3 if averaged else 2)
        self.mask = torch.rand(examples, tokens) < 0.6
        self.mask[range(examples), torch.randint(0, tokens, (examples,))] = True
        self.student = FreeStudent(sides(sizes["n"], sizes["d"]), self.mask)
        self.labels = some_labels(config.loss.supervised or "cross_entropy", examples, classes)
        built = build_objective(self.student, sizes["N"], sizes["D"], config)
        self.objective: Objective = built.double()
        if self.s is not None:
            nn.init.normal_(self.s)

    @property
    def s(self) -> Tensor | None:
        return getattr(self.objective.mix, "logits", None)

    def inputs(self, count: int | None = None) -> tuple[Batch, Signal, int | None]:
        """What the objective is called with."""
        needs = self.objective.teacher_needs
        layers = self.teacher.layers[list(needs.layers)] if needs.layers else None
        embedding = self.teacher.embedding if needs.embedding else None
        attention = self.teacher.attention[list(needs.attention)] if needs.attention else None
        logits, asked = self.teacher.logits, needs.attention
        signal = Signal(logits, self.mask, needs.layers, layers, embedding, attention, asked)
        return {"labels": self.labels}, signal, count

    def slow(self, count: int | None) -> Tensor:
        own = self.student
        student = Sides(own.logits, own.layers, own.embedding, own.attention)
        matrices = [] if self.objective.projection is None else self.objective.projection.matrices
        learned = Learned(self.s, [m.weight for m in matrices], [m.bias for m in matrices])
        drawn = getattr(self.objective.mix, "alpha", None)
        examples = len(self.labels) if count is None else count
        return total_loss(
            self.config, student, self.teacher, self.mask, self.labels, learned, drawn, examples
        )


def some_labels(kind: str, examples: int, classes: int) -> Tensor:
    """Labels of the kind a loss wants; every third row has none."""
    nothing = torch.arange(examples) % 3 == 2
    if kind == "cross_entropy":
        return torch.randint(0, classes, (examples,)).masked_fill(nothing, -100)
    if kind == "mse":
        return torch.randn(examples, dtype=torch.double).masked_fill(nothing, float("nan"))
    chosen = torch.randint(0, 2, (examples, classes)).double()
    return chosen.masked_fill(nothing[:, None], -100)


WEIGHTS = st.sampled_from([0.0, 0.3, 1.0, 7.0])


@st.composite
def problems(draw: Any) -> tuple[DistillConfig, dict[str, int], int]:
    """Random sizes, layers, terms, kinds, weights and numbers."""
    sizes = {name: draw(st.integers(1, 4), label=name) for name in ("B", "T", "C", "n", "N")}
    sizes |= {name: draw(st.integers(1, 5), label=name) for name in ("d", "D")}
    mix: dict[str, Any] = {"strategy": draw(st.sampled_from(get_args(MixName)))}
    mix["start"] = draw(st.sampled_from(["uniform", "diagonal"]))
    some = st.booleans()
    if draw(some):
        layers = st.lists(st.integers(0, sizes["n"] - 1), min_size=1, unique=True)
        mix["student_layers"] = draw(layers)
    taught = len(mix.get("student_layers", range(sizes["n"])))
    if mix["strategy"] == "reverse":
        sizes["N"] = max(sizes["N"], taught)
    if draw(some):
        exact = taught if mix["strategy"] == "reverse" else None
        mix["teacher_layers"] = draw(
            st.lists(
                st.integers(0, sizes["N"] - 1), min_size=exact or 1, max_size=exact, unique=True
            )
        )
    kind = draw(st.sampled_from(get_args(SupervisedLoss)))
    if kind == "mse":
        sizes["C"] = 1
    loss = {
        "supervised": kind,
        "logit": draw(st.sampled_from(get_args(LogitLoss))),
        "hidden": draw(st.sampled_from(get_args(HiddenReduction))),
        "temperature": draw(st.sampled_from([0.5, 1.0, 3.0])),
        "entropy_weight": draw(st.sampled_from([-0.7, 0.0, 0.1])),
        "projection": draw(st.sampled_from(["shared", "per_layer"])),
        "projection_bias": draw(some),
    }
    loss["attention"] = draw(st.sampled_from(get_args(AttentionReduction)))
    loss["attention_heads"] = draw(st.sampled_from(["matched", "averaged"]))
    names = ["supervised_weight", "logit_weight", "hidden_weight", "embedding_weight"]
    names.append("attention_weight")
    loss |= {name: draw(WEIGHTS) for name in names}
    if not any(loss[name] for name in names):
        loss["hidden_weight"] = 1.0
    seed = draw(st.integers(0, 2**20))
    return DistillConfig.model_validate({"mix": mix, "loss": loss, "seed": seed}), sizes, seed


@settings(max_examples=200, deadline=None)
@given(recipe=problems(), count=st.one_of(st.none(), st.integers(1, 50)))
def test_the_fast_path_equals_the_reference(
    recipe: tuple[DistillConfig, dict[str, int], int], count: int | None
) -> None:
    problem = Problem(*recipe)
    parameters = dict(problem.objective.named_parameters())
    losses = problem.objective(*problem.inputs(count)).loss, problem.slow(count)
    torch.testing.assert_close(*losses, rtol=TOLERANCE, atol=TOLERANCE)
    gradients = [
        torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        for loss in losses
    ]
    for name, fast, slow in zip(parameters, *gradients, strict=True):
        torch.testing.assert_close(
            fast,
            slow,
            rtol=TOLERANCE,
            atol=TOLERANCE,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_every_parameter_of_the_whole_objective_has_a_gradient() -> None:
    sizes = {"B": 4, "T": 5, "C": 3, "n": 3, "N": 6, "d": 4, "D": 5}
    problem = Problem(whole(), sizes, seed=3)
    problem.objective(*problem.inputs()).loss.backward()
    parameters = dict(problem.objective.named_parameters())
    for name in ("student.embedding", "student.attention"):  # they have no term by default
        assert parameters.pop(name).grad is None
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        assert parameter.grad.norm() > 1e-3, name


@pytest.mark.parametrize("reduction", get_args(HiddenReduction))
@pytest.mark.parametrize("entropy_weight", [-0.3, 0.0, 0.1])
def test_the_gradient_of_alpha_agrees_with_finite_differences(
    reduction: str, entropy_weight: float
) -> None:
    loss = {"hidden": reduction, "entropy_weight": entropy_weight}
    sizes = {"B": 3, "T": 4, "C": 2, "n": 2, "N": 4, "d": 3, "D": 4}
    problem = Problem(whole(loss=loss), sizes, seed=5)

    def loss_at(s: Tensor) -> Tensor:
        inputs = problem.inputs()
        loss: Tensor = functional_call(problem.objective, {"mix.logits": s}, inputs).loss
        return loss

    assert problem.s is not None
    assert gradcheck(loss_at, problem.s.detach().clone().requires_grad_(), atol=1e-6)
