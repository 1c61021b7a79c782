"""The command line: one function per command, heavy imports inside it.

Options that describe a run are made from the fields of the config, whose docstrings are the help.
"""

import errno
import functools
import io
import json
import shlex
import sys
import traceback
import typing
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from layermix.config import (
    ALIASES,
    DistillConfig,
    Source,
    TeachConfig,
    field_names,
    json_schema,
    load,
    section_kinds,
    to_yaml,
)
from layermix.errors import ConfigError, LayermixError
from layermix.interrupts import lasting_interrupts
from layermix.runs.layout import RunFolder
from layermix.studies.plan import make_plan
from layermix.studies.spec import load_study, paper_study

STOPPED = 128 + 2
"""The exit code of a program that Ctrl-C (signal 2) has ended."""
COMMON = ("as_json", "quiet", "debug", "help")
"""Options that every command lists last among its own."""


class ConfigOption(click.Option):
    """An option that is a field of a config; `group` is the title under which help lists it."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class Command(click.Command):
    """A command whose help groups the fields of a config by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in sorted(
            self.get_params(ctx),
            key=lambda one: COMMON.index(one.name) + 1 if one.name in COMMON else 0,
        ):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                title = parameter.group if isinstance(parameter, ConfigOption) else "Options"
                groups.setdefault(title, []).append(record)
        for title in sorted(groups, key=lambda title: title != "Options"):
            with formatter.section(title):
                formatter.write_dl(groups[title])


def config_options(
    kind: type[BaseModel], only: Collection[str] | None = None
) -> Callable[[Any], Any]:
    """Add an option for every field of a config, or for some; a default is shown, never passed."""
    short = {dotted: alias for alias, dotted in ALIASES.items()}
    sections = section_kinds(kind)
    defaults = kind().model_dump()

    def decorate(function: Any) -> Any:
        for dotted, field in reversed(field_names(kind).items()):
            if only is not None and dotted not in only:
                continue
            section, _, leaf = dotted.rpartition(".")
            flag = field.annotation is bool
            names = [f"--{name}" for name in (short.get(dotted), dotted) if name]
            text = " ".join((field.description or "").split())
            default = (defaults[section] if section else defaults)[leaf]
            if default is not None and not flag:
                shown = f"{default:g}" if isinstance(default, float) else default
                text += f"  [default: {shown}]"
            title = (sections[section].__doc__ or "").rstrip(".") if section else RUN_TITLE
            option = click.option(
                *([f"--{dotted}/--no-{dotted}"] if flag else names),
                dotted.replace(".", "__"),
                cls=ConfigOption,
                group=title,
                help=text,
                metavar=None if flag else _metavar(field.annotation),
                default=None,
            )
            function = option(function)
        return function

    return decorate


RUN_TITLE = "Here or in CONFIG.yaml, as all that follows; flags override the file"


def _metavar(annotation: Any) -> str:
    """What to write after an option: its choices, or the kind of value.

    Examples:
        >>> from typing import Literal
        >>> [_metavar(kind) for kind in (Literal["a", "b"], int | None, float, tuple[int, ...])]
        ['a|b', 'N', 'X', 'N,N,…']
        >>> _metavar(tuple[tuple[float, ...], ...])
        'X,X;…'
    """
    if annotation == Source:
        return "PATH"
    parts = [part for part in typing.get_args(annotation) if part not in (type(None), Ellipsis)]
    if typing.get_origin(annotation) is typing.Literal:
        return "|".join(parts)
    if typing.get_origin(annotation) is tuple:
        one = _metavar(parts[0])
        if "|" in one:
            return f"{one},…"
        return f"{one.removesuffix(',…')};…" if "," in one else f"{one},{one},…"
    if parts:
        return _metavar(parts[0])  # the one kind that is annotated, or beside None
    return {int: "N", float: "X"}.get(annotation, "NAME")


def command(
    name: str, *, stopped: str = "stopped", quiet: bool = True, group: str | None = None
) -> Callable[[Callable[..., None]], click.Command]:
    """A command whose errors become one message and an exit code.

    Args:
        name: As typed.
        stopped: What to say after Ctrl-C.
        quiet: Whether the command has remarks and progress bars that --quiet silences.
        group: The command it belongs under.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
        @functools.wraps(function)
        def guarded(debug: bool, **arguments: Any) -> None:
            try:
                with lasting_interrupts():
                    function(**arguments)
                sys.stdout.flush()  # a full disk is told here, not when the program ends
            except LayermixError as error:
                _fail(str(error), error.exit_code, debug)
            except KeyboardInterrupt:
                _fail(stopped, STOPPED, debug)
            except Exception as error:
                if (told := _refused(error)) is None:
                    raise
                _fail(told, 1, debug)

        decorated: Any = guarded
        if quiet:
            decorated = click.option("--quiet", is_flag=True, help="No progress, no remarks.")(
                guarded
            )
        parent = main if group is None else main.commands[group]
        assert isinstance(parent, click.Group)
        return parent.command(name, cls=Command)(decorated)

    return decorate


def _fail(message: str, code: int, debug: bool) -> typing.NoReturn:
    if debug:
        traceback.print_exc()
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)


NOT_WRITTEN = ("(os error ", "inline_container")
"""What the exceptions of safetensors and torch hold when a file could not be written."""


def _refused(error: Exception) -> str | None:
    """What the operating system refused, if that is what happened; None means a fault of ours."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror} (--debug shows where)"
    if any(part in str(error) for part in NOT_WRITTEN):
        return f"a file could not be written, is the disk full? ({error})"
    return None


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`layermix COMMAND --help` lists the options of a command, `layermix schema` those of "
    "its YAML file.",
)
@click.version_option(package_name="layermix")
def main() -> None:
    """Distil a fine-tuned transformer encoder into a small, fast text classifier.

    \b
    A first look, nothing to download:
      layermix demo
    Your own data, a folder with train.csv and perhaps validation.csv, or one file:
      layermix teach --model minilm --data FOLDER --out TEACHER
      layermix distill --teacher TEACHER --data FOLDER --out RUN
      layermix predict RUN new.csv --out labels.csv
    """  # noqa: D301  # \b above is for click
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # what is printed is data, the same everywhere


MODEL = click.argument("model")
CONFIG_FILE = click.argument(
    "config",
    required=False,
    type=click.Path(path_type=Path),
    metavar="[CONFIG.yaml]",
)
OUT = click.option(
    "--out",
    required=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="The run folder to make.",
)
RESUME = click.option("--resume", is_flag=True, help="Go on with an unfinished run, if any.")
RESTART = click.option("--restart", is_flag=True, help="Throw an unfinished run away, if any.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
BATCH_SIZE = click.option(
    "--batch_size",
    metavar="N",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Rows per forward pass.",
)
RUNTIME = click.option(
    "--runtime",
    type=click.Choice(["auto", "torch", "onnx", "int8"]),
    metavar="torch|onnx|int8",
    default="auto",
    help="What runs the model: PyTorch, or a file that `layermix export` made.  [default: PyTorch "
    "where there are weights for it, else onnx]",
)
DATA = config_options(
    TeachConfig, only=("data.path", "data.text_columns", "data.label_column", "data.quoting")
)
GO_ON = "stopped; the same command with --resume goes on"


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """The config flags that were typed, by dotted name."""
    return {name.replace("__", "."): value for name, value in fields.items() if value is not None}


@contextmanager
def _extra(name: str, what: str) -> Iterator[None]:
    """Say which extra an import needs, where it fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed; {what} needs the extra: pip install '.[{name}]' "
            "in the clone of layermix"
        ) from None


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@command("teach", stopped=GO_ON)
@CONFIG_FILE
@OUT
@RESUME
@RESTART
@JSON
@config_options(TeachConfig)
def teach(
    config: Path | None,
    out: Path,
    resume: bool,
    restart: bool,
    as_json: bool,
    quiet: bool,
    **fields: Any,
) -> None:
    """Fine-tune a teacher on labelled texts."""
    wanted = load(TeachConfig, config, _given(fields))
    RunFolder(out, to_yaml(wanted), resume=resume, restart=restart)  # refused before slow imports
    from layermix.console import Reporter
    from layermix.runs import callbacks as record
    from layermix.runs import pipeline as run

    result = run.teach(wanted, out, resume=resume, restart=restart, reporter=Reporter(quiet))
    if as_json:
        _print_json(result.record)
        return
    click.echo(record.score_table(result.record))
    click.echo(f"\nNext: layermix distill --teacher {out} --data DATA --out RUN")


@command("distill", stopped=GO_ON)
@CONFIG_FILE
@OUT
@RESUME
@RESTART
@JSON
@config_options(DistillConfig)
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

    The student starts from half of the teacher's blocks unless --student… says otherwise.
    """
    wanted = load(DistillConfig, config, _given(fields))
    RunFolder(out, to_yaml(wanted), resume=resume, restart=restart)  # refused before slow imports
    from layermix.console import Reporter
    from layermix.runs import callbacks as record
    from layermix.runs import pipeline as run

    result = run.distill(wanted, out, resume=resume, restart=restart, reporter=Reporter(quiet))
    if as_json:
        _print_json(result.record)
        return
    click.echo(record.score_table(result.record))
    click.echo(
        f"\nThe student is in {out / 'student'}: a plain transformers model.\n"
        f"Next: layermix report {out}    or    layermix predict {out} FILE    or    "
        f"layermix evaluate {out} --data DATA"
    )


@command("evaluate")
@MODEL
@RUNTIME
@BATCH_SIZE
@JSON
@DATA
def evaluate(
    model: str, runtime: Any, batch_size: int, as_json: bool, quiet: bool, **fields: Any
) -> None:
    """Score MODEL on labelled data.

    MODEL is a run folder, a model folder or a hub id. Of a folder or hub data set the validation
    and test splits are scored, of one file every row.
    """
    data = load(TeachConfig, flags=_given(fields)).data
    from layermix.console import Reporter
    from layermix.serving import evaluate as evaluation

    scores = evaluation.evaluate(
        model, data, runtime=runtime, batch_size=batch_size, reporter=Reporter(quiet)
    )
    if as_json:
        _print_json(scores)
    else:
        click.echo(evaluation.scores_text(scores))


@command("predict")
@MODEL
@click.argument("file", default="-")
@click.option(
    "--out",
    default="-",
    metavar="FILE",
    help="Where to write: .jsonl, .csv or .tsv.  [default: standard output, as JSONL]",
)
@click.option("--force", is_flag=True, help="Replace the --out file if it is there already.")
@click.option(
    "--format",
    "input_format",
    type=click.Choice(["txt", "csv", "tsv", "jsonl", "parquet"]),
    metavar="txt|csv|tsv|jsonl|parquet",
    help="What the input holds.  [default: a file's ending says it; standard input is JSONL if it "
    "looks like that, else one text per line]",
)
@RUNTIME
@BATCH_SIZE
@config_options(TeachConfig, only=("data.text_columns", "data.quoting"))
def predict_command(
    model: str,
    file: str,
    out: str,
    force: bool,
    input_format: str | None,
    runtime: Any,
    batch_size: int,
    quiet: bool,
    **fields: Any,
) -> None:
    """Label texts, with a probability for each class.

    MODEL is a run folder, a model folder or a hub id; FILE is TSV, CSV, JSONL, Parquet or plain
    text, or - for standard input, the default. Rows keep their order. A row that cannot be read is
    written without text and label, and told at the end, with exit code 1.
    """
    data = load(TeachConfig, flags=_given(fields)).data
    from layermix.console import Reporter
    from layermix.serving import predict

    predict.predict(
        model,
        file,
        out,
        text_columns=data.text_columns,
        input_format=input_format,
        quoting=data.quoting,
        force=force,
        runtime=runtime,
        batch_size=batch_size,
        reporter=Reporter(quiet),
    )


@command("export")
@MODEL
@click.option("--onnx", is_flag=True, help="Make onnx/model.onnx, float32.")
@click.option("--int8", is_flag=True, help="Make onnx/model_quantized.onnx as well.")
@click.option(
    "--max-drop",
    metavar="X",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Most points (hundredths of the score) that int8 may cost.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A new folder with all that serving needs.  [default: onnx/ in the model's own folder]",
)
@click.option("--force", is_flag=True, help="Make an export anew that is there already.")
@click.option(
    "--push_to_hub",
    metavar="USER/NAME",
    help="Upload the folder, card and all, at the end; alone, upload it as it is.",
)
@click.option("--private", is_flag=True, help="Make the hub's repository private, if it is new.")
@JSON
@DATA
def export_command(
    model: str,
    onnx: bool,
    int8: bool,
    max_drop: float,
    out: Path | None,
    force: bool,
    push_to_hub: str | None,
    private: bool,
    as_json: bool,
    quiet: bool,
    **fields: Any,
) -> None:
    """Export MODEL for onnxruntime and transformers.js.

    MODEL is a run folder or a model folder. The exported file must answer as PyTorch does on real
    rows, and int8 must not cost more than --max-drop: on the validation rows of MODEL's run, or on
    those of --data (of a folder or hub data set the validation split, of one file every row).
    """
    if not (onnx or int8 or push_to_hub):
        raise ConfigError(
            "nothing to make: give --onnx, or --int8 for both float32 and int8, or --push_to_hub "
            "for an upload of what is there"
        )
    if private and push_to_hub is None:
        raise ConfigError("--private is about the hub; give --push_to_hub USER/NAME with it")
    data = load(TeachConfig, flags=_given(fields)).data
    made: dict[str, Any] = {}
    where = shlex.quote(str(out or model))
    if onnx or int8:
        with _extra("onnx", "an export"):
            from layermix.serving import export as exports
        from layermix.console import Reporter

        folder, record = exports.export(
            model,
            data,
            int8=int8,
            out=out,
            max_drop=max_drop,
            force=force,
            reporter=Reporter(quiet),
        )
        made = {"folder": str(folder), **record}
        if not as_json:
            click.echo(exports.export_text(record, folder))
            runtime = "int8" if int8 else "onnx"
            rows = f" --data {shlex.quote(data.path)}" if data.path else ""
            beside = f" {where}" if out else ""
            click.echo(
                f"\nNext: layermix bench {shlex.quote(model)}{beside}{rows}    or    "
                f"layermix predict {where} FILE --runtime {runtime}"
            )
    if push_to_hub is not None:
        from layermix.serving.hub import push

        try:
            made["pushed"] = push(out or model, push_to_hub, private=private)
        finally:
            if as_json:  # what was made is told even if the hub refuses it
                _print_json(made)
        if not as_json:
            click.echo(f"It is on the hub: {made['pushed']}")
    elif as_json:
        _print_json(made)


@command("bench")
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
@click.option(
    "--rounds",
    metavar="N",
    type=click.IntRange(min=2),
    default=10,
    show_default=True,
    help="How often each model takes its turn.",
)
@click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(min=1),
    help="Processor threads.  [default: as many as torch takes]",
)
@JSON
@DATA
def bench_command(
    models: tuple[str, ...],
    rounds: int,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    **fields: Any,
) -> None:
    """Measure size and speed of models beside each other.

    MODEL is a run folder, a model folder or a hub id; the first is the one to compare with, and
    before a single student its teacher is put. What has been exported is measured as ONNX and int8
    too. Texts are the validation rows that the last MODEL's run has kept, or those of --data. The
    result goes into that run's folder, its report and its model card.
    """
    data = load(TeachConfig, flags=_given(fields)).data
    from layermix.console import Reporter
    from layermix.serving import benchmark as bench

    found = bench.bench(models, data, rounds=rounds, threads=threads, reporter=Reporter(quiet))
    if as_json:
        _print_json(found)
    else:
        click.echo(bench.bench_text(found))


@main.group("cache")
def cache_group() -> None:
    """See and keep the teacher signals on disk, which all runs on this machine share."""


CACHE_FOLDER = config_options(DistillConfig, only=("cache.folder",))


def _cache_folder(fields: dict[str, Any]) -> Path:
    wanted = load(DistillConfig, flags=_given(fields)).cache
    from layermix.teacher_cache.choose import cache_folder

    return cache_folder(wanted)


@command("build", group="cache", stopped="stopped; what is written stays, the same command goes on")
@CONFIG_FILE
@JSON
@config_options(DistillConfig)
def cache_build(config: Path | None, as_json: bool, quiet: bool, **fields: Any) -> None:
    """Compute the teacher's signals for the training rows now, as `distill` would at its start."""
    wanted = load(DistillConfig, config, _given(fields))
    from layermix.console import Reporter
    from layermix.runs import pipeline as run

    teacher = run.build_cache(wanted, Reporter(quiet))
    store = teacher.store
    if as_json:
        texts, size = len(set(teacher.places.values())), store.bytes_on_disk
        _print_json({"folder": str(store.folder), "texts": texts, "bytes": size})
    else:
        click.echo(
            f"The signals are in {store.folder} ({store.bytes_on_disk / 1e6:,.1f} MB); "
            "`layermix distill` with the same teacher and data reads them."
        )


@command("info", group="cache", quiet=False)
@JSON
@CACHE_FOLDER
def cache_info(as_json: bool, **fields: Any) -> None:
    """List the stores: what they are made from, their size, when a run last read them."""
    root = _cache_folder(fields)
    from layermix.teacher_cache import maintenance as upkeep

    found = list(upkeep.stores(root))
    if as_json:
        _print_json([one.as_record() for one in found])
    else:
        click.echo(upkeep.stores_text(found, root))


@command("verify", group="cache", quiet=False)
@CACHE_FOLDER
def cache_verify(**fields: Any) -> None:
    """Compare every byte with its checksum; exit code 1 if something is damaged.

    Damaged shards are dropped, and computed again by the next run that needs them.
    """
    root = _cache_folder(fields)
    from layermix.teacher_cache import maintenance as upkeep

    found = list(upkeep.stores(root))
    wrong = {
        f"{one.folder / name}: {told}": one
        for one in found
        for name, told in upkeep.verify(one.folder).items()
    }
    for line in wrong:
        click.echo(line)
    click.echo(f"{len(found)} store(s) in {root} checked, {len(wrong)} problem(s)")
    if wrong:
        sys.exit(1)


@command("prune", group="cache", quiet=False)
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    metavar="X",
    default=30,
    show_default=True,
    help="Remove what no run has read for so long; 0 removes everything.",
)
@CACHE_FOLDER
def cache_prune(days: float, **fields: Any) -> None:
    """Remove stores that are not used any more; runs that need them compute them again."""
    root = _cache_folder(fields)
    from layermix.teacher_cache import maintenance as upkeep

    removed, busy = upkeep.prune(root, days)
    for one in busy:
        click.echo(f"{one.folder} is being filled, so it was left")
    size = sum(one.bytes_on_disk for one in removed)
    click.echo(f"removed {len(removed)} store(s), {size / 1e9:.2f} GB, from {root}")


STUDY_OUT = click.option(
    "--out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="The study's folder; what is finished there is not run again.",
)
SEEDS = click.option(
    "--seeds",
    metavar="N",
    type=click.IntRange(min=1),
    help="Number of seeds, instead of the file's (not of an arm's or a task's own); more can be "
    "added later.",
)
JOBS = click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs at once; they share the processors and the teacher cache.",
)
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Show the plan only; needs neither data nor models."
)
KEEP = click.option("--keep_students", is_flag=True, help="Keep the weights of every student.")
SAME_GOES_ON = "stopped; the same command goes on"


@command("study", stopped=SAME_GOES_ON)
@click.argument("study", type=click.Path(path_type=Path), metavar="STUDY.yaml")
@STUDY_OUT
@SEEDS
@JOBS
@DRY_RUN
@KEEP
@JSON
def study_command(study: Path, **options: Any) -> None:
    """Compare arms over seeds, and say what the comparison shows.

    Every arm runs with every seed on every task; runs that are finished are never repeated. The
    primary family of comparisons, declared in the file, gets verdicts; the rest is described.
    """
    _run_study(study, **options)


@command("reproduce", stopped=SAME_GOES_ON)
@click.argument("table", metavar="mrpc|rte|qnli|local-mrpc|local-rte|local-qnli")
@STUDY_OUT
@SEEDS
@JOBS
@DRY_RUN
@KEEP
@JSON
def reproduce(table: str, **options: Any) -> None:
    """Run the paper's Table 2 on one task, and show its numbers beside ours.

    With its models from the hub (or local folders, in a copy of configs/paper), or, as local-…,
    with the packaged MiniLM and data in $LAYERMIX_GLUE.
    """
    _run_study(paper_study(table), **options)


def _run_study(
    file: Path,
    out: Path | None,
    seeds: int | None,
    jobs: int,
    dry_run: bool,
    keep_students: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    wanted = load_study(file, seeds)
    if out is None and not dry_run:
        raise ConfigError("no --out: give the folder in which the study keeps its runs")
    from rich.console import Console

    from layermix.studies import analysis as findings
    from layermix.studies import folder as folders
    from layermix.studies import scheduler as conduct
    from layermix.studies import text as prose

    folder = folders.Study(out, file.stem) if out is not None else None
    if folder is None or dry_run:
        click.echo(prose.plan_text(make_plan(wanted, None), folder))
        return
    plan = make_plan(wanted, folder.folder)
    console = Console(stderr=True, quiet=quiet, highlight=False)
    console.print(prose.plan_text(plan, folder), markup=False, soft_wrap=True)
    findings.declare(plan, folder)
    try:
        conduct.Scheduler(plan, folder, jobs, console, keep_students).run()
    except BaseException:
        with suppress(Exception):  # what went wrong first is what must be told
            prose.write(findings.find(plan, folder), folder)
        raise
    found = findings.find(plan, folder)
    prose.write(found, folder)
    if as_json:
        _print_json(found)
    else:
        click.echo(prose.text(found))
        file = findings.results_file(folder)
        click.echo(f"The results are in {file}, cells beside it.\nNext: layermix report {file}")


@command("report", stopped="stopped; the page is the last one that was made")
@click.argument("source", type=click.Path(path_type=Path), metavar="RUN-OR-STUDY")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the page goes, instead of into the folder.",
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write every figure as SVG, PDF and PNG as well, and its data as CSV.",
)
@click.option("--watch", is_flag=True, help="Make the page anew as the files change, until Ctrl-C.")
def report_command(
    source: Path, out: Path | None, figures: Path | None, watch: bool, quiet: bool
) -> None:
    """Make one page from the folder of a run or a study, to be opened in a browser.

    It is one file without a network: scores with every seed, verdicts, learning curves, α over
    time, confusion, calibration, and the rows on which teacher and student disagree. Runs that go
    on, or have failed, have a page too.
    """
    if watch and figures:
        raise ConfigError("--watch makes the page only; give --figures without it")
    with _extra("report", "a report"):
        from layermix.report import build as reports
    if watch:
        reports.watch(source, out, lambda page: None if quiet else click.echo(f"made {page}"))
    page, files = reports.report(source, out, figures)
    if not quiet:
        click.echo(f"The page is {page}: open it in a browser.")
        if files:
            click.echo(f"{len(files)} files of figures are in {figures}.")


@command("demo", stopped="stopped; the same command goes on")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    default="demo-out",
    show_default=True,
    help="Where data, teacher and students go.",
)
@click.option("--full", is_flag=True, help="All training pairs instead of 1,500.")
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Fixes everything that is random.",
)
@JSON
def demo(out: Path, full: bool, seed: int, as_json: bool, quiet: bool) -> None:
    """See the whole job on data and a teacher that need no download.

    Takes a few minutes. A folder that holds a finished demo is read, not made again.
    """
    from layermix import demo as demonstration
    from layermix.console import Reporter

    table = demonstration.run_demo(out, full=full, seed=seed, reporter=Reporter(quiet))
    if as_json:
        _print_json(table)
    else:
        click.echo(demonstration.table_text(table))


@command("list", quiet=False)
def list_command() -> None:
    """Show the mixes, losses and tasks, with their papers."""
    from layermix.core.losses import HIDDEN, LOGIT, SUPERVISED
    from layermix.core.mixing import MIXES
    from layermix.data.tasks import TASKS

    tables = {
        "mix.strategy": [(name, row.summary, row.paper) for name, row in MIXES.items()],
        "loss.supervised": [(name, row.summary, row.paper) for name, row in SUPERVISED.items()],
        "loss.logit": [(name, row.summary, row.paper) for name, row in LOGIT.items()],
        "loss.hidden": [(name, row.summary, row.paper) for name, row in HIDDEN.items()],
        "data.task": [(t.name, t.summary, ", ".join(t.metrics)) for t in TASKS.values()],
    }
    for title, rows in tables.items():
        click.secho(f"\n{title}", bold=True)
        wide = max(len(summary) for _, summary, _ in rows) + 2
        for name, summary, last in rows:
            click.echo(f"  {name:<20}{summary:<{wide}}{last}")


@command("schema", quiet=False)
@click.option("--teach", "of_teach", is_flag=True, help="That of `teach`, not `distill`.")
def schema(of_teach: bool) -> None:
    """Print the JSON schema of CONFIG.yaml, for editors."""
    _print_json(json_schema(TeachConfig if of_teach else DistillConfig))


if __name__ == "__main__":
    main()
