"""Model folders that others wrote: a clear error within seconds, whatever is in them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from layermix.errors import ModelError, is_panic
from layermix.models.encoder import Classifier, longest_input
from layermix.models.loading import load_classifier, model_folder


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values), encoding="utf-8")


HOSTILE_CONFIGS: dict[str, bytes | dict[str, Any]] = {
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "digits": b'{"num_labels": ' + b"9" * 5000 + b"}",
    "large file": b'{"a": "' + b"a" * 11_000_000 + b'"}',
    "classes": {"num_labels": 10**7},
    "blocks": {"num_hidden_layers": 10**9},
    "infinitely many": {"num_hidden_layers": 1e400},
    "not a number": {"num_labels": float("nan")},
    "width": {"hidden_size": 10**6},
    "vocabulary": {"vocab_size": 10**12},
    "positions": {"max_position_embeddings": 10**12},
    "negative": {"vocab_size": -1},
    "words": {"hidden_size": "wide"},
    "a list of names": {"id2label": ["no", "yes"]},
    "no names": {"id2label": {}},
    "a class of its own": {"model_type": "no-such-model"},
}


@pytest.mark.parametrize("kind", HOSTILE_CONFIGS)
def test_a_hostile_config_is_refused_within_seconds(folder: Callable[..., Path], kind: str) -> None:
    path, hostile = folder(), HOSTILE_CONFIGS[kind]
    if isinstance(hostile, bytes):
        (path / "config.json").write_bytes(hostile)
    else:
        change(path / "config.json", **hostile)
    start = time.monotonic()
    with pytest.raises(ModelError) as refused:
        load_classifier(str(path), ["no", "yes"])
    assert time.monotonic() - start < 5
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_ids_beyond_the_models_vocabulary_are_refused(folder: Callable[..., Path]) -> None:
    path = folder()
    change(path / "tokenizer_config.json", pad_token="<newpad>")
    with pytest.raises(
        ModelError,
        match=r"its tokenizer has 1 tokens beyond the model's vocabulary of 31, such as '<newpad>'",
    ):
        load_classifier(str(path))


@pytest.mark.parametrize("length", [0, -1, "long", None])
def test_a_length_that_is_none_is_refused(folder: Callable[..., Path], length: Any) -> None:
    path = folder()
    change(path / "tokenizer_config.json", model_max_length=length)
    if length is None:  # transformers takes its own default
        assert load_classifier(str(path)).max_length == 32
        return
    with pytest.raises(ModelError, match="model_max_length"):
        load_classifier(str(path))


@pytest.mark.parametrize(
    "normalizer", [{"type": "Precompiled", "precompiled_charsmap": "/////wAAAAD/////"}, {"type": 5}]
)
def test_a_tokenizer_that_crashes_is_refused(
    folder: Callable[..., Path], normalizer: dict[str, Any]
) -> None:
    path = folder()
    change(path / "tokenizer.json", normalizer=normalizer)
    with pytest.raises(ModelError, match="model: cannot be loaded as a text classifier"):
        load_classifier(str(path))


def test_ctrl_c_is_no_damaged_folder(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_classifier(str(folder()))


def test_a_panic_is_known_by_its_name() -> None:
    assert is_panic(type("PanicException", (BaseException,), {})())
    assert not is_panic(KeyboardInterrupt())


# -- adapters --------------------------------------------------------------------------------------


def test_an_adapter_names_its_base_and_how_to_merge(folder: Callable[..., Path]) -> None:
    path = folder()
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (path / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    assert model_folder(str(path)) == path  # a whole model is there, too
    (path / "model.safetensors").rename(path / "adapter_model.safetensors")
    told = r"found a LORA adapter of org/base, wanted a whole model\. .*merge_and_unload\(\)"
    with pytest.raises(ModelError, match=told):
        model_folder(str(path))
    (path / "config.json").unlink()
    with pytest.raises(ModelError, match=told):
        model_folder(str(path))
    (path / "adapter_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match="found an adapter, wanted a whole model"):
        model_folder(str(path))


# -- RoBERTa with another tokenizer ----------------------------------------------------------------


@pytest.fixture
def roberta(tmp_path: Path, tokenizer: BertTokenizer) -> Callable[..., Path]:
    """`roberta(pad)`: a saved RoBERTa with one token type and a BERT tokenizer."""

    def save(pad: int) -> Path:
        config = RobertaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=20,
            pad_token_id=pad,
            type_vocab_size=1,
        )
        path = tmp_path / "roberta"
        with torch.random.fork_rng():
            RobertaForSequenceClassification(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
        return path

    return save


def logits_of_a_pair(classifier: Classifier, length: int) -> torch.Tensor:
    words = ("b " * length, "c " * length)
    cut = {"truncation": True, "max_length": classifier.max_length, "return_tensors": "pt"}
    inputs: Any = classifier.tokenizer(*words, **cut)
    assert inputs["input_ids"].shape[1] == classifier.max_length
    with torch.no_grad():
        return classifier.model.eval()(**inputs).logits


@pytest.mark.parametrize("pad", [0, 1, 3])
def test_roberta_takes_as_many_tokens_as_its_padding_token_leaves(
    roberta: Callable[..., Path], pad: int
) -> None:
    classifier = load_classifier(str(roberta(pad)))
    assert classifier.max_length == 20 - pad - 1
    assert logits_of_a_pair(classifier, 20).isfinite().all()


def test_a_model_with_one_token_type_is_given_none(roberta: Callable[..., Path]) -> None:
    classifier = load_classifier(str(roberta(1)))
    assert "token_type_ids" not in classifier.tokenizer("a", "b")
    assert longest_input(classifier.model.config, classifier.tokenizer) == 18
