"""Dropout, attention and memory settings that are fast on a CPU.

Half of a small student's step on a CPU is not arithmetic: drawing dropout masks one by one, slow
attention kernels, and fresh memory from the kernel. docs/performance.md has the measurements.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_STEPS = 2**16  # probabilities that 16 random bits can tell apart
_WRITTEN_OUT = 2048  # tokens; beyond, the scores of all pairs would take too much memory


@contextmanager
def fast_pass(device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """Runs a forward pass in `precision` (weights stay float32), on a CPU with `QuickFunctions`."""
    with ExitStack() as stack:
        if precision != torch.float32:
            stack.enter_context(torch.autocast(device.type, precision))
        if device.type == "cpu":
            stack.enter_context(QuickFunctions())
        yield


class QuickFunctions(TorchFunctionMode):
    """Replaces dropout and attention by versions that are faster on a CPU.

    A dropout mask takes 16 random bits per element instead of a draw each. The probability is
    rounded to 1/65,536, and what is kept is scaled by the rounded one, so the expectation is exact
    up to the rounding of that factor to the precision of the input.
    torch's generator seeds the fast generator of the bits, so a resumed run draws the same.

    Attention is computed step by step where it has dropout, as in torch itself, and in bfloat16,
    for which torch's kernel takes up to four times as long forward and backward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bits = _Bits()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replaces dropout and attention; calls every other function unchanged."""
        kwargs = kwargs or {}
        if func is functional.dropout:
            return _dropout(self.bits, *args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            return _attention(self.bits, *args, **kwargs)
        return func(*args, **kwargs)


class _Bits:
    """Random numbers of 16 bits from a generator that torch's generator seeds at the first draw.

    SFC64 takes a third of the time of torch's own, the Mersenne Twister.
    """

    def __init__(self) -> None:
        self.source: np.random.SFC64 | None = None

    def draw(self, count: int) -> Tensor:
        """Returns `count` numbers from −32,768 to 32,767."""
        if self.source is None:
            self.source = np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_()))
        words: Any = self.source.random_raw(-(-count // 4))  # of 64 bits
        return torch.from_numpy(words.view(np.int16))[:count]


def _dropout(
    bits: _Bits, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    dropped = round(p * _STEPS)
    if not training or dropped in (0, _STEPS):
        return functional.dropout(input, p, training, inplace)
    drawn = bits.draw(input.numel()).view(input.shape)
    # Compared as floats, in place: a mask of bools would be turned into floats one by one.
    kept = drawn.float().ge_(dropped - _STEPS // 2).mul_(_STEPS / (_STEPS - dropped))
    return input * kept.to(input.dtype)


def _attention(
    bits: _Bits,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Computes attention step by step where that is faster; else calls torch's function."""
    short = key.shape[-2] <= _WRITTEN_OUT
    pays = dropout_p > 0 or (query.dtype == torch.bfloat16 and short)
    if is_causal or enable_gqa or not pays:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    # Never −∞: where all keys are masked (padding of ModernBERT) softmax would be NaN.
    lowest = torch.finfo(scores.dtype).min
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        # Added, not filled in: that is one pass fewer forward and none backward.
        attn_mask = torch.zeros_like(attn_mask, dtype=scores.dtype).masked_fill_(~attn_mask, lowest)
    if attn_mask is not None:
        scores += attn_mask.clamp(min=lowest)
    # float32 within the softmax: more precise, and twice as fast as its bfloat16 kernel.
    chances = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return _dropout(bits, chances.to(value.dtype), dropout_p) @ value


def prepare_process() -> None:
    """Sets what makes this process fast on a CPU; call it before the first product.

    oneDNN, which torch uses for bfloat16 on a CPU, compiles code for every shape of a product:
    about 19 kernels for each length of a batch, 33 kB each. It keeps 1,024 of them by default, so
    with more than 50 lengths it would compile some of them anew in every step. It reads the limit
    once, at its first product. A limit that the user has set stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")
    reuse_memory()


def reuse_memory() -> bool:
    """Makes this process keep memory that it frees; returns whether that was possible.

    glibc returns large blocks to the kernel, which then has to clear new ones in every step: a
    quarter of a small student's step. Other C libraries have no such setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    mmap_max, trim_threshold = -4, -1  # malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD
    return bool(libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, 2**31 - 1))
