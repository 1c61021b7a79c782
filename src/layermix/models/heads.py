"""The two heads of a classifier: one answer for a text, or one for each of its tokens."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification


class Head(NamedTuple):
    """A head as transformers names it.

    Attributes:
        architecture: How the name of a model with such a head ends.
        auto: What loads a model with it, and puts a new one on an encoder.
    """

    architecture: str
    auto: Any

    def is_in(self, config: Any) -> bool:
        """Returns whether a model of this config has such a head."""
        return any(self.architecture in name for name in config.architectures or [])


HEADS: Mapping[bool, Head] = {
    False: Head("ForSequenceClassification", AutoModelForSequenceClassification),
    True: Head("ForTokenClassification", AutoModelForTokenClassification),
}
"""Whether each word has an answer of its own (`Problem.by_word`) -> the head."""
