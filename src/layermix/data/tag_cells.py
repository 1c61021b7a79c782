"""What one cell says of the words of a text: a tag for each, or spans of the text with a label."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, NamedTuple

from layermix.data.classes import NO_LABEL
from layermix.data.labels import is_missing, refuse_printed, unpacked
from layermix.data.tables import short
from layermix.data.words import Words
from layermix.evaluation.entities import OUTSIDE
from layermix.evaluation.metrics import UNLABELLED

Tag = str | None
"""A tag as text; None for a word without one."""

Name = Callable[[Any], str]
"""A tag or label as it stands in a cell -> its name. Raises a ValueError if it cannot be one."""

_STARTS = ("start", "start_offset")
_ENDS = ("end", "end_offset")
_LABELS = ("label", "entity_group", "entity", "type", "tag")


class Span(NamedTuple):
    """A part of a text with a label.

    Attributes:
        start: Its first character, counted from 0.
        end: The character after its last.
        label: What it is.
    """

    start: int
    end: int
    label: str

    def __str__(self) -> str:
        return f"{self.start} to {self.end} ({self.label})"


def holds_spans(value: Any) -> bool | None:
    """Returns whether a cell holds spans, not tags; None if it does not tell.

    Examples:
        >>> holds_spans([{"start": 0, "end": 2, "label": "PER"}]), holds_spans("B-PER O")
        (True, False)
        >>> holds_spans([])
    """
    value = unpacked(value)
    if isinstance(value, Mapping):
        return True
    if isinstance(value, list | tuple):
        return isinstance(value[0], Mapping | list | tuple) if value else None
    return None if is_missing(value) else False


def tags_in(value: Any, name: Name) -> list[Tag]:
    """Returns the tags in a cell: a list, or text with spaces between.

    Raises:
        ValueError: If it holds something else.

    Examples:
        >>> tags_in(["B-PER", -100, "O"], str), tags_in("B-PER O", str)
        (['B-PER', None, 'O'], ['B-PER', 'O'])
    """
    if holds_spans(value):
        raise ValueError("found spans, wanted a tag for each word, as the first training row has")
    value = unpacked(value)
    refuse_printed(value)
    items: Sequence[Any] = value.split() if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError(f"found {short(value)}, wanted a list with a tag for each word")
    tags = list[Tag]()
    for place, item in enumerate(items, 1):
        none = item is None or item != item or str(item) == str(UNLABELLED)
        try:
            if str(item) == NO_LABEL:
                raise ValueError(
                    f"found {NO_LABEL}, which marks hidden labels, wanted a tag, or {UNLABELLED} "
                    "for a word without one"
                )
            tags.append(None if none else name(item))
        except ValueError as error:
            raise ValueError(f"tag {place}: {error}") from None
    return tags


def spans_in(value: Any, text: str, name: Name) -> list[Span]:
    """Returns the spans in a cell in their order in the text, without spaces at their ends.

    Raises:
        ValueError: If it holds something else, if one is not within the text, or if two overlap.

    Examples:
        >>> spans_in([[4, 8, "LOC"], {"start": 0, "end": 3, "label": "PER"}], "Ann Rome", str)
        [Span(start=0, end=3, label='PER'), Span(start=4, end=8, label='LOC')]
    """
    if holds_spans(value) is False:
        raise ValueError(f"found {short(value)}, wanted spans, as the first training row has")
    value = unpacked(value)
    if isinstance(value, Mapping):  # of lists, as `datasets` may have it
        value = _of_columns(value)
    spans = sorted(_span(item, text, name) for item in value)
    for one, other in pairwise(spans):
        if other.start < one.end:
            raise ValueError(f"the spans {one} and {other} overlap; keep one of them")
    return spans


def _of_columns(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    lists = {key: unpacked(items) for key, items in value.items()}
    if not all(isinstance(items, list) for items in lists.values()):
        raise ValueError(f"found {short(value)}, wanted a list of spans")
    rows = zip(*lists.values(), strict=False)
    return [dict(zip(lists, row, strict=True)) for row in rows]


def _span(item: Any, text: str, name: Name) -> Span:
    if isinstance(item, Mapping):
        keys = [next((key for key in one if key in item), "") for one in (_STARTS, _ENDS, _LABELS)]
        parts = [item.get(key) for key in keys]
    else:
        parts = list(item) if isinstance(item, list | tuple) else []
    numbers = [part for part in parts[:2] if isinstance(part, Integral)]
    if len(parts) != 3 or len(numbers) != 2 or any(isinstance(part, bool) for part in numbers):
        raise ValueError(
            f"found {short(item)} as a span, wanted an object with start, end and label, or a list "
            "[start, end, label]; start and end are integers"
        )
    span = Span(int(numbers[0]), int(numbers[1]), name(parts[2]))
    if not 0 <= span.start < span.end <= len(text):
        raise ValueError(
            f"the span {span} is not within its text of {len(text)} characters; wanted the place "
            "of its first character, counted from 0, and the place after its last"
        )
    inside = text[span.start : span.end]
    start = span.start + len(inside) - len(inside.lstrip())
    return Span(start, max(start, span.end - len(inside) + len(inside.rstrip())), span.label)


def tags_of_spans(spans: Sequence[Span], words: Words) -> tuple[list[Tag], int]:
    """Returns the tag of each word, and how many spans begin or end inside a word.

    A word has the tag of the span that it shares a character with: `B-` and the label if it is the
    first, `I-` if it is another one.

    Args:
        spans: As `spans_in` returns them.
        words: Of the text, in its order.

    Raises:
        ValueError: If a span has no word, or two have the same.

    Examples:
        >>> tags_of_spans([Span(4, 10, "LOC")], [(0, 2), (3, 6), (7, 11), (11, 12)])
        (['O', 'B-LOC', 'I-LOC', 'O'], 1)
    """
    tags: list[Tag] = [OUTSIDE] * len(words)
    place = inside = 0
    before: Span | None = None
    for span in spans:
        while place < len(words) and words[place][1] <= span.start:
            place += 1
        first = place
        while place < len(words) and words[place][0] < span.end:
            if tags[place] != OUTSIDE:
                raise ValueError(
                    f"the spans {before} and {span} are parts of one word; keep one of them"
                )
            tags[place] = f"{'B' if place == first else 'I'}-{span.label}"
            place += 1
        if place == first:
            raise ValueError(f"the span {span} covers no word; leave it out")
        inside += words[first][0] < span.start or words[place - 1][1] > span.end
        place, before = place - 1, span  # the next may begin in the same word
    return tags, inside
