"""Mixes: equations (1) and (2), at their corners, at their start, and learned to a known answer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from layermix.config import MixConfig
from layermix.core.mixing import (
    MIXES,
    FixedMix,
    MixPlan,
    SoftmaxMix,
    build_mix,
    near_one_to_one,
    plan_mix,
)
from layermix.errors import ConfigError, ModelError

STUDENT = torch.zeros(3, 2, 4, 5)
MASK = torch.ones(2, 4, dtype=torch.bool)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def teacher(layers: int = 4) -> Tensor:
    return torch.randn(layers, 2, 4, 5, generator=generator())


def softmax_at(logits: Tensor) -> SoftmaxMix:
    mix = SoftmaxMix(torch.full(logits.shape, 1 / logits.shape[1]))
    with torch.no_grad():
        mix.logits.copy_(logits)
    return mix


def test_a_fixed_mix_is_equation_1() -> None:
    weights = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]])
    layers = teacher()
    mixture = FixedMix(weights)(STUDENT, layers, MASK)
    torch.testing.assert_close(mixture.targets[0], layers[1])
    torch.testing.assert_close(mixture.targets[1], layers[0] / 4 + layers[1] / 4 + layers[2] / 2)
    torch.testing.assert_close(mixture.targets[2], layers[3])
    torch.testing.assert_close(mixture.entropy, torch.tensor([0.0, 1.5 * math.log(2), 0.0]))


def test_a_fixed_mix_keeps_its_own_weights() -> None:
    weights = torch.eye(3)
    mix = FixedMix(weights)
    weights.zero_()
    assert mix.alpha.equal(torch.eye(3))
    assert list(mix.parameters()) == []


def test_weights_by_hand_stand_in_place_of_the_map_or_begin_a_learned_mix() -> None:
    rows = ((0.9, 0.1), (0.33, 0.66))  # the second one typed with few digits
    expected = torch.tensor([[0.9, 0.1], [1 / 3, 2 / 3]])
    for strategy in ("fixed", "learned"):
        config = MixConfig(strategy=strategy, weights=rows)
        mix = build_mix(config, MixPlan(strategy, (0, 1), (1, 3)), generator())
        found = mix(STUDENT[:2], teacher(2), MASK).alpha
        torch.testing.assert_close(found.detach(), expected)
    plan = MixPlan("fixed", (0, 1, 2), (1, 3))
    with pytest.raises(
        ConfigError, match=r"has 2 rows of 2 numbers, wanted 3 rows \(student layers"
    ):
        build_mix(MixConfig(strategy="fixed", weights=rows), plan, generator())


def test_a_one_hot_softmax_is_the_fixed_mix() -> None:
    hot = nn.functional.one_hot(torch.tensor([1, 3, 2]), 4).float()
    learned = softmax_at(hot * 2000 - 1000)(STUDENT, teacher(), MASK)
    mix = FixedMix(hot)
    assert mix.used == (1, 2, 3)
    fixed = mix(STUDENT, teacher()[1:], MASK)
    assert learned.alpha.equal(fixed.alpha)
    assert learned.targets.equal(fixed.targets)
    assert learned.entropy.equal(fixed.entropy)


def test_a_softmax_at_0_is_the_uniform_mix() -> None:
    learned = softmax_at(torch.zeros(3, 4))(STUDENT, teacher(), MASK)
    uniform = FixedMix(torch.full((3, 4), 0.25))(STUDENT, teacher(), MASK)
    torch.testing.assert_close(learned, uniform)


@pytest.mark.parametrize("corner", [1000.0, -1000.0])
def test_entropy_and_its_gradient_are_finite_at_a_corner(corner: float) -> None:
    logits = torch.zeros(3, 4)
    logits[:, 0] = corner
    mix = softmax_at(logits)
    mixture = mix(STUDENT, teacher(), MASK)
    mixture.entropy.sum().backward()
    assert mix.logits.grad is not None
    assert mix.logits.grad.isfinite().all()
    expected = 0.0 if corner > 0 else math.log(3)
    torch.testing.assert_close(mixture.entropy, torch.full((3,), expected))


@given(
    students=st.integers(1, 6),
    teachers=st.integers(1, 64),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1000.0]),
)
def test_learned_weights_are_a_distribution_whatever_the_logits(
    students: int, teachers: int, scale: float
) -> None:
    logits = torch.randn(students, teachers, generator=generator()) * scale
    student, layers = torch.zeros(students, 1, 1, 1), torch.ones(teachers, 1, 1, 1)
    mixture = softmax_at(logits)(student, layers, torch.ones(1, 1, dtype=torch.bool))
    assert (mixture.alpha >= 0).all()
    torch.testing.assert_close(mixture.alpha.sum(-1), torch.ones(students))
    assert (mixture.entropy >= 0).all()
    assert (mixture.entropy <= math.log(teachers) + 1e-5).all()


def test_equal_layers_leave_the_weights_nothing_to_learn() -> None:
    same = teacher(1).expand(4, -1, -1, -1)
    mix = softmax_at(torch.randn(3, 4, generator=generator()))
    mixture = mix(STUDENT, same, MASK)
    torch.testing.assert_close(mixture.targets, same[:3])
    mixture.targets.square().sum().backward()
    assert mix.logits.grad is not None
    torch.testing.assert_close(mix.logits.grad, torch.zeros(3, 4), atol=1e-4, rtol=0)


def test_one_layer_is_taught_as_it_is() -> None:
    mix = build_mix(MixConfig(), plan_mix(MixConfig(), 3, 1), generator())
    mixture = mix(STUDENT, teacher(1), MASK)
    torch.testing.assert_close(mixture.targets, teacher(1).expand(3, -1, -1, -1))
    assert mixture.entropy.tolist() == [0, 0, 0]


def test_half_precision_signals_are_mixed_in_float32() -> None:
    mixture = FixedMix(torch.full((1, 3), 1 / 3))(STUDENT[:1], teacher(3).bfloat16(), MASK)
    assert mixture.targets.dtype == torch.float32


def test_a_learned_mix_finds_the_layer_that_the_student_equals() -> None:
    layers = torch.randn(6, 8, 5, 16, generator=generator())
    student = layers[[3]]
    mask = torch.ones(8, 5, dtype=torch.bool)
    mix = SoftmaxMix(torch.full((1, 6), 1 / 6))
    optimizer = torch.optim.AdamW(mix.parameters(), lr=0.2, weight_decay=0)
    for _ in range(400):
        optimizer.zero_grad()
        (mix(student, layers, mask).targets - student).square().mean().backward()
        optimizer.step()
    weights = mix(student, layers, mask).alpha[0]
    assert weights[3] > 0.99


def test_a_learned_mix_starts_uniform_with_logits_0_or_near_fixed() -> None:
    plan = MixPlan("learned", (0, 1), (1, 3, 5, 7))
    uniform = build_mix(MixConfig(), plan, generator())
    assert isinstance(uniform, SoftmaxMix)
    assert uniform.logits.abs().max() < 1e-6
    diagonal = build_mix(MixConfig(start="diagonal"), plan, generator())
    assert isinstance(diagonal, SoftmaxMix)
    third = 0.1 / 3
    torch.testing.assert_close(
        diagonal.logits.softmax(-1),
        torch.tensor([[third, 0.9, third, third], [third, third, third, 0.9]]),
    )
    assert near_one_to_one(2, 1, generator()).tolist() == [[1], [1]]


def test_a_random_mix_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    plan = MixPlan("random", (0, 1), (1, 3, 5))
    first, again = (build_mix(MixConfig(), plan, generator()) for _ in range(2))
    other = build_mix(MixConfig(), plan, torch.Generator().manual_seed(1))
    assert isinstance(first, FixedMix)
    assert first.alpha.equal(again.alpha)
    assert not first.alpha.equal(other.alpha)
    assert not first.alpha[0].equal(first.alpha[1])


def test_named_maps() -> None:
    plan = MixPlan("", (0, 1, 2), (1, 3, 5))
    found = {name: row.start(3, 3, generator()).argmax(-1).tolist() for name, row in MIXES.items()}
    assert len(plan.student_layers) == 3
    assert found["fixed"] == [0, 1, 2]
    assert found["reverse"] == [2, 1, 0]
    assert found["all_to_one"] == found["last_only"] == [2, 2, 2]


def test_the_plan_takes_the_last_layer_of_each_group_by_default() -> None:
    assert plan_mix(MixConfig(), 4, 12).teacher_layers == (2, 5, 8, 11)
    assert plan_mix(MixConfig(), 3, 6) == MixPlan("learned", (0, 1, 2), (1, 3, 5))
    more_students_than_teachers = plan_mix(MixConfig(), 6, 2)
    assert more_students_than_teachers.teacher_layers == (0, 1)


def test_the_plan_takes_the_layers_of_the_config_and_their_order() -> None:
    config = MixConfig(teacher_layers=(8, 2), student_layers=(3, 1))
    assert plan_mix(config, 4, 12) == MixPlan("learned", (3, 1), (8, 2))


def test_last_only_teaches_the_last_student_layer_the_last_teacher_layer() -> None:
    config = MixConfig(strategy="last_only")
    plan = plan_mix(config, 4, 12)
    assert plan == MixPlan("last_only", (3,), (2, 5, 8, 11))
    mix = build_mix(config, plan, generator())
    assert isinstance(mix, FixedMix)
    assert mix.alpha.tolist() == [[0, 0, 0, 1]]


def test_reverse_needs_as_many_teacher_as_student_layers() -> None:
    config = MixConfig(strategy="reverse", teacher_layers=(1, 3))
    with pytest.raises(ConfigError) as caught:
        build_mix(config, plan_mix(config, 3, 6), generator())
    assert str(caught.value) == (
        "mix.strategy reverse needs as many teacher as student layers, found 2 and 3; "
        "set mix.teacher_layers or mix.student_layers"
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MixConfig(teacher_layers=(12,)), "the teacher has 12 blocks, numbered 0 to 11"),
        (MixConfig(student_layers=(4,)), "the student has 4 blocks, numbered 0 to 3"),
    ],
)
def test_a_layer_out_of_range_is_told(config: MixConfig, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        plan_mix(config, 4, 12)


def test_a_row_of_the_table_says_whether_its_mix_learns() -> None:
    assert [name for name, row in MIXES.items() if row.learns] == ["learned"]
