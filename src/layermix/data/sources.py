"""Reads every source of labelled data into tables: files, folders, saved data sets, the hub.

A folder may hold a file per split, as shards or whole, a folder of files per split, or a folder of
texts per split and class; or it has one folder that does, as a cloned data set repository. Values
are taken as they are; `texts.py` checks texts and labels.
"""

import codecs
import re
import shlex
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import datasets

from layermix.config import DataConfig
from layermix.data.files import FORMATS, arrow_columns, class_names, read_file
from layermix.data.splits import SPLIT_NAMES
from layermix.data.tables import (
    NO_COLUMNS,
    NO_ROWS,
    Diagnostics,
    Table,
    from_objects,
    has_repeated_columns,
    listed,
)
from layermix.data.tasks import TASKS
from layermix.errors import ConfigError, DataError, Note
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.kinds import PROBLEMS
from layermix.problems.problem import Problem

Tables = dict[str, Table | None]
"""Split -> its table; None where reading failed, which is a problem in `Diagnostics`."""

NO_CLASSES = ("unsup", *SPLIT_NAMES["unlabeled"])
"""Folders of texts that are not those of a class."""

SHARD = re.compile(r"(.+?)[-_.](\d+)-of-(\d+)(?:-[0-9a-f]+)?", re.ASCII)
"""The name of one of several files of a split, such as `train-00000-of-00002`."""


def problem_of_task(task: str | None, guess: str) -> Problem:
    """Returns the kind of label of a task that is named or guessed, else classification."""
    known = TASKS.get(task or guess.lower())
    return PROBLEMS[known.problem] if known else CLASSIFICATION


def read_tables(
    config: DataConfig, diagnostics: Diagnostics, problem: Problem | None = None
) -> tuple[Tables, str, str]:
    """Reads what a config names; asks the hub only if no such path exists.

    Args:
        config: What is read.
        diagnostics: Gets problems and notes.
        problem: The kind of label, if it is known; by default that of the task. Where words have
            labels, text files are CoNLL files.

    Returns:
        The tables, what the user named, and the name of a task that this may be.

    Raises:
        ConfigError: No data are named.
        DataError: There is nothing of the name, or a saved data set is damaged.
    """
    source = config.train or config.path
    if source is None:
        raise ConfigError(
            "no data named; give --data FOLDER, FILE or HUB_NAME, or --data.train FILE"
        )
    path = Path(source)
    if config.train is None and not path.is_file() and (config.validation or config.test):
        raise ConfigError(
            f"{source} is not a file, so it cannot be combined with --data.validation or "
            "--data.test; give the training file as --data.train FILE"
        )
    tables: Tables
    is_file = config.train is not None or path.is_file()
    name = (path.resolve().parent if is_file else path.resolve()).name
    tagged = (problem or problem_of_task(config.task, name)).form == "tags"
    if config.train is None and path.is_dir():
        tables, guess = _read_folder(path, config, diagnostics, tagged), name
    elif config.train is None and not path.exists():
        tables, guess = _read_hub(source, diagnostics)
    else:
        files = {"train": source, "validation": config.validation, "test": config.test}
        tables = {
            split: read_file(Path(file), config, diagnostics, tagged=tagged)
            for split, file in files.items()
            if file is not None
        }
        guess = name
    if config.unlabeled is not None:
        tables["unlabeled"] = read_file(Path(config.unlabeled), config, diagnostics)
    return tables, source, guess


def tables_of(splits: Mapping[str, Any], source: str, diagnostics: Diagnostics) -> Tables:
    """Returns tables of data sets, or of rows as dictionaries, by split."""
    tables: Tables = {}
    stems = {str(name): str(name).lower() for name in splits}
    for split, name in _pick_splits(stems, source, diagnostics).items():
        tables[split] = _in_memory(splits[name], f"{source}[{name}]", diagnostics)
    return tables


def _in_memory(rows: Any, source: str, diagnostics: Diagnostics) -> Table | None:
    """Returns a data set or rows as a table; None, and a problem, if it has no rows or columns."""
    numbers = range(1, len(rows) + 1)
    if isinstance(rows, datasets.Dataset) and has_repeated_columns(
        source, rows.column_names, diagnostics
    ):
        return None
    if not rows:
        diagnostics.add(source, NO_ROWS)
        return None
    if isinstance(rows, datasets.Dataset):
        columns, classes = arrow_columns(rows.with_format("arrow")[:]), class_names(rows.features)
        return Table(source, diagnostics, columns, numbers, has_lines=False, classes=classes)
    table = from_objects(source, rows, numbers, diagnostics, has_lines=False)
    if table.numbers and not table.columns:
        diagnostics.add(source, NO_COLUMNS)
    return table if table.columns else None


def _read_folder(path: Path, config: DataConfig, diagnostics: Diagnostics, tagged: bool) -> Tables:
    if any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        try:
            saved = datasets.load_from_disk(str(path))
        except Exception as error:  # whatever a damaged folder makes it raise
            raise DataError([f"{path}: not readable as a saved data set: {error}"]) from error
        splits = saved if isinstance(saved, Mapping) else {"train": saved}
        return tables_of(splits, str(path), diagnostics)
    entries = _entries(path)
    if not _has_training(entries):
        folders = [paths[0] for paths in entries.values() if paths[0].is_dir()]
        below = [folder for folder in folders if _has_training(_entries(folder))]
        if len(below) > 1:
            choices = " or ".join(f"--data {shlex.quote(str(folder))}" for folder in below)
            raise DataError([f"{path}: several folders have a training split; give {choices}"])
        if below:
            diagnostics.notes.append(Note("splits-below", f"{path}: the splits are in {below[0]}"))
            path, entries = below[0], _entries(below[0])
    return {
        split: _read_split(entries[name], config, diagnostics, tagged and split != "unlabeled")
        for split, name in _pick_splits(_stems(entries), str(path), diagnostics).items()
    }


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _entries(folder: Path) -> dict[str, list[Path]]:
    """Returns name -> file or folder; the shards of a split are one entry."""
    entries: dict[str, list[Path]] = {}
    for path in _visible(folder):
        shard = SHARD.fullmatch(path.stem)
        name = f"{shard[1]}-*-of-{shard[3]}{path.suffix}" if shard else path.name
        entries.setdefault(name, []).append(path)
    return entries


def _stems(entries: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    """Returns name -> what a split may be called, in lower case; empty if it cannot be one.

    Folders count only if no file is a training split.
    """
    stems = {}
    for name, paths in entries.items():
        shard = SHARD.fullmatch(paths[0].stem)
        readable = paths[0].suffix[1:].lower() in FORMATS and not paths[0].is_dir()
        stems[name] = (shard[1] if shard else paths[0].stem).lower() if readable else ""
    if not any(stem in SPLIT_NAMES["train"] for stem in stems.values()):
        stems |= {name: name.lower() for name, paths in entries.items() if paths[0].is_dir()}
    return stems


def _has_training(entries: Mapping[str, Sequence[Path]]) -> bool:
    return any(stem in SPLIT_NAMES["train"] for stem in _stems(entries).values())


def _read_split(
    paths: Sequence[Path], config: DataConfig, diagnostics: Diagnostics, tagged: bool
) -> Table | None:
    """Returns the table of a file, of shards, or of a folder with files or with texts by class."""
    first = paths[0]
    read = partial(read_file, config=config, diagnostics=diagnostics, tagged=tagged)
    if first.is_dir():
        inside = _visible(first)
        usual = FORMATS if tagged else FORMATS[:-1]  # without text files
        classes = [path for path in inside if path.is_dir() and any(path.glob("*.txt"))]
        files = [path for path in inside if path.suffix[1:].lower() in usual]
        if classes and not files:
            return _read_texts(first, classes, config, diagnostics)
        if not files or len({file.suffix.lower() for file in files}) > 1:
            diagnostics.add(
                str(first),
                "wanted files of one format, or a folder of .txt files for each class; found "
                f"{listed(path.name for path in inside) or 'nothing'}",
            )
            return None
        return _joined(str(first), [*map(read, files)])
    if not (shard := SHARD.fullmatch(first.stem)):
        return read(first)
    total = int(shard[3])
    if len(paths) != total:
        diagnostics.add(
            str(first.parent),
            f"found {len(paths)} of the {total} files of the split {shard[1]}; wanted all: "
            f"{listed(path.name for path in paths)}",
        )
        return None
    source = str(first.with_name(f"{shard[1]}-*-of-{shard[3]}{first.suffix}"))
    return _joined(source, [*map(read, paths)])


def _joined(source: str, parts: Sequence[Table | None]) -> Table | None:
    """Returns the rows of several files as one table; None if a file could not be read."""
    tables = [table for table in parts if table is not None]
    if len(tables) < len(parts):
        return None
    starts = [0, *accumulate(len(table.numbers) for table in tables)]

    def values(name: str) -> list[Any]:
        columns = (
            table.columns[name]() if name in table.columns else [None] * len(table.numbers)
            for table in tables
        )
        return list(chain.from_iterable(columns))

    def place(number: int) -> tuple[str, int]:
        part = bisect_right(starts, number - 1) - 1
        return tables[part].source, tables[part].numbers[number - 1 - starts[part]]

    for table in tables:
        if table.classes != tables[0].classes:
            tables[0].diagnostics.add(
                table.source, f"its class names differ from those in {tables[0].source}"
            )
            return None
    names = dict.fromkeys(chain.from_iterable(table.columns for table in tables))
    columns = {name: partial(values, name) for name in names}
    numbers = range(1, starts[-1] + 1)
    return replace(tables[0], source=source, columns=columns, numbers=numbers, parts=place)


def _read_texts(
    folder: Path, classes: Sequence[Path], config: DataConfig, diagnostics: Diagnostics
) -> Table | None:
    """Returns a table of text files that stand in a folder for each class, such as aclImdb's."""
    used = [path for path in classes if path.name.lower() not in NO_CLASSES]
    if unused := [path.name for path in _visible(folder) if path not in used]:
        diagnostics.notes.append(Note("unused-files", f"{folder}: not used: {listed(unused)}"))
    files = [file for path in used for file in sorted(path.glob("*.txt"))]
    texts, read = list[str](), list[Path]()
    for file in files:
        try:
            text = file.read_bytes().removeprefix(codecs.BOM_UTF8).decode(config.encoding)
        except UnicodeDecodeError as error:
            hint = "; give its encoding with --data.encoding"
            diagnostics.add(str(file), f"cannot be read as {config.encoding}: {error.reason}{hint}")
        except OSError as error:
            diagnostics.add(str(file), f"cannot be read: {error.strerror or error}")
        else:
            texts.append(text.strip())
            read.append(file)
    if not read:
        diagnostics.add(str(folder), NO_ROWS)
        return None
    return Table(
        str(folder),
        diagnostics,
        {"text": partial(list, texts), "label": lambda: [file.parent.name for file in read]},
        range(1, len(read) + 1),
        has_lines=False,
        parts=lambda number: (str(read[number - 1]), 0),
    )


def _read_hub(source: str, diagnostics: Diagnostics) -> tuple[Tables, str]:
    """Returns a hub data set `name` or `name:config`, and what its task may be called."""
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
    except Exception as error:  # whatever the hub, its client or the network raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            [
                f"{source}: no such file or folder, and the hub data set {name!r}"
                + (f" (config {config_name!r})" if config_name else "")
                + f" cannot be loaded: {reason}; a folder with train and validation files (TSV, "
                "CSV, JSONL or Parquet) works without the hub"
            ]
        ) from error
    return tables_of(loaded, source, diagnostics), config_name or name.rpartition("/")[2]


def _pick_splits(stems: Mapping[str, str], source: str, diagnostics: Diagnostics) -> dict[str, str]:
    """Returns split -> the name to read for it, from names -> what a split may be called."""
    picked: dict[str, str] = {}
    for split, usual in SPLIT_NAMES.items():
        names = [name for name, stem in stems.items() if stem in usual]
        if len(names) > 1:
            diagnostics.add(source, f"several {split} splits, {listed(names)}; keep one")
        elif names:
            picked[split] = names[0]
        elif split == "train":
            diagnostics.add(
                source,
                f"no training split; looked for {listed(usual)} (as a file: with one of the "
                f"endings {', '.join('.' + ending for ending in FORMATS[:-1])}), found "
                f"{listed(stems) or 'nothing'}; files of other names can be given with "
                "--data.train and --data.validation",
            )
    if unused := [name for name in stems if name not in picked.values()]:
        diagnostics.notes.append(Note("unused-files", f"{source}: not used: {listed(unused)}"))
    return picked
