"""Tokenizers are equal if they tokenize equally."""

from transformers import BertTokenizer

from layermix.models.tokenizers import same_tokens


def test_tokenizers_are_the_same_if_they_give_the_same(tokenizer: BertTokenizer) -> None:
    words = tokenizer.get_vocab()
    probes = [("a b", "C d"), ("e", "f")]
    assert same_tokens(tokenizer, BertTokenizer(vocab=words), probes)
    assert not same_tokens(tokenizer, BertTokenizer(vocab={**words, "new": len(words)}), probes)
    assert not same_tokens(tokenizer, BertTokenizer(vocab=words, do_lower_case=False), probes)
    assert not same_tokens(tokenizer, BertTokenizer(vocab=words, padding_side="left"), probes)
