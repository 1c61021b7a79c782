"""A classifier's classes: their names, their order, its last layer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
)

from layermix.errors import ModelError
from layermix.models.encoder import Classifier as Classifier
from layermix.models.encoder import HFEncoder as HFEncoder
from layermix.models.encoder import blocks_of as blocks_of
from layermix.models.encoder import fingerprint as fingerprint
from layermix.models.encoder import label_names as label_names
from layermix.models.encoder import longest_input as longest_input
from layermix.models.students import copy_blocks as copy_blocks
from layermix.models.students import fresh_student as fresh_student


def align_labels(classifier: Classifier, names: Sequence[str], named: bool = True) -> Classifier:
    """Bring a classifier's classes into the order of `names`, by permuting its last linear layer.

    Placeholders (LABEL_0, …) match by index; the check of the teacher's accuracy finds a wrong
    order.

    Args:
        classifier: Its model is changed in place.
        names: The data's class names in the order of their indices.
        named: False if `names` were made up from integer labels: other names then match by index.

    Returns:
        The classifier, with a note on what was done.

    Raises:
        ModelError: If the sets of classes differ.
    """
    own, wanted, model = classifier.label_names, tuple(names), classifier.model
    order, note = class_order(classifier.source, own, wanted, named)
    if not note:
        return classifier
    if order != sorted(order):
        head = _last_linear(model)
        with torch.no_grad():
            for weight in head.parameters():  # weight and bias: both have a row per class
                weight.copy_(weight[order])
    name_classes(model.config, wanted)
    return replace(classifier, notes=(*classifier.notes, note))


def class_order(
    source: str, own: Sequence[str], names: Sequence[str], named: bool
) -> tuple[list[int], str]:
    """For each of the data's classes its index among the model's own, and a note on what was done.

    The note is empty where the classes agree as they are.

    Raises:
        ModelError: If the sets of classes differ.
    """
    own, wanted = tuple(own), tuple(names)
    if not classes_match(own, wanted, named):
        raise ModelError(unequal_classes(source, own, wanted))
    as_it_is = list(range(len(own)))
    if own == wanted:
        return as_it_is, ""
    if set(own) == set(wanted):
        order = [own.index(name) for name in wanted]
        return (
            order,
            f"{source}: its classes {list(own)} were put in the data's order {list(wanted)}",
        )
    return as_it_is, f"{source}: its classes {list(own)} match the data's {list(wanted)} by index"


def name_classes(config: Any, names: Sequence[str]) -> None:
    """Write class names, in order, into a model's config."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}


def classes_match(own: Sequence[str], names: Sequence[str], named: bool) -> bool:
    """Whether classes correspond, by name or by index."""
    by_index = not named or all(
        name in (f"LABEL_{index}", str(index)) for index, name in enumerate(own)
    )
    return len(own) == len(names) and (by_index or set(own) == set(names))


def found_classes(own: Sequence[str]) -> str:
    """What a model has, in words for a message."""
    return f"the classes {list(own)}" if own else "no classification head"


def unequal_classes(source: str, own: Sequence[str], names: Sequence[str] | None) -> str:
    """Why a model and the data do not fit, and what to do."""
    data = "" if names is None else f", the data have {list(names)}"
    return (
        f"{source}: has {found_classes(own)}{data}; fine-tune it on these data first "
        "(`layermix teach`), or give a model with their classes"
    )


def _last_linear(model: PreTrainedModel) -> nn.Linear:
    """The linear layer that gives the logits.

    Raises:
        ModelError: If there is none outside the encoder.
    """
    classes, prefix = model.config.num_labels, f"{model.base_model_prefix}."
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == classes
        and not name.startswith(prefix)
    ]
    if not found:
        raise ModelError(f"{type(model).__name__}: no linear layer with {classes} outputs found")
    return found[-1]


def restart_head(model: PreTrainedModel) -> None:
    """Draw the last layer anew, as transformers starts it."""
    head = _last_linear(model)
    nn.init.normal_(head.weight, std=getattr(model.config, "initializer_range", 0.02))
    if head.bias is not None:
        nn.init.zeros_(head.bias)
