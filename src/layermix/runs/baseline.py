"""What a model without a neural network has on the same rows: do you need a transformer at all?"""

from typing import Any

from layermix.config import DistillConfig, TeachConfig
from layermix.data.splits import labels_of, texts_of
from layermix.data.texts import TextData, load_texts
from layermix.errors import ConfigError
from layermix.evaluation.tfidf import MODELS, tfidf_values
from layermix.problems.kinds import PROBLEMS
from layermix.runs.prepare import choose_rows

TFIDF = "TF-IDF"
"""The name of the baseline."""


def baseline(config: TeachConfig | DistillConfig) -> dict[str, dict[str, Any]]:
    """Fits the baseline to the training rows that the config names, and scores it on all others.

    Args:
        config: Its sections data and training (held-out rows) are read.

    Returns:
        Split -> scores, `rows` and the problem's details among them, as `evaluate` has them.

    Raises:
        LayermixError: If the data cannot be used, or each word has a label.
    """
    problem = PROBLEMS[config.data.problem] if config.data.problem else None
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
    results: dict[str, dict[str, Any]] = {}
    for name, rows in splits.items():
        right = labels_of(rows["label"])
        scored = int(problem.labelled(right).sum())
        if not scored:
            continue
        values = tfidf_values(seen, labels[known], texts_of(rows), problem.form, len(names))
        logits = problem.logits_of(values)
        scores = problem.scores(logits, right)
        results[name] = {"rows": scored, **scores, **problem.details(logits, right, names)}
    return results
