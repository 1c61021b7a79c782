"""Times actions in turns, so that a noisy machine slows all of them alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from layermix.models.encoder import Classifier

WARMUP = 3

Item = TypeVar("Item")


def seconds_in_turns(
    actions: Mapping[str, Callable[[Item], Any]], items: Sequence[Item]
) -> dict[str, NDArray[np.float64]]:
    """Returns the seconds that each action takes for each item, (N,).

    Every item goes through all actions, in their order, before the next item is taken.

    Args:
        actions: By name; an action must not return before its work is done.
        items: Passed to the actions one at a time, (N).
    """
    seconds = {name: np.zeros(len(items)) for name in actions}
    for index, item in enumerate(items):
        for name, action in actions.items():
            start = time.perf_counter()
            action(item)
            seconds[name][index] = time.perf_counter() - start
    return seconds


def milliseconds_per_text(
    classifiers: Mapping[str, Classifier], texts: Sequence[tuple[str, ...]], max_length: int
) -> dict[str, float]:
    """Returns the median time for one text (batch 1), with tokenisation, in milliseconds.

    Args:
        classifiers: By name; set to eval mode.
        texts: One or two strings each; the first `WARMUP` are not counted.
        max_length: Longer inputs are cut, in tokens.
    """

    def classify(classifier: Classifier) -> Callable[[tuple[str, ...]], Any]:
        classifier.model.eval()  # type: ignore[no-untyped-call]  # transformers

        def run(text: tuple[str, ...]) -> Any:
            inputs = classifier.tokenizer(
                *text, truncation=True, max_length=max_length, return_tensors="pt"
            )
            logits = classifier.model(**inputs.to(classifier.model.device)).logits
            return logits.argmax(-1).tolist()  # waits for the device

        return run

    actions = {name: classify(classifier) for name, classifier in classifiers.items()}
    with torch.inference_mode():
        seconds = seconds_in_turns(actions, texts)
    return {name: 1000 * float(np.median(taken[WARMUP:])) for name, taken in seconds.items()}
