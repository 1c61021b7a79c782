"""A config written as YAML, and the message with which it is refused."""

from pathlib import Path
from typing import Any

import pytest

from layermix.config import DistillConfig, TeachConfig, load
from layermix.errors import ConfigError

Kind = type[DistillConfig] | type[TeachConfig]


@pytest.fixture
def yaml(tmp_path: Path) -> Any:
    """`yaml(text)`: the path of a YAML file that holds it."""

    def write(text: str) -> Path:
        file = tmp_path / "c.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def problems(kind: Kind, file: Path | None = None, flags: dict[str, str] | None = None) -> str:
    """The message with which this config is refused."""
    with pytest.raises(ConfigError) as caught:
        load(kind, file, flags)
    return str(caught.value)
