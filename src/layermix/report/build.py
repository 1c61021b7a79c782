"""Builds the page of a run, a study or a search from its files alone, without torch or network."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from layermix.atomic import write_text
from layermix.errors import ReportError
from layermix.report import figures
from layermix.report.html import Page, render
from layermix.report.run_page import run_page
from layermix.report.search_page import search_page
from layermix.report.study_page import study_page
from layermix.runs.reader import RunFiles, both_names, reason_of
from layermix.runs.schema import read_text
from layermix.search.schema import SUFFIX, SearchRecord
from layermix.studies.folder import PLAN_SUFFIX, Study
from layermix.studies.schema import PlanRecord

POLL_SECONDS = 2.0


def report(
    source: Path, out: Path | None = None, figure_folder: Path | None = None, live: bool = False
) -> tuple[Path, list[Path]]:
    """Write the page of a run, a study or a search.

    Args:
        source: The folder; if it holds several studies or searches, the file `NAME.json` of one.
        out: The page; by default `report.html` in the folder of a run, `NAME.report.html` beside
            an unfinished run, `NAME.html` for a study or a search.
        figure_folder: Where charts are written as SVG, PDF, PNG and CSV; None writes none.
        live: Whether the browser reloads the page regularly.

    Returns:
        The page and the files of its charts.

    Raises:
        ReportError: If there is no run, no study and no search.
    """
    if out is not None and out.is_dir():
        raise ReportError(f"--out {out}: is a folder; give the name of a file, such as page.html")
    if out is not None and not out.absolute().parent.is_dir():
        raise ReportError(f"--out {out}: there is no folder {out.parent}; create it first")
    page, place = page_of(source)
    target = out or place
    write_text(target, render(page, live and page.status == "unfinished"))
    saved = figures.save_all(page.figures, figure_folder) if figure_folder else []
    return target, saved


def watch(source: Path, out: Path | None, on_page: Callable[[Path], None]) -> NoReturn:
    """Write the page again whenever the files change, until the process is stopped.

    Args:
        source: As in `report`.
        out: As in `report`.
        on_page: Called with the page each time that it was written.
    """
    before: Any = None
    while True:
        try:
            now = _state(source)
            if now != before:
                on_page(report(source, out, live=True)[0])
                before = now
        except (OSError, ReportError):
            if before is None:  # later, the folder may be missing while it is renamed
                raise
        time.sleep(POLL_SECONDS)


def _state(source: Path) -> dict[str, int]:
    """Modification times of the files that a page is built from."""
    is_file = source.suffix == ".json" and not source.is_dir()
    roots = (source.parent,) if is_file else both_names(source)
    patterns = ("*.json", "*.jsonl", "*.parquet", "cells/[!.]*/result.json")
    return {
        str(file): file.stat().st_mtime_ns
        for root in roots
        for pattern in patterns
        for file in root.glob(pattern)
    }


def page_of(source: Path) -> tuple[Page, Path]:
    """The page of a folder, and its default place.

    Raises:
        ReportError: If there is no run, study or search, or several.
    """
    if source.name.endswith(SUFFIX) and not source.is_dir():
        return _search(source)
    if source.suffix == ".json" and not source.is_dir():
        name = source.name.removesuffix(PLAN_SUFFIX).removesuffix(".json")
        study = Study(source.parent, name.removesuffix(".declared"))
        if not study.plan_file.is_file():
            raise ReportError(
                f"{source}: found no {study.plan_file.name} beside it; wanted a file of a study "
                "(NAME.json, or NAME.plan.json), or a folder"
            )
        return _study(study)
    searches = sorted(source.glob(f"*{SUFFIX}"))
    if len(searches) > 1:
        listed = ", ".join(map(str, searches))
        raise ReportError(f"{source}: found {len(searches)} searches; give one of {listed}")
    if searches:
        return _search(searches[0])
    plans = sorted(source.glob(f"*{PLAN_SUFFIX}"))
    if len(plans) > 1:
        listed = ", ".join(map(str, plans))
        raise ReportError(f"{source}: found {len(plans)} studies; give one of {listed}")
    if plans:
        return _study(Study(source, plans[0].name.removesuffix(PLAN_SUFFIX)))
    run = RunFiles(source)
    if run.is_pretraining:
        raise ReportError(
            f"{source}: holds a pretrained encoder, which has no scores to report; its loss on "
            "held-out rows is in result.json and history.jsonl. Distil it on a task, and report "
            "that run"
        )
    # A page inside an unfinished folder would move when the folder is renamed.
    unfinished = run.folder.with_name(f"{run.name}.report.html")
    return run_page(run), unfinished if run.is_working else run.folder / "report.html"


def _search(file: Path) -> tuple[Page, Path]:
    try:
        record = SearchRecord.from_json(read_text(file))
    except FileNotFoundError:
        raise ReportError(f"{file}: no such file; wanted the record of a search") from None
    except ValueError as error:
        raise ReportError(
            f"{file} is damaged ({reason_of(error)}); remove it, and the search's own command "
            "makes it again from the finished trainings"
        ) from None
    return search_page(record), file.with_suffix(".html")


def _study(study: Study) -> tuple[Page, Path]:
    file = study.plan_file
    try:
        plan = PlanRecord.from_json(read_text(file)).plan()
    except ValueError as error:
        raise ReportError(
            f"{file} is damaged ({reason_of(error)}); run the study's own command again "
            "(`layermix study STUDY.yaml --out …`): it writes this file, and does not repeat "
            "finished cells"
        ) from None
    return study_page(plan, study), study.folder / f"{study.name}.html"
