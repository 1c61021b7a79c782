"""A student that starts from its narrowed teacher: what stays, what is exact, what is refused."""

import copy
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertTokenizer, MPNetConfig, MPNetForSequenceClassification

from layermix.core.signals import Needs
from layermix.core.terms import ForwardPass
from layermix.data.texts import TextData, from_splits
from layermix.errors import ModelError
from layermix.models import narrowing
from layermix.models.encoder import Classifier, HFEncoder, fingerprint
from layermix.models.narrowing import (
    LastStates,
    check_narrowable,
    importance,
    narrow_encoder,
    narrow_student,
)
from layermix.models.students import copy_blocks, fresh_student
from layermix.problems.regression import REGRESSION

from .conftest import Bert

HALF = {"hidden": 8, "heads": 1, "ffn": 12}
BLOCKS = Needs((0, 1))


@pytest.fixture
def data(texts: Any) -> TextData:
    made: TextData = texts(40, 12)
    return made


@pytest.fixture
def teacher(bert: Bert, tokenizer: BertTokenizer) -> Classifier:
    return Classifier(bert(4).eval(), tokenizer, "teacher")


@pytest.fixture
def lines(data: TextData) -> list[str]:
    return list(data.splits["train"]["text"])


def batch(teacher: Classifier, data: TextData) -> dict[str, Tensor]:
    lines = list(data.splits["validation"]["text"])
    return dict(teacher.tokenizer(lines, padding=True, return_tensors="pt"))


def seen(classifier: Classifier, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The logits, and the hidden states of the real tokens by block, (L, N, d)."""
    with torch.no_grad():
        signal = HFEncoder(classifier.model.eval())(rows, BLOCKS)
    assert signal.hidden is not None
    return signal.logits, signal.hidden[:, signal.mask]


def switch_off(teacher: Classifier, off: list[list[int]]) -> None:
    """Units of each block that nothing reads."""
    with torch.no_grad():
        for block, units in zip(teacher.model.bert.encoder.layer, off, strict=True):
            block.output.dense.weight[:, units] = 0


# -- what is exact --


@pytest.mark.parametrize("spread", [False, True])
def test_nothing_narrowed_is_a_copy_of_the_blocks(
    teacher: Classifier, data: TextData, spread: bool
) -> None:
    sizes = {"hidden": 16, "heads": 2, "ffn": 32}
    before = fingerprint(teacher.model)
    student = narrow_student(teacher, data, 2, sizes, spread=spread)
    copied = copy_blocks(teacher, 2, spread=spread)
    rows = batch(teacher, data)
    for own, other in zip(seen(student, rows), seen(copied, rows), strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(student.widening, torch.eye(16), atol=1e-5, rtol=0)
    assert student.start == {
        "kind": "narrowed",
        "from": "teacher",
        "blocks": [1, 3] if spread else [0, 1],
        **sizes,
    }
    (note,) = student.notes
    assert (note.code, note.text) == (
        "narrowed",
        f"the student starts from the teacher's blocks {'1, 3' if spread else '0, 1'} with 16 of "
        "16 coordinates, 2 of 2 heads, 32 of 32 feed-forward units; its hidden states give 100% of "
        "the variance of the whole ones'",
    )
    assert fingerprint(teacher.model) == before
    assert not teacher.model.training


def test_units_that_nothing_reads_go_first(teacher: Classifier, data: TextData) -> None:
    off = [np.random.default_rng(block).permutation(32)[:20].tolist() for block in range(4)]
    switch_off(teacher, off)
    student = narrow_student(teacher, data, None, {"ffn": 12})
    assert len(student.model.bert.encoder.layer) == 4
    for own, block, gone in zip(
        student.model.bert.encoder.layer, teacher.model.bert.encoder.layer, off, strict=True
    ):
        kept = sorted(set(range(32)) - set(gone))
        torch.testing.assert_close(
            own.intermediate.dense.weight, block.intermediate.dense.weight[kept], atol=1e-5, rtol=0
        )
    rows = batch(teacher, data)
    torch.testing.assert_close(seen(student, rows)[0], seen(teacher, rows)[0], atol=1e-5, rtol=0)


def test_without_labels_what_the_last_states_depend_on_stays(
    teacher: Classifier, lines: list[str]
) -> None:
    off = [np.random.default_rng(block).permutation(32)[:20].tolist() for block in range(4)]
    switch_off(teacher, off)
    torch.nn.init.zeros_(teacher.model.classifier.weight)  # its answers say nothing
    student = narrow_encoder(teacher, lines, None, {"ffn": 12}, max_length=12)
    for own, block, gone in zip(
        student.model.bert.encoder.layer, teacher.model.bert.encoder.layer, off, strict=True
    ):
        kept = sorted(set(range(32)) - set(gone))
        torch.testing.assert_close(
            own.intermediate.dense.weight, block.intermediate.dense.weight[kept], atol=1e-5, rtol=0
        )
    rows = dict(teacher.tokenizer(lines, padding=True, return_tensors="pt"))
    torch.testing.assert_close(seen(student, rows)[1], seen(teacher, rows)[1], atol=1e-4, rtol=0)
    again = narrow_encoder(teacher, lines, None, {"ffn": 12}, max_length=12)
    assert fingerprint(again.model) == fingerprint(student.model)


def test_a_random_direction_measures_how_far_the_states_move(
    teacher: Classifier, lines: list[str]
) -> None:
    """The mean of its squared derivative by a mask is the squared norm of that of the states."""
    rows = dict(teacher.tokenizer(lines[:1], return_tensors="pt"))
    encoder, term = HFEncoder(teacher.model.eval()), LastStates(3)
    dense = teacher.model.bert.encoder.layer[2].output.dense
    mask = torch.ones((), requires_grad=True)

    def masked(module: torch.nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        one = torch.zeros(args[0].shape[-1])
        one[5] = 1
        return (args[0] * (1 + (mask - 1) * one),)

    with ExitStack() as hooks:
        hooks.callback(dense.register_forward_pre_hook(masked).remove)
        signal = encoder(rows, term.asks(None).student)
        assert signal.hidden is not None
        states = signal.hidden[0].flatten()
        exact = sum(
            float(torch.autograd.grad(one, mask, retain_graph=True)[0]) ** 2 for one in states
        )
        drawn = [
            float(
                torch.autograd.grad(term(ForwardPass(rows, signal)).sum(), mask, retain_graph=True)[
                    0
                ]
            )
            for _ in range(2000)
        ]
    assert np.square(drawn).mean() == pytest.approx(exact, rel=0.15)


def padded(small: Classifier, live_head: int) -> Classifier:
    """A classifier of twice the width that computes the same: its other half is zero.

    What writes into the stream is without mean, so that norms over twice the width differ by a
    factor alone.
    """
    wide = fresh_student(small, 0, None, {"hidden": 16, "heads": 2, "ffn": 32})
    model, own = wide.model.eval(), dict(small.model.named_parameters())
    live = torch.arange(8, 16)
    of_heads = torch.arange(8) + 8 * live_head
    with torch.no_grad():
        for name, weight in model.named_parameters():
            value, places = own[name], []
            for axis, size in enumerate(value.shape):
                inner = any(part in name for part in ("query", "key", "value"))
                heads = (inner and axis == 0) or ("attention.output.dense" in name and axis == 1)
                if size == weight.shape[axis]:
                    places.append(torch.arange(size))
                elif size == 8:
                    places.append(of_heads if heads else live)
                else:
                    places.append(torch.arange(16, 32))
            weight.zero_()
            weight[torch.meshgrid(*places, indexing="ij")] = value
            if "LayerNorm.weight" in name:
                weight.mul_(0.5**0.5)
    return wide


def without_means(small: Classifier) -> None:
    """Takes the mean out of all that is written into the stream, and makes all norms' scale 1."""
    with torch.no_grad():
        for name, weight in small.model.named_parameters():
            if "LayerNorm.weight" in name:
                weight.fill_(1)
            elif "embeddings" in name and weight.ndim == 2:
                weight.sub_(weight.mean(1, keepdim=True))
            elif "output" in name or name.endswith("LayerNorm.bias"):
                weight.sub_(weight.mean(0))


@pytest.mark.parametrize("live_head", [0, 1])
def test_of_a_teacher_that_is_half_zero_the_other_half_stays(
    bert: Bert, tokenizer: BertTokenizer, data: TextData, live_head: int
) -> None:
    plain = Classifier(bert(2), tokenizer, "plain")
    small = fresh_student(plain, 3, None, {"hidden": 8, "heads": 1, "ffn": 16})
    without_means(small)
    teacher = padded(small, live_head)
    rows = batch(teacher, data)
    logits, hidden = seen(teacher, rows)
    torch.testing.assert_close(seen(small, rows)[0], logits, atol=1e-5, rtol=0)
    student = narrow_student(teacher, data, None, {"hidden": 8, "heads": 1, "ffn": 16})
    own_logits, own_hidden = seen(student, rows)
    torch.testing.assert_close(own_logits, logits, atol=1e-3, rtol=0)
    assert student.widening is not None
    torch.testing.assert_close(own_hidden @ student.widening.T, hidden, atol=1e-3, rtol=0)
    assert hidden[..., 8:].abs().max() > 1


def test_a_narrow_student_is_nearer_to_its_teacher_than_a_fresh_one(
    teacher: Classifier, data: TextData
) -> None:
    rows = batch(teacher, data)
    whole = seen(copy_blocks(teacher, 2), rows)[1]
    narrow = narrow_student(teacher, data, 2, HALF)
    assert narrow.widening is not None
    left = (whole - seen(narrow, rows)[1] @ narrow.widening.T).square().mean()
    fresh = seen(fresh_student(teacher, 0, 2, HALF), rows)[1]
    best = torch.linalg.lstsq(fresh.flatten(0, 1), whole.flatten(0, 1)).solution
    assert left < 0.7 * (whole - fresh @ best).square().mean()


# -- which parts stay --


def test_importance_is_what_a_mask_changes(teacher: Classifier, data: TextData) -> None:
    """The derivative by a mask of each head and unit, example by example, by differences."""
    teacher = Classifier(copy.deepcopy(teacher.model).double(), teacher.tokenizer, "teacher")
    (rows,) = narrowing._batches(teacher, data, None)[:1]
    rows = {name: value[:3] for name, value in rows.items()}
    problem = data.problem
    term = problem.supervised_term(narrowing.LabelLossConfig(), 1.0, np.zeros(1), ("a", "b"))
    found = importance(teacher, [rows], problem, term)
    model: Any = teacher.model
    block = model.bert.encoder.layer[2]

    def losses() -> Tensor:
        with torch.no_grad():
            logits = model(**{name: rows[name] for name in ("input_ids", "attention_mask")}).logits
        return torch.nn.functional.cross_entropy(logits, rows["labels"], reduction="none")

    def slopes(weight: Tensor, columns: slice) -> Tensor:
        kept, sides = weight.detach().clone(), []
        for share in (1.0001, 0.9999):
            with torch.no_grad():
                weight[:, columns] = kept[:, columns] * share
            sides.append(losses())
            with torch.no_grad():
                weight.copy_(kept)
        return (sides[0] - sides[1]) / 0.0002

    for head in range(2):
        by_hand = slopes(block.attention.output.dense.weight, slice(8 * head, 8 * head + 8))
        assert found.heads[2, head] == pytest.approx(float(by_hand.abs().sum()), rel=1e-4)
    for unit in (0, 31):
        by_hand = slopes(block.output.dense.weight, slice(unit, unit + 1))
        assert found.units[2, unit] == pytest.approx(float(by_hand.abs().sum()), rel=1e-4)
    by_hand = slopes(model.classifier.weight, slice(5, 6))
    assert found.pooled is not None
    assert found.pooled[5] == pytest.approx(float(by_hand.abs().sum()), rel=1e-4)


def test_the_same_texts_give_the_same_bits(teacher: Classifier, data: TextData) -> None:
    state = torch.random.get_rng_state()
    first, second = (narrow_student(teacher, data, 2, HALF) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert fingerprint(first.model) == fingerprint(second.model)
    assert first.widening is not None
    assert second.widening is not None
    assert first.widening.equal(second.widening)


def test_a_frozen_teacher_gives_the_same(teacher: Classifier, data: TextData) -> None:
    free = narrow_student(teacher, data, 2, HALF)
    teacher.model.requires_grad_(False)
    assert fingerprint(narrow_student(teacher, data, 2, HALF).model) == fingerprint(free.model)


def test_rows_without_labels_count_with_the_teachers_answers(
    teacher: Classifier, texts: Any
) -> None:
    labelled = texts(20, 6)
    lines = list(labelled.splits["train"]["text"])
    rows = dict(teacher.tokenizer(lines, padding=True, return_tensors="pt"))
    with torch.no_grad():
        logits = HFEncoder(teacher.model)(rows).logits
        teacher.model.classifier.bias[0] += (logits[:, 1] - logits[:, 0]).median()
        answers = HFEncoder(teacher.model)(rows).logits.argmax(-1).tolist()
    assert len(set(answers)) == 2

    def made(labels: list[Any]) -> TextData:
        train = [{"text": text, "label": one} for text, one in zip(lines, labels, strict=True)]
        validation = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
        return from_splits({"train": train, "validation": validation})

    def without(data: TextData) -> TextData:
        train = data.splits["train"]
        splits = {
            "train": train.map(lambda _: {"label": -100}),
            **{name: rows for name, rows in data.splits.items() if name != "train"},
        }
        return TextData(**{**vars(data), "splits": splits})

    answered = narrow_student(teacher, made(answers), 2, HALF)
    silent = narrow_student(teacher, without(made(answers)), 2, HALF)
    assert fingerprint(answered.model) == fingerprint(silent.model)


def test_without_a_loss_nothing_can_be_chosen(bert: Bert, tokenizer: BertTokenizer) -> None:
    """A number that the teacher answers itself has no error."""
    model = bert(2)
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    number = Classifier(type(model)(config).eval(), tokenizer, "number")
    rows = dict(tokenizer(["a b", "c"], padding=True, return_tensors="pt"))
    rows["labels"] = torch.full((2,), torch.nan)
    term = REGRESSION.supervised_term(narrowing.LabelLossConfig(), 1.0, np.zeros(1), ("score",))
    with pytest.raises(ModelError, match="number: no head or unit changes the loss on the rows"):
        importance(number, [rows], REGRESSION, term)


# -- what is refused --


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        (
            {"hidden": 8},
            "hidden 8 with heads 2 makes heads of another size than the teacher's 8 coordinates: "
            "give heads 1, or hidden 16;",
        ),
        ({"heads": 1}, "hidden 16 with heads 1 makes .*: give heads 2, or hidden 8;"),
        (
            {"hidden": 12, "ffn": 40},
            "ffn is 40, and the teacher has 32: give at most that; hidden is 12, and heads of the "
            "teacher's size have 8 coordinates: give a multiple of that, such as hidden 8 with "
            "heads 1; or use --student.start random",
        ),
        ({"hidden": 4}, "such as hidden 8 with heads 1;"),
    ],
)
def test_sizes_that_do_not_fit_are_all_named(
    teacher: Classifier, sizes: dict[str, int], told: str
) -> None:
    with pytest.raises(ModelError, match=f"cannot be narrowed to these sizes: .*{told}|{told}"):
        check_narrowable(teacher.model, sizes)


def test_a_family_that_cannot_be_narrowed_is_told_which_can() -> None:
    with torch.random.fork_rng():
        model = MPNetForSequenceClassification(
            MPNetConfig(
                vocab_size=9,
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=8,
            )
        )
    with pytest.raises(ModelError) as caught:
        check_narrowable(model, HALF)
    assert str(caught.value) == (
        "a MPNetForSequenceClassification cannot be narrowed; wanted a teacher of the families "
        "bert, roberta, xlm-roberta, electra, distilbert. Use --student.start random, or "
        "--student.layers alone, which copies its blocks"
    )


def test_long_texts_are_fewer(teacher: Classifier, texts: Any, monkeypatch: Any) -> None:
    data = texts(40, 12)
    lengths = [2 + len(line.split()) for line in data.splits["train"]["text"]]
    for most, wanted in ((sum(lengths[:7]), 7), (sum(lengths[:7]) - 1, 6), (1, 1), (10**6, 40)):
        monkeypatch.setattr(narrowing, "TOKENS", most)
        batches = narrowing._batches(teacher, data, None)
        assert sum(len(rows["input_ids"]) for rows in batches) == wanted
    monkeypatch.setattr(narrowing, "ROWS", 5)
    (rows,) = narrowing._batches(teacher, data, None)
    assert len(rows["input_ids"]) == 5
