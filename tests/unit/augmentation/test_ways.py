"""Ways to make new texts: known answers on texts of letters."""

from itertools import islice
from typing import get_args

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from layermix.augmentation import ways
from layermix.augmentation.ways import (
    CANDIDATES,
    REPLACED,
    SHORTEST_CROP,
    WAYS,
    Corpus,
    Words,
)
from layermix.config.schema import AugmentWay
from layermix.data.columns import Text

PAIRS: list[Text] = [("a b c", "d e f"), ("a b x", "d e z"), ("q r s", "t u v"), ("q r w", "t u y")]


def corpus(texts: list[Text], tokenizer: BertTokenizer, embedding: torch.Tensor) -> Corpus:
    return Corpus(texts, tokenizer, embedding, np.random.default_rng(0))


@pytest.fixture
def embedding(tokenizer: BertTokenizer) -> torch.Tensor:
    """Letters on a circle, so that a letter's neighbours in the alphabet are the nearest."""
    angles = torch.arange(len(tokenizer)) * (2 * torch.pi / len(tokenizer))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_the_names_of_the_ways_are_those_of_the_config() -> None:
    assert tuple(WAYS) == get_args(AugmentWay)


def test_pairs_get_the_second_text_of_the_most_similar_row_first(
    tokenizer: BertTokenizer, embedding: torch.Tensor
) -> None:
    found = list(WAYS["neighbours"](corpus(PAIRS, tokenizer, embedding)))
    assert set(found[:4]) == {
        ("a b c", "d e z"),
        ("a b x", "d e f"),
        ("q r s", "t u y"),
        ("q r w", "t u v"),
    }
    assert len(found) == 4 * 3  # each row with each other one


def test_halves_of_similar_single_texts_are_joined(
    tokenizer: BertTokenizer, embedding: torch.Tensor
) -> None:
    texts: list[Text] = [("a b c d",), ("a b c e f",), ("q r",)]
    found = list(WAYS["neighbours"](corpus(texts, tokenizer, embedding)))
    assert {("a b c e f",), ("a b c c d",)} <= set(found[:3])


def test_swapped_pairs_are_all_pairs_once(
    tokenizer: BertTokenizer, embedding: torch.Tensor
) -> None:
    found = list(WAYS["swap"](corpus(PAIRS, tokenizer, embedding)))
    assert sorted(found) == sorted((second, first) for first, second in PAIRS)


def test_a_crop_is_a_run_of_at_least_half_of_the_words(
    tokenizer: BertTokenizer, embedding: torch.Tensor
) -> None:
    text = "a b c d e f g h"
    found = list(islice(WAYS["crops"](corpus([(text,), (text,)], tokenizer, embedding)), 200))
    assert all(crop in text and len(crop.split()) >= SHORTEST_CROP * 8 for (crop,) in found)
    assert {len(crop.split()) for (crop,) in found} == {4, 5, 6, 7, 8}
    assert {crop[0] for (crop,) in found} >= {"a", "b", "e"}


def test_words_are_replaced_by_the_nearest_words_of_the_texts(
    tokenizer: BertTokenizer, embedding: torch.Tensor
) -> None:
    letters = "a b c d e f g h i j k l m n o p q r s t u v w x y z"
    own = corpus([(letters,), ("m, 7 M!",)], tokenizer, embedding)
    found = list(islice(WAYS["words"](own), 400))
    lines = [line for (line,) in found if len(line) > 10]
    changed = np.mean(
        [old != new for line in lines for old, new in zip(letters, line, strict=True)]
    )
    assert changed == pytest.approx(REPLACED / 2, abs=0.02)  # every second character is a space
    at_m = {line[letters.index("m")] for line in lines}
    assert len(at_m) == CANDIDATES + 1
    assert max(abs(ord(letter) - ord("m")) for letter in at_m) <= CANDIDATES // 2 + 1
    shorts = {line for (line,) in found if len(line) < 10}
    assert all(line[1:5] == ", 7 " and line[-1] == "!" for line in shorts)  # no word, no change
    assert len(shorts) > 5


def test_of_many_rows_some_are_looked_at(
    tokenizer: BertTokenizer, embedding: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[Text] = [(f"{one} {other}",) for one, other in zip("abcdef", "ghijkl", strict=True)]
    monkeypatch.setattr(ways, "COMPARED", 2)
    found = {text for (text,) in islice(WAYS["words"](corpus(texts, tokenizer, embedding)), 60)}
    seen = {letter for text in found for letter in text.split()}
    assert len(seen) == 4  # of two rows
    assert all(len(text.split()) == 2 for text in found)


def test_words_of_several_tokens_and_unknown_words_are_left(embedding: torch.Tensor) -> None:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b", "c"]
    tokenizer = BertTokenizer(vocab={name: number for number, name in enumerate(names)})
    words = Words(corpus([("ab a zz",), ("b c",)], tokenizer, embedding))
    assert set(words.forms.values()) == {"a", "b", "c"}
    random = np.random.default_rng(0)
    assert {words.replaced("ab zz", random) for _ in range(50)} == {"ab zz"}


def test_one_word_alone_has_nothing_to_be_replaced_by(
    tokenizer: BertTokenizer, embedding: torch.Tensor
) -> None:
    words = Words(corpus([("a",), ("a a",)], tokenizer, embedding))
    assert {words.replaced("a a", np.random.default_rng(0)) for _ in range(9)} == {"a a"}
