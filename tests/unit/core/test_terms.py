import pytest
import torch
from torch import Tensor

from layermix.core.signals import Signal
from layermix.core.terms import Hidden
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


def test_every_tensor_of_a_signal_is_moved_or_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = signal().to("meta")
    assert moved.logits.device.type == moved.mask.device.type == "meta"
    assert moved.attention_layers == (3, 5)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor.to("meta"))
    assert signal().pin_memory().logits.device.type == "meta"


def test_the_hidden_term_names_its_mix_where_there_is_one() -> None:
    assert Hidden().describe(None) == "L_hid[mean]"
