"""Static embeddings of a model as a baseline: one vector for each token, in any text the same.

model2vec (extra `static`) makes them: it runs each token of the vocabulary through the encoder
alone, takes principal components, and weighs each token by how rare its rank says that it is
(Zipf's law, as in SIF). A text is the mean of its tokens' vectors; their order is not seen.
"""

import importlib.util
import io
import os
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermix.errors import ConfigError, ModelError
from layermix.evaluation.forms import Form
from layermix.evaluation.linear import Array, Texts, linear_values
from layermix.models.loading import load_classifier, resolve_source

NEEDED = ("model2vec", "skeletoken")
"""Packages of the extra `static`."""
DIMENSIONS = 256
"""Principal components that are kept, if the encoder is wider."""
C = 1.0
"""As `linear.C`. All of these numbers say something in every row, so they fit more than TF-IDF: on
held-out training rows of MRPC 1 is better than 10."""


def check_installed() -> None:
    """Checks that the extra `static` is installed.

    Raises:
        ConfigError: If a package of it is missing.
    """
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"{name} is not installed. Static embeddings need the extra `static`: run "
                "pip install '.[static]' in your clone of layermix"
            )


class StaticEmbeddings:
    """A linear model of static embeddings, as `linear.Values`.

    The embeddings are made when they are first needed, from the encoder alone: a head that the
    model may have is not used. On one machine the result is the same every time.

    Args:
        source: Model folder, run folder, hub id, or `minilm`.
        say: Is given a line before the embeddings are made, which takes minutes.

    Raises:
        ConfigError: If the extra `static` is not installed.
        ModelError: If there is no model in `source`.
    """

    def __init__(self, source: str, say: Callable[[str], object]) -> None:
        check_installed()
        resolve_source(source)
        self.source, self._say = source, say

    def __call__(
        self, train: Texts, labels: Array, others: Texts, form: Form, outputs: int
    ) -> NDArray[np.float64]:
        """Returns what the linear model says of other texts; for shapes see `tfidf_values`.

        Raises:
            ModelError: If the model cannot be loaded, or model2vec cannot read its tokenizer.
        """
        seen, new = self.features(train), self.features(others)
        return linear_values(seen, labels, new, form, outputs, C)

    def features(self, texts: Texts) -> NDArray[np.float64]:
        """Returns (N, D): the vector u of a text, or of two texts u, v, |u − v| and u · v by place.

        Each vector has norm 1, or 0 if no token of the text is known.

        Raises:
            ModelError: As `__call__`.
        """
        parts = [
            self._model.encode(list(column), max_length=None, use_multiprocessing=False)
            for column in zip(*texts, strict=True)
        ]
        if len(parts) == 2:
            first, second = parts
            parts += [abs(first - second), first * second]
        return np.concatenate(parts, axis=1).astype(np.float64)

    @cached_property
    def _model(self) -> Any:
        from model2vec.distill import distill_from_model

        classifier = load_classifier(self.source, seed=0)
        encoder: Any = classifier.model.base_model
        encoder.name_or_path = os.curdir  # for any other name model2vec asks the hub
        self._say(f"static embeddings are made of {self.source}, which takes minutes")
        try:
            with redirect_stderr(io.StringIO()):  # a bar of its own
                return distill_from_model(
                    encoder,
                    classifier.tokenizer,
                    device="cpu",
                    pca_dims=min(DIMENSIONS, encoder.config.hidden_size),
                    quantize_to="float32",
                )
        except Exception as error:  # of many kinds, by how its tokenizer is built
            raise ModelError(
                f"{self.source}: model2vec cannot make static embeddings of it "
                f"({type(error).__name__}: {error})"
            ) from error
