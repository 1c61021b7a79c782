"""What an encoder says about a batch, who may be asked for it, and how layers are numbered.

Layers are the outputs of the encoder's blocks, counted from 0: layer 11 of BERT base is the output
of its last block. The embedding output is not a layer.

Shape names used throughout the heart: B examples, T tokens (padded), C classes, D hidden size of
the teacher, d of the student, H attention heads, K student layers that are taught, L teacher layers
that are mixed, U of them that have any weight in a fixed α.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Bool, Float
from torch import Tensor

from layermix.errors import ModelError

Batch = Mapping[str, Any]
"""Padded tensors by name: input_ids, attention_mask, token_type_ids?, labels, row_id,
teacher_inputs?"""


@dataclass(frozen=True)
class Needs:
    """What is asked of an encoder; logits always come along.

    Attributes:
        layers: Numbers of the blocks whose outputs are needed.
        embedding: Whether the embedding output (the input of block 0) is needed.
        padding: Whether these are needed where a position holds no token, too.
        attention: Numbers of the blocks whose attention scores are needed.
    """

    layers: tuple[int, ...] = ()
    embedding: bool = False
    padding: bool = False
    attention: tuple[int, ...] = ()

    def missing_from(self, provided: "Needs") -> list[str]:
        """Name what `provided` lacks, in words for an error message."""
        missing = [f"layer {layer}" for layer in self.layers if layer not in provided.layers]
        if self.embedding and not provided.embedding:
            missing.append("the embedding output")
        if self.padding and not provided.padding:
            missing.append("the outputs at padding (a live teacher gives them)")
        lacking = sorted(set(self.attention) - set(provided.attention))
        missing += [f"the attention scores of layer {layer}" for layer in lacking]
        return missing


LOGITS_ONLY = Needs()


@dataclass(frozen=True)
class Signal:
    """What an encoder says about one batch.

    Attributes:
        logits: Scores per class.
        mask: True where a position holds a real token.
        layers: The numbers of the blocks in `hidden`, in its order.
        hidden: Block outputs, or None if no layer was asked for.
        embedding: The embedding output, or None if it was not asked for.
        attention: Scores before mask and softmax of the blocks asked for, in their order, or None.
    """

    logits: Float[Tensor, "B C"]
    mask: Bool[Tensor, "B T"]
    layers: tuple[int, ...] = ()
    hidden: Float[Tensor, "L B T D"] | None = None
    embedding: Float[Tensor, "B T D"] | None = None
    attention: Float[Tensor, "K B H T T"] | None = None

    def select(self, layers: tuple[int, ...]) -> Float[Tensor, "L B T D"]:
        """The outputs of the blocks `layers`, in that order; no copy if they are all there is.

        Raises:
            ModelError: If a layer is not in this signal.
        """
        if missing := Needs(layers).missing_from(Needs(self.layers)):
            raise ModelError(
                f"this signal holds the layers {list(self.layers)}, but {', '.join(missing)} is "
                "wanted; ask the encoder for it"
            )
        assert self.hidden is not None
        if layers == self.layers:
            return self.hidden
        return self.hidden[[self.layers.index(layer) for layer in layers]]


class Encoder(Protocol):
    """A classifier whose block outputs can be read: the student, or a live teacher."""

    num_layers: int
    hidden_size: int
    num_labels: int

    def __call__(self, batch: Batch, needs: Needs = LOGITS_ONLY) -> Signal:
        """Run the encoder on a padded batch and collect what `needs` asks for."""
        ...


class Teacher(Protocol):
    """A source of signals without gradient, live or remembered, that declares what it provides."""

    num_layers: int
    hidden_size: int
    provides: Needs

    def __call__(self, batch: Batch) -> Signal:
        """Return the signal for a batch, aligned with its padded tokens."""
        ...


def evenly_spaced(groups: int, total: int) -> tuple[int, ...]:
    """The last layer of each of K equal groups of N: layer j is `floor((j+1)·N/K) − 1`.

    With more groups than layers, the first layers are repeated.

    Examples:
        >>> evenly_spaced(4, 12), evenly_spaced(3, 6), evenly_spaced(4, 2)
        ((2, 5, 8, 11), (1, 3, 5), (0, 0, 0, 1))
    """
    return tuple(max(0, (group + 1) * total // groups - 1) for group in range(groups))


def check_layers(layers: Sequence[int], total: int, owner: str) -> tuple[int, ...]:
    """Return `layers` if each exists and none is named twice.

    Raises:
        ModelError: Naming the offenders and the valid range.
    """
    if bad := [layer for layer in layers if not 0 <= layer < total]:
        raise ModelError(
            f"{owner} has {total} blocks, numbered 0 to {total - 1}; found "
            f"{', '.join(map(str, bad))} in {list(layers)}"
        )
    if len(set(layers)) < len(layers):
        raise ModelError(f"{owner}: a layer is named twice in {list(layers)}; name each once")
    return tuple(layers)
