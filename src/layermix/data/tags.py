"""Reads a label for each word: tags of any kind, or those of entities, which become B-, I- and O.

Where the words stand is read with the labels, since both stand in one cell or must fit together.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from layermix.data.classes import NO_LABEL
from layermix.data.columns import Text, check_words, has_lists
from layermix.data.labels import (
    LabelNames,
    is_missing,
    label_text,
    match_labels,
    source_names,
    unpacked,
)
from layermix.data.tables import Table, is_integer, joined, listed, short
from layermix.data.tag_cells import (
    Name,
    Tag,
    holds_spans,
    spans_in,
    tags_in,
    tags_of_spans,
)
from layermix.data.words import Words, spaced_words, words_of
from layermix.errors import Note
from layermix.evaluation.entities import OUTSIDE
from layermix.evaluation.metrics import UNLABELLED

NO_TYPE = "ENTITY"
"""The type of entities whose tags have none, but B and I alone."""

_PREFIXED = re.compile(r"([BIESLU])(?:-(.+))?", re.DOTALL)
_ALMOST = re.compile(r"([biBI])[-_].+|.+[-_]([biBI])", re.DOTALL)
"""Tags that are written almost as those that are read."""

_BEGIN = "BSU"
_SHOWN = 30


class WordRows(NamedTuple):
    """The texts of a split.

    Attributes:
        texts: One for each row.
        words: Where the words of each stand.
    """

    texts: list[Text]
    words: list[Words]


@dataclass(frozen=True)
class TagColumns:
    """Where the labels of words stand, and what they are.

    Attributes:
        text: The column with the texts, or with lists of their words.
        column: The label column.
        of_entities: Whether they are those of entities.
        given: The user's names of the labels.
        others: Names of the model that is scored on the data; they win if they fit.
    """

    text: str
    column: str
    of_entities: bool
    given: LabelNames | None = None
    others: Sequence[str] = ()


Rows = list[list[Tag] | None]
"""The tag of each word of each row; None where a row has none, which is no problem or told."""


def read_tags(
    tables: Mapping[str, Table], without: Sequence[str], where: TagColumns
) -> tuple[tuple[str, ...], dict[str, list[list[int]]], dict[str, WordRows]] | None:
    """Returns the names of the tags, each split's labels and its words; None, and problems.

    Args:
        tables: Split -> its rows.
        without: Splits that have no labels, and need none.
        where: Where labels stand, and what they are.
    """
    train = tables["train"]
    if where.column not in train.columns:
        train.add_problem(f"no column {where.column!r}; {train.column_names()}{train.hint}")
        return None
    cells = train.columns[where.column]()
    lists = has_lists(train, where.text)
    telling = (told for told in map(holds_spans, cells) if told is not None)
    are_spans = next(telling, where.of_entities and not lists)
    if are_spans and not where.of_entities:
        train.add_problem(
            f"found spans (column {where.column!r}), and the labels are a tag for each word; for "
            "spans give --data.problem entities"
        )
        return None
    if are_spans and lists:
        train.add_problem(
            f"found spans (column {where.column!r}) and lists of words (column {where.text!r}); "
            "spans need the text as one string: name its column with --data.text_columns A, or "
            "give a tag for each word"
        )
        return None
    cut = words_of if are_spans else spaced_words
    rows = {
        split: WordRows(*check_words(table, where.text, cut)) for split, table in tables.items()
    }
    tags: dict[str, Rows] = {}
    for split, table in tables.items():
        if split in without:
            tags[split] = [None] * len(table.numbers)
        elif are_spans:
            tags[split] = _of_spans(table, where, rows[split], split)
        else:
            tags[split] = _of_words(table, where, rows[split], split)
    found = _entities(tables, tags, where) if where.of_entities else _plain(tables, tags, where)
    if found is None:
        return None
    names, indices = found
    labels = {
        split: [
            [UNLABELLED] * len(words) if row is None else row
            for row, words in zip(indices[split], rows[split].words, strict=True)
        ]
        for split in tables
    }
    return names, labels, rows


# -- the tags of each row --------------------------------------------------------------------------


def _name(table: Table, where: TagColumns) -> Name:
    """Returns how a tag in a cell is called: by the user, by the source, or as it stands there."""
    source = source_names(table, where.column)
    renamed: Mapping[str, str] = {} if where.given is None else where.given.renamed

    def name(item: object) -> str:
        text = label_text(item)
        own = text
        if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < len(source):
            own = source[item]
        parts = split_tag(own) if where.of_entities else None
        if parts is not None and parts[1] in renamed:
            own = f"{parts[0]}-{renamed[parts[1]]}"
        return renamed.get(text) or renamed.get(own) or own

    return name


def _of_words(table: Table, where: TagColumns, rows: WordRows, split: str) -> Rows:
    """Returns the tags of each row, as many as words; anything else is a problem."""

    def read(value: object, place: int) -> list[Tag]:
        found, words = tags_in(value, name), len(rows.words[place])
        if len(found) != words and rows.words[place]:  # else the text has a problem of its own
            spaces = "" if are_lists else ", which are what stands between spaces"
            raise ValueError(f"{len(found)} tags for {words} words{spaces}")
        return found

    name, are_lists = _name(table, where), has_lists(table, where.text)
    return _each(table, where.column, read, _hidden_tags if split == "test" else None)


def _of_spans(table: Table, where: TagColumns, rows: WordRows, split: str) -> Rows:
    """Returns the tags of each row by its spans; a note says how many cut words."""
    count = inside = 0

    def read(value: object, place: int) -> list[Tag]:
        nonlocal count, inside
        spans = spans_in(value, rows.texts[place][0], name)
        tags, cut = tags_of_spans(spans, rows.words[place])
        count, inside = count + len(spans), inside + cut
        return tags

    name = _name(table, where)
    tags = _each(table, where.column, read, _hidden_spans if split == "test" else None)
    if inside:
        text = (
            f"{split}: {inside} of {count} spans begin or end inside a word; they count for whole "
            "words"
        )
        table.diagnostics.notes.append(Note("spans-inside-words", text))
    return tags


def _each(
    table: Table,
    column: str,
    read: Callable[[object, int], list[Tag]],
    hides: Callable[[Sequence[object]], Sequence[bool]] | None,
) -> Rows:
    """Returns the tags of each row; a cell that cannot be read, or has none, is a problem.

    Args:
        table: The rows.
        column: The label column.
        read: Cell and row -> its tags.
        hides: Cells -> which rows have hidden labels; None if none may.
    """
    if column not in table.columns:
        table.add_problem(f"no column {column!r}; {table.column_names()}{table.hint}")
        return [None] * len(table.numbers)
    tags: Rows = []
    cells = [unpacked(value) for value in table.columns[column]()]
    hidden = hides(cells) if hides else [False] * len(cells)
    for row, (value, is_hidden) in enumerate(zip(cells, hidden, strict=True)):
        if is_hidden:
            tags.append(None)
            continue
        try:
            if is_missing(value):
                raise ValueError("the labels are missing")
            found = read(value, row)
            if found and all(tag is None for tag in found):
                raise ValueError(f"no word has a label; wanted one that is not {UNLABELLED}")
            tags.append(found)
        except ValueError as error:
            table.add_problem(f"{error} (column {column!r})", row)
            tags.append(None)
    return tags


def _hidden_tags(cells: Sequence[object]) -> list[bool]:
    """Returns which rows of a test split have no tags: none at all, or -1 for each word."""
    hidden = (NO_LABEL, str(UNLABELLED))
    found = [cell.split() if isinstance(cell, str) else cell for cell in cells]
    return [
        all(is_missing(item) or str(item) in hidden for item in cell)
        if isinstance(cell, list | tuple)
        else is_missing(cell) or str(cell) in hidden
        for cell in found
    ]


def _hidden_spans(cells: Sequence[object]) -> list[bool]:
    """Returns which rows of a test split have hidden spans: all rows, if none has a span."""
    return [*map(is_missing, cells)] if any(map(holds_spans, cells)) else [True] * len(cells)


# -- tags of any kind ------------------------------------------------------------------------------

Found = tuple[tuple[str, ...], dict[str, list[list[int] | None]]]
"""Names, and the indices of each row of each split."""


def _plain(
    tables: Mapping[str, Table], tags: Mapping[str, Rows], where: TagColumns
) -> Found | None:
    """Returns names and indices of tags as they are; None, and a problem, if there is only one."""
    train = tables["train"]
    present = _present(tags["train"])
    if not present:
        return None  # each row has a problem
    if len(present) == 1 and not where.others:
        train.add_problem(f"all words have the tag {short(*present)}; wanted two tags or more")
    own = [*source_names(train, where.column)]
    fitting = _fitting(train, present, [where.others, _given(where), own])
    if fitting is None:
        return None
    names = fitting or tuple(sorted(present, key=_sort_key(present)))
    indices = {}
    for split, rows in tags.items():
        index = _matched(tables[split], split, _present(rows), names)
        unknown = f"the tags are {listed(names)}"
        indices[split] = _indices(tables[split], rows, index, unknown)
    return names, indices


def _given(where: TagColumns) -> tuple[str, ...]:
    return where.given.names if where.given is not None else ()


def _present(rows: Rows) -> Counter[str]:
    """Returns how many words have each tag."""
    return Counter(tag for row in rows for tag in row or () if tag is not None)


def _sort_key(present: Iterable[str]) -> Callable[[str], int | str]:
    return int if all(map(is_integer, present)) else str


def _fitting(
    train: Table, present: Iterable[str], candidates: Sequence[Sequence[str]]
) -> tuple[str, ...] | None:
    """Returns the first names that all tags are among; empty if there are none.

    None, and a problem, if they are not among those of the user.

    Args:
        train: The training rows.
        present: What occurs in them.
        candidates: Those of the model, of the user and of the source.
    """
    known = list(present)
    for names in candidates:
        if names and not match_labels(known, names, by_index=False).unmatched:
            return tuple(names)
    given = candidates[1]
    if given:
        unknown = match_labels(known, given, by_index=False).unmatched
        train.add_problem(
            f"found {listed(unknown)}, which --data.label_names does not name; it has "
            f"{listed(given)}"
        )
        return None
    return ()


def _matched(
    table: Table, split: str, found: Iterable[str], names: Sequence[str]
) -> Mapping[str, int]:
    """Returns the place of each name that was found; a note says where they differ in writing."""
    match = match_labels(list(found), names, by_index=False)
    if match.note:
        table.diagnostics.notes.append(Note("labels-matched", f"{split}: {match.note}"))
    return match.index


def _indices(
    table: Table, rows: Rows, index: Mapping[str, int], known: str
) -> list[list[int] | None]:
    """Returns the index of each tag; in each row the first unknown one is a problem."""
    indices: list[list[int] | None] = []
    for number, row in enumerate(rows):
        unknown = [tag for tag in row or () if tag is not None and tag not in index]
        if unknown:
            table.add_problem(f"unknown tag {short(unknown[0])}; {known}", number)
        indices.append(
            None
            if row is None
            else [UNLABELLED if tag is None else index.get(tag, UNLABELLED) for tag in row]
        )
    return indices


# -- tags of entities ------------------------------------------------------------------------------


def canonical(types: Sequence[str]) -> tuple[str, ...]:
    """Returns the tags of entities of some types.

    Examples:
        >>> canonical(["PER", "LOC"])
        ('O', 'B-PER', 'I-PER', 'B-LOC', 'I-LOC')
    """
    return (OUTSIDE, *(f"{prefix}-{name}" for name in types for prefix in "BI"))


def split_tag(tag: str) -> tuple[str, str] | None:
    """Returns the prefix and the type of a tag; None if it has no prefix.

    Examples:
        >>> split_tag("B-PER"), split_tag("I"), split_tag("PER"), split_tag("O")
        (('B', 'PER'), ('I', 'ENTITY'), None, None)
    """
    found = _PREFIXED.fullmatch(tag)
    return (found[1], found[2] or NO_TYPE) if found else None


def have_prefixes(tags: Iterable[str]) -> bool | None:
    """Returns whether the tags of entities say where one begins; None if they are not of entities.

    Examples:
        >>> have_prefixes(["O", "B-PER", "I-PER"]), have_prefixes(["O", "PER"])
        (True, False)
        >>> have_prefixes(["NOUN", "VERB"]), have_prefixes(["O", "B-PER", "LOC"])
        (None, None)
        >>> have_prefixes(["O", "b-per", "i-per"]), have_prefixes(["O", "PER-B", "PER-I"])
        (None, None)
    """
    tags = set(tags)
    inside = tags - {OUTSIDE}
    found = [split_tag(tag) for tag in inside]
    if all(found):
        return True
    if any(one is not None and one[0] in "BI" for one in found):
        return None
    almost = [_ALMOST.fullmatch(tag) for tag in inside]
    letters = {(one[1] or one[2]).lower() for one in almost if one}
    if {"b", "i"} <= letters:  # they say where an entity begins, in a way that is not read
        return None
    return False if OUTSIDE in tags else None


def types_of(names: Sequence[str]) -> list[str]:
    """Returns the types of entities that names of tags have, in their order; empty if none are.

    Examples:
        >>> types_of(["O", "B-PER", "I-PER", "B-LOC"]), types_of(["O", "PER"]), types_of(["LOC"])
        (['PER', 'LOC'], ['PER'], [])
    """
    prefixed = have_prefixes(names)
    if prefixed is None:
        return []
    inside = [name for name in names if name != OUTSIDE]
    parts = [split_tag(name) if prefixed else ("", name) for name in inside]
    return list(dict.fromkeys(part[1] for part in parts if part))


def _entities(
    tables: Mapping[str, Table], tags: Mapping[str, Rows], where: TagColumns
) -> Found | None:
    """Returns names and indices of entities; None, and a problem, if the tags are no such tags."""
    train = tables["train"]
    present = _present(tags["train"])
    if not present:
        return None  # each row has a problem
    own = source_names(train, where.column)
    of_given = _given(where)
    prefixed = have_prefixes([*present, *own]) if types_of(own) else have_prefixes(present)
    if prefixed is None:
        hint = ""
        if all(map(is_integer, present)):
            hint = "; name integers in their order, with --data.label_names O,B-PER,I-PER,…"
        train.add_problem(
            f"found the tags {joined(map(short, sorted(present)), _SHOWN)} (column "
            f"{where.column!r}), wanted O, and B- and I- before the type of an entity, or another "
            "usual scheme (IOB1, BIOES, BILOU, O and types); for any other tag on each word give "
            f"--data.problem tags{hint}"
        )
        return None
    if not prefixed:
        text = (
            "the tags have no B- and I-: words beside each other with the same type are read as "
            "one entity"
        )
        train.diagnostics.notes.append(Note("entities-without-begin", text))
    decoded = {
        split: _decoded(tables[split], rows, split, prefixed) for split, rows in tags.items()
    }
    occurring = dict.fromkeys(types_of(sorted(_present(decoded["train"]))))
    if not occurring and not where.others:
        train.add_problem(f"no word is part of an entity (column {where.column!r}); wanted some")
        return None
    candidates = [types_of(where.others), types_of(of_given) or list(of_given), types_of(own)]
    fitting = _fitting(train, occurring, candidates)
    if fitting is None:
        return None
    types = fitting or tuple(sorted(occurring))
    names = canonical(types)
    indices = {}
    for split, rows in decoded.items():
        found = dict.fromkeys(tag[2:] for tag in _present(rows) if tag != OUTSIDE)
        index = {OUTSIDE: 0}
        for name, place in _matched(tables[split], split, found, types).items():
            index |= {f"B-{name}": 2 * place + 1, f"I-{name}": 2 * place + 2}
        indices[split] = _indices(tables[split], rows, index, f"the types are {listed(types)}")
    return names, indices


def _decoded(table: Table, rows: Rows, split: str, prefixed: bool) -> Rows:
    """Returns tags as B-, I- and O; those of another form are problems, and repairs are a note."""
    decoded: Rows = []
    repaired = 0
    for number, row in enumerate(rows):
        if row is None:
            decoded.append(None)
            continue
        wrong = [tag for tag in row if tag not in (None, OUTSIDE) and prefixed and not _parts(tag)]
        if wrong:
            table.add_problem(
                f"found the tag {short(wrong[0])}, wanted O, or B- or I- before a type, as in the "
                "training rows",
                number,
            )
            decoded.append(None)
            continue
        tags, begun = _with_begins(row, prefixed)
        decoded.append(tags)
        repaired += begun
    if repaired and prefixed:
        text = f"{split}: {repaired} entities begin with I-, E- or L-, which is read as B-"
        table.diagnostics.notes.append(Note("entities-begin-with-i", text))
    return decoded


def _parts(tag: Tag) -> tuple[str, str] | None:
    return None if tag is None else split_tag(tag)


def _with_begins(row: Sequence[Tag], prefixed: bool) -> tuple[list[Tag], int]:
    """Returns the tags of a row with B- where an entity begins, and how many had another prefix.

    Examples:
        >>> _with_begins(["I-PER", "I-PER", "B-PER", "I-LOC", "O", "U-LOC", "L-LOC"], True)
        (['B-PER', 'I-PER', 'B-PER', 'B-LOC', 'O', 'B-LOC', 'B-LOC'], 3)
        >>> _with_begins(["PER", "PER", None, "PER", "O"], False)
        (['B-PER', 'I-PER', None, 'I-PER', 'O'], 1)
    """
    tags, begun = list[Tag](), 0
    before: str | None = None  # the type of the entity that goes on
    for tag in row:
        if tag is None or tag == OUTSIDE:
            tags.append(tag)
            before = before if tag is None else None
            continue
        prefix, name = (_parts(tag) if prefixed else None) or ("I", tag)
        begins = prefix in _BEGIN or name != before
        begun += begins and prefix not in _BEGIN
        tags.append(f"{'B' if begins else 'I'}-{name}")
        before = None if prefix in "ESLU" else name
    return tags, begun


def describe_tags(names: Sequence[str], labels: Sequence[Sequence[int]]) -> str:
    """Returns how many entities of each type there are, or words with each tag, in words.

    Examples:
        >>> describe_tags(("O", "B-PER", "I-PER"), [[1, 2, 0], [0, -100]])
        'PER (1 entities); 4 words'
    """
    counts = Counter(label for row in labels for label in row if label != UNLABELLED)
    types = types_of(names)
    if tuple(names) == canonical(types):
        each = (f"{name} ({counts[2 * place + 1]} entities)" for place, name in enumerate(types))
        return f"{joined(each)}; {counts.total()} words"
    return joined(f"{name} ({counts[place]} words)" for place, name in enumerate(names))
