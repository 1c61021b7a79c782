"""Tokens: the same ids as the tokenizer gives, cut where said, padded as the model wants them."""

from typing import Any

import datasets
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from layermix.data.texts import TextData, from_splits
from layermix.data.tokenization import (
    Collator,
    Tokens,
    choose_max_length,
    tokenize,
    tokenize_split,
    tokenize_texts,
)
from layermix.errors import ConfigError, ModelError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


@pytest.fixture
def bert() -> PreTrainedTokenizerBase:
    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})


@pytest.fixture
def other() -> PreTrainedTokenizerBase:
    """Other ids, other special tokens, no token types: as the RoBERTa family has it."""
    words = ["<s>", "</s>", "<pad>", "<unk>", *"hgfedcba"]
    made = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )


def singles(*texts: str, **more: list[str]) -> TextData:
    def split(of: list[str]) -> list[dict[str, Any]]:
        return [{"text": text, "label": n % 2} for n, text in enumerate(of)]

    return from_splits(
        {"train": split([*texts]), "validation": split(["a b c"])}
        | {name: split(of) for name, of in more.items()}
    )


def pairs(*texts: tuple[str, str]) -> TextData:
    of = [{"text": a, "text_pair": b, "label": n % 2} for n, (a, b) in enumerate(texts)]
    return from_splits({"train": of, "validation": of})


def collated(tokens: Tokens, *tokenizers: PreTrainedTokenizerBase) -> dict[str, Any]:
    return Collator(*tokenizers)(list(tokens.splits["train"]))


def test_rows_hold_the_ids_labels_row_ids_and_lengths(bert: PreTrainedTokenizerBase) -> None:
    tokens = tokenize(pairs(("a b", "c"), ("d", "e")), bert, 16)
    assert list(tokens.splits["train"]) == [
        {"labels": 0, "row_id": 0, "input_ids": [2, 5, 6, 3, 7, 3]}
        | {"token_type_ids": [0, 0, 0, 0, 1, 1], "length": 6},
        {"labels": 1, "row_id": 1, "input_ids": [2, 8, 3, 9, 3]}
        | {"token_type_ids": [0, 0, 0, 1, 1], "length": 5},
    ]
    assert tokens.splits["validation"]["row_id"][:] == [2, 3]
    assert (tokens.max_length, tokens.cut) == (16, {"train": 0.0, "validation": 0.0})


def test_the_longer_text_is_cut_first_and_the_share_is_told(bert: PreTrainedTokenizerBase) -> None:
    tokens = tokenize(
        pairs(("a b c d e f", "g h"), ("a", "b"), ("a b", "c d"), ("a", "b")), bert, 7
    )
    rows = tokens.splits["train"]["input_ids"][:]
    assert rows[0] == [2, 5, 6, 3, 11, 12, 3]
    assert rows[2] == [2, 5, 6, 3, 7, 8, 3]
    assert tokens.splits["train"]["token_type_ids"][0] == [0, 0, 0, 0, 1, 1, 1]
    assert tokens.splits["train"]["length"][:] == [7, 5, 7, 5]
    assert tokens.cut["train"] == 0.25


def test_unlabeled_rows_follow_the_training_rows(bert: PreTrainedTokenizerBase) -> None:
    tokens = tokenize(singles("a", "b b b b b", "c", unlabeled=["d d d d d", "e"]), bert, 6)
    assert list(tokens.splits) == ["train", "validation"]
    assert tokens.splits["train"]["labels"][:] == [0, 1, 0, -100, -100]
    assert tokens.splits["train"]["row_id"][:] == [0, 1, 2, 4, 5]
    assert tokens.cut == {"train": 0.4, "validation": 0.0}


def test_two_tokenizers_give_two_encodings(
    bert: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase
) -> None:
    texts = pairs(("a b", "c"), ("d", "e"))
    tokens = tokenize(texts, other, 16, bert)
    train = tokens.splits["train"]
    assert train["input_ids"][0] == [0, 11, 10, 1, 1, 9, 1]
    assert train["length"][:] == [7, 6]
    assert "token_type_ids" not in train.column_names
    alone = tokenize(texts, bert, 16).splits["train"]
    for name in ("input_ids", "token_type_ids"):
        assert train[f"teacher_{name}"][:] == alone[name][:]
    # Only one of the two needs more than 6 tokens, which counts as cut.
    assert tokenize(texts, bert, 6, other).cut["train"] == 0.5
    assert tokenize(texts, bert, 6).cut["train"] == 0.0


def test_a_batch_is_padded_to_its_longest_row(
    bert: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase
) -> None:
    tokens = tokenize(singles("a b", "c", "d"), bert, 16, other)
    batch = collated(tokens, bert, other)
    assert batch["input_ids"].tolist() == [[2, 5, 6, 3], [2, 7, 3, 0], [2, 8, 3, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]
    assert batch["token_type_ids"].tolist() == [[0] * 4] * 3
    assert batch["labels"].tolist() == [0, 1, 0]
    assert batch["row_id"].tolist() == [0, 1, 2]
    assert set(batch["teacher_inputs"]) == {"input_ids", "attention_mask"}
    assert batch["teacher_inputs"]["input_ids"].tolist() == [
        [0, 11, 10, 1],
        [0, 9, 1, 2],
        [0, 8, 1, 2],
    ]
    tensors = [*batch.values(), *batch.pop("teacher_inputs").values()]
    assert all(t.dtype == torch.int64 for t in tensors if isinstance(t, torch.Tensor))


def test_padding_follows_the_tokenizers_side(bert: PreTrainedTokenizerBase) -> None:
    bert.padding_side = "left"
    batch = collated(tokenize(singles("a b", "c"), bert, 16), bert)
    assert batch["input_ids"].tolist() == [[2, 5, 6, 3], [0, 2, 7, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]


def test_a_batch_of_one_row_and_no_word_on_the_console(
    bert: PreTrainedTokenizerBase, capfd: pytest.CaptureFixture[str]
) -> None:
    bert.model_max_length = 4
    tokens = tokenize(singles("a b c d e", "b"), bert, 16)
    batch = Collator(bert)([tokens.splits["train"][0]])
    assert batch["input_ids"].tolist() == [[2, 5, 6, 7, 8, 9, 3]]
    assert "teacher_inputs" not in batch
    assert capfd.readouterr() == ("", "")


def test_rows_are_padded_to_a_given_length(bert: PreTrainedTokenizerBase) -> None:
    rows = list(tokenize(singles("a b", "c"), bert, 16, bert).splits["train"])
    batch = Collator(bert, bert, length=6)(rows)
    for inputs in (batch, batch["teacher_inputs"]):
        assert inputs["input_ids"].tolist() == [[2, 5, 6, 3, 0, 0], [2, 7, 3, 0, 0, 0]]
        assert inputs["attention_mask"].sum(1).tolist() == [4, 3]


def test_texts_in_memory_go_the_same_way(bert: PreTrainedTokenizerBase) -> None:
    split = singles("a", "b", unlabeled=["c d", "e f g h"]).splits["unlabeled"]
    rows, share = tokenize_split(split, bert, 4)
    found, cut = tokenize_texts([("c d",), ("e f g h",)], bert, 4)
    assert Collator(bert)(found)["input_ids"].tolist() == [[2, 7, 8, 3], [2, 9, 10, 3]]
    assert [{**row, "row_id": n} for n, row in enumerate(rows)] == found
    assert (share, cut) == (0.5, 1)
    pair, _ = tokenize_texts([("c", "d")], bert, 8)
    assert (pair[0]["input_ids"], pair[0]["length"]) == ([2, 7, 3, 8, 3], 5)
    with pytest.raises(ConfigError, match="leaves no room for text beside the special tokens"):
        tokenize_texts([("c", "d")], bert, 4)


@pytest.mark.parametrize(
    ("words", "limit", "wanted"),
    [
        ([3] * 100, 512, 8),
        ([6] * 100, 512, 8),  # 8 tokens with [CLS] and [SEP]
        ([7] * 100, 512, 16),
        ([3] * 99 + [50], 512, 8),  # one row in a hundred may be cut
        ([3] * 98 + [50, 40], 512, 48),  # of two, the shorter must fit
        ([3] * 98 + [50], 512, 56),  # one in 99 is more than 1 %
        ([50] * 100, 20, 20),
        ([3, 30], 512, 32),
    ],
)
def test_the_length_is_chosen_from_the_training_rows(
    bert: PreTrainedTokenizerBase, words: list[int], limit: int, wanted: int
) -> None:
    texts = singles(*(" ".join("a" * count) for count in words))
    assert choose_max_length(texts, bert, limit) == wanted
    assert tokenize(texts, bert, wanted).cut["train"] <= (0.01 if limit > 20 else 1.0)


def test_the_length_of_a_single_training_row(bert: PreTrainedTokenizerBase) -> None:
    texts = singles("a b c d e f g", "b")
    one = TextData(**{**vars(texts), "splits": {"train": texts.splits["train"].select([0])}})
    assert choose_max_length(one, bert, 512) == 16


def test_a_length_without_room_for_text_is_refused(
    bert: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase
) -> None:
    texts = pairs(("a b", "c"), ("d", "e"))
    assert tokenize(texts, bert, 5).splits["train"]["input_ids"][0] == [2, 5, 3, 7, 3]
    with pytest.raises(ConfigError) as caught:
        tokenize(texts, bert, 5, other)
    assert str(caught.value) == (
        "--data.max_length 5 leaves no room for text beside the special tokens of "
        f"{type(other).__name__}; wanted 6 or more"
    )


def test_a_tokenizer_without_padding_is_refused(
    bert: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase
) -> None:
    other.pad_token = None
    with pytest.raises(ModelError) as caught:
        Collator(bert, other)
    assert str(caught.value) == (
        f"{type(other).__name__} has no padding token, which batches need; set its pad_token and "
        "save it again"
    )


# -- words -----------------------------------------------------------------------------------------


def test_words_that_are_cut_off_take_no_room_where_nothing_is_scored(
    bert: PreTrainedTokenizerBase,
) -> None:
    texts = [(" ".join("abcd" * 50),), ("a b",)]
    words = [[(at, at + 1) for at in range(0, len(text), 2)] for (text,) in texts]
    rows, cut = tokenize_texts(texts, bert, 8, words)
    assert cut == 1
    assert [row["word_starts"] for row in rows] == [[1, 2, 3, 4, 5, 6], [1, 2]]
    batch = Collator(bert)(rows)
    assert batch["word_starts"].shape == batch["labels"].shape == (2, 6)


def test_the_first_token_of_a_word_follows_padding_on_the_left(
    bert: PreTrainedTokenizerBase,
) -> None:
    bert.padding_side = "left"
    rows, _ = tokenize_texts([("a b c",), ("a",)], bert, 8, [[(0, 1), (4, 5)], [(0, 1)]])
    assert Collator(bert)(rows)["word_starts"].tolist() == [[1, 3], [3, -1]]


def test_labels_of_words_need_a_fast_tokenizer(
    bert: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(bert), "is_fast", False)
    with pytest.raises(ModelError, match="wanted a fast tokenizer"):
        tokenize_texts([("a",)], bert, 8, [[(0, 1)]])
