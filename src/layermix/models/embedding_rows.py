"""Trains only the rows of the word embedding whose tokens occur in the training texts.

The other rows never get a gradient, but AdamW, clipping and zeroing would process them in every
step: a tenth of a small student's bfloat16 step (docs/performance.md), more with a larger
vocabulary.
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
    """A word embedding in two parts: the rows that are trained, and the rows that stay frozen.

    In train mode it accepts tokens of the trained rows only, in eval mode all tokens.

    Args:
        whole: The embedding to split; its weights are copied.
        tokens: Ids of the rows to train, each once, (U,).

    Attributes:
        trained: Weights of the trained rows, (U, d).
        frozen: Weights of the other rows, (V − U, d).
        places: By token id, the row's index in `trained` followed by `frozen`, (V,).
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
        """Returns the rows, (B, T, d), of token ids, (B, T)."""
        places, count = self.places[tokens], len(self.trained)
        if self.training:
            return functional.embedding(places, self.trained, self.padding)
        is_frozen = places >= count
        rows = functional.embedding(places.where(~is_frozen, 0), self.trained)
        rows[is_frozen] = self.frozen[places[is_frozen] - count].to(rows.dtype)
        return rows

    def whole(self) -> Tensor:
        """Returns all rows in the order of the token ids, (V, d)."""
        return torch.cat([self.trained.detach(), self.frozen])[self.places]


@contextmanager
def only_occurring_trained(model: PreTrainedModel, tokens: Iterable[int]) -> Iterator[None]:
    """Within this context, the model trains only the embedding rows of `tokens`.

    At the end the model has its plain embedding back, with the trained rows in it.

    Args:
        model: Changed in place. Nothing changes if its embedding is not a plain `nn.Embedding`, is
            tied to another layer, or is frozen.
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
    uses = sum(other is weight for _, other in model.named_parameters(remove_duplicate=False))
    return uses == 1 and weight.requires_grad


def occurring(rows: Any, padding: int) -> set[int]:
    """Returns the token ids that occur in batches of a data set's rows, and the padding token."""
    tokens = {padding}
    for chunk in rows.select_columns(["input_ids"]).with_format("numpy").iter(_ROWS_AT_ONCE):
        tokens.update(np.unique(np.concatenate(list(chunk["input_ids"]))).tolist())
    return tokens
