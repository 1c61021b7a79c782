"""What tests of data share."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from layermix.errors import DataError

Row = dict[str, Any]


def write_jsonl(file: Path, of: Sequence[Row]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in of))


def problems_of(call: Callable[[], Any]) -> list[str]:
    with pytest.raises(DataError) as caught:
        call()
    return list(caught.value.problems)
