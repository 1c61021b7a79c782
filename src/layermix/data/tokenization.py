"""Tokenizes checked texts and pads the rows of a batch."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import generate_random_fingerprint
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from layermix.data.columns import Text
from layermix.data.splits import WORDS
from layermix.data.texts import TextData
from layermix.data.words import Words
from layermix.errors import ConfigError, ModelError
from layermix.evaluation.metrics import UNLABELLED

SHARE_CUT = 0.01
"""Largest share of the training rows that a maximum length chosen from the data may cut."""

_INPUTS = ("input_ids", "token_type_ids")  # the attention mask is made with the padding
_STARTS, _OFFSETS = "word_starts", "offset_mapping"
_TEACHER = "teacher_"


@dataclass(frozen=True)
class Tokens:
    """Token rows by split, without padding.

    Attributes:
        splits: `train` (the unlabeled rows come last), `validation` and, if given, `test`. Columns:
            `input_ids`, `token_type_ids` (if the tokenizer makes them), `labels`, `row_id` and
            `length` (number of `input_ids`); with a second tokenizer also `teacher_input_ids` and,
            if it makes them, `teacher_token_type_ids`. Where words have labels also `word_starts`
            (and `teacher_word_starts`): the place of the first token of each word, −1 for a word
            that was cut off, or that the tokenizer leaves out.
        max_length: Largest number of tokens of a row.
        cut: Share of rows in each split that either tokenizer cut, in [0, 1].
    """

    splits: Mapping[str, Dataset]
    max_length: int
    cut: Mapping[str, float]


def choose_max_length(texts: TextData, tokenizer: PreTrainedTokenizerBase, limit: int) -> int:
    """Returns the smallest multiple of 8 that cuts at most 1 % of the training rows.

    Args:
        texts: Its training rows count, without the unlabeled ones.
        tokenizer: Counts the tokens, including special tokens.
        limit: Largest number of tokens that model and tokenizer accept; the result is at most this.

    Returns:
        A number of tokens.
    """
    train = texts.splits["train"]
    lengths: list[int] = []
    for start in range(0, len(train), 1000):
        batch = train[start : start + 1000]
        batch.pop(WORDS, None)
        encoded = _encode(batch, tokenizer)
        lengths += [len(ids) for ids in encoded["input_ids"]]
    longest_kept = sorted(lengths)[len(lengths) - 1 - int(SHARE_CUT * len(lengths))]
    return min(-(-longest_kept // 8) * 8, limit)


def tokenize(
    texts: TextData,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_numbers: NDArray[np.int64] | None = None,
) -> Tokens:
    """Tokenizes every split; in a pair, the longer text is cut first.

    Args:
        texts: Checked texts.
        tokenizer: The student's tokenizer.
        max_length: Largest number of tokens of a row, including special tokens.
        teacher_tokenizer: The teacher's tokenizer if it differs; it cuts at the same length.
        teacher_numbers: The teacher's number of each of the student's tokens, (V,), if it has all
            of them. It then reads the student's tokens in the rows to train on, so that hidden
            states stand for the same tokens, and its own in all other rows.

    Raises:
        ConfigError: If the maximum length has no room for text beside the special tokens.
    """
    splits: dict[str, Dataset] = {}
    cut: dict[str, float] = {}
    for name, split in texts.splits.items():
        own = teacher_numbers if name in ("train", "unlabeled") else None
        splits[name], cut[name] = tokenize_split(
            split, tokenizer, max_length, teacher_tokenizer, own
        )
    if "unlabeled" in splits:
        train, unlabeled = splits["train"], splits.pop("unlabeled")
        splits["train"] = concatenate_datasets([train, unlabeled])
        rows_cut = cut["train"] * len(train) + cut.pop("unlabeled") * len(unlabeled)
        cut["train"] = rows_cut / len(splits["train"])
    return Tokens(splits, max_length, cut)


def tokenize_split(
    split: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_numbers: NDArray[np.int64] | None = None,
) -> tuple[Dataset, float]:
    """Tokenizes one split of `TextData`; returns its token rows and the share of rows cut.

    Raises:
        ConfigError: As `tokenize`.
    """
    tokenizers = {"": tokenizer}
    if teacher_tokenizer is not None:
        tokenizers[_TEACHER] = teacher_tokenizer
    if teacher_tokenizer is not None and teacher_numbers is not None:
        # The student's tokens, but the inputs that the teacher takes.
        tokenizers[_TEACHER] = copy.copy(tokenizer)
        tokenizers[_TEACHER].model_input_names = teacher_tokenizer.model_input_names
    _check_room(tokenizers.values(), "text_pair" in split.column_names, max_length)
    rows_cut = 0

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        nonlocal rows_cut
        rows, cut = _token_rows(batch, tokenizers, max_length)
        rows_cut += cut
        if teacher_numbers is not None:
            ids = rows[f"{_TEACHER}input_ids"]
            rows[f"{_TEACHER}input_ids"] = [teacher_numbers[row].tolist() for row in ids]
        return rows

    # A fingerprint is given because `datasets` would pickle the tokenizer to make one.
    encoded = split.map(
        encode,
        batched=True,
        remove_columns=split.column_names,
        load_from_cache_file=False,
        new_fingerprint=generate_random_fingerprint(),
        desc="tokenizing",
    )
    return encoded, rows_cut / len(split)


def tokenize_texts(
    texts: Sequence[Text],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    words: Sequence[Words] | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """Tokenizes unlabelled texts; returns rows like those of `Tokens` and the number of rows cut.

    Args:
        texts: One or two strings each.
        tokenizer: Of the model.
        max_length: Largest number of tokens of a row.
        words: Of each text, where they stand, if words are to have answers.

    Raises:
        ConfigError: As `tokenize`.
    """
    _check_room([tokenizer], len(texts[0]) == 2, max_length)
    parts = zip(("text", "text_pair"), zip(*texts, strict=True), strict=False)
    batch: dict[str, Any] = {"row_id": range(len(texts)), **dict(parts)}
    batch["label"] = [UNLABELLED] * len(texts)
    if words is not None:
        batch["label"] = [[UNLABELLED] * len(of_text) for of_text in words]
        batch[WORDS] = [[*chain.from_iterable(of_text)] for of_text in words]
    columns, cut = _token_rows(batch, {"": tokenizer}, max_length)
    if words is not None:  # memory should not grow with words that are cut off
        starts = columns[_STARTS] = [_without_end(row) for row in columns[_STARTS]]
        columns["labels"] = [[UNLABELLED] * len(row) for row in starts]
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows], cut


def _without_end(starts: list[int]) -> list[int]:
    """Returns the first tokens of a row's words, up to the last one that has some."""
    last = max((place for place, start in enumerate(starts) if start >= 0), default=0)
    return starts[: last + 1]


def _check_room(tokenizers: Iterable[PreTrainedTokenizerBase], pair: bool, max_length: int) -> None:
    """Raises a ConfigError if the special tokens leave no room for text."""
    for tokenizer in tokenizers:
        needed = tokenizer.num_special_tokens_to_add(pair=pair) + 1 + pair
        if max_length < needed:
            raise ConfigError(
                f"--data.max_length {max_length} leaves no room for text beside the special tokens "
                f"of {type(tokenizer).__name__}; wanted {needed} or more"
            )


def _token_rows(
    batch: Mapping[str, Sequence[Any]],
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
    max_length: int,
) -> tuple[dict[str, Any], int]:
    """Returns the columns of `Tokens` for a batch of texts, and how many rows were cut."""
    rows: dict[str, Any] = {"labels": batch["label"], "row_id": batch["row_id"]}
    long_rows: set[int] = set()
    for prefix, tokenizer in tokenizers.items():
        encoded = _encode(batch, tokenizer)
        long = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) > max_length]
        if long:
            # Encoded twice because not every tokenizer reports which rows it has cut.
            short = _encode(batch, tokenizer, rows=long, max_length=max_length)
            for name, values in encoded.items():
                for row, value in zip(long, short[name], strict=True):
                    values[row] = value
        long_rows.update(long)
        if WORDS in batch:
            found = zip(encoded.pop(_OFFSETS), batch[WORDS], strict=True)
            encoded[_STARTS] = [_word_starts(offsets, words) for offsets, words in found]
        rows |= {prefix + name: values for name, values in encoded.items()}
    rows["length"] = [len(ids) for ids in rows["input_ids"]]
    return rows, len(long_rows)


def _encode(
    batch: Mapping[str, Sequence[Any]],
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[int] | None = None,
    max_length: int | None = None,
) -> dict[str, list[list[Any]]]:
    """Returns the token ids of a batch of texts or pairs, or of some rows; cuts at `max_length`.

    Where there are words also the place of each token in the text.

    Raises:
        ModelError: If there are words, and the tokenizer does not tell those places.
    """
    if WORDS in batch and not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} does not tell where a token stands in the text, which "
            "labels of words need; wanted a fast tokenizer (a tokenizer.json beside the model)"
        )
    columns = [list(batch[name]) for name in ("text", "text_pair") if name in batch]
    if rows is not None:
        columns = [[column[row] for row in rows] for column in columns]
    encoded = tokenizer(
        *columns,
        truncation="longest_first" if max_length is not None else False,
        max_length=max_length,
        return_offsets_mapping=WORDS in batch,
        verbose=False,  # longer rows than the model takes are expected here
    )
    return {name: list(encoded[name]) for name in (*_INPUTS, _OFFSETS) if name in encoded}


def _word_starts(offsets: Sequence[tuple[int, int]], words: Sequence[int]) -> list[int]:
    """Returns the first token of each word, −1 where there is none.

    A token that belongs to two words is the first of both.

    Args:
        offsets: Where each token begins and ends in the text; special tokens are empty.
        words: The same of each word, one after the other: begin, end, begin, end, …

    Examples:
        >>> _word_starts([(0, 0), (0, 2), (2, 4), (5, 6), (0, 0)], [0, 4, 5, 6, 7, 9])
        [1, 3, -1]
    """
    starts, token = list[int](), 0
    for begin, end in zip(words[::2], words[1::2], strict=True):
        while token < len(offsets) and offsets[token][1] <= begin:
            token += 1
        fits = token < len(offsets) and offsets[token][0] < end
        starts.append(token if fits else -1)
    return starts


class Collator:
    """Pads token rows and joins them into one batch.

    Args:
        tokenizer: Pads `input_ids`.
        teacher_tokenizer: Pads `teacher_input_ids`; the one given to `tokenize`, if any.
        length: Number of tokens to pad every row to; None: the longest row of the batch.

    Raises:
        ModelError: If a tokenizer has no padding token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
        length: int | None = None,
    ) -> None:
        for given in filter(None, (tokenizer, teacher_tokenizer)):
            if given.pad_token is None:
                raise ModelError(
                    f"{type(given).__name__} has no padding token, which batches need; set its "
                    "pad_token and save it again"
                )
        self.tokenizer = tokenizer
        self.teacher_tokenizer = teacher_tokenizer
        self.length = length

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the padded batch.

        Args:
            rows: B rows of a split of `Tokens`.

        Returns:
            `input_ids`, `attention_mask` and, if the tokenizer makes them, `token_type_ids`: (B, T)
            int64; `row_id`: (B,) int64; `labels`: (B,) int64 or float32, or (B, C) int64, as the
            kind of label has them; with a teacher tokenizer also `teacher_inputs`, its own
            `input_ids` and so on. Where words have labels, these are (B, W) int64, and beside both
            kinds of `input_ids` stand `word_starts`, (B, W) int64, −1 where there is no word.
        """
        batch: dict[str, Any] = _pad(self.tokenizer, rows, "", self.length)
        if _STARTS in batch:
            batch["labels"] = _as_wide([row["labels"] for row in rows], UNLABELLED)
        else:
            labels = torch.tensor([row["labels"] for row in rows])
            batch["labels"] = labels.float() if labels.is_floating_point() else labels
        batch["row_id"] = torch.tensor([row["row_id"] for row in rows], dtype=torch.int64)
        if self.teacher_tokenizer is not None:
            batch["teacher_inputs"] = _pad(self.teacher_tokenizer, rows, _TEACHER, self.length)
        return batch


def _pad(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    prefix: str,
    length: int | None,
) -> dict[str, Tensor]:
    inputs = {
        name: [row[prefix + name] for row in rows] for name in _INPUTS if prefix + name in rows[0]
    }
    padded = pad_without_fast_tokenizer_warning(  # type: ignore[no-untyped-call]  # transformers
        tokenizer,
        inputs,
        padding="longest" if length is None else "max_length",
        max_length=length,
        return_attention_mask=True,
        return_tensors="pt",
    )
    batch = dict(padded)
    if prefix + _STARTS in rows[0]:
        starts = _as_wide([row[prefix + _STARTS] for row in rows], -1)
        if tokenizer.padding_side == "left":
            lengths = torch.tensor([len(ids) for ids in inputs["input_ids"]])
            shift = batch["input_ids"].shape[1] - lengths[:, None]
            starts = torch.where(starts < 0, starts, starts + shift)
        batch[_STARTS] = starts
    return batch


def _as_wide(rows: Sequence[Sequence[int]], padding: int) -> Tensor:
    """Returns rows of different lengths as one tensor, padded on the right."""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=padding)
