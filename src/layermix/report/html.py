"""The content of a page, and its rendering as one self-contained HTML file."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import vl_convert

from layermix.report.figures import Figure

TEMPLATE = ("page.html", "page.css", "page.js")


@dataclass(frozen=True)
class Table:
    """A small table; its cells are text."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Search:
    """A searchable table of rows on which predictions differ."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A heading with text, tables and charts."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    search: Search | None = None


@dataclass(frozen=True)
class Page:
    """The content of a page.

    Attributes:
        title: Its heading.
        status: `ok`, `failed`, `cancelled` or `unfinished`.
        headline: The main results, in sentences.
        notes: Limits and problems to know before using the results, in sentences.
        sections: In order.
        record: Name -> text: config, environment, commands.
    """

    title: str
    status: str
    headline: Sequence[str]
    notes: Sequence[str]
    sections: Sequence[Section]
    record: Mapping[str, str] = field(default_factory=dict)

    @property
    def figures(self) -> list[Figure]:
        """All figures."""
        return [figure for section in self.sections for figure in section.figures]


def render(page: Page, live: bool = False) -> str:
    """The page as one self-contained HTML file.

    Args:
        page: The content.
        live: Whether the browser reloads the page regularly.
    """
    folder = files("layermix.report") / "template"
    asset = {name: (folder / name).read_text(encoding="utf-8") for name in TEMPLATE}
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    specs = {figure.name: figure.spec() for figure in page.figures}
    searches = [section.search.rows for section in page.sections if section.search]
    html: str = environment.from_string(asset["page.html"]).render(
        page=page,
        live=live,
        style=asset["page.css"],
        script=asset["page.js"],
        vega=_vega() if specs else "",
        data=_json({"figures": specs, "searches": searches}),
    )
    return html.encode("utf-8", "replace").decode()  # JSON of others may hold halves of characters


def _json(value: Any) -> str:
    """JSON that is safe in a script element, whatever its strings contain."""
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(value: Any) -> Any:
    """Values with null for NaN and infinity, which JSON lacks: a diverged loss leaves a gap."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


@cache
def _vega() -> str:
    """The charting library as one script; building it takes a second."""
    bundle: Any = vl_convert.javascript_bundle  # its stub requires an optional argument
    code: str = bundle()
    return code.replace("</script", "<\\/script")
