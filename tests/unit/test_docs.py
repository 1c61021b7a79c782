"""The site builds without a warning, asks no other host, knows every name; links lead somewhere."""

import html
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from layermix.cli import main
from layermix.config import DistillConfig, TeachConfig, field_names
from layermix.core.losses import ATTENTION, HIDDEN, LOGIT, SUPERVISED
from layermix.core.mixing import MIXES
from layermix.data.tasks import TASKS
from layermix.studies.plan import make_plan
from layermix.studies.spec import load_study

SOURCE = Path(__file__).parents[2]
DOCS = SOURCE / "docs"
RESULTS = SOURCE / "results"
SEARCHES = sorted(RESULTS.glob("*/*.search.json"))
STUDIES = [
    plan
    for plan in sorted(RESULTS.glob("*/*.plan.json"))
    if not any(one.parent == plan.parent for one in SEARCHES)
]
TABLES = [plan.with_name(plan.name.replace(".plan.json", ".md")) for plan in STUDIES]
PAGES = sorted([*DOCS.rglob("*.md"), RESULTS / "index.md", *TABLES])
REPORTS = [
    file.with_name(re.sub(r"\.(plan|search)\.json$", ".report.html", file.name))
    for file in (*STUDIES, *SEARCHES)
]
"""Pages that are made when the site is."""
READMES = [SOURCE / "README.md", SOURCE / "README.ko.md"]
MISSING = [name for name in ("mkdocs", "material", "mkdocstrings") if find_spec(name) is None]
LOADING = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
"""Tags that make a browser load what an attribute names."""
ELSEWHERE = re.compile(r"\s*(https?:)?//", re.IGNORECASE)


class Loaded(HTMLParser):
    """What a page loads, and its policies."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.places: list[str] = []
        self.policies: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if place := found.get(LOADING.get(tag, "")):
            self.places.append(place)
        if tag == "meta" and found.get("http-equiv") == "Content-Security-Policy":
            self.policies.append(found.get("content") or "")


@pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not installed; `make docs` brings it")
def test_the_site(tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=SOURCE,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    pages = sorted(site.rglob("*.html"))
    expected = [*(page.stem for page in PAGES), "404", *(page.stem for page in REPORTS)]
    assert sorted(page.stem for page in pages) == sorted(expected)
    assert not list(site.rglob("*.parquet"))
    for page in pages:
        loaded = Loaded(page)
        if page.name.endswith(".report.html"):
            assert not loaded.places  # it is one file
        else:
            assert len(loaded.places) > 3  # styles and a script, at the least
        assert not [place for place in loaded.places if ELSEWHERE.match(place)], page
        assert len(loaded.policies) == 1
        assert "default-src 'none'" in loaded.policies[0]
        assert "http" not in loaded.policies[0]
        assert "{{" not in re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL)
    for sheet in site.rglob("*.css"):
        places = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", sheet.read_text())
        assert not [place for place in places if ELSEWHERE.match(place)], sheet
    assert not list(site.rglob("*.py*"))
    choosing = (site / "choosing.html").read_text(encoding="utf-8")
    data = (site / "your-data.html").read_text(encoding="utf-8")
    told = html.unescape(re.sub("<[^>]+>", "", choosing))
    for table in (MIXES, SUPERVISED, LOGIT, HIDDEN, ATTENTION):
        assert not [name for name in table if f"<code>{name}</code>" not in choosing]
        assert not [row for row in table.values() if row.summary.replace("`", "") not in told]
    fields = {*field_names(DistillConfig), *field_names(TeachConfig)}
    assert not [name for name in fields if f"<code>{name}</code>" not in choosing + data]
    assert not [name for name in TASKS if f"<code>{name}</code>" not in data]


@pytest.mark.parametrize("page", [*READMES, *PAGES], ids=lambda page: page.name)
def test_links_lead_to_files_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    inner = [link.partition("#")[0] for link in links if not ELSEWHERE.match(link)]
    assert page not in READMES or len(inner) > 4
    files = [Path(os.path.normpath(page.parent / link)) for link in inner if link]
    assert not [file for file in files if not file.is_file() and file not in REPORTS]


def commands(page: Path) -> Iterator[str]:
    """Every `layermix …` of a page's bash blocks."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("layermix "):
                yield line.strip()


@pytest.mark.parametrize("page", [*READMES, *PAGES], ids=lambda page: page.name)
def test_commands_are_understood(page: Path) -> None:
    """Words and options exist; nothing is run."""
    for line in commands(page):
        command: click.Command = main
        words = shlex.split(line)[1:]
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        if "--help" not in words:
            command.make_context("layermix", words)


def test_the_study_of_controls_has_a_plan(tmp_path: Path) -> None:
    text = (SOURCE / "docs" / "choosing.md").read_text(encoding="utf-8")
    (study,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "controls.yaml"
    file.write_text(study, encoding="utf-8")
    plan = make_plan(load_study(file), None)
    assert {*MIXES, "ce_only", "logit_only"} == {cell.arm for cell in plan.cells}
