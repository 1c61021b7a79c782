"""Words are found where they stand in a text, none is lost, and none stands in another."""

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BasicTokenizer

from layermix.data.words import joined, spaced_words, words_of

UNSEEN = ("Cc", "Cf", "Zs", "Zl", "Zp")


def cut(text: str) -> list[str]:
    return [text[begin:end] for begin, end in words_of(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("EU rejects 3.5% of it.", ["EU", "rejects", "3", ".", "5", "%", "of", "it", "."]),
        ("snake_case@x", ["snake", "_", "case", "@", "x"]),
        ("東京都 is とうきょう", ["東", "京", "都", "is", "とうきょう"]),
        ("cafe\u0301 \u2764\ufe0f!", ["cafe\u0301", "\u2764\ufe0f", "!"]),
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627 co\u00adop",
            ["\u0645\u06cc\u200c\u062e\u0648\u0627", "co\u00adop"],
        ),
        ("\u200ba\u200b \ufeff", ["a"]),
        ("\u0301x", ["\u0301x"]),
        ("", []),
    ],
)
def test_words_by_rule(text: str, words: list[str]) -> None:
    assert cut(text) == words


@pytest.mark.parametrize(
    "text", ["Don't go_to (东京), café 5!", "a-b/c.d 1,000 U.S. [x] ~y^z |", "naïve Ünï 中a文1"]
)
def test_words_are_those_of_berts_basic_tokenizer(text: str) -> None:
    basic = BasicTokenizer(do_lower_case=False, strip_accents=False)
    assert cut(text) == basic.tokenize(text)


@given(st.text() | st.text(st.sampled_from("ab 1.,_\u0301\u200d\u00ad東\n\ufe0f❤")))
def test_words_have_every_character_that_can_be_seen_once(text: str) -> None:
    words = words_of(text)
    assert all(begin < end for begin, end in words)
    assert all(one[1] <= other[0] for one, other in pairwise(words))
    inside = {place for begin, end in words for place in range(begin, end)}
    seen = {n for n, letter in enumerate(text) if unicodedata.category(letter) not in UNSEEN}
    assert seen <= inside
    assert not any(letter.isspace() for begin, end in words for letter in text[begin:end])


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1)))
def test_joined_words_stand_where_they_are_said_to(tokens: list[str]) -> None:
    text, words = joined(tokens)
    assert [text[begin:end] for begin, end in words] == tokens
    assert len(text) == sum(map(len, tokens)) + max(0, len(tokens) - 1)


def test_words_between_spaces() -> None:
    text = " U.S. firms,\u00a0two\n"
    assert [text[begin:end] for begin, end in spaced_words(text)] == ["U.S.", "firms,", "two"]
