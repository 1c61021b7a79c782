"""Loader workers read stored signals ahead; what is learned stays the same to the last bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification, BertTokenizer

from layermix.config import DistillConfig
from layermix.data.texts import TextData
from layermix.models.encoder import Classifier
from layermix.models.students import copy_blocks
from layermix.runs.pipeline import distill_from
from layermix.teacher_cache.cached_teacher import CachedTeacher


def test_workers_read_the_signals_and_the_weights_are_the_same(
    bert: Callable[..., BertForSequenceClassification],
    tokenizer: BertTokenizer,
    texts: Callable[..., TextData],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher = Classifier(bert(4, 32, seed=2), tokenizer, "a tiny teacher")
    places: list[bool] = []
    read = CachedTeacher.__call__

    def watched(self: CachedTeacher, batch: object) -> object:
        places.append(torch.utils.data.get_worker_info() is None)  # in this process only
        return read(self, batch)

    states = []
    for workers in (0, 2):
        places.clear()
        config = DistillConfig.model_validate(
            {
                "preset": "quick",
                "teacher": {"allow_weak": True},
                "loss": {"hidden_weight": 1},
                "training": {"epochs": 2, "batch_size": 4, "loader_workers": workers},
                "cache": {"folder": str(tmp_path / "signals")},
            }
        )
        student = copy_blocks(teacher, 2)
        monkeypatch.setattr(CachedTeacher, "__call__", watched)
        distill_from(teacher, student, texts(26), config)
        states.append(student.model.state_dict())
        # 7 batches, twice; what workers read is in their own memory
        assert len(places) == (0 if workers else 14)
    assert all(states[0][name].equal(states[1][name]) for name in states[0])
