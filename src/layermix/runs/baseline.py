"""What a model without a neural network has on the same rows: do you need a transformer at all?"""

from typing import Any

from layermix.config import DistillConfig, TeachConfig
from layermix.data.splits import labels_of, texts_of
from layermix.data.texts import TextData, load_texts
from layermix.errors import ConfigError
from layermix.evaluation.tfidf import MODELS, tfidf_values
from layermix.problems.kinds import PROBLEMS
from layermix.problems.problem import Problem
from layermix.runs.prepare import choose_rows

TFIDF = "TF-IDF"
"""The name of the baseline."""


def baseline(
    config: TeachConfig | DistillConfig, problem: Problem | None = None
) -> dict[str, dict[str, Any]]:
    """Fits the baseline to the training rows that the config names, and scores it on all others.

    Args:
        config: Its sections data and training (held-out rows) are read.
        problem: The kind of label, if `data.problem` does not say it; by default that of the task.

    Returns:
        Split -> scores, `rows` and the problem's details among them, as `evaluate` has them.

    Raises:
        LayermixError: If the data cannot be used, or each word has a label.
    """
    if config.data.problem:
        problem = PROBLEMS[config.data.problem]
    return baseline_of(load_texts(config.data, problem=problem, soft_labels="instead"), config)


def baseline_of(texts: TextData, config: TeachConfig | DistillConfig) -> dict[str, dict[str, Any]]:
    """The same for texts that were read already.

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
    values = tfidf_values(seen, labels[known], others, problem.form, len(names))
    results: dict[str, dict[str, Any]] = {}
    end = 0
    for name, rows in splits.items():
        right, end = labels_of(rows["label"]), end + len(rows)
        scored = int(problem.labelled(right).sum())
        if not scored:
            continue
        logits = problem.logits_of(values[end - len(rows) : end])
        scores = problem.scores(logits, right)
        results[name] = {"rows": scored, **scores, **problem.details(logits, right, names)}
    return results
