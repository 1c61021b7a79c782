"""What makes a step fast on the machine at hand, whatever is computed: precision, dropout, memory.

On a CPU half of a small student's step is not arithmetic: drawing dropout masks one by one, slow
attention kernels, and fresh memory from the kernel. docs/performance.md has the measurements.
"""

import os
from typing import Any

import torch
from torch import Tensor

from layermix.config import Precision

# oneDNN, which torch takes for bfloat16 on a CPU, writes code for every shape of a product: some 19
# for each length of a batch. It keeps 1,024 (33 kB each); with more than 50 lengths it writes some
# of it anew in every step. It reads this once, at its first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(wanted: Precision) -> torch.dtype:
    """The precision of the matrix products: bfloat16 where the machine has instructions for it.

    Args:
        wanted: `auto` looks at the machine; the others are taken as they are.

    Examples:
        >>> choose_precision("fp32")
        torch.float32
    """
    native = has_bfloat16(default_device()) if wanted == "auto" else wanted == "bf16"
    return torch.bfloat16 if native else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; emulated it would be slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu: Any = torch.cpu
    return device.type == "cpu" and bool(
        cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    )


def at_least_float32(tensor: Tensor) -> Tensor:
    """A tensor in float32, or as it is if it is more precise."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
