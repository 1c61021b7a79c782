"""Where the words of a text stand: by rule, by spaces, or as a list of words has them.

A text is one string, whatever its labels are for. Words are places in it, so that every tokenizer
can say which of its tokens is the first of a word.
"""

import re
from collections.abc import Callable, Iterable, Sequence

import regex

Words = Sequence[tuple[int, int]]
"""Where each word begins and ends in its text, in characters; the end is exclusive."""

_LETTER = r"[[\p{L}\p{N}\p{M}]--\p{Han}]"
_WORD = regex.compile(
    rf"(?V1)\p{{Han}}\p{{M}}*|{_LETTER}(?:\p{{Cf}}*{_LETTER})*|[^\p{{Z}}\p{{Cc}}\p{{Cf}}]\p{{M}}*"
)
_SPACED = re.compile(r"\S+")


def words_of(text: str) -> list[tuple[int, int]]:
    """Returns the words of any text, as BERT cuts it before its vocabulary.

    A run of letters and digits is a word, and so is every other character that can be seen. A Han
    character is a word of its own; accents and other marks belong to what they stand on.

    Examples:
        >>> text = "Don't go_to 東京, café!"
        >>> [text[begin:end] for begin, end in words_of(text)]
        ['Don', "'", 't', 'go', '_', 'to', '東', '京', ',', 'café', '!']
        >>> words_of(" ")
        []
    """
    return [found.span() for found in _WORD.finditer(text)]


def spaced_words(text: str) -> list[tuple[int, int]]:
    """Returns the words of a text that has spaces between all of them.

    Examples:
        >>> spaced_words("U.S. firms ,")
        [(0, 4), (5, 10), (11, 12)]
    """
    return [found.span() for found in _SPACED.finditer(text)]


def cutter_of(rows: Iterable[tuple[str, Words]]) -> Callable[[str], list[tuple[int, int]]]:
    """Returns how texts like these are cut: at spaces if all of these are, else by the rule.

    Args:
        rows: Texts and their words.

    Examples:
        >>> cutter_of([("U.S. firms", [(0, 4), (5, 10)])]) is spaced_words
        True
    """
    spaced = all(spaced_words(text) == [*map(tuple, words)] for text, words in rows)
    return spaced_words if spaced else words_of


def joined(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Returns words with one space between them as a text, and where they stand in it.

    Examples:
        >>> joined(["in", "New York", "."])
        ('in New York .', [(0, 2), (3, 11), (12, 13)])
    """
    words, begin = list[tuple[int, int]](), 0
    for token in tokens:
        words.append((begin, begin + len(token)))
        begin += len(token) + 1
    return " ".join(tokens), words
