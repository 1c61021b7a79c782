"""The command `search`: the smallest student that is good enough."""

import math
from pathlib import Path
from typing import Any, Literal

import click

from layermix.cli.command import command
from layermix.cli.options import (
    CONFIG_FILE,
    JSON,
    config_options,
    extra_needed,
    given_fields,
    print_json,
)
from layermix.cli.studies import JOBS
from layermix.config import DistillConfig, as_written, load
from layermix.console import Terminal, echo
from layermix.errors import ConfigError

MOST_SEED = 2**31 - 1 - 2_000
"""The largest seed; the last comparison adds up to 2,000 to it."""
ABOVE_0 = click.FloatRange(min=0, min_open=True)


@command("search", stopped="stopped; the same command continues the search", computes=True)
@CONFIG_FILE
@click.option(
    "--out",
    required=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="The search's folder. Students that are trained there are not trained again, also for "
    "another floor or budget.",
)
@click.option(
    "--floor",
    metavar="X",
    type=ABOVE_0,
    default=1.0,
    show_default=True,
    help="Points (hundredths) of the main score that the student may be below its teacher.",
)
@click.option(
    "--ms",
    metavar="X",
    type=ABOVE_0,
    help="Most milliseconds for one text of the data, the median on this machine.",
)
@click.option("--mb", metavar="X", type=ABOVE_0, help="Most megabytes of the file of weights.")
@click.option(
    "--smallest",
    type=click.Choice(["mb", "ms"]),
    default="mb",
    show_default=True,
    help="What is made as small as possible: the file, or the time for one text.",
)
@click.option(
    "--int8",
    is_flag=True,
    help="Measure and judge the students as int8 files for onnxruntime.",
)
@click.option(
    "--axis",
    "axes",
    multiple=True,
    metavar="FIELD=V,V",
    help="Values of a setting that are tried, with those of other axes in every combination; null "
    "leaves it as it is.  [default: student.layers, shares of the teacher's blocks, and "
    "student.vocabulary=null,occurring]",
)
@click.option(
    "--seeds",
    metavar="N",
    type=click.IntRange(min=3, max=1000),
    default=5,
    show_default=True,
    help="Fresh seeds of the last comparison.",
)
@JOBS
@click.option(
    "--baselines",
    is_flag=True,
    help="Score models without a teacher on the same rows, too: linear models of TF-IDF and of the "
    "teacher's static embeddings (extra `static`), and the chosen student trained on labels alone.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@JSON
@config_options(DistillConfig)
def search_command(
    config: Path | None,
    out: Path,
    floor: float,
    ms: float | None,
    mb: float | None,
    smallest: Literal["mb", "ms"],
    int8: bool,
    axes: tuple[str, ...],
    seeds: int,
    jobs: int,
    baselines: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Find the smallest student that is good enough.

    Measures the size and the time of every student, trains those within the budgets in rounds on
    all but some held-out rows, and chooses the smallest that is at most --floor points below the
    teacher there. That one is trained with fresh seeds on all rows and judged once on the
    validation rows: is it shown, with 95 % confidence, to be within the floor? Other settings, from
    CONFIG.yaml and options, are those of `distill`, for every student.
    """
    flags = given_fields(options)
    settings = load(DistillConfig, config, flags)
    base = as_written(DistillConfig, config, flags)
    from layermix.search.schema import SearchSettings
    from layermix.search.space import check_axes, parse_axis

    tried = check_axes([parse_axis(axis) for axis in axes])
    _check(floor, ms, mb, settings)
    asked = SearchSettings(
        floor=floor,
        ms=ms,
        mb=mb,
        int8=int8,
        smallest=smallest,
        seeds=seeds,
        axes={field: tuple(values) for field, values in tried.items()},
        base=base,
        baselines=baselines,
    )
    if int8:
        with extra_needed("onnx", "--int8"):
            import layermix.serving.export
            import layermix.serving.quantize  # noqa: F401  # whether they can be imported
    from layermix.console import Reporter
    from layermix.search.search import Search
    from layermix.search.text import search_text

    search = Search(asked, out, jobs, Terminal(quiet), Reporter(quiet))
    record = search.run(dry=dry_run)
    if as_json:
        print_json(record.to_dict())
    elif not dry_run:
        echo(search_text(record, search.student, search.file))


def _check(floor: float, ms: float | None, mb: float | None, settings: DistillConfig) -> None:
    """Raise a ConfigError for numbers that are none, and for settings that a search sets itself."""
    problems = [
        f"--{name}: found {value}, wanted a number"
        for name, value in {"floor": floor, "ms": ms, "mb": mb}.items()
        if value is not None and not math.isfinite(value)
    ]
    if floor >= 100:
        problems.append(f"--floor: found {floor:g}, wanted points below 100")
    if len(settings.teacher.models) != 1:
        problems.append(
            f"found {len(settings.teacher.models)} teachers, wanted one: give --teacher FOLDER "
            "(fine-tune one with `layermix teach`)"
        )
    if settings.seed > MOST_SEED:
        problems.append(f"--seed: found {settings.seed}, wanted at most {MOST_SEED} for a search")
    if settings.training.selection != "none":
        problems.append(
            "training.selection: a search holds out rows to choose on, and trains on all in the "
            "end; leave it out"
        )
    if problems:
        raise ConfigError("\n".join(problems))
