"""A transformers classifier as an `Encoder`: finds its blocks and captures their outputs.

A block's output is what its module returns, whatever the family: in ModernBERT that is before
`final_norm`, for the last block too; in DeBERTa-v2, block 0 includes the convolution after it, if
there is one. Hooks capture the outputs, so that every family is read in the same way and only the
layers asked for are kept.
"""

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layermix.core.signals import LOGITS_ONLY, Batch, Needs, Signal, at_words, check_layers
from layermix.data.labels import read_class_names
from layermix.errors import ModelError, Note

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
POSITIONS_AFTER_PADDING = (
    "roberta",
    "xlm-roberta",
    "mpnet",
    "camembert",
    "roberta-prelayernorm",
    "xlm-roberta-xl",
    "data2vec-text",
    "xmod",
    "ibert",
)
"""Families that count positions from the padding token's number + 1, so that those up to it are
never used."""

FIRST_TOKEN = (
    *("bert", "distilbert", "electra", "deberta", "deberta-v2", "modernbert"),
    *POSITIONS_AFTER_PADDING,
)
"""Families whose head reads the first token of a row, which must not be padding."""

NO_LIMIT = 2**31 - 1
"""The longest input where neither tokenizer nor model has a limit."""

_EMBEDDING = -1  # the number under which the embedding output is captured


@dataclass(frozen=True)
class Classifier:
    """A classifier of texts, or of their tokens, with its tokenizer.

    Attributes:
        model: As `AutoModelForSequenceClassification` loads it, or
            `AutoModelForTokenClassification`, in float32.
        tokenizer: The model's tokenizer.
        source: What it was loaded or made from, in the user's words.
        start: How its weights were initialised, for the record of the run.
        notes: Remarks for the user.
        widening: The matrix from its hidden states to those of the classifier that it was narrowed
            from, (D, d); None if it was not. P can start from it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    start: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    widening: Tensor | None = None

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names by index."""
        return label_names(self.model)

    @property
    def new_head(self) -> bool:
        """Whether the classification head is newly initialised and untrained."""
        return bool(self.start.get("new_head"))

    @property
    def max_length(self) -> int:
        """The longest input, in tokens, that tokenizer and model both accept."""
        return longest_input(self.model.config, self.tokenizer)


def longest_input(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest input, in tokens, that a tokenizer and a model of this config both accept."""
    longest: int = tokenizer.model_max_length
    positions: int = getattr(config, "max_position_embeddings", longest)
    unused = 0
    if config.model_type in POSITIONS_AFTER_PADDING:
        unused = 2 if config.model_type == "mpnet" else config.pad_token_id + 1  # MPNet fixes 1
    if positions < 1:  # XLNet has no limit
        positions = longest
    return min(longest, positions - unused, NO_LIMIT)


class HFEncoder(nn.Module):
    """A transformers classifier as an `Encoder`: batch -> Signal.

    Args:
        model: A classifier of texts or of tokens whose base model is a stack of blocks.
        inputs_key: The batch entry that holds this encoder's own inputs; a batch without it holds
            them itself.

    Raises:
        ModelError: If the blocks of this family cannot be found.
    """

    def __init__(self, model: PreTrainedModel, inputs_key: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.inputs_key = inputs_key
        accepted = inspect.signature(model.forward).parameters
        self.input_names = [name for name in MODEL_INPUTS if name in accepted]
        # Lists, so that the blocks are not registered as submodules a second time.
        self.blocks, self.output_modules = list(blocks_of(model)), _output_modules(model)
        self.num_layers = len(self.blocks)
        self.hidden_size = int(model.config.hidden_size)
        self.num_labels = len(label_names(model))

    def forward(self, batch: Batch, needs: Needs = LOGITS_ONLY) -> Signal:
        """Runs the classifier and returns what `needs` asks for.

        The logits of a token classifier are those of the first token of each word, where the batch
        has `word_starts`; else those of all tokens.

        Args:
            batch: Padded tensors, (B, T); only the model's inputs and `word_starts` are read.
            needs: Layers are returned in this order.

        Raises:
            ModelError: If a layer does not exist, or what attention compares is asked for and the
                family does not compute it through torch's attention function.
        """
        check_layers(needs.layers, self.num_layers, type(self.model).__name__)
        own: Batch = batch.get(self.inputs_key, batch) if self.inputs_key else batch
        inputs = {name: own[name] for name in self.input_names if name in own}
        inner = _AttentionInputs(needs.attention, needs.qkv)
        looks_inside = needs.attention or needs.qkv
        with self._capturing(needs) as captured, inner if looks_inside else nullcontext():
            logits = self.model(**inputs).logits
        mask, words = own["attention_mask"].bool(), None
        if "word_starts" in own:
            logits, words = at_words(logits, own["word_starts"])
        for output in captured.values():
            if output.shape[:2] != mask.shape:
                raise ModelError(
                    f"{type(self.model).__name__}: its blocks give {tuple(output.shape)} for "
                    f"{tuple(mask.shape)} tokens, wanted rows × tokens × width; its hidden states "
                    "cannot be compared, so use --loss.hidden_weight 0"
                )
        hidden = torch.stack([captured[layer] for layer in needs.layers]) if needs.layers else None
        if looks_inside:
            self._check_calls(inner)
        return Signal(
            logits,
            mask,
            needs.layers,
            hidden,
            captured.get(_EMBEDDING),
            _stacked(inner.scores, needs.attention),
            needs.attention,
            words,
            _stacked(inner.qkv, needs.qkv),
            needs.qkv,
        )

    @contextmanager
    def _capturing(self, needs: Needs) -> Iterator[dict[int, Tensor]]:
        """Captures block outputs and the embedding output by number during a forward pass."""
        captured: dict[int, Tensor] = {}

        def keep(layer: int) -> Any:
            def hook(_module: nn.Module, _args: Any, output: Any) -> None:
                captured[layer] = output[0] if isinstance(output, tuple) else output

            return hook

        def keep_input(_module: nn.Module, args: tuple[Any, ...]) -> None:
            captured[_EMBEDDING] = args[0]

        with ExitStack() as hooks:
            for layer in needs.layers:
                hooks.callback(self.output_modules[layer].register_forward_hook(keep(layer)).remove)
            if needs.embedding:
                hooks.callback(self.blocks[0].register_forward_pre_hook(keep_input).remove)
            yield captured

    def _check_calls(self, inner: "_AttentionInputs") -> None:
        if inner.calls != self.num_layers:
            raise ModelError(
                f"{type(self.model).__name__}: found {inner.calls} calls of torch's attention "
                f"function, wanted one in each of {self.num_layers} blocks, so its attention "
                "scores cannot be read; use --loss.attention_weight 0 (and, in pretraining, "
                "--loss.relation_weight 0)"
            )


def _stacked(captured: Mapping[int, Tensor], layers: Sequence[int]) -> Tensor | None:
    """What was captured of the layers, in their order; None if there are none."""
    return torch.stack([captured[layer] for layer in layers]) if layers else None


class _AttentionInputs(TorchFunctionMode):
    """Captures what attention compares, block by block, before mask and softmax.

    Args:
        scored: Blocks whose q·k/√d is kept in `scores`, (B, H, T, T).
        wanted: Blocks whose queries, keys and values are kept in `qkv`, (3, B, H, T, E).
    """

    def __init__(self, scored: Sequence[int], wanted: Sequence[int]) -> None:
        super().__init__()
        self.scored, self.wanted, self.calls = scored, wanted, 0
        self.scores: dict[int, Tensor] = {}
        self.qkv: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            query, key, value = args[:3]
            if self.calls in self.scored:
                scale = kwargs.get("scale")
                scaled = query * (query.shape[-1] ** -0.5 if scale is None else scale)
                self.scores[self.calls] = scaled @ key.mT
            if self.calls in self.wanted:
                self.qkv[self.calls] = torch.stack([query, key, value])
            self.calls += 1
        return func(*args, **kwargs)


def blocks_path(model: PreTrainedModel) -> str:
    """The name of the encoder's list of blocks in a classifier, such as `bert.encoder.layer`.

    Raises:
        ModelError: If the encoder is not one stack of separate blocks (ALBERT shares one block,
            BART has two stacks).
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
        ModelError: See `blocks_path`.
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
    return read_class_names(names)


def fingerprint(model: PreTrainedModel) -> str:
    """sha256 of the names and values of all weights; takes about a second per GB."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


NOT_COMPUTED = (
    "_name_or_path",
    "architectures",
    "dtype",
    "finetuning_task",
    "id2label",
    "label2id",
    "layermix",
    "problem_type",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
)
"""Entries of a config that name or describe; what a model computes does not depend on them."""


def setup_fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of everything but the weights that decides what a model computes for given tokens.

    That is the model's class, its config without names, its number format and attention function,
    how the tokenizer pads, and the version of transformers, which holds the model's code. Versions
    of torch are left out: they differ by rounding.
    """
    config = model.config.to_dict()
    setup = {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "config": {name: value for name, value in config.items() if name not in NOT_COMPUTED},
        "dtype": str(model.dtype),
        "attention": model.config._attn_implementation,
        "padding": [
            tokenizer.padding_side,
            tokenizer.pad_token_id,
            tokenizer.pad_token_type_id,
        ],
        "transformers": transformers.__version__,
    }
    return hashlib.sha256(json.dumps(setup, sort_keys=True, default=str).encode()).hexdigest()
