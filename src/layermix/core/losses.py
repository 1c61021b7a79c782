"""The losses of equation (4): pure functions, one number per example, padding never counted.

To add a loss, add a function, its row to `SUPERVISED`, `LOGIT`, `HIDDEN` or `ATTENTION`, and its
name to `SupervisedLoss`, `LogitLoss`, `HiddenReduction` or `AttentionReduction` in
`config/schema.py`. Row i of a result depends on example i alone (`tinybert_mean` of `HIDDEN` and
`ATTENTION` also on the padded length), so a batch may be split in any way.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from layermix.errors import ModelError
from layermix.hardware.precision import at_least_float32

IGNORED = -100
"""The label of a row that has none; L_sup is 0 there."""

Logits = Float[Tensor, "B C"]
PerExample = Float[Tensor, " B"]
Layers = Float[Tensor, "K B T D"]
Scores = Float[Tensor, "K B H T T"]


def by_word(
    loss: Callable[..., PerExample],
    student: Float[Tensor, "B W C"],
    other: Shaped[Tensor, "B W *C"],
    counted: Bool[Tensor, "B W"],
    **options: Any,
) -> PerExample:
    """A loss of logits word by word: the mean over the words of an example that are counted.

    Args:
        loss: A function of `SUPERVISED` or `LOGIT`.
        student: Logits of the student.
        other: What they are compared with: labels, or logits of the teacher.
        counted: Which words count; an example without any has 0.
        options: Of the loss.

    Examples:
        >>> labels = torch.tensor([[3, IGNORED], [IGNORED, IGNORED]])
        >>> by_word(cross_entropy, torch.zeros(2, 2, 4), labels, labels >= 0)
        tensor([1.3863, 0.0000])
    """
    each = loss(student.flatten(0, 1), other.flatten(0, 1), **options).view(counted.shape)
    return (each * counted).sum(-1) / counted.sum(-1).clamp(min=1)


def cross_entropy(
    logits: Logits,
    labels: Int[Tensor, " B"],
    class_weights: Float[Tensor, " C"] | None = None,
    label_smoothing: float = 0.0,
) -> PerExample:
    """L_sup for classes: −w_y Σ_c q_c log p_c; plain, −log p(label).

    Args:
        logits: Of the student.
        labels: Class indices y, `IGNORED` where a row has none.
        class_weights: w, 1 for each class if None.
        label_smoothing: ε: q is ε/C, and 1 − ε more for the label (Szegedy et al., arXiv
            1512.00567).

    Examples:
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([3, IGNORED]))
        tensor([1.3863, 0.0000])
        >>> cross_entropy(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
        tensor([0.6931, 2.0794])
    """
    # Not its argument `weight`, which weighs the smoothed classes one by one.
    loss = functional.cross_entropy(
        logits, labels, ignore_index=IGNORED, reduction="none", label_smoothing=label_smoothing
    )
    return loss if class_weights is None else loss * class_weights[labels.clamp(min=0)]


def squared_error(logits: Float[Tensor, "B 1"], labels: Float[Tensor, " B"]) -> PerExample:
    """L_sup for a number: the squared error; a NaN label counts as none.

    Examples:
        >>> squared_error(torch.tensor([[1.0], [1.0]]), torch.tensor([3.0, float("nan")]))
        tensor([4., 0.])
    """
    known = ~labels.isnan()
    return (logits.squeeze(-1) - labels.where(known, 0)).square() * known


def binary_cross_entropy(
    logits: Logits, labels: Float[Tensor, "B C"] | Int[Tensor, "B C"] | Float[Tensor, " B"]
) -> PerExample:
    """L_sup for several labels, each 0 or 1, or one number from 0 to 1: mean over the labels.

    `IGNORED` (or NaN) in a row counts as no label of the row.

    Examples:
        >>> binary_cross_entropy(torch.zeros(2, 2), torch.tensor([[1, 0], [IGNORED, IGNORED]]))
        tensor([0.6931, 0.0000])
    """
    given = labels.to(logits.dtype).reshape(logits.shape)
    known = ((given != IGNORED) & ~given.isnan()).all(-1, keepdim=True)
    target = given.where(known, 0)
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * known).mean(-1)


def soft_cross_entropy(student: Logits, teacher: Logits, temperature: float = 1.0) -> PerExample:
    """L_logit: cross entropy with the teacher's soft labels, summed over classes, times T².

    Examples:
        >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[9.0, -9.0]]))
        tensor([0.6931])
    """
    target = (teacher / temperature).softmax(-1)
    log_probabilities = (student / temperature).log_softmax(-1)
    return -(target * log_probabilities).sum(-1) * temperature**2


def soft_cross_entropy_mean(
    student: Logits, teacher: Logits, temperature: float = 1.0
) -> PerExample:
    """L_logit as TinyBERT's code computes it: the mean over classes instead of the sum."""
    return soft_cross_entropy(student, teacher, temperature) / student.shape[-1]


def kl_divergence(student: Logits, teacher: Logits, temperature: float = 1.0) -> PerExample:
    """L_logit: KL(teacher ‖ student) at temperature T, times T²; 0 where they agree.

    Examples:
        >>> kl_divergence(torch.tensor([[2.0, 1.0]]), torch.tensor([[3.0, 2.0]])).abs() < 1e-6
        tensor([True])
    """
    target = (teacher / temperature).log_softmax(-1)
    log_probabilities = (student / temperature).log_softmax(-1)
    return (target.exp() * (target - log_probabilities)).sum(-1) * temperature**2


def soft_binary_cross_entropy(
    student: Logits, teacher: Logits, temperature: float = 1.0
) -> PerExample:
    """L_logit for labels that do not exclude each other: binary cross entropy, times T².

    With the teacher's probability of each label, sigmoid(logit / T); mean over the labels.

    Examples:
        >>> soft_binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[9.0, -9.0]]))
        tensor([0.6931])
    """
    target = (teacher / temperature).sigmoid()
    loss = functional.binary_cross_entropy_with_logits(
        student / temperature, target, reduction="none"
    )
    return loss.mean(-1) * temperature**2


def logit_mse(student: Logits, teacher: Logits, temperature: float = 1.0) -> PerExample:
    """L_logit: squared difference of the logits, mean over classes; T cancels against T²."""
    return (student - teacher).square().mean(-1)


def hidden_mean(student: Layers, target: Layers, mask: Bool[Tensor, "B T"]) -> PerExample:
    """L_hid: mean over the example's real tokens and the width, summed over layers.

    Examples:
        >>> ones, mask = torch.ones(3, 1, 2, 4), torch.tensor([[True, False]])
        >>> hidden_mean(ones, 0 * ones, mask)
        tensor([3.])
    """
    return token_norm(student, target, mask) / student.shape[-1]


def token_norm(student: Layers, target: Layers, mask: Bool[Tensor, "B T"]) -> PerExample:
    """L_hid: squared norm per token, mean over the example's real tokens, summed over layers."""
    return literal_sum(student, target, mask) / mask.sum(-1).clamp(min=1)


def literal_sum(student: Layers, target: Layers, mask: Bool[Tensor, "B T"]) -> PerExample:
    """L_hid: equation (3) to the letter, the squared norm of the matrix of real tokens."""
    return (squared_norms(student, target) * mask).sum((0, 2))


def hidden_tinybert_mean(student: Layers, target: Layers, mask: Bool[Tensor, "B T"]) -> PerExample:
    """L_hid as TinyBERT's code computes it: mean over all positions, padding included."""
    return squared_norms(student, target).sum((0, 2)) / (student.shape[2] * student.shape[3])


def paired_heads(
    student: Float[Tensor, "K B H T T"],
    teacher: Float[Tensor, "K B G T T"],
    heads: Literal["matched", "averaged"],
) -> tuple[Float[Tensor, "K B J T T"], Float[Tensor, "K B J T T"]]:
    """The attention scores of both sides, head by head or averaged over heads, in float32.

    Raises:
        ModelError: If heads are to be matched, but there are not as many on both sides.
    """
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    if heads == "averaged":
        return student.mean(2, keepdim=True), teacher.mean(2, keepdim=True)
    if student.shape[2] != teacher.shape[2]:
        raise ModelError(
            f"the student has {student.shape[2]} attention heads and the teacher "
            f"{teacher.shape[2]}, so they cannot be matched; use --loss.attention_heads averaged"
        )
    return student, teacher


def attention_mean(student: Scores, teacher: Scores, mask: Bool[Tensor, "B T"]) -> PerExample:
    """L_att: squared difference of the attention scores, mean over real pairs of tokens and heads.

    Scores are q·k/√d, before mask and softmax; summed over layers.

    Examples:
        >>> ones, mask = torch.ones(2, 1, 3, 2, 2), torch.tensor([[True, False]])
        >>> attention_mean(ones, 0 * ones, mask)
        tensor([2.])
    """
    real = mask[:, :, None] & mask[:, None, :]
    squares = (student - teacher).square().mean(2) * real
    return squares.sum((0, 2, 3)) / real.sum((1, 2)).clamp(min=1)


def attention_tinybert_mean(
    student: Scores, teacher: Scores, mask: Bool[Tensor, "B T"]
) -> PerExample:
    """L_att as TinyBERT's code computes it: mean over all pairs of positions, padding included.

    Its scores have the mask added, −10000 where the key is padding; each of −100 or less counts
    as 0, on either side.

    Examples:
        >>> ones, mask = torch.ones(2, 1, 3, 2, 2), torch.tensor([[True, False]])
        >>> attention_tinybert_mean(ones, 0 * ones, mask)
        tensor([1.])
    """
    key = mask[:, None, None, :]
    student, teacher = (side.where(key & (side > -100), 0) for side in (student, teacher))
    return (student - teacher).square().mean((2, 3, 4)).sum(0)


def relation_kl(
    student: Float[Tensor, "3 B H T e"],
    teacher: Float[Tensor, "3 B G T E"],
    mask: Bool[Tensor, "B T"],
    heads: int,
) -> PerExample:
    """L_rel: KL(teacher ‖ student) of self-attention relations between queries, keys and values.

    Queries (keys, values) of all heads are joined and split anew into R relation heads, so widths
    and numbers of heads may differ. A relation is softmax(A Aᵀ/√r) over the real tokens, r the
    width of a relation head. Mean over relation heads and real tokens, summed over queries, keys
    and values (Wang et al. 2021, MiniLMv2, arXiv 2012.15828, equations 5 to 7; each of the three
    with weight 1).

    Args:
        student: Queries, keys and values of a layer.
        teacher: Of the layer that it follows.
        mask: True where a position holds a real token.
        heads: R.

    Raises:
        ModelError: If a width is no multiple of R.

    Examples:
        >>> qkv, mask = torch.ones(3, 1, 2, 4, 6), torch.ones(1, 4, dtype=torch.bool)
        >>> relation_kl(qkv[..., :3], qkv, mask, heads=3)
        tensor([0.])
    """
    own, wanted = (log_relations(side, mask, heads) for side in (student, teacher))
    each = functional.kl_div(own, wanted, reduction="none", log_target=True).sum(-1).mean(2)
    return (each * mask).sum((0, 2)) / mask.sum(-1).clamp(min=1)


def log_relations(
    vectors: Float[Tensor, "3 B H T E"], mask: Bool[Tensor, "B T"], heads: int
) -> Float[Tensor, "3 B R T T"]:
    """The logarithms of the relations that `relation_kl` compares, in float32.

    Raises:
        ModelError: If the width is no multiple of the number of relation heads.
    """
    width = vectors.shape[2] * vectors.shape[4]
    if width % heads:
        raise ModelError(
            f"a model is {width} wide, which cannot be split into {heads} relation heads; use "
            "--loss.relation_heads with a number that divides the widths of student and teacher"
        )
    joined = at_least_float32(vectors).transpose(2, 3).flatten(3)
    split = joined.view(*joined.shape[:3], heads, width // heads).transpose(2, 3)
    scores = split @ split.mT * split.shape[-1] ** -0.5
    # Finite, since 0 · ∞ would be NaN; its probability is 0 beside that of any real token.
    relations: Tensor = scores.masked_fill(~mask[:, None, None, :], -1e9).log_softmax(-1)
    return relations


def squared_norms(student: Layers, target: Layers) -> Float[Tensor, "K B T"]:
    """‖P h − h~‖² of every token, in float32 (or float64) whatever the precision of the pass."""
    difference = at_least_float32(student) - at_least_float32(target)
    norms: Tensor = torch.linalg.vecdot(difference, difference)
    return norms


class LossRow(NamedTuple):
    """A named loss: its function, one line for people, where it comes from.

    `padding` says whether it looks at the positions that hold no token.
    """

    function: Callable[..., PerExample]
    summary: str
    paper: str
    padding: bool = False


TINYBERT = "TinyBERT, arXiv 1909.10351"
HINTON = "Hinton et al., arXiv 1503.02531"
YUN = "Yun and Moon, equation (3)"
SUPERVISED: Mapping[str, LossRow] = {
    "cross_entropy": LossRow(
        cross_entropy, "cross entropy with the labels", "Yun and Moon, equation (4)"
    ),
    "mse": LossRow(squared_error, "squared error of a number", "–"),
    "bce": LossRow(
        binary_cross_entropy, "binary cross entropy of each label, or of a number from 0 to 1", "–"
    ),
}
LOGIT: Mapping[str, LossRow] = {
    "soft_cross_entropy": LossRow(
        soft_cross_entropy, "cross entropy with soft labels, × T²", HINTON
    ),
    "tinybert_mean": LossRow(soft_cross_entropy_mean, "the same, ÷ number of classes", TINYBERT),
    "kl": LossRow(kl_divergence, "KL(teacher ‖ student), × T²", HINTON),
    "mse": LossRow(logit_mse, "squared difference of logits", "Ba and Caruana, arXiv 1312.6184"),
    "bce": LossRow(
        soft_binary_cross_entropy, "binary cross entropy with soft labels, × T²", HINTON
    ),
}
HIDDEN: Mapping[str, LossRow] = {
    "mean": LossRow(hidden_mean, "mean over real tokens and width, sum over layers", YUN),
    "token_norm": LossRow(token_norm, "squared norm per token, mean over real tokens", YUN),
    "literal_sum": LossRow(literal_sum, "squared norm of the whole matrix", YUN),
    "tinybert_mean": LossRow(
        hidden_tinybert_mean, "mean over all positions, padding included", TINYBERT, padding=True
    ),
}
ATTENTION: Mapping[str, LossRow] = {
    "mean": LossRow(attention_mean, "mean over pairs of real tokens and heads", TINYBERT),
    "tinybert_mean": LossRow(
        attention_tinybert_mean,
        "mean over all pairs of positions, scores ≤ −100 as 0",
        TINYBERT,
        padding=True,
    ),
}
