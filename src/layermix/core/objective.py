"""Equation (4): student, mix, projection and the weighted terms. The only thing that learns.

It works without any trainer: `objective(batch, teacher_signal)` gives the loss and its parts,
`param_groups(objective, …)` what to give an optimiser.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layermix.config import DistillConfig, LossConfig
from layermix.core.least_squares import LeastSquares
from layermix.core.mixing import Mix, MixPlan, Mixture, build_mix, plan_mix
from layermix.core.seeds import derive, seeded
from layermix.core.signals import Batch, Needs, Signal
from layermix.core.terms import Asks, ForwardPass, Term, terms_of
from layermix.errors import ConfigError
from layermix.hardware.cpu_kernels import fast_pass
from layermix.hardware.precision import at_least_float32, choose_precision

Parts = dict[str, Float[Tensor, ""]]


@dataclass(frozen=True)
class Output:
    """The loss of a batch and what it is made of.

    Attributes:
        loss: What to call `backward()` on.
        parts: Each term of equation (4) before its weight, summed over the batch, detached.
        weighted: Each term with its weight, summed over the batch; the loss is their sum over the
            number of examples.
        logits: The student's scores, detached, (B, C), or (B, W, C) of words.
        alpha: α as it was used, detached, (K, L), or None if nothing is mixed.
        entropy: H(α_k) in nats, detached, (K,), or None.
    """

    loss: Float[Tensor, ""]
    parts: Parts
    weighted: Parts
    logits: Float[Tensor, "B *W C"]
    alpha: Float[Tensor, "K L"] | None
    entropy: Float[Tensor, " K"] | None

    def without_rows(self) -> "Output":
        """The same as of a batch without rows: all sums are 0, and so are their gradients."""
        return replace(
            self,
            loss=self.loss * 0,
            parts={name: torch.zeros_like(part) for name, part in self.parts.items()},
            weighted={name: term * 0 for name, term in self.weighted.items()},
            logits=self.logits[:0],
        )


class Projection(nn.Module):
    """P of equation (3): student width -> teacher width, shared by all layers or one each.

    The embedding pair uses the shared matrix, or else one of its own (the last).

    Args:
        student: Its hidden size, d.
        teacher: Its hidden size, D.
        layers: Number of student layers that are taught, K.
        config: One matrix or several, with a bias or not, and where they start. A random start
            turns hidden states about, so copied blocks unlearn before they learn: with equal
            widths the default starts from the identity. `fitted` is at random until `fit` is
            called.
        widening: Where the default starts all matrices instead, such as the way back from a student
            that was narrowed.

    Raises:
        ConfigError: If an identity is wanted between different widths, or `widening` leads to
            another width.
    """

    def __init__(
        self,
        student: int,
        teacher: int,
        layers: int,
        config: LossConfig,
        widening: Float[Tensor, "D d"] | None = None,
    ) -> None:
        super().__init__()
        self.shared = config.projection == "shared"
        extra = config.embedding_weight > 0
        matrices = 1 if self.shared else layers + extra
        made = [nn.Linear(student, teacher, config.projection_bias) for _ in range(matrices)]
        self.matrices = nn.ModuleList(made)
        if config.projection_start == "identity" and student != teacher:
            raise ConfigError(
                f"loss.projection_start is identity, but the student is {student} wide and the "
                f"teacher {teacher}; use random, or a student as wide as its teacher"
            )
        start = torch.eye(teacher) if student == teacher else None
        if config.projection_start == "auto" and widening is not None:
            start = widening
        if config.projection_start in ("random", "fitted") or start is None:
            return
        if start.shape != (teacher, student):
            raise ConfigError(
                f"the student was narrowed from a model {len(start)} wide, and the teacher is "
                f"{teacher} wide; give the teacher that it was made from, or set "
                "loss.projection_start to random"
            )
        for matrix in made:
            matrix.weight.data.copy_(start)
            if matrix.bias is not None:
                nn.init.zeros_(matrix.bias)

    def forward(self, hidden: Float[Tensor, "K B T d"]) -> Float[Tensor, "K B T D"]:
        """Project every taught layer."""
        if self.shared:
            return self.matrices[0](hidden)  # type: ignore[no-any-return]  # a list of modules
        return torch.stack(
            [matrix(layer) for matrix, layer in zip(self.matrices, hidden, strict=False)]
        )

    def embedding(self, embedding: Float[Tensor, "B T d"]) -> Float[Tensor, "B T D"]:
        """Project the embedding output."""
        return self.matrices[-1](embedding)  # type: ignore[no-any-return]  # a list of modules

    def fit(self, pairs: Iterable[tuple[int, Float[Tensor, "N d"], Float[Tensor, "N D"]]]) -> None:
        """Set each matrix to the least squares of what it is to map; without any, it stays.

        Args:
            pairs: Number of the matrix, states of the student, and what they are compared with.
        """
        matrices: list[Any] = list(self.matrices)
        fits = [LeastSquares() for _ in matrices]
        for number, states, targets in pairs:
            ones = states.new_ones(len(states), matrices[number].bias is not None)
            fits[number].add(torch.cat([states, ones], dim=1), targets)
        for matrix, fit in zip(matrices, fits, strict=True):
            if fit.rows:
                found = fit.solution()
                matrix.weight.data.copy_(found[:, : matrix.in_features])
                if matrix.bias is not None:
                    matrix.bias.data.copy_(found[:, -1])


class Objective(nn.Module):
    """`L = Σ_t λ_t L_t` over the terms of equation (4), with the student, the mix and P.

    What no term looks at is not kept: it owns no parameters and asks neither side for a signal.

    Args:
        student: An `Encoder` that is an `nn.Module`: `student(batch, needs) -> Signal`.
        terms: What is summed, in this order; no two of one name.
        plan: Which layers take part; needed if a term looks at layers.
        mix: A `Mix`; needed if a term looks at the mixture.
        projection: P; needed if a term looks at projected states.
        precision: Of the products in student and P; mix and losses are float32 always.

    Attributes:
        student_needs: All that the terms ask of the student.
        teacher_needs: All that they ask of the teacher.
        needs_teacher: Whether any term looks at the teacher.

    Raises:
        ConfigError: If there are no terms.
        ValueError: If two terms have one name, or a part is missing that a term needs.
    """

    accepts_loss_kwargs = True  # Trainer: the loss is normalised by num_items already
    student: Any
    mix: Any
    projection: Any
    terms: Any

    def __init__(
        self,
        student: nn.Module,
        terms: Sequence[Term],
        plan: MixPlan | None = None,
        mix: Mix | None = None,
        projection: nn.Module | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not terms:
            raise ConfigError(
                "every term of the loss has weight 0, so there is nothing to learn from; set one "
                "of loss.supervised_weight, logit_weight, hidden_weight, embedding_weight, "
                "attention_weight above 0"
            )
        names = [term.name for term in terms]
        if len(set(names)) < len(names):
            raise ValueError(f"two terms have the same name in {names}; give each its own")
        self.precision = precision
        asked = [term.asks(plan) for term in terms]
        self._check_parts(terms, asked, plan, mix, projection)
        self.mixes = any(asks.mixture for asks in asked)
        self.projects = self.mixes or any(asks.projected for asks in asked)
        self.projects_embedding = any(asks.projected_embedding for asks in asked)
        self.student, self.plan = student, plan if self.mixes or self.projects else None
        self.mix = mix if self.mixes else None
        self.projection = projection if self.projects or self.projects_embedding else None
        self.terms = nn.ModuleList(terms)
        self.mixed_layers = _used_layers(plan, mix) if plan and self.mixes else ()
        taught = plan.student_layers if plan and self.projects else ()
        self.student_needs = Needs.union([Needs(taught), *(asks.student for asks in asked)])
        of_teacher = [asks.teacher for asks in asked if asks.teacher is not None]
        self.needs_teacher = self.mixes or bool(of_teacher)
        self.teacher_needs = Needs.union([Needs(self.mixed_layers), *of_teacher])
        self.learns_mix = self.mix is not None and any(True for _ in self.mix.parameters())

    @staticmethod
    def _check_parts(
        terms: Sequence[Term],
        asked: Sequence[Asks],
        plan: MixPlan | None,
        mix: Mix | None,
        projection: nn.Module | None,
    ) -> None:
        for term, asks in zip(terms, asked, strict=True):
            wanted = {
                "plan": asks.mixture or asks.projected,
                "mix": asks.mixture,
                "projection": asks.mixture or asks.projected or asks.projected_embedding,
            }
            given = {"plan": plan, "mix": mix, "projection": projection}
            if missing := [name for name, need in wanted.items() if need and given[name] is None]:
                raise ValueError(f"{term.symbol} needs {', '.join(missing)}, found none; give it")

    def forward(
        self, batch: Batch, teacher: Signal | None = None, num_items: Tensor | int | None = None
    ) -> Output:
        """The loss of one batch.

        Args:
            batch: Padded tensors; `labels` may hold −100 where a row has none.
            teacher: The teacher's signal for the same batch; None if no term needs it.
            num_items: Number of examples in the whole accumulated, global batch; the sum over this
                batch's examples is divided by it (default: this batch's own number).

        Raises:
            ValueError: If a term needs the teacher's signal and there is none.
        """
        if teacher is None and self.needs_teacher:
            raise ValueError(f"found no teacher signal, wanted one for {self.formula()}")
        given = self._pass(batch, teacher)
        terms: dict[str, Tensor] = {term.name: term(given) for term in self.terms}  # each (B,)
        weighted = {term.name: term.weight * terms[term.name].sum() for term in self.terms}
        total = torch.stack(list(weighted.values())).sum()
        mixture = given.mixture
        return Output(
            loss=total / (len(given.student.logits) if num_items is None else num_items),
            parts={name: term.detach().sum() for name, term in terms.items()},
            weighted=weighted,
            logits=given.student.logits.detach(),
            alpha=mixture.alpha.detach() if mixture else None,
            entropy=mixture.entropy.detach() if mixture else None,
        )

    def _pass(self, batch: Batch, teacher: Signal | None) -> ForwardPass:
        """The student's signal, and what of it is projected and mixed."""
        projected = embedded = None
        mixture: Mixture | None = None
        with fast_pass(next(self.parameters()).device, self.precision):
            student: Signal = self.student(batch, self.student_needs)
            if self.projects:
                assert self.plan is not None
                hidden = student.select(self.plan.student_layers)
                projected = at_least_float32(self.projection(hidden))
            if self.projects_embedding:
                embedded = at_least_float32(self.projection.embedding(student.embedding))
        student = replace(student, logits=at_least_float32(student.logits))
        if self.mixes:
            assert teacher is not None
            mixture = self.mix(projected, teacher.select(self.mixed_layers), student.mask)
        return ForwardPass(batch, student, teacher, projected, embedded, mixture)

    @torch.no_grad()
    def fit_projection(self, batches: Iterable[tuple[Batch, Signal | None]]) -> None:
        """Start P where it fits the student as it is: least squares over the real tokens.

        All that P is compared with counts alike: each taught layer with its mixture, and the
        embedding outputs. The student runs without dropout. Without P it does nothing.

        Args:
            batches: Padded batches with the teacher's signals; None if no term needs it.

        Raises:
            ValueError: If P is no `Projection`.
        """
        if self.projection is None:
            return
        if not isinstance(self.projection, Projection):
            name = type(self.projection).__name__
            raise ValueError(
                f"found a {name} as projection, wanted a Projection, which can be fitted"
            )
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            self.projection.fit(self._pairs(batches))
        finally:
            for module, was_training in modes:
                module.training = was_training

    def _pairs(
        self, batches: Iterable[tuple[Batch, Signal | None]]
    ) -> Iterator[tuple[int, Float[Tensor, "N d"], Float[Tensor, "N D"]]]:
        """Number of a matrix of P, states of N real tokens, and what they are compared with."""
        for batch, teacher in batches:
            given = self._pass(batch, teacher)
            real = given.student.mask
            if given.mixture is not None and self.plan is not None:
                hidden = given.student.select(self.plan.student_layers)
                for k, target in enumerate(given.mixture.targets):
                    yield 0 if self.projection.shared else k, hidden[k][real], target[real]
            if self.projects_embedding and teacher is not None and teacher.embedding is not None:
                assert given.student.embedding is not None
                last = len(self.projection.matrices) - 1
                yield last, given.student.embedding[real], teacher.embedding[real]

    @property
    def weights(self) -> dict[str, float]:
        """λ of each term, by its name."""
        return {term.name: term.weight for term in self.terms}

    def formula(self) -> str:
        """The objective as a line of mathematics, with the numbers it runs with."""
        terms = [f"{term.weight:g}·{term.describe(self.plan)}" for term in self.terms]
        return "L = " + " + ".join(terms).replace("+ -", "− ")

    def extra_repr(self) -> str:
        """Shown by `print(objective)`, above the modules."""
        return self.formula()


def _used_layers(plan: MixPlan, mix: Mix | None) -> tuple[int, ...]:
    """The teacher layers that the mix takes: those of its columns `used`, or all."""
    used = getattr(mix, "used", range(len(plan.teacher_layers)))
    return tuple(plan.teacher_layers[column] for column in used)


def gradient_norms(
    output: Output, student: nn.Module, total: Callable[[Tensor], Tensor] = lambda part: part
) -> Parts:
    """The norm of each part's gradient on the student, ‖λ ∂L_part/∂θ‖ for the mean of the batch.

    It leaves `.grad` alone, and the graph for the backward pass that is to come.

    Args:
        output: Of the objective, for one batch.
        student: Parts that do not reach its parameters (the entropy) are left out.
        total: Makes the sum over all processes of what this one has.
    """
    rows = total(torch.tensor(len(output.logits), device=output.loss.device))
    parameters = [one for one in student.parameters() if one.requires_grad]
    norms = {}
    for name, term in output.weighted.items():
        found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        if reached := [gradient for gradient in found if gradient is not None]:
            norms[name] = torch.stack([total(gradient).norm() for gradient in reached]).norm()
            norms[name] /= rows
    return norms


def build_objective(
    student: Any,
    teacher_depth: int,
    teacher_width: int,
    config: DistillConfig,
    *,
    mix: Mix | None = None,
    terms: Sequence[Term] = (),
    supervised: Term | None = None,
    widening: Float[Tensor, "D d"] | None = None,
) -> Objective:
    """Build mix, projection and terms for a student and a teacher of the given depth and width.

    Their starts depend on the seed alone, so all arms of a seed share them; with
    `loss.projection_start: fitted` P is at random until `fit_projection` is called, and depends on
    the mix, the student and the data after it.

    Args:
        student: An `Encoder` that is an `nn.Module`.
        teacher_depth: Number of teacher blocks.
        teacher_width: Hidden size of the teacher, D.
        config: Mix, losses and seed.
        mix: One of your own, instead of the config's; for the layers that `plan_mix` gives.
        terms: Terms of your own, after those of the config.
        supervised: L_sup as the problem makes it from the labels; by default from the config alone.
        widening: Where P starts by default, if the student was narrowed from its teacher.

    Raises:
        ConfigError, ModelError: If the mix does not fit the layers, or no term looks at it.
    """
    loss, plan = config.loss, None
    if loss.hidden_weight or loss.attention_weight or mix is not None or terms:
        plan = plan_mix(config.mix, student.num_layers, teacher_depth)
    asked = [term.asks(plan) for term in terms]
    mixes = bool(loss.hidden_weight) or any(asks.mixture for asks in asked)
    if mix is not None and not mixes:
        raise ConfigError(
            "a mix was given, but no term looks at the mixture; give loss.hidden_weight a weight, "
            "or a term that asks for the mixture"
        )
    if mix is not None and plan is not None:
        plan = replace(plan, strategy=type(mix).__name__)
    elif mixes and plan is not None:
        generator = torch.Generator().manual_seed(derive(config.seed, "mix"))
        mix = build_mix(config.mix, plan, generator)
    projects = mixes or any(asks.projected for asks in asked)
    projects_embedding = loss.embedding_weight or any(asks.projected_embedding for asks in asked)
    projection = None
    if projects or projects_embedding:
        layers = len(plan.student_layers) if plan and projects else 0
        with seeded(config.seed, "projection"):
            projection = Projection(student.hidden_size, teacher_width, layers, loss, widening)
    learns = mix is not None and any(True for _ in mix.parameters())
    every = [*terms_of(loss, learns, supervised), *terms]
    precision = choose_precision(config.training.precision)
    return Objective(student, every, plan, mix, projection, precision)


def param_groups(
    objective: Objective, learning_rate: float, weight_decay: float, mix_learning_rate: float | None
) -> list[dict[str, Any]]:
    """Optimiser groups: matrices with weight decay, vectors (biases, norms) without, the mix apart.

    The mix never decays: that would pull a learned α to uniform without anybody asking.

    Args:
        objective: What is trained.
        learning_rate: For student, projection and terms.
        weight_decay: For their matrices.
        mix_learning_rate: For the mix, such as its logits s; None leaves it out.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `name`; empty ones left out.
    """
    trained = [p for p in objective.parameters() if p.requires_grad]
    own = set() if objective.mix is None else {id(p) for p in objective.mix.parameters()}
    mix = [p for p in trained if id(p) in own]
    rest = [p for p in trained if id(p) not in own]

    def group(name: str, params: list[nn.Parameter], lr: float, decay: float) -> dict[str, Any]:
        return {"name": name, "params": params, "lr": lr, "weight_decay": decay}

    groups = [
        group("matrices", [p for p in rest if p.ndim > 1], learning_rate, weight_decay),
        group("vectors", [p for p in rest if p.ndim <= 1], learning_rate, 0.0),
    ]
    if mix_learning_rate is not None:
        groups.append(group("mix", mix, mix_learning_rate, 0.0))
    return [group for group in groups if group["params"]]
