"""Which process of a run this is, as `torchrun`, `accelerate launch` or `mpirun` say.

All processes run the same program; the main one alone owns the run folder, the console and whatever
else is there once. `hardware.processes` has what they tell one another.
"""

import os
from collections.abc import Sequence

ENGINES = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""Environment variable of `accelerate launch` -> the engine that it asks for."""


NUMBERS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables with the number of a process and how many there are: torchrun's, then those of MPI."""


def rank() -> int:
    """The number of this process, from 0; 0 is the main one, and one that is alone."""
    return 0 if world_size() == 1 else _first(NUMBERS, 0)


def world_size() -> int:
    """How many processes work on the run."""
    return _first(SIZES, 1)


def _first(names: Sequence[str], default: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)


def is_main() -> bool:
    """Whether this is the process that owns what is there once."""
    return rank() == 0


def launch_problems() -> list[str]:
    """What was asked of the launcher and is not done here."""
    problems = [
        f"the processes were launched for {name}, which splits a model that does not fit one "
        "device; encoders fit, and are trained by plain DDP: launch without it"
        for variable, name in ENGINES.items()
        if os.environ.get(variable, "false").lower() in ("true", "1")
    ]
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", ""):
        problems.append(
            f"the processes were launched with --mixed_precision {precision}; launch with "
            "--mixed_precision no, and choose with --training.precision"
        )
    return problems
