"""Writes docs/images/report.png, the README's picture, from a run of `make demo`.

    python docs/picture.py demo-out/learned

It needs Chromium and the extra `dev`.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from layermix.report.build import report

PICTURE = Path(__file__).parent / "images" / "report.png"
SHOWN = ("Scores", "α")
"""Titles of the sections in the picture."""
HIDE = """shown => {
    for (const section of document.querySelectorAll("main > section:not(.headline)")) {
        section.hidden = !shown.includes(section.querySelector("h2").textContent.trim());
    }
    const others = "details, footer, #figure-milliseconds";
    for (const other of document.querySelectorAll(others)) other.hidden = true;
}"""


def main(run: Path) -> None:
    """Write the picture of a run's page, light and without the tables behind the figures."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file, _ = report(run, Path(folder) / "report.html")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": 1100, "height": 800}, device_scale_factor=1.5, color_scheme="light"
        )
        page.goto(page_file.as_uri())
        page.wait_for_function("document.documentElement.dataset.drawn === 'yes'")
        page.evaluate(HIDE, SHOWN)
        page.screenshot(path=PICTURE, full_page=True)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
