"""What simple models have on the same rows: do you need a transformer at all?"""

from collections.abc import Callable
from typing import Any, Literal

from layermix.config import DistillConfig, TeachConfig
from layermix.data.splits import labels_of, texts_of
from layermix.data.texts import TextData, load_texts
from layermix.errors import ConfigError
from layermix.evaluation.linear import MODELS, Values
from layermix.evaluation.tfidf import tfidf_values
from layermix.models.loading import problem_of_model
from layermix.models.static_embeddings import StaticEmbeddings
from layermix.problems.kinds import PROBLEMS
from layermix.problems.problem import Problem
from layermix.runs.prepare import choose_rows

Scores = dict[str, dict[str, Any]]
"""Split -> scores, `rows` and the problem's details among them, as `evaluate` has them."""

Kind = Literal["tfidf", "static"]
"""A baseline, as it is typed."""

TFIDF = "TF-IDF"
STATIC = "static embeddings"
"""Names of the baselines in tables."""


def baselines(
    config: TeachConfig, kind: Kind | None, say: Callable[[str], object]
) -> dict[str, Scores]:
    """Returns the scores of one baseline, or of all that can be had, by name.

    Args:
        config: Its sections data and training (held-out rows) are read, and `model`, of which
            static embeddings are made, and which says the kind of label if `data.problem` does not.
        kind: The only one that is wanted; with None, static embeddings that cannot be had are left
            out, and `say` is given the reason.
        say: Is also given a line before what takes minutes.

    Raises:
        LayermixError: If the data cannot be used, each word has a label, or the wanted baseline
            cannot be had.
    """
    fitted: dict[str, Values] = {}
    if kind != "static":
        fitted[TFIDF] = tfidf_values
    if kind != "tfidf":
        try:
            fitted[STATIC] = static_embeddings(config.model, say)
        except ConfigError as error:
            if kind == "static":
                raise
            say(f"no {STATIC}: {error}")
    problem = None
    if config.model is not None and config.data.problem is None:
        problem = problem_of_model(config.model, declared=True)
    texts = baseline_texts(config, problem)
    return {name: baseline_of(texts, config, values) for name, values in fitted.items()}


def static_embeddings(model: str | None, say: Callable[[str], object]) -> StaticEmbeddings:
    """Returns the baseline of static embeddings, which it makes when they are first needed.

    Raises:
        ConfigError: If there is no model, or the extra `static` is not installed.
        ModelError: If there is no model in that place.
    """
    if model is None:
        raise ConfigError(
            "they are made of a model's tokens, and none is given; give --model, such as minilm"
        )
    return StaticEmbeddings(model, say)


def baseline(
    config: TeachConfig | DistillConfig,
    problem: Problem | None = None,
    values: Values = tfidf_values,
) -> Scores:
    """Fits a baseline to the training rows that the config names, and scores it on all others.

    Args:
        config: Its sections data and training (held-out rows) are read.
        problem: As for `baseline_texts`.
        values: The baseline.

    Raises:
        LayermixError: If the data cannot be used, or each word has a label.
    """
    return baseline_of(baseline_texts(config, problem), config, values)


def baseline_texts(config: TeachConfig | DistillConfig, problem: Problem | None = None) -> TextData:
    """Returns the texts that the config names.

    Args:
        config: Its section data is read.
        problem: The kind of label, if `data.problem` does not say it; by default that of the task.

    Raises:
        LayermixError: If the data cannot be used.
    """
    if config.data.problem:
        problem = PROBLEMS[config.data.problem]
    return load_texts(config.data, problem=problem, soft_labels="instead")


def baseline_of(
    texts: TextData, config: TeachConfig | DistillConfig, values: Values = tfidf_values
) -> Scores:
    """The same as `baseline` for texts that were read already.

    Raises:
        ConfigError: If each word has a label, or no training row has one.
    """
    problem, names = texts.problem, texts.label_names
    if problem.form not in MODELS:
        raise ConfigError(
            f"there is no baseline for {problem.name}: each word has a label, and it is one answer "
            "for a text"
        )
    splits = dict(choose_rows(texts, config).splits)
    splits.pop("unlabeled", None)
    train = splits.pop("train")
    labels = labels_of(train["label"])
    known = problem.labelled(labels)
    if not known.any():
        raise ConfigError(f"{texts.source}: no training row has a label, and a baseline needs some")
    seen = [text for text, is_known in zip(texts_of(train), known, strict=True) if is_known]
    others = [text for rows in splits.values() for text in texts_of(rows)]
    said = values(seen, labels[known], others, problem.form, len(names))
    results: Scores = {}
    end = 0
    for name, rows in splits.items():
        right, end = labels_of(rows["label"]), end + len(rows)
        scored = int(problem.labelled(right).sum())
        if not scored:
            continue
        logits = problem.logits_of(said[end - len(rows) : end])
        scores = problem.scores(logits, right)
        results[name] = {"rows": scored, **scores, **problem.details(logits, right, names)}
    return results
