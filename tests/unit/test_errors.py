import subprocess
import sys

import pytest

from layermix import errors
from layermix.errors import (
    DataError,
    ExportError,
    LayermixError,
    NonFiniteLossError,
    PushError,
    StudyError,
    UnreadRowsError,
)


def test_a_data_error_lists_its_problems() -> None:
    assert str(DataError(["a:1: x"])) == "1 problem in the data:\n  a:1: x"
    error = DataError([f"a:{line}: x" for line in range(25)], hint="look there")
    lines = str(error).splitlines()
    assert lines[0] == "25 problems in the data:"
    assert lines[1:21] == [f"  a:{line}: x" for line in range(20)]
    assert lines[21:] == ["  … and 5 more", "look there"]
    assert len(error.problems) == 25


def test_exit_codes() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, LayermixError)]
    assert len(kinds) > 5
    for kind in kinds:
        late = (ExportError, NonFiniteLossError, PushError, StudyError, UnreadRowsError)
        assert kind.exit_code == (1 if kind in late else 2)


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import layermix; dir(layermix)", ("torch", "transformers", "pydantic", "numpy")),
        ("import layermix.errors, layermix.config", ("torch", "transformers", "numpy")),
    ],
)
def test_what_an_import_costs(statement: str, unwanted: tuple[str, ...]) -> None:
    code = f"{statement}; import sys; print([m for m in {unwanted} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_public_name() -> None:
    import layermix

    with pytest.raises(AttributeError, match="module 'layermix' has no attribute 'distil'"):
        _ = layermix.distil
