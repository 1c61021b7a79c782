"""A run killed with SIGKILL at random moments and resumed has the bytes of an undisturbed one."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BertForSequenceClassification, BertTokenizer

from layermix.core.checkpoints import last_checkpoint

from ..forked import Forked

EPOCHS, ROWS, BATCH, SAVE_EVERY = 8, 60, 4, 3
STEPS = ROWS // BATCH  # in an epoch
LINES = STEPS + 1  # of the history, in an epoch: each step, and the evaluation
OFFLINE = os.environ | {"HF_HUB_OFFLINE": "1"}
PATIENCE = 120.0  # seconds, for one process on a busy machine


@pytest.fixture
def command(
    tmp_path: Path,
    bert: Callable[..., BertForSequenceClassification],
    tokenizer: BertTokenizer,
) -> list[str]:
    """The words of `distill …` without --out: a tiny teacher and tiny TSV files on disk."""
    bert(4, 32).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    draw = random.Random(0)
    (tmp_path / "data").mkdir()
    for split, rows in (("train", ROWS), ("validation", 12)):
        lines = [" ".join(draw.choices("abcdefghijk", k=draw.randint(6, 12))) for _ in range(rows)]
        text = "".join(f"{line}\t{int('a' in line)}\n" for line in lines)
        (tmp_path / "data" / f"{split}.tsv").write_text(f"text\tlabel\n{text}", encoding="utf-8")
    return [
        *("distill", "--quiet", "--preset", "quick"),
        *("--teacher", str(tmp_path / "teacher"), "--teacher.allow_weak"),
        *("--data", str(tmp_path / "data")),
        *("--training.epochs", str(EPOCHS), "--training.batch_size", str(BATCH)),
        *("--training.learning_rate", "1e-3", "--training.log_every", "1"),
        *("--mix.strategy", "learned"),
        *("--training.save_every", str(SAVE_EVERY)),
    ]


def lines_in(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def kill_at(command: list[str], history: Path, lines: int) -> None:
    """Start a process and kill it as soon as the history has so many lines."""
    with Forked(command, variables=OFFLINE) as process:
        until = time.monotonic() + PATIENCE
        while lines_in(history) < lines:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until, "it is too slow"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("epochs", [(1,), pytest.param((1, 3, 5), marks=pytest.mark.slow)])
def test_killed_and_resumed_is_undisturbed_byte_for_byte(
    command: list[str], tmp_path: Path, epochs: tuple[int, ...]
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert Forked([*command, "--out", str(straight)], variables=OFFLINE).wait(PATIENCE) == 0
    partial = tmp_path / "broken.partial"
    resume = [*command, "--out", str(broken), "--resume"]
    draw = random.Random(1)
    kills = [draw.randrange(4, 12) + epoch * LINES for epoch in epochs]
    resumed_from = []
    for lines in kills:
        kill_at(resume, partial / "history.jsonl", lines)
        found = last_checkpoint(partial / "checkpoints")
        assert found is not None
        resumed_from.append(int(found.name.split("-")[1]))
    message = f"killed at the history's lines {kills}, resumed from the steps {resumed_from}"
    assert not broken.exists(), message
    assert any(step % STEPS for step in resumed_from), f"never in mid-epoch: {message}"
    assert Forked(resume, variables=OFFLINE).wait(PATIENCE) == 0
    assert not partial.exists()
    assert lines_in(straight / "history.jsonl") == EPOCHS * LINES
    for name in (
        "history.jsonl",
        "alpha.jsonl",
        "predictions.parquet",
        "student/model.safetensors",
    ):
        same = (broken / name).read_bytes() == (straight / name).read_bytes()
        assert same, f"{name}: {message}"


@pytest.mark.slow
def test_a_pretraining_killed_and_resumed_is_undisturbed_byte_for_byte(
    command: list[str], tmp_path: Path
) -> None:
    draw = random.Random(0)
    lines = [" ".join(draw.choices("abcdefghijk", k=20)) for _ in range(200)]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    words = [
        *("pretrain", "--quiet", "--teacher", str(tmp_path / "teacher")),
        *("--texts", str(tmp_path / "texts.txt"), "--texts.max_length", "16"),
        *("--training.epochs", "1", "--training.batch_size", "4", "--training.log_every", "1"),
        *("--training.save_every", "6", "--training.measure_every", "9"),
    ]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert Forked([*words, "--out", str(straight)], variables=OFFLINE).wait(PATIENCE) == 0
    resume = [*words, "--out", str(broken), "--resume"]
    partial = tmp_path / "broken.partial"
    for lines_written in (8, 30):
        kill_at(resume, partial / "history.jsonl", lines_written)
        assert last_checkpoint(partial / "checkpoints") is not None
    assert not broken.exists()
    assert Forked(resume, variables=OFFLINE).wait(PATIENCE) == 0
    for name in ("history.jsonl", "student/model.safetensors"):
        assert (broken / name).read_bytes() == (straight / name).read_bytes(), name
