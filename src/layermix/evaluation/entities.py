"""Named entities in tags of words, found as seqeval and conlleval find them: NumPy only.

Tags are canonical indices: 0 is outside of entities (O), and type k has 2k + 1 where an entity of
it begins (B) and 2k + 2 inside of one (I). What is below 0 (no word, or no label) counts as
outside. An entity also begins at an I after O, or after another type.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Integers = NDArray[np.integer[Any]]

OUTSIDE = "O"
"""The name of the tag of words outside of entities."""


class Scheme(NamedTuple):
    """What tags with BIO names mean.

    Attributes:
        types: The types of entities, in the order in which they are named first.
        canonical: (C,), the canonical index of each tag.
    """

    types: tuple[str, ...]
    canonical: Integers

    def of(self, tags: Integers) -> Integers:
        """The canonical indices of tags, of the same shape; what is below 0 stays."""
        return np.where(tags < 0, tags, self.canonical[np.maximum(tags, 0)])


def scheme(names: Sequence[str]) -> Scheme | None:
    """What these tags mean, if every name is `O`, `B-…` or `I-…`, and they name any type.

    Examples:
        >>> scheme(["B-LOC", "I-LOC", "I-PER", "O"])
        Scheme(types=('LOC', 'PER'), canonical=array([1, 2, 4, 0]))
        >>> scheme(["NOUN", "VERB"]) is None
        True
    """
    parts = [name.partition("-") for name in names if name != OUTSIDE]
    if not parts or not all(mark in ("B", "I") and kind for mark, _, kind in parts):
        return None
    types = list(dict.fromkeys(kind for _, _, kind in parts))
    canonical = [
        0 if name == OUTSIDE else 2 * types.index(name[2:]) + 1 + name.startswith("I")
        for name in names
    ]
    return Scheme(tuple(types), np.array(canonical))


def types_of(tags: Integers) -> Integers:
    """The number of each tag's type, of the same shape; below 0 outside of entities."""
    types: Integers = (tags - 1) // 2
    return types


def ends_of(tags: Integers) -> Integers:
    """Where the entities end.

    Args:
        tags: (…, W), canonical.

    Returns:
        (…, W): at the first word of an entity the place after its last word, elsewhere 0.

    Examples:
        >>> ends_of(np.array([1, 2, 0, 2, 4, 3, -100]))
        array([2, 0, 0, 4, 5, 6, 0])
    """
    inside, types = tags > 0, types_of(tags)
    goes_on = np.zeros(tags.shape, dtype=bool)
    goes_on[..., 1:] = (tags[..., 1:] % 2 == 0) & inside[..., :-1] & inside[..., 1:]
    goes_on[..., 1:] &= types[..., 1:] == types[..., :-1]
    is_last = inside.copy()
    is_last[..., :-1] &= ~goes_on[..., 1:]
    words = tags.shape[-1]
    lasts = np.where(is_last, np.arange(1, words + 1), words + 1)
    ends = np.minimum.accumulate(lasts[..., ::-1], axis=-1)[..., ::-1]
    return np.where(inside & ~goes_on, ends, 0)


class Found(NamedTuple):
    """At which words entities begin, bool of (…, W).

    Attributes:
        correct: Those of the answers that the labels have, too: all words and the type are right.
        given: Those of the answers.
        true: Those of the labels.
    """

    correct: Bools
    given: Bools
    true: Bools


def compared(answers: Integers, labels: Integers) -> Found:
    """The entities of answers and labels; a word without a label is outside in both.

    Args:
        answers: (…, W), canonical.
        labels: The same.
    """
    answers = np.where(labels < 0, 0, answers)
    given, true = ends_of(answers), ends_of(labels)
    same = (given == true) & (types_of(answers) == types_of(labels))
    return Found(same & (true > 0), given > 0, true > 0)
