"""Tables become checked texts and class indices, or one error that tells every problem.

Nothing here knows a file format (`sources.py`) or a tokenizer (`tokens.py`).
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from numbers import Integral, Real
from typing import Any, Literal

import datasets
from datasets import Dataset

from layermix.config import DataConfig
from layermix.data.files import (
    SPLIT_NAMES,
    Findings,
    Table,
    Tables,
    is_integer,
    joined,
    listed,
    read_tables,
    short,
    tables_of,
)
from layermix.data.tasks import TASKS
from layermix.errors import DataError
from layermix.evaluation.metrics import UNLABELLED

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

_MANY = 50  # classes; beyond, and with fewer than two rows each, it is not classes that one sees

HOLD_OUT = 0.1
"""Share of the training rows that becomes the validation split where there is none."""


@dataclass(frozen=True)
class TextData:
    """Texts and labels by split, checked.

    Attributes:
        splits: `train`, `validation`, perhaps `test` and `unlabeled`, with the columns `text`,
            `text_pair` (if there are two), `label` (class index; `UNLABELLED` in `unlabeled` and in
            test rows that came with -1) and `row_id` (unique over all splits).
        text_columns: The one or two original names of the text columns.
        label_names: Class index -> name.
        named: False if the names are only the integers that stood in the label column.
        task: The task, if named or found; found ones are rows of `TASKS`.
        source: What the user named.
        fingerprint: sha256 of the splits' names, texts and class indices: independent of place and
            format.
        taught: sha256 of the texts of the training rows, in whatever order, with those that were
            split off for validation.
        split_off: Whether the validation rows were split off from the training rows.
        notes: Sentences worth telling the user.
    """

    splits: Mapping[str, Dataset]
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    named: bool
    task: str | None
    source: str
    fingerprint: str
    taught: str
    split_off: bool
    notes: tuple[str, ...]


# -- the public way in -----------------------------------------------------------------------------


def load_texts(config: DataConfig, classes: Sequence[str] | None = None) -> TextData:
    """Read and check what a config names: a folder, files, a saved `datasets` folder, or the hub.

    Args:
        config: `path`, or `train` and its companions. The hub is asked only if no such path exists.
        classes: Of the model that is to be scored on the data: where their labels are some of
            these, or indices into them, the data have these classes, in this order.

    Returns:
        The checked data. Without a validation split a tenth of the training rows, chosen by a hash
        of their text, becomes one, and a note says so.

    Raises:
        ConfigError: No data are named.
        DataError: Listing every problem of every file.
    """
    findings = Findings()
    tables, source, guess = read_tables(config, findings)
    return _check(
        tables,
        findings,
        text_columns=config.text_columns,
        label_column=config.label_column,
        task=config.task,
        guess=guess,
        source=source,
        classes=classes,
    )


def from_splits(
    splits: Mapping[str, Dataset | Sequence[Mapping[str, Any]]],
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    task: str | None = None,
    source: str = "memory",
) -> TextData:
    """Check data that are in memory already.

    Args:
        splits: Split name -> a `datasets.Dataset`, or rows as dictionaries.
        text_columns: One or two; found by their usual names if not given.
        label_column: Found by its usual name if not given.
        label_names: Class index -> name; integer labels are indices into it.
        task: Name of a known task.
        source: What to call the data.

    Raises:
        DataError: Listing every problem of every split.

    Examples:
        >>> rows = [{"text": f"number {n}", "label": n % 2} for n in range(40)]
        >>> texts = from_splits({"train": rows[:30], "validation": rows[30:]})
        >>> texts.label_names, texts.named, texts.splits["validation"][0]["row_id"]
        (('0', '1'), False, 30)
    """
    findings = Findings()
    return _check(
        tables_of(splits, source, findings),
        findings,
        text_columns=text_columns,
        label_column=label_column,
        label_names=label_names,
        task=task,
        source=source,
    )


def hold_out(
    split: Dataset, fraction: float, purpose: Literal["selection", "validation"] = "selection"
) -> tuple[Dataset, Dataset]:
    """Split rows by a hash of their text alone: independent of seed, order and the other rows.

    Args:
        split: Has the columns `text` and perhaps `text_pair`.
        fraction: Expected share of different texts that is held out, in (0, 1).
        purpose: Rows held out for one purpose are drawn apart from those for another.

    Returns:
        (kept, held), each in the order of `split`. Rows with the same text stay together.

    Raises:
        DataError: One of the two would be empty.
    """
    held = [_hash(text, f"hold out for {purpose}") < fraction for text in _texts(split)]
    if all(held) or not any(held):
        other = {
            "validation": "a validation file",
            "selection": "another --training.holdout_fraction",
        }
        raise DataError(
            [
                f"holding out {fraction:.0%} of {len(held)} training row(s), by a hash of their "
                f"text, leaves none {'to train on' if all(held) else 'in the held-out part'}; "
                f"give {other[purpose]}, or more rows"
            ]
        )
    rows = range(len(held))
    return (
        split.select([row for row in rows if not held[row]]),
        split.select([row for row in rows if held[row]]),
    )


def take(split: Dataset, rows: int) -> Dataset:
    """The `rows` rows whose texts have the smallest hashes, in the order of `split`.

    Raises:
        DataError: There are fewer rows.
    """
    if rows > len(split):
        raise DataError(
            [f"--data.train_rows asks for {rows} rows, there are {len(split)}; ask for fewer"]
        )
    hashes = [_hash(text, "take") for text in _texts(split)]
    return split.select(sorted(sorted(range(len(hashes)), key=hashes.__getitem__)[:rows]))


# -- checking --------------------------------------------------------------------------------------


def _check(
    tables: Tables,
    findings: Findings,
    *,
    text_columns: Sequence[str] | None,
    label_column: str | None,
    label_names: Sequence[str] | None = None,
    task: str | None,
    guess: str = "",
    source: str,
    classes: Sequence[str] | None = None,
) -> TextData:
    ready = {split: table for split in SPLIT_NAMES if (table := tables.get(split)) is not None}
    for split, table in ready.items():
        if table.plain and split != "unlabeled":
            findings.problem(
                table.source, f"plain text has no labels, so it cannot be {split} data"
            )
    headed = [table for table in ready.values() if not table.plain]
    if not headed:
        findings.stop()
    label = _find_label(headed[0], label_column)
    columns = find_texts(headed[0], text_columns, label)
    if label is None or columns is None:
        findings.stop()

    texts: dict[str, list[Text]] = {}
    written: dict[str, list[str | None]] = {}
    for split, table in ready.items():
        texts[split] = check_texts(table, columns) if has_texts(table, columns) else []
        if split == "test" and _bare(table, label):
            written[split] = [None] * len(texts[split])
        elif split != "unlabeled" and not table.plain:
            written[split] = _check_labels(table, label, label_names is not None)
    labels = None
    if written.get("train"):
        names = written["train"]
        given = label_names or ready["train"].classes.get(label)
        labels = _as_the_model_has_them(names, classes or (), task or guess) or _find_classes(
            ready["train"], names, given, label_names is not None, task, guess
        )
    if labels is None:
        findings.stop()
    indices = {
        split: _class_indices(ready[split], names, labels, split)
        for split, names in written.items()
    }
    findings.raise_problems()

    splits, first = dict[str, Dataset](), 0
    for split, rows in texts.items():
        splits[split] = _dataset(rows, indices.get(split, [UNLABELLED] * len(rows)), first)
        first += len(rows)
    taught, split_off = _taught(splits["train"]), "validation" not in splits
    if split_off:
        splits = _split_off(splits, ready["train"])
    _note(splits, ready["train"], columns, label, labels.names)
    return TextData(
        splits=splits,
        text_columns=columns,
        label_names=labels.names,
        named=not all(map(is_integer, labels.names)),
        task=labels.task,
        source=source,
        fingerprint=_fingerprint(splits),
        taught=taught,
        split_off=split_off,
        notes=tuple(findings.notes),
    )


def _find_label(table: Table, given: str | None) -> str | None:
    usual = [name for name in table.columns if name.lower() in LABEL_COLUMNS]
    if given is None and len(usual) != 1:
        found = f"several label columns, {listed(usual)}" if usual else "no label column found"
        table.problem(f"{found}; {_present(table)}; name it with --data.label_column NAME")
        return None
    return usual[0] if given is None else given


def find_texts(
    table: Table, given: Sequence[str] | None, label: str | None
) -> tuple[str, ...] | None:
    """The text columns as given, or by their usual names; ambiguity is a problem, not a guess."""
    if given is not None:
        if len(given) not in (1, 2) or len({*given, label}) != len(given) + 1:
            table.problem(
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
        found = [
            [name for name in table.columns if name.lower() == wanted and name != label]
            for wanted in usual
        ]
        if len(usual) == 2 and all(found):
            paired.update(*found)
        possible += [
            names for names in product(*found) if len(names) == 2 or names[0] not in paired
        ]
    if len(possible) != 1:
        told = " or ".join(map(listed, possible))
        told = f"several possible text columns, {told}" if possible else "no text column found"
        table.problem(f"{told}; {_present(table)}; name one or two with --data.text_columns A,B")
        return None
    return possible[0]


def has_texts(table: Table, columns: tuple[str, ...]) -> bool:
    """Whether a table has these text columns; what it lacks is a problem."""
    if table.plain and len(columns) > 1:
        table.findings.problem(
            table.source,
            f"plain text has one text per line, but two are wanted ({listed(columns)}); "
            "give TSV, CSV, JSONL or Parquet with these columns",
        )
        return False
    missing = [name for name in columns if name not in table.columns]
    if missing and not table.plain:
        table.problem(f"no column {listed(missing)}; {_present(table)}")
        return False
    return True


def check_texts(table: Table, columns: tuple[str, ...]) -> list[Text]:
    """The texts of a table's rows; those that are no text are problems."""
    wanted = ("text",) if table.plain else columns
    values = [table.columns[name]() for name in wanted]
    for name, column in zip(columns, values, strict=True):
        for row, value in enumerate(column):
            if problem := _text_problem(value):
                table.problem(f"{problem} (column {name!r})", row)
    return list(zip(*values, strict=True))


def _text_problem(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "the text is missing"
    if not isinstance(value, str):
        return f"found a {type(value).__name__}, {short(value)}, wanted text"
    if not value.strip():
        return "the text is empty"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "the text holds half a character (a lone surrogate), which is not Unicode"
    return None


def _bare(table: Table, column: str) -> bool:
    """Whether no row has a label: there is no such column, or nothing is in it."""
    if table.plain or column not in table.columns:
        return not table.plain
    return all(value in (None, "") or value != value for value in table.columns[column]())


def _check_labels(table: Table, column: str, renamed: bool) -> list[str | None]:
    """Labels as text; None where there is none, which is a problem."""
    if column not in table.columns:
        table.problem(f"no column {column!r}; {_present(table)}")
        return []
    classes = () if renamed else table.classes.get(column, ())
    names: list[str | None] = []
    for row, value in enumerate(table.columns[column]()):
        if classes and isinstance(value, int) and 0 <= value < len(classes):
            names.append(classes[value])
            continue
        try:
            names.append(_label_name(value))
        except ValueError as error:
            table.problem(f"{error} (column {column!r})", row)
            names.append(None)
    return names


def _label_name(value: Any) -> str:
    """A label as text, the same whatever the format: 1, 1.0, "1" and "1.0" are "1"."""
    if isinstance(value, str) and value.strip():
        integral = re.fullmatch(r"\s*([+-]?[0-9]{1,18})(?:\.0*)?\s*", value)
        return str(int(integral[1])) if integral else value.strip()
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real) and not math.isnan(number := float(value)):
        return str(int(number)) if number.is_integer() else str(number)
    if value is None or isinstance(value, str | Real):
        raise ValueError("the label is missing")
    raise ValueError(f"found a {type(value).__name__} as label, wanted one text or integer")


@dataclass(frozen=True)
class _Labels:
    """The classes, fixed by the training split."""

    names: tuple[str, ...]
    index: Mapping[str, int]  # a label as written in the data -> class index
    task: str | None


def _as_the_model_has_them(
    written: Sequence[str | None], classes: Sequence[str], task: str
) -> _Labels | None:
    """The classes of a model that is scored, if the labels are some of them or their indices."""
    present = {name for name in written if name is not None}
    if not classes or not present:
        return None
    index = {name: number for number, name in enumerate(classes)}
    numbers = {str(number): number for number in range(len(classes))}
    if not present <= set(index):
        if present <= set(numbers) and not all(map(is_integer, classes)):
            index = numbers
        elif not present & set(index):
            return None
    known = TASKS.get(task.lower())
    if known is None or set(classes) != set(known.label_names or ()):
        return _Labels(tuple(classes), index, None)
    if index is numbers:  # the task says what they mean, whatever the model's order
        index = {str(n): classes.index(name) for n, name in enumerate(known.label_names or ())}
    return _Labels(tuple(classes), index, known.name)


def _find_classes(
    table: Table,
    written: Sequence[str | None],
    given: Sequence[str] | None,
    by_number: bool,
    task: str | None,
    guess: str,
) -> _Labels | None:
    """The classes of training rows; integers are indices into `given` if `by_number`."""
    present = Counter(name for name in written if name is not None)
    if not present:
        return None
    if len(present) == 1:
        table.problem(f"all rows have the label {short(*present)}; wanted two classes or more")
    integers = all(map(is_integer, present))
    if not integers and all(map(_is_number, present)):
        row = next(i for i, name in enumerate(written) if name and not is_integer(name))
        table.problem(
            f"the label {written[row]} has decimals; wanted classes, as text or integers "
            "(regression is not supported yet)",
            row,
        )
        return None
    if not given and len(present) > max(_MANY, len(written) / 2):
        table.problem(
            f"{len(present)} different labels in {len(written)} rows; wanted classes, each with "
            "several rows; name another column with --data.label_column NAME"
        )
        return None
    if task is not None and task not in TASKS:
        table.problem(f"unknown task {task}; wanted one of {joined(TASKS)}, or no --data.task")
    known = TASKS.get(task or guess.lower())
    of_task = (known.label_names if known else None) or ()
    numbers = {str(index) for index in range(len(of_task))}
    if given:
        names = tuple(given)
    elif integers and of_task and set(present) <= numbers:
        names = of_task
    else:
        names = tuple(sorted(present, key=int) if integers else sorted(present))
    index = {name: number for number, name in enumerate(names)}
    if integers and (by_number or (not all(map(is_integer, names)) and (given or of_task))):
        index |= {str(number): number for number in range(len(names))}
    if of_task and set(names) == set(of_task):
        # Text labels too come in the task's order: F1 is that of class 1.
        index = {label: of_task.index(names[number]) for label, number in index.items()}
        names = of_task
    elif of_task and task:
        table.problem(
            f"task {task} has the labels {listed(of_task)} or 0 to {len(of_task) - 1}, found "
            f"{listed(names)}; mend the labels or leave out --data.task"
        )
    found_task = task or (known.name if known and (not of_task or names == of_task) else None)
    return _Labels(names, index, found_task)


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name.replace(",", ".")))
    except ValueError:
        return False


def _class_indices(
    table: Table, written: Sequence[str | None], labels: _Labels, split: str
) -> list[int]:
    index: dict[str | None, int] = {None: UNLABELLED}
    if split == "test":  # as the hub's GLUE test splits have it
        index |= {"-1": UNLABELLED, str(UNLABELLED): UNLABELLED}
    index.update(labels.index)
    classes = listed(labels.names)  # once: there may be as many as rows
    for row, name in enumerate(written):
        if name not in index:
            table.problem(f"unknown label {short(name)}; the classes are {classes}", row)
    return [index.get(name, UNLABELLED) for name in written]


def _split_off(splits: Mapping[str, Dataset], table: Table) -> dict[str, Dataset]:
    """A tenth of the training rows, read from `table`, becomes the validation split."""
    train, validation = hold_out(splits["train"], HOLD_OUT, "validation")
    table.findings.notes.append(
        f"there is no validation split: {len(validation)} of {len(splits['train'])} training rows, "
        "chosen by a hash of their text, were split off as validation"
    )
    if len(set(train["label"][:])) < 2:
        table.findings.problem(
            table.source,
            "once a tenth is split off as validation, the training rows have one label only; "
            "give a validation file, or more rows",
        )
        table.findings.stop()
    made = {**splits, "train": train, "validation": validation}
    return {split: made[split] for split in SPLIT_NAMES if split in made}


def _note(
    splits: Mapping[str, Dataset],
    table: Table,
    columns: tuple[str, ...],
    label: str,
    names: tuple[str, ...],
) -> None:
    notes = table.findings.notes
    unused = [name for name in table.columns if name not in (*columns, label)]
    notes.append(
        f"columns: text {listed(columns)}, label {label!r}"
        + (f", not used {listed(unused)}" if unused else "")
    )
    counts = Counter(splits["train"]["label"][:])
    told = (f"{number} = {name} ({counts[number]} rows)" for number, name in enumerate(names))
    notes.append(f"labels in train: {joined(told)}")
    train = set(_texts(splits["train"]))
    for split in ("validation", "test"):
        if split not in splits:
            continue
        rows = len(splits[split])
        if shared := sum(text in train for text in _texts(splits[split])):
            notes.append(f"{split} shares {shared} of its {rows} rows with train (same text)")
        if bare := splits[split]["label"][:].count(UNLABELLED):
            notes.append(f"{split}: {bare} of {rows} rows have no label (-1)")


def _dataset(texts: Sequence[Text], labels: Sequence[int], first: int) -> Dataset:
    columns: dict[str, list[Any]] = {"text": [text[0] for text in texts]}
    if texts and len(texts[0]) == 2:
        columns["text_pair"] = [text[1] for text in texts]
    columns |= {"label": list(labels), "row_id": list(range(first, first + len(texts)))}
    types = {name: "string" if name.startswith("text") else "int64" for name in columns}
    features = datasets.Features({name: datasets.Value(kind) for name, kind in types.items()})
    return Dataset.from_dict(columns, features=features)


def _texts(split: Dataset) -> list[Text]:
    columns = [name for name in ("text", "text_pair") if name in split.column_names]
    return list(zip(*(split[name][:] for name in columns), strict=True))


def _bytes(text: Text) -> bytes:
    """Unambiguous: each part is preceded by its length."""
    parts = (part.encode() for part in text)
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _hash(text: Text, salt: str) -> float:
    """A number in [0, 1) that depends on the text and the salt alone."""
    digest = hashlib.sha256(f"layermix {salt}\n".encode() + _bytes(text)).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _taught(train: Dataset) -> str:
    digest = hashlib.sha256()
    for row in sorted(hashlib.sha256(_bytes(text)).digest() for text in _texts(train)):
        digest.update(row)
    return digest.hexdigest()


def _fingerprint(splits: Mapping[str, Dataset]) -> str:
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(f"{name} {len(split)}\n".encode())
        for text, label in zip(_texts(split), split["label"][:], strict=True):
            digest.update(_bytes(text) + f"{label}\n".encode())
    return digest.hexdigest()


def _present(table: Table) -> str:
    return f"the columns are {listed(table.columns)}"
