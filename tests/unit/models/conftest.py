"""A saved tiny classifier, and a saved encoder without a head."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

Bert = Callable[..., BertForSequenceClassification]


@pytest.fixture
def folder(tmp_path: Path, bert: Bert, tokenizer: BertTokenizer) -> Callable[..., Path]:
    """`folder(names)`: a saved classifier."""

    def save(names: Sequence[Any] = ("no", "yes")) -> Path:
        config = copy.deepcopy(bert(2).config)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        path = tmp_path / "model"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            BertForSequenceClassification(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
        return path

    return save


@pytest.fixture
def base(tmp_path: Path, tokenizer: BertTokenizer) -> Path:
    """A pretrained encoder without a classification head."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    path = tmp_path / "base"
    with torch.random.fork_rng():
        BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
