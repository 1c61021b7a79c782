"""Equations (1) and (2): the weights α that mix teacher layers into one target per student layer.

To add a way to mix, add a row to `MIXES` and its name to `config.MixName`, in the same order (and a
class only if none of these can express it).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layermix.config import MixConfig
from layermix.core.signals import check_layers, evenly_spaced
from layermix.errors import ConfigError

Weights = Float[Tensor, "K L"]


class Mixture(NamedTuple):
    """What a mix gives: targets, the weights that made them, and their entropy in nats."""

    targets: Float[Tensor, "K B T D"]
    weights: Weights
    entropy: Float[Tensor, " K"]


class FixedMix(nn.Module):
    """Weights that are set once and never learned.

    Args:
        weights: α; each row sums to 1.

    Attributes:
        used: The columns that have any weight; of the other layers nothing is asked.
    """

    weights: Tensor

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.register_buffer("weights", weights.clone())
        self.used: tuple[int, ...] = tuple(weights.any(0).nonzero().flatten().tolist())

    def forward(
        self, student: Float[Tensor, "K B T D"], teacher: Float[Tensor, "U B T D"]
    ) -> Mixture:
        """Equation (1) with the given α over the layers that are used."""
        targets = mixed(self.weights[:, self.used], teacher)
        return Mixture(targets, self.weights, torch.special.entr(self.weights).sum(-1))


class SoftmaxMix(nn.Module):
    """Learned weights: α_k = softmax(s_k), equation (2), one row of logits s per student layer.

    Args:
        weights: The α to start from, all positive; s = log α, centred, so that uniform starts at 0.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        logits = weights.log()
        self.logits = nn.Parameter(logits - logits.mean(-1, keepdim=True))

    @property
    def weights(self) -> Weights:
        """α as it is now, detached."""
        return self.logits.detach().softmax(-1)

    def forward(
        self, student: Float[Tensor, "K B T D"], teacher: Float[Tensor, "L B T D"]
    ) -> Mixture:
        """Equation (1) with α from equation (2)."""
        log_weights = self.logits.log_softmax(-1)
        weights = log_weights.exp()
        # Σ α log α through log α: at a corner α underflows to 0, where d(α log α)/dα is infinite.
        return Mixture(mixed(weights, teacher), weights, -(weights * log_weights).sum(-1))


def mixed(weights: Weights, teacher: Float[Tensor, "L B T D"]) -> Float[Tensor, "K B T D"]:
    """Equation (1): h~_k = Σ_l α_{k,l} h_l, as one matrix product over all tokens."""
    precise = torch.promote_types(weights.dtype, teacher.dtype)
    targets = weights.to(precise) @ teacher.to(precise).flatten(1)
    return targets.view(-1, *teacher.shape[1:])


def one_to_one(students: int, teachers: int, _: torch.Generator) -> Weights:
    """α of Fixed: student layer k follows teacher layer `floor((k+1)·L/K) − 1` of the set."""
    return nn.functional.one_hot(torch.tensor(evenly_spaced(students, teachers)), teachers).float()


def uniform(students: int, teachers: int, _: torch.Generator) -> Weights:
    """All weights equal."""
    return torch.full((students, teachers), 1 / teachers)


def near_one_to_one(students: int, teachers: int, generator: torch.Generator) -> Weights:
    """0.9 where Fixed has 1, the rest shared equally: a start for a learned mix."""
    hot = one_to_one(students, teachers, generator)
    return torch.ones_like(hot) if teachers == 1 else hot * 0.9 + (1 - hot) * 0.1 / (teachers - 1)


def anti_diagonal(students: int, teachers: int, _: torch.Generator) -> Weights:
    """The first student layer follows the last teacher layer, and so on back.

    Raises:
        ConfigError: If there are not as many teacher as student layers.
    """
    if students != teachers:
        raise ConfigError(
            f"mix.strategy reverse needs as many teacher as student layers, found {teachers} and "
            f"{students}; set mix.teacher_layers or mix.student_layers"
        )
    return torch.eye(students).flip(-1)


def last_layer(students: int, teachers: int, _: torch.Generator) -> Weights:
    """Every student layer follows the last teacher layer of the set."""
    return nn.functional.one_hot(torch.full((students,), teachers - 1), teachers).float()


def drawn(students: int, teachers: int, generator: torch.Generator) -> Weights:
    """α drawn once, each row uniformly from the simplex (normalised exponentials)."""
    draws = torch.empty(students, teachers).exponential_(generator=generator)
    return draws / draws.sum(-1, keepdim=True)


def _by_hand(rows: Sequence[Sequence[float]], students: int, teachers: int) -> Weights:
    """α as the user gave it, scaled so that each row sums to 1 exactly."""
    if len(rows) != students or any(len(row) != teachers for row in rows):
        sizes = " and ".join(map(str, sorted({len(row) for row in rows})))
        raise ConfigError(
            f"mix.weights has {len(rows)} rows of {sizes} numbers, wanted {students} rows (student "
            f"layers) of {teachers} (teacher layers)"
        )
    weights = torch.tensor(rows)
    return weights / weights.sum(-1, keepdim=True)


@dataclass(frozen=True)
class MixRow:
    """A named way to mix.

    Attributes:
        kind: The class that holds α.
        weights: α, or where it starts, from (K, L, generator).
        summary: One line for people.
        paper: Where it comes from.
        last_student_layer_only: Whether only the last of the student layers is taught.
    """

    kind: type[FixedMix] | type[SoftmaxMix]
    weights: Callable[[int, int, torch.Generator], Weights]
    summary: str
    paper: str
    last_student_layer_only: bool = False


YUN = "Yun and Moon, BERT Distillation via Layer-wise Weighted Learning"
LAYERS = "arXiv 2502.04499"
MIXES: Mapping[str, MixRow] = {
    "fixed": MixRow(
        FixedMix, one_to_one, "one teacher layer per student layer", "TinyBERT, arXiv 1909.10351"
    ),
    "uniform": MixRow(FixedMix, uniform, "all weights equal", YUN),
    "learned": MixRow(SoftmaxMix, uniform, "α = softmax(s), s trained with the student", YUN),
    "reverse": MixRow(FixedMix, anti_diagonal, "control: the map of `fixed`, backwards", LAYERS),
    "all_to_one": MixRow(
        FixedMix, last_layer, "control: every layer taught the last teacher layer", LAYERS
    ),
    "last_only": MixRow(
        FixedMix, last_layer, "control: only the last student layer is taught", LAYERS, True
    ),
    "random": MixRow(
        FixedMix, drawn, "control: α drawn once per run from the seed", "RAIL-KD, arXiv 2109.10164"
    ),
}


@dataclass(frozen=True)
class MixPlan:
    """Which layers take part, resolved from the config and the depths of teacher and student."""

    strategy: str
    student_layers: tuple[int, ...]
    teacher_layers: tuple[int, ...]


def plan_mix(config: MixConfig, student_depth: int, teacher_depth: int) -> MixPlan:
    """Resolve the layers that take part.

    Raises:
        ModelError: If a layer number is out of range.
    """
    if config.student_layers is None:
        students = tuple(range(student_depth))
    else:
        students = check_layers(config.student_layers, student_depth, "the student")
    if config.teacher_layers is None:
        groups = min(len(students), teacher_depth)
        teachers = evenly_spaced(groups, teacher_depth)
    else:
        teachers = check_layers(config.teacher_layers, teacher_depth, "the teacher")
    if MIXES[config.strategy].last_student_layer_only:
        students = students[-1:]
    return MixPlan(config.strategy, students, teachers)


def build_mix(
    config: MixConfig, plan: MixPlan, generator: torch.Generator
) -> FixedMix | SoftmaxMix:
    """Make the mix that `plan` describes, α of shape (K, L).

    Raises:
        ConfigError: If the strategy, or weights given by hand, do not fit the number of layers.
    """
    row = MIXES[plan.strategy]
    if config.weights is not None:
        return row.kind(
            _by_hand(config.weights, len(plan.student_layers), len(plan.teacher_layers))
        )
    start = (
        near_one_to_one if row.kind is SoftmaxMix and config.start == "diagonal" else row.weights
    )
    return row.kind(start(len(plan.student_layers), len(plan.teacher_layers), generator))
