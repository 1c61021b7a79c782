"""Each family that can be narrowed keeps its answers if nothing is cut; the others are refused."""

import random
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import torch
from torch import Tensor

from layermix.data.texts import TextData, from_splits
from layermix.errors import ModelError
from layermix.models.encoder import Classifier, HFEncoder
from layermix.models.loading import load_classifier
from layermix.models.narrowing import FAMILIES as NARROWED
from layermix.models.narrowing import narrow_student
from layermix.models.students import copy_blocks

WHOLE = {"hidden": 16, "heads": 2, "ffn": 32}


@pytest.fixture(scope="module")
def data() -> TextData:
    draw, rows = random.Random(0), []
    for _ in range(50):
        words = draw.choices(ascii_lowercase, k=draw.randint(2, 8))
        rows.append({"text": " ".join(words), "label": int(words[0] < "n")})
    return from_splits({"train": rows[:40], "validation": rows[40:]})


def logits(classifier: Classifier, data: TextData) -> Tensor:
    lines = list(data.splits["validation"]["text"])
    rows = dict(classifier.tokenizer(lines, padding=True, return_tensors="pt"))
    with torch.no_grad():
        found: Tensor = HFEncoder(classifier.model.eval())(rows).logits
    return found


def test_a_family_is_narrowed_exactly_or_refused(family: Any, data: TextData) -> None:
    teacher = family.make()
    if family.model_type not in NARROWED:
        with pytest.raises(ModelError, match="cannot be narrowed; wanted a teacher of the famil"):
            narrow_student(teacher, data, 2, WHOLE)
        return
    student = narrow_student(teacher, data, 2, WHOLE)
    torch.testing.assert_close(
        logits(student, data), logits(copy_blocks(teacher, 2), data), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "xlm-roberta"])
def test_a_narrow_student_is_an_ordinary_model(
    families: Any, data: TextData, tmp_path: Path, name: str
) -> None:
    teacher = families[name].make(**({"embedding_size": 4} if name == "electra" else {}))
    student = narrow_student(teacher, data, 2, {"hidden": 8, "heads": 1, "ffn": 12})
    student.model.save_pretrained(tmp_path)
    student.tokenizer.save_pretrained(tmp_path)
    loaded = load_classifier(str(tmp_path))
    assert loaded.model.config.hidden_size == 8
    assert torch.equal(logits(loaded, data), logits(student, data))
    assert student.widening is not None
    assert student.widening.shape == (16, 8)


def test_electra_with_embeddings_as_wide_as_its_blocks_gets_a_matrix_between(
    families: Any, data: TextData
) -> None:
    teacher = families["electra"].make(embedding_size=16)
    student = narrow_student(teacher, data, 2, {"hidden": 8, "heads": 1})
    assert student.model.electra.embeddings_project.weight.shape == (8, 16)
    narrow = families["electra"].make(embedding_size=8)
    with pytest.raises(ModelError, match="hidden is 8, as wide as its embeddings, and ELECTRA"):
        narrow_student(narrow, data, 2, {"hidden": 8, "heads": 1})
