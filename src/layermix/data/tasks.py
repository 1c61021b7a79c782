"""The table of known tasks, with their classes, text columns and scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Task:
    """A known task: a row of `TASKS`.

    Attributes:
        name: What users type, as in `--data.task mrpc`.
        metrics: Scores to report, the primary one first.
        label_names: Class names in label order; None where a task does not fix them.
        text_columns: The one or two columns that hold the texts.
        summary: One line for `layermix list`.
        problem: What its labels are: a row of `problems.kinds.PROBLEMS`.
    """

    name: str
    metrics: tuple[str, ...]
    label_names: tuple[str, ...] | None
    text_columns: tuple[str, ...]
    summary: str
    problem: str = "classification"


_SENTENCES = ("sentence1", "sentence2")


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task(
                "mrpc",
                ("accuracy", "f1"),
                ("not_equivalent", "equivalent"),
                _SENTENCES,
                "do the two news sentences say the same?",
            ),
            Task(
                "rte",
                ("accuracy",),
                ("entailment", "not_entailment"),
                _SENTENCES,
                "does the second text follow from the first?",
            ),
            Task(
                "qnli",
                ("accuracy",),
                ("entailment", "not_entailment"),
                ("question", "sentence"),
                "does the sentence answer the question?",
            ),
            Task(
                "cola",
                ("matthews",),
                ("unacceptable", "acceptable"),
                ("sentence",),
                "is the sentence grammatical?",
            ),
            Task(
                "sst2",
                ("accuracy",),
                ("negative", "positive"),
                ("sentence",),
                "is the film review positive?",
            ),
            Task(
                "qqp",
                ("accuracy", "f1"),
                ("not_duplicate", "duplicate"),
                ("question1", "question2"),
                "do the two questions ask the same?",
            ),
            Task(
                "mnli",
                ("accuracy",),
                ("entailment", "neutral", "contradiction"),
                ("premise", "hypothesis"),
                "does the hypothesis follow from the premise, contradict it, or neither?",
            ),
            Task(
                "wnli",
                ("accuracy",),
                ("not_entailment", "entailment"),
                _SENTENCES,
                "does the second sentence replace the pronoun correctly?",
            ),
            Task(
                "stsb",
                ("pearson", "spearman"),
                None,
                _SENTENCES,
                "how alike are the two sentences, from 0 to 5?",
                "regression",
            ),
            Task(
                "conll2003",
                ("entity_f1", "accuracy"),
                None,
                ("tokens",),
                "which words name a person, a place, an organisation or another name?",
                "entities",
            ),
            Task(
                "docstrings",
                ("accuracy", "f1"),
                ("different", "same"),
                ("text", "text_pair"),
                "does the sentence document the same Python object? (made by `layermix demo`)",
            ),
        )
    }
)
"""Name -> task. Labels of GLUE tasks are in the order of the Hugging Face data set `glue`."""
