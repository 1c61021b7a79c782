"""The splits of a data set: their names, rows held out or taken by a hash of their text, hashes."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import datasets
import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from layermix.data.columns import Text
from layermix.data.words import Words
from layermix.errors import DataError
from layermix.evaluation.metrics import UNLABELLED
from layermix.problems.problem import Problem

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "validation_matched", "dev_matched"),
    "test": ("test", "test_matched"),
    "unlabeled": ("unlabeled", "unlabelled"),
}
"""Split -> the names of files and splits that are taken for it."""

VALIDATION_SHARE = 0.1
"""Share of the training rows that becomes the validation split where there is none."""


PROBABILITIES = "probabilities"
"""The column of a split with soft labels, a list of C numbers for each row."""

HAS_LABEL = "has_label"
"""Whether a row has a label beside its soft labels; else `label` has the most probable class."""


GROUP = "group"
"""The column of a split that says which rows belong together, if the user named one."""

WORDS = "words"
"""The column of a split whose words have labels: where each begins and ends in the text, as one
list: begin, end, begin, end, …"""


def make_split(
    texts: Sequence[Text],
    labels: Sequence[Any],
    first_id: int,
    words: Sequence[Words] | None = None,
) -> Dataset:
    """Returns a split of `TextData`; its rows are numbered from `first_id`.

    Args:
        texts: One or two for each row, all alike.
        labels: Of the rows: integers, floats, or lists of integers.
        first_id: The number of the first row.
        words: Of each text, where they stand, if it is they that have labels.
    """
    columns: dict[str, list[Any]] = {"text": [text[0] for text in texts]}
    if texts and len(texts[0]) == 2:
        columns["text_pair"] = [text[1] for text in texts]
    types: dict[str, Any] = {name: datasets.Value("string") for name in columns}
    columns |= {"label": list(labels), "row_id": list(range(first_id, first_id + len(texts)))}
    types |= {"label": _feature(next(iter(labels), 0)), "row_id": datasets.Value("int64")}
    if words is not None:
        columns[WORDS] = [[*chain.from_iterable(of_text)] for of_text in words]
        types[WORDS] = datasets.List(datasets.Value("int64"))
    return Dataset.from_dict(columns, features=datasets.Features(types))


def _feature(label: Any) -> Any:
    """Returns how a label is stored."""
    if isinstance(label, Sequence):
        return datasets.List(datasets.Value("int64"))
    return datasets.Value("float64" if isinstance(label, float) else "int64")


def text_batches(splits: Iterable[Dataset]) -> Iterator[list[list[str]]]:
    """Yields the texts of splits in batches: a list of texts, or one of each text of a pair."""
    for rows in splits:
        columns = [name for name in ("text", "text_pair") if name in rows.column_names]
        for start in range(0, len(rows), 1000):
            batch = rows[start : start + 1000]
            yield [list(batch[name]) for name in columns]


def labels_of(column: Sequence[Any]) -> NDArray[Any]:
    """Returns the labels of a split as one array.

    Args:
        column: Of a data set, or a list.

    Returns:
        (N,), (N, C), or, where each word has a label, (N, W) with −100 where a row has fewer words.

    Examples:
        >>> labels_of([[0, 1, 2], [1]])
        array([[   0,    1,    2],
               [   1, -100, -100]])
        >>> labels_of([0, 1])
        array([0, 1])
    """
    rows = column[:]
    lengths = {len(row) for row in rows if isinstance(row, Sequence)}
    if len(lengths) < 2:
        return np.asarray(rows)
    padded = np.full((len(rows), max(lengths)), UNLABELLED, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


def with_soft_labels(split: Dataset, probabilities: Sequence[Sequence[float]]) -> Dataset:
    """Returns a split with soft labels.

    Args:
        split: From `make_split`.
        probabilities: (N, C), in the order of the classes.
    """
    kind = datasets.List(datasets.Value("float64"))
    return _changed(split, {PROBABILITIES: (list(map(list, probabilities)), kind)})


def with_guessed_labels(split: Dataset, problem: Problem) -> Dataset:
    """Returns a split with soft labels in which the most probable answer stands for no label."""
    labels, probabilities = np.asarray(split["label"][:]), np.asarray(split[PROBABILITIES][:])
    known = problem.labelled(labels)
    labels[~known] = problem.answers(problem.logits_of(probabilities))[~known]
    columns = {
        "label": (labels.tolist(), split.features["label"]),
        HAS_LABEL: (known.tolist(), datasets.Value("bool")),
    }
    return _changed(split, columns)


def without_guessed_labels(split: Dataset, problem: Problem) -> Dataset:
    """Returns a split in which rows without a label of their own have none, as L_sup wants it."""
    if HAS_LABEL not in split.column_names:
        return split
    outputs = len(split[PROBABILITIES][0])
    pairs = zip(split["label"][:], split[HAS_LABEL][:], strict=True)
    labels = [label if own else problem.missing(outputs) for label, own in pairs]
    return _changed(split, {"label": (labels, split.features["label"])})


def _changed(split: Dataset, columns: Mapping[str, tuple[list[Any], Any]]) -> Dataset:
    """Returns a split with columns replaced or added: name -> values and their kind."""
    values = {name: split[name][:] for name in split.column_names}
    values |= {name: column for name, (column, _) in columns.items()}
    kinds = {**split.features, **{name: kind for name, (_, kind) in columns.items()}}
    return Dataset.from_dict(values, features=datasets.Features(kinds))


def with_groups(split: Dataset, groups: Sequence[str]) -> Dataset:
    """Returns a split whose rows belong to groups, (N,)."""
    return _changed(split, {GROUP: (list(groups), datasets.Value("string"))})


def texts_of(split: Dataset) -> list[Text]:
    """Returns the texts of the rows."""
    columns = [name for name in ("text", "text_pair") if name in split.column_names]
    return list(zip(*(split[name][:] for name in columns), strict=True))


def words_by_text(split: Dataset) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yields the text of each row, and where its words stand in it."""
    for text, flat in zip(split["text"][:], split[WORDS][:], strict=True):
        yield text, list(zip(flat[::2], flat[1::2], strict=True))


def hold_out(
    split: Dataset, fraction: float, purpose: Literal["selection", "validation"] = "selection"
) -> tuple[Dataset, Dataset]:
    """Splits rows by a hash of their text alone: independent of seed, order and the other rows.

    Where rows have a group it is a hash of that.

    Args:
        split: Has the columns `text` and perhaps `text_pair` and `group`.
        fraction: Expected share of different texts (or groups) that is held out, in (0, 1).
        purpose: Rows held out for one purpose are drawn independently of those for the other.

    Returns:
        (kept, held), each in the order of `split`. Rows with the same text, or of one group, stay
        together.

    Raises:
        DataError: One of the two would be empty.
    """
    held = [_hash(key, f"hold out for {purpose}") < fraction for key in _together(split)]
    if all(held) or not any(held):
        remedy = {
            "validation": "a validation file",
            "selection": "another --training.holdout_fraction",
        }
        key = "group" if GROUP in split.column_names else "text"
        raise DataError(
            [
                f"holding out {fraction:.0%} of {len(held)} training row(s), by a hash of their "
                f"{key}, leaves none {'to train on' if all(held) else 'in the held-out part'}; "
                f"give {remedy[purpose]}, or more rows"
            ]
        )
    rows = range(len(held))
    return (
        split.select([row for row in rows if not held[row]]),
        split.select([row for row in rows if held[row]]),
    )


def folds_of(split: Dataset, folds: int) -> list[int]:
    """Returns the fold of each row, from 0, by a hash: equal texts, or a group, share a fold."""
    return [int(_hash(key, "folds") * folds) for key in _together(split)]


def _together(split: Dataset) -> list[Text]:
    """Returns what rows that stay together have in common: their group, or else their texts."""
    if GROUP not in split.column_names:
        return texts_of(split)
    return [(group,) for group in split[GROUP][:]]


def take(split: Dataset, rows: int) -> Dataset:
    """Returns the `rows` rows whose texts have the smallest hashes, in the order of `split`.

    Raises:
        DataError: There are fewer rows.
    """
    if rows > len(split):
        raise DataError(
            [f"--data.train_rows asks for {rows} rows, there are {len(split)}; ask for fewer"]
        )
    hashes = [_hash(text, "take") for text in texts_of(split)]
    return split.select(sorted(sorted(range(len(hashes)), key=hashes.__getitem__)[:rows]))


def fingerprint(splits: Mapping[str, Dataset]) -> str:
    """Returns a sha256 of the splits' names, texts, words and labels, in their order."""
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(f"{name} {len(split)}\n".encode())
        labels: list[Any] = split["label"][:]
        if WORDS in split.column_names:
            labels = list(zip(labels, split[WORDS][:], strict=True))
        for text, label in zip(texts_of(split), labels, strict=True):
            digest.update(_bytes(text) + f"{label}\n".encode())
    return digest.hexdigest()


def texts_hash(split: Dataset) -> str:
    """Returns a sha256 of the texts of the rows, whatever their order."""
    digest = hashlib.sha256()
    for row in sorted(hashlib.sha256(_bytes(text)).digest() for text in texts_of(split)):
        digest.update(row)
    return digest.hexdigest()


def _bytes(text: Text) -> bytes:
    """Returns a text as bytes, each part after its length, so that no two texts are the same."""
    parts = (part.encode() for part in text)
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _hash(text: Text, salt: str) -> float:
    """Returns a number in [0, 1) that depends on the text and the salt alone."""
    digest = hashlib.sha256(f"layermix {salt}\n".encode() + _bytes(text)).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
