"""The pages in a real browser, from disk, without a network."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from layermix.report.build import report

from .conftest import NASTY

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
SERIOUS = ("serious", "critical")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian's package is called chromium)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *QUIET]
        )
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Page]]:
    """`opened(file, **context)`: the page once it has drawn everything; errors fail the test."""
    problems: list[str] = []
    contexts = []

    def open_page(file: Path, **options: Any) -> Page:
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page: Page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(request.url))
        page.on(
            "console",
            lambda said: problems.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.goto(file.as_uri())
        page.wait_for_function("document.documentElement.dataset.drawn === 'yes'")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def run_page(run_folder: Callable[..., Path]) -> Path:
    return report(run_folder())[0]


@pytest.fixture
def study_page(study_folder: Callable[..., Any]) -> Path:
    arms = {"fixed": {"mix": "fixed"}, NASTY: {"mix": "learned"}, "uniform": {"mix": "uniform"}}
    published = {"mrpc": {"fixed": {"accuracy": 0.7}}}
    study = study_folder(title=NASTY, arms=arms, family=[[NASTY, "fixed"]], published=published)
    return report(study.folder)[0]


def numbers(page: Page, figure: str) -> list[str]:
    """The numbers written in the cells of a heat map."""
    return page.locator(f"#figure-{figure} .role-mark.mark-text text").all_text_contents()


def test_every_figure_is_drawn(opened: Callable[..., Page], study_page: Path) -> None:
    page = opened(study_page)
    figures = page.locator("figure[data-figure]")
    assert figures.count() == 11
    assert page.locator("figure .chart svg").count() == figures.count()
    assert page.locator("#figure-scores-mrpc .mark-symbol path").count() == 3 * 8 + 3


def test_the_slider_moves_alpha_through_time(opened: Callable[..., Page], run_page: Path) -> None:
    page = opened(run_page)
    slider = page.get_by_label("step", exact=True)
    assert slider.get_attribute("aria-valuetext") == "step 20"
    assert sorted(numbers(page, "alpha"))[:3] == ["0.10", "0.20", "0.20"]
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('#figure-alpha output').value === '5'")
    page.wait_for_function(
        "[...document.querySelectorAll('#figure-alpha .role-mark.mark-text text')]"
        ".some((one) => one.textContent === '0.40')"
    )
    assert "0.70" not in numbers(page, "alpha")


def test_the_disagreements_can_be_searched(opened: Callable[..., Page], run_page: Path) -> None:
    page = opened(run_page)
    rows = page.locator(".search tbody tr")
    assert rows.count() == 12
    search = page.get_by_label("Search")
    search.fill("NUMBER33 <script>")
    assert rows.count() == 0
    search.fill("Number33")
    assert rows.count() == 1
    assert "number33" in rows.first.inner_text()
    assert page.locator(".search output").inner_text() == "1 of 12 rows"
    search.fill("")
    assert rows.count() == 12


def test_long_tables_are_shown_in_parts(
    opened: Callable[..., Page], study_folder: Callable[..., Any]
) -> None:
    page = opened(report(study_folder().folder)[0])
    rows = page.locator(".search tbody tr")
    shown = rows.count()
    assert shown == 20
    page.get_by_role("button", name="Show more").click()
    assert rows.count() > shown


def test_texts_and_names_of_the_data_are_text(
    opened: Callable[..., Page], run_folder: Callable[..., Path], study_page: Path
) -> None:
    page = opened(report(run_folder(name=f"run {NASTY.replace('/', '')}"))[0])
    assert page.title() != "hacked"
    assert page.locator("img").count() == 0
    assert page.locator(".search tbody script").count() == 0
    for shown in ("<script>document.title='hacked'</script>", "שלום עולם", "🦊", "quotes \" and '"):
        assert page.locator(".search td", has_text=shown).count() >= 1
    assert page.locator(".search td", has_text=NASTY).count() >= 1
    page = opened(study_page)
    assert NASTY in page.locator("h1").inner_text()
    assert page.title() != "hacked"


def test_the_numbers_behind_a_figure(opened: Callable[..., Page], study_page: Path) -> None:
    page = opened(study_page)
    figure = page.locator("#figure-scores-mrpc")
    assert figure.locator("details table").count() == 0
    figure.locator("summary").click()
    figure.locator("details table").first.wait_for()
    assert figure.locator("details table").count() == 3
    assert figure.locator("details table").first.locator("tbody tr").count() == 24
    head = figure.locator("details table").first.locator("th").all_text_contents()
    assert head == ["arm", "seed", "score"]


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("run_page", "light"),
        ("study_page", "dark"),
        pytest.param("run_page", "dark", marks=pytest.mark.slow),
        pytest.param("study_page", "light", marks=pytest.mark.slow),
    ],
)
def test_nothing_keeps_a_reader_out(
    opened: Callable[..., Page], request: pytest.FixtureRequest, kind: str, scheme: str
) -> None:
    page = opened(request.getfixturevalue(kind), color_scheme=scheme)
    page.locator("summary").first.click()
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert ink == ("rgb(27, 27, 27)" if scheme == "light" else "rgb(232, 230, 227)")
    label = page.locator("figure svg .role-axis-label text").first
    assert label.evaluate("(one) => getComputedStyle(one).fill") == ink
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in SERIOUS] == []


def test_a_page_that_reloads_itself_can_be_stopped(
    opened: Callable[..., Page], run_folder: Callable[..., Path]
) -> None:
    folder = run_folder("going.partial")
    (folder / "result.json").unlink()
    page = opened(report(folder.with_name("going"), live=True)[0])
    assert [v["id"] for v in Axe().run(page).response["violations"] if v["impact"] in SERIOUS] == []
    page.get_by_role("button", name="Reloads automatically").click()
    assert (
        page.get_by_role("button", name="Does not reload").get_attribute("aria-pressed") == "false"
    )


@pytest.mark.parametrize("kind", ["run_page", "study_page"])
def test_a_telephone_scrolls_one_way_only(
    opened: Callable[..., Page], request: pytest.FixtureRequest, kind: str
) -> None:
    page = opened(request.getfixturevalue(kind), viewport={"width": 360, "height": 720})
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_on_paper_it_is_black_on_white(opened: Callable[..., Page], study_page: Path) -> None:
    page = opened(study_page, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not page.locator("nav").is_visible()
    assert page.locator("figure .chart svg").first.is_visible()
