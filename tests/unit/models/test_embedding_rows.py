"""A model of which only the words that occur are trained learns what the whole one would."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import BertForSequenceClassification

from layermix.models.embedding_rows import SplitEmbedding, occurring, only_occurring_trained

VOCABULARY, WIDTH = 31, 16
SEEN = [0, 2, 3, 7, 8, 9, 30]  # padding first

Bert = Callable[..., BertForSequenceClassification]


def words(model: BertForSequenceClassification) -> Any:
    return model.get_input_embeddings()


@pytest.fixture
def plain() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)


def test_it_looks_up_what_the_whole_embedding_would(plain: nn.Embedding) -> None:
    split = SplitEmbedding(plain, torch.tensor(SEEN))
    assert split.whole().equal(plain.weight)
    every = torch.arange(VOCABULARY).view(1, -1)
    assert split.eval()(every).equal(plain(every))
    some = torch.tensor([[2, 7, 9, 3], [2, 30, 3, 0]])
    assert split.train()(some).equal(plain(some))
    with pytest.raises(IndexError):  # not trained, so it must not be in a training batch
        split(torch.tensor([[1]]))


@pytest.mark.parametrize("padding", [0, None, 5])
def test_its_gradient_is_that_of_the_whole_embedding(padding: int | None) -> None:
    plain = nn.Embedding(VOCABULARY, WIDTH, padding_idx=padding)
    split = SplitEmbedding(plain, torch.tensor(SEEN)).train()
    tokens, weights = torch.tensor([[2, 7, 7, 3], [2, 30, 3, 0]]), torch.randn(2, 4, WIDTH)
    for one in (plain, split):
        (one(tokens) * weights).sum().backward()
    assert plain.weight.grad is not None
    assert split.trained.grad is not None
    assert split.trained.grad.equal(plain.weight.grad[SEEN])
    assert (split.trained.grad[0] == 0).all() == (padding == 0)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_training_ends_where_that_of_the_whole_model_does(bert: Bert, decay: float) -> None:
    """But for rows that do not occur, which weight decay would have pulled to 0."""
    batch = {
        "input_ids": torch.tensor([[2, 7, 8, 3], [2, 30, 3, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "labels": torch.tensor([0, 1]),
    }

    def trained(model: BertForSequenceClassification) -> list[float]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=decay)
        losses = []
        for _ in range(8):
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return losses

    whole, split = (bert(2, WIDTH, dropout=0.0).train() for _ in range(2))
    start = words(split).weight.detach().clone()
    expected = trained(whole)
    with only_occurring_trained(split, SEEN):
        found = trained(split)
    assert found == pytest.approx(expected, rel=1e-4)
    assert expected[-1] < expected[0]
    weights = dict(whole.named_parameters())
    other = [token for token in range(VOCABULARY) if token not in SEEN]
    for name, weight in split.named_parameters():
        if weight is words(split).weight:
            assert weight[other].equal(start[other])
            assert not weight[SEEN].equal(start[SEEN])
            shrunk = start[other] * (1 - 1e-2 * decay) ** 8
            torch.testing.assert_close(weights[name][other], shrunk, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(weights[name][SEEN], weight[SEEN], rtol=1e-3, atol=1e-4)
        else:
            torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-4)


def test_the_model_is_whole_again_whatever_happens(bert: Bert) -> None:
    model = bert(1, WIDTH)
    before, names = words(model), list(model.state_dict())

    def interrupted() -> None:
        with only_occurring_trained(model, SEEN), torch.no_grad():
            split = words(model)
            assert isinstance(split, SplitEmbedding)
            split.trained[SEEN.index(7)] = 5
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert words(model) is before
    assert (before.weight[7] == 5).all()
    assert list(model.state_dict()) == names


def test_a_checkpoint_holds_all_of_it(bert: Bert) -> None:
    one, other = bert(1, WIDTH, seed=1), bert(1, WIDTH, seed=2)
    with only_occurring_trained(one, SEEN), only_occurring_trained(other, SEEN):
        other.load_state_dict(one.state_dict())
    assert words(other).weight.equal(words(one).weight)


@pytest.mark.parametrize("kind", ["tied", "frozen", "not plain", "norms limited"])
def test_what_is_not_a_plain_embedding_of_its_own_is_left_alone(bert: Bert, kind: str) -> None:
    class Scaled(nn.Embedding):
        pass

    model = bert(1, WIDTH)
    if kind == "tied":
        model.decoder = nn.Linear(WIDTH, VOCABULARY)
        model.decoder.weight = words(model).weight
    elif kind == "frozen":
        words(model).requires_grad_(False)
    elif kind == "not plain":
        model.set_input_embeddings(Scaled(VOCABULARY, WIDTH))
    else:
        words(model).max_norm = 1.0
    before = words(model)
    with only_occurring_trained(model, SEEN):
        assert words(model) is before


def test_what_occurs_is_what_the_chosen_rows_hold() -> None:
    rows = Dataset.from_dict({"input_ids": [[2, 5, 3], [2, 9, 9, 3], [2, 4, 3]], "labels": [0] * 3})
    assert occurring(rows, 0) == {0, 2, 3, 4, 5, 9}
    assert occurring(rows.select([1]), 3) == {2, 3, 9}
