"""Equations (1) and (2): the weights α that mix teacher layers into one target per student layer.

To add a way to mix, add a row to `MIXES` and its name to `config.MixName`, in the same order (and a
class only if none of these can express it). Two tests then ask for more: the formula in
`tests/invariant/reference.py`, and an arm in the list of docs/choosing.md. A mix of your own need
not be in the table: `distill_from(…, mix=…)` takes any `Mix`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from layermix.config import MixConfig
from layermix.core.signals import check_layers, evenly_spaced
from layermix.errors import ConfigError

Weights = Float[Tensor, "K L"]


class Mixture(NamedTuple):
    """What a mix gives for one batch.

    Attributes:
        targets: h~_k for every student layer that is taught.
        alpha: α as it was used; where it differs from token to token, its mean over the real ones.
            Logs, records and reports show this.
        entropy: H(α_k) in nats.
    """

    targets: Float[Tensor, "K B T D"]
    alpha: Weights
    entropy: Float[Tensor, " K"]


@runtime_checkable
class Mix(Protocol):
    """A way to mix: an `nn.Module` whose parameters, if any, are α's (or what α is made of).

    `used` (optional): the columns of α that it takes, so that of the other teacher layers nothing
    is asked. `constant` (optional): True if α never changes, so that nobody follows it.
    `alpha` (optional): α before any batch, (K, L), for the record.
    """

    def __call__(
        self,
        student: Float[Tensor, "K B T D"],
        teacher: Float[Tensor, "U B T D"],
        mask: Bool[Tensor, "B T"],
    ) -> Mixture:
        """Mix the teacher's layers.

        Args:
            student: P h_k, the projected hidden states, in the graph: a mix may look at them.
            teacher: The teacher's layers, those of `used` if the mix has that, else all L.
            mask: True where a position holds a real token.
        """
        ...

    def parameters(self) -> Any:
        """Yield what is learned; `nn.Module` has this."""
        ...


class FixedMix(nn.Module):
    """α that is set once and never learned.

    Args:
        alpha: Each row sums to 1, (K, L).

    Attributes:
        used: The columns that have any weight; of the other layers nothing is asked.
    """

    constant = True
    alpha: Tensor

    def __init__(self, alpha: Weights) -> None:
        super().__init__()
        self.register_buffer("alpha", alpha.clone())
        self.used: tuple[int, ...] = tuple(alpha.any(0).nonzero().flatten().tolist())

    def forward(
        self,
        student: Float[Tensor, "K B T D"],
        teacher: Float[Tensor, "U B T D"],
        mask: Bool[Tensor, "B T"],
    ) -> Mixture:
        """Equation (1) with the given α over the layers that are used."""
        targets = mixed(self.alpha[:, self.used], teacher)
        return Mixture(targets, self.alpha, torch.special.entr(self.alpha).sum(-1))


class SoftmaxMix(nn.Module):
    """Learned α: α_k = softmax(s_k), equation (2), one row of logits s per student layer.

    Args:
        alpha: Where to start, all positive, (K, L); s = log α, centred, so that uniform starts
            at 0.
    """

    def __init__(self, alpha: Weights) -> None:
        super().__init__()
        logits = alpha.log()
        self.logits = nn.Parameter(logits - logits.mean(-1, keepdim=True))

    @property
    def alpha(self) -> Weights:
        """α as it is now, detached."""
        return self.logits.detach().softmax(-1)

    def forward(
        self,
        student: Float[Tensor, "K B T D"],
        teacher: Float[Tensor, "L B T D"],
        mask: Bool[Tensor, "B T"],
    ) -> Mixture:
        """Equation (1) with α from equation (2)."""
        log_alpha = self.logits.log_softmax(-1)
        alpha = log_alpha.exp()
        # Σ α log α through log α: at a corner α underflows to 0, where d(α log α)/dα is infinite.
        return Mixture(mixed(alpha, teacher), alpha, -(alpha * log_alpha).sum(-1))


def mixed(alpha: Weights, teacher: Float[Tensor, "L B T D"]) -> Float[Tensor, "K B T D"]:
    """Equation (1): h~_k = Σ_l α_{k,l} h_l, as one matrix product over all tokens."""
    precise = torch.promote_types(alpha.dtype, teacher.dtype)
    targets = alpha.to(precise) @ teacher.to(precise).flatten(1)
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
        kind: The class that holds α, made from α or from where it starts.
        start: α, or where it starts, from (K, L, generator).
        summary: One line for people.
        paper: Where it comes from.
        last_student_layer_only: Whether only the last of the student layers is taught.
    """

    kind: Callable[[Weights], Mix]
    start: Callable[[int, int, torch.Generator], Weights]
    summary: str
    paper: str
    last_student_layer_only: bool = False

    @property
    def learns(self) -> bool:
        """Whether α changes during training."""
        return not getattr(self.kind, "constant", False)


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
    """Which layers take part, resolved from the config and the depths of teacher and student.

    Attributes:
        strategy: The name of the mix: its row, or the class of one of your own.
        student_layers: K blocks of the student that are taught.
        teacher_layers: L blocks of the teacher that are mixed.
    """

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


def build_mix(config: MixConfig, plan: MixPlan, generator: torch.Generator) -> Mix:
    """Make the mix that `plan` describes, α of shape (K, L).

    Raises:
        ConfigError: If the strategy, or weights given by hand, do not fit the number of layers.
    """
    row = MIXES[plan.strategy]
    if config.weights is not None:
        return row.kind(
            _by_hand(config.weights, len(plan.student_layers), len(plan.teacher_layers))
        )
    near = row.learns and config.start == "diagonal"
    start = near_one_to_one if near else row.start
    return row.kind(start(len(plan.student_layers), len(plan.teacher_layers), generator))
