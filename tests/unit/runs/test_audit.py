"""An audit finds labels that were changed, keeps what it has done, and refuses other settings."""

import csv
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layermix.config import AuditConfig
from layermix.console import Reporter
from layermix.data.splits import folds_of
from layermix.data.texts import TextData, from_splits
from layermix.errors import ConfigError, DataError, RunExistsError
from layermix.runs import audit as module
from layermix.runs.audit import Audit, audit


@pytest.fixture
def model(bert: Callable[..., Any], tokenizer: Any, tmp_path: Path) -> str:
    """A tiny model that has seen no labels."""
    folder = tmp_path / "model"
    bert(2, 16, dropout=0, seed=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


WRONG = (5, 18)
"""Rows, counted from 1, whose label is not what their text says."""


def rows() -> list[dict[str, Any]]:
    """Each letter beside an `a` and beside a `z`; the label says which, but for `WRONG`."""
    made = [
        {"text": f"{sign} {letter} {sign}", "label": label}
        for letter in string.ascii_lowercase
        for sign, label in (("a", "early"), ("z", "late"))
    ]
    for number in WRONG:
        made[number - 1]["label"] = {"early": "late", "late": "early"}[made[number - 1]["label"]]
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return file


def config(model: str, data: Path, **training: Any) -> AuditConfig:
    recipe = {"epochs": 12, "batch_size": 4, "learning_rate": 5e-3, "precision": "fp32"}
    return AuditConfig.model_validate(
        {"model": model, "folds": 2, "data": str(data), "training": {**recipe, **training}}
    )


def test_changed_labels_come_first(model: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "audit.csv"
    found = audit(config(model, data), out, "csv")
    with out.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert {int(row["row"]) for row in table} == set(range(1, 53))
    assert {int(row["row"]) for row in table[: len(WRONG)]} == set(WRONG)
    amounts = [float(row["disagreement"]) for row in table]
    assert amounts == sorted(amounts, reverse=True)
    for row in table:
        own = float(row["label_probability"])
        assert float(row["disagreement"]) == pytest.approx(1 - own, abs=2e-6)
        assert (row["answer"] == row["label"]) == (own > 0.5)
    others = sum(row["answer"] != row["label"] for row in table)
    assert found == Audit(52, others, pytest.approx(np.mean(amounts), abs=1e-5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.csv", "model", "train.jsonl"]


def test_a_stopped_audit_goes_on(
    model: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = config(model, data, epochs=1)
    out, whole = tmp_path / "audit.jsonl", tmp_path / "whole.jsonl"
    audit(quick, whole, "jsonl")
    trained, train = list[str](), module._train

    def second_stops(settings: Any, texts: Any, folder: Path, reporter: Any) -> None:
        trained.append(folder.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        train(settings, texts, folder, reporter)

    monkeypatch.setattr(module, "_train", second_stops)
    with pytest.raises(KeyboardInterrupt):
        audit(quick, out, "jsonl")
    assert not out.exists()
    with pytest.raises(RunExistsError, match="holds the folds of an audit with other settings"):
        audit(config(model, data, epochs=2), out, "jsonl")
    audit(quick, out, "jsonl")
    assert trained == ["0", "1", "1"]
    assert out.read_text() == whole.read_text()
    assert not (tmp_path / "audit.jsonl.folds").exists()


def test_soft_labels_are_compared_where_there_is_no_label(model: str, tmp_path: Path) -> None:
    made = rows()
    for number, row in enumerate(made):
        early = 0.9 if row["label"] == "early" else 0.2
        row |= {"p_early": early, "p_late": round(1 - early, 6)}
        if number % 2:
            del row["label"]
    file = tmp_path / "soft.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    out = tmp_path / "audit.tsv"
    audit(config(model, file, epochs=1), out, "tsv")
    with out.open(encoding="utf-8", newline="") as table:
        written = list(csv.DictReader(table, delimiter="\t"))
    for row in written:
        asked = made[int(row["row"]) - 1]
        assert row["label"] == asked.get("label", "")
        assert float(row["p_early"]) == asked["p_early"]
        answer = float(row["answer_probability"])
        early = answer if row["answer"] == "early" else 1 - answer
        given = asked["p_early"] if "label" not in asked else float(asked["label"] == "early")
        assert float(row["disagreement"]) == pytest.approx(abs(given - early), abs=2e-6)
    # The table itself can be trained on, with labels that were filled in by hand.
    again = from_splits({"train": written, "validation": written}, soft_labels="beside")
    assert again.splits["train"]["has_label"][:].count(True) == 26


def test_equal_texts_share_a_fold(texts: Callable[..., TextData]) -> None:
    split = texts(40, 10).splits["train"]
    folds = folds_of(split, 3)
    assert set(folds) == {0, 1, 2}
    assert folds_of(split.select([5, 5, 9]), 3) == [folds[5], folds[5], folds[9]]


def test_what_cannot_be_audited(model: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "audit.csv"
    with pytest.raises(ConfigError, match="no model to fine-tune"):
        audit(AuditConfig(data={"path": str(data)}), out, "csv")
    many = config(model, data).model_copy(update={"folds": 60})
    with pytest.raises(DataError, match="52 training rows are too few for 60 folds"):
        audit(many, out, "csv")
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text(data.read_text().replace('"text"', '"answer"'))
    named = config(model, renamed)
    named = named.model_copy(
        update={"data": named.data.model_copy(update={"text_columns": ("answer",)})}
    )
    with pytest.raises(ConfigError, match="the text column 'answer' has the name of a column of"):
        audit(named, out, "csv")
    assert not (tmp_path / "audit.csv.folds").exists()


def test_the_length_and_the_number_of_rows_are_those_of_the_config(
    model: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = config(model, data, epochs=1)
    short = quick.data.model_copy(update={"max_length": 4, "train_rows": 20})
    out, seen = tmp_path / "audit.csv", list[str]()
    reporter = Reporter(quiet=True)
    monkeypatch.setattr(reporter, "say", lambda note, style=None: seen.append(str(note)))
    found = audit(quick.model_copy(update={"data": short}), out, "csv", reporter)
    assert found.rows == 20
    assert any("at most 4 tokens per row" in text for text in seen)


def test_other_soft_labels_are_another_audit(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "soft.jsonl", tmp_path / "audit.jsonl"

    def write(early: float) -> None:
        soft = [
            {"text": row["text"]} | {"p_early": one, "p_late": round(1 - one, 6)}
            for row in rows()
            for one in [early if row["label"] == "early" else 0.2]
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in soft))

    def stops(*_: Any) -> None:
        raise KeyboardInterrupt

    write(0.9)
    monkeypatch.setattr(module, "_train", stops)
    with pytest.raises(KeyboardInterrupt):
        audit(config(model, file), out, "jsonl")
    write(0.8)  # the most probable classes are the same
    with pytest.raises(RunExistsError, match="with other settings or data"):
        audit(config(model, file), out, "jsonl")
