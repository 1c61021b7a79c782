"""Trims a classifier's vocabulary to the tokens that its texts use: fewer rows of the embedding.

A tokenizer is rebuilt so that texts made of kept tokens only are cut as before. Other words are cut
into smaller kept pieces. What that needs differs between the three kinds of tokenizers:

- WordPiece takes the longest token that fits, again and again. A longer one never appears by
  removing others. All single characters stay.
- BPE joins pieces by rules, in their order. The rules that make a kept token stay, with the pieces
  on the way to it. All single characters (or bytes) stay.
- Unigram takes the most probable way to cut. That way stays the most probable if other tokens are
  removed. All single characters stay, and the least probable token, since the price of an unknown
  character depends on it.
"""

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from layermix.errors import ModelError, Note
from layermix.models.encoder import POSITIONS_AFTER_PADDING, Classifier
from layermix.models.tokenizers import Texts, save_tokenizer

MOST_UNKNOWN = 0.01
"""Largest share of unknown tokens that trimming may add in texts that it was not made for."""
MOST_LONGER = 0.25
"""By how much such texts may get longer in tokens: a student that reads letters learns little."""

Piece = tuple[str, str]
"""Two pieces that a rule of BPE joins."""


@dataclass(frozen=True)
class Trimmed:
    """What trimming did.

    Attributes:
        kept: For each token of the new vocabulary its number in the old one, ascending, (V',).
        before: Number of tokens of the old vocabulary, V.
        parameters: How many the embedding has lost.
        texts: Share of other texts that are cut differently, in [0, 1]; None without such texts.
        tokens: Share of their tokens that are not in the new vocabulary.
        longer: By which share they have more tokens.
        unknown: Share of their tokens that are unknown, and were not before.
    """

    kept: NDArray[np.int64]
    before: int
    parameters: int
    texts: float | None = None
    tokens: float = 0.0
    longer: float = 0.0
    unknown: float = 0.0

    def note(self) -> Note:
        """Returns the same in words."""
        text = (
            f"the vocabulary was trimmed from {self.before:,} to {len(self.kept):,} tokens, which "
            f"saves {self.parameters / 1e6:.1f} M parameters"
        )
        if self.texts is not None:
            text += (
                f"; of the validation texts {self.texts:.1%} are cut differently ({self.tokens:.2%}"
                f" of their tokens are missing, they get {self.longer:.1%} longer, "
                f"{self.unknown:.2%} of their tokens become unknown)"
            )
        return Note("vocabulary-trimmed", text)


def trim_vocabulary(
    classifier: Classifier,
    size: int | Literal["occurring"],
    texts: Iterable[Texts],
    others: Iterable[Texts] = (),
) -> tuple[Classifier, Trimmed]:
    """Returns the same classifier with fewer tokens, and what that did.

    With `occurring` the tokens of `texts`, and so their logits to the last bit, stay the same; that
    is checked.

    Args:
        classifier: Not changed.
        size: How many tokens to keep, the most frequent ones of `texts`, then the first ones of the
            vocabulary; or all that occur in `texts`. Special tokens, tokens that were added, and
            single characters always stay.
        texts: Batches of texts, or of first and second texts, such as the training texts.
        others: Such batches of other texts, by which the damage is measured.

    Raises:
        ModelError: If the tokenizer cannot be trimmed, `size` has no room for what must stay, the
            others become too long or unreadable, or with `occurring` a text is cut differently.
    """
    old, batches = classifier.tokenizer, list(texts)
    pieces = _Pieces(old)
    counts = Counter[int]()
    for batch in batches:
        for row in _ids(old, batch):
            counts.update(row.tolist())
    kept = pieces.kept(counts, size)
    tokenizer = _rebuilt(old, kept)
    if size == "occurring":
        _check_same(old, tokenizer, kept, batches)
    model, parameters = _with_rows(classifier.model, kept, tokenizer)
    model.config.layermix_trimmed_from = [
        *(getattr(model.config, "layermix_trimmed_from", None) or ()),
        _vocabulary_hash(old),
    ]
    trimmed = _measured(Trimmed(kept, len(old), parameters), old, tokenizer, others)
    if trimmed.longer > MOST_LONGER or trimmed.unknown > MOST_UNKNOWN:
        more = "more tokens"
        if size == "occurring":
            more = "more (--student.vocabulary 8000 keeps common ones beside yours)"
        raise ModelError(
            f"{len(kept):,} tokens are too few: validation texts get {trimmed.longer:.1%} longer in"
            f" tokens (wanted {MOST_LONGER:.0%} at most), and {trimmed.unknown:.1%} of their tokens"
            f" become unknown (wanted {MOST_UNKNOWN:.0%} at most); keep {more}, or give more texts "
            "without labels (--data.unlabeled), whose words are kept, too"
        )
    start = classifier.start | {"vocabulary": len(kept)}
    notes = (*classifier.notes, trimmed.note())
    return replace(classifier, model=model, tokenizer=tokenizer, start=start, notes=notes), trimmed


def old_numbers(trimmed: Classifier, whole: Classifier) -> NDArray[np.int64] | None:
    """Returns the number that each token of a trimmed classifier has in the one it is trimmed from.

    Args:
        trimmed: From `trim_vocabulary`, also if it was saved and loaded.
        whole: Any classifier.

    Returns:
        (V',); None if `trimmed` is not trimmed, or from another vocabulary.
    """
    marks = getattr(trimmed.model.config, "layermix_trimmed_from", None) or ()
    part, numbers = trimmed.tokenizer.get_vocab(), whole.tokenizer.get_vocab()
    if _vocabulary_hash(whole.tokenizer) not in marks or len(part) >= len(numbers):
        return None
    found = np.zeros(len(part), dtype=np.int64)
    for token, number in part.items():
        found[number] = numbers[token]
    return found


def _vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """A sha256 of all tokens with their numbers."""
    text = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# -- which tokens stay -----------------------------------------------------------------------------


class _Pieces:
    """The tokens of a tokenizer, and which others each of them needs.

    Raises:
        ModelError: If it has no tokens that smaller pieces could stand for.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name = type(tokenizer).__name__
        if not tokenizer.is_fast:
            raise ModelError(
                f"the vocabulary of a {self.name} cannot be trimmed: it is no fast tokenizer "
                "(a tokenizer.json beside the model)"
            )
        self.pipeline = _pipeline(tokenizer)
        model = self.pipeline["model"]
        self.kind = model["type"]
        affixes = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
        if self.kind not in _SMALLEST or (self.kind == "BPE" and any(affixes)):
            raise ModelError(
                f"the vocabulary of a {self.name} ({self.kind}) cannot be trimmed; wanted "
                "WordPiece, BPE or Unigram, with pieces that any word can be cut into"
            )
        self.prefix: str = (affixes[0] or "") if self.kind == "WordPiece" else ""
        self.numbers = tokenizer.get_vocab()
        self.ranks = {pair: rank for rank, pair in enumerate(_merges(self.pipeline))}
        added = {entry["content"] for entry in self.pipeline["added_tokens"]}
        special = added | set(tokenizer.all_special_tokens)
        self.always = (self.numbers.keys() & special) | self._smallest(model)

    def _smallest(self, model: Mapping[str, Any]) -> set[str]:
        """Single characters, bytes, and the tokens of characters that are no token themselves."""
        own = dict(model["vocab"])
        kept = {
            token
            for token in own
            if len(self._letters(token)) == 1 or (token.startswith("<0x") and token.endswith(">"))
        }
        kept |= {token for token in own if not kept.issuperset(self._letters(token))}
        if self.kind == "Unigram":
            kept.add(min(own, key=own.__getitem__))
            kept.add(model["vocab"][model["unk_id"]][0])
        elif model.get("unk_token"):
            kept.add(model["unk_token"])
        return kept

    def _letters(self, token: str) -> list[str]:
        """The smallest pieces that a token can be cut into."""
        if not self.prefix:
            return list(token)
        first = token.startswith(self.prefix) and token != self.prefix
        letters = token.removeprefix(self.prefix) if first else token
        return [
            letter if number == 0 and not first else self.prefix + letter
            for number, letter in enumerate(letters)
        ]

    def kept(self, counts: Counter[int], size: int | Literal["occurring"]) -> NDArray[np.int64]:
        """The numbers of the tokens that stay, ascending."""
        tokens = {number: token for token, number in self.numbers.items()}
        kept = set(self.always)
        limit = len(tokens) if size == "occurring" else size
        if limit < len(kept):
            raise ModelError(
                f"a vocabulary of {limit:,} tokens has no room for what must stay (special tokens "
                f"and single characters, {len(kept):,} of this {self.name}); wanted more, or "
                "occurring"
            )
        wanted = set(counts)
        if size != "occurring":  # vocabularies are in order of frequency in the language
            wanted |= {number for token, number in self.numbers.items() if UNUSED not in token}
        for number in sorted(wanted, key=lambda number: (-counts[number], number)):
            needed = self._needed(tokens[number]) - kept
            if len(kept) + len(needed) > limit:
                break
            kept |= needed
        return np.array(sorted(self.numbers[token] for token in kept), dtype=np.int64)

    def _needed(self, token: str) -> set[str]:
        """The token, and the pieces on the way to it."""
        needed, pieces = {token}, list(token)
        while self.ranks and len(pieces) > 1:
            pairs = list(pairwise(pieces))
            best = min(range(len(pairs)), key=lambda place: self.ranks.get(pairs[place], NO_RULE))
            if pairs[best] not in self.ranks:
                break  # a token that no rule makes, such as one that stands for a whole word
            pieces[best : best + 2] = ["".join(pairs[best])]
            needed.add(pieces[best])
        return needed & self.numbers.keys()


NO_RULE = 2**62
UNUSED = "[unused"
"""Begins the tokens of BERT that no text has."""
_SMALLEST = ("WordPiece", "BPE", "Unigram")


def _merges(pipeline: Mapping[str, Any]) -> list[Piece]:
    """The rules of BPE in their order."""
    return [(left, right) for left, right in pipeline["model"].get("merges") or ()]


# -- a tokenizer and a model of fewer tokens -------------------------------------------------------


def _pipeline(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return loaded


def _frame(tokenizer: PreTrainedTokenizerBase) -> Any:
    """What a tokenizer does beside its tokens: how it changes and splits texts, and joins rows."""
    pipeline = _pipeline(tokenizer)
    parts = {name: pipeline[name] for name in ("normalizer", "pre_tokenizer")}
    parts["post_processor"] = _with_numbers(pipeline["post_processor"], {})
    tokens = ("vocab", "merges", "unk_id")
    model = {name: value for name, value in pipeline["model"].items() if name not in tokens}
    sides = tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token
    return model, parts, sides, tokenizer.model_input_names


def _rebuilt(
    tokenizer: PreTrainedTokenizerBase, kept: NDArray[np.int64]
) -> PreTrainedTokenizerBase:
    """The tokenizer with the kept tokens only, numbered anew in their order.

    Raises:
        ModelError: If transformers makes something else of it.
    """
    old = {number: token for token, number in tokenizer.get_vocab().items()}
    new = {old[number]: place for place, number in enumerate(kept.tolist())}
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_tokenizer(copy.deepcopy(tokenizer), folder)
        file = folder / "tokenizer.json"
        pipeline = json.loads(file.read_text(encoding="utf-8"))
        for other in folder.iterdir():  # vocabularies in other formats hold the old numbers
            if other.suffix != ".json" or other.name in ("vocab.json", "added_tokens.json"):
                other.unlink()
        _keep(pipeline, new)
        file.write_text(json.dumps(pipeline, ensure_ascii=False), encoding="utf-8")
        settings = folder / "tokenizer_config.json"
        config = json.loads(settings.read_text(encoding="utf-8"))
        config.pop("added_tokens_decoder", None)
        config.pop("vocab_file", None)
        settings.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
        rebuilt: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False
        )
    rebuilt.init_kwargs["name_or_path"] = rebuilt.name_or_path = tokenizer.name_or_path
    rebuilt.model_input_names = tokenizer.model_input_names
    rebuilt.model_max_length = tokenizer.model_max_length
    if rebuilt.get_vocab() != new or _frame(rebuilt) != _frame(tokenizer):
        raise ModelError(
            f"the vocabulary of a {type(tokenizer).__name__} cannot be trimmed: transformers loads "
            "the smaller one with other tokens or settings"
        )
    return rebuilt


def _keep(pipeline: dict[str, Any], new: Mapping[str, int]) -> None:
    """Drops all other tokens from a tokenizer.json, and puts the new numbers in."""
    model = pipeline["model"]
    if model["type"] == "Unigram":
        unknown = model["vocab"][model["unk_id"]][0]
        model["vocab"] = [entry for entry in model["vocab"] if entry[0] in new]
        model["unk_id"] = [token for token, _ in model["vocab"]].index(unknown)
    else:
        own = [token for token in model["vocab"] if token in new]
        model["vocab"] = {token: new[token] for token in sorted(own, key=new.__getitem__)}
    if model["type"] == "BPE":
        model["merges"] = [
            [left, right]
            for left, right in _merges(pipeline)
            if {left, right, left + right} <= new.keys()
        ]
    for entry in pipeline["added_tokens"]:
        entry["id"] = new[entry["content"]]
    pipeline["post_processor"] = _with_numbers(pipeline["post_processor"], new)
    pipeline["truncation"] = pipeline["padding"] = None


def _with_numbers(part: Any, new: Mapping[str, int]) -> Any:
    """A post-processor whose special tokens have the new numbers; 0 for unknown ones."""
    if isinstance(part, list):
        if len(part) == 2 and isinstance(part[0], str) and isinstance(part[1], int):
            return [part[0], new.get(part[0], 0)]  # of Bert- and RobertaProcessing
        return [_with_numbers(one, new) for one in part]
    if not isinstance(part, dict):
        return part
    inner = {name: _with_numbers(one, new) for name, one in part.items()}
    if {"id", "ids", "tokens"} <= part.keys():  # of TemplateProcessing
        inner["ids"] = [new.get(token, 0) for token in part["tokens"]]
    return inner


def _with_rows(
    model: PreTrainedModel, kept: NDArray[np.int64], tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, int]:
    """A copy of the model with the kept rows of its embedding, and how many parameters are gone."""
    embedding: Any = model.get_input_embeddings()
    rows = torch.from_numpy(kept)
    config: Any = copy.deepcopy(model.config)
    config.vocab_size = len(kept)
    places = {number: place for place, number in enumerate(kept.tolist())}
    for name, value in list(vars(config).items()):
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, places.get(value))
    if model.config.model_type in POSITIONS_AFTER_PADDING and (
        tokenizer.pad_token_id != model.config.pad_token_id
    ):
        raise ModelError(
            f"the vocabulary of a {type(model).__name__} cannot be trimmed: its positions are "
            f"counted from its padding token, {model.config.pad_token_id}, which would become "
            f"{tokenizer.pad_token_id}"
        )
    with torch.random.fork_rng():  # the new weights are overwritten
        smaller = type(model)(config)
    state = {
        name: value.detach()[rows] if value is embedding.weight else value
        for name, value in model.state_dict(keep_vars=True).items()
    }
    try:
        smaller.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"the vocabulary of a {type(model).__name__} cannot be trimmed: other weights than its "
            "embedding depend on the number of tokens"
        ) from error
    smaller.train(model.training)
    gone = (embedding.weight.shape[0] - len(kept)) * embedding.weight.shape[1]
    return smaller, gone


def _check_same(
    old: PreTrainedTokenizerBase,
    new: PreTrainedTokenizerBase,
    kept: NDArray[np.int64],
    batches: Iterable[Texts],
) -> None:
    """Raises a ModelError if a text does not have the tokens it had."""
    for batch in batches:
        rows = zip(_ids(old, batch), _ids(new, batch), zip(*batch, strict=True), strict=True)
        for was, now, text in rows:
            if not np.array_equal(was, kept[now]):
                raise ModelError(
                    f"the vocabulary of a {type(old).__name__} cannot be trimmed to the tokens that"
                    " occur: it lacks single characters, so a word that it cannot read now would "
                    f"be read otherwise, in {' | '.join(text)[:100]!r}; give a number of tokens "
                    "(--student.vocabulary 8000), which does not promise the same answers"
                )


# -- what it costs ---------------------------------------------------------------------------------


def _measured(
    trimmed: Trimmed,
    old: PreTrainedTokenizerBase,
    new: PreTrainedTokenizerBase,
    batches: Iterable[Texts],
) -> Trimmed:
    """The same with the shares of texts and tokens that are cut differently."""
    texts = changed = tokens = missing = after = unknown = 0
    known = np.zeros(1 + max(old.get_vocab().values()), dtype=bool)
    known[trimmed.kept] = True
    for batch in batches:
        rows = zip(_ids(old, batch), _ids(new, batch), strict=True)
        for was, now in rows:
            texts, tokens, after = texts + 1, tokens + len(was), after + len(now)
            missing += int((~known[was]).sum())
            changed += not np.array_equal(was, trimmed.kept[now])
            unknown += int((now == new.unk_token_id).sum()) - int((was == old.unk_token_id).sum())
    if not tokens:
        return trimmed
    return replace(
        trimmed,
        texts=changed / texts,
        tokens=missing / tokens,
        longer=after / tokens - 1,
        unknown=max(unknown, 0) / max(after, 1),
    )


def _ids(tokenizer: PreTrainedTokenizerBase, batch: Sequence[Sequence[str]]) -> list[Any]:
    encoded = tokenizer(*batch, add_special_tokens=False, verbose=False)["input_ids"]
    return [np.array(row, dtype=np.int64) for row in encoded]
