"""Compares two tokenizers, and saves one."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from layermix.atomic import write_text
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


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves a tokenizer so that transformers 4 loads it as transformers 5 does.

    Transformers 5 has two names of its own: a class that 4 calls `PreTrainedTokenizerFast`, which 5
    knows too, and a list of further special tokens, which has another meaning in 4. The last call's
    length and padding, which the file would keep for other readers, are left out.
    """
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    if saved["tokenizer_class"] == "TokenizersBackend":
        saved["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(saved.get("extra_special_tokens"), list):
        saved["additional_special_tokens"] = saved.pop("extra_special_tokens")
    write_text(file, json.dumps(saved, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
