"""The scores of a model that gives each word a tag: NumPy and seqeval only.

Arrays of tags are (N, W) indices, `UNLABELLED` where a row has fewer words, a word has no label, or
the model did not see it. Entities are of tags with canonical indices (`entities`).
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

from layermix.evaluation.entities import Scheme, compared, types_of
from layermix.evaluation.metrics import UNLABELLED
from layermix.evaluation.weighted_scores import WEIGHTED, ratio

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

OF_ENTITIES = ("entity_f1", "entity_precision", "entity_recall")
"""The scores that only named entities have."""

HIGHER_IS_BETTER: Mapping[str, bool] = MappingProxyType(
    {
        **dict.fromkeys(OF_ENTITIES, True),
        "accuracy": True,
        "exact_match": True,
        "nll": False,
        "agreement": True,
    }
)
"""Every score that `scores` can give, and the direction that is good."""


def labelled(labels: Integers) -> Bools:
    """Which rows have a label for any of their words.

    Examples:
        >>> labelled(np.array([[0, 1], [-100, 2], [-100, -100]]))
        array([ True,  True, False])
    """
    known: Bools = (np.asarray(labels) != UNLABELLED).any(axis=1)
    return known


def scores(
    log_probabilities: Floats,
    answers: Integers,
    labels: Integers,
    teacher_answers: Integers | None = None,
    *,
    entities: bool = False,
) -> dict[str, float]:
    """Every score of a model on the labelled words; a word that it did not see is wrong.

    Args:
        log_probabilities: (N, W, C), in nats; NaN for a word that the model did not see.
        answers: (N, W), 0 to C − 1, or `UNLABELLED` for a word that it did not see.
        labels: (N, W), the same; words of `UNLABELLED` are left out.
        teacher_answers: (N, W) of the teacher on the same rows.
        entities: Whether the tags mark entities.

    Returns:
        Shares in [0, 1] unless stated. With `entities`: `entity_f1`, `entity_precision` and
        `entity_recall` of all entities together, each right if its type and all its words are
        (seqeval's default, as conlleval has it; a word without a label is outside of them).
        `accuracy`, of words; `exact_match`, the share of labelled rows whose words are all right;
        `nll`, mean negative log-likelihood of words in nats; `agreement`, share of the words that
        both models saw, labelled or not, with the teacher's tag (only if it is given). What is
        undefined counts 0.

    Raises:
        ValueError: Shapes do not fit, a log-probability is infinite, a label or an answer is no
            index, or no word has a label.

    Examples:
        >>> right, given = np.array([[1, 2, 0], [1, 0, -100]]), np.array([[1, 2, 0], [0, 0, 0]])
        >>> result = scores(np.log(np.full((2, 3, 3), 1 / 3)), given, right, entities=True)
        >>> {name: round(score, 3) for name, score in list(result.items())[:4]}
        {'entity_f1': 0.667, 'entity_precision': 1.0, 'entity_recall': 0.5, 'accuracy': 0.8}
    """
    chances = np.asarray(log_probabilities, dtype=np.float64)
    if chances.ndim != 3 or chances.shape[2] < 2:
        raise ValueError(
            f"found log-probabilities of shape {chances.shape}, wanted (rows, words, tags) with at "
            "least 2 tags"
        )
    if bad := int(np.isinf(chances).any(axis=(1, 2)).sum()):
        raise ValueError(
            f"found infinity in the log-probabilities of {bad} of {len(chances)} rows, wanted "
            "finite numbers; the model has diverged: use an earlier checkpoint or a lower learning "
            "rate"
        )
    shape, tags = chances.shape[:2], chances.shape[2]
    right = _checked(labels, "labels", shape, tags)
    own = _checked(answers, "answers", shape, tags)
    known = _known(right)
    result = _of_entities(own[known], right[known]) if entities else {}
    once = np.ones((1, int(known.sum())))
    result |= {
        name: float(WEIGHTED[name].function(own[known][None], right[known], once)[0, 0])
        for name in ("accuracy", "exact_match")
    }
    at = np.nonzero((right != UNLABELLED) & ~np.isnan(chances).any(axis=2))
    # abs and not a minus sign, so that a perfect model has 0 and not −0
    result["nll"] = float(np.abs(chances[*at, right[at]]).mean()) if len(at[0]) else 0.0
    if teacher_answers is not None:
        teacher = _checked(teacher_answers, "teacher answers", shape, tags)
        seen = (own != UNLABELLED) & (teacher != UNLABELLED)
        result["agreement"] = float((own == teacher)[seen].mean()) if seen.any() else 0.0
    return result


def _of_entities(answers: Integers, labels: Integers) -> dict[str, float]:
    """The scores `OF_ENTITIES` by seqeval, of the labelled rows."""
    answers = np.where(labels < 0, 0, answers)
    types = 1 + max(int(types_of(answers).max()), int(types_of(labels).max()), 0)
    names = np.array(["O", *(f"{mark}-{kind}" for kind in range(types) for mark in "BI")])
    given, true = (names[np.maximum(tags, 0)].tolist() for tags in (answers, labels))
    precision, recall, f1, _ = precision_recall_fscore_support(
        true, given, average="micro", zero_division=0
    )
    return dict(zip(OF_ENTITIES, map(float, (f1, precision, recall)), strict=True))


def per_tag(
    answers: Integers, labels: Integers, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Scores of each tag on the labelled words.

    Args:
        answers: (N, W), as in `scores`.
        labels: (N, W).
        names: Of the tags.

    Returns:
        Name -> `precision`, `recall`, `f1` (0 where undefined) and `support`, its words.

    Raises:
        ValueError: As `scores`.

    Examples:
        >>> per_tag(np.array([[0, 0, 1]]), np.array([[0, 1, 1]]), ["noun", "verb"])["verb"]
        {'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'support': 2.0}
    """
    own, right = _checked_pair(answers, labels, len(names))
    known = right != UNLABELLED
    own, right = own[known], right[known]
    return {
        name: _by_counts((own == tag) & (right == tag), own == tag, right == tag)
        for tag, name in enumerate(names)
    }


def per_type(answers: Integers, labels: Integers, scheme: Scheme) -> dict[str, dict[str, float]]:
    """Scores of each type of entity on the labelled words.

    Args:
        answers: (N, W), as in `scores`, of whatever order the scheme says.
        labels: (N, W).
        scheme: Of the tags' names.

    Returns:
        Type -> `precision`, `recall`, `f1` (0 where undefined) and `support`, its entities.

    Raises:
        ValueError: As `scores`.
    """
    own, right = map(scheme.of, _checked_pair(answers, labels, len(scheme.canonical)))
    found = compared(own, right)
    return {
        name: _by_counts(
            found.correct & (types_of(right) == kind),
            found.given & (types_of(own) == kind),
            found.true & (types_of(right) == kind),
        )
        for kind, name in enumerate(scheme.types)
    }


def _by_counts(correct: Bools, given: Bools, true: Bools) -> dict[str, float]:
    """Precision, recall, F1 and support of what is right, answered and true."""
    right, chosen, there = (np.array(each.sum(), dtype=float) for each in (correct, given, true))
    return {
        "precision": float(ratio(right, chosen)),
        "recall": float(ratio(right, there)),
        "f1": float(ratio(2 * right, chosen + there)),
        "support": float(there),
    }


def _checked_pair(answers: Integers, labels: Integers, tags: int) -> tuple[Integers, Integers]:
    """Answers and labels as arrays; raises a ValueError as `scores` does."""
    right = _checked(labels, "labels", np.shape(answers), tags)
    _known(right)
    return _checked(answers, "answers", right.shape, tags), right


def _checked(values: Integers, name: str, shape: tuple[int, ...], tags: int) -> Integers:
    """Tags as an array; raises a ValueError unless they are indices, (N, W), or `UNLABELLED`."""
    checked = np.asarray(values)
    if checked.shape != shape or checked.ndim != 2:
        wanted = shape if len(shape) == 2 else "(rows, words)"
        raise ValueError(
            f"found {name} of shape {checked.shape}, wanted {wanted}: a tag for each word of a row"
        )
    if not np.issubdtype(checked.dtype, np.integer):
        raise ValueError(f"found {name} of type {checked.dtype}, wanted integers: indices of tags")
    given = checked[checked != UNLABELLED]
    if len(given) and not 0 <= given.min() <= given.max() < tags:
        raise ValueError(
            f"found {name} from {given.min()} to {given.max()} for {tags} tags, wanted 0 to "
            f"{tags - 1}, or {UNLABELLED} for a word that has none"
        )
    return checked


def _known(labels: Integers) -> Bools:
    """The (N,) mask of the labelled rows; raises a ValueError if there are none."""
    known = labelled(labels)
    if not known.any():
        raise ValueError(
            f"found no labelled words in {len(labels)} rows, wanted at least one; check the labels"
        )
    return known
