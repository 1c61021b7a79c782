"""Compares two tokenizers."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


def same_tokens(
    one: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase,
    probes: Sequence[tuple[str, ...]],
    inputs: Sequence[str] = ("input_ids",),
) -> bool:
    """Whether two tokenizers have equal vocabularies and sides, and equal outputs on `probes`.

    Args:
        one: A tokenizer.
        other: Another tokenizer.
        probes: Texts, or pairs of texts.
        inputs: Outputs that must be equal; `input_ids` alone compares the tokens only.
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
