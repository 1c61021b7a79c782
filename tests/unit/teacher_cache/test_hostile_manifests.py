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

NAMES = st.sampled_from(
    ["../victim", "/victim", ".", "", "lock", "manifest.json", "0" * 16 + ".safetensors", "\x1b[2J"]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=8)
    | NAMES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def changed(draw: st.DrawFn, valid: str) -> bytes:
    """A valid manifest with some values or keys replaced, or other bytes."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
    content = json.loads(valid)
    for _ in range(draw(st.integers(1, 3))):
        parent = content
        while isinstance(parent, dict) and parent:
            key = draw(st.sampled_from(sorted(parent)))
            if isinstance(parent[key], dict) and draw(st.integers(0, 3)):
                parent = parent[key]
                continue
            value = draw(VALUES)
            if draw(st.booleans()):
                parent[draw(NAMES | st.text(max_size=8))] = parent.pop(key)
            else:
                parent[key] = value
            break
    text = json.dumps(content)
    if draw(st.integers(0, 5)) == 0:
        text = text[: draw(st.integers(0, len(text)))]
    return text.encode("utf-8", "surrogatepass")


def holds(make_store: Callable[..., Path], data: Any) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        (home / "victim").write_text("precious")
        good, bad = make_store(home / "cache"), make_store(home / "cache", "other")
        valid = (bad / MANIFEST).read_text()
        identity = Identity(**json.loads(valid)["identity"] | {"layers": (1,)})
        (bad / MANIFEST).write_bytes(data.draw(changed(valid)))
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
