"""The precision of a run is the one asked for, or the best that the machine has."""

from collections.abc import Callable

import pytest
import torch
from transformers import BertForSequenceClassification

from layermix.hardware import precision
from layermix.hardware.cpu_kernels import fast_pass
from layermix.hardware.precision import choose_precision

CPU = torch.device("cpu")


def test_precision_is_that_of_the_products_only(
    bert: Callable[..., BertForSequenceClassification],
) -> None:
    model, inputs = bert(2, 16, dropout=0.0), torch.tensor([[2, 7, 8, 3]])
    exact = model(inputs).logits
    with fast_pass(CPU, torch.float32):
        assert model(inputs).logits.equal(exact)
    with fast_pass(CPU, torch.bfloat16):
        rough = model(inputs).logits
    assert rough.dtype == torch.bfloat16
    assert not rough.float().equal(exact)
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)


def test_auto_takes_bfloat16_only_where_the_machine_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("fp32") == torch.float32
    assert choose_precision("bf16") == torch.bfloat16
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "has_bfloat16", lambda _, native=native: native)
        assert choose_precision("auto") == expected


def test_bfloat16_of_a_processor_is_what_torch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for avx512, amx, expected in ((True, False, True), (False, True, True), (False, False, False)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=avx512: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=amx: has)
        assert precision.has_bfloat16(CPU) is expected
    asked: list[bool] = []

    def cuda(including_emulation: bool) -> bool:
        asked.append(including_emulation)
        return True

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", cuda)
    assert precision.has_bfloat16(torch.device("cuda"))
    assert asked == [False]
