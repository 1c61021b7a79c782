"""Compares two tokenizers."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from layermix.models.encoder import MODEL_INPUTS

Texts = Sequence[Sequence[str]]
"""Texts of a batch, or first and second texts: what a tokenizer takes as its arguments."""


def equal_inputs(
    one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, batches: Iterable[Texts]
) -> frozenset[str]:
    """Returns the names of the model inputs that two tokenizers make equal, of any text given.

    Tokenizers with equal settings make everything equal. Others are compared on every text:
    DistilBERT has BERT's tokens, and `do_lower_case` matters in some texts only.

    Args:
        one: A tokenizer.
        other: Another tokenizer.
        batches: All texts that must be tokenised equally.

    Returns:
        Names among `MODEL_INPUTS`; none if the vocabularies, or the sides of padding or truncation,
        differ.
    """
    equal = frozenset(MODEL_INPUTS)
    if one is other:
        return equal
    if (one.get_vocab(), one.padding_side, one.truncation_side) != (
        other.get_vocab(),
        other.padding_side,
        other.truncation_side,
    ):
        return frozenset()
    settings = _settings(one)
    if settings is not None and settings == _settings(other):
        return equal
    for texts in batches:
        made, wanted = (tokenizer(*texts, verbose=False) for tokenizer in (one, other))
        equal = frozenset(name for name in equal if made.get(name) == wanted.get(name))
        if not equal:
            break
    return equal


def equal_padding(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers pad with the same tokens, token types and side."""
    padding, other_padding = (
        (tokenizer.pad_token_id, tokenizer.pad_token_type_id, tokenizer.padding_side)
        for tokenizer in (one, other)
    )
    return padding == other_padding


def _settings(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Everything that decides what a fast tokenizer makes of a text; None for other tokenizers."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return None
    pipeline = json.loads(fast.to_str())
    for name in ("padding", "truncation"):  # states that each call sets anew
        pipeline.pop(name, None)
    return type(tokenizer), pipeline, tokenizer.model_input_names, tokenizer.split_special_tokens
