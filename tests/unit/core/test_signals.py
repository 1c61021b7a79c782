"""Signals: layers are found by number, and a wrong number is told with the valid range."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layermix.core.signals import LOGITS_ONLY, Needs, Signal, check_layers, evenly_spaced
from layermix.errors import ModelError


def a_signal(*layers: int) -> Signal:
    """Layer l of it is filled with l."""
    hidden = torch.tensor(layers).float()[:, None, None, None].expand(-1, 2, 3, 4)
    return Signal(torch.zeros(2, 5), torch.ones(2, 3, dtype=torch.bool), layers, hidden)


def test_select_gives_layers_in_the_order_asked_for() -> None:
    found = a_signal(1, 3, 5).select((5, 1))
    assert found.shape == (2, 2, 3, 4)
    assert found[:, 0, 0, 0].tolist() == [5, 1]


def test_select_copies_nothing_if_all_is_asked_for() -> None:
    signal = a_signal(1, 3)
    assert signal.select((1, 3)) is signal.hidden


def test_select_names_the_layer_that_is_not_there() -> None:
    with pytest.raises(ModelError) as caught:
        a_signal(1, 3).select((1, 2))
    assert str(caught.value) == (
        "this signal holds the layers [1, 3], but layer 2 is wanted; ask the encoder for it"
    )


def test_missing_names_all_that_is_missing() -> None:
    wanted = Needs((0, 2, 4), embedding=True, padding=True)
    assert wanted.missing_from(Needs((2,))) == [
        "layer 0",
        "layer 4",
        "the embedding output",
        "the outputs at padding (a live teacher gives them)",
    ]
    assert wanted.missing_from(wanted) == []
    watched = Needs(attention=(3, 1, 3))
    assert watched.missing_from(Needs(attention=(1,))) == ["the attention scores of layer 3"]
    assert LOGITS_ONLY.missing_from(LOGITS_ONLY) == []


@given(groups=st.integers(1, 12), total=st.integers(1, 24))
def test_evenly_spaced_ends_with_the_last_layer_and_never_goes_back(
    groups: int, total: int
) -> None:
    layers = evenly_spaced(groups, total)
    assert len(layers) == groups
    assert layers[-1] == total - 1
    assert list(layers) == sorted(layers)
    assert layers[0] >= 0
    if groups <= total:
        assert len(set(layers)) == groups
    if total % groups == 0:  # as TinyBERT has it
        assert layers == tuple(range(total // groups - 1, total, total // groups))


def test_check_layers_gives_them_back() -> None:
    assert check_layers([3, 0], 4, "the teacher") == (3, 0)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([2, 12, 13], "the teacher has 12 blocks, numbered 0 to 11; found 12, 13 in [2, 12, 13]"),
        ([-1], "the teacher has 12 blocks, numbered 0 to 11; found -1 in [-1]"),
        ([2, 2], "the teacher: a layer is named twice in [2, 2]; name each once"),
    ],
)
def test_check_layers_tells_what_is_wrong(layers: list[int], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_layers(layers, 12, "the teacher")
    assert str(caught.value) == message
