"""The remembered teacher says what the live one says, and tells what it cannot know."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification, BertTokenizer

from layermix.cache import FILL_BATCH, MemoryTeacher, signal_bytes
from layermix.data import TextData
from layermix.encoder import HFEncoder
from layermix.errors import ModelError
from layermix.signals import Needs
from layermix.teacher import LiveTeacher
from layermix.tokens import Collator, tokenize
from layermix.trainer import DistillTrainer

NEEDS = Needs((3, 1), embedding=True)
ROWS = FILL_BATCH + 9


@pytest.fixture
def live(bert: Callable[..., BertForSequenceClassification]) -> LiveTeacher:
    return LiveTeacher(HFEncoder(bert(4, 32), "teacher_inputs"), NEEDS)


@pytest.fixture
def rows(texts: Callable[..., TextData], tokenizer: BertTokenizer) -> Any:
    return tokenize(texts(ROWS), tokenizer, 16).splits["train"]


def test_remembered_equals_live_at_every_token_and_is_0_at_padding(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer
) -> None:
    collate = Collator(tokenizer)
    remembered = MemoryTeacher(live, rows, collate)
    shuffled = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0)).tolist()
    batch = collate([rows[row] for row in shuffled[:7]])
    found, expected = remembered(batch), live(batch)
    assert found.layers == expected.layers == (3, 1)
    assert found.mask.equal(expected.mask)
    assert not found.mask.all()
    assert found.hidden is not None
    assert found.embedding is not None
    close = {"atol": 1e-5, "rtol": 0.0}
    torch.testing.assert_close(found.logits, expected.logits, **close)
    torch.testing.assert_close(found.hidden[:, found.mask], expected.hidden[:, found.mask], **close)
    torch.testing.assert_close(found.embedding[found.mask], expected.embedding[found.mask], **close)
    assert found.hidden[:, ~found.mask].abs().sum() == 0
    assert found.embedding[~found.mask].abs().sum() == 0


def test_it_declares_what_it_gives(live: LiveTeacher, rows: Any, tokenizer: BertTokenizer) -> None:
    remembered = MemoryTeacher(live, rows, Collator(tokenizer))
    assert (remembered.num_layers, remembered.hidden_size) == (4, 32)
    assert live.provides == Needs((3, 1), embedding=True, padding=True)
    assert remembered.provides == NEEDS


def test_logits_alone_are_remembered_if_nothing_else_is_needed(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer
) -> None:
    collate = Collator(tokenizer)
    logits_only = LiveTeacher(live.encoder, Needs())
    found = MemoryTeacher(logits_only, rows, collate)(collate([rows[3]]))
    assert found.hidden is found.embedding is None
    torch.testing.assert_close(found.logits, logits_only(collate([rows[3]])).logits)


def test_the_same_rows_are_remembered_bit_for_bit(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer
) -> None:
    first, again = (MemoryTeacher(live, rows, Collator(tokenizer)) for _ in range(2))
    assert first.hidden is not None
    assert first.hidden.equal(again.hidden)
    assert first.logits.equal(again.logits)


def test_padding_may_stand_on_the_left(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer
) -> None:
    remembered = MemoryTeacher(live, rows, Collator(tokenizer))
    left = BertTokenizer(vocab=tokenizer.get_vocab(), padding_side="left")
    right, other = (Collator(one)([rows[row] for row in (4, 0, 9)]) for one in (tokenizer, left))
    assert not other["attention_mask"][:, 0].all()
    assert other["attention_mask"][:, -1].all()
    for found, expected in zip(
        _at_tokens(remembered, other), _at_tokens(remembered, right), strict=True
    ):
        assert found.equal(expected)


def _at_tokens(teacher: MemoryTeacher, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    signal = teacher(batch)
    assert signal.hidden is not None
    assert signal.hidden[:, ~signal.mask].abs().sum() == 0
    return signal.logits, signal.hidden[:, signal.mask]


def test_a_teacher_with_a_tokenizer_of_its_own_is_remembered_by_its_own_tokens(
    live: LiveTeacher, texts: Callable[..., TextData], tokenizer: BertTokenizer
) -> None:
    """The student knows few words; to the teacher the same line has other ids and more tokens."""
    few = BertTokenizer(vocab={w: n for n, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])})
    few.add_tokens(["a b"])
    made = tokenize(texts(ROWS), few, 16, tokenizer).splits["train"]
    collate = Collator(few, tokenizer)
    batch = collate([made[row] for row in range(ROWS)])
    assert (
        not batch["attention_mask"].sum(-1).equal(batch["teacher_inputs"]["attention_mask"].sum(-1))
    )
    found, expected = MemoryTeacher(live, made, collate)(batch), live(batch)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)
    assert found.mask.equal(expected.mask)


def test_progress_is_told_by_batch(live: LiveTeacher, rows: Any, tokenizer: BertTokenizer) -> None:
    seen: list[int] = []

    def progress(items: Any, total: int, what: str) -> Any:
        assert (total, what) == (2, "teacher signals")
        for item in items:
            seen.append(len(item))
            yield item

    MemoryTeacher(live, rows, Collator(tokenizer), progress)
    assert seen == [FILL_BATCH, 9]


def test_a_row_that_was_not_remembered_is_told(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer
) -> None:
    collate = Collator(tokenizer)
    remembered = MemoryTeacher(live, rows, collate)
    stranger = rows[0] | {"row_id": 900}
    with pytest.raises(ModelError) as caught:
        remembered(collate([rows[1], stranger]))
    assert str(caught.value) == (
        f"rows [900] were not among the {ROWS} remembered ones; remember the rows that are "
        "trained on"
    )


def test_a_row_with_another_number_of_tokens_is_told(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer
) -> None:
    collate = Collator(tokenizer)
    remembered = MemoryTeacher(live, rows, collate)
    length = rows[1]["length"]
    cut = rows[1] | {name: rows[1][name][:-1] for name in ("input_ids", "token_type_ids")}
    with pytest.raises(ModelError) as caught:
        remembered(collate([rows[0], cut]))
    assert str(caught.value) == (
        f"row 1 has {length - 1} tokens in the batch, but {length} when it was remembered; "
        "tokenise both in the same way"
    )


def test_bytes_are_those_of_what_is_kept(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer
) -> None:
    remembered = MemoryTeacher(live, rows, Collator(tokenizer))
    assert remembered.hidden is not None
    assert remembered.embedding is not None
    kept = remembered.hidden.nbytes + remembered.embedding.nbytes
    assert signal_bytes(NEEDS, 32, sum(rows["length"])) == kept


def test_training_is_the_same_with_either_teacher(
    trainer: Callable[..., DistillTrainer], tokenizer: BertTokenizer
) -> None:
    training = {"epochs": 2, "batch_size": 4, "log_every": 1, "learning_rate": 1e-3}
    loss = {"embedding_weight": 0.5}
    live = trainer(folder="live", training=training, loss=loss)
    other = trainer(folder="memory", training=training, loss=loss)
    assert other.teacher is not None
    other.teacher = MemoryTeacher(other.teacher, other.train_dataset, Collator(tokenizer))
    logs = []
    for made in (live, other):
        made.train()
        logs.append([line["loss"] for line in made.state.log_history if "loss" in line])
    assert len(logs[0]) == 8
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)


def test_what_stands_at_padding_cannot_be_remembered(
    trainer: Callable[..., DistillTrainer], rows: Any, tokenizer: BertTokenizer
) -> None:
    with pytest.raises(ModelError, match=r"the outputs at padding \(a live teacher gives them\)"):
        trainer(
            teacher=lambda encoder, needs: MemoryTeacher(
                LiveTeacher(encoder, needs), rows, Collator(tokenizer)
            ),
            loss={"hidden": "tinybert_mean"},
        )
