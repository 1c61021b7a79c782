"""Each promised family keeps the contract: read right, copied exactly, distilled, loaded again."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    FunnelConfig,
    FunnelForSequenceClassification,
    LongformerConfig,
    LongformerForSequenceClassification,
)

from layermix.config import DistillConfig
from layermix.core.signals import Needs
from layermix.errors import ModelError
from layermix.models.encoder import Classifier, HFEncoder, blocks_of
from layermix.models.loading import load_classifier
from layermix.models.students import copy_blocks, fresh_student, with_dropout
from layermix.runs.pipeline import distill
from layermix.serving.export import write_onnx
from layermix.serving.predictor import OnnxRunner

from .conftest import FAMILIES

PAIRS = (["a b c d e", "f", "g h i"], ["j k", "l m n", "o"])
ALL_LAYERS = Needs((0, 1, 2, 3), embedding=True)


def padded(classifier: Classifier) -> dict[str, Tensor]:
    return dict(classifier.tokenizer(*PAIRS, padding=True, return_tensors="pt"))


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = HFEncoder(model)(batch).logits
    return found


def block_outputs(classifier: Classifier, batch: dict[str, Tensor]) -> Tensor:
    """(L + 1, B, T, D): the embedding output, then each block's."""
    with torch.no_grad():
        signal = HFEncoder(classifier.model)(batch, ALL_LAYERS)
    assert signal.hidden is not None
    assert signal.embedding is not None
    return torch.cat([signal.embedding[None], signal.hidden])


def test_block_outputs_are_the_models_own_hidden_states(family: Any) -> None:
    classifier = family.make()
    batch, model = padded(classifier), classifier.model
    with torch.no_grad():
        theirs = model(**batch, output_hidden_states=True).hidden_states
    ours = block_outputs(classifier, batch)
    if family.name == "modernbert":  # the last one is given after the final norm
        assert not torch.equal(ours[-1], theirs[-1])
        assert torch.equal(model.model.final_norm(ours[-1]), theirs[-1])
        ours, theirs = ours[:-1], theirs[:-1]
    assert len(ours) == len(theirs)
    for number, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.equal(own, other), f"hidden state {number}"


def test_only_the_layers_asked_for_come_in_the_order_asked_for(family: Any) -> None:
    classifier = family.make()
    batch = padded(classifier)
    with torch.no_grad():
        signal = HFEncoder(classifier.model)(batch, Needs((2, 0)))
    assert signal.layers == (2, 0)
    assert signal.embedding is None
    assert torch.equal(signal.hidden, block_outputs(classifier, batch)[[3, 1]])


ATTENTION_OF_ITS_OWN = ("mpnet", "deberta-v2")  # positions go into their scores


def test_attention_scores_are_what_the_family_attends_by(family: Any) -> None:
    classifier = family.make()
    batch, encoder = padded(classifier), HFEncoder(classifier.model)
    with torch.no_grad():
        if family.model_type in ATTENTION_OF_ITS_OWN:
            with pytest.raises(ModelError, match="its attention scores cannot be read"):
                encoder(batch, Needs(attention=(0,)))
            return
        found = encoder(batch, Needs(attention=(2, 0, 2)))
        assert torch.equal(found.logits, encoder(batch).logits)
        query, key, _ = encoder(batch, Needs(qkv=(2,))).select_qkv(2)
        torch.testing.assert_close(query @ key.mT * key.shape[-1] ** -0.5, found.attention[0])
        classifier.model.set_attn_implementation("eager")
        inputs = {name: batch[name] for name in encoder.input_names if name in batch}
        theirs = classifier.model(**inputs, output_attentions=True).attentions
        with pytest.raises(ModelError, match="found 0 calls of torch's attention function"):
            encoder(batch, Needs(attention=(0,)))
    real = batch["attention_mask"].bool()
    for scores, layer in zip(found.attention, (2, 0, 2), strict=True):
        rows = real[:, None, :, None]
        kept = (theirs[layer] > 0) | ~rows  # ModernBERT masks distant tokens, too
        ours = scores.masked_fill(~kept, float("-inf")).softmax(-1)
        torch.testing.assert_close(ours * rows, theirs[layer] * rows, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(family: Any, tmp_path: Path, side: str) -> None:
    made = family.make()
    made.model.save_pretrained(tmp_path)
    made.tokenizer.padding_side = made.tokenizer.init_kwargs["padding_side"] = side
    made.tokenizer.save_pretrained(tmp_path)
    classifier = load_classifier(str(tmp_path))
    assert len(classifier.notes) == (side == "left")
    classifier.tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).padding_side == "right"
    batch = padded(classifier)
    together = logits(classifier.model, batch)
    for row, mask in enumerate(batch["attention_mask"].bool()):
        alone = logits(classifier.model, {k: v[row : row + 1, mask] for k, v in batch.items()})
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


def test_copying_all_blocks_gives_the_teachers_logits(family: Any) -> None:
    teacher = family.make()
    student = copy_blocks(teacher, layers=4)
    assert student.start["blocks"] == [0, 1, 2, 3]
    assert student.notes == ()
    batch = padded(teacher)
    assert torch.equal(logits(student.model.eval(), batch), logits(teacher.model, batch))


@pytest.mark.parametrize("blocks", [(1, 3), (3, 0), (2, 1, 0)], ids=str)
def test_copied_blocks_do_what_the_teachers_do(family: Any, blocks: tuple[int, ...]) -> None:
    teacher = family.make()
    if family.name == "modernbert":  # then a norm right after it does nothing but scale
        nn.init.ones_(teacher.model.model.embeddings.norm.weight)
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    student = copy_blocks(teacher, blocks=blocks)
    after = teacher.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())

    # The teacher itself, with its chosen blocks in a row.
    reference = family.make(num_hidden_layers=len(blocks), **kinds(teacher, blocks)).model
    rest = {name: value for name, value in before.items() if name in reference.state_dict()}
    reference.load_state_dict(rest, strict=False)
    for number, block in enumerate(blocks):
        blocks_of(reference)[number] = moved = blocks_of(teacher.model)[block]
        if family.name == "modernbert" and block == 0:  # it has no norm, but its new place has
            moved.attn_norm = nn.LayerNorm(moved.attn.Wqkv.in_features, bias=False)
    batch = padded(teacher)
    torch.testing.assert_close(
        logits(student.model.eval(), batch), logits(reference, batch), atol=2e-4, rtol=1e-4
    )


def kinds(teacher: Classifier, blocks: tuple[int, ...]) -> dict[str, Any]:
    types = getattr(teacher.model.config, "layer_types", None)
    return {} if types is None else {"layer_types": [types[block] for block in blocks]}


def test_the_longest_input_runs_and_a_longer_one_would_not(family: Any) -> None:
    classifier = family.make()
    assert classifier.max_length == family.longest
    ids = torch.full((1, family.longest + 1), classifier.tokenizer.convert_tokens_to_ids("a"))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits(classifier.model, {name: value[:, 1:] for name, value in batch.items()})
    if family.own_limit:
        with pytest.raises((IndexError, RuntimeError)):
            logits(classifier.model, batch)


def test_a_fresh_student_has_the_sizes_and_the_same_start_for_a_seed(family: Any) -> None:
    teacher = family.make()
    sizes = {"hidden": 8, "heads": 2, "ffn": 12}
    state = torch.random.get_rng_state()
    students = [fresh_student(teacher, seed, 5, sizes) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    encoder = HFEncoder(students[0].model)
    assert (encoder.num_layers, encoder.hidden_size) == (5, 8)
    assert any(12 in value.shape for value in blocks_of(students[0].model).state_dict().values())
    assert students[0].start == {
        "kind": "fresh",
        "family": family.model_type,
        "layers": 5,
        **sizes,
    }
    batch = padded(teacher)
    first, again, other = (logits(student.model.eval(), batch) for student in students)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert teacher.model.config.num_hidden_layers == 4


# -- through distill -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training pairs of letters: does the second text begin as the first?"""
    draw, folder = random.Random(0), tmp_path_factory.mktemp("data")
    for split, rows in (("train", 24), ("validation", 10)):
        lines = []
        for row in range(rows):
            words = draw.sample(ascii_lowercase, k=draw.randint(2, 6))
            same = row % 2
            other = [words[0] if same else words[1], *draw.choices(ascii_lowercase, k=2)]
            label = "same" if same else "different"
            texts = {"text": " ".join(words), "text_pair": " ".join(other)}
            lines.append(json.dumps({**texts, "label": label}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """`saved(classifier, name)`: its folder."""

    def save(classifier: Classifier, name: str) -> str:
        classifier.model.save_pretrained(tmp_path / name)
        classifier.tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


def distilled(teacher: str, student: dict[str, Any], data: Path, out: Path) -> Classifier:
    config = DistillConfig.model_validate(
        {
            "teacher": {"model": teacher, "allow_weak": True},
            "student": student,
            "data": str(data),
            "loss": {"embedding_weight": 1},
            "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "warmup": 0},
        }
    )
    result = distill(config, out)
    assert result.record.status == "ok"
    return result.student


@pytest.mark.parametrize(
    "student",
    [{"blocks": [3, 1]}, {"layers": 3, "hidden": 8, "heads": 2, "ffn": 12}],
    ids=["copied", "fresh"],
)
def test_distill_trains_saves_and_the_saved_student_is_the_trained_one(
    family: Any,
    student: dict[str, Any],
    data: Path,
    saved: Callable[..., str],
    tmp_path: Path,
) -> None:
    teacher = family.make()
    out = tmp_path / "run"
    trained = distilled(saved(teacher, "teacher"), student, data, out)
    tokenizer = AutoTokenizer.from_pretrained(out / "student")
    own_class = "TokenizersBackend" if family.name == "modernbert" else None
    assert type(tokenizer).__name__ == own_class or type(tokenizer) is type(teacher.tokenizer)
    loaded = AutoModelForSequenceClassification.from_pretrained(out / "student")
    batch = dict(tokenizer(*PAIRS, padding=True, return_tensors="pt"))
    assert batch.keys() == padded(teacher).keys()
    assert all(torch.equal(batch[name], value) for name, value in padded(teacher).items())
    before = trained.model.state_dict()
    assert loaded.state_dict().keys() == before.keys()
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, trained.model(**batch).logits)
    assert loaded.config.id2label == {0: "different", 1: "same"}
    if "blocks" in student:
        moved = copy_blocks(teacher, blocks=student["blocks"]).model.state_dict()
        assert any(not torch.equal(before[name], value) for name, value in moved.items())


def test_a_model_of_another_family_is_taken_as_it_is(
    families: dict[str, Any], data: Path, saved: Callable[..., str], tmp_path: Path
) -> None:
    """BERT teaches DistilBERT: the same tokens, of which only BERT is told which text they are."""
    teacher, student = families["bert"].make(), families["distilbert"].make(num_hidden_layers=2)
    folders = saved(teacher, "teacher"), saved(student, "student")
    distilled(folders[0], {"model": folders[1]}, data, tmp_path / "run")
    assert AutoTokenizer.from_pretrained(tmp_path / "run/student").model_input_names == [
        "input_ids",
        "attention_mask",
    ]


# -- the family's own ------------------------------------------------------------------------------


def test_modernbert_blocks_keep_their_kind_of_attention(families: dict[str, Any]) -> None:
    teacher = families["modernbert"].make()
    assert teacher.model.config.layer_types == [
        "full_attention",
        "sliding_attention",
        "sliding_attention",
        "full_attention",
    ]
    student = copy_blocks(teacher, blocks=(1, 3)).model
    assert student.config.layer_types == ["sliding_attention", "full_attention"]
    assert [block.attention_type for block in blocks_of(student)] == student.config.layer_types
    fresh = fresh_student(teacher, 0, 6, {}).model
    assert fresh.config.layer_types == [
        *teacher.model.config.layer_types,
        *teacher.model.config.layer_types[:2],
    ]


@pytest.mark.parametrize("bias", [False, True])
def test_a_modernbert_block_that_comes_first_or_leaves_keeps_what_it_can(
    families: dict[str, Any], bias: bool
) -> None:
    teacher = families["modernbert"].make(norm_bias=bias)
    student = copy_blocks(teacher, blocks=(2, 0))
    first, second = student.notes
    assert (first.code, second.code) == ("attention-norm-folded", "attention-norm-added")
    assert first.text.startswith("block 2 of the teacher has an attention norm, which ModernBERT's")
    assert second.text.startswith("block 0 of the teacher has no attention norm, which ModernBERT")
    assert student.start["notes"] == [first, second]
    theirs, ours = blocks_of(teacher.model), blocks_of(student.model)
    assert torch.equal(
        ours[0].attn.Wqkv.weight, theirs[2].attn.Wqkv.weight * theirs[2].attn_norm.weight
    )
    assert torch.equal(ours[1].attn.Wqkv.weight, theirs[0].attn.Wqkv.weight)
    assert (ours[1].attn_norm.weight == 1).all()
    assert (ours[1].attn_norm.bias is not None) == bias
    assert ours[1].attn_norm.bias is None or (ours[1].attn_norm.bias == 0).all()


def test_albert_is_refused_because_it_shares_one_block() -> None:
    config = AlbertConfig(
        vocab_size=30,
        hidden_size=8,
        embedding_size=8,
        num_attention_heads=2,
        num_hidden_layers=3,
        intermediate_size=8,
    )
    with pytest.raises(ModelError, match="found no lists of 3 blocks in it, wanted one; layermix"):
        HFEncoder(AlbertForSequenceClassification(config))


def test_blocks_that_cannot_be_taken_apart_are_refused(families: dict[str, Any]) -> None:
    """An ALBERT with a group for every layer is a stack, but its config cannot be shortened so."""
    config = AlbertConfig(
        vocab_size=30,
        hidden_size=8,
        embedding_size=8,
        num_attention_heads=2,
        num_hidden_layers=3,
        num_hidden_groups=3,
        intermediate_size=8,
    )
    tokenizer = families["bert"].tokenizer()
    teacher = Classifier(AlbertForSequenceClassification(config), tokenizer, "albert")
    with pytest.raises(ModelError, match="cannot be copied one by one; give --student"):
        copy_blocks(teacher, blocks=(0, 2))


def test_a_family_that_cannot_be_shortened_is_told(families: dict[str, Any]) -> None:
    config = FunnelConfig(vocab_size=30, d_model=8, d_inner=8, block_sizes=[1, 1], n_head=2)
    tokenizer = families["bert"].tokenizer()
    teacher = Classifier(FunnelForSequenceClassification(config), tokenizer, "funnel")
    with pytest.raises(ModelError, match=r"cannot be made with other blocks or sizes .* --student"):
        copy_blocks(teacher, 1)
    with pytest.raises(ModelError, match="cannot be made with other blocks or sizes"):
        fresh_student(teacher, 0, 1, {})


def test_a_family_with_a_window_for_each_block_is_shortened(families: dict[str, Any]) -> None:
    config = LongformerConfig(
        vocab_size=30,
        hidden_size=8,
        num_attention_heads=2,
        num_hidden_layers=3,
        intermediate_size=8,
        attention_window=[2, 4, 6],
    )
    tokenizer = families["bert"].tokenizer()
    teacher = Classifier(LongformerForSequenceClassification(config), tokenizer, "longformer")
    student = copy_blocks(teacher, blocks=(0, 2))
    assert student.model.config.attention_window == [2, 6]


def test_an_encoder_with_a_decoder_is_refused() -> None:
    config = BartConfig(
        vocab_size=30,
        d_model=8,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_position_embeddings=16,
    )
    with pytest.raises(ModelError, match="found 2 lists of 2 blocks in it, wanted one"):
        HFEncoder(BartForSequenceClassification(config))


ALIKE = {"bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta", "deberta-v2-conv"}
"""Families whose exported graphs have little that others (BERT: in test_export.py) have not."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(one.name, marks=[pytest.mark.slow] * (one.name in ALIKE)) for one in FAMILIES],
)
def test_an_exported_file_says_what_the_model_says(
    families: Any, name: str, tmp_path: Path
) -> None:
    classifier = families[name].make()
    write_onnx(classifier, tmp_path / "model.onnx")
    run = OnnxRunner(tmp_path / "model.onnx", 2)
    longest = (["a b c d e f g h"], ["i j k"])
    for texts in (PAIRS, longest, (["a"], ["b"])):
        batch = dict(classifier.tokenizer(*texts, padding=True, return_tensors="pt"))
        wanted = logits(classifier.model, batch).numpy()
        assert abs(run(batch) - wanted).max() < 1e-5


def test_dropout_is_set_everywhere(family: Any) -> None:
    student = family.make()
    weights, batch = student.model.state_dict(), padded(student)
    without = with_dropout(student, 0.0).model.train()
    assert all(value.equal(weights[name]) for name, value in without.state_dict().items())
    assert without(**batch).logits.equal(without(**batch).logits)  # nothing is dropped
    dropping = with_dropout(student, 0.5).model.train()
    assert not dropping(**batch).logits.equal(dropping(**batch).logits)


def test_a_family_without_dropout_is_told(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    student = family.make()
    names = [name for name in vars(student.model.config) if "dropout" in name]
    for name in names:
        monkeypatch.delattr(student.model.config, name)
    with pytest.raises(ModelError, match=r"has no dropout; leave --student\.dropout out"):
        with_dropout(student, 0.1)
    assert with_dropout(student, 0.0).model.state_dict().keys() == student.model.state_dict().keys()
