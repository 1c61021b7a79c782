"""Every source of labelled data becomes tables: files, a folder of them, a saved data set, the hub.

Values are taken as they are; which columns are texts and which labels make sense is decided in
`texts.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from layermix.config import DataConfig
from layermix.data.files import FORMATS, Quoting, arrow_columns, class_names, read_file
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
from layermix.errors import ConfigError, DataError

Tables = dict[str, Table | None]
"""Split -> its table; None where reading failed, which is a problem in `Diagnostics`."""


def read_tables(config: DataConfig, diagnostics: Diagnostics) -> tuple[Tables, str, str]:
    """Read what a config names; the hub is asked only if no such path exists.

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
            f"{source} is no file, so --data.validation and --data.test do not go with it; give "
            "the training file as --data.train FILE beside them"
        )
    tables: Tables
    if config.train is None and path.is_dir():
        tables, guess = _read_folder(path, config.quoting, diagnostics), path.resolve().name
    elif config.train is None and not path.exists():
        tables, guess = _read_hub(source, diagnostics)
    else:
        files = {"train": source, "validation": config.validation, "test": config.test}
        tables = {
            split: read_file(Path(file), config.quoting, diagnostics)
            for split, file in files.items()
            if file is not None
        }
        guess = path.resolve().parent.name
    if config.unlabeled is not None:
        tables["unlabeled"] = read_file(Path(config.unlabeled), config.quoting, diagnostics)
    return tables, source, guess


def tables_of(splits: Mapping[str, Any], source: str, diagnostics: Diagnostics) -> Tables:
    """Turn data sets, or rows as dictionaries, by split into tables."""
    tables: Tables = {}
    stems = {str(name): str(name).lower() for name in splits}
    for split, name in _pick_splits(stems, source, diagnostics).items():
        tables[split] = _in_memory(splits[name], f"{source}[{name}]", diagnostics)
    return tables


def _in_memory(rows: Any, source: str, diagnostics: Diagnostics) -> Table | None:
    """A data set or rows as a table; None, and a problem, where there are no rows or columns."""
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


def _read_folder(path: Path, quoting: Quoting, diagnostics: Diagnostics) -> Tables:
    if any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        try:
            saved = datasets.load_from_disk(str(path))
        except Exception as error:  # whatever a damaged folder makes it raise
            raise DataError([f"{path}: not readable as a saved data set: {error}"]) from error
        splits = saved if isinstance(saved, Mapping) else {"train": saved}
        return tables_of(splits, str(path), diagnostics)
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    stems = {  # what cannot be read is listed, never picked
        file.name: file.stem.lower() if file.suffix[1:].lower() in FORMATS else "" for file in files
    }
    return {
        split: read_file(path / name, quoting, diagnostics)
        for split, name in _pick_splits(stems, str(path), diagnostics).items()
    }


def _read_hub(source: str, diagnostics: Diagnostics) -> tuple[Tables, str]:
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
    """Split -> the name to read for it, from names -> the same in lower case, no ending."""
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
        diagnostics.notes.append(f"{source}: not used: {listed(unused)}")
    return picked
