"""Whether two tokenizers give the same."""

from collections.abc import Sequence

from transformers import (
    PreTrainedTokenizerBase,
)

from layermix.models.encoder import Classifier as Classifier
from layermix.models.encoder import HFEncoder as HFEncoder
from layermix.models.encoder import blocks_of as blocks_of
from layermix.models.encoder import fingerprint as fingerprint
from layermix.models.encoder import label_names as label_names
from layermix.models.encoder import longest_input as longest_input
from layermix.models.students import copy_blocks as copy_blocks
from layermix.models.students import fresh_student as fresh_student


def same_tokens(
    one: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase,
    probes: Sequence[tuple[str, ...]],
    inputs: Sequence[str] = ("input_ids",),
) -> bool:
    """Whether two tokenizers give the same: equal vocabularies, sides, and inputs on `probes`.

    Args:
        one: A tokenizer.
        other: Another.
        probes: Texts or pairs.
        inputs: What must be equal; without `token_type_ids`, positions stand for the same tokens.
    """
    if (one.get_vocab(), one.padding_side, one.truncation_side) != (
        other.get_vocab(),
        other.padding_side,
        other.truncation_side,
    ):
        return False
    return all(
        one(*probe, verbose=False).get(name) == other(*probe, verbose=False).get(name)
        for probe in probes
        for name in inputs
    )
