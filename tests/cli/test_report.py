"""`layermix report` on a run that the command line has made."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.wheel
def test_a_run_gets_its_page_and_figures(cli: Any, student: Path, place: Path) -> None:
    done = cli("report", student, "--out", "page.html", "--figures", "figures")
    assert done.code == 0, done.err
    assert done.out.startswith("The page is page.html: open it in a browser.")
    text = (place / "page.html").read_text("utf-8")
    score = json.loads((student / "result.json").read_text())["metrics"]["last"]["validation"]
    assert f"The student has accuracy {score['accuracy']:.4f} on validation" in text
    assert (place / "figures" / "alpha.svg").read_bytes().startswith(b"<svg")
    assert (
        f"{len(list((place / 'figures').iterdir()))} files of figures are in figures." in done.out
    )
    quiet = cli("report", student, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert (student / "report.html").is_file()
    (student / "report.html").unlink()


def test_a_teacher_gets_its_page(cli: Any, teacher: Path, place: Path) -> None:
    assert cli("report", teacher, "--out", "teacher.html").code == 0
    assert "layermix teach " in (place / "teacher.html").read_text("utf-8")


def test_something_else_gets_none(cli: Any, data: Path, untouched: None) -> None:
    done = cli("report", data)
    assert done.code == 2
    assert "no run and no study; wanted a folder that `layermix teach`" in done.err
    done = cli("report", data, "--watch", "--figures", "x")
    assert done.code == 2
    assert "--watch and --figures cannot go together" in done.err


def test_watching_ends_with_control_c(
    start: Callable[..., Any], student: Path, place: Path
) -> None:
    page = place / "watched.html"
    process = start("report", str(student), "--watch", "--out", str(page))
    until = time.monotonic() + 60
    while not page.is_file() and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert b"stopped; the last page that was written stays" in err
    assert 'id="live"' not in page.read_text("utf-8")  # this run is finished


@pytest.mark.parametrize("name", ["altair", "jinja2", "vl_convert"])
def test_a_missing_extra_is_told(name: str, student: Path) -> None:
    code = (
        f"import sys; sys.modules[{name!r}] = None; from layermix.cli import main; "
        f"main(['report', {str(student)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{name} is not installed. A report needs the extra" in done.stderr
