"""Runs whose P is fitted to the student before the first step."""

import random
from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
from transformers import BertTokenizer, TrainerCallback

from layermix.config import DistillConfig
from layermix.core.signals import Batch, Signal
from layermix.data.texts import load_texts
from layermix.models.encoder import fingerprint
from layermix.models.loading import load_classifier
from layermix.runs import pipeline, projection
from layermix.runs.training import Result
from layermix.teacher_cache.cached_teacher import CachedTeacher


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, bert: Any, tokenizer: BertTokenizer) -> Path:
    """A folder with a teacher, a student of another width, and data sorted by label."""
    place, draw = tmp_path_factory.mktemp("fitted"), random.Random(0)
    for name, model in (("teacher", bert(4)), ("student", bert(2, 16))):
        model.config.id2label, model.config.label2id = {0: "high", 1: "low"}, {"high": 0, "low": 1}
        model.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    for split, rows in (("train", 40), ("validation", 12)):
        texts = sorted(draw.choices(ascii_lowercase, k=draw.randint(2, 9)) for _ in range(rows))
        lines = [f"{' '.join(words)}\t{'low' if words[0] < 'n' else 'high'}" for words in texts]
        (place / f"{split}.tsv").write_text("\n".join(["text\tlabel", *lines, ""]))
    return place


def distil(
    place: Path,
    start: str,
    out: Path | None = None,
    *,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    **options: Any,
) -> Result:
    config = DistillConfig.model_validate(
        {
            "preset": "quick",
            "teacher": {"model": str(place / "teacher"), "allow_weak": True},
            "student": {"model": str(place / "student")},
            "data": str(place),
            "loss": {"projection_start": start, "hidden_weight": 1, **options.pop("loss", {})},
            "training": {
                "epochs": 2,
                "batch_size": 8,
                "precision": "fp32",
                "log_every": 1,
                "save_every": 2,
            },
            **options,
        }
    )
    texts = load_texts(config.data)
    teacher = load_classifier(str(place / "teacher"), texts.label_names)
    student = pipeline.make_student(config, teacher, texts)
    return pipeline.distill_from(
        teacher, student, texts, config, out=out, callbacks=callbacks, resume=resume
    )


def first(result: Result, part: str) -> float:
    return float(next(line[part] for line in result.history if part in line))


def test_the_first_steps_have_less_of_the_hidden_loss(place: Path) -> None:
    for options in ({}, {"mix": "learned"}, {"cache": {"use": False}}):
        at_random, fitted = (distil(place, start, **options) for start in ("random", "fitted"))
        assert first(fitted, "loss_hidden") < 0.8 * first(at_random, "loss_hidden")


def test_the_rows_are_at_equal_distances(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[int]()

    def noting(teacher: CachedTeacher, batch: Batch) -> Signal:
        seen.extend(batch["row_id"].tolist())
        return read(teacher, batch)

    read = CachedTeacher.__call__
    with monkeypatch.context() as patch:
        patch.setattr(projection, "ROWS", 5)
        patch.setattr(CachedTeacher, "__call__", noting)
        distil(place, "fitted")
    assert seen[:5] == [0, 9, 19, 29, 39]


def test_without_hidden_losses_there_is_nothing_to_fit(place: Path) -> None:
    loss = {"hidden_weight": 0}
    plain, fitted = (distil(place, start, loss=loss) for start in ("random", "fitted"))
    assert fingerprint(plain.student.model) == fingerprint(fitted.student.model)


class Stop(TrainerCallback):
    """Stops a run as Ctrl-C does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(place: Path, tmp_path: Path) -> None:
    straight = distil(place, "fitted", tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        distil(place, "fitted", tmp_path / "run", callbacks=[Stop()])
    again = distil(place, "fitted", tmp_path / "run", resume=True)
    assert again.record.timings.resumed
    assert fingerprint(again.student.model) == fingerprint(straight.student.model)
    assert again.record.metrics == straight.record.metrics
