"""The objective: what it builds, what it asks for, what it says of itself, and who learns."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layermix.config import LossConfig
from layermix.core.mixing import FixedMix, MixPlan, SoftmaxMix
from layermix.core.objective import (
    Objective,
    Projection,
    build_objective,
    gradient_norms,
    param_groups,
)
from layermix.core.seeds import seeded
from layermix.core.signals import LOGITS_ONLY, Batch, Needs, Signal
from layermix.core.terms import (
    Asks,
    Attention,
    Embedding,
    ForwardPass,
    Hidden,
    Supervised,
    Term,
    terms_of,
)
from layermix.errors import ConfigError, ModelError

from ...tiny_configs import whole

EXAMPLES, TOKENS, DEPTH, TEACHER_DEPTH, NARROW, WIDE, CLASSES = 3, 4, 2, 6, 5, 8, 2


class Student(nn.Module):
    """A tiny encoder: an embedding, a stack of linear blocks, a head."""

    num_layers, hidden_size, num_labels = DEPTH, NARROW, CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, NARROW)
        self.blocks = nn.ModuleList(nn.Linear(NARROW, NARROW) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(NARROW)
        self.head = nn.Linear(NARROW, CLASSES)
        self.asked: Needs | None = None

    def forward(self, batch: Batch, needs: Needs = LOGITS_ONLY) -> Signal:
        self.asked = needs
        embedding = hidden = self.words(batch["input_ids"])
        outputs = [hidden := torch.tanh(block(hidden)) for block in self.blocks]
        return Signal(
            self.head(self.norm(hidden[:, 0])),
            batch["attention_mask"].bool(),
            needs.layers,
            torch.stack([outputs[layer] for layer in needs.layers]) if needs.layers else None,
            embedding if needs.embedding else None,
        )


def objective(**sections: Any) -> Objective:
    torch.manual_seed(0)
    config = whole(**sections)
    return build_objective(Student(), TEACHER_DEPTH, WIDE, config)


def batch(examples: int = EXAMPLES) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(0, 10, (examples, TOKENS), generator=generator),
        "attention_mask": (torch.arange(TOKENS) < 3).long().expand(examples, -1),
        "labels": torch.randint(0, CLASSES, (examples,), generator=generator),
    }


def signal(needs: Needs, examples: int = EXAMPLES) -> Signal:
    generator = torch.Generator().manual_seed(2)
    layers = torch.randn(TEACHER_DEPTH, examples, TOKENS, WIDE, generator=generator)
    embedding = torch.randn(examples, TOKENS, WIDE, generator=generator)
    return Signal(
        torch.randn(examples, CLASSES, generator=generator),
        batch(examples)["attention_mask"].bool(),
        needs.layers,
        layers[list(needs.layers)] if needs.layers else None,
        embedding if needs.embedding else None,
    )


class Norm(Term):
    """A term of one's own that looks at projected states, and compares them with nothing."""

    name, symbol = "norm", "L_norm"

    def asks(self, plan: MixPlan | None) -> Asks:
        return Asks(projected=True)

    def forward(self, given: ForwardPass) -> Tensor:
        assert given.projected is not None
        assert given.teacher is None
        return given.projected.square().mean((0, 2, 3))


CE_ONLY = {"logit_weight": 0, "hidden_weight": 0}
LOGIT_ONLY = {"supervised_weight": 0, "hidden_weight": 0}


@pytest.mark.parametrize("loss", [CE_ONLY, LOGIT_ONLY])
def test_a_term_of_weight_0_builds_nothing_and_asks_for_nothing(loss: dict[str, Any]) -> None:
    made = objective(loss=loss | {"hidden": "tinybert_mean"})
    assert made.teacher_needs == made.student_needs == LOGITS_ONLY
    assert made.mix is made.projection is made.plan is None
    assert {name.split(".")[0] for name, _ in made.named_parameters()} == {"student"}
    made(batch(), signal(LOGITS_ONLY))
    assert made.student.asked == LOGITS_ONLY
    assert made.needs_teacher is (loss is LOGIT_ONLY)


def test_parts_given_for_a_term_of_weight_0_are_let_go() -> None:
    plan = MixPlan("learned", (0,), (1,))
    loss = LossConfig(hidden_weight=0, entropy_weight=0)
    projection = Projection(NARROW, WIDE, 1, loss)
    terms = terms_of(loss, learns_mix=True)
    made = Objective(Student(), terms, plan, SoftmaxMix(torch.ones(1, 1)), projection)
    assert made.mix is made.projection is made.plan is None
    assert made.formula() == "L = 1·L_sup[cross_entropy] + 1·L_logit[soft_cross_entropy]"


def test_terms_ask_for_the_layers_they_look_at() -> None:
    made = objective(mix={"teacher_layers": [5, 0], "student_layers": [1]})
    assert (made.student_needs, made.teacher_needs) == (Needs((1,)), Needs((5, 0)))
    both = objective(loss={"embedding_weight": 1, "hidden": "tinybert_mean"})
    assert both.teacher_needs == Needs((2, 5), embedding=True, padding=True)
    embedding_only = objective(loss={"embedding_weight": 1, "hidden_weight": 0})
    assert embedding_only.teacher_needs == Needs((), embedding=True)
    assert embedding_only.mix is None
    assert embedding_only.projection is not None


def test_attention_is_taught_as_fixed_maps_it_whatever_the_mix() -> None:
    made = objective(loss={"attention_weight": 2})
    assert made.student_needs.attention == (0, 1)
    assert made.teacher_needs.attention == made.plan.teacher_layers == (2, 5)
    mix = {"teacher_layers": [3], "strategy": "uniform"}
    alone = objective(
        mix=mix, loss=CE_ONLY | {"attention_weight": 2, "attention_heads": "averaged"}
    )
    assert alone.teacher_needs == Needs(attention=(3,))
    assert alone.projection is alone.mix is None
    assert alone.formula() == "L = 1·L_sup[cross_entropy] + 2·L_att[mean, heads averaged]"


def test_of_layers_without_any_weight_nothing_is_asked() -> None:
    for strategy, layers in (("fixed", (2, 5)), ("all_to_one", (5,)), ("last_only", (5,))):
        made = objective(mix={"strategy": strategy})
        assert made.teacher_needs == Needs(layers)
        assert made(batch(), signal(made.teacher_needs)).alpha.shape[1] == 2


def test_every_weight_0_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        objective(loss=CE_ONLY | LOGIT_ONLY)
    assert str(caught.value) == (
        "every term of the loss has weight 0, so there is nothing to learn from; set one of "
        "loss.supervised_weight, logit_weight, hidden_weight, embedding_weight, "
        "attention_weight above 0"
    )


def test_a_missing_part_is_told() -> None:
    plan, mix = MixPlan("fixed", (0, 1), (2, 5)), FixedMix(torch.eye(2))
    with pytest.raises(ValueError, match=r"L_hid\[mean\] needs projection, found none"):
        Objective(Student(), [Hidden()], plan, mix)
    with pytest.raises(ValueError, match=r"L_hid\[mean\] needs plan, mix, projection, found none"):
        Objective(Student(), [Supervised(), Hidden()])
    with pytest.raises(ValueError, match=r"L_emb\[mean\] needs projection"):
        Objective(Student(), [Embedding()])
    with pytest.raises(ValueError, match=r"L_att\[mean, heads matched\] compares layers"):
        Objective(Student(), [Attention()])
    with pytest.raises(ValueError, match="two terms have the same name"):
        Objective(Student(), [Supervised(), Supervised()])


def test_a_missing_teacher_is_told_with_the_formula() -> None:
    with pytest.raises(ValueError, match=r"found no teacher signal, wanted one for L = 1·L_sup"):
        objective()(batch())


def test_without_a_teacher_the_supervised_term_stands_alone() -> None:
    output = objective(loss=CE_ONLY)(batch())
    assert list(output.parts) == ["supervised"]
    torch.testing.assert_close(output.loss, output.parts["supervised"] / EXAMPLES)
    assert output.alpha is output.entropy is None


@pytest.mark.parametrize(
    ("sections", "formula"),
    [
        (
            {},
            "L = 1·L_sup[cross_entropy] + 1·L_logit[soft_cross_entropy] + "
            "1·L_hid[mean; learned α over teacher layers [2, 5]] − 0.1·Σ_k H(α_k)",
        ),
        (
            {
                "mix": {"strategy": "fixed"},
                "loss": {
                    "supervised_weight": 0,
                    "logit": "kl",
                    "logit_weight": 0.5,
                    "temperature": 2,
                    "hidden": "token_norm",
                    "embedding_weight": 3,
                },
            },
            "L = 0.5·L_logit[kl, T=2] + 1·L_hid[token_norm; fixed α over teacher layers [2, 5]] + "
            "3·L_emb[token_norm]",
        ),
        (
            {"loss": LOGIT_ONLY | {"hidden_weight": 2, "logit_weight": 0, "entropy_weight": -1}},
            "L = 2·L_hid[mean; learned α over teacher layers [2, 5]] + 1·Σ_k H(α_k)",
        ),
        ({"loss": CE_ONLY}, "L = 1·L_sup[cross_entropy]"),
    ],
)
def test_the_formula_says_what_is_computed(sections: dict[str, Any], formula: str) -> None:
    made = objective(**sections)
    assert made.formula() == formula
    assert formula in repr(made)
    output = made(batch(), signal(made.teacher_needs))
    whole = sum(made.weights[name] * part for name, part in output.parts.items())
    torch.testing.assert_close(output.loss, whole / EXAMPLES)
    assert formula.count("·") == len(output.parts)


def test_output_holds_no_graph_but_the_loss_and_its_terms() -> None:
    made = objective(loss={"embedding_weight": 1})
    output = made(batch(), signal(made.teacher_needs))
    assert output.loss.requires_grad
    others = [*output.parts.values(), output.logits, output.alpha, output.entropy]
    assert not any(tensor.requires_grad for tensor in others)
    assert output.alpha.shape == (2, 2)
    assert output.entropy.shape == (2,)


def test_gradient_norms_are_those_of_each_part_alone() -> None:
    loss = {"logit_weight": 3, "hidden_weight": 0.2, "entropy_weight": 0.5}
    made = objective(loss=loss, training={"precision": "fp32"})
    output = made(batch(), signal(made.teacher_needs))
    norms = gradient_norms(output, made.student)
    assert list(norms) == ["supervised", "logit", "hidden"]
    assert all(one.grad is None for one in made.parameters())
    for name, norm in norms.items():
        made.zero_grad()
        alone = made(batch(), signal(made.teacher_needs)).weighted[name] / EXAMPLES
        alone.backward()
        found = [one.grad for one in made.student.parameters() if one.grad is not None]
        expected = torch.cat([gradient.flatten() for gradient in found]).norm()
        torch.testing.assert_close(norm, expected)
    output.loss.backward()  # the graph is still there


def test_the_sum_over_split_batches_is_the_loss_of_the_whole() -> None:
    made = objective(loss={"hidden": "literal_sum"})
    whole, teacher = batch(5), signal(made.teacher_needs, 5)
    assert teacher.hidden is not None

    def some(rows: slice) -> Tensor:
        part = Signal(
            teacher.logits[rows], teacher.mask[rows], teacher.layers, teacher.hidden[:, rows]
        )
        loss: Tensor = made({name: value[rows] for name, value in whole.items()}, part, 5).loss
        return loss

    torch.testing.assert_close(some(slice(0, 2)) + some(slice(2, 5)), made(whole, teacher).loss)


def test_a_batch_of_one_is_like_any_other() -> None:
    made = objective()
    output = made(batch(1), signal(made.teacher_needs, 1))
    output.loss.backward()
    assert output.loss.isfinite()
    assert made.mix.logits.grad is not None


def test_one_student_layer_and_one_teacher_layer_will_do() -> None:
    made = objective(mix={"student_layers": [0], "teacher_layers": [3]})
    output = made(batch(), signal(made.teacher_needs))
    assert output.alpha.tolist() == [[1]]
    assert output.entropy.tolist() == [0]
    output.loss.backward()
    torch.testing.assert_close(made.mix.logits.grad, torch.zeros(1, 1), atol=1e-6, rtol=0)


def test_one_hot_softmax_is_fixed_and_softmax_at_0_is_uniform_in_loss_and_gradients() -> None:
    no_entropy = {"entropy_weight": 0}
    fixed, uniform, hot, at_0 = (
        objective(mix={"strategy": name}, loss=no_entropy)
        for name in ("fixed", "uniform", "learned", "learned")
    )
    with torch.no_grad():
        hot.mix.logits.copy_(fixed.mix.alpha * 2000 - 1000)
        at_0.mix.logits.zero_()
    for learned, given in ((hot, fixed), (at_0, uniform)):
        for made in (learned, given):
            made(batch(), signal(made.teacher_needs)).loss.backward()
        own = dict(learned.named_parameters())
        for name, parameter in given.named_parameters():
            torch.testing.assert_close(own[name].grad, parameter.grad, msg=name)


@pytest.mark.parametrize("config", ["shared", "per_layer"])
@pytest.mark.parametrize("bias", [False, True])
def test_projections(config: str, bias: bool) -> None:
    made = objective(
        loss={"projection": config, "projection_bias": bias, "embedding_weight": 1}
    ).projection
    assert len(made.matrices) == (1 if config == "shared" else DEPTH + 1)
    assert all((matrix.bias is not None) is bias for matrix in made.matrices)
    hidden = torch.ones(1, 1, 1, NARROW).expand(DEPTH, -1, -1, -1)
    first, second = made(hidden)
    assert first.allclose(second) is (config == "shared")
    assert made.embedding(hidden[0]).allclose(first) is (config == "shared")


@pytest.mark.parametrize("config", ["shared", "per_layer"])
def test_a_projection_between_equal_widths_starts_as_the_identity(config: Any) -> None:
    hidden = torch.randn(2, 3, 4, WIDE)
    for start, same in (("auto", True), ("identity", True), ("random", False)):
        loss = LossConfig(projection=config, projection_bias=True, projection_start=start)
        made = Projection(WIDE, WIDE, 2, loss)
        assert made(hidden).equal(hidden) is same
        assert all(matrix.weight.requires_grad for matrix in made.matrices)


def test_a_projection_between_other_widths_starts_at_random() -> None:
    with seeded(0, "projection"):
        auto = Projection(NARROW, WIDE, 1, LossConfig())
    with seeded(0, "projection"):
        random = Projection(NARROW, WIDE, 1, LossConfig(projection_start="random"))
    assert auto.matrices[0].weight.equal(random.matrices[0].weight)
    with pytest.raises(ConfigError) as caught:
        Projection(NARROW, WIDE, 1, LossConfig(projection_start="identity"))
    assert str(caught.value) == (
        f"loss.projection_start is identity, but the student is {NARROW} wide and the teacher "
        f"{WIDE}; use random, or a student as wide as its teacher"
    )


@pytest.mark.parametrize("config", ["shared", "per_layer"])
def test_a_projection_may_start_as_the_way_back_of_a_narrowed_student(config: Any) -> None:
    widening = torch.randn(WIDE, NARROW)
    hidden = torch.randn(2, 3, 4, NARROW)
    loss = LossConfig(projection=config, projection_bias=True)
    made = Projection(NARROW, WIDE, 2, loss, widening)
    torch.testing.assert_close(made(hidden), hidden @ widening.T)
    assert all(matrix.weight.requires_grad for matrix in made.matrices)
    random = Projection(NARROW, WIDE, 2, LossConfig(projection_start="random"), widening)
    assert not random.matrices[0].weight.equal(widening)
    equal = torch.randn(WIDE, WIDE)
    for start, weight in (("auto", equal), ("identity", torch.eye(WIDE))):
        one = Projection(WIDE, WIDE, 1, LossConfig(projection_start=start), equal)
        assert one.matrices[0].weight.equal(weight)
    message = (
        f"the student was narrowed from a model {WIDE} wide, and the teacher is {WIDE + 2} wide; "
        "give the teacher that it was made from, or set loss.projection_start to random"
    )
    with pytest.raises(ConfigError, match=message):
        Projection(NARROW, WIDE + 2, 1, LossConfig(), widening)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("config", ["shared", "per_layer"])
def test_a_fitted_projection_is_where_nothing_near_it_has_a_lower_loss(
    config: str, bias: bool
) -> None:
    loss = {"projection": config, "projection_bias": bias, "embedding_weight": 1}
    loss |= {"supervised_weight": 0, "logit_weight": 0, "entropy_weight": 0}
    made = objective(loss={**loss, "projection_start": "fitted"}, mix={"strategy": "uniform"})
    needs = made.teacher_needs
    batches = [(batch(size), signal(needs, size)) for size in (16, 9)]

    def total() -> float:
        with torch.no_grad():
            return sum(float(sum(made(*pair).weighted.values())) for pair in batches)

    random = total()
    made.fit_projection(batches)
    fitted = total()
    assert fitted < 0.9 * random
    generator = torch.Generator().manual_seed(3)
    for parameter in made.projection.parameters():
        for _ in range(3):
            step = 0.1 * torch.randn(parameter.shape, generator=generator)
            for sign in (1, -1):
                parameter.data += sign * step
                assert total() > fitted
                parameter.data -= sign * step


def test_a_fitted_projection_finds_a_linear_map_and_ignores_padding() -> None:
    loss = {"projection_start": "fitted", "projection_bias": True}
    made = objective(loss=loss, mix={"strategy": "fixed"})
    true = torch.randn(WIDE, NARROW + 1, generator=torch.Generator().manual_seed(4))
    layers = made.plan.student_layers

    def pair(examples: int) -> tuple[dict[str, Tensor], Signal]:
        inputs = batch(examples)
        with torch.no_grad():
            states = made.student(inputs, Needs(layers)).select(layers)
        targets = states @ true[:, :-1].T + true[:, -1]
        targets[:, :, 3:] = 1e3  # padding
        given = signal(made.teacher_needs, examples)
        return inputs, replace(given, layers=made.mixed_layers, hidden=targets)

    made.train()
    made.fit_projection([pair(200), pair(100)])
    assert made.training
    matrix = made.projection.matrices[0]
    torch.testing.assert_close(matrix.weight.data, true[:, :-1], atol=0.05, rtol=0)
    torch.testing.assert_close(matrix.bias.data, true[:, -1], atol=0.05, rtol=0)


def test_a_projection_is_fitted_without_dropout_and_only_where_it_is_compared() -> None:
    class Dropped(Student):
        def forward(self, batch: Batch, needs: Needs = LOGITS_ONLY) -> Signal:
            assert not self.training
            return super().forward(batch, needs)

    made = objective(loss={"projection_start": "fitted"})
    made.student = Dropped()
    made.train()
    made.fit_projection([(batch(), signal(made.teacher_needs))])

    without = whole(loss={**CE_ONLY, "projection_start": "fitted"})
    own = build_objective(Student(), TEACHER_DEPTH, WIDE, without, terms=[Norm()])
    before = own.projection.matrices[0].weight.clone()
    own.fit_projection([(batch(), None)])
    assert own.projection.matrices[0].weight.equal(before)
    objective(loss=CE_ONLY).fit_projection([])  # no P: nothing to do


def test_modules_keep_their_modes_when_a_projection_is_fitted() -> None:
    made = objective(loss={"projection_start": "fitted"})
    made.train()
    made.student.eval()
    made.fit_projection([(batch(), signal(made.teacher_needs))])
    assert (made.training, made.student.training) == (True, False)
    with pytest.raises(ModelError, match="this signal holds the layers"):
        made.fit_projection([(batch(), signal(Needs()))])
    assert (made.training, made.student.training) == (True, False)
    made.projection = nn.Linear(NARROW, WIDE)
    with pytest.raises(ValueError, match="found a Linear as projection, wanted a Projection"):
        made.fit_projection([])


def test_starts_depend_on_the_seed_alone() -> None:
    torch.manual_seed(7)
    learned = objective(seed=4)
    torch.rand(11)
    others = [objective(seed=4, mix={"strategy": name}) for name in ("fixed", "random", "uniform")]
    for other in others:
        assert other.projection.matrices[0].weight.equal(learned.projection.matrices[0].weight)
    another = objective(seed=5)
    assert not another.projection.matrices[0].weight.equal(learned.projection.matrices[0].weight)


class OwnMix(nn.Module):
    """A mix of a user's own: only its scale is learned, its bias is not."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Any:
        return FixedMix(torch.eye(2))(student, teacher * self.scale, mask)


def test_a_mix_of_ones_own_will_do() -> None:
    loss = LossConfig(entropy_weight=0)
    plan = MixPlan("own", (0, 1), (2, 5))
    terms = terms_of(loss, learns_mix=True)
    made = Objective(Student(), terms, plan, OwnMix(), Projection(NARROW, WIDE, 2, loss))
    made(batch(), signal(made.teacher_needs)).loss.backward()
    assert made.mix.scale.grad is not None
    (mix,) = (group for group in param_groups(made, 1.0, 1.0, 1.0) if group["name"] == "mix")
    assert mix["params"] == [made.mix.scale]


def test_param_groups_hold_every_trained_parameter_once() -> None:
    made = objective(loss={"projection_bias": True})
    made.student.words.weight.requires_grad_(False)
    groups = {group["name"]: group for group in param_groups(made, 1e-3, 0.1, 1e-2)}
    assert list(groups) == ["matrices", "vectors", "mix"]
    held = [id(parameter) for group in groups.values() for parameter in group["params"]]
    trained = [id(parameter) for parameter in made.parameters() if parameter.requires_grad]
    assert sorted(held) == sorted(trained)
    rates = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
    assert rates == {"matrices": (1e-3, 0.1), "vectors": (1e-3, 0.0), "mix": (1e-2, 0.0)}
    assert [id(p) for p in groups["mix"]["params"]] == [id(made.mix.logits)]
    assert all(p.ndim == 1 for p in groups["vectors"]["params"])
    assert id(made.student.norm.weight) in {id(p) for p in groups["vectors"]["params"]}


def test_the_mix_can_be_left_to_another_rule() -> None:
    made = objective()
    assert [group["name"] for group in param_groups(made, 1.0, 1.0, None)] == [
        "matrices",
        "vectors",
    ]


def test_a_mix_or_a_term_of_ones_own_is_built_in() -> None:
    config = whole(loss=CE_ONLY)
    made = build_objective(Student(), TEACHER_DEPTH, WIDE, config, terms=[Norm(0.5)])
    assert made.formula() == "L = 1·L_sup[cross_entropy] + 0.5·L_norm"
    assert not made.needs_teacher
    assert made.mix is None
    assert made(batch()).parts["norm"] > 0
    made = build_objective(Student(), TEACHER_DEPTH, WIDE, whole(), mix=OwnMix())
    assert made.plan.strategy == "OwnMix"
    assert made.teacher_needs == Needs((2, 5))
    with pytest.raises(ConfigError, match="a mix was given, but no term looks at the mixture"):
        build_objective(Student(), TEACHER_DEPTH, WIDE, config, mix=OwnMix())


def test_empty_groups_are_left_out() -> None:
    made = objective(mix={"strategy": "uniform"})
    assert [group["name"] for group in param_groups(made, 1.0, 1.0, 1.0)] == ["matrices", "vectors"]
