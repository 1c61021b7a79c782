"""On a GPU all is as on a CPU: signals, losses, training, and going on after a kill."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification, BertTokenizer

from layermix.core.objective import build_objective
from layermix.core.signals import Batch, Needs, Signal
from layermix.core.trainer import DistillTrainer
from layermix.data.texts import TextData
from layermix.data.tokenization import Collator, tokenize
from layermix.hardware.device import default_device
from layermix.models.encoder import HFEncoder
from layermix.models.inference import moved
from layermix.models.live_teacher import LiveTeacher
from layermix.teacher_cache.cached_teacher import CachedTeacher, fill, find_store, row_keys
from layermix.teacher_cache.manifest import Identity

from ..tiny_configs import whole

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]

DEVICE = default_device()
NEEDS = Needs((3, 1), embedding=True)
EXACT = Identity("teacher", (3, 1), True, 32, 2, "float32", "float32", "setup")
EPOCHS, ROWS, BATCH = 3, 60, 4
KILLED_AFTER = (ROWS // BATCH + 1) + 7  # lines of the history: in the second epoch
PATIENCE = 120.0  # seconds, for one process

Make = Callable[..., DistillTrainer]


@pytest.fixture
def rows(texts: Callable[..., TextData], tokenizer: BertTokenizer) -> Any:
    return tokenize(texts(41), tokenizer, 16).splits["train"]


def test_cached_signals_are_the_live_ones(
    bert: Callable[..., BertForSequenceClassification],
    rows: Any,
    tokenizer: BertTokenizer,
    tmp_path: Path,
) -> None:
    collate = Collator(tokenizer)
    live = LiveTeacher(HFEncoder(bert(4, 32)), NEEDS)
    store, keys = find_store(tmp_path, EXACT, pytest.fail), row_keys(rows)
    fill(store, live, rows, keys, lambda chosen: moved(collate(chosen), DEVICE))
    cached = CachedTeacher(store, rows["row_id"], keys, live.num_layers)
    batch = moved(collate([rows[row] for row in (30, 2, 11, 7)]), DEVICE)
    found, expected = cached(batch), live(batch)
    assert not found.mask.all()
    parts: list[tuple[Any, Any]] = [(found.logits, expected.logits)]
    parts.append((found.hidden[:, found.mask], expected.hidden[:, found.mask]))
    parts.append((found.embedding[found.mask], expected.embedding[found.mask]))
    for one, other in parts:
        assert one.device.type == DEVICE.type
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0.0)


def test_the_float32_loss_and_its_gradient_are_those_of_the_cpu(
    bert: Callable[..., BertForSequenceClassification], rows: Any, tokenizer: BertTokenizer
) -> None:
    config = whole(training={"precision": "fp32"})
    objective = build_objective(HFEncoder(bert(2, 16, dropout=0.0, seed=1)), 4, 32, config)
    teacher = HFEncoder(bert(4, 32, seed=2))
    batch = Collator(tokenizer)([rows[row] for row in range(8)])

    def norms(device: torch.device) -> dict[str, float]:
        own, answers = copy.deepcopy(objective).to(device), copy.deepcopy(teacher)
        there: Batch = moved(batch, device)
        wanted: Signal = LiveTeacher(answers, own.teacher_needs)(there)
        output = own(there, wanted)
        output.loss.backward()
        gradients = [one.grad for one in own.parameters() if one.grad is not None]
        total = torch.nn.utils.get_total_norm(gradients)
        return {"loss": float(output.loss.detach()), "gradient": float(total)} | {
            name: float(part) for name, part in output.parts.items()
        }

    assert norms(DEVICE) == pytest.approx(norms(torch.device("cpu")), rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_training_lowers_a_finite_loss(trainer: Make, precision: str) -> None:
    training = {"epochs": 12, "batch_size": 4, "log_every": 1, "learning_rate": 3e-3, "warmup": 0}
    made = trainer(training=training | {"precision": precision})
    made.train()
    assert next(made.objective.parameters()).device.type == DEVICE.type
    losses = [line["loss"] for line in made.state.log_history if "loss" in line]
    assert torch.tensor(losses).isfinite().all()
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])


def test_scores_on_the_gpu_are_those_of_the_cpu(
    trainer: Make, bert: Callable[..., BertForSequenceClassification]
) -> None:
    made = trainer(training={"epochs": 1, "batch_size": 4})
    model = copy.deepcopy(made.objective.student).eval()
    rows = made.eval_dataset["validation"]
    found = made.predict(rows)
    batch = made.data_collator([rows[row] for row in range(len(rows))])
    with torch.no_grad():
        expected = model.cpu()(batch).logits
    order = torch.as_tensor(found.label_ids[1]).argsort()
    torch.testing.assert_close(
        torch.as_tensor(found.predictions)[order],
        expected[batch["row_id"].argsort()],
        atol=1e-4,
        rtol=0.0,
    )


@pytest.fixture
def command(
    tmp_path: Path,
    bert: Callable[..., BertForSequenceClassification],
    tokenizer: BertTokenizer,
) -> list[str]:
    """`layermix distill …` without --out: a tiny teacher and tiny TSV files on disk."""
    bert(4, 32).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    draw = random.Random(0)
    (tmp_path / "data").mkdir()
    for split, count in (("train", ROWS), ("validation", 12)):
        lines = [" ".join(draw.choices("abcdefghijk", k=draw.randint(6, 12))) for _ in range(count)]
        text = "".join(f"{line}\t{int('a' in line)}\n" for line in lines)
        (tmp_path / "data" / f"{split}.tsv").write_text(f"text\tlabel\n{text}", encoding="utf-8")
    return [
        *(sys.executable, "-m", "layermix", "distill", "--quiet"),
        *("--teacher", str(tmp_path / "teacher"), "--teacher.allow_weak"),
        *("--data", str(tmp_path / "data"), "--mix.strategy", "learned"),
        *("--preset", "quick"),
        *("--training.epochs", str(EPOCHS), "--training.batch_size", str(BATCH)),
        *("--training.learning_rate", "1e-3", "--training.log_every", "1"),
        *("--training.save_every", "4"),
    ]


def test_a_killed_and_resumed_run_has_the_scores_of_an_undisturbed_one(
    command: list[str], tmp_path: Path
) -> None:
    subprocess.run([*command, "--out", str(tmp_path / "straight")], check=True, timeout=PATIENCE)
    resume = [*command, "--out", str(tmp_path / "broken"), "--resume"]
    history = tmp_path / "broken.partial" / "history.jsonl"
    with subprocess.Popen(resume, env=os.environ | {"HF_HUB_OFFLINE": "1"}) as process:
        until = time.monotonic() + PATIENCE
        while not history.is_file() or history.read_bytes().count(b"\n") < KILLED_AFTER:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until, "it is too slow"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    subprocess.run(resume, check=True, timeout=PATIENCE)
    runs = [tmp_path / name for name in ("straight", "broken")]
    straight, broken = (json.loads((run / "result.json").read_text()) for run in runs)
    assert broken["timings"]["resumed"]
    assert broken["metrics"]["last"]["validation"] == straight["metrics"]["last"]["validation"]
    lines = [(run / "history.jsonl").read_text().splitlines() for run in runs]
    for one, other in zip(*([json.loads(line) for line in some] for some in lines), strict=True):
        if "loss" in one:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
