"""Equation (4): student, mix, projection and the weighted terms. The only thing that learns.

It works without any trainer: `objective(batch, teacher_signal)` gives the loss and its parts,
`param_groups(objective, …)` what to give an optimiser.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layermix.config import DistillConfig, LossConfig
from layermix.core.losses import HIDDEN, LOGIT, SUPERVISED, attention_scores
from layermix.core.mixing import FixedMix, MixPlan, Mixture, build_mix, plan_mix
from layermix.core.seeds import derive, seeded
from layermix.core.signals import Batch, Needs, Signal, evenly_spaced
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
        logits: The student's scores, detached, (B, C).
        weights: α as it was used, detached, (K, L), or None if nothing is mixed.
        entropy: H(α_k) in nats, detached, (K,), or None.
    """

    loss: Float[Tensor, ""]
    parts: Parts
    weighted: Parts
    logits: Float[Tensor, "B C"]
    weights: Float[Tensor, "K L"] | None
    entropy: Float[Tensor, " K"] | None


class Projection(nn.Module):
    """P of equation (3): student width -> teacher width, shared by all layers or one each.

    The embedding pair uses the shared matrix, or else one of its own (the last).

    Args:
        student: Its hidden size, d.
        teacher: Its hidden size, D.
        layers: Number of student layers that are taught, K.
        config: One matrix or several, with a bias or not, and where they start. A random start
            turns hidden states about, so copied blocks unlearn before they learn: with equal
            widths the default starts from the identity.

    Raises:
        ConfigError: If an identity is wanted between different widths.
    """

    def __init__(self, student: int, teacher: int, layers: int, config: LossConfig) -> None:
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
        if config.projection_start != "random" and student == teacher:
            for matrix in made:
                nn.init.eye_(matrix.weight)
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


class Objective(nn.Module):
    """`L = L_sup + λ_logit·L_logit + λ_hid·L_hid + L_ent`, equation (4), with its student.

    A term of weight 0 is not built: it owns no parameters and asks neither side for a signal.

    Args:
        student: An `Encoder` that is an `nn.Module`: `student(batch, needs) -> Signal`.
        loss: The terms and their weights.
        plan: Which layers take part; needed if the hidden or the attention loss has a weight.
        mix: `mix(student, teacher) -> Mixture`, both (layers, B, T, D); an `nn.Module` of your own
            will do. The mixes here do not look at the student; yours may.
        projection: P; needed if the hidden or the embedding loss has a weight.
        precision: Of the products in student and P; mix and losses are float32 always.

    Raises:
        ConfigError: If every weight is 0.
        ValueError: If a part is missing that a term needs.
    """

    accepts_loss_kwargs = True  # Trainer: the loss is normalised by num_items already
    student: Any
    mix: Any
    projection: Any

    def __init__(
        self,
        student: nn.Module,
        loss: LossConfig,
        plan: MixPlan | None = None,
        mix: nn.Module | None = None,
        projection: nn.Module | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.precision = precision
        if loss.hidden_weight and (plan is None or mix is None or projection is None):
            raise ValueError("the hidden loss has a weight, so plan, mix and projection are needed")
        if loss.attention_weight and plan is None:
            raise ValueError("the attention loss has a weight, so a plan is needed")
        if loss.embedding_weight and projection is None:
            raise ValueError("the embedding loss has a weight, so a projection is needed")
        watching, watched = _attention_pairs(plan if loss.attention_weight else None)
        if not loss.hidden_weight:
            plan = mix = None
        self.student, self.loss, self.plan, self.mix = student, loss, plan, mix
        embedding = loss.embedding_weight > 0
        self.projection = projection if plan or embedding else None
        padding = HIDDEN[loss.hidden].padding and self.projection is not None
        taught = plan.student_layers if plan else ()
        self.student_needs = Needs(taught, embedding, padding, watching)
        asked = plan.teacher_layers if plan else ()
        if plan and isinstance(mix, FixedMix):
            asked = tuple(plan.teacher_layers[column] for column in mix.used)
        self.teacher_needs = Needs(asked, embedding, padding, watched)
        self.supervised = SUPERVISED[loss.supervised].function
        self.logit = LOGIT[loss.logit].function
        self.hidden = HIDDEN[loss.hidden].function
        self.learns_mix = mix is not None and any(True for _ in mix.parameters())
        weights = {
            "supervised": loss.supervised_weight,
            "logit": loss.logit_weight,
            "hidden": loss.hidden_weight,
            "embedding": loss.embedding_weight,
            "attention": loss.attention_weight,
            "entropy": -loss.entropy_weight if self.learns_mix else 0.0,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight}
        if not self.weights:
            raise ConfigError(
                "every term of the loss has weight 0, so there is nothing to learn from; give one "
                "of loss.supervised_weight, logit_weight, hidden_weight, embedding_weight, "
                "attention_weight a weight"
            )

    @property
    def needs_teacher(self) -> bool:
        """Whether any term looks at the teacher."""
        return self.loss.asks_teacher

    def forward(
        self, batch: Batch, teacher: Signal | None = None, num_items: Tensor | int | None = None
    ) -> Output:
        """The loss of one batch.

        Args:
            batch: Padded tensors; `labels` may hold −100 where a row has none.
            teacher: The teacher's signal for the same batch; None if no term needs it.
            num_items: Number of examples in the whole accumulated, global batch; the sum over this
                batch's examples is divided by it (default: this batch's own number).
        """
        student, projected, embedded = self._pass(batch)
        examples = student.logits.shape[0]
        terms: dict[str, Tensor] = {}  # each (B,)
        mixture: Mixture | None = None
        if "supervised" in self.weights:
            terms["supervised"] = self.supervised(student.logits, batch["labels"])
        if teacher is None and self.needs_teacher:
            raise ValueError(f"found no teacher signal, wanted one for {self.formula()}")
        if teacher is not None and "logit" in self.weights:
            terms["logit"] = self.logit(student.logits, teacher.logits, self.loss.temperature)
        if teacher is not None and "hidden" in self.weights:
            mixture = self.mix(projected, teacher.select(self.teacher_needs.layers))
            terms["hidden"] = self.hidden(projected, mixture.targets, student.mask)
            if "entropy" in self.weights:
                terms["entropy"] = mixture.entropy.sum().expand(examples)
        if teacher is not None and "embedding" in self.weights:
            pair: Any = embedded, teacher.embedding
            terms["embedding"] = self.hidden(*(one[None] for one in pair), student.mask)
        if teacher is not None and "attention" in self.weights:
            own: Any = student.attention
            wanted: Any = teacher.attention
            heads = self.loss.attention_heads
            terms["attention"] = attention_scores(own, wanted, student.mask, heads)
        weighted = {name: self.weights[name] * term.sum() for name, term in terms.items()}
        total = torch.stack(list(weighted.values())).sum()
        return Output(
            loss=total / (examples if num_items is None else num_items),
            parts={name: term.detach().sum() for name, term in terms.items()},
            weighted=weighted,
            logits=student.logits.detach(),
            weights=mixture.weights.detach() if mixture else None,
            entropy=mixture.entropy.detach() if mixture else None,
        )

    def _pass(self, batch: Batch) -> tuple[Signal, Any, Any]:
        """The student's signal, and its hidden states and embedding output projected, if asked."""
        projected = embedded = None
        with fast_pass(next(self.parameters()).device, self.precision):
            student: Signal = self.student(batch, self.student_needs)
            if "hidden" in self.weights:
                hidden = student.select(self.student_needs.layers)
                projected = at_least_float32(self.projection(hidden))
            if "embedding" in self.weights:
                embedded = at_least_float32(self.projection.embedding(student.embedding))
        student = replace(student, logits=at_least_float32(student.logits))
        return student, projected, embedded

    def formula(self) -> str:
        """The objective as a line of mathematics, with the numbers it runs with."""
        loss, plan = self.loss, self.plan
        temperature = f", T={loss.temperature:g}" if loss.temperature != 1 else ""
        over = (
            f"; {plan.strategy} α over teacher layers {list(plan.teacher_layers)}" if plan else ""
        )
        symbols = {
            "supervised": f"L_sup[{loss.supervised}]",
            "logit": f"L_logit[{loss.logit}{temperature}]",
            "hidden": f"L_hid[{loss.hidden}{over}]",
            "embedding": f"L_emb[{loss.hidden}]",
            "attention": f"L_att[heads {loss.attention_heads}]",
            "entropy": "Σ_k H(α_k)",
        }
        terms = [f"{weight:g}·{symbols[name]}" for name, weight in self.weights.items()]
        return "L = " + " + ".join(terms).replace("+ -", "− ")

    def extra_repr(self) -> str:
        """Shown by `print(objective)`, above the modules."""
        return self.formula()


def gradient_norms(output: Output, student: nn.Module) -> Parts:
    """The norm of each part's gradient on the student, ‖λ ∂L_part/∂θ‖ for the mean of the batch.

    It leaves `.grad` alone, and the graph for the backward pass that is to come.

    Args:
        output: Of the objective, for one batch.
        student: Parts that do not reach its parameters (the entropy) are left out.
    """
    parameters = [one for one in student.parameters() if one.requires_grad]
    norms = {}
    for name, term in output.weighted.items():
        found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        if reached := [gradient for gradient in found if gradient is not None]:
            norms[name] = torch.stack([gradient.norm() for gradient in reached]).norm()
            norms[name] /= len(output.logits)
    return norms


def _attention_pairs(plan: MixPlan | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The student layers of L_att and, one for each, the teacher layers, as `fixed` maps them."""
    if plan is None:
        return (), ()
    columns = evenly_spaced(len(plan.student_layers), len(plan.teacher_layers))
    return plan.student_layers, tuple(plan.teacher_layers[column] for column in columns)


def build_objective(
    student: Any, teacher_depth: int, teacher_width: int, config: DistillConfig
) -> Objective:
    """Build mix and projection for a student and a teacher of the given depth and width.

    Their starts depend on the seed alone, so all arms of a seed share them.

    Args:
        student: An `Encoder` that is an `nn.Module`.
        teacher_depth: Number of teacher blocks.
        teacher_width: Hidden size of the teacher, D.
        config: Mix, losses and seed.

    Raises:
        ConfigError, ModelError: If the mix does not fit the layers.
    """
    plan = mix = projection = None
    if config.loss.hidden_weight or config.loss.attention_weight:
        plan = plan_mix(config.mix, student.num_layers, teacher_depth)
    if config.loss.hidden_weight:
        assert plan is not None
        generator = torch.Generator().manual_seed(derive(config.seed, "mix"))
        mix = build_mix(config.mix, plan, generator)
    if config.loss.hidden_weight or config.loss.embedding_weight:
        layers = len(plan.student_layers) if plan and config.loss.hidden_weight else 0
        with seeded(config.seed, "projection"):
            projection = Projection(student.hidden_size, teacher_width, layers, config.loss)
    precision = choose_precision(config.training.precision)
    return Objective(student, config.loss, plan, mix, projection, precision)


def param_groups(
    objective: Objective, learning_rate: float, weight_decay: float, mix_learning_rate: float
) -> list[dict[str, Any]]:
    """Optimiser groups: matrices with weight decay, vectors (biases, norms) without, the mix apart.

    The mix never decays: that would pull a learned α to uniform without anybody asking.

    Args:
        objective: What is trained.
        learning_rate: For student and projection.
        weight_decay: For their matrices.
        mix_learning_rate: For the mix logits s.

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
        group("mix", mix, mix_learning_rate, 0.0),
    ]
    return [group for group in groups if group["params"]]
