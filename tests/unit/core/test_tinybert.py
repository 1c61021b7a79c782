"""The preset `tinybert` against TinyBERT's own formulas, written here in NumPy.

They are those of `task_distill.py` and `transformer/modeling.py` of its authors, for one batch of
rows padded to a fixed length:

    scores = QKᵀ/√d + (1 − mask)·(−10000);  L_att = Σ_k MSE(zero(A_k^S), zero(A_g(k)^T)), where
    zero() puts 0 for each score of at most −100
    L_hid = Σ_{k=0..K} MSE(W h_k^S + b, h_g(k)^T), the embedding output first
    L_logit = mean over rows and classes of −softmax(z^T) log softmax(z^S)
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import BertForSequenceClassification, BertTokenizer

from layermix.config import DistillConfig
from layermix.core.objective import build_objective
from layermix.core.signals import Batch
from layermix.data.tokenization import Collator, tokenize
from layermix.models.encoder import HFEncoder
from layermix.models.live_teacher import LiveTeacher

Floats = NDArray[np.float64]
LENGTH = 16
PAIRS = {0: 1, 1: 3}
"""Student block -> teacher block: the last of each half of four."""


def sides(model: BertForSequenceClassification, batch: Batch) -> tuple[list[Floats], list[Floats]]:
    """Hidden states, the embedding output first, and the masked scores of each block."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        states = model.eval()(**inputs, output_hidden_states=True).hidden_states
    hidden: list[Floats] = [state.double().numpy() for state in states]
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    heads = model.config.num_attention_heads
    mask = (1 - batch["attention_mask"].numpy()[:, None, None, :]) * -10000.0
    scores = []
    for block, state in enumerate(hidden[:-1]):
        of = f"bert.encoder.layer.{block}.attention.self."
        query, key = (
            state @ weights[f"{of}{name}.weight"].T + weights[f"{of}{name}.bias"]
            for name in ("query", "key")
        )
        rows, tokens, width = query.shape
        query, key = (
            side.reshape(rows, tokens, heads, width // heads).transpose(0, 2, 1, 3)
            for side in (query, key)
        )
        scores.append(query @ key.transpose(0, 1, 3, 2) / math.sqrt(width // heads) + mask)
    return hidden, scores


def mse(one: Floats, other: Floats) -> float:
    return float(((one - other) ** 2).mean())


def zero(scores: Floats) -> Floats:
    return np.where(scores <= -1e2, 0.0, scores)


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("large", [False, True])  # large: some real scores are below −100, too
def test_each_term_is_what_tinyberts_formulas_give(
    bert: Callable[..., BertForSequenceClassification],
    texts: Callable[..., Any],
    tokenizer: BertTokenizer,
    large: bool,
) -> None:
    rows = list(tokenize(texts(8), tokenizer, LENGTH).splits["train"])
    assert len({row["length"] for row in rows}) > 2
    batch = Collator(tokenizer, length=LENGTH)(rows)
    assert batch["input_ids"].shape == (8, LENGTH)
    student, teacher = bert(2, 16, dropout=0, seed=1), bert(4, 32, seed=2)
    if large:
        with torch.no_grad():
            for model in (student, teacher):
                for block in model.bert.encoder.layer:
                    block.attention.self.query.weight.mul_(60)
    config = DistillConfig.model_validate({"preset": "tinybert", "training": {"precision": "fp32"}})
    objective = build_objective(HFEncoder(student), 4, 32, config).eval()
    signal = LiveTeacher(HFEncoder(teacher), objective.teacher_needs)(batch)
    output = objective(batch, signal)

    (own, own_scores), (other, other_scores) = sides(student, batch), sides(teacher, batch)
    below = [((one <= -1e2) & (one > -5e3)).any() for one in own_scores]
    assert any(below) is large
    matrix = objective.projection.matrices[0]
    weight, bias = (one.detach().double().numpy() for one in (matrix.weight, matrix.bias))
    logits, wanted = (one.detach().double().numpy() for one in (output.logits, signal.logits))
    by_name = {
        "attention": sum(
            mse(zero(own_scores[k]), zero(other_scores[of])) for k, of in PAIRS.items()
        ),
        "embedding": mse(own[0] @ weight.T + bias, other[0]),
        "hidden": sum(mse(own[k + 1] @ weight.T + bias, other[of + 1]) for k, of in PAIRS.items()),
        "logit": float((-np.exp(log_softmax(wanted)) * log_softmax(logits)).mean()),
    }
    parts = {name: float(part) / len(rows) for name, part in output.parts.items()}
    assert parts == pytest.approx(by_name, rel=1e-4)
    assert output.loss.item() == pytest.approx(sum(by_name.values()), rel=1e-4)


def test_the_loss_of_a_row_does_not_depend_on_its_batch(
    bert: Callable[..., BertForSequenceClassification],
    texts: Callable[..., Any],
    tokenizer: BertTokenizer,
) -> None:
    rows = list(tokenize(texts(8), tokenizer, LENGTH).splits["train"])
    config = DistillConfig.model_validate({"preset": "tinybert", "training": {"precision": "fp32"}})
    objective = build_objective(HFEncoder(bert(2, 16, dropout=0)), 4, 32, config).eval()
    teacher = LiveTeacher(HFEncoder(bert(4, 32, seed=2)), objective.teacher_needs)
    collate = Collator(tokenizer, length=LENGTH)

    def total(chosen: list[Any]) -> float:
        batch = collate(chosen)
        return objective(batch, teacher(batch)).loss.item() * len(chosen)

    assert sum(total([row]) for row in rows) == pytest.approx(total(rows), rel=1e-5)
