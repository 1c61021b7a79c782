"""Tokenizers are equal if they make the same of every text; a saved one loads in transformers 4."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertTokenizer, DistilBertTokenizer, PreTrainedTokenizerFast

from layermix.models.encoder import MODEL_INPUTS
from layermix.models.tokenizers import equal_inputs, equal_padding, save_tokenizer

ALL = frozenset(MODEL_INPUTS)
LOWER, CAPITALS = [["a b", "c"], ["c d", "e"]], [["a b", "c"], ["C d", "e"]]


def never() -> Iterator[list[list[str]]]:
    yield pytest.fail("tokenizers of equal settings need no texts")


def test_tokenizers_of_equal_settings_are_the_same_without_a_text(tokenizer: BertTokenizer) -> None:
    copy = BertTokenizer(vocab=tokenizer.get_vocab())
    copy("a b c", truncation=True, max_length=3, padding="max_length")  # leaves a state behind
    assert equal_inputs(tokenizer, tokenizer, never()) == ALL
    assert equal_inputs(tokenizer, copy, never()) == ALL


def test_other_vocabularies_or_sides_are_told_without_a_text(tokenizer: BertTokenizer) -> None:
    words = tokenizer.get_vocab()
    for other in (
        BertTokenizer(vocab={**words, "new": len(words)}),
        BertTokenizer(vocab=words, padding_side="left"),
        BertTokenizer(vocab=words, truncation_side="left"),
    ):
        assert equal_inputs(tokenizer, other, never()) == frozenset()


def test_tokenizers_of_other_settings_are_compared_on_every_text(tokenizer: BertTokenizer) -> None:
    cased = BertTokenizer(vocab=tokenizer.get_vocab(), do_lower_case=False)
    assert equal_inputs(tokenizer, cased, [LOWER]) == ALL
    assert "input_ids" not in equal_inputs(tokenizer, cased, [LOWER, CAPITALS])
    assert "input_ids" not in equal_inputs(tokenizer, cased, [LOWER] * 200 + [CAPITALS])


def test_equal_tokens_with_other_token_types_are_told(tokenizer: BertTokenizer) -> None:
    other = DistilBertTokenizer(vocab=tokenizer.get_vocab())
    assert equal_inputs(tokenizer, other, [LOWER]) == {"input_ids", "attention_mask"}


def test_a_tokenizer_without_a_fast_one_is_compared_on_every_text(
    tokenizer: BertTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = BertTokenizer(vocab=tokenizer.get_vocab())
    monkeypatch.setattr(BertTokenizer, "backend_tokenizer", None)
    with pytest.raises(pytest.fail.Exception):
        equal_inputs(tokenizer, copy, never())


def test_padding_is_compared_apart_from_tokens(tokenizer: BertTokenizer) -> None:
    words = tokenizer.get_vocab()
    assert equal_padding(tokenizer, BertTokenizer(vocab=words))
    assert not equal_padding(tokenizer, BertTokenizer(vocab=words, pad_token="[MASK]"))
    assert not equal_padding(tokenizer, BertTokenizer(vocab=words, padding_side="left"))


def test_a_tokenizer_is_saved_under_the_names_that_transformers_4_knows(
    tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    save_tokenizer(tokenizer, tmp_path)
    config = tmp_path / "tokenizer_config.json"
    assert json.loads(config.read_text(encoding="utf-8"))["tokenizer_class"] == "BertTokenizer"
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    plain.add_special_tokens({"extra_special_tokens": ["<x>"]})
    save_tokenizer(plain, tmp_path)
    saved = json.loads(config.read_text(encoding="utf-8"))
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert saved["additional_special_tokens"] == ["<x>"]
    assert "extra_special_tokens" not in saved  # 4 takes a mapping under this name
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("a <x> b").input_ids == plain("a <x> b").input_ids
    assert again.all_special_tokens == plain.all_special_tokens


def test_a_saved_tokenizer_does_not_depend_on_earlier_calls(
    tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    words = tokenizer.get_vocab()
    used = BertTokenizer(vocab=words)
    used(["a b c", "d"], truncation=True, max_length=4, padding="max_length")
    save_tokenizer(BertTokenizer(vocab=words), tmp_path / "fresh")
    save_tokenizer(used, tmp_path / "used")
    files = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("fresh", "used")]
    assert files[0] == files[1]
    assert json.loads(files[1])["truncation"] is json.loads(files[1])["padding"] is None
