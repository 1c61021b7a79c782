"""The tables: their names are the config's, every row keeps its promise, every option matters."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification, BertTokenizer

from layermix.config import (
    AttentionReduction,
    HiddenReduction,
    LogitLoss,
    LossConfig,
    MixConfig,
    MixName,
    ProblemName,
    SupervisedLoss,
)
from layermix.core.losses import ATTENTION, HIDDEN, IGNORED, LOGIT, SUPERVISED
from layermix.core.mixing import MIXES, MixPlan, build_mix, plan_mix
from layermix.core.objective import build_objective
from layermix.core.trainer import DistillTrainer
from layermix.data.texts import TextData
from layermix.data.tokenization import Collator, tokenize
from layermix.errors import ConfigError
from layermix.models.encoder import HFEncoder
from layermix.models.live_teacher import LiveTeacher
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.kinds import PROBLEMS

from ..tiny_configs import whole


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (MixName, MIXES),
        (HiddenReduction, HIDDEN),
        (AttentionReduction, ATTENTION),
        (LogitLoss, LOGIT),
        (SupervisedLoss, SUPERVISED),
    ],
)
def test_the_config_offers_what_the_table_holds(names: Any, table: dict[str, Any]) -> None:
    assert get_args(names) == tuple(table)
    for name, row in table.items():
        assert row.summary, name
        assert row.paper, name


def test_the_config_offers_the_kinds_of_label() -> None:
    assert get_args(ProblemName) == tuple(PROBLEMS)
    for problem in PROBLEMS.values():
        assert problem.supervised in SUPERVISED
        assert set(problem.soft_losses) <= set(problem.logit_losses) <= set(LOGIT)
        assert {*problem.default_scores, *problem.calibrated_scores} <= {*problem.higher_is_better}


# -- mixes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["uniform", "diagonal"])
@pytest.mark.parametrize("name", MIXES)
def test_a_mix_gives_a_distribution_for_any_numbers_of_layers(name: str, start: str) -> None:
    config = MixConfig.model_validate({"strategy": name, "start": start})
    for students in (1, 2, 3, 4, 7):
        for teachers in (1, 2, 3, 6, 12):
            plan = MixPlan(name, tuple(range(students)), tuple(range(teachers)))
            generator = torch.Generator().manual_seed(0)
            if name == "reverse" and students != teachers:
                with pytest.raises(ConfigError, match="reverse needs as many teacher as student"):
                    build_mix(config, plan, generator)
                continue
            mix = build_mix(config, plan, generator)
            projected, layers = torch.zeros(students, 2, 3, 4), torch.randn(teachers, 2, 3, 4)
            mask = torch.ones(2, 3, dtype=torch.bool)
            mixture = mix(projected, layers[list(getattr(mix, "used", range(teachers)))], mask)
            assert mixture.targets.shape == (students, 2, 3, 4)
            assert mixture.alpha.shape == (students, teachers)
            assert mixture.entropy.shape == (students,)
            assert (mixture.alpha >= 0).all()
            torch.testing.assert_close(mixture.alpha.sum(-1), torch.ones(students))
            expected = torch.einsum("kl,lbtd->kbtd", mixture.alpha, layers)
            torch.testing.assert_close(mixture.targets, expected)


@pytest.mark.parametrize("name", MIXES)
def test_a_mix_follows_from_config_and_depths_alone(name: str) -> None:
    plan = plan_mix(MixConfig.model_validate({"strategy": name}), 3, 6)
    assert plan.teacher_layers == (1, 3, 5)
    assert plan.student_layers == ((2,) if name == "last_only" else (0, 1, 2))


# -- losses ----------------------------------------------------------------------------------------

EXAMPLES, CLASSES = 5, 3


def arguments(kind: str, name: str) -> list[Tensor]:
    """Random arguments of a loss; all but the last have examples first, or second for layers."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    mask = torch.arange(4) < torch.tensor([4, 1, 3, 2, 4])[:, None]
    if kind == "attention":
        return [normal(2, EXAMPLES, 3, 4, 4), normal(2, EXAMPLES, 3, 4, 4), mask]
    if kind == "hidden":
        return [normal(2, EXAMPLES, 4, 6), normal(2, EXAMPLES, 4, 6), mask]
    if kind == "logit":
        return [normal(EXAMPLES, CLASSES), normal(EXAMPLES, CLASSES)]
    if name == "cross_entropy":
        return [normal(EXAMPLES, CLASSES), torch.tensor([0, 2, IGNORED, 1, 2])]
    if name == "mse":
        return [normal(EXAMPLES, 1), torch.tensor([0.0, 2.0, torch.nan, 1.0, 2.0])]
    return [normal(EXAMPLES, CLASSES), torch.eye(5, CLASSES).index_fill(0, torch.tensor(2), -100)]


def rows_of(kind: str, values: list[Tensor], order: list[int]) -> list[Tensor]:
    return [value[:, order] if value.ndim > 3 else value[order] for value in values]


TABLES = {"supervised": SUPERVISED, "logit": LOGIT, "hidden": HIDDEN, "attention": ATTENTION}
LAYERED = ("hidden", "attention")  # layers come first, then examples
LOSSES = [(kind, name) for kind, table in TABLES.items() for name in table]
FUNCTIONS: dict[str, dict[str, Callable[..., Tensor]]] = {
    kind: {name: row.function for name, row in table.items()} for kind, table in TABLES.items()
}


@pytest.mark.parametrize(("kind", "name"), LOSSES)
def test_a_loss_gives_one_finite_number_per_example_whatever_their_order(
    kind: str, name: str
) -> None:
    function, values = FUNCTIONS[kind][name], arguments(kind, name)
    found = function(*values)
    assert found.shape == (EXAMPLES,)
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert found.sum() > 0
    order = [3, 0, 4, 2, 1]
    torch.testing.assert_close(function(*rows_of(kind, values, order)), found[order])
    for row in range(EXAMPLES):
        torch.testing.assert_close(function(*rows_of(kind, values, [row])), found[[row]])


@pytest.mark.parametrize(("kind", "name"), LOSSES)
def test_the_gradient_of_an_example_goes_to_that_example(kind: str, name: str) -> None:
    student, *others = arguments(kind, name)
    student.requires_grad_()
    FUNCTIONS[kind][name](student, *others)[1].backward()
    assert student.grad is not None
    by_example = student.grad.movedim(1, 0) if kind in LAYERED else student.grad
    moved = by_example.flatten(1).abs().sum(-1) > 0
    assert moved.tolist() == [False, True, False, False, False]
    if kind == "hidden" and not HIDDEN[name].padding:
        assert student.grad[:, ~others[1]].abs().sum() == 0


# -- every option matters --------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "loss": {"embedding_weight": 0.5, "temperature": 1.5, "attention_weight": 0.5},
    "training": {"learning_rate": 1e-3, "epochs": 1, "batch_size": 4, "warmup": 0},
}
OTHERWISE: dict[str, list[Any]] = {
    "mix.strategy": [name for name in MIXES if name != "learned"],
    "mix.teacher_layers": [[0, 1], [3, 1]],
    "mix.student_layers": [[0], [1], [1, 0]],
    "mix.weights": [[[0.9, 0.1], [0.2, 0.8]]],
    "mix.start": ["diagonal"],
    "mix.learning_rate": [0.01],
    "mix.schedule": ["constant"],
    "loss.class_weights": ["balanced", {"1": 3}],
    "loss.label_smoothing": [0.1],
    "loss.supervised_weight": [0, 2],
    "loss.supervised": ["mse", "bce"],
    "loss.logit_weight": [0, 2],
    "loss.logit": [name for name in LOGIT if name != "soft_cross_entropy"],
    "loss.temperature": [1.0, 3.0],
    "loss.hidden_weight": [0, 2],
    "loss.hidden": [name for name in HIDDEN if name != "mean"],
    "loss.embedding_weight": [0, 2],
    "loss.attention_weight": [0, 2],
    "loss.attention": [name for name in ATTENTION if name != "mean"],
    "loss.attention_heads": ["averaged"],
    "loss.entropy_weight": [0, -0.1, 1],
    "loss.projection": ["per_layer"],
    "loss.projection_bias": [True],
    "loss.projection_start": ["random", "fitted"],
}
OPTIONS = [(name, value) for name, values in OTHERWISE.items() for value in values]
IN_THE_TRAINER = ("mix.learning_rate", "mix.schedule")


def test_every_option_of_mix_and_loss_is_tried() -> None:
    fields = {f"mix.{name}" for name in MixConfig.model_fields}
    fields |= {f"loss.{name}" for name in LossConfig.model_fields}
    assert fields == OTHERWISE.keys()


def with_option(name: str, value: Any) -> dict[str, Any]:
    section, field = name.split(".")
    return BASE | {section: BASE.get(section, {}) | {field: value}}


@pytest.fixture(scope="module")
def first_step(
    bert: Callable[..., BertForSequenceClassification],
    texts: Callable[..., TextData],
    tokenizer: BertTokenizer,
) -> Callable[[dict[str, Any]], dict[str, Tensor]]:
    """Config sections -> the loss and every gradient, on one batch of a real tiny pair."""
    rows = tokenize(texts(8), tokenizer, 16).splits["train"]
    batch = Collator(tokenizer)(list(rows))

    def measure(sections: dict[str, Any]) -> dict[str, Tensor]:
        config = whole(**sections)
        kind = config.loss.supervised or "cross_entropy"
        student, teacher = bert(2, 32, dropout=0, seed=1), HFEncoder(bert(4, 32, seed=2))
        labels = batch["labels"]
        if kind == "mse":  # one number
            labels = labels.float()
            for head in (student, teacher.model):
                head.classifier = nn.Linear(head.classifier.in_features, 1)
                nn.init.ones_(head.classifier.weight)
                nn.init.zeros_(head.classifier.bias)
        if kind == "bce":
            labels = nn.functional.one_hot(labels, 2).float()
        term = None
        if kind == CLASSIFICATION.supervised:
            weight, names = config.loss.supervised_weight, ("0", "1")
            term = CLASSIFICATION.supervised_term(config.loss, weight, labels.numpy(), names)
        objective = build_objective(HFEncoder(student), 4, 32, config, supervised=term)
        signal = LiveTeacher(teacher, objective.teacher_needs)(batch)
        if config.loss.projection_start == "fitted":
            start = objective.projection.matrices[0].weight.clone()
            objective.fit_projection([(batch, signal)])
            assert not objective.projection.matrices[0].weight.equal(start)
        loss = objective({**batch, "labels": labels}, signal).loss
        loss.backward()
        gradients = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
        return {"the loss": loss.detach(), **gradients}

    return measure


@pytest.fixture(scope="module")
def base_step(
    first_step: Callable[[dict[str, Any]], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """The first step of `BASE`, the same every time: so another one differs by its option."""
    base, again = first_step(BASE), first_step(BASE)
    assert base.keys() == again.keys()
    assert all(base[key].equal(again[key]) for key in base)
    return base


@pytest.mark.parametrize(("name", "value"), [o for o in OPTIONS if o[0] not in IN_THE_TRAINER])
def test_an_option_changes_the_loss_or_a_gradient(
    first_step: Callable[[dict[str, Any]], dict[str, Tensor]],
    base_step: dict[str, Tensor],
    name: str,
    value: Any,
) -> None:
    base, other = base_step, first_step(with_option(name, value))
    assert base.keys() != other.keys() or any(
        base[key].shape != other[key].shape or not base[key].allclose(other[key], rtol=1e-4)
        for key in base
    )


@pytest.mark.parametrize(("name", "value"), [o for o in OPTIONS if o[0] in IN_THE_TRAINER])
def test_an_option_of_the_trainer_changes_what_is_learned(
    trainer: Callable[..., DistillTrainer], name: str, value: Any
) -> None:
    base = trainer(folder="base", **BASE)
    other = trainer(folder="other", **with_option(name, value))
    for made in (base, other):
        made.train()
    assert not base.objective.mix.logits.allclose(other.objective.mix.logits, rtol=1e-3)
