"""Ways to make new texts from given ones: `WAYS`, each a function from a `Corpus` to new texts.

None looks at a label or at a text outside the corpus. Sources: words replaced by neighbours in an
embedding, TinyBERT (arXiv 1909.10351, algorithm 1, with GloVe and BERT there); texts paired anew,
Augmented SBERT (arXiv 2010.08240).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from layermix.data.columns import Text

NEIGHBOURS = 20
"""How many similar rows a row is joined with at most."""
COMPARED = 20_000
"""Rows among which similar ones, or near words, are looked for."""
REPLACED = 0.3
"""Share of the words that are replaced, on average."""
CANDIDATES = 15
"""Nearest words from which a replacement is drawn."""
SHORTEST_CROP = 0.5
"""Least share of a text's words that a crop keeps."""
BLOCK = 2048
"""Words whose similarities to all others are held in memory at once."""


@dataclass(frozen=True)
class Corpus:
    """Training texts, and what is known of their words.

    Attributes:
        texts: Pairs, or single texts, at least two.
        tokenizer: The teacher's; a fast one for `words`.
        embedding: The teacher's word embedding, (V, d).
        random: Draws everything random.
    """

    texts: Sequence[Text]
    tokenizer: PreTrainedTokenizerBase
    embedding: Tensor
    random: np.random.Generator

    def order(self) -> list[int]:
        """The rows, shuffled."""
        return list(map(int, self.random.permutation(len(self.texts))))

    @property
    def paired(self) -> bool:
        """Whether a row has two texts."""
        return len(self.texts[0]) == 2


Way = Callable[[Corpus], Iterator[Text]]
"""Yields new texts, perhaps without end; equal ones may come twice."""


def neighbours(corpus: Corpus) -> Iterator[Text]:
    """Each text joined with similar ones, the most similar first.

    Pairs get the second text of a similar row. Of single texts the first half is joined with the
    second half of a similar one. Rows are similar by the tokens they share (TF-IDF, cosine).
    """
    chosen = corpus.order()[:COMPARED]
    texts = [corpus.texts[row] for row in chosen]
    vectors = TfidfVectorizer(analyzer=lambda text: _tokens(corpus.tokenizer, text)).fit_transform(
        texts
    )
    count = min(NEIGHBOURS, len(texts) - 1)
    search = NearestNeighbors(n_neighbors=count, metric="cosine").fit(vectors)
    ranks = search.kneighbors(return_distance=False)
    for rank in range(count):
        for row, near in enumerate(ranks[:, rank]):
            first, second = texts[row], texts[int(near)]
            yield (first[0], second[1]) if corpus.paired else (_halves(first[0], second[0]),)


def _tokens(tokenizer: PreTrainedTokenizerBase, text: Text) -> list[int]:
    found: list[int] = []
    for part in text:
        found += tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
    return found


def _halves(first: str, second: str) -> str:
    """The first half of one text and the second half of another."""
    start, end = first.split(), second.split()
    return " ".join([*start[: -(-len(start) // 2)], *end[len(end) // 2 :]])


def swap(corpus: Corpus) -> Iterator[Text]:
    """Pairs the other way round."""
    for row in corpus.order():
        yield corpus.texts[row][::-1]


def crops(corpus: Corpus) -> Iterator[Text]:
    """Texts of which a run of words is kept, at least half of them."""
    while True:
        for row in corpus.order():
            yield tuple(_crop(text, corpus.random) for text in corpus.texts[row])


def _crop(text: str, random: np.random.Generator) -> str:
    parts = text.split()
    kept = max(1, round(len(parts) * random.uniform(SHORTEST_CROP, 1)))
    start = int(random.integers(len(parts) - kept + 1))
    return " ".join(parts[start : start + kept])


def words(corpus: Corpus) -> Iterator[Text]:
    """Texts in which some words are replaced by others near them in the teacher's embedding."""
    if len(corpus.texts) > COMPARED:
        chosen = corpus.order()[:COMPARED]
        corpus = replace(corpus, texts=[corpus.texts[row] for row in chosen])
    known = Words(corpus)
    while True:
        for row in corpus.order():
            yield tuple(known.replaced(text, corpus.random) for text in corpus.texts[row])


class Words:
    """The words of a corpus that are one token each, and which of them are near one another.

    Attributes:
        forms: Token id -> the word as it was first seen.
        near: Token id -> ids of the nearest such words, the nearest first.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.tokenizer = corpus.tokenizer
        self.special = set(corpus.tokenizer.all_special_ids)  # the token of unknown words, too
        self.forms: dict[int, str] = {}
        for text in corpus.texts:
            for part in text:
                for token, start, end in self._single_tokens(part):
                    self.forms.setdefault(token, part[start:end])
        ids = torch.tensor(sorted(self.forms), dtype=torch.long)
        vectors = functional.normalize(corpus.embedding[ids].float(), dim=-1)
        self.near: dict[int, list[int]] = {}
        count = min(CANDIDATES, len(ids) - 1)
        for start in range(0, len(ids) if count > 0 else 0, BLOCK):
            similar = vectors[start : start + BLOCK] @ vectors.T
            own = torch.arange(len(similar))
            similar[own, own + start] = -torch.inf
            nearest = ids[similar.topk(count).indices].tolist()
            self.near |= dict(zip(ids[start : start + BLOCK].tolist(), nearest, strict=True))

    def replaced(self, text: str, random: np.random.Generator) -> str:
        """The text with `REPLACED` of these words replaced."""
        parts, done = [], 0
        for token, start, end in self._single_tokens(text):
            near = self.near.get(token, [])
            if near and random.random() < REPLACED:
                chosen = self.forms[near[int(random.integers(len(near)))]]
                parts += [text[done:start], chosen]
                done = end
        return "".join([*parts, text[done:]])

    def _single_tokens(self, text: str) -> Iterator[tuple[int, int, int]]:
        """The words of letters that are one token: its id, and where the word begins and ends."""
        found: Any = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        for token, (start, end) in zip(found["input_ids"], found["offset_mapping"], strict=True):
            word = text[start:end]
            start += len(word) - len(word.lstrip())
            alone = not text[start - 1 : start].isalnum() and not text[end : end + 1].isalnum()
            if alone and text[start:end].isalpha() and token not in self.special:
                yield token, start, end


WAYS: Mapping[str, Way] = {
    "neighbours": neighbours,
    "words": words,
    "swap": swap,
    "crops": crops,
}
"""Name -> way."""
