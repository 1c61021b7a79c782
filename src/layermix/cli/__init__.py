"""The command line; `main` is its entry point.

`options` turns config fields into options and holds those that commands share; `command` groups
the help and turns errors into exit codes. The commands are in `train`, `models`, `cache`,
`studies`, `search`, `report` and `reference`; each imports torch and the like only when it runs.
"""

import io
import os
import sys
from typing import Any

import click

from layermix.cli.cache import cache_group
from layermix.cli.models import (
    bench_command,
    check_command,
    evaluate_command,
    export_command,
    predict_command,
    trim_command,
)
from layermix.cli.reference import list_command, schema_command
from layermix.cli.report import report_command
from layermix.cli.search import search_command
from layermix.cli.studies import reproduce_command, study_command
from layermix.cli.train import (
    audit_command,
    augment_command,
    baseline_command,
    demo_command,
    distill_command,
    pretrain_command,
    teach_command,
)
from layermix.escaping import printable


class Commands(click.Group):
    """The commands; what is wrong with a command line is told in printable text."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = printable(error.message)  # type: ignore[misc]  # click only reads it
            raise


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`layermix COMMAND --help` lists a command's options; `layermix schema` describes its "
    "YAML file.",
)
@click.version_option(package_name="layermix")
def main() -> None:
    """Distil a fine-tuned transformer encoder into a small, fast text classifier.

    \b
    A first look, nothing to download:
      layermix demo
    Your own data, a folder with train.csv (and validation.csv), or one file:
      layermix teach --model minilm --data FOLDER --out TEACHER
      layermix distill --teacher TEACHER --data FOLDER --out RUN
      layermix predict RUN new.csv --out labels.csv
    """  # noqa: D301  # \b above is for click
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed: `layermix … >&-`
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # stays
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # printed results are data, the same everywhere


for subcommand in (
    audit_command,
    augment_command,
    baseline_command,
    bench_command,
    cache_group,
    check_command,
    demo_command,
    distill_command,
    evaluate_command,
    export_command,
    list_command,
    predict_command,
    pretrain_command,
    report_command,
    reproduce_command,
    schema_command,
    search_command,
    study_command,
    teach_command,
    trim_command,
):
    main.add_command(subcommand)
