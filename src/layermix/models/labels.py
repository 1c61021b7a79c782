"""A classifier's classes: names, order, and the last layer that computes their logits."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from layermix.errors import ModelError
from layermix.models.encoder import Classifier


def align_labels(classifier: Classifier, names: Sequence[str], named: bool = True) -> Classifier:
    """Puts a classifier's classes into the order of `names` by permuting its last linear layer.

    Placeholders (LABEL_0, …) match by index; a wrong order shows in the check of the teacher's
    accuracy.

    Args:
        classifier: Its model is changed in place.
        names: The data's class names in the order of their indices.
        named: False if `names` were made up from integer labels: other names then match by index.

    Returns:
        The classifier, with a note on what was changed.

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
    """Returns each data class's index in the model, and a note on the mapping.

    The note is empty if the classes agree already.

    Raises:
        ModelError: If the sets of classes differ.
    """
    own, wanted = tuple(own), tuple(names)
    if not classes_match(own, wanted, named):
        raise ModelError(unequal_classes(source, own, wanted))
    unchanged = list(range(len(own)))
    if own == wanted:
        return unchanged, ""
    if set(own) == set(wanted):
        order = [own.index(name) for name in wanted]
        return (
            order,
            f"{source}: its classes {list(own)} were reordered to the data's order {list(wanted)}",
        )
    return unchanged, f"{source}: its classes {list(own)} match the data's {list(wanted)} by index"


def name_classes(config: Any, names: Sequence[str]) -> None:
    """Writes class names, in order, into a model's config."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}


def classes_match(own: Sequence[str], names: Sequence[str], named: bool) -> bool:
    """Whether classes correspond, by name or by index."""
    by_index = not named or all(
        name in (f"LABEL_{index}", str(index)) for index, name in enumerate(own)
    )
    return len(own) == len(names) and (by_index or set(own) == set(names))


def found_classes(own: Sequence[str]) -> str:
    """Describes a model's classes in words, for a message."""
    return f"the classes {list(own)}" if own else "no classification head"


def unequal_classes(source: str, own: Sequence[str], names: Sequence[str] | None) -> str:
    """The message that a model's classes are not the data's, with what to do."""
    data = "" if names is None else f", the data have {list(names)}"
    return (
        f"{source}: has {found_classes(own)}{data}; fine-tune it on these data first "
        "(`layermix teach`), or give a model with their classes"
    )


def _last_linear(model: PreTrainedModel) -> nn.Linear:
    """The linear layer that computes the logits.

    Raises:
        ModelError: If there is none outside the encoder.
    """
    classes, prefix = model.config.num_labels, f"{model.base_model_prefix}."
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == classes
        and not name.startswith(prefix)
    ]
    if not layers:
        raise ModelError(f"{type(model).__name__}: no linear layer with {classes} outputs found")
    return layers[-1]


def restart_head(model: PreTrainedModel) -> None:
    """Re-initialises the last layer as transformers does."""
    head = _last_linear(model)
    nn.init.normal_(head.weight, std=getattr(model.config, "initializer_range", 0.02))
    if head.bias is not None:
        nn.init.zeros_(head.bias)
