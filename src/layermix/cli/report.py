"""The command `report`: one HTML page for a run or a study."""

from pathlib import Path

import click

from layermix.cli.command import command
from layermix.cli.options import extra_needed
from layermix.console import echo
from layermix.errors import ConfigError


@command("report", stopped="stopped; the last page that was written stays")
@click.argument("source", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The HTML file to write.  [default: report.html in the folder]",
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also write every figure as SVG, PDF and PNG, and its data as CSV, to this folder.",
)
@click.option(
    "--watch", is_flag=True, help="Write the page again whenever the files change, until Ctrl-C."
)
def report_command(
    source: Path, out: Path | None, figures: Path | None, watch: bool, quiet: bool
) -> None:
    """Make an HTML page of a run, a study or a search.

    FOLDER is that of a run, a study or a search, or the results file of one of several. The page is
    one file that works offline: scores by seed, verdicts, learning curves, α over time, confusion
    matrix, calibration, and the rows on which teacher and student disagree. Unfinished and failed
    runs get a page too.
    """
    if watch and figures:
        raise ConfigError("--watch and --figures cannot go together; run once without --watch")
    with extra_needed("report", "A report"):
        from layermix.report import build
    if watch:
        build.watch(source, out, lambda page: None if quiet else echo(f"wrote {page}"))
    page, files = build.report(source, out, figures)
    if not quiet:
        echo(f"The page is {page}: open it in a browser.")
        if files:
            echo(f"{len(files)} files of figures are in {figures}.")
