"""How a transformers classifier is read: its blocks, what they put out, how much it takes.

A block output is what the block's module returns, whatever the family: in ModernBERT that is before
`final_norm` for the last block too, in DeBERTa-v2 block 0 includes the convolution after it, if
there is one. It is read by a hook, so only the layers asked for are kept, and every family is read
in one way.
"""

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layermix.core.signals import LOGITS_ONLY, Batch, Needs, Signal, check_layers
from layermix.errors import ModelError

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "mpnet", "camembert")
"""Families that count positions from padding_idx + 1, so that two of them are never used."""

_EMBEDDING = -1  # the embedding output's number among the block outputs


@dataclass(frozen=True)
class Classifier:
    """A sequence classifier with its tokenizer.

    Attributes:
        model: As `AutoModelForSequenceClassification` loads it, in float32.
        tokenizer: Its own.
        source: What it was loaded or made from, as the user would name it.
        start: How its weights began, for the record of the run.
        notes: Sentences worth telling the user.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    start: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names by index."""
        return label_names(self.model)

    @property
    def new_head(self) -> bool:
        """Whether the classification head was made anew, so that it knows nothing yet."""
        return bool(self.start.get("new_head"))

    @property
    def max_length(self) -> int:
        """The longest input, in tokens, that tokenizer and model both take."""
        return longest_input(self.model.config, self.tokenizer)


def longest_input(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest input, in tokens, that a tokenizer and a model of this config both take."""
    longest: int = tokenizer.model_max_length
    positions: int = getattr(config, "max_position_embeddings", longest)
    unused = 2 if config.model_type in POSITIONS_AFTER_PADDING else 0
    return min(longest, positions - unused)


class HFEncoder(nn.Module):
    """A transformers classifier as an `Encoder`: batch -> Signal.

    Args:
        model: A sequence classifier whose base model is a stack of blocks.
        inputs_key: The batch entry that holds this encoder's own inputs, if it is there; else the
            batch itself does.

    Raises:
        ModelError: If the blocks of this family cannot be found.
    """

    def __init__(self, model: PreTrainedModel, inputs_key: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.inputs_key = inputs_key
        accepted = inspect.signature(model.forward).parameters
        self.input_names = [name for name in MODEL_INPUTS if name in accepted]
        # Lists, so that they are not a second time among the modules of this one.
        self.blocks, self.speakers = list(blocks_of(model)), _output_modules(model)
        self.num_layers = len(self.blocks)
        self.hidden_size = int(model.config.hidden_size)
        self.num_labels = len(label_names(model))

    def forward(self, batch: Batch, needs: Needs = LOGITS_ONLY) -> Signal:
        """Run the classifier and keep what `needs` asks for.

        Args:
            batch: Padded tensors; only those that the model takes are read.
            needs: Layers are kept in the order asked for.

        Raises:
            ModelError: If a layer does not exist, or attention scores are asked for and the family
                does not compute them through torch's attention function.
        """
        check_layers(needs.layers, self.num_layers, type(self.model).__name__)
        own: Batch = batch.get(self.inputs_key, batch) if self.inputs_key else batch
        inputs = {name: own[name] for name in self.input_names if name in own}
        scores = _AttentionScores(needs.attention)
        with self._listening(needs) as heard, scores if needs.attention else nullcontext():
            logits = self.model(**inputs).logits
        hidden = torch.stack([heard[layer] for layer in needs.layers]) if needs.layers else None
        mask = own["attention_mask"].bool()
        attention = self._stacked(scores) if needs.attention else None
        return Signal(
            logits, mask, needs.layers, hidden, heard.get(_EMBEDDING), attention, needs.attention
        )

    @contextmanager
    def _listening(self, needs: Needs) -> Iterator[dict[int, Tensor]]:
        """Collect block outputs, and the embedding output, by number during a forward pass."""
        heard: dict[int, Tensor] = {}

        def keep(layer: int) -> Any:
            def hook(_module: nn.Module, _args: Any, output: Any) -> None:
                heard[layer] = output[0] if isinstance(output, tuple) else output

            return hook

        def keep_input(_module: nn.Module, args: tuple[Any, ...]) -> None:
            heard[_EMBEDDING] = args[0]

        with ExitStack() as hooks:
            for layer in needs.layers:
                hooks.callback(self.speakers[layer].register_forward_hook(keep(layer)).remove)
            if needs.embedding:
                hooks.callback(self.blocks[0].register_forward_pre_hook(keep_input).remove)
            yield heard

    def _stacked(self, scores: "_AttentionScores") -> Tensor:
        if scores.calls != self.num_layers:
            raise ModelError(
                f"{type(self.model).__name__}: found {scores.calls} calls of torch's attention "
                f"function, wanted one in each of {self.num_layers} blocks, so its attention "
                "scores cannot be read; use --loss.attention_weight 0"
            )
        return torch.stack([scores.heard[layer] for layer in scores.layers])


class _AttentionScores(TorchFunctionMode):
    """Keeps q·k/√d of the blocks asked for, before mask and softmax, (B, H, T, T) each."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.layers, self.calls = layers, 0
        self.heard: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            if self.calls in self.layers:
                query, key = args[:2]
                scale = kwargs.get("scale")
                scaled = query * (query.shape[-1] ** -0.5 if scale is None else scale)
                self.heard[self.calls] = scaled @ key.mT
            self.calls += 1
        return func(*args, **kwargs)


def blocks_path(model: PreTrainedModel) -> str:
    """Where the encoder's list of blocks stands in a classifier, such as `bert.encoder.layer`.

    Raises:
        ModelError: If this is not one stack of separate blocks: ALBERT shares one, BART has two
            stacks.
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    lists = [
        name
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        raise ModelError(
            f"{type(model).__name__}: found {len(outer) or 'no'} lists of {depth} blocks in it, "
            "wanted one; layermix needs an encoder that is one stack of separate blocks, such as "
            "BERT, RoBERTa, DeBERTa-v2 or ModernBERT"
        )
    return f"{model.base_model_prefix}.{outer[0]}"


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The encoder's blocks, in order.

    Raises:
        ModelError: As `blocks_path`.
    """
    blocks = model.get_submodule(blocks_path(model))
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def _output_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The modules whose outputs are the block outputs."""
    modules: list[nn.Module] = list(blocks_of(model))
    stack = model.get_submodule(blocks_path(model).rpartition(".")[0])
    if isinstance(conv := getattr(stack, "conv", None), nn.Module):  # DeBERTa-v2 xlarge
        modules[0] = conv
    return modules


def label_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Class names by index, from the model's config."""
    names: Any = model.config.id2label
    return tuple(str(names[index]) for index in range(len(names)))


def fingerprint(model: PreTrainedModel) -> str:
    """sha256 over the names and values of all weights, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
