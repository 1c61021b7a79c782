"""The terms of equation (4) as objects: what each looks at, and its number for each example.

To add a term, write a class here (or anywhere: `distill_from(…, terms=[…])` takes it) and, if a
config is to offer it, a line in `terms_of`. The formulas are in `losses.py`; a term says whose
signals it takes and with which weight.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from layermix.config import LossConfig
from layermix.core.losses import (
    ATTENTION,
    HIDDEN,
    IGNORED,
    LOGIT,
    SUPERVISED,
    PerExample,
    by_word,
    paired_heads,
    relation_kl,
)
from layermix.core.mixing import MixPlan, Mixture
from layermix.core.signals import LOGITS_ONLY, Batch, Needs, Signal, evenly_spaced


@dataclass(frozen=True)
class Asks:
    """What a term looks at.

    Attributes:
        student: Asked of the student.
        teacher: Asked of the teacher; None if the term does not look at it.
        projected: Whether the term needs P h of the student layers that are taught.
        projected_embedding: Whether it needs P of the student's embedding output.
        mixture: Whether it needs the mixture of teacher layers, and with it P h.
    """

    student: Needs = LOGITS_ONLY
    teacher: Needs | None = None
    projected: bool = False
    projected_embedding: bool = False
    mixture: bool = False


@dataclass(frozen=True)
class ForwardPass:
    """What one forward pass gave; a part that no term asked for is None.

    Attributes:
        batch: The padded tensors.
        student: The student's signal.
        teacher: The teacher's signal for the same batch.
        projected: P h_k of the student layers that are taught, float32.
        projected_embedding: P of the student's embedding output, float32.
        mixture: The targets h~_k, α and its entropy.
    """

    batch: Batch
    student: Signal
    teacher: Signal | None = None
    projected: Float[Tensor, "K B T D"] | None = None
    projected_embedding: Float[Tensor, "B T D"] | None = None
    mixture: Mixture | None = None


class Term(nn.Module, ABC):
    """One term of the loss; it may have parameters, which learn with the student.

    Args:
        weight: λ of this term.

    Attributes:
        name: Its key in logs and records (`loss_NAME`); unique in an objective.
        symbol: As it stands in the formula, such as `L_hid[mean]`.
    """

    name: str
    symbol: str

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def asks(self, plan: MixPlan | None) -> Asks:
        """Return what the term looks at, given the layers that take part (default: the logits)."""
        return Asks()

    def describe(self, plan: MixPlan | None) -> str:
        """Return the term as it stands in the formula."""
        return self.symbol

    @abstractmethod
    def forward(self, given: ForwardPass) -> PerExample:
        """Return the term before its weight, one number per example, (B,)."""


class Supervised(Term):
    """L_sup: the loss on the labels, of each example or the mean over its words.

    Args:
        weight: λ_sup.
        loss: A name of `SUPERVISED`.
        class_weights: Of `cross_entropy`, (C,).
        label_smoothing: Of `cross_entropy`.
    """

    name = "supervised"
    class_weights: Float[Tensor, " C"] | None

    def __init__(
        self,
        weight: float = 1.0,
        loss: str = "cross_entropy",
        class_weights: Float[Tensor, " C"] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight)
        self.loss, self.label_smoothing = SUPERVISED[loss].function, label_smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)
        of = [loss]
        if class_weights is not None:
            of.append("class weights " + " ".join(f"{one:.3g}" for one in class_weights.tolist()))
        if label_smoothing:
            of.append(f"label smoothing {label_smoothing:g}")
        self.symbol = f"L_sup[{', '.join(of)}]"

    def forward(self, given: ForwardPass) -> PerExample:
        """Compare the student's logits with the labels."""
        options: dict[str, Any] = {}
        if self.class_weights is not None:
            options["class_weights"] = self.class_weights
        if self.label_smoothing:
            options["label_smoothing"] = self.label_smoothing
        student, labels = given.student, given.batch["labels"]
        if student.words is None:
            return self.loss(student.logits, labels, **options)
        counted = student.words & (labels != IGNORED)
        return by_word(self.loss, student.logits, labels, counted, **options)


class Logit(Term):
    """L_logit: the student's logits follow the teacher's, of the example or of each word."""

    name = "logit"

    def __init__(
        self, weight: float = 1.0, loss: str = "soft_cross_entropy", temperature: float = 1.0
    ) -> None:
        super().__init__(weight)
        at = f", T={temperature:g}" if temperature != 1 else ""
        self.symbol, self.loss = f"L_logit[{loss}{at}]", LOGIT[loss].function
        self.temperature = temperature

    def asks(self, plan: MixPlan | None) -> Asks:
        """Ask both sides for logits."""
        return Asks(teacher=LOGITS_ONLY)

    def forward(self, given: ForwardPass) -> PerExample:
        """Compare the logits of both."""
        assert given.teacher is not None
        student, teacher = given.student, given.teacher
        if student.words is None:
            return self.loss(student.logits, teacher.logits, self.temperature)
        assert teacher.words is not None
        counted = student.words & teacher.words  # each tokenizer may have cut others off
        options = {"temperature": self.temperature}
        return by_word(self.loss, student.logits, teacher.logits, counted, **options)


class Hidden(Term):
    """L_hid, equation (3): P h_k follows the mixture h~_k."""

    name = "hidden"

    def __init__(self, weight: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(weight)
        row = HIDDEN[reduction]
        self.symbol, self.loss, self.padding = f"L_hid[{reduction}]", row.function, row.padding

    def describe(self, plan: MixPlan | None) -> str:
        """Name the mix and its layers as well."""
        if plan is None:
            return self.symbol
        layers = f"{plan.strategy} α over teacher layers {list(plan.teacher_layers)}"
        return f"{self.symbol[:-1]}; {layers}]"

    def asks(self, plan: MixPlan | None) -> Asks:
        """Ask for the mixture; at padding too if the reduction counts it."""
        needs = Needs(padding=self.padding)
        return Asks(needs, needs, mixture=True)

    def forward(self, given: ForwardPass) -> PerExample:
        """Compare projected hidden states with their targets."""
        assert given.mixture is not None
        return self.loss(given.projected, given.mixture.targets, given.student.mask)


class Entropy(Term):
    """Σ_k H(α_k), which L_ent = −β Σ_k H(α_k) weighs with −β."""

    name, symbol = "entropy", "Σ_k H(α_k)"

    def asks(self, plan: MixPlan | None) -> Asks:
        """Ask for the mixture, whose α it looks at."""
        return Asks(teacher=LOGITS_ONLY, mixture=True)

    def forward(self, given: ForwardPass) -> PerExample:
        """Return the same number for every example."""
        assert given.mixture is not None
        return given.mixture.entropy.sum().expand(len(given.student.logits))


class Embedding(Term):
    """L_emb: the loss of equation (3) between the embedding outputs (TinyBERT's fifth pair)."""

    name = "embedding"

    def __init__(self, weight: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(weight)
        row = HIDDEN[reduction]
        self.symbol, self.loss, self.padding = f"L_emb[{reduction}]", row.function, row.padding

    def asks(self, plan: MixPlan | None) -> Asks:
        """Ask both sides for the embedding output."""
        needs = Needs(embedding=True, padding=self.padding)
        return Asks(needs, needs, projected_embedding=True)

    def forward(self, given: ForwardPass) -> PerExample:
        """Compare the projected embedding output with the teacher's."""
        assert given.teacher is not None
        assert given.projected_embedding is not None
        assert given.teacher.embedding is not None
        pair = given.projected_embedding[None], given.teacher.embedding[None]
        return self.loss(*pair, given.student.mask)


class Attention(Term):
    """L_att: attention scores before the softmax, layer by layer as `fixed` maps them."""

    name = "attention"

    def __init__(
        self,
        weight: float = 1.0,
        reduction: str = "mean",
        heads: Literal["matched", "averaged"] = "matched",
    ) -> None:
        super().__init__(weight)
        row = ATTENTION[reduction]
        self.symbol, self.loss = f"L_att[{reduction}, heads {heads}]", row.function
        self.padding = row.padding
        self.heads: Literal["matched", "averaged"] = heads
        self.pairs: tuple[tuple[int, ...], tuple[int, ...]] = (), ()

    def asks(self, plan: MixPlan | None) -> Asks:
        """Ask for the scores of the taught layers, and of the teacher layer of each.

        Raises:
            ValueError: If there is no plan, so that nobody says which layers those are.
        """
        if plan is None:
            raise ValueError(f"{self.symbol} compares layers, so a plan is needed")
        columns = evenly_spaced(len(plan.student_layers), len(plan.teacher_layers))
        self.pairs = plan.student_layers, tuple(plan.teacher_layers[column] for column in columns)
        student, teacher = (Needs(attention=one, padding=self.padding) for one in self.pairs)
        return Asks(student, teacher)

    def forward(self, given: ForwardPass) -> PerExample:
        """Compare the scores of both."""
        assert given.teacher is not None
        own, wanted = self.pairs
        student = given.student.select_attention(own)
        teacher = given.teacher.select_attention(wanted)
        return self.loss(*paired_heads(student, teacher, self.heads), given.student.mask)


class Relations(Term):
    """L_rel: the self-attention relations of one student layer follow those of a teacher layer.

    No config of `distill` has it; give it to `distill_from(…, terms=[…])`.

    Args:
        weight: λ_rel.
        student_layer: Block of the student, from 0.
        teacher_layer: Block of the teacher, from 0.
        heads: Relation heads R.
    """

    name = "relation"

    def __init__(
        self, weight: float, student_layer: int, teacher_layer: int, heads: int = 12
    ) -> None:
        super().__init__(weight)
        self.student_layer, self.teacher_layer, self.heads = student_layer, teacher_layer, heads
        self.symbol = f"L_rel[{student_layer} → teacher layer {teacher_layer}, {heads} heads]"

    def asks(self, plan: MixPlan | None) -> Asks:
        """Ask both sides for queries, keys and values."""
        return Asks(Needs(qkv=(self.student_layer,)), Needs(qkv=(self.teacher_layer,)))

    def forward(self, given: ForwardPass) -> PerExample:
        """Compare the relations of both."""
        assert given.teacher is not None
        student = given.student.select_qkv(self.student_layer)
        teacher = given.teacher.select_qkv(self.teacher_layer)
        return relation_kl(student, teacher, given.student.mask, self.heads)


def terms_of(loss: LossConfig, learns_mix: bool, supervised: Term | None = None) -> list[Term]:
    """Return the terms that a config describes, those of weight 0 left out.

    Args:
        loss: Kinds and weights.
        learns_mix: Whether α is learned; the entropy of an α that is not has no gradient.
        supervised: L_sup, if more than the config says what it is, such as the sizes of classes.
    """
    terms: Iterable[Term] = (
        supervised or Supervised(float(loss.supervised_weight), loss.supervised or "cross_entropy"),
        Logit(float(loss.logit_weight), loss.logit or "soft_cross_entropy", loss.temperature),
        Hidden(float(loss.hidden_weight), loss.hidden),
        Entropy(-loss.entropy_weight if learns_mix else 0.0),
        Embedding(float(loss.embedding_weight), loss.hidden),
        Attention(float(loss.attention_weight), loss.attention, loss.attention_heads),
    )
    return [term for term in terms if term.weight]
