"""`pretrain` as a user types it: its table and folder, and messages that say what to do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BertModel, BertTokenizer

from .conftest import Cli

FLAGS = (
    *("--texts.max_length", "16", "--student.layers", "1", "--student.hidden", "16"),
    *("--student.heads", "2", "--student.ffn", "16", "--training.epochs", "1"),
)


@pytest.fixture(scope="module")
def texts(place: Path, bert: Callable[..., BertModel], tokenizer: BertTokenizer) -> Path:
    bert(2, 16).save_pretrained(place / "general")
    tokenizer.save_pretrained(place / "general")
    (place / "texts").mkdir()
    lines = [" ".join("abcdefghij"[number % 7 :]) for number in range(60)]
    (place / "texts" / "some, with a comma.txt").write_text("\n".join(lines), encoding="utf-8")
    return place / "texts"


def test_flags_and_a_file_pretrain_alike(cli: Cli, texts: Path, place: Path) -> None:
    given = ("--teacher", "general", "--texts", texts / "some, with a comma.txt", *FLAGS)
    done = cli("pretrain", *given, "--out", "pretrained", "--quiet")
    assert done.code == 0, done.err
    head, first, *_ = done.out.splitlines()
    assert head.endswith("loss on 1 held-out rows")
    assert first.split()[0] == "0"
    assert "hidden" in first
    assert "--student pretrained" in done.out
    again = cli("pretrain", place / "pretrained" / "config.yaml", "--out", "again", "--json")
    assert again.code == 0, again.err
    record = json.loads(again.out)
    assert record == json.loads((place / "again" / "result.json").read_text(encoding="utf-8"))
    assert "loss on held-out rows" in again.err
    weights = [place / run / "student" / "model.safetensors" for run in ("pretrained", "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    report = cli("report", "again")
    assert report.code == 2
    assert "again: holds a pretrained encoder, which has no scores to report" in report.err


def test_wrong_settings_are_all_named(cli: Cli) -> None:
    wrong = ("--texts.held_out", "2", "--student.blocks", "0", "--student.hidden", "8")
    done = cli("pretrain", "--out", "never", *wrong)
    assert done.code == 2
    assert "2 problems in the config" in done.err
    assert "--texts.held_out: " in done.err


def test_settings_of_labelled_rows_are_refused(cli: Cli, place: Path) -> None:
    (place / "labelled.yaml").write_text(
        "training: {patience: 2, selection: holdout}\nstudent: {vocabulary: 100}\n",
        encoding="utf-8",
    )
    done = cli("pretrain", "labelled.yaml", "--out", "never")
    assert done.code == 2
    assert "selection, patience: pretraining has no labels and no scores to choose by" in done.err
    assert cli("pretrain", "--out", "never", "--training.patience", "2").code == 2
    (place / "of-a-task.yaml").write_text("student: {vocabulary: 100}\n", encoding="utf-8")
    done = cli("pretrain", "of-a-task.yaml", "--out", "never")
    assert done.code == 2
    assert "student.vocabulary trims to the words of a task" in done.err


def test_what_is_missing_is_named(cli: Cli, texts: Path) -> None:
    done = cli("pretrain", "--out", "never")
    assert done.code == 2
    assert "no teacher: give --teacher" in done.err
    assert "no texts to learn from: give --texts FILE_OR_FOLDER" in done.err
    done = cli("pretrain", "--teacher", "general", "--texts", "nowhere,texts", "--out", "never")
    assert "nowhere: no such file or folder; give one that exists" in done.err


def test_its_schema_is_printed(cli: Cli) -> None:
    schema = json.loads(cli("schema", "--pretrain").out)
    assert schema["properties"]["training"]["default"]["learning_rate"] == 5e-4
    assert "relation_heads" in schema["$defs"]["PretrainLossConfig"]["properties"]
