"""A student is made of copied blocks, or anew."""

import pytest
import torch
from transformers import BertTokenizer

from layermix.core.signals import Needs
from layermix.errors import ModelError
from layermix.models.encoder import Classifier, HFEncoder, fingerprint
from layermix.models.students import copy_blocks, fresh_student

from .conftest import Bert

TEXTS = ("a b c", "x y z z")


def test_layers_out_of_range_are_named_with_the_range(bert: Bert, tokenizer: BertTokenizer) -> None:
    teacher = Classifier(bert(4), tokenizer, "teacher")
    batch = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    with pytest.raises(
        ModelError, match=r"BertForSequenceClassification has 4 blocks, numbered 0 to 3; found 4 in"
    ):
        HFEncoder(teacher.model)(batch, Needs((0, 4)))
    with pytest.raises(ModelError, match="the teacher has 4 blocks, numbered 0 to 3; found 7, 9"):
        copy_blocks(teacher, blocks=(7, 1, 9))
    with pytest.raises(ModelError, match=r"a layer is named twice in \[1, 1\]; name each once"):
        copy_blocks(teacher, blocks=(1, 1))
    with pytest.raises(ModelError, match="5 blocks wanted, but the teacher has 4; give at most"):
        copy_blocks(teacher, layers=5)


def test_half_of_the_blocks_are_copied_if_nothing_is_said(
    bert: Bert, tokenizer: BertTokenizer
) -> None:
    teacher = Classifier(bert(4), tokenizer, "teacher")
    student = copy_blocks(teacher)
    assert student.start == {"kind": "blocks", "from": "teacher", "blocks": [0, 1], "notes": []}
    assert fingerprint(student.model) == fingerprint(copy_blocks(teacher, layers=2).model)
    assert fingerprint(student.model) != fingerprint(copy_blocks(teacher, blocks=(3, 1)).model)


@pytest.mark.parametrize(("layers", "blocks"), [(None, [1, 3]), (1, [3]), (3, [0, 1, 3])])
def test_blocks_may_be_copied_from_all_over_the_teacher(
    bert: Bert, tokenizer: BertTokenizer, layers: int | None, blocks: list[int]
) -> None:
    teacher = Classifier(bert(4), tokenizer, "teacher")
    student = copy_blocks(teacher, layers, spread=True)
    assert student.start["blocks"] == blocks
    assert fingerprint(student.model) == fingerprint(copy_blocks(teacher, blocks=blocks).model)


def test_copying_does_not_move_the_global_random_state(
    bert: Bert, tokenizer: BertTokenizer
) -> None:
    state = torch.random.get_rng_state()
    copy_blocks(Classifier(bert(4), tokenizer, "teacher"))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_heads_that_do_not_divide_the_hidden_size(bert: Bert, tokenizer: BertTokenizer) -> None:
    teacher = Classifier(bert(2), tokenizer, "teacher")
    with pytest.raises(ModelError, match="hidden size 16 cannot be shared among 3 heads; choose a"):
        fresh_student(teacher, 0, None, {"heads": 3})
