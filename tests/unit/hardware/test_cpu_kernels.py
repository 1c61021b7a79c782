"""Quick dropout is dropout, attention with it is attention, and precision is what was asked for."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import BertForSequenceClassification

from layermix.hardware import cpu_kernels, precision
from layermix.hardware.cpu_kernels import QuickFunctions, fast_pass, reuse_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_the_share_asked_for_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    ones = torch.ones(1000, 401)
    with QuickFunctions():
        dropped = functional.dropout(ones, p)
    kept = dropped[dropped != 0]
    share, spread = 1 - kept.numel() / ones.numel(), (p * (1 - p) / ones.numel()) ** 0.5
    assert abs(share - p) < 4 * spread
    assert kept.unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)


def test_dropped_elements_are_independent_of_their_neighbours() -> None:
    """Four of them share a 64-bit word."""
    torch.manual_seed(0)
    with QuickFunctions():
        dropped = (functional.dropout(torch.ones(200_000, 4), 0.5) == 0).double()
    correlation = torch.corrcoef(dropped.T) - torch.eye(4)
    assert correlation.abs().max() < 5 / 200_000**0.5


def test_every_dropout_draws_anew_and_a_seed_repeats_it() -> None:
    ones = torch.ones(5, 77)
    with QuickFunctions():
        torch.manual_seed(3)
        first, second = functional.dropout(ones, 0.5), functional.dropout(ones, 0.5)
    with QuickFunctions():  # a pass of its own
        third = functional.dropout(ones, 0.5)
        torch.manual_seed(3)
    with QuickFunctions():
        again = functional.dropout(ones, 0.5)
    assert not first.equal(second)
    assert not first.equal(third)
    assert not second.equal(third)
    assert first.equal(again)


def test_the_gradient_flows_where_values_do() -> None:
    values = torch.randn(6, 7, requires_grad=True)
    with QuickFunctions():
        dropped = functional.dropout(values, 0.4)
    dropped.sum().backward()
    assert values.grad is not None
    assert (values.grad != 0).equal(dropped != 0)
    torch.testing.assert_close(values.grad * values, dropped)


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True), (1.0, True)])
def test_the_borders_are_those_of_torch(p: float, training: bool) -> None:
    values = torch.randn(4, 4)
    with QuickFunctions():
        found = functional.dropout(values, p, training)
    assert found.equal(functional.dropout(values, p, training))


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_attention_is_that_of_torch_but_for_the_mask(kind: str) -> None:
    """So rare a dropout that hardly anything is dropped: what is left is attention."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 5, 8).unbind()
    allowed = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    allowed[1, :, :, 3:] = False
    mask = {
        "none": None,
        "bool": allowed,
        "float": torch.where(allowed, 0.0, torch.finfo(torch.float32).min),
    }[kind]
    for scale in (None, 0.3):
        expected = functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)
        with QuickFunctions():
            found = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, dropout_p=2**-16, scale=scale
            )
        assert not found.equal(expected)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attention_in_bfloat16_is_written_out_and_nearly_as_exact(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    exact = torch.randn(3, 2, 4, 64, 26)
    mask = torch.zeros(2, 1, 1, 64).masked_fill(torch.arange(64) >= 60, float("-inf"))
    expected = functional.scaled_dot_product_attention(*exact, mask)
    rough = [*exact.to(dtype)]
    by_torch = functional.scaled_dot_product_attention(*rough, mask.to(dtype))
    with QuickFunctions():
        found = functional.scaled_dot_product_attention(*rough, mask.to(dtype), 0.0, False)
        monkeypatch.setattr(cpu_kernels, "_WRITTEN_OUT", 63)
        left = functional.scaled_dot_product_attention(*rough, mask.to(dtype))
    assert left.equal(by_torch)
    assert found.equal(by_torch) == (dtype == torch.float32)
    off, by_kernel = (float((one - expected).abs().mean()) for one in (found, by_torch))
    assert off <= 1.5 * by_kernel + 1e-6  # its scores are rounded to bfloat16 once


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_row_that_may_look_at_nothing_is_finite_and_so_is_its_gradient(
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 3, 4, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    if dtype != torch.bool:
        mask = torch.zeros(3, 3).masked_fill(~mask, float("-inf"))
    with QuickFunctions():
        found = functional.scaled_dot_product_attention(query, key, value, mask, 2**-16)
    found.sum().backward()
    for tensor in (found, query.grad, key.grad, value.grad):
        assert tensor is not None
        assert tensor.isfinite().all()
    expected = functional.scaled_dot_product_attention(query, key, value, mask)
    torch.testing.assert_close(found[:, :, :2], expected[:, :, :2], rtol=1e-4, atol=1e-5)


def test_attention_that_is_not_simple_is_left_to_torch() -> None:
    query = torch.randn(1, 2, 5, 8)
    with QuickFunctions():
        causal = functional.scaled_dot_product_attention(
            query, query, query, is_causal=True, dropout_p=0.0
        )
    expected = functional.scaled_dot_product_attention(query, query, query, is_causal=True)
    assert causal.equal(expected)


def test_a_model_in_training_goes_through_it(
    bert: Callable[..., BertForSequenceClassification], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    dropout = cpu_kernels._dropout

    def watched(bits: Any, tensor: torch.Tensor, *options: Any, **named: Any) -> torch.Tensor:
        shapes.append(tuple(tensor.shape))
        return dropout(bits, tensor, *options, **named)

    monkeypatch.setattr(cpu_kernels, "_dropout", watched)
    model = bert(2, 16, dropout=0.1).train()
    with fast_pass(CPU, torch.float32):
        model(input_ids=torch.tensor([[2, 7, 8, 3]]))
    scores = [shape for shape in shapes if shape == (1, 2, 4, 4)]
    assert len(scores) == 2  # attention of both blocks
    assert len(shapes) == 2 + 1 + 2 * 2 + 1  # embeddings, two per block, head


def test_memory_is_kept_where_glibc_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    on_linux = cpu_kernels.sys.platform.startswith("linux")
    assert reuse_memory() == (
        on_linux and hasattr(cpu_kernels.ctypes.CDLL(None), "gnu_get_libc_version")
    )
    monkeypatch.setattr(cpu_kernels.sys, "platform", "darwin")
    assert not reuse_memory()
    monkeypatch.setattr(cpu_kernels.sys, "platform", "linux")
    monkeypatch.setattr(cpu_kernels.ctypes, "CDLL", lambda _: object())
    assert not reuse_memory()


SHAPES = """
import torch
from layermix.hardware.cpu_kernels import prepare_process
prepare_process()
one = torch.ones(1200, 8, dtype=torch.bfloat16)
for _ in range(2):
    for rows in range(1, 1201): one[:rows] @ one[:8]
"""


@pytest.mark.parametrize(("capacity", "passes"), [(None, 1), ("512", 2)])
def test_a_product_is_prepared_once_per_shape_unless_the_user_says_otherwise(
    capacity: str | None, passes: int
) -> None:
    if not precision.has_bfloat16(CPU):
        pytest.skip("this processor has no bfloat16 products")
    around = {**os.environ, "ONEDNN_VERBOSE": "all"}
    around.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)
    if capacity:
        around["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = capacity
    done = subprocess.run(
        [sys.executable, "-c", SHAPES], env=around, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(",") for line in done.stdout.splitlines() if "create:cache_miss" in line]
    shapes = [line[-2] for line in lines]
    assert len(set(shapes)) > 1024  # what oneDNN keeps by itself
    assert len(shapes) == passes * len(set(shapes))
