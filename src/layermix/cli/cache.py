"""The commands `cache build`, `info`, `verify` and `prune`: the teacher's signals on disk."""

import math
import sys
from pathlib import Path
from typing import Any

import click

from layermix.cli.command import command
from layermix.cli.options import CONFIG_FILE, JSON, config_options, given_fields, print_json
from layermix.config import DistillConfig, load
from layermix.console import echo

CACHE_FOLDER = config_options(DistillConfig, only=("cache.folder",))


@click.group("cache")
def cache_group() -> None:
    """Fill, list, check or clean the teacher cache.

    The cache holds the teacher's signals (hidden states and logits) on disk. All runs on this
    machine share it.
    """


def _cache_root(options: dict[str, Any]) -> Path:
    cache_config = load(DistillConfig, flags=given_fields(options)).cache
    from layermix.teacher_cache.choose import cache_folder

    return cache_folder(cache_config)


@command(
    "build", stopped="stopped; the same command continues, nothing stored is lost", computes=True
)
@CONFIG_FILE
@JSON
@config_options(DistillConfig)
def build_command(config: Path | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Compute the teacher's signals for the training rows and store them.

    `distill` does the same at its start; give the same CONFIG.yaml and options as there.
    """
    settings = load(DistillConfig, config, given_fields(options))
    from layermix.console import Reporter
    from layermix.runs.pipeline import build_cache

    teacher = build_cache(settings, Reporter(quiet))
    store = teacher.store
    if as_json:
        texts, size = len(set(teacher.places.values())), store.bytes_on_disk
        print_json({"folder": str(store.folder), "texts": texts, "bytes": size})
    else:
        echo(
            f"The signals are in {store.folder} ({store.bytes_on_disk / 1e6:,.1f} MB). "
            "`layermix distill` with the same teacher and data reads them."
        )


@command("info", quiet=False)
@JSON
@CACHE_FOLDER
def info_command(as_json: bool, **options: Any) -> None:
    """List the stores: their teacher, size, and when a run last read them."""
    root = _cache_root(options)
    from layermix.teacher_cache.maintenance import stores, stores_text

    listed = list(stores(root))
    if as_json:
        print_json([store.as_record() for store in listed])
    else:
        echo(stores_text(listed, root))


@command("verify", quiet=False)
@CACHE_FOLDER
def verify_command(**options: Any) -> None:
    """Compare every stored byte with its checksum; exit code 1 if any differ.

    Damaged shards are deleted; the next run that needs them computes them again.
    """
    root = _cache_root(options)
    from layermix.teacher_cache.maintenance import stores, verify

    checked = list(stores(root))
    problems = [
        f"{store.folder / name}: {problem}"
        for store in checked
        for name, problem in verify(store).items()
    ]
    for line in problems:
        echo(line)
    echo(f"{len(checked)} store(s) in {root} checked, {len(problems)} problem(s)")
    if problems:
        sys.exit(1)


def _number(_context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Refuses nan, which passes every range check, and infinity."""
    if not math.isfinite(value):
        raise click.BadParameter(f"found {value}, wanted a number of 0 or more", param=parameter)
    return value


@command("prune", quiet=False)
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    callback=_number,
    metavar="X",
    default=30,
    show_default=True,
    help="Delete stores that no run has read for this many days; 0 deletes all.",
)
@CACHE_FOLDER
def prune_command(days: float, **options: Any) -> None:
    """Delete stores that are no longer used; a run that needs one computes it again.

    Only files that layermix made are deleted.
    """
    root = _cache_root(options)
    from layermix.teacher_cache.maintenance import prune

    pruned = prune(root, days)
    for store in pruned.busy:
        echo(f"{store.folder} is in use by a run, so it was kept")
    size = sum(store.bytes_on_disk for store in pruned.removed)
    echo(f"removed {len(pruned.removed)} store(s), {size / 1e9:.2f} GB, from {root}")
    for folder, reason in pruned.kept.items():
        echo(f"{folder}: the folder was kept: {reason}")


for subcommand in (build_command, info_command, verify_command, prune_command):
    cache_group.add_command(subcommand)
