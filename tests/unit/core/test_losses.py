"""Losses: values worked out by hand, degenerate rows, and nothing that depends on padding."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from layermix.core.losses import (
    ATTENTION,
    HIDDEN,
    IGNORED,
    LOGIT,
    attention_mean,
    attention_tinybert_mean,
    binary_cross_entropy,
    cross_entropy,
    hidden_mean,
    hidden_tinybert_mean,
    kl_divergence,
    literal_sum,
    logit_mse,
    paired_heads,
    relation_kl,
    soft_binary_cross_entropy,
    soft_cross_entropy,
    soft_cross_entropy_mean,
    squared_error,
    token_norm,
)
from layermix.errors import ModelError

REAL = torch.tensor([[True, True, False], [True, False, False]])


def pair() -> tuple[Tensor, Tensor]:
    """Two layers whose squared differences are 1 per number, 9 where there is padding."""
    student, target = torch.zeros(2, 2, 3, 4), torch.ones(2, 2, 3, 4)
    target[:, ~REAL] = 3
    return student, target


def test_attention_loss_by_hand() -> None:
    student = torch.zeros(2, 2, 2, 3, 3)  # layers, examples, heads, tokens, tokens
    teacher = student.clone()
    teacher[:, :, 0] = 4  # of two heads one differs
    teacher[:, 1, :, 1:] = 99  # padding of the second example
    teacher[:, 1, :, :, 1:] = 99
    teacher[:, 0, :, 2] = 99
    teacher[:, 0, :, :, 2] = 99
    assert attention_mean(student, teacher, REAL).tolist() == [16, 16]  # 2 layers of 4² / 2
    both = paired_heads(student, teacher, "averaged")
    assert attention_mean(*both, REAL).tolist() == [8, 8]  # 2 of 2²
    both = paired_heads(student, teacher[:, :, :1], "averaged")
    assert attention_mean(*both, REAL).tolist() == [32, 32]
    assert all(one is not None for one in paired_heads(student, teacher, "matched"))
    with pytest.raises(ModelError, match="has 2 attention heads and the teacher 1, so they cannot"):
        paired_heads(student, teacher[:, :, :1], "matched")


def test_attention_as_tinybert_averages_it_by_hand() -> None:
    student = torch.zeros(1, 1, 1, 2, 2)  # a layer, an example, a head, two positions
    teacher = torch.tensor([[3.0, 50.0], [1.0, 50.0]]).view(1, 1, 1, 2, 2)
    mask = torch.tensor([[True, False]])  # keys: the columns; a query at padding counts
    assert attention_tinybert_mean(student, teacher, mask).tolist() == [(9 + 1) / 4]
    teacher[..., 0, 0] = -100  # counts as 0, like a masked score
    assert attention_tinybert_mean(student, teacher, mask).tolist() == [1 / 4]
    assert attention_tinybert_mean(student + 2, teacher, mask).tolist() == [(4 + 1) / 4]


def test_hidden_losses_by_hand() -> None:
    student, target = pair()
    assert hidden_mean(student, target, REAL).tolist() == [2, 2]  # 1 per number, two layers
    assert token_norm(student, target, REAL).tolist() == [8, 8]  # 4 numbers per token
    assert literal_sum(student, target, REAL).tolist() == [16, 8]  # two real tokens, one
    found = hidden_tinybert_mean(student, target, REAL).tolist()
    assert found == pytest.approx([2 * (1 + 1 + 9) / 3, 2 * (1 + 9 + 9) / 3])


@pytest.mark.parametrize("name", [name for name, row in HIDDEN.items() if not row.padding])
def test_hidden_losses_do_not_see_padding(name: str) -> None:
    student, target = (torch.randn(2, 2, 3, 4) for _ in range(2))
    longer = [
        torch.cat([one, torch.full((2, 2, 5, 4), 1e3 * n)], 2)
        for n, one in enumerate((student, target))
    ]
    mask = torch.cat([REAL, torch.zeros(2, 5, dtype=torch.bool)], 1)
    function = HIDDEN[name].function
    torch.testing.assert_close(function(*longer, mask), function(student, target, REAL))


def test_only_tinybert_mean_looks_at_padding() -> None:
    student, target = pair()
    for name, row in HIDDEN.items():
        moved = target + 5 * ~REAL[:, :, None]
        same = row.function(student, target, REAL).equal(row.function(student, moved, REAL))
        assert same is not row.padding, name
    scores = torch.zeros(2, 2, 1, 3, 3)
    moved = scores + 5 * ~REAL[:, None, :, None]  # queries at padding
    for name, row in ATTENTION.items():
        same = row.function(scores, scores, REAL).equal(row.function(scores, moved, REAL))
        assert same is not row.padding, name


@pytest.mark.parametrize("name", HIDDEN)
def test_a_row_without_a_token_counts_nothing_and_spoils_nothing(name: str) -> None:
    student = torch.randn(2, 2, 3, 4, requires_grad=True)
    mask = torch.tensor([[False] * 3, [True] * 3])
    found = HIDDEN[name].function(student, torch.zeros(2, 2, 3, 4), mask)
    assert found.isfinite().all()
    found.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    if not HIDDEN[name].padding:
        assert found[0] == 0
        assert student.grad[:, 0].abs().sum() == 0
    assert found[1] > 0


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_losses_are_in_float32_whatever_the_precision_of_the_pass(name: str) -> None:
    student, target = (torch.full((1, 1, 2, 64), v, dtype=torch.float16) for v in (200.0, 0.0))
    found = HIDDEN[name].function(student, target, torch.ones(1, 2, dtype=torch.bool))
    assert found.dtype == torch.float32
    assert found.isfinite().all()  # 200² · 64 overflows float16


def test_cross_entropy_is_0_where_there_is_no_label() -> None:
    logits = torch.tensor([[0.0, 0.0], [3.0, 0.0]], requires_grad=True)
    found = cross_entropy(logits, torch.tensor([1, IGNORED]))
    assert found.tolist() == pytest.approx([math.log(2), 0])
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad[1].tolist() == [0, 0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_with_class_weights_and_smoothing_by_its_formula(
    smoothing: float, weighted: bool
) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=draw, dtype=torch.double)
    labels = torch.tensor([0, 2, IGNORED, 1, 2, 0])
    weights = torch.tensor([0.5, 1, 4], dtype=torch.double)
    wanted = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total = 0.0
        for index, logit in enumerate(row):
            log_probability = logit - math.log(sum(map(math.exp, row)))
            q = smoothing / 3 + (1 - smoothing) * (index == label)
            total -= q * log_probability
        weight = weights[label].item() if weighted and label != IGNORED else 1
        wanted.append(0 if label == IGNORED else weight * total)
    found = cross_entropy(logits, labels, weights if weighted else None, smoothing)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.double))


def test_regression_is_0_where_there_is_no_label() -> None:
    logits = torch.tensor([[2.0], [5.0]], requires_grad=True)
    found = squared_error(logits, torch.tensor([-1.0, math.nan]))
    assert found.tolist() == [9, 0]
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[6], [0]]


def test_binary_cross_entropy_is_0_where_there_is_no_label() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    labels = torch.tensor([[1.0, 0.0, 1.0], [1.0, IGNORED, 0.0]])
    found = binary_cross_entropy(logits, labels)
    assert found.tolist() == pytest.approx([math.log(2), 0])
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad[1].tolist() == [0, 0, 0]


def test_logit_losses_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3), 0.0]])
    assert soft_cross_entropy(student, teacher).item() == pytest.approx(math.log(2))
    assert soft_cross_entropy_mean(student, teacher).item() == pytest.approx(math.log(2) / 2)
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert kl_divergence(student, teacher).item() == pytest.approx(math.log(2) - entropy)
    assert logit_mse(student, teacher).item() == pytest.approx(math.log(3) ** 2 / 2)


def test_temperature_softens_and_is_made_up_for() -> None:
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    at_2 = kl_divergence(student, teacher, 2.0)
    torch.testing.assert_close(at_2, 4 * kl_divergence(student, teacher / 2, 1.0))
    assert logit_mse(student, teacher, 2.0).equal(logit_mse(student, teacher))


@pytest.mark.parametrize("name", LOGIT)
def test_logit_losses_are_finite_for_certain_teachers_and_wrong_students(name: str) -> None:
    student = torch.tensor([[-1000.0, 1000.0]], requires_grad=True)
    found = LOGIT[name].function(student, torch.tensor([[1000.0, -1000.0]]), 1.0)
    found.sum().backward()
    assert found.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", LOGIT)
def test_a_student_that_agrees_has_no_gradient(name: str) -> None:
    teacher = torch.tensor([[2.0, -1.0, 0.5]])
    student = teacher.clone().requires_grad_()
    LOGIT[name].function(student, teacher, 2.0).sum().backward()
    torch.testing.assert_close(student.grad, torch.zeros(1, 3), atol=1e-6, rtol=0)


def test_shapes_are_checked_in_tests() -> None:
    with pytest.raises(TypeCheckError):
        hidden_mean(torch.zeros(2, 2, 3, 4), torch.zeros(2, 2, 3, 5), REAL)


def test_binary_cross_entropy_of_one_number_from_0_to_1() -> None:
    found = binary_cross_entropy(torch.zeros(3, 1), torch.tensor([0.25, math.nan, 1.0]))
    assert found.tolist() == pytest.approx([math.log(2), 0, math.log(2)])


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_binary_cross_entropy_by_its_formula(temperature: float) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 3, generator=draw, dtype=torch.double) for _ in range(2))
    wanted = []
    for own, other in zip(student.tolist(), teacher.tolist(), strict=True):
        total = 0.0
        for s, t in zip(own, other, strict=True):
            p, q = (1 / (1 + math.exp(-logit / temperature)) for logit in (s, t))
            total -= q * math.log(p) + (1 - q) * math.log(1 - p)
        wanted.append(total / 3 * temperature**2)
    found = soft_binary_cross_entropy(student, teacher, temperature)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.double))


def test_soft_binary_cross_entropy_has_its_least_value_at_the_teacher() -> None:
    teacher = torch.tensor([[1.5, -0.5]])
    student = teacher.clone().requires_grad_()
    soft_binary_cross_entropy(student, teacher).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-7


def relations_by_hand(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> list[float]:
    """Loops over everything, in the words of the paper."""
    losses = []
    for example, real in enumerate(mask):
        total = 0.0
        for kind in range(3):
            chances = []
            for side in (student, teacher):
                joined = side[kind, example].transpose(0, 1).flatten(1)[real]  # real tokens, width
                parts = joined.chunk(heads, dim=1)
                chances.append([(a @ a.T / a.shape[1] ** 0.5).softmax(-1) for a in parts])
            for own, wanted in zip(*chances, strict=True):
                divergence = (wanted * (wanted / own).log()).sum(-1)
                total += float(divergence.mean()) / heads
        losses.append(total)
    return losses


def test_relations_are_those_of_the_paper_whatever_the_heads_and_widths() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 2, 2, 4, 6, generator=generator)
    teacher = torch.randn(3, 2, 3, 4, 8, generator=generator)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    wanted = relations_by_hand(student, teacher, mask, 4)
    found = relation_kl(student, teacher, mask, 4)
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)
    assert min(wanted) > 0.1
    student[:, 1, :, 2:] = 99.0  # at padding
    assert relation_kl(student, teacher, mask, 4)[1] == found[1]


def test_relations_of_equal_sides_are_zero_and_have_a_finite_gradient() -> None:
    own = torch.randn(3, 1, 2, 3, 4).requires_grad_()
    mask = torch.tensor([[True, True, False]])
    loss = relation_kl(own, own.detach(), mask, 2)
    assert loss.tolist() == [0]
    (gradient,) = torch.autograd.grad(loss.sum(), own)
    assert gradient.isfinite().all()


def test_a_width_that_relation_heads_do_not_divide_is_named() -> None:
    sides = torch.ones(3, 1, 2, 3, 5)
    with pytest.raises(ModelError, match="a model is 10 wide, which cannot be split into 4"):
        relation_kl(sides, sides, torch.ones(1, 3, dtype=torch.bool), 4)
