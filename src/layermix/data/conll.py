"""Reads CoNLL files: a line for each word with its tags, an empty line after each sentence."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

CONLL = ("conll", "conllu", "bio", "iob", "iob2")
"""File endings of the format; `conllu` has the columns of Universal Dependencies."""

UNIVERSAL = ("tokens", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The columns of `conllu` after the first, which has the numbers of the words."""

LONGEST = 10_000
"""Words of a sentence after which a file is taken for one without empty lines."""

_DOCUMENT = "-DOCSTART-"
_NO_WORD = re.compile(r"[0-9]+[-.][0-9]+")  # a word that is two, or one that was left out
_NOTHING = "_"
_BLANK = " \t\r"


class Sentence(NamedTuple):
    """The lines of a sentence.

    Attributes:
        first: The line of its first word, counted from 1.
        last: The line of its last word.
        words: The fields of each word.
        faults: Line, and why it is no word.
    """

    first: int
    last: int
    words: list[list[str | None]]
    faults: list[tuple[int, str]]


def column_names(fields: int) -> tuple[str, ...]:
    """Returns what the columns are called, by their number: the first has words, the last tags.

    Examples:
        >>> column_names(4)
        ('tokens', 'column_2', 'column_3', 'tags')
        >>> column_names(1)
        ('tokens',)
    """
    between = (f"column_{number}" for number in range(2, fields))
    return ("tokens", *between, "tags")[: max(1, fields)]


def field_count(lines: Iterable[str]) -> int:
    """Returns how many fields the first word has; comments are not counted, if there is another."""
    counts = [len(_fields(line)) for line in lines if not _is_between(line)]
    words = [len(_fields(line)) for line in lines if not _is_between(line) and line[0] != "#"]
    return next(iter(words or counts), 0)


def looks_like_text(lines: Sequence[str], wanted: int) -> bool:
    """Returns whether most lines have another number of fields than the first, as sentences have.

    Examples:
        >>> looks_like_text(["EU B-ORG", "rejects O", "", "German B-MISC"], 2)
        False
        >>> looks_like_text(["A good film.", "Too long for me, sadly.", "Fine."], 3)
        True
    """
    words = [line for line in lines if not _is_between(line) and line[0] != "#"]
    others = sum(len(_fields(line)) != wanted for line in words)
    return others > max(0, len(words) - 1) / 2


def sentences(lines: Iterable[str], wanted: int, *, universal: bool = False) -> Iterator[Sentence]:
    """Yields the sentences of a file; one that is longer than `LONGEST` ends it with a fault.

    Args:
        lines: Without their newlines.
        wanted: Number of fields of a word.
        universal: Whether the file has the columns of Universal Dependencies.
    """
    words, faults = list[list[str | None]](), list[tuple[int, str]]()
    first = last = 0
    begins = True  # whether no word of a sentence has been read
    for number, line in enumerate(lines, 1):
        if _is_between(line):
            if words or faults:
                yield Sentence(first, last, words, faults)
            words, faults, begins = [], [], True
            continue
        fields: list[str | None] = [*_fields(line)]
        if begins and _is_comment(line, wanted, universal=universal):
            continue
        first, last, begins = number if begins else first, number, False
        if len(fields) != wanted:
            amount = "too few" if len(fields) < wanted else "too many"
            where = "" if universal else ", as the first word has"
            faults.append((number, f"{amount} fields: {len(fields)}, wanted {wanted}{where}"))
        elif not universal:
            words.append(fields)
        elif not _NO_WORD.fullmatch(fields[0] or ""):
            words.append([fields[1], *(None if one == _NOTHING else one for one in fields[2:])])
        if len(words) + len(faults) > LONGEST:
            fault = f"no empty line within {LONGEST:,} words; wanted one after each sentence"
            yield Sentence(first, last, [], [(first, fault)])
            return
    if words or faults:
        yield Sentence(first, last, words, faults)


def _is_between(line: str) -> bool:
    """Returns whether a line ends a sentence: it is empty, or begins a document."""
    return not line.strip(_BLANK) or line.startswith(_DOCUMENT)


def _is_comment(line: str, wanted: int, *, universal: bool) -> bool:
    """Returns whether the first line of a sentence is a comment: it begins so, and is no word.

    Examples:
        >>> _is_comment("# id 5", 2, universal=False), _is_comment("# O", 2, universal=False)
        (True, False)
    """
    fields = _fields(line)
    return line[0] == "#" and (universal or len(fields) != wanted or " " in fields[0])


def _fields(line: str) -> list[str]:
    r"""Returns what stands between tabs or, where a line has none, between spaces.

    Examples:
        >>> _fields("New York\tB-LOC"), _fields("York  I-LOC ")
        (['New York', 'B-LOC'], ['York', 'I-LOC'])
    """
    line = line.rstrip(_BLANK)
    if "\t" in line:
        return [field.strip(_BLANK) for field in line.split("\t")]
    return [field for field in line.split(" ") if field]
