"""Finds the columns with the texts and the label, and checks the texts."""

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from layermix.data.labels import is_missing, refuse_printed, unpacked
from layermix.data.soft_labels import LIST_COLUMN, SoftColumns, probability_columns
from layermix.data.tables import Table, listed, short
from layermix.data.tag_cells import holds_spans
from layermix.data.words import Words, joined
from layermix.errors import ConfigError, DataError, Note
from layermix.evaluation.forms import Form

Text = tuple[str, ...]
"""The one or two texts of a row."""

TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text", "text_pair"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence_a", "sentence_b"),
    ("question", "passage"),
    ("query", "passage"),
    *((name,) for name in ("text", "sentence", "review", "comment", "content", "message", "tweet")),
)
"""Names by which text columns are found, pairs first: the columns of a pair are not singles."""

LABEL_COLUMNS = ("label", "labels", "class", "category", "target")
"""Names by which the label column is found."""

NUMBER_COLUMNS = ("score", "similarity", "similarity_score", "relevance", "rating")
"""Names by which a column of numbers is found, where there is none of `LABEL_COLUMNS`."""

_SINGLES = tuple(names[0] for names in TEXT_COLUMNS if len(names) == 1)

WORD_COLUMNS = ("tokens", "words")
"""Names by which a column with the words of each text is found, where these have labels."""

TAG_COLUMNS = (
    ("ner_tags", "ner", "entities", "spans"),
    ("tags",),
    LABEL_COLUMNS,
    ("pos_tags", "upos", "pos"),
)
"""Names by which a column with labels of words is found: of the first group that has one."""

_GROUPS: Mapping[Form, tuple[tuple[str, ...], ...]] = {
    "number": (LABEL_COLUMNS, NUMBER_COLUMNS),
    "tags": TAG_COLUMNS,
}
"""Form of a label -> names by which its column is found, where they are more than usual."""

SoftLabels = Literal["never", "beside", "instead"]
"""Whether probabilities in the data are read: never, beside labels, or where there are none."""

_MISSING = "missing_text_column"
_INVISIBLE = ("Cc", "Cf", "Zs", "Zl", "Zp")  # Unicode's control and format characters, and spaces


@dataclass(frozen=True)
class Columns:
    """Which columns of the data are used.

    Attributes:
        texts: One or two.
        label: The label column; None if there are soft labels only, or several columns.
        sets: Columns of 0 and 1, one for each of several labels; empty if they are in one column.
        soft: The columns with soft labels; None if there are none, or they are not wanted.
        group: The column that says which rows stay together, if there is one.
    """

    texts: tuple[str, ...]
    label: str | None
    soft: SoftColumns | None
    group: str | None
    sets: tuple[str, ...] = ()

    def is_soft(self, split: str, table: Table) -> bool:
        """Returns whether the rows of a split must have soft labels."""
        return self.soft is not None and (split == "train" or not self.soft.is_missing_in(table))

    def note(self, train: Table) -> Note:
        """Returns a note on which columns of the training rows are used, and which are not."""
        told = f"columns: text {listed(self.texts)}, "
        one = "no labels" if self.label is None else f"label {self.label!r}"
        told += f"labels {listed(self.sets)}" if self.sets else one
        used = [*self.texts, self.label, self.group, *self.sets]
        if self.soft is not None:
            told += f", soft labels {listed(self.soft.columns)}"
            used += self.soft.columns
        if self.group is not None:
            told += f", groups {self.group!r}"
        if unused := [name for name in train.columns if name not in used]:
            told += f", not used {listed(unused)}"
        return Note("columns", told)


def find_columns(
    headed: Sequence[Table],
    form: Form,
    text_columns: Sequence[str] | None,
    label_column: str | None,
    label_columns: Sequence[str] | None,
    soft_labels: SoftLabels,
    group_column: str | None,
) -> Columns | None:
    """Returns the columns, given or found by name; None, and a problem, if they are unclear.

    Args:
        headed: The tables with named columns, the training rows first.
        form: What a label is.
        text_columns: As given.
        label_column: As given.
        label_columns: As given: one for each of several labels.
        soft_labels: Whether to look for probabilities.
        group_column: As given.
    """
    train = headed[0]
    if label_columns is not None and label_column is not None:
        train.add_problem(
            "--data.label_column and --data.label_columns contradict each other; give one of them"
        )
        return None
    if repeated := [name for name, count in Counter(label_columns).items() if count > 1]:
        train.add_problem(f"--data.label_columns names {listed(repeated)} twice")
        return None
    soft = _find_soft(train, label_column, form, soft_labels, has_label=bool(label_columns))
    label: str | None = None
    if label_columns is None and soft is None:
        label = find_label_column(train, label_column, form)
    elif label_columns is None:  # only the rows that are scored may have labels
        found = (find_label_column(table, label_column, form, optional=True) for table in headed)
        label = next(filter(None, found), None)
        if label is not None and all(label not in table.columns for table in headed):
            train.add_problem(f"no column {label!r}; {train.column_names()}{train.hint}")
    sets = tuple(label_columns or ())
    texts: tuple[str, ...] | None
    if form == "tags":
        texts = find_word_column(train, text_columns, label)
    else:
        texts = find_text_columns(train, text_columns, label, sets)
    if texts is None or (label is None and soft is None and not sets):
        return None
    return Columns(texts, label, soft, group_column, sets)


def _find_soft(
    train: Table, label_column: str | None, form: Form, wanted: SoftLabels, *, has_label: bool
) -> SoftColumns | None:
    """Returns the columns with soft labels, if they are wanted; None, or a problem, if unclear."""
    if wanted == "never":
        return None
    found = find_label_column(train, label_column, form, optional=True)
    has_label = has_label or found in train.columns
    if wanted == "instead" and has_label:
        return None
    if has_label and len(probability_columns(train)) == 1 and LIST_COLUMN not in train.columns:
        return None  # `p_id` and the like
    return SoftColumns.find(train)


def find_label_column(
    table: Table, given: str | None, form: Form = "class", *, optional: bool = False
) -> str | None:
    """Returns the label column, given or found by name; None, and a problem, if it is unclear.

    Where it is `optional`, that there is none is no problem.
    """
    if given is not None:
        return given
    groups = _GROUPS.get(form, (LABEL_COLUMNS,))
    found = [[name for name in table.columns if name.lower() in usual] for usual in groups]
    occurring = [names for names in found if names]
    alone = [names for names in occurring if len(names) == 1 or form != "tags"]
    names: list[str] = next(iter(alone or occurring), [])
    if len(names) == 1:
        return names[0]
    if optional and not names:
        return None
    fault = f"several label columns, {listed(names)}" if names else "no label column found"
    hint = table.hint
    of_number = [name for name in table.columns if name.lower() in NUMBER_COLUMNS]
    if of_number and form == "class":
        hint += (
            f" (if the labels are the numbers in {of_number[0]!r}, give --data.problem regression, "
            "or relevance for numbers from 0 to 1)"
        )
    of_words = [name for usual in TAG_COLUMNS for name in table.columns if name.lower() in usual]
    if of_words and form != "tags" and not names:
        hint += f" (if {of_words[0]!r} has labels of words, give --data.problem entities, or tags)"
    if form == "labels":
        hint += "; or columns of 0 and 1 with --data.label_columns A,B"
    if probability_columns(table) or LIST_COLUMN in table.columns:
        hint += (
            " (if the data have probabilities in place of labels, they can be learned without a "
            "teacher: layermix distill --student MODEL)"
        )
    table.add_problem(
        f"{fault}; {table.column_names()}; name it with --data.label_column NAME{hint}"
    )
    return None


def find_text_columns(
    table: Table, given: Sequence[str] | None, label: str | None, sets: Sequence[str] = ()
) -> tuple[str, ...] | None:
    """Returns the text columns, given or found by name; None, and a problem, if unclear."""
    labels = {label, *sets}
    if given is not None:
        if len(given) not in (1, 2) or len({*given} - labels) != len(given):
            table.add_problem(
                "wanted one or two text columns, different from each other and from the label's, "
                f"found {listed(given)}; name them with --data.text_columns A,B"
            )
            return None
        return tuple(given)
    if table.plain:
        return ("text",)
    possible: list[tuple[str, ...]] = []
    paired: set[str] = set()
    for usual in TEXT_COLUMNS:
        matches = [
            [name for name in table.columns if name.lower() == wanted and name not in labels]
            for wanted in usual
        ]
        if len(usual) == 2 and all(matches):
            paired.update(*matches)
        possible += [
            names for names in product(*matches) if len(names) == 2 or names[0] not in paired
        ]
    if len(possible) == 1:
        return possible[0]
    choices = " or ".join(map(listed, possible))
    fault = f"several possible text columns, {choices}" if possible else "no text column found"
    table.add_problem(
        f"{fault}; {table.column_names()}; name one or two with --data.text_columns A,B{table.hint}"
    )
    return None


def find_word_column(
    table: Table, given: Sequence[str] | None, label: str | None
) -> tuple[str] | None:
    """Returns the column with the texts whose words have labels; None, and a problem, if unclear.

    Where there is one with texts and one with lists of their words, it is the lists, unless the
    labels are spans.
    """
    if given is not None:
        if len(given) != 1 or given[0] == label:
            table.add_problem(
                "wanted one text column, since each word has a label, and not the label's, found "
                f"{listed(given)}; name it with --data.text_columns A"
            )
            return None
        return (given[0],)
    if table.plain:
        return ("text",)
    named = [name for name in table.columns if name != label]
    lists = [name for name in named if name.lower() in WORD_COLUMNS]
    texts = [name for name in named if name.lower() in _SINGLES]
    cells = table.columns[label]() if label is not None and label in table.columns else ()
    are_spans = next((told for told in map(holds_spans, cells) if told is not None), False)
    found = (texts or lists) if are_spans else (lists or texts)
    if len(found) == 1:
        return (found[0],)
    fault = f"several possible text columns, {listed(found)}" if found else "no text column found"
    table.add_problem(
        f"{fault}; {table.column_names()}; name it with --data.text_columns A{table.hint}"
    )
    return None


def has_text_columns(table: Table, columns: tuple[str, ...]) -> bool:
    """Returns whether a table has these text columns; missing ones are a problem."""
    if table.plain and len(columns) > 1:
        table.diagnostics.add(
            table.source,
            f"plain text has one text per line, but two are wanted ({listed(columns)}); "
            "give TSV, CSV, JSONL or Parquet with these columns",
        )
        return False
    missing = [name for name in columns if name not in table.columns]
    if missing and not table.plain:
        fault = f"no column {listed(missing)}; {table.column_names()}{table.hint}"
        table.add_problem(fault, code=_MISSING)
        return False
    return True


def check_texts(table: Table, columns: tuple[str, ...]) -> list[Text]:
    """Returns the texts of a table's rows; texts that cannot be used are problems."""
    names = ("text",) if table.plain else columns
    values = [table.columns[name]() for name in names]
    for name, column in zip(columns, values, strict=True):
        for row, value in enumerate(column):
            if fault := _text_fault(value):
                table.add_problem(f"{fault} (column {name!r})", row)
    return list(zip(*values, strict=True))


def check_words(
    table: Table, column: str, cut: Callable[[str], list[tuple[int, int]]]
) -> tuple[list[Text], list[Words]]:
    """Returns the texts of a table's rows and where their words stand; bad texts are problems.

    Args:
        table: The rows.
        column: Texts, or lists of words, which are joined with a space between.
        cut: Where the words of a text stand.
    """
    texts, words = list[Text](), list[Words]()
    may_be_list = column.lower() in WORD_COLUMNS
    for row, value in enumerate(table.columns["text" if table.plain else column]()):
        try:
            text, of_text = _words_in(value, cut, may_be_list=may_be_list)
        except ValueError as error:
            table.add_problem(f"{error} (column {column!r})", row)
            text, of_text = "", []
        texts.append((text,))
        words.append(of_text)
    return texts, words


def has_lists(table: Table, column: str) -> bool:
    """Returns whether a column has lists of words, judged from its first cell that is not empty."""
    cells = filter(None, map(unpacked, table.columns[column]()))
    return isinstance(next(cells, ""), list | tuple)


def _words_in(
    value: Any, cut: Callable[[str], list[tuple[int, int]]], *, may_be_list: bool
) -> tuple[str, list[tuple[int, int]]]:
    """Returns the text in a cell, and its words.

    Raises:
        ValueError: If it cannot be used.
    """
    value = unpacked(value) if may_be_list or not isinstance(value, str) else value
    if may_be_list:
        refuse_printed(value)
    if not isinstance(value, list | tuple):
        if fault := _text_fault(value):
            raise ValueError(fault)
        return value, cut(value)
    for place, token in enumerate(value, 1):
        if not isinstance(token, str):
            raise ValueError(f"word {place} is {short(token)}, wanted text")
        if not token.strip():
            raise ValueError(f"word {place} is empty; leave it out, and its label")
    text, words = joined([token.strip() for token in value])
    if fault := _text_fault(text):
        raise ValueError(fault)
    return text, words


def check_groups(table: Table, column: str) -> list[str]:
    """Returns the group of each row as text; a missing column or group is a problem."""
    if column not in table.columns:
        table.add_problem(f"no column {column!r} for groups; {table.column_names()}{table.hint}")
        return []
    groups: list[str] = []
    for row, value in enumerate(table.columns[column]()):
        missing = is_missing(value) or str(value).strip() == ""
        if missing:
            table.add_problem(f"the group is missing (column {column!r})", row)
        groups.append("" if missing else str(value).strip())
    return groups


def _text_fault(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "the text is missing"
    if not isinstance(value, str):
        return f"found a {type(value).__name__}, {short(value)}, wanted text"
    if all(unicodedata.category(letter) in _INVISIBLE for letter in value):
        return "the text is empty"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "the text holds half a character (a lone surrogate), which is not Unicode"
    return None


@contextmanager
def columns_for_model(
    model: str,
    trained: tuple[str, ...],
    given: tuple[str, ...] | None,
    *,
    by_word: bool = False,
) -> Iterator[tuple[str, ...] | None]:
    """Yields the text columns to read for a model: as given, else as trained, else None.

    Where a column that was not given is missing, the error says why the column was wanted.

    Args:
        model: What the user calls it.
        trained: The text columns it was trained on; empty if that is not known.
        given: What the user chose.
        by_word: Whether words have answers. Texts are then found by any usual name, as a model that
            was trained on lists of words takes texts, and the other way round.

    Raises:
        ConfigError: The model was trained on another number of texts than are given.
        DataError: From within, with that hint.
    """
    if given is not None and trained and len(given) != len(trained):
        raise ConfigError(
            f"--data.text_columns: found {len(given)} column(s), {', '.join(given)}, but "
            f"{model} was trained on {len(trained)}, {', '.join(trained)}; give as many"
        )
    usual = {*WORD_COLUMNS, *_SINGLES}
    if by_word and {name.lower() for name in trained} <= usual:
        trained = ()
    try:
        yield given or trained or None
    except DataError as error:
        if given is not None or not trained or _MISSING not in error.codes:
            raise
        raise DataError(
            error.problems,
            hint=f"{model} was trained on the text column(s) {', '.join(trained)}; "
            "where they have other names, give --data.text_columns",
        ) from error
