"""How a label is read, and which label is which class: the rules of every command.

A label is read as text, the same whatever the format (`label_text`), and so are the names of the
classes in a model's config.json (`read_class_names`). Labels are matched to classes, and a model's
classes to those of the data (`models/labels.py`), by `match_labels`. `classes.py` says which
classes a data set has.
"""

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from io import StringIO
from numbers import Integral, Real
from token import STRING
from tokenize import TokenError, generate_tokens
from typing import Any, Literal

from layermix.data.tables import Table, is_integer, joined, listed, short
from layermix.errors import ConfigError, Note

# -- reading ---------------------------------------------------------------------------------------


def label_text(value: Any) -> str:
    """Returns a label as text, the same for every format: 1, 1.0, "1" and "1.0" are "1".

    Codes such as 007 keep their zeros; white space around a label is dropped.

    Raises:
        ValueError: If the value is missing, or is not one text, number or boolean.

    Examples:
        >>> [label_text(value) for value in (1, 1.0, " 1.0 ", "007", True, "good ")]
        ['1', '1', '1', '007', 'True', 'good']
    """
    if isinstance(value, str) and value.strip():
        text = value.strip()
        integral = re.fullmatch(r"([+-]?(?:0|[1-9][0-9]{0,17}))(?:\.0*)?", text)
        return str(int(integral[1])) if integral else _unicode(text)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real | Decimal) and not math.isnan(number := float(value)):
        return str(int(number)) if number.is_integer() else str(number)
    if value is None or isinstance(value, str | Real | Decimal):
        raise ValueError("the label is missing")
    if isinstance(value, list | tuple | set | dict):
        raise ValueError(
            f"found a {type(value).__name__} as label, wanted one text or integer; for several "
            "labels per row give --data.problem multi_label"
        )
    raise ValueError(f"found a {type(value).__name__} as label, wanted one text or integer")


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the label {short(text)} contains half a character (a lone surrogate), which is not "
            "Unicode; correct it"
        ) from None
    return text


def read_class_names(id2label: Mapping[int, Any]) -> tuple[str, ...]:
    """Returns the class names of a model's config, read as labels are, in the order of the logits.

    Raises:
        ValueError: If a class has no name, or something else than one text, number or boolean.

    Examples:
        >>> read_class_names({0: False, 1: True})
        ('False', 'True')
    """
    return tuple(label_text(id2label[index]) for index in range(len(id2label)))


def lacks_labels(table: Table, column: str) -> bool:
    """Returns whether no row has a label: the column is missing or empty."""
    if table.plain or column not in table.columns:
        return not table.plain
    return all(map(is_missing, table.columns[column]()))


def is_missing(value: Any) -> bool:
    """Returns whether a cell is empty; a list is not, whatever is in it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return value is None or value == "" or value != value


def list_in(text: str) -> Any:
    """Returns the list that a text holds, as JSON or Python writes it.

    Raises:
        ValueError: If it holds none.
    """
    for read in (json.loads, _literal):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError, TokenError):
            return read(text.strip())
    if _WITHOUT_COMMAS.fullmatch(text.strip()):
        raise ValueError(
            f"found {short(text)}, a list without commas, as NumPy prints it; write lists as JSON, "
            "or the file as Parquet"
        )
    raise ValueError(f'found {short(text)}, wanted a list such as ["good", "short"]')


def _literal(text: str) -> Any:
    """Returns what a text is in Python, but for strings beside each other, which would be joined.

    Raises:
        ValueError, SyntaxError, TokenError: If it is none.

    Examples:
        >>> _literal("['good', 'short']")
        ['good', 'short']
    """
    tree = ast.parse(text, mode="eval")
    if _BESIDE.search(text):  # else there are no such strings, and counting takes time
        given = sum(one.type == STRING for one in generate_tokens(StringIO(text).readline))
        constants = (one for one in ast.walk(tree) if isinstance(one, ast.Constant))
        if given > sum(isinstance(one.value, str) for one in constants):
            raise ValueError("strings without a comma between them")
    return ast.literal_eval(tree)


_BESIDE = re.compile(r"['\"]\s*[a-zA-Z]{0,2}['\"]")


_WITHOUT_COMMAS = re.compile(r"\[[^,]+\s[^,]+\]")


def refuse_printed(value: Any) -> None:
    """Raises a ValueError for a text that is a list without commas."""
    if isinstance(value, str) and _WITHOUT_COMMAS.fullmatch(value.strip()):
        list_in(value)


def unpacked(value: Any) -> Any:
    """Returns a list as it is, or from its text; anything else as it is."""
    if isinstance(value, str) and value.strip().startswith("["):
        with suppress(ValueError):
            return list_in(value)
    return value.tolist() if hasattr(value, "tolist") else value


def read_labels(
    table: Table, column: str, given: "LabelNames | None" = None, *, optional: bool = False
) -> list[str | None]:
    """Returns labels as text; None, and a problem, where a row has none.

    Args:
        table: The rows.
        column: The label column.
        given: The user's names of the labels; they win over those of the source.
        optional: Whether a row may have none.
    """
    if column not in table.columns:
        table.add_problem(f"no column {column!r}; {table.column_names()}{table.hint}")
        return []
    names = source_names(table, column)
    labels: list[str | None] = []
    for row, value in enumerate(table.columns[column]()):
        if optional and is_missing(value):
            labels.append(None)
            continue
        try:
            text = label_text(value)
        except ValueError as error:
            table.add_problem(f"{error} (column {column!r})", row)
            labels.append(None)
            continue
        own = _name_of(value, names)
        if given is None:
            labels.append(own or text)
        else:
            labels.append(given.renamed.get(text) or given.renamed.get(own or text) or own or text)
    return labels


def _name_of(value: Any, names: Sequence[str]) -> str | None:
    """Returns the source's own name of an integer; None if it has none."""
    indexed = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names)
    return names[value] if indexed else None


def source_names(table: Table, column: str) -> tuple[str, ...]:
    """Returns the names that the source itself gives to the integers of a column, if any."""
    return tuple(
        label_text(name if name.strip() else number)
        for number, name in enumerate(table.classes.get(column, ()))
    )


@dataclass(frozen=True)
class LabelNames:
    """The user's names of labels.

    Attributes:
        names: The classes, in their order.
        renamed: Label as it stands in the data -> class.
    """

    names: tuple[str, ...]
    renamed: Mapping[str, str]

    @classmethod
    def parse(cls, given: Sequence[str]) -> "LabelNames":
        """Reads names in the order of the integers from 0, or LABEL=CLASS for each label.

        Raises:
            ConfigError: If both forms are mixed, a label or name occurs twice, or is empty.

        Examples:
            >>> LabelNames.parse(["bad", "good"]).renamed
            {'0': 'bad', '1': 'good'}
            >>> LabelNames.parse(["1=bad", "2=bad", "3=good"]).names
            ('bad', 'good')
        """
        pairs = [item.partition("=") for item in given]
        marked = [bool(mark) for _, mark, _ in pairs]
        try:
            if all(marked):
                labels = [label_text(label) for label, _, _ in pairs]
                names = [label_text(name) for _, _, name in pairs]
                twice = labels
            elif any(marked):
                raise ValueError("some items have '=' and some have not; use one form")
            else:
                labels = [str(number) for number in range(len(given))]
                twice = names = [label_text(name) for name in given]
            if repeated := [name for name, count in Counter(twice).items() if count > 1]:
                raise ValueError(f"{listed(repeated)} occurs more than once")
        except ValueError as error:
            raise ConfigError(
                f"--data.label_names: {error}; found {listed(given)}, wanted class names in the "
                "order of the integers 0, 1, …, or LABEL=CLASS for each label"
            ) from None
        return cls(tuple(dict.fromkeys(names)), dict(zip(labels, names, strict=True)))


def without_labels(table: Table, column: str, skipped: Collection[str]) -> Table:
    """Returns the table without the rows that have one of some labels, and notes how many.

    Args:
        table: The rows.
        column: The label column.
        skipped: Labels as text, or as the names that the source gives them.
    """
    if column not in table.columns:
        return table
    names, kept = source_names(table, column), list[int]()
    values = table.columns[column]()
    for row, value in enumerate(values):
        try:
            text = label_text(value)
        except ValueError:  # reported by read_labels
            text = ""
        if text not in skipped and _name_of(value, names) not in skipped:
            kept.append(row)
    if len(kept) == len(values):
        return table
    text = (
        f"{table.source}: {len(values) - len(kept):,} of {len(values):,} rows have the label "
        f"{' or '.join(skipped)} and are left out (--data.skip_labels)"
    )
    table.diagnostics.notes.append(Note("labels-skipped", text))
    return table.select(kept)


# -- matching --------------------------------------------------------------------------------------


Way = Literal["case", "number", "index"]

WAYS: Mapping[Way, str] = {
    "case": "by name, ignoring case",
    "number": "by the number in the name",
    "index": "by index",
}
"""How labels and names that differ can be matched, in words."""


@dataclass(frozen=True)
class Match:
    """Labels matched to classes.

    Attributes:
        index: Label -> class index, for every label that was matched.
        unmatched: The other labels.
        ways: How labels and names that differ were matched.
        note: One sentence that says so and lists the pairs; empty if all are equal.
    """

    index: Mapping[str, int]
    unmatched: tuple[str, ...] = ()
    ways: tuple[Way, ...] = ()
    note: str = ""


def match_labels(labels: Iterable[str], names: Sequence[str], *, by_index: bool = True) -> Match:
    """Matches labels to the names of classes. What a label means never depends on other labels.

    A label matches the name that is equal, or else equal but for capitals. If all other labels are
    integers, each matches the class that has this number in its name (`3` matches `3 stars`), or,
    if the names have no numbers, the class of this index, counted from 0. Names with a number
    match integer classes in the same way.

    Args:
        labels: Labels as text, each once.
        names: Class index -> name.
        by_index: Whether the order of the classes has a meaning, so that integers may be indices.

    Examples:
        >>> match_labels(["NEGATIVE"], ["negative", "positive"]).note
        "labels matched to classes by name, ignoring case: 'NEGATIVE' = 'negative'"
        >>> match_labels(["1", "2"], ["1 star", "2 stars", "3 stars"]).note
        "labels matched to classes by the number in the name: '1' = '1 star', '2' = '2 stars'"
        >>> match_labels(["1", "2"], ["bad", "good"]).unmatched
        ('1', '2')
    """
    exact = {name: number for number, name in enumerate(names)}
    folded = _unique((name.casefold(), number) for number, name in enumerate(names))
    index: dict[str, int] = {}
    others: list[str] = []
    ways: list[Way] = []
    for label in labels:
        if label in exact:
            index[label] = exact[label]
        elif label.casefold() in folded:
            index[label] = folded[label.casefold()]
            ways = ["case"]
        else:
            others.append(label)
    numbered = _by_number(others, names)
    way: Way = "number"
    if numbered is None and by_index and all(map(is_integer, index)):
        numbered, way = _by_index(others, names), "index"
    if others and numbered:
        index |= numbered
        ways.append(way)
        others = [label for label in others if label not in numbered]
    pairs = joined(
        f"{short(label)} = {short(names[number])}"
        for label, number in index.items()
        if label != names[number]
    )
    how = " and ".join(WAYS[way] for way in ways)
    note = f"labels matched to classes {how}: {pairs}" if ways else ""
    return Match(index, tuple(others), tuple(ways), note)


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Returns the pairs whose key occurs once."""
    found = list(pairs)
    counts = Counter(key for key, _ in found)
    return {key: number for key, number in found if counts[key] == 1}


def _by_number(labels: Sequence[str], names: Sequence[str]) -> dict[str, int] | None:
    """Matches integers to names with a number, or the reverse; None if the names have none."""
    if not labels or not (present := _numbers(names)):
        return None
    if all(map(is_integer, labels)):
        numbers: Sequence[int] = list(map(int, labels))
    elif not all(map(is_integer, names)) or not (numbers := _numbers(labels)):
        return None
    place = {number: index for index, number in enumerate(present)}
    return {
        label: place[number]
        for label, number in zip(labels, numbers, strict=True)
        if number in place
    }


def _numbers(names: Sequence[str]) -> list[int]:
    """Returns the number in each name; empty unless each has exactly one, different from all.

    Examples:
        >>> _numbers(["1 star", "2 stars"]), _numbers(["LABEL_0", "LABEL_1"]), _numbers(["-1", "1"])
        ([1, 2], [0, 1], [-1, 1])
        >>> _numbers(["flu", "covid19"]), _numbers(["1 to 2", "3"]), _numbers(["01", "1"])
        ([], [], [])
    """
    found = [re.findall(r"^-[0-9]+|[0-9]+", name) for name in names]
    if any(len(numbers) != 1 or len(numbers[0]) > 18 for numbers in found):
        return []
    values = [int(numbers[0]) for numbers in found]
    return values if len(set(values)) == len(values) else []


def _by_index(labels: Sequence[str], names: Sequence[str]) -> dict[str, int] | None:
    """Matches integers from 0 to classes; None if others occur.

    None too if a class has another number as its name: it would be meant by two integers.
    """
    places = {str(number): number for number in range(len(names))}
    others = [name for place, name in enumerate(names) if name != str(place)]
    if not places.keys() >= set(labels) or any(re.fullmatch("-?[0-9]+", name) for name in others):
        return None
    return {label: places[label] for label in labels}


def is_numbered(names: Sequence[str]) -> bool:
    """Returns whether classes have numbers for names, in order from 0: `0`, or `LABEL_0`."""
    return all(name in (f"LABEL_{index}", str(index)) for index, name in enumerate(names))
