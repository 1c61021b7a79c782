"""Texts and labels from files, saved data sets or the hub, checked before any tokenizer.

Reading turns every source into a `_Table`, which knows the file and line of each row; checking
turns tables into `TextData`, or into one `DataError` that lists every problem of every file.
"""

import codecs
import csv
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from layermix.config import DataConfig
from layermix.errors import ConfigError, DataError
from layermix.metrics import TASKS, UNLABELLED

Quoting = Literal["auto", "quoted", "raw"]
Text = tuple[str, ...]
"""The one or two texts of a row."""

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "validation_matched", "dev_matched"),
    "test": ("test", "test_matched"),
    "unlabeled": ("unlabeled", "unlabelled"),
}
"""Split -> the names of files and splits that are taken for it."""

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

FORMATS = ("tsv", "csv", "jsonl", "json", "parquet", "txt")
"""File endings that are read: `json` as JSON lines, `txt` as one text per line."""

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
        task: The task, if named or found; found ones are rows of `metrics.TASKS`.
        source: What the user named.
        fingerprint: sha256 of the splits' names, texts and class indices: independent of place and
            format.
        notes: Sentences worth telling the user.
    """

    splits: Mapping[str, Dataset]
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    named: bool
    task: str | None
    source: str
    fingerprint: str
    notes: tuple[str, ...]


class _Findings:
    """Problems, told together (files in the order met, rows in ascending order), and notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._problems: dict[str, list[tuple[int, str]]] = {}

    def problem(self, source: str, message: str, row: int = 0, counted: str = ":") -> None:
        """Of a whole source (row 0), of a line (counted `:`) or of a row (counted `: row `)."""
        place = f"{source}{counted}{row}" if row else source
        self._problems.setdefault(source, []).append((row, f"{place}: {message}"))

    def raise_problems(self) -> None:
        """Raise one DataError if there are any."""
        if self._problems:
            self.stop()

    def stop(self) -> NoReturn:
        """Raise them where it is known that there are some, which make going on impossible."""
        by_row = (sorted(found, key=lambda item: item[0]) for found in self._problems.values())
        raise DataError([message for found in by_row for _, message in found])


@dataclass(frozen=True)
class _Table:
    """One split as it was read: raw values by column, and where each row stands."""

    source: str
    columns: Mapping[str, Any]  # a list, or an Arrow column, converted only if it is used
    lines: Sequence[int] | None = None  # None: rows are counted, there are no lines
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)  # names of integer labels
    plain: bool = False  # one text per line, no header

    def values(self, column: str) -> list[Any]:
        values = self.columns[column]
        return list(values.to_pylist() if isinstance(values, pa.ChunkedArray) else values)

    def problem(self, findings: _Findings, message: str, row: int | None = None) -> None:
        """Of a row (counted from 0), or of the header."""
        if self.lines is None:
            findings.problem(self.source, message, 0 if row is None else row + 1, ": row ")
        else:
            findings.problem(self.source, message, 1 if row is None else self.lines[row])


# -- the public way in -----------------------------------------------------------------------------


def load_texts(config: DataConfig) -> TextData:
    """Read and check what a config names: a folder, files, a saved `datasets` folder, or the hub.

    Args:
        config: `path`, or `train` and its companions. The hub is asked only if no such path exists.

    Returns:
        The checked data. Without a validation split a tenth of the training rows, chosen by a hash
        of their text, becomes one, and a note says so.

    Raises:
        ConfigError: No data are named.
        DataError: Listing every problem of every file.
    """
    findings = _Findings()
    guess: str | None
    if config.train is not None:
        source = config.train
        named = {"train": source, "validation": config.validation, "test": config.test}
        tables = {
            split: _read_file(Path(file), config.quoting, findings)
            for split, file in named.items()
            if file is not None
        }
        guess = Path(source).resolve().parent.name
    elif config.path is not None:
        source = config.path
        path = Path(source)
        if path.is_dir():
            tables, guess = _read_folder(path, config.quoting, findings), path.resolve().name
        elif path.exists():
            tables = {"train": _read_file(path, config.quoting, findings)}
            guess = path.resolve().parent.name
        else:
            tables, guess = _read_hub(source, findings)
    else:
        raise ConfigError(
            "no data named; give --data FOLDER, FILE or HUB_NAME, or --data.train FILE"
        )
    if config.unlabeled is not None:
        tables["unlabeled"] = _read_file(Path(config.unlabeled), config.quoting, findings)
    return _check(
        tables,
        findings,
        text_columns=config.text_columns,
        label_column=config.label_column,
        task=config.task,
        guess=guess,
        source=source,
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
    findings = _Findings()
    return _check(
        _from_splits(splits, source, findings),
        findings,
        text_columns=text_columns,
        label_column=label_column,
        label_names=label_names,
        task=task,
        source=source,
    )


def read_unlabeled(
    source: str | Path | BinaryIO,
    text_columns: Sequence[str] | None = None,
    *,
    format: str | None = None,
    quoting: Quoting = "auto",
) -> Dataset:
    """Texts to predict, in their order; a label column is neither needed nor read.

    Args:
        source: A file, or an open binary stream such as `sys.stdin.buffer`.
        text_columns: One or two; found by their usual names if not given.
        format: One of `FORMATS`; by default the file's ending. A stream is by default `jsonl` if
            its first line is a JSON object, else `txt`.
        quoting: As in `DataConfig.quoting`.

    Returns:
        Columns `text`, `text_pair` (if two), `label` (`UNLABELLED`) and `row_id` (0, 1, …).

    Raises:
        DataError: Listing every problem with its line.
    """
    findings = _Findings()
    if isinstance(source, str | Path):
        table = _read_file(Path(source), quoting, findings, format)
    else:
        data = source.read()
        table = _parse("standard input", data, format or _sniff(data), quoting, findings)
    if table is None:
        findings.stop()
    columns = _find_texts(table, text_columns, None, findings)
    if columns is None:
        findings.stop()
    texts = _check_texts(table, columns, findings)
    findings.raise_problems()
    return _dataset(texts, [UNLABELLED] * len(texts), 0)


def hold_out(
    split: Dataset, fraction: float, purpose: str = "selection"
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
        raise DataError(
            [
                f"holding out {fraction:.0%} of {len(held)} training row(s), by a hash of their "
                f"text, leaves none {'to train on' if all(held) else 'in the held-out part'}; "
                "give a validation file, or more rows"
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


@dataclass(frozen=True)
class _Labels:
    """The classes, fixed by the training split."""

    names: tuple[str, ...]
    index: Mapping[str, int]  # a label as written in the data -> class index
    task: str | None


def _check(
    tables: Mapping[str, _Table | None],
    findings: _Findings,
    *,
    text_columns: Sequence[str] | None,
    label_column: str | None,
    label_names: Sequence[str] | None = None,
    task: str | None,
    guess: str | None = None,
    source: str,
) -> TextData:
    """Tables -> TextData. A table is None where reading failed and told why."""
    ready = {split: table for split in SPLIT_NAMES if (table := tables.get(split)) is not None}
    for split, table in ready.items():
        if table.plain and split != "unlabeled":
            findings.problem(
                table.source, f"plain text has no labels, so it cannot be {split} data"
            )
    headed = [table for table in ready.values() if not table.plain]
    if not headed:
        findings.stop()
    label = _find_label(headed[0], label_column, findings)
    columns = _find_texts(headed[0], text_columns, label, findings)
    if label is None or columns is None:
        findings.stop()

    texts: dict[str, list[Text]] = {}
    written: dict[str, list[str | None]] = {}
    for split, table in ready.items():
        texts[split] = _check_texts(table, columns, findings)
        if split != "unlabeled" and not table.plain:
            written[split] = _check_labels(table, label, label_names is not None, findings)
    labels = None
    if written.get("train"):
        given = label_names or ready["train"].classes.get(label)
        labels = _find_classes(ready["train"], written["train"], given, task, guess, findings)
    if labels is None:
        findings.stop()
    indices = {
        split: _class_indices(ready[split], names, labels, split, findings)
        for split, names in written.items()
    }
    findings.raise_problems()

    splits, first = dict[str, Dataset](), 0
    for split, rows in texts.items():
        splits[split] = _dataset(rows, indices.get(split, [UNLABELLED] * len(rows)), first)
        first += len(rows)
    if "validation" not in splits:
        splits["train"], splits["validation"] = hold_out(splits["train"], HOLD_OUT, "validation")
        findings.notes.append(
            f"there is no validation split: {len(splits['validation'])} of {len(texts['train'])} "
            "training rows, chosen by a hash of their text, were split off as validation"
        )
        if len(set(splits["train"]["label"])) < 2:
            findings.problem(
                ready["train"].source,
                "once a tenth is split off as validation, the training rows have one label only; "
                "give a validation file, or more rows",
            )
            findings.stop()
        splits = {split: splits[split] for split in SPLIT_NAMES if split in splits}
    _note(splits, ready["train"], columns, label, labels.names, findings)
    return TextData(
        splits=splits,
        text_columns=columns,
        label_names=labels.names,
        named=not all(map(_is_integer, labels.names)),
        task=labels.task,
        source=source,
        fingerprint=_fingerprint(splits),
        notes=tuple(findings.notes),
    )


def _find_label(table: _Table, given: str | None, findings: _Findings) -> str | None:
    usual = [name for name in table.columns if name.lower() in LABEL_COLUMNS]
    if given is None and len(usual) != 1:
        found = f"several label columns, {_list(usual)}" if usual else "no label column found"
        table.problem(
            findings, f"{found}; {_present(table)}; name it with --data.label_column NAME"
        )
        return None
    return given or usual[0]


def _find_texts(
    table: _Table, given: Sequence[str] | None, label: str | None, findings: _Findings
) -> tuple[str, ...] | None:
    """The columns as given, or by their usual names; ambiguity is a problem, not a guess."""
    if given is not None:
        if len(given) not in (1, 2) or len({*given, label}) != len(given) + 1:
            table.problem(
                findings,
                "wanted one or two text columns, different from each other and from the label's, "
                f"found {_list(given)}; name them with --data.text_columns A,B",
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
            possible += [(one, two) for one in found[0] for two in found[1]]
            paired.update(*found)
        elif len(usual) == 1:
            possible += [(name,) for name in found[0] if name not in paired]
    if len(possible) != 1:
        told = " or ".join(map(_list, possible))
        told = f"several possible text columns, {told}" if possible else "no text column found"
        table.problem(
            findings,
            f"{told}; {_present(table)}; name one or two with --data.text_columns A,B",
        )
        return None
    return possible[0]


def _check_texts(table: _Table, columns: tuple[str, ...], findings: _Findings) -> list[Text]:
    if table.plain:
        if len(columns) == 2:
            findings.problem(
                table.source,
                f"plain text has one text per line, but two are wanted ({_list(columns)}); "
                "give TSV, CSV, JSONL or Parquet with these columns",
            )
            return []
        values = [table.values("text")]
    elif missing := [name for name in columns if name not in table.columns]:
        table.problem(findings, f"no column {_list(missing)}; {_present(table)}")
        return []
    else:
        values = [table.values(name) for name in columns]
    for name, column in zip(columns, values, strict=True):
        for row, value in enumerate(column):
            if problem := _text_problem(value):
                table.problem(findings, f"{problem} (column {name!r})", row)
    return list(zip(*values, strict=True))


def _text_problem(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "the text is missing"
    if not isinstance(value, str):
        return f"found a {type(value).__name__}, {_short(value)}, wanted text"
    if not value.strip():
        return "the text is empty"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "the text holds half a character (a lone surrogate), which is not Unicode"
    return None


def _check_labels(
    table: _Table, column: str, renamed: bool, findings: _Findings
) -> list[str | None]:
    """Labels as text; None where one is missing, which is a problem."""
    if column not in table.columns:
        table.problem(findings, f"no column {column!r}; {_present(table)}")
        return []
    classes = () if renamed else table.classes.get(column, ())
    names: list[str | None] = []
    for row, value in enumerate(table.values(column)):
        if classes and isinstance(value, int) and 0 <= value < len(classes):
            names.append(classes[value])
            continue
        try:
            name = _label_name(value)
        except TypeError as error:
            table.problem(findings, f"{error} (column {column!r})", row)
            name = None
        else:
            if name is None:
                table.problem(findings, f"the label is missing (column {column!r})", row)
        names.append(name)
    return names


def _label_name(value: Any) -> str | None:
    """A label as text, the same whatever the format: 1, 1.0, "1" and "1.0" are "1"."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        if integral := re.fullmatch(r"\s*([+-]?[0-9]{1,18})(?:\.0*)?\s*", value):
            return str(int(integral[1]))
        return value if value.strip() else None
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        return str(int(number)) if number.is_integer() else str(number)
    if isinstance(value, bool):
        return str(value)
    raise TypeError(f"found a {type(value).__name__} as label, wanted one text or integer")


def _find_classes(
    table: _Table,
    written: Sequence[str | None],
    given: Sequence[str] | None,
    task: str | None,
    guess: str | None,
    findings: _Findings,
) -> _Labels | None:
    present = Counter(name for name in written if name is not None)
    if not present:
        return None
    if len(present) == 1:
        table.problem(
            findings, f"all rows have the label {_short(*present)}; wanted two classes or more"
        )
    integers = all(map(_is_integer, present))
    if not integers and all(re.fullmatch(r"[+-]?[0-9]*\.?[0-9]+", name) for name in present):
        row = next(i for i, name in enumerate(written) if name and not _is_integer(name))
        table.problem(
            findings,
            f"the label {written[row]} has decimals; wanted classes, as text or integers "
            "(regression is not supported yet)",
            row,
        )
        return None
    known = TASKS.get(task or (guess or "").lower())
    of_task = (known.label_names if known else None) or ()
    numbers = {str(index) for index in range(len(of_task))}
    if given:
        names = tuple(given)
    elif integers and of_task and set(present) <= numbers:
        names = of_task
    else:
        names = tuple(sorted(present, key=int) if integers else sorted(present))
    index = {name: number for number, name in enumerate(names)}
    if integers and (given or names == of_task):
        index = {str(number): number for number in range(len(names))} | index
    if of_task and set(names) == set(of_task):
        # Text labels too come in the task's order: F1 is that of class 1.
        index = {label: of_task.index(names[number]) for label, number in index.items()}
        names = of_task
    elif of_task and task:
        table.problem(
            findings,
            f"task {task} has the labels {_list(of_task)} or 0 to {len(of_task) - 1}, found "
            f"{_list(names)}; mend the labels or leave out --data.task",
        )
    found_task = task or (known.name if known and (not of_task or names == of_task) else None)
    return _Labels(names, index, found_task)


def _class_indices(
    table: _Table,
    written: Sequence[str | None],
    labels: _Labels,
    split: str,
    findings: _Findings,
) -> list[int]:
    indices: list[int] = []
    for row, name in enumerate(written):
        number = UNLABELLED if name is None else labels.index.get(name)
        if number is None and split == "test" and name in ("-1", str(UNLABELLED)):
            number = UNLABELLED  # as the hub's GLUE test splits have it
        if number is None:
            table.problem(
                findings,
                f"unknown label {_short(name)}; the classes are {_list(labels.names)}",
                row,
            )
            number = UNLABELLED
        indices.append(number)
    return indices


def _note(
    splits: Mapping[str, Dataset],
    table: _Table,
    columns: tuple[str, ...],
    label: str,
    names: tuple[str, ...],
    findings: _Findings,
) -> None:
    unused = [name for name in table.columns if name not in (*columns, label)]
    findings.notes.append(
        f"columns: text {_list(columns)}, label {label!r}"
        + (f", not used {_list(unused)}" if unused else "")
    )
    counts = Counter(splits["train"]["label"][:])
    told = (f"{number} = {name} ({counts[number]} rows)" for number, name in enumerate(names))
    findings.notes.append(f"labels in train: {_cut(told)}")
    train = set(_texts(splits["train"]))
    for split in ("validation", "test"):
        if split not in splits:
            continue
        if shared := sum(text in train for text in _texts(splits[split])):
            findings.notes.append(
                f"{split} shares {shared} of its {len(splits[split])} rows with train (same text)"
            )
        if bare := splits[split]["label"][:].count(UNLABELLED):
            findings.notes.append(
                f"{split}: {bare} of {len(splits[split])} rows have no label (-1)"
            )


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


def _fingerprint(splits: Mapping[str, Dataset]) -> str:
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(f"{name} {len(split)}\n".encode())
        for text, label in zip(_texts(split), split["label"][:], strict=True):
            digest.update(_bytes(text) + f"{label}\n".encode())
    return digest.hexdigest()


def _is_integer(name: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", name) is not None


def _short(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 60 else told[:57] + "…" + told[0]


def _cut(items: Iterable[str], shown: int = 12) -> str:
    told = list(items)
    more = f" and {len(told) - shown} more" if len(told) > shown else ""
    return ", ".join(told[:shown]) + more


def _list(names: Iterable[str]) -> str:
    return _cut(map(_short, names))


def _present(table: _Table) -> str:
    return f"the columns are {_list(table.columns)}"


# -- reading ---------------------------------------------------------------------------------------


def _read_folder(path: Path, quoting: Quoting, findings: _Findings) -> dict[str, _Table | None]:
    if any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        try:
            saved = datasets.load_from_disk(str(path))
        except Exception as error:  # whatever a damaged folder sets off
            raise DataError([f"{path}: not readable as a saved data set: {error}"]) from error
        splits = saved if isinstance(saved, Mapping) else {"train": saved}
        return _from_splits(splits, str(path), findings)
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    stems = {  # what cannot be read is listed, never picked
        file.name: file.stem.lower() if file.suffix[1:].lower() in FORMATS else "" for file in files
    }
    return {
        split: _read_file(path / name, quoting, findings)
        for split, name in _pick_splits(stems, str(path), findings).items()
    }


def _read_hub(source: str, findings: _Findings) -> tuple[dict[str, _Table | None], str]:
    """A hub data set `name` or `name:config`, and what its task may be called."""
    if (
        source.startswith((".", "/", "~"))
        or source.count("/") > 1
        or "\\" in source
        or Path(source).suffix[1:].lower() in FORMATS
    ):
        raise DataError([f"{source}: no such file or folder"])
    name, _, config_name = source.partition(":")
    try:
        loaded = datasets.load_dataset(name, config_name or None)
    except Exception as error:  # whatever the hub, its client or the network sets off
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            [
                f"{source}: no such file or folder, and the hub data set {name!r}"
                + (f" (config {config_name!r})" if config_name else "")
                + f" cannot be loaded: {told}; a folder with train and validation files (TSV, CSV, "
                "JSONL or Parquet) works without the hub"
            ]
        ) from error
    return _from_splits(loaded, source, findings), config_name or name.rpartition("/")[2]


def _from_splits(
    splits: Mapping[str, Any], source: str, findings: _Findings
) -> dict[str, _Table | None]:
    tables: dict[str, _Table | None] = {}
    stems = {str(name): str(name).lower() for name in splits}
    for split, name in _pick_splits(stems, source, findings).items():
        rows, place = splits[name], f"{source}[{name}]"
        if isinstance(rows, Dataset):
            classes = {
                column: feature.names
                for column, feature in rows.features.items()
                if isinstance(feature, datasets.ClassLabel)
            }
            tables[split] = _from_arrow(place, rows.with_format("arrow")[:], classes, findings)
        else:
            tables[split] = _from_rows(place, list(rows), None, findings)
    return tables


def _pick_splits(stems: Mapping[str, str], source: str, findings: _Findings) -> dict[str, str]:
    """Split -> the name to read for it, from names -> the same in lower case, no ending."""
    picked: dict[str, str] = {}
    for split, usual in SPLIT_NAMES.items():
        found = [name for name, stem in stems.items() if stem in usual]
        if len(found) > 1:
            findings.problem(source, f"several {split} splits, {_list(found)}; keep one")
        elif found:
            picked[split] = found[0]
        elif split == "train":
            findings.problem(
                source,
                f"no training split; looked for {_list(usual)} (as a file: with one of the endings "
                f"{', '.join('.' + ending for ending in FORMATS[:-1])}), found "
                f"{_list(stems) or 'nothing'}; files of other names can be given with --data.train "
                "and --data.validation",
            )
    if unused := [name for name in stems if name not in picked.values()]:
        findings.notes.append(f"{source}: not used: {_list(unused)}")
    return picked


def _read_file(
    file: Path, quoting: Quoting, findings: _Findings, format: str | None = None
) -> _Table | None:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        findings.problem(str(file), "no such file")
        return None
    except OSError as error:
        findings.problem(str(file), f"cannot be read: {error.strerror or error}")
        return None
    return _parse(str(file), data, format or file.suffix[1:].lower(), quoting, findings)


def _parse(
    source: str, data: bytes, format: str, quoting: Quoting, findings: _Findings
) -> _Table | None:
    """The bytes of one file as a table; None, and a problem, where there is not a single row."""
    if format not in FORMATS:
        findings.problem(
            source, f"unknown format {format!r}; wanted {', '.join(FORMATS)} (as the file's ending)"
        )
        return None
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        findings.problem(source, "the file is empty")
        return None
    if format == "parquet":
        return _parquet(source, data, findings)
    lines = _decode(source, data, findings)
    if not lines:
        return None
    if format == "txt":
        texts = _without_returns(lines)
        return _Table(source, {"text": texts}, range(1, len(texts) + 1), plain=True)
    if format in ("jsonl", "json"):
        return _json_lines(source, lines, findings)
    return _delimited(source, lines, "," if format == "csv" else "\t", quoting, findings)


def _decode(source: str, data: bytes, findings: _Findings) -> list[str]:
    """Lines without their newline; never `splitlines`, which also splits at rare characters."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        findings.problem(source, "found UTF-16, wanted UTF-8; save it as UTF-8")
        return []
    lines: list[str] = []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        try:
            lines.append(line.decode())
        except UnicodeDecodeError as error:
            findings.problem(
                source,
                f"invalid UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1}); "
                "save the file as UTF-8",
                number,
            )
            lines.append(line.decode(errors="replace"))  # so that the rest is checked as well
    return lines[:-1] if lines[-1] == "" else lines


def _without_returns(lines: list[str]) -> list[str]:
    """Drop the carriage returns of Windows' line ends, if the first line has one."""
    return [line.removesuffix("\r") for line in lines] if lines[0].endswith("\r") else lines


Records = list[tuple[int, list[str]]]
"""The line number (of the first line) and the fields of each record."""


def _delimited(
    source: str, lines: list[str], delimiter: str, quoting: Quoting, findings: _Findings
) -> _Table | None:
    raw: Records = []
    marks = 0
    if delimiter == "\t" and quoting != "quoted":
        raw = [  # a blank line has no fields, as in `csv`
            (number, line.split("\t") if line else [])
            for number, line in enumerate(_without_returns(lines), 1)
        ]
        marks = sum(value.startswith('"') for _, record in raw for value in record)
    faults: list[tuple[int, str]] = []
    records, as_text = raw, marks > 0
    if not raw or (quoting == "auto" and marks):
        records, faults = _quoted_records(lines, delimiter)
        if raw:
            quoted = _looks_quoted(raw, records, faults)
            findings.notes.append(
                f"{source}: {marks} fields begin with a quote mark; read "
                + ("as quoted (raw" if quoted else "raw, as part of the text (quoted")
                + " is chosen with --data.quoting)"
            )
            as_text = not quoted
            records, faults = (records, faults) if quoted else (raw, [])
    for number, message in faults:
        findings.problem(source, f"not well quoted: {message}", number)
    while records and not records[-1][1]:
        records.pop()  # blank lines at the end
    if not records:
        return None  # nothing but faults: a file of blank lines does not come here
    header = [name.strip() for name in records[0][1]]
    for name, count in Counter(filter(None, header)).items():
        if count > 1:
            findings.problem(source, f"the column {name!r} appears {count} times in the header", 1)
    rows: Records = []
    for number, record in records[1:]:
        if len(record) == len(header):
            rows.append((number, record))
        elif not record:
            findings.problem(source, f"a blank line, wanted {len(header)} fields", number)
        else:
            amount = "too few" if len(record) < len(header) else "too many"
            hint = " (quote marks were read as text, see --data.quoting)" if as_text else ""
            findings.problem(
                source, f"{amount} fields: {len(record)}, wanted {len(header)}{hint}", number
            )
    if len(records) == 1 and not faults:
        findings.problem(source, "there is only a header, no rows")
    return _Table(
        source,
        {name: [record[i] for _, record in rows] for i, name in enumerate(header)},
        [number for number, _ in rows],
    )


def _quoted_records(lines: list[str], delimiter: str) -> tuple[Records, list[tuple[int, str]]]:
    """Strict CSV; records that are not well formed are told with the line on which they begin."""
    records: Records = []
    faults: list[tuple[int, str]] = []
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(2**31 - 1)  # the default refuses texts of 128 KiB
    try:
        while True:
            number = reader.line_num + 1
            try:
                records.append((number, next(reader)))
            except StopIteration:
                return records, faults
            except csv.Error as error:
                end = "unexpected end" in str(error)
                faults.append((number, "a quote mark is never closed" if end else str(error)))
    finally:
        csv.field_size_limit(limit)


def _looks_quoted(raw: Records, quoted: Records, faults: Sequence[object]) -> bool:
    """Whether the quote marks of a TSV file delimit fields, or are text, as in GLUE.

    If only one of the two readings gives every row the fields of the header, it is that one.
    Otherwise all fields that begin with a quote mark must be whole quoted fields, as some writer
    makes them: for every row of a column, or only where there is a quote mark inside to be doubled.
    """
    raw_fits = len({len(record) for _, record in raw if record}) == 1
    quoted_fits = not faults and len({len(record) for _, record in quoted if record}) == 1
    if raw_fits != quoted_fits:
        return quoted_fits
    rows = [record for _, record in raw[1:] if record] or [raw[0][1]]
    always = {
        column
        for column in range(len(raw[0][1]))
        if all(len(row) > column and row[column].startswith('"') for row in rows)
    }
    return all(
        re.fullmatch(r'"(?:[^"]|"")*"', value) and (column in always or '""' in value[1:-1])
        for row in rows
        for column, value in enumerate(row)
        if value.startswith('"')
    )


def _json_lines(source: str, lines: list[str], findings: _Findings) -> _Table | None:
    if lines[0].lstrip().startswith("["):
        findings.problem(source, "found a JSON array, wanted one JSON object per line", 1)
        return None
    rows: list[Any] = []
    numbers: list[int] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line, object_pairs_hook=_unique))
            numbers.append(number)
        except json.JSONDecodeError as error:
            findings.problem(source, f"not JSON: {error.msg} at column {error.colno}", number)
        except (ValueError, RecursionError) as error:
            findings.problem(source, f"not usable JSON: {error}", number)
    return _from_rows(source, rows, numbers, findings)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the column {twice!r} appears more than once")
    return unique


def _from_rows(
    source: str, rows: Sequence[Any], lines: Sequence[int] | None, findings: _Findings
) -> _Table | None:
    if not rows and lines is None:
        findings.problem(source, "there are no rows")
    bad = _Table(source, {}, lines)
    good = []
    for row, value in enumerate(rows):
        if isinstance(value, Mapping):
            good.append(row)
        else:
            bad.problem(findings, f"found a {type(value).__name__}, wanted one object per row", row)
    names = dict.fromkeys(name for row in good for name in rows[row])
    if not names:
        if good:
            findings.problem(source, "its rows have no columns")
        return None
    return _Table(
        source,
        {name: [rows[row].get(name) for row in good] for name in names},
        [lines[row] for row in good] if lines is not None else None,
    )


def _parquet(source: str, data: bytes, findings: _Findings) -> _Table | None:
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        table.validate(full=True)
        metadata = table.schema.metadata or {}
        features = (
            datasets.Features.from_arrow_schema(table.schema) if b"huggingface" in metadata else {}
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        findings.problem(source, f"not readable as Parquet: {error}")
        return None
    classes = {
        column: feature.names
        for column, feature in features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    return _from_arrow(source, table, classes, findings)


def _from_arrow(
    source: str, table: pa.Table, classes: Mapping[str, Sequence[str]], findings: _Findings
) -> _Table | None:
    if twice := [name for name, n in Counter(table.column_names).items() if n > 1]:
        findings.problem(source, f"the column {_list(twice)} appears more than once")
        return None
    if not table.num_rows:
        findings.problem(source, "there are no rows")
        return None
    named = {  # a ClassLabel that was given only a number of classes calls them "0", "1", …
        column: names for column, names in classes.items() if not all(map(_is_integer, names))
    }
    return _Table(source, dict(zip(table.column_names, table.columns, strict=True)), None, named)


def _sniff(data: bytes) -> str:
    """The format of a stream: `jsonl` if the first line is a JSON object, else `txt`."""
    try:
        first = json.loads(data.removeprefix(codecs.BOM_UTF8).partition(b"\n")[0])
    except (ValueError, RecursionError):
        return "txt"
    return "jsonl" if isinstance(first, dict) else "txt"
