"""What a saved model says: logits by batch, scores on labelled data, labels for new texts."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from layermix import metrics
from layermix.config import DataConfig
from layermix.data import load_texts, read_unlabeled
from layermix.errors import ConfigError
from layermix.hf import HFEncoder, load_classifier
from layermix.progress import Reporter
from layermix.signals import Batch
from layermix.tokens import Collator, tokenize, tokenize_split

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def moved(value: Any, device: torch.device) -> Any:
    """A tensor, or a (nested) dictionary of tensors, on `device`."""
    if isinstance(value, Mapping):
        return {name: moved(inner, device) for name, inner in value.items()}
    return value.to(device)


def logits_of(
    encoder: HFEncoder,
    rows: Sequence[Any],
    collate: Callable[[list[Any]], Batch],
    batch_size: int = 32,
    track: Track | None = None,
    what: str = "evaluating",
) -> NDArray[np.float32]:
    """Run a classifier over tokenised rows, in eval mode, without gradient.

    Args:
        encoder: Is moved to the default device.
        rows: Tokenised rows.
        collate: Rows -> padded batch.
        batch_size: Rows per forward pass.
        track: Shows how far it is.
        what: The bar's name.

    Returns:
        Logits in the order of the rows, (N, C).
    """
    device = default_device()
    encoder.eval().to(device)
    starts: Iterable[int] = range(0, len(rows), batch_size)
    if track is not None:
        starts = track(starts, -(-len(rows) // batch_size), what)
    found = []
    with torch.no_grad():
        for start in starts:
            batch = collate([rows[i] for i in range(start, min(start + batch_size, len(rows)))])
            found.append(encoder(moved(batch, device)).logits.float().cpu().numpy())
    return np.concatenate(found)


def evaluate(
    model: str,
    source: str,
    text_columns: tuple[str, ...] | None = None,
    label_column: str | None = None,
    batch_size: int = 32,
    reporter: Reporter | None = None,
) -> dict[str, dict[str, Any]]:
    """Score a saved model on the validation and test splits of labelled data.

    Args:
        model: Run folder, model folder or hub id.
        source: Folder, file or hub data set.
        text_columns: If they are not found by their usual names.
        label_column: If it is not found by its usual name.
        batch_size: Rows per forward pass.
        reporter: Where progress is shown; quiet if None.

    Returns:
        Split -> scores, `per_class` among them.

    Raises:
        LayermixError: If model or data cannot be used, or their classes differ.
    """
    reporter = reporter or Reporter(quiet=True)
    config = DataConfig(path=source, text_columns=text_columns, label_column=label_column)
    texts = load_texts(config)
    classifier = load_classifier(model, texts.label_names, named=texts.named)
    for note in (*texts.notes, *classifier.notes):
        reporter.say(note)
    tokens = tokenize(texts, classifier.tokenizer, classifier.max_length)
    encoder, collate = HFEncoder(classifier.model), Collator(classifier.tokenizer)
    found: dict[str, dict[str, Any]] = {}
    for split, rows in tokens.splits.items():
        labels = np.asarray(rows["labels"])
        if split == "train" or not (labels != metrics.UNLABELLED).any():
            continue
        logits = logits_of(encoder, rows, collate, batch_size, reporter.track, split)
        found[split] = {"rows": len(labels), **metrics.scores(logits, labels)}
        found[split]["per_class"] = metrics.per_class(logits, labels, texts.label_names)
    return found


def scores_text(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Scores by split as a table for people."""
    lines = []
    for split, scores in found.items():
        lines.append(f"{split} ({scores['rows']} rows)")
        lines += [
            f"  {name:<12}{value:8.4f}"
            for name, value in scores.items()
            if isinstance(value, float)
        ]
        lines.append(f"  {'class':<20}{'precision':>10}{'recall':>10}{'f1':>10}{'rows':>8}")
        for name, own in scores["per_class"].items():
            numbers = f"{own['precision']:10.4f}{own['recall']:10.4f}{own['f1']:10.4f}"
            lines.append(f"  {name:<20}{numbers}{own['support']:8.0f}")
    return "\n".join(lines)


def predict(
    model: str,
    file: str,
    out: str = "-",
    text_columns: tuple[str, ...] | None = None,
    input_format: str | None = None,
    batch_size: int = 32,
    reporter: Reporter | None = None,
) -> None:
    """Label texts, in their order, with a probability for each class.

    Args:
        model: Run folder, model folder or hub id.
        file: TSV, CSV, JSONL, Parquet or plain text; `-` is standard input.
        out: .jsonl, .csv or .tsv, written whole or not at all; `-` is standard output (JSONL).
        text_columns: If they are not found by their usual names.
        input_format: What standard input holds.
        batch_size: Rows per forward pass.
        reporter: Where progress is shown; quiet if None.

    Raises:
        LayermixError: If model or texts cannot be used, or `out` has another ending.
    """
    reporter = reporter or Reporter(quiet=True)
    ending = "jsonl" if out == "-" else Path(out).suffix.removeprefix(".")
    if ending not in ("jsonl", "csv", "tsv"):
        raise ConfigError(f"--out {out}: found the ending {ending!r}, wanted .jsonl, .csv or .tsv")
    texts = read_unlabeled(
        sys.stdin.buffer if file == "-" else file, text_columns, format=input_format
    )
    classifier = load_classifier(model)
    names = classifier.label_names
    columns = [column for column in ("text", "text_pair") if column in texts.column_names]
    encoder, collate = HFEncoder(classifier.model), Collator(classifier.tokenizer)
    rows, _ = tokenize_split(texts, classifier.tokenizer, classifier.max_length)
    chances = metrics.softmax(
        logits_of(encoder, rows, collate, batch_size, reporter.track, "predicting")
    )
    with _whole(out) as stream:
        write = _writer(stream, ending, [*columns, "label", *(f"p_{name}" for name in names)])
        for row, chance in zip(texts, chances, strict=True):
            values = [row[column] for column in columns]
            write([*values, names[int(chance.argmax())], *(round(float(p), 6) for p in chance)])


def _writer(stream: IO[str], ending: str, header: list[str]) -> Callable[[list[Any]], None]:
    """A function that writes one row."""
    if ending == "jsonl":
        return lambda values: print(
            json.dumps(dict(zip(header, values, strict=True)), ensure_ascii=False), file=stream
        )
    rows = csv.writer(stream, delimiter="," if ending == "csv" else "\t", lineterminator="\n")
    rows.writerow(header)
    return rows.writerow


@contextmanager
def _whole(out: str) -> Iterator[IO[str]]:
    """Standard output, or a file that gets its name when it is complete."""
    if out == "-":
        yield sys.stdout
        return
    partial = Path(f"{out}.writing")
    try:
        with partial.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
