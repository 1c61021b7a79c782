"""Which rows of the word embeddings are trained: those of the tokens that occur in the texts.

The others never get a gradient, but AdamW, clipping and clearing would go over them in every step:
a tenth of a small student's bfloat16 step (docs/performance.md), more with more words.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

_ROWS_AT_ONCE = 10_000


class SplitEmbedding(nn.Module):
    """A word embedding in two parts: rows that are trained, and the rest, which stays as it is.

    In training it takes tokens of the first part only, in evaluation any.

    Args:
        whole: What is split; its weights are copied.
        tokens: Numbers of the rows to train, each once, (U,).

    Attributes:
        trained: Their weights, (U, d).
        frozen: The weights of the other rows, (V − U, d).
        places: Where a token's row is: below U in `trained`, else U farther on in `frozen`.
    """

    places: Tensor
    frozen: Tensor

    def __init__(self, whole: nn.Embedding, tokens: Tensor) -> None:
        super().__init__()
        rest = torch.ones(whole.num_embeddings, dtype=torch.bool)
        rest[tokens] = False
        order = torch.cat([tokens, rest.nonzero().flatten()])
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order))
        device = whole.weight.device
        self.register_buffer("places", places.to(device))
        self.register_buffer("frozen", whole.weight.detach()[rest.to(device)])
        self.trained = nn.Parameter(whole.weight.detach()[tokens.to(device)])
        padding = whole.padding_idx
        self.padding = None if padding is None or rest[padding] else int(places[padding])

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) tokens -> (B, T, d) rows."""
        places, many = self.places[tokens], len(self.trained)
        if self.training:
            return functional.embedding(places, self.trained, self.padding)
        other = places >= many
        found = functional.embedding(places.where(~other, 0), self.trained)
        found[other] = self.frozen[places[other] - many].to(found.dtype)
        return found

    def whole(self) -> Tensor:
        """All rows in their order, (V, d)."""
        return torch.cat([self.trained.detach(), self.frozen])[self.places]


@contextmanager
def only_occurring_trained(model: PreTrainedModel, tokens: Iterable[int]) -> Iterator[None]:
    """Within it, the model trains only those rows of its word embeddings; then it is whole again.

    Args:
        model: Changed in place; left as it is if its embedding is not a plain one, is used in
            another place too (tied), or is frozen.
        tokens: From `occurring`.
    """
    plain: Any = model.get_input_embeddings()
    if type(plain) is not nn.Embedding or plain.max_norm or not _on_its_own(model, plain):
        yield
        return
    split = SplitEmbedding(plain, torch.tensor(sorted(set(tokens))))
    model.set_input_embeddings(split)
    try:
        yield
    finally:
        with torch.no_grad():
            plain.to(split.trained.device).weight.copy_(split.whole())
        model.set_input_embeddings(plain)


def _on_its_own(model: PreTrainedModel, embedding: nn.Embedding) -> bool:
    weight = embedding.weight
    uses = sum(one is weight for _, one in model.named_parameters(remove_duplicate=False))
    return uses == 1 and weight.requires_grad


def occurring(rows: Any, padding: int) -> set[int]:
    """The tokens that occur in batches of a data set's rows, the one they are padded with too."""
    found = {padding}
    for some in rows.select_columns(["input_ids"]).with_format("numpy").iter(_ROWS_AT_ONCE):
        found.update(np.unique(np.concatenate(list(some["input_ids"]))).tolist())
    return found
