"""The device of a process: the one choice for models, batches and the trainer."""

import torch


def default_device() -> torch.device:
    """Returns the device that accelerate chooses, and therefore transformers' Trainer too.

    CUDA, Apple's `mps` or another accelerator that torch finds, else the CPU. Of several GPUs, each
    process of a distributed run gets its own. `ACCELERATE_USE_CPU=true` asks for the CPU.
    """
    # Not at the top: the heart imports this package and must load without accelerate.
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    device: torch.device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    return device
