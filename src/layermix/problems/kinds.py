"""The kinds of label that layermix has, by name, and which one a model was trained on."""

from collections.abc import Mapping
from typing import Any

from layermix.evaluation.entities import scheme
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.multi_label import MULTI_LABEL
from layermix.problems.problem import Problem
from layermix.problems.regression import REGRESSION, RELEVANCE
from layermix.problems.tags import ENTITIES, TAGS

PROBLEMS: Mapping[str, Problem] = {
    problem.name: problem
    for problem in (CLASSIFICATION, MULTI_LABEL, REGRESSION, RELEVANCE, ENTITIES, TAGS)
}
"""Name in records, and for `data.problem` -> the kind of label."""


def problem_of(config: Any) -> Problem:
    """Return the kind of label that a classifier was trained on, by its config.json.

    It is told by what layermix wrote there, by its architecture and the names of its tags, by its
    `problem_type`, or by its outputs: one output without more is a number from 0 to 1, unless it is
    to be read as it is.

    Raises:
        KeyError: If layermix has no such kind.
    """
    entry = getattr(config, "layermix", None)
    if isinstance(entry, dict) and isinstance(entry.get("problem"), str):
        return PROBLEMS[entry["problem"]]
    if any("ForTokenClassification" in name for name in config.architectures or []):
        names = [str(name) for name in (config.id2label or {}).values()]
        return TAGS if scheme(names) is None else ENTITIES
    by_type = {
        problem.config["problem_type"]: problem
        for problem in PROBLEMS.values()
        if problem.config["problem_type"] is not None
    }
    if config.problem_type is not None:
        return by_type[config.problem_type]
    if config.num_labels > 1:
        return CLASSIFICATION
    entry = getattr(config, "sentence_transformers", None) or {}
    older = getattr(config, "sbert_ce_default_activation_function", None)
    activation = str(entry.get("activation_fn", older))
    return REGRESSION if activation.endswith("Identity") else RELEVANCE
