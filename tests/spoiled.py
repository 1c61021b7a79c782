"""Spoils the content of a file, for hypothesis: what a fault of a disk or a person may leave."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st


def values(names: Sequence[str]) -> st.SearchStrategy[Any]:
    """JSON values that do not belong where they are put.

    Args:
        names: Words that may do harm, among other texts and the keys.
    """
    words = st.sampled_from(names)
    plain = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.integers(-(10**30), 10**30)
        | st.floats()
        | st.text(max_size=8)
        | words
    )
    return st.recursive(
        plain,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(words | st.text(), inner, max_size=4)
        ),
        max_leaves=12,
    )


@st.composite
def spoiled_json(draw: st.DrawFn, valid: str, names: Sequence[str]) -> bytes:
    """A JSON object with some values or keys replaced or removed, cut off, or other bytes."""
    if draw(st.integers(0, 4)) == 0:
        other = values(names).map(lambda value: json.dumps(value).encode())
        return draw(st.binary(max_size=60) | other)
    content = json.loads(valid)
    for _ in range(draw(st.integers(1, 3))):
        parent = content
        while parent:
            key = draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else [0, -1]))
            if isinstance(parent[key], dict | list) and draw(st.integers(0, 3)):
                parent = parent[key]
                continue
            how = draw(st.sampled_from(["replace", "replace", "rename", "remove"]))
            if how == "replace":
                parent[key] = draw(values(names))
            else:
                value = parent.pop(key)
                if how == "rename" and isinstance(parent, dict):
                    parent[draw(st.sampled_from(names) | st.text(max_size=8))] = value
            break
    text = json.dumps(content)
    if draw(st.integers(0, 5)) == 0:
        text = text[: draw(st.integers(0, len(text)))]
    return text.encode("utf-8", "surrogatepass")


@st.composite
def spoiled_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes that were cut off, zeroed, changed in one place, or put after others."""
    place = draw(st.integers(0, len(valid)))
    changed = bytes([draw(st.integers(0, 255))])
    return draw(
        st.sampled_from(
            [
                valid[:place],
                valid[:place] + bytes(len(valid) - place),
                valid[:place] + changed + valid[place + 1 :],
                valid + changed,
            ]
        )
    )
