"""What an encoder says about a batch, who may be asked for it, and how layers are numbered.

Layers are the outputs of the encoder's blocks, counted from 0: layer 11 of BERT base is the output
of its last block. The embedding output is not a layer.

Shape names used throughout the heart: B examples, T tokens (padded), W words (padded), C classes, D
hidden size of the teacher, d of the student, H attention heads, E the width of one, K student
layers that are taught, L teacher layers that are mixed, U of them that have any weight in a fixed
α, R layers whose queries, keys and values are compared, or relation heads.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layermix.errors import ModelError

Batch = Mapping[str, Any]
"""Padded tensors by name: input_ids, attention_mask, token_type_ids?, word_starts?, labels, row_id,
teacher_inputs?, teacher_signal?"""


@dataclass(frozen=True)
class Needs:
    """What is asked of an encoder; logits always come along.

    Attributes:
        layers: Numbers of the blocks whose outputs are needed.
        embedding: Whether the embedding output (the input of block 0) is needed.
        padding: Whether these are needed where a position holds no token, too.
        attention: Numbers of the blocks whose attention scores are needed.
        qkv: Numbers of the blocks whose queries, keys and values are needed.
    """

    layers: tuple[int, ...] = ()
    embedding: bool = False
    padding: bool = False
    attention: tuple[int, ...] = ()
    qkv: tuple[int, ...] = ()

    def missing_from(self, provided: "Needs") -> list[str]:
        """Name what `provided` lacks, in words for an error message."""
        missing = [f"layer {layer}" for layer in self.layers if layer not in provided.layers]
        if self.embedding and not provided.embedding:
            missing.append("the embedding output")
        if self.padding and not provided.padding:
            missing.append("the outputs at padding (a live teacher gives them)")
        lacking = sorted(set(self.attention) - set(provided.attention))
        missing += [f"the attention scores of layer {layer}" for layer in lacking]
        lacking = sorted(set(self.qkv) - set(provided.qkv))
        missing += [f"queries, keys and values of layer {layer}" for layer in lacking]
        return missing

    @classmethod
    def union(cls, needs: "Iterable[Needs]") -> "Needs":
        """All that any of `needs` asks for; layers in the order in which they are first named.

        Examples:
            >>> Needs.union([Needs((5, 2)), Needs((2, 3), embedding=True)])
            Needs(layers=(5, 2, 3), embedding=True, padding=False, attention=(), qkv=())
        """
        every = list(needs)
        return cls(
            tuple(dict.fromkeys(layer for one in every for layer in one.layers)),
            any(one.embedding for one in every),
            any(one.padding for one in every),
            tuple(dict.fromkeys(layer for one in every for layer in one.attention)),
            tuple(dict.fromkeys(layer for one in every for layer in one.qkv)),
        )


LOGITS_ONLY = Needs()

NO_WORD = -100.0
"""All logits of a place where a row has no word; transformers pads with the same number."""


@dataclass(frozen=True)
class Signal:
    """What an encoder says about one batch.

    Attributes:
        logits: Scores per class, of each example or of each of its words.
        mask: True where a position holds a real token.
        layers: The numbers of the blocks in `hidden`, in its order.
        hidden: Block outputs, or None if no layer was asked for.
        embedding: The embedding output, or None if it was not asked for.
        attention: Attention scores before mask and softmax, or None if none were asked for.
        attention_layers: The numbers of the blocks in `attention`, in its order.
        words: True where an example has a word; None if it has logits as a whole.
        qkv: Queries, keys and values by head, or None if none were asked for.
        qkv_layers: The numbers of the blocks in `qkv`, in its order.
    """

    logits: Float[Tensor, "B *W C"]
    mask: Bool[Tensor, "B T"]
    layers: tuple[int, ...] = ()
    hidden: Float[Tensor, "L B T D"] | None = None
    embedding: Float[Tensor, "B T D"] | None = None
    attention: Float[Tensor, "K B H T T"] | None = None
    attention_layers: tuple[int, ...] = ()
    words: Bool[Tensor, "B W"] | None = None
    qkv: Float[Tensor, "R 3 B H T E"] | None = None
    qkv_layers: tuple[int, ...] = ()

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

    def select_attention(self, layers: tuple[int, ...]) -> Float[Tensor, "K B H T T"]:
        """The attention scores of the blocks `layers`, in that order.

        Raises:
            ModelError: If a layer's scores are not in this signal.
        """
        held = Needs(attention=self.attention_layers)
        if missing := Needs(attention=layers).missing_from(held):
            raise ModelError(
                f"this signal holds the attention scores of the layers "
                f"{list(self.attention_layers)}, but {', '.join(missing)} is wanted; ask the "
                "encoder for it"
            )
        assert self.attention is not None
        if layers == self.attention_layers:
            return self.attention
        return self.attention[[self.attention_layers.index(layer) for layer in layers]]

    def select_qkv(self, layer: int) -> Float[Tensor, "3 B H T E"]:
        """Queries, keys and values of one block.

        Raises:
            ModelError: If they are not in this signal.
        """
        if layer not in self.qkv_layers:
            raise ModelError(
                "this signal holds queries, keys and values of the layers "
                f"{list(self.qkv_layers)}, but those of layer {layer} are wanted; ask the encoder "
                "for them"
            )
        assert self.qkv is not None
        return self.qkv[self.qkv_layers.index(layer)]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Signal":
        """The same signal on a device; data loaders call this for what is in a batch."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Signal":
        """The same signal in memory that a GPU can copy from on its own."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Signal":
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


class Encoder(Protocol):
    """A classifier whose block outputs can be read: the student, or a live teacher."""

    num_layers: int
    hidden_size: int
    num_labels: int

    def __call__(self, batch: Batch, needs: Needs = LOGITS_ONLY) -> Signal:
        """Run the encoder on a padded batch and collect what `needs` asks for."""
        ...


class Teacher(Protocol):
    """A source of signals without gradient, live or stored, that declares what it provides.

    Attributes:
        num_layers: Number of blocks.
        hidden_size: D.
        provides: What its signals hold.
        in_loader: Whether it reads stored signals, on the CPU: then the collator asks it, so that
            loader workers read ahead. A live teacher is asked within the step.
    """

    num_layers: int
    hidden_size: int
    provides: Needs
    in_loader: bool

    def __call__(self, batch: Batch) -> Signal:
        """Return the signal for a batch, aligned with its padded tokens."""
        ...


def at_words(
    logits: Float[Tensor, "B T C"], starts: Int[Tensor, "B W"]
) -> tuple[Float[Tensor, "B W C"], Bool[Tensor, "B W"]]:
    """The logits of the first token of each word, and where there is one.

    Args:
        logits: Of every token.
        starts: The place of each word's first token; −1 where an example has no further word.

    Examples:
        >>> at_words(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[2, -1]]))
        (tensor([[[   3.],
                 [-100.]]]), tensor([[ True, False]]))
    """
    words = starts >= 0
    places = starts.clamp(min=0)[..., None].expand(-1, -1, logits.shape[-1])
    return logits.gather(1, places).where(words[..., None], NO_WORD), words


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
