"""Packs documents into token rows of one length, written to disk as they are made.

A row is what the tokenizer makes of one text, with the tokens of documents, one after the other, in
the place of the text's. Between two documents stands the separator, as in RoBERTa's
FULL-SENTENCES (Liu et al. 2019, arXiv 1907.11692); a document goes on in the next row.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedTokenizerBase

from layermix.errors import ConfigError, ModelError
from layermix.evaluation.metrics import UNLABELLED

TOGETHER = 256
"""Documents that are tokenised, and rows that are written, together."""


@dataclass(frozen=True)
class Frame:
    """What a tokenizer puts around the tokens of a text.

    Attributes:
        before: Special tokens before the text.
        after: Special tokens after it.
        separator: Stands between two documents; None if the tokenizer has no such token.
        types: Token types of `before`, of the text, and of `after`; None if it makes none.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    separator: int | None
    types: tuple[tuple[int, ...], int, tuple[int, ...]] | None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "Frame":
        """The frame of a tokenizer.

        Raises:
            ModelError: If what it adds does not stand around the text.
        """
        text = "a text"
        whole, bare = tokenizer(text), tokenizer(text, add_special_tokens=False)["input_ids"]
        ids, size = whole["input_ids"], len(bare)
        starts = [at for at in range(len(ids) - size + 1) if ids[at : at + size] == bare]
        if not starts:
            raise ModelError(
                f"{type(tokenizer).__name__}: found the tokens {ids} of {text!r}, wanted special "
                f"tokens around {bare}; rows of several documents cannot be made with it"
            )
        start, end = starts[0], starts[0] + size
        types = whole.get("token_type_ids")
        return cls(
            tuple(ids[:start]),
            tuple(ids[end:]),
            tokenizer.sep_token_id,
            None if types is None else (tuple(types[:start]), types[start], tuple(types[end:])),
        )

    @property
    def size(self) -> int:
        """How many tokens it has."""
        return len(self.before) + len(self.after)

    def around(self, tokens: Sequence[int]) -> dict[str, list[int]]:
        """The model inputs of a row with these tokens."""
        row = {"input_ids": [*self.before, *tokens, *self.after]}
        if self.types is not None:
            before, inner, after = self.types
            row["token_type_ids"] = [*before, *([inner] * len(tokens)), *after]
        return row


def pack(
    documents: Iterable[Sequence[int]], size: int, separator: int | None = None
) -> Iterator[list[int]]:
    """Yields the tokens of documents in rows of `size`; only the last row may be shorter.

    Every token comes once, in its order. The separator stands between two documents, never at the
    beginning of a row.

    Args:
        documents: Their tokens; read as they are needed.
        size: Tokens of a row, without special tokens around it.
        separator: None puts nothing between documents.

    Examples:
        >>> list(pack([[1, 2], [3, 4, 5], [6]], 4, separator=0))
        [[1, 2, 0, 3], [4, 5, 0, 6]]
    """
    row: list[int] = []
    for tokens in documents:
        if row and tokens and separator is not None:
            row.append(separator)
        start = 0
        while len(row) + len(tokens) - start >= size:
            end = start + size - len(row)
            yield [*row, *tokens[start:end]]
            row, start = [], end
        row += tokens[start:]
    if row:
        yield row


def tokenized(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, most: int | None = None
) -> Iterator[list[int]]:
    """Yields the tokens of each document, without special tokens.

    Args:
        documents: Read as they are needed, `TOGETHER` at a time.
        tokenizer: Of the model.
        most: Stop after this many tokens; the last document is cut.
    """
    left = most
    documents = iter(documents)
    while block := list(islice(documents, TOGETHER)):
        encoded = tokenizer(
            block,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # documents may be longer than what a model takes
        )
        for tokens in encoded["input_ids"]:
            yield tokens[:left]
            if left is not None:
                left -= len(tokens)
                if left <= 0:
                    return


@dataclass(frozen=True)
class Packed:
    """What was written.

    Attributes:
        rows: How many.
        tokens: How many in them, with special tokens.
        sha256: Of the file.
    """

    rows: int
    tokens: int
    sha256: str


def write_rows(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    file: Path,
    *,
    tokens: int | None = None,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Packed:
    """Packs documents into rows and writes them, a few at a time.

    Args:
        documents: Read as they are needed.
        tokenizer: Of the model.
        max_length: Tokens of a row, with special tokens.
        file: An Arrow stream is written there, with the columns of a split of `Tokens`.
        tokens: Stop after this many, without special tokens.
        progress: Called with the number of tokens that were written since it was called last.

    Raises:
        ConfigError: If the special tokens leave no room for text.
    """
    frame = Frame.of(tokenizer)
    if max_length <= frame.size:
        raise ConfigError(
            f"--texts.max_length {max_length} leaves no room for text beside the special tokens of "
            f"{type(tokenizer).__name__}; wanted {frame.size + 1} or more"
        )
    inputs = ("input_ids", *(("token_type_ids",) if frame.types is not None else ()))
    numbers = ("labels", "row_id", "length")
    schema = pa.schema(
        {name: pa.list_(pa.int32()) for name in inputs} | {name: pa.int64() for name in numbers}
    )
    packed = pack(tokenized(documents, tokenizer, tokens), max_length - frame.size, frame.separator)
    written = total = 0
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        while block := [frame.around(row) for row in islice(packed, TOGETHER)]:
            lengths = [len(row["input_ids"]) for row in block]
            columns: dict[str, Any] = {name: [row[name] for row in block] for name in inputs}
            columns["labels"] = [UNLABELLED] * len(block)
            columns["row_id"] = range(written, written + len(block))
            columns["length"] = lengths
            stream.write_batch(pa.record_batch(columns, schema))
            written, total = written + len(block), total + sum(lengths)
            progress(sum(lengths))
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return Packed(written, total, digest)


def split_rows(file: Path, share: float, most: int) -> tuple[Dataset, Dataset]:
    """Returns the rows to learn from and those that are held out, mapped from their file.

    Held out are rows at equal distances, so that they are of all parts of the corpus.

    Args:
        file: From `write_rows`; at least two rows.
        share: Of the rows that are held out, at least one row.
        most: Rows that are held out at most.
    """
    disable_progress_bars()
    rows = Dataset.from_file(str(file))
    held_out = held_out_rows(len(rows), share, most)
    chosen = set(held_out)
    learned = [row for row in range(len(rows)) if row not in chosen]
    return rows.select(learned), rows.select(held_out)


def held_out_rows(rows: int, share: float, most: int) -> list[int]:
    """Returns the numbers of the rows that are held out.

    Examples:
        >>> held_out_rows(100, 0.03, 500), held_out_rows(100, 0.5, 2), held_out_rows(2, 0.01, 500)
        ([16, 50, 83], [25, 75], [1])
    """
    count = min(most, max(1, round(share * rows)))
    return [(2 * place + 1) * rows // (2 * count) for place in range(count)]
