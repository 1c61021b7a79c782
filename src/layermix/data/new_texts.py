"""Reads texts to predict, block by block.

A problem of the whole file is a `DataError` when it is opened. A row that cannot be read stands in
its block as None, so that the rows keep their places; its problem is reported at the end.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from layermix.data.columns import (
    Text,
    check_texts,
    check_words,
    find_text_columns,
    find_word_column,
    has_text_columns,
)
from layermix.data.files import Block, OnNote, Quoting, Reader, open_file
from layermix.data.tables import Diagnostics, Table
from layermix.data.words import words_of
from layermix.errors import DataError, UnreadRowsError

SAMPLE = 10_000
"""Lines of a TSV file from which it is judged whether quote marks delimit fields."""

SHOWN = 20
"""Problems that are kept to be reported; the others are counted."""


class WordText(NamedTuple):
    """A text whose words are to have answers.

    Attributes:
        text: It alone.
        words: Where its words stand.
    """

    text: Text
    words: Sequence[tuple[int, int]]


Row = Text | WordText
"""How a text is given."""


class TextStream:
    """The texts of one file, in blocks; made by `open_texts`, read once.

    Attributes:
        columns: The one or two text columns.
        rows: How many rows have been read so far.
        unread: How many of them could not be.

    Raises:
        DataError: There are no rows, or none of the first block can be read.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        reader: Reader,
        rows_of: Callable[[Table, tuple[str, ...]], Sequence[Row]],
    ) -> None:
        self.columns = columns
        self._rows_of = rows_of
        self.rows = self.unread = 0
        self.expected = reader.count
        """How many rows there are, if that is known without parsing; quoted line breaks count."""
        self._source = reader.head.source
        self.problems: list[str] = []
        """What is wrong with the first of them, at most `SHOWN`."""
        self._total_problems = 0
        self._blocks = reader.blocks(columns)
        first = next(self._blocks, None)
        if first is None:
            raise DataError([f"{self._source}: {reader.no_rows}"])
        self._first = self._texts(first)
        if not any(self._first):
            _refuse_first(first)

    def __iter__(self) -> Iterator[list[Row | None]]:
        """Yields the rows by `BLOCK`, in their order; None is a row that could not be read."""
        yield self._first
        yield from map(self._texts, self._blocks)

    def raise_unread(self, place: str) -> None:
        """Raises an UnreadRowsError if a row could not be read; `place` is where the output is."""
        if self.unread:
            raise UnreadRowsError(
                self.problems, self._total_problems, self.unread, self.rows, place
            )

    def _texts(self, block: Block) -> list[Row | None]:
        texts = self._rows_of(block.table, self.columns)
        by_number = dict(zip(block.table.numbers, texts, strict=True))
        problems = block.table.diagnostics.of(self._source)
        bad = {bisect_right(block.numbers, number) - 1 for number, _ in problems}
        self.problems += [message for _, message in problems[: SHOWN - len(self.problems)]]
        self._total_problems += len(problems)
        self.rows += len(block.numbers)
        self.unread += len(bad)
        return [
            None if row in bad else by_number[number] for row, number in enumerate(block.numbers)
        ]


def _texts_with_words(table: Table, columns: tuple[str, ...]) -> list[WordText]:
    """Returns texts with their words, as a list of words or else a rule has them."""
    texts, words = check_words(table, columns[0], words_of)
    return list(map(WordText, texts, words))


@contextmanager
def open_texts(
    source: str | Path | BinaryIO,
    text_columns: Sequence[str] | None = None,
    *,
    format: str | None = None,
    quoting: Quoting = "auto",
    header: bool = True,
    encoding: str = "utf-8",
    note: OnNote = lambda sentence: None,
    by_word: bool = False,
) -> Iterator[TextStream]:
    """Opens texts to predict; a label column is neither needed nor read.

    Args:
        source: A file, or an open binary stream such as `sys.stdin.buffer`.
        text_columns: One or two; found by their usual names if not given.
        format: As for `open_file`.
        quoting: As in `DataConfig.quoting`, but judged from the first `SAMPLE` lines.
        header: As in `DataConfig.header`.
        encoding: As in `DataConfig.encoding`.
        note: As for `open_file`.
        by_word: Whether words are to have answers: each row is then a `WordText`, and its column
            may hold lists of words, as CoNLL has them.

    Raises:
        DataError: The file cannot be used as a whole, or not one row of the first block can.
    """
    diagnostics = Diagnostics()
    with open_file(
        source,
        diagnostics,
        format=format,
        quoting=quoting,
        header=header,
        encoding=encoding,
        sample=SAMPLE,
        note=note,
    ) as reader:
        diagnostics.raise_problems()
        if reader.head.has_lines and not reader.head.columns:  # JSON lines without an object
            _refuse_first(next(reader.blocks(None)))
        find = find_word_column if by_word else find_text_columns
        columns = find(reader.head, text_columns, None)
        if columns is None or not has_text_columns(reader.head, columns):
            diagnostics.stop()
        yield TextStream(columns, reader, _texts_with_words if by_word else check_texts)


def _refuse_first(block: Block) -> NoReturn:
    try:
        block.table.diagnostics.stop()
    except DataError as error:
        raise DataError(
            error.problems,
            hint=f"none of the first {len(block.numbers):,} row(s) can be read, so nothing was "
            "labelled; is it another file, or another format (--format)?",
        ) from None
