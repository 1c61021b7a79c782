"""A trimmed vocabulary, for each family: known texts are read as before, new words in pieces."""

import dataclasses
import inspect
import json
import random
import re
import statistics
import textwrap
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    DebertaV2Tokenizer,
    DistilBertTokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from layermix.models.encoder import Classifier
from layermix.models.loading import load_classifier
from layermix.models.students import copy_blocks
from layermix.models.tokenizers import save_tokenizer
from layermix.models.vocabulary import old_numbers, trim_vocabulary
from layermix.serving.export import write_onnx
from layermix.serving.predictor import OnnxRunner

from .conftest import BERT_WORDS, FAMILIES, MPNET_WORDS, ROBERTA_WORDS, Family

SOURCES = (textwrap, statistics, random)
TEXTS = [
    " ".join(found.split())
    for module in SOURCES
    for found in re.findall(r"[A-Z][^.]{20,90}\.", inspect.getsource(module))
]
KNOWN, OTHERS = TEXTS[: 3 * len(TEXTS) // 4], TEXTS[3 * len(TEXTS) // 4 :]
SHORT = ["a b c d e", "f g h", "i"]
NEW = ["Xylophones, zeugmas & quizzes — naïve £5 😀", "antidisestablishmentarianism"]
PIECES = 1000


def word_pieces(special: list[str]) -> dict[str, int]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=PIECES, special_tokens=special)
    )
    return tokenizer.get_vocab()


def byte_pairs(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def roberta() -> RobertaTokenizer:
    made = byte_pairs(ROBERTA_WORDS)
    merges = [tuple(rule) for rule in rules(made)]
    return RobertaTokenizer(vocab=made.get_vocab(), merges=merges)


def rules(tokenizer: Tokenizer) -> Any:
    return json.loads(tokenizer.to_str())["model"]["merges"]


def modernbert() -> PreTrainedTokenizerFast:
    made = byte_pairs(BERT_WORDS)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ("pad", "unk", "cls", "sep", "mask")
    special = {f"{name}_token": f"[{name.upper()}]" for name in names}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=inputs, **special)


def unigrams(special: list[str], unknown: str) -> list[tuple[str, float]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=PIECES, special_tokens=special, unk_token=unknown, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    pieces = json.loads(tokenizer.to_str())["model"]["vocab"]
    return [(token, score) for token, score in pieces]


TRAINED: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bert": lambda: BertTokenizer(vocab=word_pieces(BERT_WORDS)),
    "distilbert": lambda: DistilBertTokenizer(vocab=word_pieces(BERT_WORDS)),
    "electra": lambda: BertTokenizer(vocab=word_pieces(BERT_WORDS)),
    "mpnet": lambda: MPNetTokenizer(vocab=word_pieces(MPNET_WORDS)),
    "roberta": roberta,
    "modernbert": modernbert,
    "xlm-roberta": lambda: XLMRobertaTokenizer(vocab=unigrams(ROBERTA_WORDS, "<unk>")),
    "deberta-v2": lambda: DebertaV2Tokenizer(vocab=unigrams(BERT_WORDS, "[UNK]")),
}


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def made(request: pytest.FixtureRequest) -> Classifier:
    """A classifier of the family whose tokenizer has real words in it."""
    family: Family = request.param
    trained = TRAINED[family.name.removesuffix("-conv")]
    positions = 256 + family.extra.get("max_position_embeddings", 24) - 24
    changed = dataclasses.replace(family, tokenizer=trained, extra=dict(family.extra))
    return changed.make(max_position_embeddings=positions)


def batches(*columns: list[str]) -> list[list[list[str]]]:
    return [[column[:7] for column in columns], [column[7:] for column in columns]]


def test_known_texts_have_the_same_logits_to_the_last_bit(made: Classifier, tmp_path: Path) -> None:
    student = copy_blocks(made, blocks=(0, 2))
    pairs = KNOWN, KNOWN[::-1]
    trimmed, told = trim_vocabulary(student, "occurring", batches(*pairs))
    assert len(told.kept) < len(made.tokenizer)
    trimmed.model.save_pretrained(tmp_path)
    save_tokenizer(trimmed.tokenizer, tmp_path)
    loaded = load_classifier(str(tmp_path))
    assert type(loaded.tokenizer) is type(made.tokenizer)
    assert loaded.tokenizer.special_tokens_map == made.tokenizer.special_tokens_map
    found = []
    for classifier in (student, trimmed, loaded):
        batch = classifier.tokenizer(*pairs, padding=True, return_tensors="pt")
        with torch.no_grad():
            found.append(classifier.model.eval()(**batch).logits)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    numbers = old_numbers(loaded, made)
    assert numbers is not None
    assert numbers.tolist() == told.kept.tolist()
    assert old_numbers(made, loaded) is None
    again, _ = trim_vocabulary(loaded, "occurring", [[column[:9] for column in pairs]])
    assert len(again.tokenizer) < len(loaded.tokenizer)
    for whole, kept in ((made, told.kept), (loaded, range(len(told.kept)))):
        wanted = {token: kept[number] for token, number in loaded.tokenizer.get_vocab().items()}
        numbers = old_numbers(again, whole)
        assert numbers is not None
        vocabulary = again.tokenizer.get_vocab().items()
        assert all(numbers[number] == wanted[token] for token, number in vocabulary)


def test_other_texts_are_read_in_smaller_pieces(made: Classifier) -> None:
    trimmed, told = trim_vocabulary(made, "occurring", batches(KNOWN), [[OTHERS]])
    assert told.texts > 0
    assert 0 < told.tokens < 0.5
    assert told.unknown == 0
    old, new = made.tokenizer, trimmed.tokenizer
    for text in [*OTHERS, *NEW]:
        before, after = old(text)["input_ids"], new(text)["input_ids"]
        assert (told.kept[after].tolist() == before) == (set(before) <= set(told.kept.tolist()))
        assert before.count(old.unk_token_id) >= after.count(new.unk_token_id)
        assert new.decode(after) == old.decode(before)
    changed = sum(
        told.kept[new(text)["input_ids"]].tolist() != old(text)["input_ids"] for text in OTHERS
    )
    assert told.texts == pytest.approx(changed / len(OTHERS))


def test_a_number_keeps_the_most_frequent_tokens(made: Classifier) -> None:
    whole, _ = trim_vocabulary(made, "occurring", batches(KNOWN))
    most = len(whole.tokenizer)
    trimmed, _ = trim_vocabulary(made, most - 10, batches(KNOWN))
    assert (
        most - 20 < len(trimmed.tokenizer) <= most - 10
    )  # pieces on the way to a token count, too
    larger, _ = trim_vocabulary(made, most + 10, batches(KNOWN))
    assert len(larger.tokenizer) > most
    assert set(whole.tokenizer.get_vocab()) <= set(larger.tokenizer.get_vocab())


@pytest.fixture
def bert() -> Classifier:
    return dataclasses.replace(FAMILIES[0], tokenizer=TRAINED["bert"]).make()


def test_a_trimmed_model_is_exported(bert: Classifier, tmp_path: Path) -> None:
    trimmed, _ = trim_vocabulary(copy_blocks(bert, 1), "occurring", [[SHORT]])
    trimmed.model.eval()
    write_onnx(trimmed, tmp_path / "model.onnx")
    batch = dict(trimmed.tokenizer(SHORT, padding=True, return_tensors="pt"))
    with torch.no_grad():
        wanted = trimmed.model(**batch).logits
    found = OnnxRunner(tmp_path / "model.onnx", 2)(batch)
    assert torch.allclose(torch.from_numpy(found), wanted, atol=1e-4)


def test_the_tokenizers_library_alone_reads_the_saved_file(
    bert: Classifier, tmp_path: Path
) -> None:
    """transformers.js and servers read tokenizer.json alone; no other file contradicts it."""
    trimmed, told = trim_vocabulary(bert, "occurring", [[KNOWN]])
    save_tokenizer(trimmed.tokenizer, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    raw = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in chain(KNOWN, OTHERS, NEW):
        assert raw.encode(text).ids == loaded(text)["input_ids"]
    assert raw.get_vocab_size() == len(told.kept)
