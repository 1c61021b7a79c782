"""The teacher's answers on the scored rows are asked for once, and are those of a live teacher."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from transformers import BertForSequenceClassification, BertTokenizer

from layermix.config import DistillConfig
from layermix.console import Reporter
from layermix.data.prepared import Logits, PreparedData
from layermix.data.texts import TextData
from layermix.errors import ModelError
from layermix.models.encoder import Classifier
from layermix.models.students import copy_blocks
from layermix.runs.pipeline import distill_from
from layermix.runs.prepare import prepare
from layermix.teacher_cache import answers
from layermix.teacher_cache.maintenance import stores, stores_text
from layermix.teacher_cache.manifest import LOCK, MANIFEST

TRAIN, VALIDATION = 30, 70


@pytest.fixture
def stored_from_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers on the few rows here are stored, too."""
    monkeypatch.setattr(answers, "STORED_FROM", 1)


@pytest.fixture
def teacher(bert: Callable[..., BertForSequenceClassification], tokenizer: Any) -> Classifier:
    return Classifier(bert(4, 16, seed=2), tokenizer, "a tiny teacher")


@pytest.fixture
def data(texts: Callable[..., TextData]) -> TextData:
    return texts(TRAIN, VALIDATION)


class Counting(Reporter):
    """Counts the batches of the teacher on scored rows, and keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.batches: dict[str, int] = {}
        self.said: list[str] = []

    def track(self, items: Any, total: int, what: str) -> Any:
        self.batches[what] = self.batches.get(what, 0) + total
        return items

    def say(self, text: str, style: str | None = None) -> None:
        self.said.append(text)


def settings(folder: Path, **cache: Any) -> DistillConfig:
    return DistillConfig.model_validate(
        {
            "preset": "quick",
            "teacher": {"allow_weak": True},
            "training": {"epochs": 1, "selection": "holdout", "precision": "fp32"},
            "cache": {"folder": str(folder), "precision": "fp32", **cache},
            "loss": {"hidden_weight": 1},
        }
    )


def with_training(config: DistillConfig, options: dict[str, Any]) -> DistillConfig:
    training = config.training.model_copy(update=options)
    return config.model_copy(update={"training": training})


def asked(
    teacher: Classifier, data: TextData, config: DistillConfig
) -> tuple[PreparedData, Counting]:
    reporter = Counting()
    return prepare(teacher, copy_blocks(teacher, 2), data, config, reporter), reporter


def assert_same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys() == {"validation", "holdout"}
    for name, logits in expected.items():
        assert found[name].dtype == logits.dtype == np.float32
        assert np.array_equal(found[name], logits)


@pytest.fixture
def live(teacher: Classifier, data: TextData, tmp_path: Path) -> dict[str, Logits]:
    prepared, _ = asked(teacher, data, settings(tmp_path / "none", use=False))
    return dict(prepared.teacher_logits)


@pytest.mark.usefixtures("stored_from_1")
def test_they_are_asked_for_once_and_have_the_bits_of_a_live_teacher(
    teacher: Classifier, data: TextData, live: dict[str, Logits], tmp_path: Path
) -> None:
    config = settings(tmp_path)
    first, before = asked(teacher, data, config)
    again, after = asked(teacher, data, config)
    assert before.batches == {"teacher on validation": 3, "teacher on holdout": 1}
    assert after.batches == {}
    assert_same(first.teacher_logits, live)
    assert_same(again.teacher_logits, live)
    assert again.teacher_scores == first.teacher_scores
    assert again.teacher_scores.keys() == {"validation", "holdout"}


@pytest.mark.usefixtures("stored_from_1")
def test_where_more_rows_are_held_out_those_alone_are_asked_for(
    teacher: Classifier, data: TextData, tmp_path: Path
) -> None:
    asked(teacher, data, settings(tmp_path))
    more = {"holdout_fraction": 0.3}
    found, counting = asked(teacher, data, with_training(settings(tmp_path), more))
    assert counting.batches == {"teacher on holdout": 1}
    live, _ = asked(teacher, data, with_training(settings(tmp_path, use=False), more))
    for name, logits in live.teacher_logits.items():
        assert found.teacher_logits[name] == pytest.approx(logits, abs=1e-6)


def test_few_rows_are_answered_without_a_store(
    teacher: Classifier, data: TextData, live: dict[str, Logits], tmp_path: Path
) -> None:
    found, _ = asked(teacher, data, settings(tmp_path / "cache"))
    assert_same(found.teacher_logits, live)
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("stored_from_1")
@pytest.mark.parametrize(
    ("cache", "said"),
    [
        ({"use": False}, None),
        ({"max_gb": 0}, "GB more in {folder}, but cache.max_gb is 0: the teacher answers"),
        ({"max_gb": 1e-9}, "of cache.max_gb 1e-09, 0.00 GB are used (fewer layers, by"),
    ],
)
def test_nothing_is_stored_without_room_which_is_said_or_if_it_is_not_wanted(
    teacher: Classifier,
    data: TextData,
    live: dict[str, Logits],
    tmp_path: Path,
    cache: dict[str, Any],
    said: str | None,
) -> None:
    folder = tmp_path / "cache"
    found, counting = asked(teacher, data, settings(folder, **cache))
    assert_same(found.teacher_logits, live)
    assert counting.batches == {"teacher on validation": 3, "teacher on holdout": 1}
    assert not folder.exists()
    lines = [line for line in counting.said if "in each run anew" in line]
    assert len(lines) == (said is not None)
    assert said is None or said.format(folder=folder) in lines[0]


@pytest.mark.usefixtures("stored_from_1")
def test_where_nothing_can_be_written_the_teacher_answers_and_it_is_said(
    teacher: Classifier, data: TextData, live: dict[str, Logits], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    found, counting = asked(teacher, data, settings(tmp_path / "file" / "cache"))
    assert_same(found.teacher_logits, live)
    (line,) = (line for line in counting.said if "in each run anew" in line)
    assert "cannot be written (Not a directory); choose another --cache.folder" in line


@pytest.mark.usefixtures("stored_from_1")
def test_what_is_stored_is_read_without_a_lock_and_without_room_for_more(
    teacher: Classifier, data: TextData, live: dict[str, Logits], tmp_path: Path
) -> None:
    asked(teacher, data, settings(tmp_path))
    (lock,) = tmp_path.rglob(LOCK)
    with FileLock(lock):
        found, counting = asked(teacher, data, settings(tmp_path, max_gb=0))
    assert_same(found.teacher_logits, live)
    assert counting.batches == {}


@pytest.mark.usefixtures("stored_from_1")
def test_broken_answers_are_refused_and_not_stored(
    teacher: Classifier, data: TextData, tmp_path: Path
) -> None:
    broken = copy.deepcopy(teacher)
    with torch.no_grad():
        broken.model.classifier.bias[0] = math.nan
    with pytest.raises(ModelError, match=r"a tiny teacher: the teacher's logits are NaN or infin"):
        asked(broken, data, settings(tmp_path))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.usefixtures("stored_from_1")
def test_training_rows_have_a_store_of_their_own(
    teacher: Classifier, data: TextData, tmp_path: Path
) -> None:
    """Neither takes the other for its own, also where both hold logits alone, in float32."""
    config = settings(tmp_path, dtype="float32")
    loss = config.loss.model_copy(update={"hidden_weight": 0})
    config = config.model_copy(update={"loss": loss})
    held_out = 3
    for _ in range(2):
        distill_from(teacher, copy_blocks(teacher, 2), data, config)
        found = sorted(stores(tmp_path), key=lambda store: store.rows)
        assert [store.rows for store in found] == [TRAIN - held_out, VALIDATION + held_out]
    assert [store.identity and store.identity.scored for store in found] == [False, True]
    table = stores_text(found, tmp_path).splitlines()
    assert [("logits only" in line, "scored rows" in line) for line in table[1:3]] == [
        (True, False),
        (False, True),
    ]
    assert [store.as_record()["scored"] for store in found] == [False, True]


@pytest.mark.usefixtures("stored_from_1")
def test_a_damaged_shard_is_said_and_answered_again(
    teacher: Classifier, data: TextData, live: dict[str, Logits], tmp_path: Path
) -> None:
    asked(teacher, data, settings(tmp_path))
    for shard in tmp_path.rglob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-1] + b"\x00\x01")
    found, counting = asked(teacher, data, settings(tmp_path))
    assert "computed again" in counting.said[0]
    assert_same(found.teacher_logits, live)


@pytest.mark.usefixtures("stored_from_1")
def test_another_teacher_is_asked_itself(
    teacher: Classifier,
    data: TextData,
    bert: Callable[..., BertForSequenceClassification],
    tokenizer: BertTokenizer,
    tmp_path: Path,
) -> None:
    asked(teacher, data, settings(tmp_path))
    other = Classifier(bert(4, 16, seed=3), tokenizer, "another tiny teacher")
    found, _ = asked(other, data, settings(tmp_path))
    expected, _ = asked(other, data, settings(tmp_path, use=False))
    assert_same(found.teacher_logits, expected.teacher_logits)
    assert (
        len(
            {
                json.loads(file.read_text())["identity"]["teacher"]
                for file in tmp_path.rglob(MANIFEST)
            }
        )
        == 2
    )
