"""Dropout, attention and memory as they are fastest on a CPU."""

import ctypes
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
    """Run a forward pass in `precision` (weights stay float32), on a CPU with `QuickFunctions`."""
    with ExitStack() as stack:
        if precision != torch.float32:
            stack.enter_context(torch.autocast(device.type, precision))
        if device.type == "cpu":
            stack.enter_context(QuickFunctions())
        yield


class QuickFunctions(TorchFunctionMode):
    """Dropout and attention as they are fastest on a CPU.

    A dropout mask takes 16 random bits per element instead of a draw each. The probability is
    rounded to 1/65,536, and what is kept is scaled by the rounded one, so the expectation is exact
    up to the rounding of that factor to the precision of the input.
    The bits come from a quick generator that torch's seeds, so a resumed run draws the same.

    Attention is written out where it has dropout, as torch itself does, and in bfloat16, for which
    torch's kernel takes up to four times as long forward and backward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bits = _Bits()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Stand in for dropout and attention; let everything else through."""
        kwargs = kwargs or {}
        if func is functional.dropout:
            return _dropout(self.bits, *args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            return _attention(self.bits, *args, **kwargs)
        return func(*args, **kwargs)


class _Bits:
    """Random numbers of 16 bits; torch's generator, at the first draw, seeds where they come from.

    SFC64 takes a third of the time of torch's own, the Mersenne Twister.
    """

    def __init__(self) -> None:
        self.source: np.random.SFC64 | None = None

    def draw(self, count: int) -> Tensor:
        """So many numbers from −32,768 to 32,767."""
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
    """Written out where that pays; what is not simple is left to torch."""
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


def reuse_memory() -> bool:
    """Let this process keep memory that it frees, for the next step; whether that could be set.

    glibc gives large blocks back to the kernel, which then has to clear new ones in every step:
    a quarter of a small student's step. Only glibc is told; elsewhere nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    mmap_max, trim_threshold = -4, -1  # malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD
    return bool(libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, 2**31 - 1))
