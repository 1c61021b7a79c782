"""Each promised family answers word by word: read right, cached, distilled, loaded again."""

import json
import random
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from layermix.config import DistillConfig
from layermix.core.signals import NO_WORD, Needs
from layermix.data.texts import TextData, from_splits
from layermix.data.tokenization import Collator, tokenize
from layermix.models.encoder import Classifier, HFEncoder, setup_fingerprint
from layermix.models.inference import TorchRunner, logits_of
from layermix.models.live_teacher import LiveTeacher
from layermix.models.narrowing import narrow_student
from layermix.models.students import copy_blocks
from layermix.problems.kinds import PROBLEMS
from layermix.runs.pipeline import distill
from layermix.runs.schema import read_result
from layermix.teacher_cache.cached_teacher import CachedTeacher, fill, find_store, row_keys
from layermix.teacher_cache.manifest import Identity

NAMES = {"O": 0, "B-X": 1, "I-X": 2}
LONGEST = 12
"""Tokens at which rows are cut; some rows have more."""


def tagged(rows: int, seed: int) -> list[dict[str, Any]]:
    """Words of one to three letters; one with an `a` begins a name, a `b` after it goes on."""
    draw, made = random.Random(seed), []
    for _ in range(rows):
        tokens, tags = [], []
        for _ in range(draw.randint(2, 12)):
            token = "".join(draw.choices(ascii_lowercase[:5], k=draw.randint(1, 3)))
            inside = bool(tags) and tags[-1] != "O" and "b" in token
            tokens.append(token)
            tags.append("B-X" if "a" in token else "I-X" if inside else "O")
        made.append({"tokens": tokens, "tags": tags})
    return made


def texts() -> TextData:
    splits = {"train": tagged(24, 0), "validation": tagged(10, 1)}
    return from_splits(splits, problem=PROBLEMS["entities"])


def teacher_of(family: Any) -> Classifier:
    made: Classifier = family.make(
        by_word=True,
        num_labels=3,
        id2label={at: name for name, at in NAMES.items()},
        label2id=NAMES,
    )
    return made


def test_a_word_has_the_logits_of_its_first_token_padded_or_not(family: Any) -> None:
    classifier = teacher_of(family)
    rows = tokenize(texts(), classifier.tokenizer, LONGEST).splits["train"]
    together = logits_of(
        TorchRunner(HFEncoder(classifier.model)), rows, Collator(classifier.tokenizer), 8
    )
    assert together.shape == (24, max(map(len, rows["labels"])), 3)
    for row, source in enumerate(tagged(24, 0)):
        inputs = classifier.tokenizer(
            " ".join(source["tokens"]),
            truncation=True,
            max_length=LONGEST,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets = inputs.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            alone = classifier.model(**inputs).logits[0]
        begin = 0
        for word, token in enumerate(source["tokens"]):
            end = begin + len(token)
            places = [at for at, (low, high) in enumerate(offsets) if low < end and high > begin]
            expected = alone[places[0]] if places else torch.full((3,), NO_WORD)
            torch.testing.assert_close(
                torch.from_numpy(together[row, word]), expected, atol=1e-5, rtol=1e-5
            )
            begin = end + 1
        assert (together[row, len(source["tokens"]) :] == NO_WORD).all()
    cut = sum(len(row["labels"]) > sum(at >= 0 for at in row["word_starts"]) for row in rows)
    assert 0 < cut < 24


def test_cached_is_live_bit_for_bit(family: Any, tmp_path: Path) -> None:
    classifier, needs = teacher_of(family), Needs((3, 1), embedding=True)
    collate = Collator(classifier.tokenizer)
    rows = tokenize(texts(), classifier.tokenizer, LONGEST).splits["train"]
    live = LiveTeacher(HFEncoder(classifier.model, "teacher_inputs"), needs)
    setup = setup_fingerprint(classifier.model, classifier.tokenizer)
    identity = Identity(
        "teacher", (3, 1), True, 16, 3, "float32", "float32", setup, token_logits=True
    )
    store, keys = find_store(tmp_path, identity, pytest.fail), row_keys(rows)
    batches = [range(start, start + 8) for start in (8, 0, 16)]
    fill(store, live, rows, keys, collate, batches=batches)
    cached = CachedTeacher(store, rows["row_id"], keys, live.num_layers)
    for indices in batches:
        batch = collate([rows[index] for index in indices])
        found, expected = cached(batch), live(batch)
        assert expected.words is not None
        assert found.words is not None
        assert found.words.equal(expected.words)
        assert not found.words.all()
        assert found.logits.equal(expected.logits)
        assert found.hidden is not None
        assert expected.hidden is not None
        assert found.hidden[:, found.mask].equal(expected.hidden[:, expected.mask])


def test_distilled_saved_and_read_by_transformers(family: Any, tmp_path: Path) -> None:
    teacher = teacher_of(family)
    teacher.model.save_pretrained(tmp_path / "teacher")
    teacher.tokenizer.save_pretrained(tmp_path / "teacher")
    for split, rows in (("train", 24), ("validation", 10)):
        lines = [json.dumps(row) + "\n" for row in tagged(rows, 0 if split == "train" else 1)]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    config = DistillConfig.model_validate(
        {
            "teacher": {"model": str(tmp_path / "teacher"), "allow_weak": True},
            "student": {"blocks": [3, 1]},
            "data": {
                "train": str(tmp_path / "train.jsonl"),
                "validation": str(tmp_path / "validation.jsonl"),
            },
            "loss": {"embedding_weight": 1},
            "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "warmup": 0},
            "cache": {"folder": str(tmp_path / "cache")},
        }
    )
    out = tmp_path / "run"
    trained = distill(config, out).student
    record = read_result(out)
    assert (record.status, record.problem, record.form) == ("ok", "entities", "tags")
    assert (record.signals or "").startswith("stored")
    loaded = AutoModelForTokenClassification.from_pretrained(out / "student")
    tokenizer = AutoTokenizer.from_pretrained(out / "student")
    assert loaded.config.id2label == dict(enumerate(NAMES))
    rows = tokenize(texts(), tokenizer, LONGEST).splits["validation"]
    collate = Collator(tokenizer)
    ours, theirs = (
        logits_of(TorchRunner(HFEncoder(model)), rows, collate) for model in (trained.model, loaded)
    )
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_a_narrowed_student_answers_words(name: str, families: dict[str, Any]) -> None:
    teacher = teacher_of(families[name])
    rows = tokenize(texts(), teacher.tokenizer, LONGEST).splits["validation"]

    def answers(classifier: Classifier) -> Any:
        runner = TorchRunner(HFEncoder(classifier.model))
        return logits_of(runner, rows, Collator(classifier.tokenizer), 8)

    same = answers(narrow_student(teacher, texts(), 2, {"ffn": 32}))
    np.testing.assert_allclose(same, answers(copy_blocks(teacher, 2)), atol=1e-5)
    narrow = answers(narrow_student(teacher, texts(), 2, {"hidden": 8, "heads": 1, "ffn": 12}))
    assert narrow.shape == same.shape
    assert np.isfinite(narrow).all()
