"""Distil a fine-tuned transformer encoder into a small, fast text classifier.

Names are resolved when they are first used: `import layermix` loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layermix.config import DataConfig as DataConfig
    from layermix.config import DistillConfig as DistillConfig
    from layermix.config import TeachConfig as TeachConfig
    from layermix.data import from_splits as from_splits
    from layermix.data import load_texts as load_texts
    from layermix.errors import LayermixError as LayermixError
    from layermix.hf import Classifier as Classifier
    from layermix.hf import copy_blocks as copy_blocks
    from layermix.hf import fresh_student as fresh_student
    from layermix.hf import load_classifier as load_classifier
    from layermix.objective import Objective as Objective
    from layermix.objective import build_objective as build_objective
    from layermix.objective import param_groups as param_groups
    from layermix.run import distill as distill
    from layermix.run import distill_from as distill_from
    from layermix.run import teach as teach
    from layermix.run import teach_from as teach_from
    from layermix.trainer import DistillTrainer as DistillTrainer

_HOMES = {
    "DataConfig": "config",
    "DistillConfig": "config",
    "TeachConfig": "config",
    "load_texts": "data",
    "from_splits": "data",
    "LayermixError": "errors",
    "Classifier": "hf",
    "copy_blocks": "hf",
    "fresh_student": "hf",
    "load_classifier": "hf",
    "Objective": "objective",
    "build_objective": "objective",
    "param_groups": "objective",
    "distill": "run",
    "distill_from": "run",
    "teach": "run",
    "teach_from": "run",
    "DistillTrainer": "trainer",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'layermix' has no attribute {name!r}")
    return getattr(import_module(f"layermix.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
