"""A saved classifier whose class names a careless writer would trip over, and files of texts."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
)

from layermix.console import Reporter

LETTERS = "abcdefghij"
TEXTS = ["a b", "c", 'd "e", f', "g h i j a b", "b\tc", "ü d"]
CLASSES = ('say "no", or', "ja\tü", "2")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random three-class BERT with class names that a careless writer would trip over."""
    folder = tmp_path_factory.mktemp("predict") / "model"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = BertTokenizer(
        vocab={word: number for number, word in enumerate(words)}, model_max_length=6
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def variant(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`variant(key=value, …)`: the same model with other entries in its config.json."""

    def make(**entries: Any) -> str:
        folder = tmp_path_factory.mktemp("variant")
        for file in classifier.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | entries), encoding="utf-8")
        return str(folder)

    return make


@pytest.fixture
def reporter() -> tuple[Reporter, io.StringIO]:
    """A reporter, and what it says."""
    reporter, said = Reporter(), io.StringIO()
    reporter.console.file = said
    return reporter, said


def chances(folder: Path, *texts: list[str]) -> np.ndarray[Any, Any]:
    """What transformers alone says, one text at a time, (N, C)."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in zip(*texts, strict=True):
        batch = tokenizer(*text, truncation=True, return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**batch).logits.softmax(-1)[0].numpy())
    return np.stack(rows)


def write(file: Path, columns: dict[str, list[str]]) -> str:
    """A table in the format of the file's ending."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if file.suffix == ".parquet":
        pq.write_table(pa.table(columns), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with file.open("w", encoding="utf-8", newline="") as stream:
            delimiter = "," if file.suffix == ".csv" else "\t"
            writer = csv.DictWriter(stream, list(columns), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return str(file)


def read(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="," if file.suffix == ".csv" else "\t"))


# -- evaluate --


def labelled(folder: Path, split: str, labels: list[str]) -> None:
    write(folder / f"{split}.csv", {"text": TEXTS[: len(labels)], "label": labels})
