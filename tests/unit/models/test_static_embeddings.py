"""Static embeddings: one vector for each token, from the encoder, in any text the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layermix.errors import ModelError
from layermix.models.static_embeddings import StaticEmbeddings

pytest.importorskip("model2vec", reason="the extra static is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bert: Any, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    bert(2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def static(folder: Path) -> StaticEmbeddings:
    return StaticEmbeddings(str(folder), str)


def test_a_text_is_the_mean_of_its_tokens_of_norm_1(static: StaticEmbeddings) -> None:
    found = static.features([("a b c",), ("c a b",), ("a",), ("d",), ("%",)])
    assert found.shape == (5, 16)
    assert np.allclose(np.linalg.norm(found, axis=1), [1, 1, 1, 1, 0])
    assert np.allclose(found[0], found[1])
    vectors = static._model.encode_as_sequence("a b c")
    assert vectors.shape == (3, 16)
    mean = vectors.mean(0)
    assert np.allclose(found[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_a_pair_is_both_what_they_differ_in_and_what_they_share(static: StaticEmbeddings) -> None:
    u, v = static.features([("a b",), ("c",)])
    pair = static.features([("a b", "c")])
    assert np.allclose(pair, [np.concatenate([u, v, abs(u - v), u * v])])


def test_the_encoder_decides_and_the_result_is_the_same_every_time(
    static: StaticEmbeddings, folder: Path, tmp_path: Path, bert: Any, tokenizer: Any
) -> None:
    texts = [("a b c",), ("d e",)]
    again = StaticEmbeddings(str(folder), str).features(texts)
    assert (again == static.features(texts)).all()
    bert(2, seed=1).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert not np.allclose(StaticEmbeddings(str(tmp_path), str).features(texts), again, atol=0.1)


def test_labels_sets_and_numbers_are_learned_from_it(static: StaticEmbeddings) -> None:
    draw = np.random.default_rng(0)
    texts = [(" ".join(draw.choice(list("abcdef"), 4)),) for _ in range(200)]
    has = np.array([["a" in text, "b" in text] for (text,) in texts], int)
    classes = static(texts[:150], has[:150, 0], texts[150:], "class", 2)
    assert (classes.argmax(1) == has[150:, 0]).mean() > 0.75
    sets = static(texts[:150], has[:150], texts[150:], "labels", 2)
    assert ((sets > 0.5) == has[150:]).mean() > 0.75
    count = np.array([text.count("a") for (text,) in texts])
    numbers = static(texts[:150], count[:150], texts[150:], "number", 1)
    assert np.corrcoef(numbers[:, 0], count[150:])[0, 1] > 0.75


def test_what_has_no_model_is_an_error_before_any_work(tmp_path: Path) -> None:
    said = list[str]()
    with pytest.raises(ModelError, match=r"no config\.json in it"):
        StaticEmbeddings(str(tmp_path), said.append)
    assert not said
