"""Every family that layermix promises: a tiny random classifier and the family's own tokenizer."""

from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    BertTokenizer,
    DebertaV2Tokenizer,
    DistilBertTokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from layermix.models.encoder import Classifier
from layermix.models.heads import HEADS

DEPTH, WIDTH, POSITIONS = 4, 16, 24
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
MPNET_WORDS = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
MERGES = [("Ġ", letter) for letter in ascii_lowercase]


def word_pieces(special: list[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate([*special, *ascii_lowercase])}


def byte_pairs(special: list[str]) -> dict[str, int]:
    merged = [f"Ġ{letter}" for letter in ascii_lowercase]
    words = [*special, "Ġ", *ascii_lowercase, *merged]
    return {word: number for number, word in enumerate(words)}


def unigrams(special: list[str]) -> list[tuple[str, float]]:
    letters = [(word, -2.0) for letter in ascii_lowercase for word in (letter, f"▁{letter}")]
    return [*((word, 0.0) for word in special), ("▁", -2.0), *letters]


def modernbert_tokenizer() -> PreTrainedTokenizerFast:
    """ModernBERT has no class of its own: a byte-pair tokenizer with BERT's special tokens."""
    pieces = Tokenizer(models.BPE(vocab=byte_pairs(BERT_WORDS), merges=MERGES, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        name: What the test is called.
        model_type: As in transformers' config.
        tokenizer: Makes the family's own tokenizer.
        extra: What its config has beyond BERT's, or other than the default.
        longest: The longest input it takes, in tokens.
        own_limit: Whether one token more makes the model fail.
    """

    name: str
    model_type: str
    tokenizer: Callable[[], PreTrainedTokenizerBase]
    extra: dict[str, Any]
    longest: int = POSITIONS
    own_limit: bool = True

    def make(self, seed: int = 0, *, by_word: bool = False, **changes: Any) -> Classifier:
        """A random classifier, of texts or words, whose weights are large enough to matter."""
        tokenizer = self.tokenizer()
        sizes = {
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "num_hidden_layers": DEPTH,
            "num_attention_heads": 2,
            "max_position_embeddings": POSITIONS,
            "initializer_range": 0.2,
        }
        ffn = "hidden_dim" if self.model_type == "distilbert" else "intermediate_size"
        tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in SPECIAL}
        settings = {**sizes, ffn: 2 * WIDTH, **tokens, **self.extra, **changes}
        config = AutoConfig.for_model(self.model_type, **settings)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = HEADS[by_word].auto.from_config(config)
            with torch.no_grad():  # norms that are not 1 and biases that are not 0
                for weight in model.parameters():
                    if weight.ndim == 1:
                        weight.add_(0.2 * torch.randn_like(weight))
        return Classifier(model.eval(), tokenizer, self.name)


SPECIAL = ("pad", "bos", "eos", "cls", "sep")
DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "type_vocab_size": 0,
}
FAMILIES = [
    Family("bert", "bert", lambda: BertTokenizer(vocab=word_pieces(BERT_WORDS)), {}),
    Family(
        "roberta",
        "roberta",
        lambda: RobertaTokenizer(vocab=byte_pairs(ROBERTA_WORDS), merges=MERGES),
        {"type_vocab_size": 1},
        POSITIONS - 2,
    ),
    Family(
        "distilbert",
        "distilbert",
        lambda: DistilBertTokenizer(vocab=word_pieces(BERT_WORDS)),
        {},
    ),
    Family(  # transformers 5 has no ElectraTokenizer: BertTokenizer is ELECTRA's own
        "electra",
        "electra",
        lambda: BertTokenizer(vocab=word_pieces(BERT_WORDS)),
        {"embedding_size": 8},
    ),
    Family(
        "mpnet",
        "mpnet",
        lambda: MPNetTokenizer(vocab=word_pieces(MPNET_WORDS)),
        {},
        POSITIONS - 2,
    ),
    Family(
        "xlm-roberta",
        "xlm-roberta",
        lambda: XLMRobertaTokenizer(vocab=unigrams(ROBERTA_WORDS)),
        {"type_vocab_size": 1},
        POSITIONS - 2,
    ),
    Family(
        "deberta-v2",
        "deberta-v2",
        lambda: DebertaV2Tokenizer(vocab=unigrams(BERT_WORDS)),
        {**DEBERTA, "position_biased_input": True},
    ),
    Family(  # as deberta-v2-xlarge and deberta-v3
        "deberta-v2-conv",
        "deberta-v2",
        lambda: DebertaV2Tokenizer(vocab=unigrams(BERT_WORDS)),
        {**DEBERTA, "position_biased_input": False, "conv_kernel_size": 3, "conv_act": "gelu"},
        own_limit=False,
    ),
    Family(
        "modernbert",
        "modernbert",
        modernbert_tokenizer,
        {"local_attention": 4, "global_attn_every_n_layers": 3},
        own_limit=False,
    ),
]


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture(scope="session")
def families() -> dict[str, Family]:
    return {family.name: family for family in FAMILIES}
