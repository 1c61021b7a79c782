"""A cached teacher says what the live one says, and tells what it cannot know."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification, BertTokenizer

from layermix.core.losses import HIDDEN
from layermix.core.signals import Batch, Needs, Signal
from layermix.core.trainer import DistillTrainer
from layermix.data.texts import TextData
from layermix.data.tokenization import Collator, tokenize
from layermix.errors import CacheError, ModelError
from layermix.models.encoder import HFEncoder
from layermix.models.live_teacher import LiveTeacher
from layermix.teacher_cache import cached_teacher
from layermix.teacher_cache.cached_teacher import CachedTeacher, fill, find_store, row_keys
from layermix.teacher_cache.manifest import Identity
from layermix.teacher_cache.store import SignalStore

NEEDS = Needs((3, 1), embedding=True)
ROWS = 41
EXACT = Identity("teacher", (3, 1), True, 32, 2, "float32", "float32", "setup")


@pytest.fixture
def live(bert: Callable[..., BertForSequenceClassification]) -> LiveTeacher:
    return LiveTeacher(HFEncoder(bert(4, 32), "teacher_inputs"), NEEDS)


@pytest.fixture
def rows(texts: Callable[..., TextData], tokenizer: BertTokenizer) -> Any:
    return tokenize(texts(ROWS), tokenizer, 16).splits["train"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few tokens in a batch and bytes in a shard that there are several of both."""
    monkeypatch.setattr(cached_teacher, "FILL_TOKENS", 64)
    monkeypatch.setattr(cached_teacher, "SHARD_BYTES", 40_000)


def stored(
    teacher: Any,
    rows: Any,
    collate: Collator,
    folder: Path,
    identity: Identity = EXACT,
    **options: Any,
) -> CachedTeacher:
    """A cached teacher of some rows, its store filled."""
    store, keys = find_store(folder, identity, pytest.fail), row_keys(rows)
    fill(store, teacher, rows, keys, collate, **options)
    return CachedTeacher(store, rows["row_id"], keys, teacher.num_layers)


class Counting:
    """A teacher that counts the rows it is asked for."""

    def __init__(self, teacher: LiveTeacher) -> None:
        self.teacher, self.asked = teacher, 0
        self.num_layers, self.hidden_size = teacher.num_layers, teacher.hidden_size
        self.provides = teacher.provides

    def __call__(self, batch: Batch) -> Signal:
        self.asked += len(batch["row_id"])
        return self.teacher(batch)


@pytest.mark.usefixtures("small")
def test_cached_equals_live_at_every_token_and_is_0_at_padding(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    collate = Collator(tokenizer)
    cached = stored(live, rows, collate, tmp_path)
    assert len(cached.store.shards) > 1
    shuffled = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0)).tolist()
    batch = collate([rows[row] for row in shuffled[:7]])
    found, expected = cached(batch), live(batch)
    assert found.layers == expected.layers == (3, 1)
    assert found.mask.equal(expected.mask)
    assert not found.mask.all()
    assert found.hidden is not None
    assert found.embedding is not None
    assert expected.hidden is not None
    assert expected.embedding is not None
    close = {"atol": 1e-5, "rtol": 0.0}
    torch.testing.assert_close(found.logits, expected.logits, **close)
    torch.testing.assert_close(found.hidden[:, found.mask], expected.hidden[:, found.mask], **close)
    torch.testing.assert_close(found.embedding[found.mask], expected.embedding[found.mask], **close)
    assert found.hidden[:, ~found.mask].abs().sum() == 0
    assert found.embedding[~found.mask].abs().sum() == 0


def test_filled_by_the_batches_of_the_training_it_is_the_live_one_bit_for_bit(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    collate = Collator(tokenizer)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1)).tolist()
    batches = [order[start : start + 8] for start in range(0, ROWS, 8)]
    cached = stored(live, rows, collate, tmp_path, batches=batches)
    for indices in batches:
        batch = collate([rows[index] for index in indices])
        found, expected = cached(batch), live(batch)
        assert found.hidden is not None
        assert expected.hidden is not None
        assert found.logits.equal(expected.logits)
        assert found.hidden[:, found.mask].equal(expected.hidden[:, expected.mask])


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 1e-3), ("bfloat16", 1e-2)])
def test_half_precision_rounds_the_hidden_states_and_not_the_logits(
    live: LiveTeacher,
    rows: Any,
    tokenizer: BertTokenizer,
    tmp_path: Path,
    dtype: str,
    bound: float,
) -> None:
    collate = Collator(tokenizer)
    exact = stored(live, rows, collate, tmp_path)
    rough = stored(live, rows, collate, tmp_path, replace(EXACT, dtype=dtype))
    batch = collate([rows[row] for row in (5, 1, 8)])
    expected, found = exact(batch), rough(batch)
    assert found.hidden is not None
    assert expected.hidden is not None
    assert found.hidden.dtype == torch.float32
    assert found.logits.equal(expected.logits)
    assert not found.hidden.equal(expected.hidden)
    torch.testing.assert_close(found.hidden, expected.hidden, rtol=bound, atol=bound)
    student = torch.randn(expected.hidden.shape, generator=torch.Generator().manual_seed(0))
    losses = [
        HIDDEN["mean"].function(student, one.hidden, one.mask).mean() for one in (found, expected)
    ]
    assert float(losses[0] / losses[1]) == pytest.approx(1, abs=bound / 10)


def test_a_value_that_float16_cannot_hold_is_told_with_its_layer(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    class Large(Counting):
        def __call__(self, batch: Batch) -> Signal:
            found = self.teacher(batch)
            assert found.hidden is not None
            hidden = found.hidden.clone()
            hidden[1, 0, 0] = 70_000
            return replace(found, hidden=hidden)

    half = replace(EXACT, dtype="float16")
    with pytest.raises(CacheError) as caught:
        stored(Large(live), rows, Collator(tokenizer), tmp_path, half)
    assert str(caught.value) == (
        "layer 1 of the teacher has the value 70000, but float16 holds at most 65504; use "
        "--cache.dtype bfloat16 (or float32)"
    )
    stored(Large(live), rows, Collator(tokenizer), tmp_path, replace(EXACT, dtype="bfloat16"))


def test_it_declares_what_it_gives(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    cached = stored(live, rows, Collator(tokenizer), tmp_path)
    assert (cached.num_layers, cached.hidden_size) == (4, 32)
    assert live.provides == Needs((3, 1), embedding=True, padding=True)
    assert cached.provides == NEEDS


@pytest.mark.parametrize(
    ("layers", "embedding"), [((), False), ((3, 1), False), ((), True), ((1,), False)]
)
def test_what_is_not_needed_is_not_there(
    live: LiveTeacher,
    rows: Any,
    tokenizer: BertTokenizer,
    tmp_path: Path,
    layers: tuple[int, ...],
    embedding: bool,
) -> None:
    collate = Collator(tokenizer)
    teacher = LiveTeacher(live.encoder, Needs(layers, embedding))
    identity = replace(EXACT, layers=layers, embedding=embedding)
    batch = collate([rows[3], rows[7]])
    found, expected = stored(teacher, rows, collate, tmp_path, identity)(batch), teacher(batch)
    assert (found.hidden is None) is (not layers)
    assert (found.embedding is None) is (not embedding)
    torch.testing.assert_close(found.logits, expected.logits)
    if layers:
        torch.testing.assert_close(
            found.select(layers)[:, found.mask], expected.select(layers)[:, found.mask]
        )


@pytest.mark.usefixtures("small")
def test_only_what_is_missing_is_asked_for(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    """Subsets, other orders, added rows: all of them find what is there."""
    counting, collate = Counting(live), Collator(tokenizer)
    for chosen, asked in (
        (range(10), 10),
        (range(10), 0),
        ([7, 2, 5], 0),
        ([30, 4, 31], 2),
        (range(ROWS), ROWS - 12),
    ):
        before = counting.asked
        part = rows.select(list(chosen))
        cached = stored(counting, part, collate, tmp_path)
        assert counting.asked - before == asked
        batch = collate(list(part))
        torch.testing.assert_close(
            cached(batch).select((3, 1))[:, cached(batch).mask],
            live(batch).select((3, 1))[:, cached(batch).mask],
            atol=1e-5,
            rtol=0,
        )


def test_a_text_that_occurs_twice_is_asked_for_once(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    counting, collate = Counting(live), Collator(tokenizer)
    twice = rows.select([0, 1, 0, 2]).remove_columns("row_id").add_column("row_id", [0, 1, 2, 3])
    cached = stored(counting, twice, collate, tmp_path)
    assert counting.asked == 3
    found = cached(collate([twice[2], twice[0]]))
    assert found.hidden is not None
    assert found.hidden[:, 0].equal(found.hidden[:, 1])


def test_a_store_of_more_layers_will_do(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    collate = Collator(tokenizer)
    stored(live, rows, collate, tmp_path)
    counting = Counting(live)
    fewer = replace(EXACT, layers=(1,), embedding=False)
    cached = stored(counting, rows, collate, tmp_path, fewer)
    assert counting.asked == 0
    batch = collate([rows[4]])
    torch.testing.assert_close(
        cached(batch).select((1,)), live(batch).select((1,)), atol=1e-5, rtol=0
    )
    other = find_store(tmp_path, replace(EXACT, layers=(2,)), pytest.fail)
    assert not other.places


def test_another_tokenization_of_a_text_is_another_row(rows: Any) -> None:
    keys = row_keys(rows)
    assert len(set(keys)) == ROWS
    assert row_keys(rows.select([5]))[0] == keys[5]
    types = [[1] * len(row) for row in rows["token_type_ids"]]
    other = rows.remove_columns("token_type_ids").add_column("token_type_ids", types)
    assert not set(keys) & set(row_keys(other))


def test_padding_may_stand_on_the_left(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    cached = stored(live, rows, Collator(tokenizer), tmp_path)
    left = BertTokenizer(vocab=tokenizer.get_vocab(), padding_side="left")
    right, other = (Collator(one)([rows[row] for row in (4, 0, 9)]) for one in (tokenizer, left))
    assert not other["attention_mask"][:, 0].all()
    assert other["attention_mask"][:, -1].all()
    for found, expected in zip(_at_tokens(cached, other), _at_tokens(cached, right), strict=True):
        assert found.equal(expected)


def _at_tokens(teacher: CachedTeacher, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    signal = teacher(batch)
    assert signal.hidden is not None
    assert signal.hidden[:, ~signal.mask].abs().sum() == 0
    return signal.logits, signal.hidden[:, signal.mask]


def test_a_teacher_with_a_tokenizer_of_its_own_is_cached_by_its_own_tokens(
    live: LiveTeacher, texts: Callable[..., TextData], tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    """The student knows few words; to the teacher the same line has other ids and more tokens."""
    few = BertTokenizer(vocab={w: n for n, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])})
    few.add_tokens(["a b"])
    made = tokenize(texts(ROWS), few, 16, tokenizer).splits["train"]
    assert row_keys(made) == row_keys(tokenize(texts(ROWS), tokenizer, 16).splits["train"])
    collate = Collator(few, tokenizer)
    batch = collate([made[row] for row in range(ROWS)])
    assert (
        not batch["attention_mask"].sum(-1).equal(batch["teacher_inputs"]["attention_mask"].sum(-1))
    )
    found, expected = stored(live, made, collate, tmp_path)(batch), live(batch)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)
    assert found.mask.equal(expected.mask)


def test_a_shard_has_not_too_many_rows_where_they_are_small(
    live: LiveTeacher,
    rows: Any,
    tokenizer: BertTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that a filling that is stopped has kept most of its work."""
    whole = stored(live, rows, Collator(tokenizer), tmp_path / "whole")
    monkeypatch.setattr(cached_teacher, "FILL_TOKENS", 64)
    monkeypatch.setattr(cached_teacher, "SHARD_ROWS", 10)
    cached = stored(live, rows, Collator(tokenizer), tmp_path / "few")
    assert len(whole.store.shards) == 1
    assert len(cached.store.shards) > 2
    assert sum(shard.rows for shard in cached.store.shards.values()) == ROWS


@pytest.mark.usefixtures("small")
def test_progress_is_told_by_batch(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    seen: list[int] = []

    def progress(items: Any, total: int, what: str) -> Any:
        assert (total, what) == (len(items), "teacher signals")
        for item in items:
            seen.append(len(item))
            yield item

    stored(live, rows, Collator(tokenizer), tmp_path, track=progress)
    assert sum(seen) == ROWS
    assert len(seen) > 3
    stored(live, rows, Collator(tokenizer), tmp_path, track=progress)
    assert sum(seen) == ROWS  # there is nothing to do, and no bar is shown


@pytest.mark.usefixtures("small")
def test_a_stopped_filling_goes_on_with_the_batches_it_had_planned(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    """So that the signals are those of an undisturbed filling, to the last bit."""
    collate = Collator(tokenizer)
    straight = stored(live, rows, collate, tmp_path / "straight")

    class Stopping(Counting):
        def __call__(self, batch: Batch) -> Signal:
            if self.asked > ROWS // 2:
                raise KeyboardInterrupt
            return super().__call__(batch)

    with pytest.raises(KeyboardInterrupt):
        stored(Stopping(live), rows, collate, tmp_path / "broken")
    again = find_store(tmp_path / "broken", EXACT, pytest.fail)
    assert 0 < len(again.places) < ROWS
    counting = Counting(live)
    cached = stored(counting, rows, collate, tmp_path / "broken")
    assert counting.asked < ROWS
    assert not again.left_plan()
    assert cached.store.places.keys() == straight.store.places.keys()
    for key, place in straight.store.places.items():
        assert cached.store.hidden(cached.store.places[key]).equal(straight.store.hidden(place))


def test_a_row_that_is_not_there_is_told(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    collate = Collator(tokenizer)
    cached = stored(live, rows, collate, tmp_path)
    stranger = rows[0] | {"row_id": 900}
    with pytest.raises(ModelError) as caught:
        cached(collate([rows[1], stranger]))
    assert str(caught.value) == (
        f"row 900 is not among the {ROWS} rows of this teacher; give it the rows that are trained "
        "on"
    )
    empty = SignalStore(tmp_path / "empty", EXACT, pytest.fail)
    with pytest.raises(
        ModelError, match=f"empty: {ROWS} of {ROWS} rows are missing; fill the store"
    ):
        CachedTeacher(empty, rows["row_id"], row_keys(rows), 4)


def test_a_row_with_another_number_of_tokens_is_told(
    live: LiveTeacher, rows: Any, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    collate = Collator(tokenizer)
    cached = stored(live, rows, collate, tmp_path)
    length = rows[1]["length"]
    cut = rows[1] | {name: rows[1][name][:-1] for name in ("input_ids", "token_type_ids")}
    with pytest.raises(ModelError) as caught:
        cached(collate([rows[0], cut]))
    assert str(caught.value) == (
        f"row 1 has {length - 1} tokens in the batch, but {length} when it was stored; tokenise "
        "both in the same way"
    )


def batches_of(trainer: DistillTrainer, epochs: int) -> list[list[int]]:
    """The rows of every batch, as the trainer will draw them."""
    sampler = trainer._get_train_sampler()
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        order = list(sampler)
        size = trainer.config.batch_size
        found += [order[start : start + size] for start in range(0, len(order), size)]
    return found


@pytest.mark.parametrize("own_batches", [True, False])
def test_training_is_the_same_with_either_teacher(
    trainer: Callable[..., DistillTrainer],
    tokenizer: BertTokenizer,
    tmp_path: Path,
    own_batches: bool,
) -> None:
    """Bit for bit if the store was filled by the batches of the training, else to 1e-5."""
    training = {"epochs": 1, "batch_size": 4, "log_every": 1, "learning_rate": 1e-3}
    training["precision"] = "fp32"
    loss = {"embedding_weight": 0.5}
    live = trainer(folder="live", training=training, loss=loss)
    other = trainer(folder="cached", training=training, loss=loss)
    assert isinstance(other.teacher, LiveTeacher)
    needs = other.teacher.provides
    identity = replace(EXACT, layers=needs.layers, embedding=needs.embedding)
    batches = batches_of(other, 1) if own_batches else None
    other.teacher = stored(
        other.teacher, other.train_dataset, Collator(tokenizer), tmp_path, identity, batches=batches
    )
    logs, weights = [], []
    for made in (live, other):
        made.train()
        logs.append([line["loss"] for line in made.state.log_history if "loss" in line])
        weights.append(torch.cat([p.flatten() for p in made.objective.parameters()]))
    assert len(logs[0]) == 4
    assert logs[0] == (logs[1] if own_batches else pytest.approx(logs[1], abs=1e-5))
    assert weights[0].equal(weights[1]) or not own_batches


def test_what_stands_at_padding_cannot_be_cached(
    trainer: Callable[..., DistillTrainer], rows: Any, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    def make(encoder: Any, needs: Needs) -> CachedTeacher:
        identity = replace(EXACT, layers=needs.layers, embedding=needs.embedding)
        return stored(LiveTeacher(encoder, needs), rows, Collator(tokenizer), tmp_path, identity)

    with pytest.raises(ModelError, match=r"the outputs at padding \(a live teacher gives them\)"):
        trainer(teacher=make, loss={"hidden": "tinybert_mean"})
