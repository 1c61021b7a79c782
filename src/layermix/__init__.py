"""Distil a fine-tuned transformer encoder into a small, fast text classifier.

Names are resolved when they are first used: `import layermix` loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layermix.config import DataConfig as DataConfig
    from layermix.config import DistillConfig as DistillConfig
    from layermix.config import PretrainConfig as PretrainConfig
    from layermix.config import TeachConfig as TeachConfig
    from layermix.core.objective import Objective as Objective
    from layermix.core.objective import build_objective as build_objective
    from layermix.core.objective import param_groups as param_groups
    from layermix.core.trainer import DistillTrainer as DistillTrainer
    from layermix.data.texts import from_splits as from_splits
    from layermix.data.texts import load_texts as load_texts
    from layermix.errors import LayermixError as LayermixError
    from layermix.models.encoder import Classifier as Classifier
    from layermix.models.loading import load_classifier as load_classifier
    from layermix.models.students import copy_blocks as copy_blocks
    from layermix.models.students import fresh_student as fresh_student
    from layermix.models.vocabulary import trim_vocabulary as trim_vocabulary
    from layermix.runs.pipeline import distill as distill
    from layermix.runs.pipeline import distill_from as distill_from
    from layermix.runs.pipeline import make_student as make_student
    from layermix.runs.pipeline import teach as teach
    from layermix.runs.pipeline import teach_from as teach_from
    from layermix.runs.pretraining import pretrain as pretrain

_HOMES = {
    "DataConfig": "config.schema",
    "DistillConfig": "config.schema",
    "PretrainConfig": "config.schema",
    "TeachConfig": "config.schema",
    "load_texts": "data.texts",
    "from_splits": "data.texts",
    "LayermixError": "errors",
    "Classifier": "models.encoder",
    "copy_blocks": "models.students",
    "fresh_student": "models.students",
    "load_classifier": "models.loading",
    "trim_vocabulary": "models.vocabulary",
    "Objective": "core.objective",
    "build_objective": "core.objective",
    "param_groups": "core.objective",
    "distill": "runs.pipeline",
    "distill_from": "runs.pipeline",
    "make_student": "runs.pipeline",
    "pretrain": "runs.pretraining",
    "teach": "runs.pipeline",
    "teach_from": "runs.pipeline",
    "DistillTrainer": "core.trainer",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'layermix' has no attribute {name!r}")
    return getattr(import_module(f"layermix.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
