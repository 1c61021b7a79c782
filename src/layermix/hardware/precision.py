"""The precision of matrix products: bfloat16 where the device computes in it, else float32."""

from typing import Any

import torch
from torch import Tensor

from layermix.config import Precision
from layermix.hardware.device import default_device


def choose_precision(wanted: Precision) -> torch.dtype:
    """Returns the precision of matrix products.

    Args:
        wanted: `fp32`, `bf16`, or `auto`: bfloat16 if the default device computes in it.

    Examples:
        >>> choose_precision("fp32")
        torch.float32
    """
    native = has_bfloat16(default_device()) if wanted == "auto" else wanted == "bf16"
    return torch.bfloat16 if native else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16; emulation is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    cpu: Any = torch.cpu
    return device.type == "cpu" and bool(
        cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    )


def at_least_float32(tensor: Tensor) -> Tensor:
    """Converts a tensor to float32, unless it is more precise already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
