"""Commands that run a study, many runs and their comparison: `study` and `reproduce`."""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from layermix.cli.command import command
from layermix.cli.options import JSON, extra_needed, print_json
from layermix.console import Terminal, echo
from layermix.errors import ConfigError
from layermix.studies.folder import LOGS
from layermix.studies.plan import make_plan
from layermix.studies.spec import load_study, paper_study

if TYPE_CHECKING:
    from layermix.studies.ray_tasks import RayTasks

STUDY_OUT = click.option(
    "--out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="The study's folder. Runs that are finished there are not run again.",
)
SEEDS = click.option(
    "--seeds",
    metavar="N",
    type=click.IntRange(min=1),
    help="Number of seeds, in place of the file's top-level `seeds`; an arm's or a task's own "
    "number stays. You can raise it later.",
)
JOBS = click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs at the same time; they share the processors and the teacher cache.",
)
STUDY_JOBS = click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Runs at the same time; on this machine (default 1) they share the processors and the "
    "teacher cache. On a cluster the default is as many as it has room for.",
)
EXECUTOR = click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where runs are executed: in processes on this machine, or as tasks of a Ray cluster "
    "whose nodes all see the study's folder, the data and the models (extra `ray`).",
)
ADDRESS = click.option(
    "--address",
    metavar="HOST:PORT",
    help="Of the Ray cluster; default: $RAY_ADDRESS, one that runs on this machine, or a new one "
    "here.",
)
CPUS = click.option(
    "--cpus",
    metavar="N",
    type=click.IntRange(min=1),
    help="Processors and threads of each run on a Ray cluster (default 1).",
)
GPUS = click.option(
    "--gpus",
    metavar="X",
    type=click.FloatRange(min=0),
    help="GPUs of each run on a Ray cluster (default 0); 0.25 lets four share one.",
)
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Print the plan and stop; needs neither data nor models."
)
KEEP = click.option(
    "--keep_students", is_flag=True, help="Keep the weights of every student, not only its scores."
)
BASELINES = click.option(
    "--baselines",
    is_flag=True,
    help="Add to each task what its scores are measured by: linear models of TF-IDF and of the "
    "teacher's static embeddings (extra `static`), before the runs, and an arm ce_only, the first "
    "arm's student without a teacher.",
)
RESUMES = "stopped; the same command continues the study"


@command("study", stopped=RESUMES)
@click.argument("study", type=click.Path(path_type=Path), metavar="STUDY.yaml")
@STUDY_OUT
@SEEDS
@STUDY_JOBS
@EXECUTOR
@ADDRESS
@CPUS
@GPUS
@DRY_RUN
@KEEP
@BASELINES
@JSON
def study_command(study: Path, **options: Any) -> None:
    """Compare arms (variants of a run) over several seeds.

    STUDY.yaml lists the arms, the tasks and the primary comparisons. Every arm runs with every
    seed on every task; finished runs are kept. The primary comparisons get a verdict with a
    corrected p-value; all others are only described.
    """
    _run_study(study, **options)


@command("reproduce", stopped=RESUMES)
@click.argument("table", metavar="mrpc|rte|qnli|local-mrpc|local-rte|local-qnli")
@STUDY_OUT
@SEEDS
@STUDY_JOBS
@EXECUTOR
@ADDRESS
@CPUS
@GPUS
@DRY_RUN
@KEEP
@BASELINES
@JSON
def reproduce_command(table: str, **options: Any) -> None:
    """Run Table 2 of the paper on one task, and show its numbers beside yours.

    mrpc, rte and qnli use the paper's models from the hub; to use local folders, copy and edit
    configs/paper. The local-… variants use the packaged MiniLM and the GLUE data in
    $LAYERMIX_GLUE.
    """
    _run_study(paper_study(table), **options)


def _on_cluster(
    executor: str, address: str | None, cpus: int | None, gpus: float | None, folder: Path
) -> "RayTasks | None":
    """The executor of a Ray cluster; None for this machine."""
    if executor == "local":
        given = {"--address": address, "--cpus": cpus, "--gpus": gpus}
        if of_cluster := [name for name, value in given.items() if value is not None]:
            names, verb = " and ".join(of_cluster), "are" if len(of_cluster) > 1 else "is"
            raise ConfigError(f"{names} {verb} of a Ray cluster; give --executor ray as well")
        return None
    with extra_needed("ray", "--executor ray"):
        from layermix.studies.ray_tasks import RayTasks
    return RayTasks(folder / LOGS, address, cpus or 1, gpus or 0.0)


def _run_study(
    file: Path,
    out: Path | None,
    seeds: int | None,
    jobs: int | None,
    executor: str,
    address: str | None,
    cpus: int | None,
    gpus: float | None,
    dry_run: bool,
    keep_students: bool,
    baselines: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    spec = load_study(file, seeds)
    if out is None and not dry_run:
        raise ConfigError("no --out: give the folder for the study's runs and results")
    from layermix.studies.analysis import analyse
    from layermix.studies.baselines import add_baselines
    from layermix.studies.control import with_control
    from layermix.studies.declarations import declare
    from layermix.studies.folder import Study
    from layermix.studies.scheduler import Scheduler
    from layermix.studies.text import plan_text, study_text, write

    console = Terminal(quiet)
    if baselines:
        spec, remarks = with_control(spec)
        for remark in remarks:
            console.print(remark, soft_wrap=True)
    folder = Study(out, file.stem) if out is not None else None
    if folder is None or dry_run:
        echo(plan_text(make_plan(spec, None), folder))
        return
    cluster = _on_cluster(executor, address, cpus, gpus, folder.folder)
    plan = make_plan(spec, folder.folder)
    console.print(plan_text(plan, folder), soft_wrap=True)
    declare(plan, folder)
    if baselines:
        add_baselines(plan, folder, lambda line: console.print(line, soft_wrap=True))
    try:
        at_once = jobs or (cluster.room() if cluster else 1)
        Scheduler(plan, folder, at_once, console, keep_students, cluster).run()
    except BaseException:
        with suppress(Exception):  # must not hide the first error
            write(analyse(plan, folder), folder)
        raise
    record = analyse(plan, folder)
    write(record, folder)
    if as_json:
        print_json(record.to_dict())
    else:
        echo(study_text(record))
        results = folder.results_file
        echo(
            f"The results are in {results}, the runs in cells/ beside it.\n"
            f"Next: layermix report {shlex.quote(str(results))}"
        )
