"""Text that others wrote is shown as it is, and does nothing else."""

import itertools
import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from layermix.escaping import markdown, markdown_code, printable

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HOSTILE = [
    "<!-- layermix: export -->",
    "b\n# Injected heading\n<img src=http://127.0.0.1/x>",
    "a | b",
    "[a](http://x)",
    "![a][b]",
    "*a* _b_ `c` ~~d~~ **e",
    "&lt;b&gt;",
    "# a",
    "1. a",
    "- a",
    "> a",
    "ends with \\",
    "\\| a",
    "__init__",
    "<http://x.y>",
]
TEXTS = st.text(st.sampled_from(" ab_*`~|[]()<>!&#;:+-.1\\\n\t\x1b\x9b\u202e"), max_size=12)


def seen(text: str) -> str:
    """What a reader of Markdown should see."""
    return " ".join(printable(text).split())


def text_of(source: str, kind: str) -> list[str]:
    """The text of each block of a kind; fails if there is anything but text in them."""
    found = []
    tokens = READER.parse(source)
    for before, token in itertools.pairwise(tokens):
        if token.type == "inline" and before.type == kind:
            parts = token.children or []
            assert {part.type for part in parts} <= {"text", "text_special", "code_inline"}
            found.append("".join(part.content for part in parts))
    return found


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("<!-- layermix: export -->")
@example("1 #")
@example("--")
def test_markdown_shows_any_text_as_it_is(text: str) -> None:
    line, wanted = markdown(text), seen(text)
    assert text_of(f"classes: {line}.", "paragraph_open") == [f"classes: {wanted}."]
    assert text_of(f"# {line}", "heading_open") == ([wanted] if wanted else [""])
    table = f"| a | b |\n| --- | --- |\n| {line} | c |"
    assert text_of(table, "td_open") == [wanted, "c"]
    if wanted:
        assert text_of(f"- {line}", "paragraph_open") == [wanted]
        assert text_of(f"from {markdown_code(text)} on", "paragraph_open") == [f"from {wanted} on"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_markdown(text: str) -> None:
    test_markdown_shows_any_text_as_it_is.hypothesis.inner_test(text)
    assert "<" not in markdown(text)


@pytest.mark.parametrize("name", ["not_equivalent", "5 stars", "C++", "a-b", "-1", "résumé", "#1"])
def test_usual_names_stay_as_they_are(name: str) -> None:
    assert markdown(name) == printable(name) == name


@given(st.text(st.characters(), max_size=20))
def test_a_terminal_gets_nothing_that_it_obeys(text: str) -> None:
    shown = printable(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert printable(shown) == shown
    shown.encode("utf-8")


@given(st.text(st.characters(), max_size=20))
def test_json_stays_the_same_json(text: str) -> None:
    assert json.loads(printable(json.dumps({"a": text}, ensure_ascii=False))) == {"a": text}
