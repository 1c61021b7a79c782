"""How long models take for one text, measured in turns so that a noisy machine treats all alike."""

import statistics
import time
from collections.abc import Mapping, Sequence

import torch

from layermix.models.encoder import Classifier

WARMUP = 3


def milliseconds_per_text(
    classifiers: Mapping[str, Classifier], texts: Sequence[tuple[str, ...]], max_length: int
) -> dict[str, float]:
    """Median time for one text (batch 1), tokenizing included, in milliseconds.

    Every text goes through all models, one after the other, before the next text is taken.

    Args:
        classifiers: By name.
        texts: One or two strings each; the first few warm up and are not counted.
        max_length: Longer inputs are cut, in tokens.
    """
    taken: dict[str, list[float]] = {name: [] for name in classifiers}
    with torch.inference_mode():
        for number, text in enumerate(texts):
            for name, classifier in classifiers.items():
                classifier.model.eval()  # type: ignore[no-untyped-call]  # transformers
                start = time.perf_counter()
                inputs = classifier.tokenizer(
                    *text, truncation=True, max_length=max_length, return_tensors="pt"
                )
                classifier.model(**inputs.to(classifier.model.device)).logits.argmax(-1).tolist()
                if number >= WARMUP:
                    taken[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in taken.items()}
