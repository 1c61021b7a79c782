"""`whole`: a config with every term of the objective on and a mix that learns.

Tests of the heart and of runs start from it and override sections.
"""

from typing import Any

from layermix.config import DistillConfig, merge, spell_out

WHOLE: dict[str, Any] = {
    "preset": "quick",
    "mix": {"strategy": "learned"},
    "loss": {"hidden_weight": 1},
}


def whole(**sections: Any) -> DistillConfig:
    """A config with `WHOLE` under its sections, unless they name a preset."""
    given = spell_out(DistillConfig, sections)
    return DistillConfig.model_validate(given if "preset" in given else merge(WHOLE, given))
