"""The command line: one function per command, heavy imports inside it.

Options of `distill` and `teach` are made from the fields of the config, whose docstrings are the
help.
"""

import functools
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from layermix.config import ALIASES, DistillConfig, TeachConfig, field_names, load
from layermix.errors import LayermixError


class ConfigCommand(click.Command):
    """A command with an option per config field, its help grouped by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                name = max(parameter.opts, key=len).removeprefix("--")
                section = name.split(".")[0] if "." in name else "run"
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            with formatter.section(f"Options: {section}"):
                formatter.write_dl(records)


def config_options(kind: type[BaseModel], aliases: tuple[str, ...]) -> Callable[[Any], Any]:
    """Add an option for every field of a config; `aliases` are the short names on offer."""
    short = {ALIASES[alias]: alias for alias in aliases}

    def decorate(function: Any) -> Any:
        for dotted, field in reversed(field_names(kind).items()):
            name = short.get(dotted, dotted)
            text = " ".join((field.description or "").split())
            default = field.get_default()
            if default is not None and default is not False:
                text += f" [default: {default}]"
            option = click.option(
                f"--{name}",
                dotted.replace(".", "__"),
                help=text,
                metavar=_metavar(field.annotation),
                is_flag=field.annotation is bool,
                flag_value="true" if field.annotation is bool else None,
                default=None,
            )
            function = option(function)
        return function

    return decorate


def _metavar(annotation: Any) -> str:
    """What to write after an option: its choices, or the kind of value."""
    choices = getattr(annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    for kind, word in ((int, "N"), (float, "X")):
        if annotation is kind or kind in choices:
            return word
    return "A,B,…" if "tuple" in str(annotation) else "TEXT"


def command(name: str, **options: Any) -> Callable[[Callable[..., None]], click.Command]:
    """A command with --quiet and --debug, whose errors become one message and an exit code."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @click.option("--quiet", is_flag=True, help="No progress bars, no remarks.")
        @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
        @functools.wraps(function)
        def guarded(quiet: bool, debug: bool, **arguments: Any) -> None:
            try:
                function(quiet=quiet, **arguments)
            except LayermixError as error:
                if debug:
                    traceback.print_exc()
                click.echo(f"error: {error}", err=True)
                sys.exit(error.exit_code)
            except KeyboardInterrupt:
                click.echo("stopped; what was written so far is kept", err=True)
                sys.exit(130)

        return main.command(name, **options)(guarded)

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="layermix")
def main() -> None:
    r"""Distil a fine-tuned transformer encoder into a small, fast text classifier.

    \b
    A first look, nothing to download:   layermix demo
    Your own data:                       layermix teach   --model FOLDER --data FOLDER --out TEACHER
                                         layermix distill --teacher TEACHER --data FOLDER --out RUN
    """


CONFIG_FILE = click.argument(
    "config",
    required=False,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="[CONFIG.yaml]",
)
OUT = click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The run folder to make."
)
RESUME = click.option(
    "--resume", is_flag=True, help="Go on with an unfinished run, if there is one."
)
RESTART = click.option("--restart", is_flag=True, help="Throw an unfinished run away.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """The config flags that were typed, by dotted name."""
    return {name.replace("__", "."): value for name, value in fields.items() if value is not None}


@command("distill", cls=ConfigCommand)
@CONFIG_FILE
@OUT
@RESUME
@RESTART
@JSON
@config_options(DistillConfig, ("teacher", "student", "data"))
def distill(
    config: Path | None,
    out: Path,
    resume: bool,
    restart: bool,
    as_json: bool,
    quiet: bool,
    **fields: Any,
) -> None:
    """Distil a fine-tuned teacher into a small student.

    Flags override CONFIG.yaml. The student starts from half of the teacher's blocks unless
    --student… says otherwise.
    """
    wanted = load(DistillConfig, config, _given(fields))
    from layermix import run
    from layermix.progress import Reporter

    result = run.distill(wanted, out, resume=resume, restart=restart, reporter=Reporter(quiet))
    if as_json:
        click.echo(json.dumps(result.record, indent=2, ensure_ascii=False))
        return
    click.echo(run.score_table(result.record))
    click.echo(
        f"\nThe student is in {out / 'student'}: a plain transformers model.\n"
        f"Next: layermix predict {out} FILE    or    layermix evaluate {out} --data DATA"
    )


@command("teach", cls=ConfigCommand)
@CONFIG_FILE
@OUT
@RESUME
@RESTART
@JSON
@config_options(TeachConfig, ("data",))
def teach(
    config: Path | None,
    out: Path,
    resume: bool,
    restart: bool,
    as_json: bool,
    quiet: bool,
    **fields: Any,
) -> None:
    """Fine-tune a teacher on labelled texts: any encoder that transformers can load."""
    wanted = load(TeachConfig, config, _given(fields))
    from layermix import run
    from layermix.progress import Reporter

    result = run.teach(wanted, out, resume=resume, restart=restart, reporter=Reporter(quiet))
    if as_json:
        click.echo(json.dumps(result.record, indent=2, ensure_ascii=False))
        return
    click.echo(run.score_table(result.record))
    click.echo(f"\nNext: layermix distill --teacher {out} --data DATA --out RUN")


@command("evaluate")
@click.argument("model")
@click.option("--data", "source", required=True, help="Folder, file or hub data set with labels.")
@click.option(
    "--data.text_columns", "text_columns", metavar="A,B", help="The text columns, if not found."
)
@click.option("--data.label_column", "label_column", help="The label column, if not found.")
@click.option("--batch_size", default=32, show_default=True, help="Rows per forward pass.")
@JSON
def evaluate(
    model: str,
    source: str,
    text_columns: str | None,
    label_column: str | None,
    batch_size: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Score MODEL (run folder, model folder or hub id) on every labelled split of the data."""
    from layermix import predict
    from layermix.progress import Reporter

    columns = None if text_columns is None else tuple(text_columns.split(","))
    scores = predict.evaluate(model, source, columns, label_column, batch_size, Reporter(quiet))
    if as_json:
        click.echo(json.dumps(scores, indent=2, ensure_ascii=False))
    else:
        click.echo(predict.scores_text(scores))


@command("predict")
@click.argument("model")
@click.argument("file", default="-")
@click.option(
    "--out", default="-", help="Where to write (.jsonl, .csv, .tsv); - is standard output."
)
@click.option("--text_columns", metavar="A,B", help="The text columns, if not found.")
@click.option(
    "--format",
    "input_format",
    type=click.Choice(["txt", "jsonl", "csv", "tsv"]),
    help="What standard input holds; a file's ending says it for a file.  [default: txt]",
)
@click.option("--batch_size", default=32, show_default=True, help="Rows per forward pass.")
def predict_command(
    model: str,
    file: str,
    out: str,
    text_columns: str | None,
    input_format: str | None,
    batch_size: int,
    quiet: bool,
) -> None:
    """Label the texts of FILE (or standard input) with MODEL, with a probability for each class."""
    from layermix import predict
    from layermix.progress import Reporter

    columns = None if text_columns is None else tuple(text_columns.split(","))
    predict.predict(model, file, out, columns, input_format, batch_size, Reporter(quiet))


@command("demo")
@click.option("--out", type=click.Path(path_type=Path), default="demo-out", show_default=True)
@click.option("--full", is_flag=True, help="All training pairs instead of 1,500.")
@click.option("--seed", default=0, show_default=True)
@JSON
def demo(out: Path, full: bool, seed: int, as_json: bool, quiet: bool) -> None:
    """See the whole job on data and a teacher that need no download (a few minutes)."""
    from layermix import demo as demonstration
    from layermix.progress import Reporter

    table = demonstration.run_demo(out, full=full, seed=seed, reporter=Reporter(quiet))
    click.echo(json.dumps(table, indent=2) if as_json else demonstration.table_text(table, out))


@command("list")
def list_command(quiet: bool) -> None:
    """Show the mixes, losses and tasks, with their papers."""
    from layermix.losses import HIDDEN, LOGIT, SUPERVISED
    from layermix.metrics import TASKS
    from layermix.mixing import MIXES

    tables = {
        "mix.strategy": [(name, row.summary, row.paper) for name, row in MIXES.items()],
        "loss.supervised": [(name, row.summary, row.paper) for name, row in SUPERVISED.items()],
        "loss.logit": [(name, row.summary, row.paper) for name, row in LOGIT.items()],
        "loss.hidden": [(name, row.summary, row.paper) for name, row in HIDDEN.items()],
        "data.task": [(t.name, t.summary, ", ".join(t.metrics)) for t in TASKS.values()],
    }
    for title, rows in tables.items():
        click.secho(f"\n{title}", bold=True)
        for name, summary, paper in rows:
            click.echo(f"  {name:<20}{summary:<54}{paper}")


@command("schema")
@click.option("--teach", "of_teach", is_flag=True, help="The schema of a `teach` config instead.")
def schema(of_teach: bool, quiet: bool) -> None:
    """Print the JSON schema of a config, for editors that complete YAML."""
    kind = TeachConfig if of_teach else DistillConfig
    click.echo(json.dumps(kind.model_json_schema(), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
