from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from layermix.core.losses import IGNORED, LOGIT, cross_entropy
from layermix.core.signals import NO_WORD, Needs, Signal, at_words
from layermix.core.terms import ForwardPass, Hidden, Logit, Relations, Supervised
from layermix.errors import ModelError


def signal() -> Signal:
    scores = torch.arange(2 * 1 * 1 * 2 * 2).float().view(2, 1, 1, 2, 2)
    mask = torch.ones(1, 2, dtype=torch.bool)
    return Signal(torch.zeros(1, 2), mask, attention=scores, attention_layers=(3, 5))


def test_attention_scores_are_selected_by_layer() -> None:
    held = signal()
    assert held.select_attention((3, 5)) is held.attention
    assert held.select_attention((5, 5))[0].equal(held.select_attention((5,))[0])
    with pytest.raises(ModelError, match=r"layers \[3, 5\], but the attention scores of layer 4"):
        held.select_attention((4,))


def test_queries_keys_and_values_are_selected_by_layer() -> None:
    both = torch.rand(2, 3, 1, 2, 3, 4)
    held = Signal(
        torch.zeros(1, 2), torch.ones(1, 3, dtype=torch.bool), qkv=both, qkv_layers=(4, 1)
    )
    assert held.select_qkv(1).equal(both[1])
    with pytest.raises(ModelError, match=r"layers \[4, 1\], but those of layer 2 are wanted"):
        held.select_qkv(2)


def test_relations_ask_both_sides_for_one_layer_and_are_weighed_by_the_objective() -> None:
    term = Relations(2.0, 1, 5, heads=2)
    assert term.symbol == "L_rel[1 → teacher layer 5, 2 heads]"
    asked = term.asks(None)
    assert asked.student == Needs(qkv=(1,))
    assert asked.teacher == Needs(qkv=(5,))
    assert Needs(qkv=(5,)).missing_from(Needs()) == ["queries, keys and values of layer 5"]
    logits, mask = torch.zeros(1, 2), torch.ones(1, 3, dtype=torch.bool)
    student = Signal(logits, mask, qkv=torch.rand(1, 3, 1, 2, 3, 4), qkv_layers=(1,))
    teacher = Signal(logits, mask, qkv=torch.rand(1, 3, 1, 1, 3, 6), qkv_layers=(5,))
    (found,) = term(ForwardPass({}, student, teacher)).tolist()
    assert found > 0


def test_every_tensor_of_a_signal_is_moved_or_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = signal().to("meta")
    assert moved.logits.device.type == moved.mask.device.type == "meta"
    assert moved.attention_layers == (3, 5)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor.to("meta"))
    assert signal().pin_memory().logits.device.type == "meta"


def test_the_hidden_term_names_its_mix_where_there_is_one() -> None:
    assert Hidden().describe(None) == "L_hid[mean]"


# -- words -----------------------------------------------------------------------------------------

STARTS = torch.tensor([[1, 3, 4], [1, 2, -1], [2, -1, -1]])
"""Of three examples with 3, 2 and 1 words."""


def of_words(seed: int, starts: Tensor = STARTS) -> Signal:
    of_tokens = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(seed))
    logits, words = at_words(of_tokens.requires_grad_(), starts)
    return Signal(logits, torch.ones(3, 6, dtype=torch.bool), words=words)


def word_by_word(
    loss: Callable[..., Tensor], student: Signal, other: Tensor, counted: Tensor
) -> Tensor:
    """The mean over the words of each example that count, written as a loop."""
    means = []
    for example in range(3):
        each = [
            loss(student.logits[example, word][None], other[example, word][None])
            for word in range(3)
            if counted[example, word]
        ]
        means.append(torch.cat(each).mean() if each else torch.zeros(()))
    return torch.stack(means)


def test_the_logits_of_a_word_are_those_of_its_first_token() -> None:
    of_tokens = torch.randn(3, 6, 4)
    logits, words = at_words(of_tokens, STARTS)
    assert words.tolist() == [[True, True, True], [True, True, False], [True, False, False]]
    assert logits[0].equal(of_tokens[0, [1, 3, 4]])
    assert logits[1, :2].equal(of_tokens[1, [1, 2]])
    assert logits[~words].eq(NO_WORD).all()


def test_l_sup_is_the_mean_over_the_labelled_words_of_an_example() -> None:
    student = of_words(0)
    labels = torch.tensor([[0, IGNORED, 3], [IGNORED, IGNORED, IGNORED], [2, 1, IGNORED]])
    found = Supervised()(ForwardPass({"labels": labels}, student))
    counted = torch.tensor([[True, False, True], [False] * 3, [True, False, False]])  # 1 is cut off
    expected = word_by_word(cross_entropy, student, labels, counted)
    torch.testing.assert_close(found, expected)
    assert found[1] == 0


def test_l_sup_of_words_takes_class_weights_and_smoothing() -> None:
    student, labels = of_words(0), torch.tensor([[0, 1, 3], [2, 2, IGNORED], [1, 0, IGNORED]])
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0])

    def loss(logits: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(logits, label, weights, 0.1)

    term = Supervised(1.0, "cross_entropy", weights, 0.1)
    found = term(ForwardPass({"labels": labels}, student))
    torch.testing.assert_close(found, word_by_word(loss, student, labels, student.words))


@pytest.mark.parametrize("loss", LOGIT)
def test_l_logit_is_the_mean_over_the_words_that_both_have(loss: str) -> None:
    student = of_words(0)
    teacher = of_words(1, torch.tensor([[1, 3, -1], [1, 2, -1], [-1, -1, -1]]))  # cut off earlier

    def at_2(one: Tensor, other: Tensor) -> Tensor:
        return LOGIT[loss].function(one, other, 2.0)

    found = Logit(1.0, loss, 2.0)(ForwardPass({}, student, teacher))
    expected = word_by_word(at_2, student, teacher.logits, teacher.words)
    torch.testing.assert_close(found, expected)
    assert found[2] == 0


def test_places_without_a_word_have_no_gradient() -> None:
    of_tokens = torch.randn(3, 6, 4, requires_grad=True)
    logits, words = at_words(of_tokens, STARTS)
    student = Signal(logits, torch.ones(3, 6, dtype=torch.bool), words=words)
    teacher = of_words(1)
    Logit()(ForwardPass({}, student, teacher)).sum().backward()
    assert of_tokens.grad is not None
    reached = of_tokens.grad.abs().sum(-1) > 0
    expected = torch.zeros(3, 6, dtype=torch.bool)
    for example, starts in enumerate(STARTS.tolist()):
        expected[example, [start for start in starts if start >= 0]] = True
    assert reached.equal(expected)
