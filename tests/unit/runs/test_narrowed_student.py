"""Runs whose student starts from its narrowed teacher: through the command, stopped and resumed."""

import json
import random
from contextlib import nullcontext
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import BertTokenizer, TrainerCallback

from layermix.cli import main
from layermix.config import DistillConfig
from layermix.data.texts import load_texts
from layermix.errors import ConfigError
from layermix.models.encoder import Classifier, fingerprint
from layermix.models.loading import load_classifier
from layermix.models.narrowing import narrow_student
from layermix.models.students import copy_blocks
from layermix.runs import pipeline, training
from layermix.runs.reader import RunFiles
from layermix.runs.schema import read_result

OPTIONS = [
    *("--preset=quick", "--student.start=teacher", "--student.layers=2", "--student.hidden=8"),
    *("--student.heads=1", "--student.ffn=12", "--teacher.allow_weak", "--loss.hidden_weight=1"),
    *("--training.epochs=2", "--training.batch_size=8", "--training.save_every=2"),
    *("--training.precision=fp32", "--cache.precision=fp32", "--quiet"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw, folder = random.Random(0), tmp_path_factory.mktemp("data")
    for split, rows in (("train", 32), ("validation", 12)):
        lines = []
        for _ in range(rows):
            words = draw.choices(ascii_lowercase, k=draw.randint(2, 9))
            label = "low" if words[0] < "n" else "high"
            lines.append(json.dumps({"text": " ".join(words), "label": label}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, bert: Any, tokenizer: BertTokenizer) -> Path:
    folder, model = tmp_path_factory.mktemp("teacher"), bert(4)
    model.config.id2label, model.config.label2id = {0: "high", 1: "low"}, {"high": 0, "low": 1}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def distil(teacher: Path, data: Path, out: Path, *more: str) -> Any:
    words = ["distill", f"--teacher={teacher}", f"--data={data}", f"--out={out}", *OPTIONS, *more]
    return CliRunner().invoke(main, words)


class Stop(TrainerCallback):
    """Stops a run as Ctrl-C does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    teacher: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, out = tmp_path / "straight", tmp_path / "run"
    done = distil(teacher, data, straight)
    assert done.exit_code == 0, done.output
    record = read_result(straight)
    assert record.student is not None
    assert record.student.kind == "narrowed"
    assert (record.student.place, record.student.blocks) == (str(teacher), (0, 1))
    assert (record.student.hidden, record.student.heads, record.student.ffn) == (8, 1, 12)
    saved = load_classifier(str(straight))
    assert saved.model.config.hidden_size == 8

    with monkeypatch.context() as patch:
        patch.setattr(training, "training_bar", lambda *_: nullcontext(Stop()))
        assert distil(teacher, data, out).exit_code != 0
    assert RunFiles(out).status == "cancelled"
    other = distil(teacher, data, out, "--resume", "--student.start=random")
    assert other.exit_code == 2
    assert "student.start" in other.stderr
    done = distil(teacher, data, out, "--resume")
    assert done.exit_code == 0, done.output
    assert read_result(out).timings.resumed
    assert fingerprint(load_classifier(str(out)).model) == fingerprint(saved.model)


def config(teacher: Path, data: Path, **student: Any) -> DistillConfig:
    sizes = {"layers": 2, "hidden": 8, "heads": 1, "ffn": 12, "start": "teacher"}
    return DistillConfig.model_validate(
        {
            "preset": "quick",
            "teacher": {"model": str(teacher), "allow_weak": True},
            "student": sizes | student,
            "data": str(data),
        }
    )


def made(teacher: Path, data: Path, **student: Any) -> tuple[Classifier, Classifier]:
    """The teacher, and the student that the config describes."""
    wanted = config(teacher, data, **student)
    texts = load_texts(wanted.data)
    loaded = load_classifier(str(teacher), texts.label_names)
    return loaded, pipeline.make_student(wanted, loaded, texts)


def test_p_starts_as_the_way_back_to_the_teachers_width(teacher: Path, data: Path) -> None:
    loaded, student = made(teacher, data, vocabulary="occurring", dropout=0)
    assert student.widening is not None
    wanted = config(teacher, data)
    (matrix,) = pipeline.objective_for(student, loaded, wanted).projection.matrices
    assert matrix.weight.equal(student.widening)
    at_random = wanted.model_copy(
        update={"loss": wanted.loss.model_copy(update={"projection_start": "random"})}
    )
    (matrix,) = pipeline.objective_for(student, loaded, at_random).projection.matrices
    assert not matrix.weight.equal(student.widening)


def test_the_other_choices_of_the_student_still_count(teacher: Path, data: Path) -> None:
    _, student = made(teacher, data, copied="spread", dropout=0.25)
    assert student.start["blocks"] == [1, 3]
    assert student.model.config.hidden_dropout_prob == 0.25
    _, whole = made(teacher, data, layers=None)
    assert whole.start["blocks"] == [0, 1, 2, 3]


def test_a_student_that_was_narrowed_from_another_width_is_refused(
    teacher: Path, data: Path, bert: Any
) -> None:
    loaded, student = made(teacher, data)
    wider = Classifier(bert(4, 32), loaded.tokenizer, "wider")
    with pytest.raises(
        ConfigError, match="was narrowed from a model 16 wide, and the teacher is 32"
    ):
        pipeline.objective_for(student, wider, config(teacher, data))


def test_distill_from_learns_with_it(teacher: Path, data: Path) -> None:
    """Its loss of hidden states begins far below that of the same student with a random P."""
    wanted = config(teacher, data)
    texts = load_texts(wanted.data)
    losses = []
    for keeps in (True, False):
        loaded, student = made(teacher, data)
        if not keeps:
            student = Classifier(student.model, student.tokenizer, student.source, student.start)
        short = wanted.training.model_copy(
            update={"epochs": 1, "log_every": 1, "learning_rate": 1e-9}
        )
        result = pipeline.distill_from(
            loaded, student, texts, wanted.model_copy(update={"training": short})
        )
        losses.append(result.history[0]["loss_hidden"])
    assert losses[0] < 0.5 * losses[1]


def test_full_width_with_fewer_units_starts_near_the_copied_blocks(
    teacher: Path, data: Path
) -> None:
    loaded, student = made(teacher, data, hidden=None, heads=None, ffn=24)
    assert student.widening is not None
    off_diagonal = student.widening - torch.eye(16)
    assert off_diagonal.norm() < 0.5 * torch.eye(16).norm()
    texts = load_texts(config(teacher, data).data)
    same = narrow_student(loaded, texts, 2, {"ffn": 32})
    copied = copy_blocks(loaded, 2).model.state_dict()
    for name, value in same.model.state_dict().items():
        torch.testing.assert_close(value, copied[name], atol=1e-4, rtol=0)
