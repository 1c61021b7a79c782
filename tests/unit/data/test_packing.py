"""Packing: every token once and in order, rows of one length, nothing read before it is needed."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizer

from layermix.data.packing import (
    TOGETHER,
    Frame,
    held_out_rows,
    pack,
    split_rows,
    tokenized,
    write_rows,
)
from layermix.data.tokenization import Collator
from layermix.errors import ConfigError, ModelError

DOCUMENTS = st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=12)


@given(DOCUMENTS, st.integers(1, 7))
def test_every_token_comes_once_in_order_with_a_separator_between_documents(
    documents: list[list[int]], size: int
) -> None:
    rows = list(pack(documents, size, separator=0))
    assert all(len(row) == size for row in rows[:-1])
    assert not rows or 0 < len(rows[-1]) <= size
    assert not any(row[0] == 0 for row in rows)
    joined = [token for row in rows for token in row]
    assert [token for token in joined if token] == [
        one for document in documents for one in document
    ]
    plain = [token for row in pack(documents, size) for token in row]
    assert plain == [token for token in joined if token]


def test_rows_by_hand() -> None:
    assert list(pack([[1, 2, 3, 4], [5]], 4, separator=0)) == [[1, 2, 3, 4], [5]]  # a full row
    assert list(pack([[1, 2, 3], [4]], 4, separator=0)) == [[1, 2, 3, 0], [4]]
    assert list(pack([[1], [], [2]], 4, separator=0)) == [[1, 0, 2]]  # an empty document
    assert list(pack([list(range(1, 10))], 4)) == [[1, 2, 3, 4], [5, 6, 7, 8], [9]]


def test_documents_are_read_as_rows_are_needed(tokenizer: BertTokenizer) -> None:
    read = 0

    def documents() -> Iterator[str]:
        nonlocal read
        while True:  # a corpus without an end
            read += 1
            yield "a b c d e f g h"

    rows = pack(tokenized(documents(), tokenizer), 4)
    assert len([next(rows) for _ in range(10)]) == 10
    assert read == TOGETHER


def test_a_limit_of_tokens_ends_the_reading(tokenizer: BertTokenizer) -> None:
    documents = (text for text in ("a b c", "d e f", "g"))
    ids = tokenizer("a b c d", add_special_tokens=False)["input_ids"]
    found = [token for part in tokenized(documents, tokenizer, most=4) for token in part]
    assert found == ids


def test_the_frame_is_what_the_tokenizer_puts_around_a_text(tokenizer: BertTokenizer) -> None:
    frame = Frame.of(tokenizer)
    assert frame.size == 2
    assert frame.separator == tokenizer.sep_token_id
    inner = tokenizer("a b c", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a b c")
    assert frame.around(inner) == {
        name: list(whole[name]) for name in ("input_ids", "token_type_ids")
    }


class Lowercased(BertTokenizer):  # what it adds is in the middle of the text
    def __call__(self, *arguments: object, **options: object) -> dict[str, list[int]]:
        return {"input_ids": [5, 6] if options else [5, 2, 6]}


def test_a_tokenizer_that_frames_no_text_is_refused(tokenizer: BertTokenizer) -> None:
    odd = Lowercased(vocab=tokenizer.get_vocab())
    with pytest.raises(ModelError, match=r"found the tokens \[5, 2, 6\] of 'a text', wanted"):
        Frame.of(odd)


def corpus(lines: int) -> list[str]:
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [" ".join(draw.choices(letters, k=draw.randint(1, 20))) for _ in range(lines)]


def test_rows_on_disk_are_those_of_the_corpus_and_the_same_bytes_again(
    tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    texts, files = corpus(700), [tmp_path / name for name in ("one", "other")]
    counted: list[int] = []
    packed = [
        write_rows(iter(texts), tokenizer, 16, file, progress=counted.append) for file in files
    ]
    assert packed[0] == packed[1]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sum(counted) == 2 * packed[0].tokens
    learned, held_out = split_rows(files[0], 0.1, 500)
    assert len(held_out) == round(packed[0].rows / 10) > 40
    assert set(learned["row_id"]) | set(held_out["row_id"]) == set(range(packed[0].rows))
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id}
    both = sorted([*learned, *held_out], key=lambda row: row["row_id"])
    assert all(len(row["input_ids"]) == 16 == row["length"] for row in both[:-1])
    assert all(row["input_ids"][0] == tokenizer.cls_token_id for row in both)
    assert all(row["input_ids"][-1] == tokenizer.sep_token_id for row in both)
    found = [token for row in both for token in row["input_ids"] if token not in special]
    wanted = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert found == [token for ids in wanted for token in ids]
    batch = Collator(tokenizer)(both[-3:])
    assert batch["attention_mask"].sum(1).tolist() == [16, 16, both[-1]["length"]]


def test_rows_that_are_held_out_are_spread_and_limited() -> None:
    assert held_out_rows(1000, 0.01, 500) == list(range(50, 1000, 100))
    assert len(held_out_rows(10**6, 0.01, 500)) == 500
    assert held_out_rows(3, 0.01, 500) == [1]


def test_a_length_without_room_for_text_is_refused(
    tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"--texts.max_length 2 leaves no room .* wanted 3 or more"
    ):
        write_rows(["a"], tokenizer, 2, tmp_path / "rows")
