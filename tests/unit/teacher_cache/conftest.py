"""A small store that is made quickly."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from layermix.teacher_cache.manifest import Identity
from layermix.teacher_cache.store import Row, SignalStore, row_key


@pytest.fixture(scope="session")
def make_store() -> Callable[..., Path]:
    """`make_store(root, teacher="teacher", rows=3)`: the folder of a new store in a cache."""

    def make(root: Path, teacher: str = "teacher", rows: int = 3) -> Path:
        identity = Identity(teacher, (1,), False, 2, 2, "float32", "float32", "setup")
        store = SignalStore(root / identity.name, identity, pytest.fail)
        with store.filling():
            store.add(
                [
                    Row(row_key([[number]]), torch.zeros(2), torch.ones(1, 3, 2), 3)
                    for number in range(rows)
                ]
            )
        return store.folder

    return make
