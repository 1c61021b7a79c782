"""A classifier's classes: names, order, and the last layer that computes their logits."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from layermix.data.labels import WAYS, is_numbered, match_labels
from layermix.data.tables import is_integer, joined, listed, short
from layermix.errors import ModelError, Note
from layermix.models.encoder import Classifier
from layermix.problems.kinds import PROBLEMS, problem_of
from layermix.problems.problem import Problem


def align_labels(classifier: Classifier, names: Sequence[str], *, named: bool = True) -> Classifier:
    """Puts a classifier's classes into the order of `names` by permuting its last linear layer.

    Args:
        classifier: Its model is changed in place.
        names: The data's class names in the order of their indices.
        named: Whether names mean something (`Problem.named`).

    Returns:
        The classifier, with a note on what was changed.

    Raises:
        ModelError: If the sets of classes differ.
    """
    own, wanted, model = classifier.label_names, tuple(names), classifier.model
    order, note = class_order(classifier.source, own, wanted, named=named)
    if note is None:
        return classifier
    if order != sorted(order):
        head = _last_linear(model)
        with torch.no_grad():
            for weight in head.parameters():  # weight and bias: both have a row per class
                weight.copy_(weight[order])
        entry = getattr(model.config, "layermix", None) or {}
        if thresholds := entry.get("thresholds"):
            model.config.layermix = {**entry, "thresholds": [thresholds[at] for at in order]}
    name_classes(model.config, wanted)
    return replace(classifier, notes=(*classifier.notes, note))


def class_order(
    source: str, own: Sequence[str], names: Sequence[str], *, named: bool = True
) -> tuple[list[int], Note | None]:
    """Returns each data class's index in the model, and a note on the mapping.

    Classes are matched by `match_labels`, as labels are. Names also match numbered classes
    (LABEL_0, …) by position; a wrong order shows in the check of the teacher's accuracy.

    The note is None if the classes agree already.

    Raises:
        ModelError: If the sets of classes differ.
    """
    matched = _matched(own, names) if named else _of_one(own, names)
    if matched is None:
        raise ModelError(unequal_classes(source, own, names))
    order, how = matched
    if tuple(own) == tuple(names) or not named:
        return order, None
    if how:
        pairs = joined(f"{short(own[order[at]])} = {short(name)}" for at, name in enumerate(names))
        return order, Note(
            "classes-matched", f"{source}: its classes match the data's {how}: {pairs}"
        )
    text = f"{source}: its classes {list(own)} were reordered to the data's order {list(names)}"
    return order, Note("classes-reordered", text)


def classes_match(own: Sequence[str], names: Sequence[str], *, named: bool = True) -> bool:
    """Returns whether each class of the data is one class of a model, and the reverse."""
    return (_matched(own, names) if named else _of_one(own, names)) is not None


def _of_one(own: Sequence[str], names: Sequence[str]) -> tuple[list[int], str] | None:
    """As `_matched`, of one output, whatever it is called."""
    return ([0], "") if len(own) == len(names) == 1 else None


def _matched(own: Sequence[str], names: Sequence[str]) -> tuple[list[int], str] | None:
    """Returns each data class's index in the model, and in words how names that differ match."""
    if len(own) != len(names) or len(set(own)) < len(own):
        return None
    match = match_labels(names, own)
    if not match.unmatched and len(set(match.index.values())) == len(names):
        return [match.index[name] for name in names], " and ".join(WAYS[way] for way in match.ways)
    if is_numbered(own) and not match.index and not any(map(is_integer, names)):
        return list(range(len(own))), "by position"
    return None


def name_classes(config: Any, names: Sequence[str]) -> None:
    """Writes class names, in order, into a model's config."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}


OF_FORMER_HEAD = ("sentence_transformers", "sbert_ce_default_activation_function")
"""Entries of a config by which sentence-transformers reads the logits of a head."""


def write_kind(config: Any, problem: Problem) -> None:
    """Writes into a model's config how other programs are to read its logits."""
    for name in OF_FORMER_HEAD:
        if name not in problem.config and hasattr(config, name):
            delattr(config, name)
    for name, value in problem.config.items():
        setattr(config, name, value)


def is_head_for(config: Any, problem: Problem) -> bool:
    """Returns whether a classifier was trained on this kind of label, by its config."""
    entry = getattr(config, "layermix", None) or {}
    if "problem" in entry:
        return bool(entry["problem"] == problem.name)
    try:
        found = problem_of(config)
    except KeyError:
        return False
    of_user = problem.name not in PROBLEMS
    return found.name == problem.name or (of_user and found.form == problem.form)


def other_head(source: str, config: Any, problem: Problem) -> str:
    """Returns the message that a model was trained on another kind of label."""
    try:
        found = problem_of(config).name
    except KeyError:
        entry = getattr(config, "layermix", None) or {}
        found = str(entry.get("problem") or config.problem_type)
    return (
        f"{source}: has a head for {found} with {config.num_labels} output(s), and the labels of "
        f"the data are for {problem.name}; fine-tune it on these data first (`layermix teach`), or "
        "say what the labels are with --data.problem"
    )


def check_class_names(source: str, names: Sequence[str]) -> None:
    """Checks that no two classes have one name, so that each has a probability of its own.

    Raises:
        ModelError: With the names that occur more than once.
    """
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ModelError(
            f"{source}: several of its {len(names)} classes are called {listed(repeated)}; give "
            "each its own name in config.json (id2label and label2id)"
        )


def found_classes(own: Sequence[str]) -> str:
    """Describes a model's classes in words, for a message."""
    return f"the classes {list(own)}" if own else "no classification head"


def unequal_classes(source: str, own: Sequence[str], names: Sequence[str] | None) -> str:
    """Returns the message that a model's classes are not the data's, with what to do."""
    data = "" if names is None else f", the data have {list(names)}"
    message = (
        f"{source}: has {found_classes(own)}{data}; fine-tune it on these data first "
        "(`layermix teach`), or give a model with their classes"
    )
    if own and names is not None and len(own) == len(names):
        message += ", or say which label is which class with --data.label_names LABEL=CLASS,…"
    if names is not None and set(names) < set(own):
        message += (
            ", or, if rows of the others are only missing here, name all of the model's with "
            f"--data.label_names {','.join(own)}"
        )
    return message


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
