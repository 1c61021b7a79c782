"""Scores of a saved model on labelled data."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from layermix.config import DataConfig
from layermix.console import Reporter
from layermix.data.columns import columns_for_model
from layermix.data.splits import labels_of
from layermix.data.texts import GUESSED, TextData, load_texts
from layermix.data.tokenization import Collator, tokenize_split
from layermix.errors import ConfigError, Note
from layermix.models.inference import finite, logits_of
from layermix.problems.problem import Problem
from layermix.serving.predictor import Predictor, Runtime, open_predictor


def evaluate(
    model: str,
    data: DataConfig,
    *,
    runtime: Runtime = "auto",
    batch_size: int = 32,
    calibrated: bool = False,
    reporter: Reporter | None = None,
    problem: Problem | None = None,
) -> dict[str, dict[str, Any]]:
    """Score a saved model on labelled data.

    Args:
        model: Run folder, model folder or hub id.
        data: As for `labelled_texts`.
        runtime: What runs the model.
        batch_size: Rows per forward pass.
        calibrated: Score calibrated probabilities (`Predictor.calibrated`).
        reporter: Where progress is shown; quiet if None.
        problem: The kind of its labels, if it is not one of layermix's own.

    Returns:
        Split (or file name) -> scores, `rows` and the problem's details (`per_class`) among them.

    Raises:
        LayermixError: If model or data cannot be used, or their classes differ.
    """
    reporter = reporter or Reporter(quiet=True)
    predictor = open_predictor(model, runtime, problem)
    if calibrated:
        predictor = predictor.calibrated()
    problem = predictor.problem
    texts, names = labelled_texts(data, predictor, reporter)
    predictor = predictor.in_order(texts.label_names)
    for note in predictor.notes:
        reporter.say(note)
    collate = Collator(predictor.tokenizer)
    results: dict[str, dict[str, Any]] = {}
    for split, name in names.items():
        if split not in texts.splits:
            continue
        rows, cut = tokenize_split(texts.splits[split], predictor.tokenizer, predictor.max_length)
        labels = labels_of(rows["labels"])
        if not (known := int(problem.labelled(labels).sum())):
            continue
        if cut_note := predictor.cut_note(name, cut):
            reporter.say(cut_note)
        logits = logits_of(predictor.run, rows, collate, batch_size, reporter.track, name)
        logits = finite(f"{predictor.source}: its", logits)
        scores = problem.scores(logits, labels)
        details = problem.details(logits, labels, texts.label_names)
        results[name] = {"rows": known, **scores, **details}
    return results


OF_CLASSES = ("class", "rows")
COUNTED: Mapping[str, tuple[str, str]] = {
    "f1_samples": ("label", "rows"),
    "entity_f1": ("type", "names"),
    "exact_match": ("tag", "words"),
}
"""A score that only some kinds of label have -> what they tell apart, and what is counted of it."""


def scores_text(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Scores by split as a table for people."""
    lines = []
    for split, scores in results.items():
        per_class = scores.get("per_class", {})
        width = max([20, *(len(name) + 2 for name in (*scores, *per_class))])
        lines.append(f"{split} ({scores['rows']} rows)")
        lines += [
            f"  {name:<{width}}{value:10.4f}"
            for name, value in scores.items()
            if isinstance(value, float)
        ]
        if per_class:
            what, counted = next((COUNTED[name] for name in COUNTED if name in scores), OF_CLASSES)
            heads = "".join(f"{one:>10}" for one in ("precision", "recall", "f1"))
            lines.append(f"  {what:<{width}}{heads}{counted:>8}")
        for name, own in per_class.items():
            numbers = f"{own['precision']:10.4f}{own['recall']:10.4f}{own['f1']:10.4f}"
            lines.append(f"  {name:<{width}}{numbers}{own['support']:8.0f}")
    return "\n".join(lines)


def labelled_texts(
    data: DataConfig, predictor: Predictor, reporter: Reporter
) -> tuple[TextData, dict[str, str]]:
    """Labelled texts on which a model is scored.

    Args:
        data: A folder or hub data set, whose validation and test splits are used, or one file, of
            which every row is used; of a file that the model was trained on, only the rows that
            were held out for validation, if any.
        predictor: Says which columns it reads.
        reporter: Where notes are shown.

    Returns:
        The texts, and the name to show for each split that is used.

    Raises:
        LayermixError: If they cannot be used.
    """
    if data.problem not in (None, predictor.problem.name):
        raise ConfigError(
            f"data.problem is {data.problem}, but {predictor.source} was trained on labels for "
            f"{predictor.problem.name}; leave it out"
        )
    read = partial(
        load_texts,
        classes=predictor.label_names,
        problem=predictor.problem,
        soft_labels="instead",
    )
    names = {"validation": "validation", "test": "test"}
    alone = data.validation is None and data.test is None
    one_file = alone and data.path is not None and Path(data.path).is_file()
    with columns_for_model(
        predictor.source,
        predictor.text_columns,
        data.text_columns,
        by_word=predictor.problem.by_word,
    ) as columns:
        data = data.model_copy(update={"text_columns": columns})
        if data.path is not None and one_file:
            # The same file twice: of a single file, a tenth would be split off for validation.
            twice = {"path": None, "train": data.path, "validation": data.path}
            texts = read(data.model_copy(update=twice))
            trained = f"this model was trained on {data.path}, so"
            if texts.train_hash != predictor.taught:
                names = {"validation": Path(data.path).name}
            elif predictor.split_off:
                text = f"{trained} only the rows that were held out for validation are scored"
                reporter.warn(Note("trained-on-this-file", text))
                grouped = data.model_copy(update={"group_column": predictor.group_column})
                texts = read(grouped)
            else:
                text = f"{trained} the scores do not show how it does on new texts"
                reporter.warn(Note("trained-on-this-file", text))
                names = {"validation": Path(data.path).name}
        else:
            texts = read(data)
            if texts.split_off and texts.train_hash == predictor.taught:  # the same rows again
                grouped = data.model_copy(update={"group_column": predictor.group_column})
                texts = read(grouped)
    of_file = (*texts.source_notes, *(note for note in texts.split_notes if note.code == GUESSED))
    for note in of_file if one_file else texts.notes:
        reporter.say(note)
    return texts, names
