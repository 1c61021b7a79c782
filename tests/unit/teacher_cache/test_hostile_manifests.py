"""Whatever stands in a manifest: one line is said, other stores are seen, nothing else is lost."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layermix.teacher_cache.maintenance import prune, stores, stores_text, verify
from layermix.teacher_cache.manifest import LOCK, MANIFEST, Identity
from layermix.teacher_cache.store import SignalStore

from ...spoiled import spoiled_json

NAMES = [
    "../victim",
    "/victim",
    ".",
    "",
    "lock",
    "manifest.json",
    f"{0:016}.safetensors",
    "\x1b[2J",
]


def holds(make_store: Callable[..., Path], data: Any) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        (home / "victim").write_text("precious")
        good, bad = make_store(home / "cache"), make_store(home / "cache", "other")
        valid = (bad / MANIFEST).read_text()
        identity = Identity(**json.loads(valid)["identity"] | {"layers": (1,)})
        (bad / MANIFEST).write_bytes(data.draw(spoiled_json(valid, NAMES)))
        listed = {store.folder: store for store in stores(home / "cache")}
        assert listed.keys() == {good, bad}
        assert listed[good].problem == ""
        assert listed[bad].problem.isprintable()
        assert len(listed[bad].problem) < 300
        text = stores_text(list(listed.values()), home)
        assert len(text.splitlines()) == 4 + 2 * bool(listed[bad].problem)
        assert all(line.isprintable() for line in text.splitlines())
        json.dumps([store.as_record() for store in listed.values()])
        said: list[str] = []
        SignalStore(bad, identity, said.append)
        assert all(line.isprintable() for line in said)
        assert verify(listed[good]) == {}
        verify(listed[bad])
        assert {path.name for path in bad.iterdir()} >= {LOCK, MANIFEST}
        assert not prune(home / "cache", 0).kept
        assert sorted(home.rglob("*")) == [home / "cache", home / "victim"]


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_a_hostile_manifest_does_no_harm(make_store: Callable[..., Path], data: Any) -> None:
    holds(make_store, data)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=3000, deadline=None)
def test_three_thousand_hostile_manifests_do_no_harm(
    make_store: Callable[..., Path], data: Any
) -> None:
    holds(make_store, data)
