"""Students made from a teacher: some of its blocks, or a fresh model of its family; dropout."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layermix.config import StudentConfig
from layermix.core.seeds import seeded
from layermix.core.signals import check_layers, evenly_spaced
from layermix.errors import ConfigError, ModelError, Note
from layermix.models.encoder import Classifier, blocks_of, blocks_path
from layermix.models.loading import load_classifier
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.problem import Problem

SIZES: Mapping[str, tuple[str, ...]] = {
    "hidden": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "ffn": ("intermediate_size", "hidden_dim"),
}
"""The names of a student's sizes in the configs of the families (hidden_dim: DistilBERT)."""
KINDS_OF_BLOCKS = ("layer_types", "attention_window")
"""Lists in a config with an entry for each block: of ModernBERT, of Longformer."""


def described_student(
    wanted: StudentConfig,
    seed: int,
    teacher: Classifier | None,
    names: Sequence[str],
    problem: Problem = CLASSIFICATION,
) -> Classifier:
    """Returns the student that a config describes, with its whole vocabulary.

    Args:
        wanted: A model as it is, blocks of it or of the teacher, or the sizes of a fresh one.
        seed: Of new weights.
        teacher: Gives blocks, tokenizer and vocabulary; None if the student is a model.
        names: Classes of a new head.
        problem: The kind of their labels.

    Raises:
        ModelError: If it cannot be made.
        ConfigError: If there is no teacher to make it from.
    """
    spread = wanted.copied == "spread"
    if wanted.model is not None:
        student = load_classifier(wanted.model, names, seed=seed, problem=problem)
        if wanted.layers is not None or wanted.blocks is not None:
            student = copy_blocks(student, wanted.layers, wanted.blocks, spread=spread)
    elif teacher is None:
        raise ConfigError("without a teacher model the student must be one: give --student MODEL")
    elif wanted.sizes:
        student = fresh_student(teacher, seed, wanted.layers, wanted.sizes)
    else:
        student = copy_blocks(teacher, wanted.layers, wanted.blocks, spread=spread)
    return with_dropout(student, wanted.dropout)


def copy_blocks(
    teacher: Classifier,
    layers: int | None = None,
    blocks: Sequence[int] | None = None,
    *,
    spread: bool = False,
) -> Classifier:
    """Returns a student with copies of some of the teacher's blocks, its embeddings and its head.

    Args:
        teacher: The source of the copies; not changed.
        layers: How many blocks to copy; half of them if None.
        blocks: Which blocks to copy instead, counted from 0, in this order.
        spread: Without `blocks`: copy the last of equal groups, not the first blocks.

    Raises:
        ModelError: If a block does not exist, or the family cannot be shortened.
    """
    source = teacher.model
    depth = len(blocks_of(source))
    if blocks is None:
        count = layers or max(1, depth // 2)
        if count > depth:
            raise ModelError(
                f"{count} blocks wanted, but the teacher has {depth}; give at most {depth}"
            )
        blocks = evenly_spaced(count, depth) if spread else range(count)
    blocks = check_layers(blocks, depth, "the teacher")
    config = copy.deepcopy(source.config)
    with _of_another_depth(source), torch.random.fork_rng():  # the new weights are overwritten
        _set_depth(config, blocks)
        student = type(source)(config)
    state, notes = _renumbered(source, blocks)
    try:
        student.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"the blocks of a {type(source).__name__} cannot be copied one by one; give "
            "--student.model, or --student.hidden for a fresh student"
        ) from error
    start = {"kind": "blocks", "from": teacher.source, "blocks": list(blocks), "notes": notes}
    tokenizer = copy.deepcopy(teacher.tokenizer)
    return Classifier(student, tokenizer, teacher.source, start, tuple(notes))


def _set_depth(config: Any, blocks: Sequence[int]) -> None:
    """Sets the number of blocks, with the kinds of the given blocks of the teacher."""
    config.num_hidden_layers = len(blocks)
    for name in KINDS_OF_BLOCKS:
        if isinstance(kinds := getattr(config, name, None), list):
            setattr(config, name, [kinds[block] for block in blocks])


@contextmanager
def _of_another_depth(teacher: PreTrainedModel) -> Iterator[None]:
    """Makes a ModelError of what a family raises that cannot have other blocks."""
    try:
        yield
    except (NotImplementedError, AssertionError, ValueError) as error:
        raise ModelError(
            f"a {type(teacher).__name__} cannot be made with other blocks or sizes ({error}); give "
            "a student of your own with --student.model"
        ) from error


def _renumbered(
    source: PreTrainedModel, blocks: Sequence[int]
) -> tuple[dict[str, Tensor], list[Note]]:
    """The state of `source` with only `blocks`, numbered from 0, and notes on what changed."""
    prefix = f"{blocks_path(source)}."
    state = {key: value for key, value in source.state_dict().items() if not key.startswith(prefix)}
    notes: list[Note] = []
    for number, block in enumerate(blocks):
        own = dict(blocks_of(source)[block].state_dict())
        if source.config.model_type == "modernbert" and (number == 0) != (block == 0):
            notes.append(_leave_first(own, block) if block == 0 else _become_first(own, block))
        state |= {f"{prefix}{number}.{key}": value for key, value in own.items()}
    return state, notes


def _become_first(own: dict[str, Tensor], block: int) -> Note:
    """Removes the attention norm, which ModernBERT's first block lacks: its input is normalised."""
    scale = own.pop("attn_norm.weight")
    own.pop("attn_norm.bias", None)
    own["attn.Wqkv.weight"] = own["attn.Wqkv.weight"] * scale
    return Note(
        "attention-norm-folded",
        f"block {block} of the teacher has an attention norm, which ModernBERT's first block lacks;"
        " only the norm's scale was kept, folded into the attention's input matrix",
    )


def _leave_first(own: dict[str, Tensor], block: int) -> Note:
    """Adds an attention norm of scale 1, which every other ModernBERT block has."""
    own["attn_norm.weight"] = torch.ones_like(own["mlp_norm.weight"])
    if "mlp_norm.bias" in own:
        own["attn_norm.bias"] = torch.zeros_like(own["mlp_norm.bias"])
    return Note(
        "attention-norm-added",
        f"block {block} of the teacher has no attention norm, which ModernBERT has in all blocks "
        "but the first; a new one of scale 1 was added before its attention",
    )


def fresh_student(
    teacher: Classifier, seed: int, layers: int | None, sizes: Mapping[str, int]
) -> Classifier:
    """Returns a randomly initialised student of the teacher's family, with its vocabulary.

    Args:
        teacher: Defines family, vocabulary, classes and all sizes that are not given; not changed.
        seed: Of the random initialisation.
        layers: Number of blocks; the teacher's if None.
        sizes: Any of `SIZES`.

    Raises:
        ModelError: If the sizes do not fit together.
    """
    config: Any = copy.deepcopy(teacher.model.config)
    depth = config.num_hidden_layers
    with _of_another_depth(teacher.model):
        _set_depth(config, [number % depth for number in range(layers or depth)])
    for name, size in sizes.items():
        setattr(config, next(known for known in SIZES[name] if hasattr(config, known)), size)
    if hasattr(config, "pooler_hidden_size"):  # DeBERTa-v2
        config.pooler_hidden_size = config.hidden_size
    if config.hidden_size % config.num_attention_heads:
        raise ModelError(
            f"hidden size {config.hidden_size} cannot be shared among {config.num_attention_heads} "
            "heads; choose a --student.heads that divides it"
        )
    with _of_another_depth(teacher.model), seeded(seed, "student"):
        model = type(teacher.model)(config)
    family = config.model_type
    start = {"kind": "fresh", "family": family, "layers": config.num_hidden_layers, **sizes}
    return Classifier(model, copy.deepcopy(teacher.tokenizer), f"fresh {family}", start)


def with_dropout(student: Classifier, share: float | None) -> Classifier:
    """Returns the same student with another dropout, which its config keeps.

    Args:
        student: Not changed.
        share: Of what its config calls dropout, wherever it is; None leaves it.

    Raises:
        ModelError: If its family has no dropout, and `share` is above 0.
    """
    if share is None:
        return student
    config = copy.deepcopy(student.model.config)
    names = [name for name, value in vars(config).items() if _is_dropout(name, value)]
    if not names and share:
        raise ModelError(
            f"a {type(student.model).__name__} has no dropout; leave --student.dropout out"
        )
    for name in names:
        setattr(config, name, share)
    with torch.random.fork_rng():  # the new weights are overwritten
        model = type(student.model)(config)
    model.load_state_dict(student.model.state_dict())
    return replace(student, model=model)


def _is_dropout(name: str, value: Any) -> bool:
    return "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool)
