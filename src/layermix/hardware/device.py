"""The device of a process: the one choice for models, batches and the trainer."""

import platform
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch

from layermix.launch import world_size

PATIENCE = timedelta(hours=2)
"""How long processes wait for what one does alone, such as making new rows; NCCL's own is ten
minutes. If one has died, the launcher ends the others at once."""


def default_device() -> torch.device:
    """Returns the device that accelerate chooses, and therefore transformers' Trainer too.

    CUDA, Apple's `mps` or another accelerator that torch finds, else the CPU. Of several GPUs, each
    process of a distributed run gets its own. `ACCELERATE_USE_CPU=true` asks for the CPU. The first
    call connects the processes of such a run: by NCCL on GPUs, by gloo on CPUs.
    """
    # Not at the top: the heart imports this package and must load without accelerate.
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    if world_size() > 1 and not torch.accelerator.is_available():
        on_cpu = True  # else they would not be connected, and train a run each
    device: torch.device = PartialState(cpu=on_cpu, timeout=PATIENCE).device
    return device


def processor_name() -> str:
    """Returns the name of the graphics card that torch uses, or else of the CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()


def cpu_name() -> str:
    """Returns the name of the CPU; its kind where the system does not tell more."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        parts = (line.partition(":") for line in lines)
        told = {field.strip(): value.strip() for field, _, value in parts}
        if name := told.get("model name"):
            return name
    return platform.processor() or platform.machine()
