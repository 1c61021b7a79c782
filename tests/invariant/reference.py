"""Equations (1) to (4) in the paper's notation: plain loops over examples, layers and tokens.

Slow on purpose, and written without a look at the fast path. Works on float64 tensors, so that the
gradients of s, P and the student follow from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layermix.config import DistillConfig


@dataclass(frozen=True)
class Sides:
    """What teacher and student say: logits (B, C), every layer (B, T, width), embedding output.

    `attention` is the scores of every layer before mask and softmax, (B, H, T, T).
    """

    logits: Tensor
    layers: Tensor
    embedding: Tensor
    attention: Tensor


@dataclass(frozen=True)
class Learned:
    """What learns beside the student: s (K, L), P_k (D, d), the bias of P_k (D,)."""

    s: Tensor | None
    P: Sequence[Tensor]
    bias: Sequence[Tensor | None]


def total_loss(
    config: DistillConfig,
    student: Sides,
    teacher: Sides,
    real: Tensor,
    labels: Tensor,
    learned: Learned,
    drawn: Tensor | None,
    count: int,
) -> Tensor:
    """L_total, equation (4), over `count` examples; `drawn` is the α of the strategy `random`."""
    loss, mix = config.loss, config.mix
    taught = list(mix.student_layers or range(student.layers.shape[0]))
    depth = teacher.layers.shape[0]
    groups = min(len(taught), depth)
    chosen = list(mix.teacher_layers or [(j + 1) * depth // groups - 1 for j in range(groups)])
    if mix.strategy == "last_only":
        taught = taught[-1:]
    alpha = []
    if loss.hidden_weight:
        alpha = weights(mix.strategy, len(taught), len(chosen), learned.s, drawn)
    total = torch.zeros((), dtype=torch.double)
    for i in range(student.logits.shape[0]):
        tokens = [t for t in range(real.shape[1]) if real[i, t]]
        if loss.hidden == "tinybert_mean":
            tokens = list(range(real.shape[1]))
        total = total + loss.supervised_weight * l_sup(
            loss.supervised or "cross_entropy", student.logits[i], labels[i]
        )
        total = total + loss.logit_weight * l_logit(
            loss.logit, student.logits[i], teacher.logits[i], loss.temperature
        )
        if loss.hidden_weight:
            for k, layer in enumerate(taught):
                P, bias = of_layer(learned, loss.projection, k)
                pairs = []
                for t in tokens:
                    h = sum(alpha[k][j] * teacher.layers[m, i, t] for j, m in enumerate(chosen))
                    pairs.append((project(P, bias, student.layers[layer, i, t]), h))
                total = total + loss.hidden_weight * l_hid(loss.hidden, pairs)
        if loss.embedding_weight:
            P, bias = of_layer(learned, loss.projection, -1)
            pairs = [
                (project(P, bias, student.embedding[i, t]), teacher.embedding[i, t]) for t in tokens
            ]
            total = total + loss.embedding_weight * l_hid(loss.hidden, pairs)
        if loss.attention_weight:
            for k, layer in enumerate(taught):
                watched = chosen[max(0, (k + 1) * len(chosen) // len(taught) - 1)]
                total = total + loss.attention_weight * l_att(
                    loss.attention,
                    loss.attention_heads,
                    student.attention[layer, i],
                    teacher.attention[watched, i],
                    [t for t in range(real.shape[1]) if real[i, t]],
                )
        if learned.s is not None:
            for k in range(len(taught)):
                for weight in alpha[k]:  # L_ent = −β Σ_k H(α_k), H = −Σ α log α
                    total = total + loss.entropy_weight * weight * torch.log(weight)
    return total / count


def weights(
    strategy: str, students: int, teachers: int, s: Tensor | None, drawn: Tensor | None
) -> list[list[Tensor]]:
    """α_{k,l}; equation (2) if it is learned."""
    alpha = torch.zeros(students, teachers, dtype=torch.double)
    for k in range(students):
        if strategy == "fixed":
            alpha[k, max(0, (k + 1) * teachers // students - 1)] = 1
        elif strategy == "reverse":
            alpha[k, teachers - 1 - k] = 1
        elif strategy in ("all_to_one", "last_only"):
            alpha[k, teachers - 1] = 1
        elif strategy == "uniform":
            alpha[k] = torch.tensor(1 / teachers, dtype=torch.float)  # α is kept in float32
        elif strategy == "random":
            assert drawn is not None
            alpha[k] = drawn[k]
        elif strategy != "learned":
            raise ValueError(f"write the formula of {strategy} here, from its paper")
    if s is None:
        return [list(row) for row in alpha]
    return [[torch.exp(one) / sum(torch.exp(other) for other in row) for one in row] for row in s]


def of_layer(learned: Learned, projection: str, k: int) -> tuple[Tensor, Tensor | None]:
    """P and its bias for the layer k."""
    index = 0 if projection == "shared" else k
    return learned.P[index], learned.bias[index]


def project(P: Tensor, bias: Tensor | None, h: Tensor) -> Tensor:
    """P h."""
    return P @ h if bias is None else P @ h + bias


def l_hid(reduction: str, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Equation (3) for one layer of one example, from (P h, h~) by token."""
    squares = torch.zeros((), dtype=torch.double)
    for projected, target in pairs:
        for a, b in zip(projected, target, strict=True):
            squares = squares + (a - b) ** 2
    width = len(pairs[0][0])
    if reduction == "literal_sum":
        return squares
    if reduction == "token_norm":
        return squares / len(pairs)
    return squares / len(pairs) / width  # mean, tinybert_mean: over other tokens


def l_att(reduction: str, heads: str, a: Tensor, b: Tensor, tokens: list[int]) -> Tensor:
    """The attention scores (H, T, T) of one layer of one example, over pairs of real tokens.

    As TinyBERT's code has it, over all pairs of positions: a score is 0 where the key is padding.
    """
    if heads == "averaged":
        a, b = (sum(one[h] for h in range(len(one)))[None] / len(one) for one in (a, b))
    squares = torch.zeros((), dtype=torch.double)
    queries = range(a.shape[1]) if reduction == "tinybert_mean" else tokens
    for h in range(len(a)):
        for t in queries:
            for u in tokens:
                squares = squares + (a[h, t, u] - b[h, t, u]) ** 2
    return squares / len(queries) ** 2 / len(a)


def l_sup(kind: str, z: Tensor, y: Tensor) -> Tensor:
    """The loss on the label of one example, 0 where it has none."""
    nothing = torch.zeros((), dtype=torch.double)
    if kind == "cross_entropy":
        return nothing if y == -100 else -torch.log(softmax(z)[int(y)])
    if kind == "mse":
        return nothing if torch.isnan(y) else (z[0] - y) ** 2
    if (y == -100).any():
        return nothing
    for c in range(len(z)):
        chance = 1 / (1 + torch.exp(-z[c]))
        nothing = nothing - y[c] * torch.log(chance) - (1 - y[c]) * torch.log(1 - chance)
    return nothing / len(z)


def l_logit(kind: str, z: Tensor, teacher: Tensor, T: float) -> Tensor:
    """How the logits of one example follow the teacher's."""
    classes = range(len(z))
    if kind == "mse":
        return sum((z[c] - teacher[c]) ** 2 for c in classes) / len(z)
    if kind == "bce":
        loss = torch.zeros(())
        for c in classes:
            p, q = (1 / (1 + torch.exp(-logits[c] / T)) for logits in (teacher, z))
            loss = loss - p * torch.log(q) - (1 - p) * torch.log(1 - q)
        return loss / len(z) * T**2
    p, q = softmax(teacher / T), softmax(z / T)
    cross = -sum(p[c] * torch.log(q[c]) for c in classes) * T**2
    if kind == "tinybert_mean":
        return cross / len(z)
    if kind == "kl":
        return cross + sum(p[c] * torch.log(p[c]) for c in classes) * T**2
    return cross


def softmax(z: Tensor) -> list[Tensor]:
    """One number per class: exp z_c / Σ exp z_j."""
    whole = sum(torch.exp(one) for one in z)
    return [torch.exp(one) / whole for one in z]
