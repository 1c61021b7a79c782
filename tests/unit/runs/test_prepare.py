"""The prepared: which teachers are refused, which tokens are shared, what is held out and noted."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification, BertTokenizer, DistilBertTokenizer

from layermix.config import DistillConfig
from layermix.console import Reporter
from layermix.data.prepared import PreparedData
from layermix.data.texts import TextData, from_splits
from layermix.errors import ConfigError, ModelError, Note, WeakTeacherError
from layermix.evaluation.metrics import UNLABELLED
from layermix.models.encoder import Classifier
from layermix.runs.pipeline import distill_from
from layermix.runs.prepare import check_teacher, prepare

from ...tiny_configs import whole

Bert = Callable[..., BertForSequenceClassification]
Texts = Callable[..., TextData]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WEAK: Mapping[str, Any] = {"allow_weak": True}
LOGITS_ONLY: Mapping[str, Any] = {"hidden_weight": 0, "entropy_weight": 0}


@pytest.fixture
def pair(bert: Bert, tokenizer: BertTokenizer) -> tuple[Classifier, Classifier]:
    """A teacher that always answers class 0, and a student, with one tokenizer."""
    teacher = bert(4, seed=2)
    nn.init.zeros_(teacher.classifier.weight)
    with torch.no_grad():
        teacher.classifier.bias.copy_(torch.tensor([1.0, 0.0]))
    return (
        Classifier(teacher, tokenizer, "TEACHER", notes=(Note("a", "of the teacher"),)),
        Classifier(bert(2, seed=1), tokenizer, "STUDENT", notes=(Note("a", "of the student"),)),
    )


@pytest.fixture
def spelling() -> BertTokenizer:
    """Another tokenizer: the same letters have other numbers."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *reversed(LETTERS)]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def prepare_tiny(
    pair: tuple[Classifier, Classifier], texts: TextData, **sections: Any
) -> PreparedData:
    config = whole(**{"teacher": WEAK, **sections})
    return prepare(*pair, texts, config, Reporter(quiet=True))


# -- the teacher -----------------------------------------------------------------------------------


def test_a_teacher_that_does_not_beat_the_commonest_class_is_refused(
    pair: tuple[Classifier, Classifier], texts: Texts
) -> None:
    data = texts(13, 10)
    ones = sum(data.splits["validation"]["label"])
    right, most = 10 - ones, max(ones, 10 - ones)  # the teacher always answers class 0
    with pytest.raises(WeakTeacherError) as refused:
        prepare_tiny(pair, data, teacher={})
    assert str(refused.value) == (
        f"TEACHER: the teacher has accuracy {right / 10:.4f} on 10 validation rows; always "
        f"answering one class has {most / 10:.4f}. Fine-tune it on this task (`layermix teach`), "
        "with more epochs (--training.epochs 10) and a higher rate (--training.learning_rate "
        "1e-4) if it learned from a few thousand rows; check that its classes ['LABEL_0', "
        "'LABEL_1'] are in the data's order; or continue anyway with --teacher.allow_weak"
    )
    allowed = prepare_tiny(pair, data)
    assert allowed.teacher_scores["validation"]["accuracy"] == right / 10


def test_validation_rows_of_one_class_are_not_the_teachers_fault(
    pair: tuple[Classifier, Classifier],
) -> None:
    labels = np.array([1, 1, 1, -100])
    logits = {"validation": np.eye(2)[[1, 1, 1, 0]]}
    with pytest.raises(WeakTeacherError, match="all 3 validation rows have the same label"):
        check_teacher(pair[0], logits, labels, "accuracy", allow_weak=False)
    check_teacher(pair[0], logits, labels, "accuracy", allow_weak=True)


def test_a_teacher_must_have_one_right_answer_more_than_the_commonest_class(
    pair: tuple[Classifier, Classifier],
) -> None:
    labels = np.array([1, 1, 1, 0, 0, UNLABELLED])
    answers = np.array([1, 1, 1, 1, 1, 1])
    logits = np.eye(2)[answers]
    with pytest.raises(WeakTeacherError, match=r"accuracy 0\.6000 on 5 validation rows"):
        check_teacher(pair[0], {"validation": logits}, labels, "accuracy", allow_weak=False)
    answers[4] = 0
    logits = np.eye(2)[answers]
    check_teacher(pair[0], {"validation": logits}, labels, "accuracy", allow_weak=False)


def test_a_teacher_is_judged_by_the_score_of_its_task(
    pair: tuple[Classifier, Classifier], texts: Texts
) -> None:
    labels = np.array([1] * 7 + [0] * 3)
    logits = {"validation": np.eye(2)[[1] * 5 + [0] * 2 + [0, 1, 0]]}
    with pytest.raises(WeakTeacherError, match=r"accuracy 0\.7000"):
        check_teacher(pair[0], logits, labels, "accuracy", allow_weak=False)
    check_teacher(pair[0], logits, labels, "matthews", allow_weak=False)
    cola = replace(texts(13, 10), task="cola")
    with pytest.raises(WeakTeacherError, match=r"has matthews 0\.0000 on 10 validation rows"):
        prepare_tiny(pair, cola, teacher={})


def test_a_teacher_with_broken_weights_is_refused(
    pair: tuple[Classifier, Classifier], texts: Texts
) -> None:
    nn.init.constant_(pair[0].model.classifier.weight, float("nan"))
    with pytest.raises(
        ModelError, match="TEACHER: the teacher's logits are NaN or infinite on 6 of 6 validation"
    ):
        prepare_tiny(pair, texts())


# -- tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [{}, {"hidden_weight": 0, "embedding_weight": 1}], ids=str)
def test_hidden_losses_between_different_tokenizers_are_refused(
    pair: tuple[Classifier, Classifier],
    spelling: BertTokenizer,
    texts: Texts,
    loss: dict[str, float],
) -> None:
    teacher, student = pair
    other = Classifier(student.model, spelling, "STUDENT")
    with pytest.raises(ModelError) as refused:
        prepare_tiny((teacher, other), texts(), loss=loss)
    assert str(refused.value) == (
        "the tokenizers of teacher and student differ, so their hidden states stand for different "
        "tokens; use --loss.hidden_weight 0 --loss.embedding_weight 0 --loss.attention_weight 0 "
        "(logits only), or a student "
        "with the teacher's tokenizer (--student.layers copies its blocks)"
    )


def test_logits_alone_are_distilled_between_different_tokenizers(
    pair: tuple[Classifier, Classifier], spelling: BertTokenizer, texts: Texts
) -> None:
    teacher, student = pair
    other = Classifier(student.model, spelling, "STUDENT")
    data = texts()
    prepared = prepare_tiny((teacher, other), data, loss=LOGITS_ONLY)
    rows = [prepared.splits["train"][index] for index in range(4)]
    batch = prepared.collate(rows)
    for tokenizer, inputs in ((spelling, batch), (teacher.tokenizer, batch["teacher_inputs"])):
        wanted = tokenizer(data.splits["train"]["text"][:4], padding=True, return_tensors="pt")
        assert torch.equal(inputs["input_ids"], wanted["input_ids"])
    nn.init.normal_(teacher.model.classifier.weight)
    prepared = prepare_tiny((teacher, other), data, loss=LOGITS_ONLY)
    own = teacher.tokenizer(data.splits["validation"]["text"][:], padding=True, return_tensors="pt")
    with torch.no_grad():
        answers = teacher.model.eval()(**own).logits
    torch.testing.assert_close(torch.tensor(prepared.teacher_logits["validation"]), answers)
    config = DistillConfig.model_validate(
        {"teacher": WEAK, "loss": LOGITS_ONLY, "training": {"epochs": 1, "batch_size": 8}}
    )
    result = distill_from(teacher, other, data, config)
    assert 0 <= result.metrics["last"]["validation"]["agreement"] <= 1


def test_the_same_tokens_with_other_segments_are_encoded_for_each(
    pair: tuple[Classifier, Classifier], tokenizer: BertTokenizer
) -> None:
    """DistilBERT has BERT's tokens, but is not told which text of a pair they are from."""
    teacher, student = pair
    own = DistilBertTokenizer(vocab=tokenizer.get_vocab())
    rows = [{"text": a, "text_pair": b, "label": n % 2} for n, (a, b) in enumerate(PAIRS)]
    data = from_splits({"train": rows[:8], "validation": rows[8:]})
    prepared = prepare_tiny((teacher, Classifier(student.model, own, "STUDENT")), data)
    batch = prepared.collate([prepared.splits["train"][0]])
    assert "token_type_ids" not in batch
    assert batch["teacher_inputs"]["token_type_ids"].any()
    assert torch.equal(batch["teacher_inputs"]["input_ids"], batch["input_ids"])
    shared = prepare_tiny(pair, data)
    assert "teacher_inputs" not in shared.collate([shared.splits["train"][0]])


def test_a_tokenizer_that_differs_in_a_late_text_alone_is_another_one(
    pair: tuple[Classifier, Classifier], tokenizer: BertTokenizer
) -> None:
    teacher, student = pair
    cased = BertTokenizer(vocab=tokenizer.get_vocab(), do_lower_case=False)
    other = Classifier(student.model, cased, "STUDENT")
    lines = [f"{a} {b} {c}" for a in LETTERS[:2] for b in LETTERS for c in LETTERS[:4]]
    rows = [{"text": line, "label": n % 2} for n, line in enumerate(lines)]
    plain = from_splits({"train": rows[:150], "validation": rows[150:]})
    assert "teacher_inputs" not in batch_of(prepare_tiny((teacher, other), plain))
    rows[140] = {"text": "A capital", "label": 1}
    late = from_splits({"train": rows[:150], "validation": rows[150:]})
    with pytest.raises(ModelError, match="the tokenizers of teacher and student differ"):
        prepare_tiny((teacher, other), late)
    apart = prepare_tiny((teacher, other), late, loss=LOGITS_ONLY)
    assert "teacher_inputs" in batch_of(apart)
    row = apart.splits["train"][140]
    assert row["teacher_input_ids"] == teacher.tokenizer("A capital")["input_ids"]
    assert row["input_ids"] == cased("A capital")["input_ids"] != row["teacher_input_ids"]


def test_each_model_is_padded_by_its_own_tokenizer(
    pair: tuple[Classifier, Classifier], tokenizer: BertTokenizer, texts: Texts
) -> None:
    teacher, student = pair
    other = BertTokenizer(vocab=tokenizer.get_vocab(), pad_token="[MASK]")
    batch = batch_of(prepare_tiny((teacher, Classifier(student.model, other, "S")), texts()))
    padding = batch["attention_mask"] == 0
    assert padding.any()
    assert (batch["input_ids"][padding] == other.mask_token_id).all()
    assert (batch["teacher_inputs"]["input_ids"][padding] == tokenizer.pad_token_id).all()


def batch_of(prepared: PreparedData) -> dict[str, Any]:
    return prepared.collate([prepared.splits["train"][row] for row in range(6)])


PAIRS = [(f"{a} {b}", f"{b} {a} {a}") for a, b in zip(LETTERS[:12], LETTERS[12:24], strict=True)]


# -- length ----------------------------------------------------------------------------------------


def test_the_longest_input_is_that_of_both(
    pair: tuple[Classifier, Classifier], texts: Texts
) -> None:
    assert prepare_tiny(pair, texts(), data={"max_length": 32}).max_length == 32
    with pytest.raises(
        ConfigError, match=r"data\.max_length is 33, but the models take at most 32 tokens; give at"
    ):
        prepare_tiny(pair, texts(), data={"max_length": 33})


def test_a_chosen_length_is_enough_for_both_tokenizers(
    pair: tuple[Classifier, Classifier], tokenizer: BertTokenizer
) -> None:
    teacher, student = pair
    words = {**tokenizer.get_vocab(), "##a": len(tokenizer)}
    pieces = BertTokenizer(vocab=words)  # `aaaa` is one unknown word for the teacher's
    rows = [{"text": "a" * 12 + f" {letter}", "label": n % 2} for n, letter in enumerate(LETTERS)]
    data = from_splits({"train": rows[:20], "validation": rows[20:]})
    alone = prepare_tiny((teacher, student), data, loss=LOGITS_ONLY)
    assert alone.max_length == 8
    for one, other in ((teacher.tokenizer, pieces), (pieces, teacher.tokenizer)):
        both = Classifier(teacher.model, one, "T"), Classifier(student.model, other, "S")
        teacher.model.resize_token_embeddings(len(words))
        assert prepare_tiny(both, data, loss=LOGITS_ONLY).max_length == 16


def test_what_is_cut_is_noted_beside_the_notes_of_data_and_models(
    pair: tuple[Classifier, Classifier], texts: Texts
) -> None:
    data = texts(20, 10)
    prepared = prepare_tiny(pair, data, data={"max_length": 6})
    long = {
        name: sum(len(text.split()) > 4 for text in rows["text"]) / len(rows)
        for name, rows in data.splits.items()
    }
    assert dict(prepared.cut) == long
    told = (
        f"at most 6 tokens per row; cut by that: {long['train']:.1%} of train, "
        f"{long['validation']:.1%} of validation"
    )
    of_models = (Note("a", "of the teacher"), Note("a", "of the student"))
    assert prepared.notes[: len(data.notes)] == data.notes
    assert Note("max-length", told) in prepared.notes
    assert prepared.notes[-2:] == of_models
    whole = prepare_tiny(pair, data, data={"max_length": 32})
    told = "at most 32 tokens per row; cut by that: no row"
    assert Note("max-length", told) in whole.notes


@pytest.mark.parametrize(
    ("warmup", "noted"), [(3.0, False), (4.0, True), (0.5, False), (0.9, True)]
)
def test_a_warmup_that_never_ends_is_noted(
    pair: tuple[Classifier, Classifier], texts: Texts, warmup: float, noted: bool
) -> None:
    training = {"epochs": 3, "batch_size": 4, "accumulation": 2, "warmup": warmup}
    prepared = prepare_tiny(
        pair, texts(13), training=training
    )  # 2 steps per epoch, the last one short
    found = [note.text for note in prepared.notes if note.code == "long-warmup"]
    assert bool(found) == noted
    if noted:
        steps = warmup if warmup >= 1 else warmup * 6
        assert found == [
            f"the warmup of {steps:.0f} steps is more than half of the 6 steps: the learning rate "
            "is hardly ever at its peak (see --training.warmup)"
        ]


# -- splits ----------------------------------------------------------------------------------------


def test_rows_are_held_out_of_the_training_rows_that_are_used(
    pair: tuple[Classifier, Classifier], texts: Texts
) -> None:
    data = texts(40)
    used = prepare_tiny(pair, data, data={"train_rows": 20})
    assert len(used.splits["train"]) == 20
    assert list(used.evaluated) == ["validation"]
    held = prepare_tiny(
        pair,
        data,
        data={"train_rows": 20},
        training={"selection": "holdout", "holdout_fraction": 0.3},
    )
    rows = {name: set(held.splits[name]["row_id"]) for name in held.splits}
    assert rows["train"] | rows["holdout"] == set(used.splits["train"]["row_id"])
    assert not rows["train"] & rows["holdout"]
    assert list(held.evaluated) == ["validation", "holdout"]
    assert held.teacher_logits["holdout"].shape == (len(rows["holdout"]), 2)
    assert held.teacher_scores.keys() == {"validation", "holdout"}


def test_test_rows_without_labels_get_the_teachers_answers_and_no_scores(
    pair: tuple[Classifier, Classifier], texts: Texts
) -> None:
    made = texts(13, 6)
    splits: dict[str, list[dict[str, Any]]] = {
        name: [{"text": row["text"], "label": row["label"]} for row in rows]
        for name, rows in made.splits.items()
    }
    splits["test"] = [{"text": f"{letter} z {letter}", "label": -1} for letter in LETTERS[:5]]
    data = from_splits(splits)
    assert set(data.splits["test"]["label"]) == {UNLABELLED}
    prepared = prepare_tiny(pair, data)
    assert prepared.teacher_logits["test"].shape == (5, 2)
    assert prepared.teacher_scores.keys() == {"validation"}


def test_the_score_that_compares_epochs_is_the_tasks(
    pair: tuple[Classifier, Classifier], texts: Texts
) -> None:
    assert prepare_tiny(pair, texts()).metric == "accuracy"
    rows = [{"sentence": a, "label": n % 2} for n, (a, _) in enumerate(PAIRS)]
    cola = from_splits({"train": rows[:8], "validation": rows[8:]}, task="cola")
    assert prepare_tiny(pair, cola).metric == "matthews"
