"""Commands that train: `teach`, `distill`, `pretrain`, `audit`, `demo`; `augment`, `baseline`."""

import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from layermix.atomic import check_out_file
from layermix.cli.command import command
from layermix.cli.options import (
    CONFIG_FILE,
    FORCE,
    JSON,
    LABELS,
    READING,
    RESTART,
    RESUME,
    RUN_OUT,
    config_options,
    given_fields,
    print_json,
)
from layermix.config import (
    SCORED,
    AuditConfig,
    DistillConfig,
    PretrainConfig,
    TeachConfig,
    field_names,
    load,
    to_yaml,
    with_implied_preset,
)
from layermix.console import echo
from layermix.launch import is_main
from layermix.runs.layout import RunFolder

if TYPE_CHECKING:
    from layermix.runs.baseline import Kind

ROWS = (
    *("data.path", "data.train", "data.validation", "data.test", "data.task"),
    *("data.problem", *LABELS, *READING),
    *("data.group_column", "data.train_rows"),
    *("training.selection", "training.holdout_fraction"),
)
"""Fields that say which rows are trained on."""
PRETRAINED = tuple(
    name
    for name in field_names(PretrainConfig)
    if name.removeprefix("training.") not in SCORED and name != "student.vocabulary"
)
"""Fields of a pretraining that may be changed."""
AUGMENTED = ("teacher.model", *ROWS, "data.augment", "data.augment_ways")
"""Fields that decide which new rows are made."""
RESUMABLE = "stopped; the same command with --resume continues the run"


def _check_folder(
    out: Path, settings: TeachConfig | DistillConfig | PretrainConfig, resume: bool, restart: bool
) -> None:
    """Fail before slow imports if the run cannot be written there."""
    if is_main():
        RunFolder(out, to_yaml(settings), resume=resume, restart=restart)


@command("teach", stopped=RESUMABLE, is_run=True, computes=True, together=True)
@CONFIG_FILE
@RUN_OUT
@RESUME
@RESTART
@JSON
@config_options(TeachConfig)
def teach_command(
    config: Path | None,
    out: Path,
    resume: bool,
    restart: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Fine-tune a teacher on labelled texts.

    Use it if you have no fine-tuned classifier yet. Settings come from CONFIG.yaml, if given, and
    from options. The run folder gets the model, its scores and its training history.
    """
    settings = load(TeachConfig, config, given_fields(options))
    _check_folder(out, settings, resume, restart)
    from layermix.console import Reporter
    from layermix.runs.callbacks import score_table
    from layermix.runs.pipeline import teach

    result = teach(settings, out, resume=resume, restart=restart, reporter=Reporter(quiet))
    if as_json:
        print_json(result.record.to_dict())
        return
    echo(score_table(result.record))
    echo(f"\nNext: layermix distill --teacher {shlex.quote(str(out))} --data DATA --out RUN")


@command("distill", stopped=RESUMABLE, is_run=True, computes=True, together=True)
@CONFIG_FILE
@RUN_OUT
@RESUME
@RESTART
@JSON
@config_options(DistillConfig)
def distill_command(
    config: Path | None,
    out: Path,
    resume: bool,
    restart: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Distil a fine-tuned teacher into a small student.

    By default the student is a copy of half of the teacher's blocks; --student and --student.…
    choose another. Settings come from CONFIG.yaml, if given, and from options. The run
    folder gets the student, its scores and its training history.
    """
    settings = load(DistillConfig, config, given_fields(options), with_implied_preset)
    _check_folder(out, settings, resume, restart)
    from layermix.console import Reporter
    from layermix.runs.callbacks import score_table
    from layermix.runs.pipeline import distill

    result = distill(settings, out, resume=resume, restart=restart, reporter=Reporter(quiet))
    if as_json:
        print_json(result.record.to_dict())
        return
    echo(score_table(result.record))
    where = shlex.quote(str(out))
    echo(
        f"\nThe student is in {out / 'student'}: a plain transformers model.\n"
        f"Next: layermix report {where}    or    layermix predict {where} FILE    or    "
        f"layermix evaluate {where} --data DATA"
    )


@command("pretrain", stopped=RESUMABLE, is_run=True, computes=True, together=True)
@CONFIG_FILE
@RUN_OUT
@RESUME
@RESTART
@JSON
@config_options(PretrainConfig, only=PRETRAINED)
def pretrain_command(
    config: Path | None,
    out: Path,
    resume: bool,
    restart: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Distil a pretrained encoder into a small one, on plain texts without labels.

    The student learns the teacher's layers; it gets no head, and is a start for `distill` and
    `teach`. By default it is a copy of half of the teacher's blocks; --student.hidden and others
    make a fresh one. Settings come from CONFIG.yaml, if given, and from options. The run folder
    gets the student and its loss on held-out rows.
    """
    settings = load(PretrainConfig, config, given_fields(options))
    _check_folder(out, settings, resume, restart)
    from layermix.console import Reporter
    from layermix.runs.pretraining import pretrain

    record = pretrain(
        settings, out, resume=resume, restart=restart, reporter=Reporter(quiet)
    ).record
    if as_json:
        print_json(record.to_dict())
        return
    echo(f"{'tokens seen':>14}  loss on {record.corpus.rows['held_out']:,} held-out rows")
    for one in record.held_out:
        parts = ", ".join(f"{name} {value:.4f}" for name, value in one.parts.items())
        echo(f"{one.tokens:>14,}  {one.loss:.4f} ({parts})")
    student = shlex.quote(str(out))
    echo(
        f"\nThe student is in {out / 'student'}: a plain transformers encoder without a head.\n"
        f"Next: layermix distill --teacher TEACHER --student {student} --data DATA --out RUN"
    )


@command("augment", computes=True)
@click.option(
    "--out",
    required=True,
    metavar="FILE.jsonl",
    type=click.Path(path_type=Path),
    help="The file to write, a JSON object for each row.",
)
@FORCE
@config_options(DistillConfig, only=AUGMENTED)
def augment_command(out: Path, force: bool, quiet: bool, **options: Any) -> None:
    """Write the new rows that `distill` would make, to look at or to edit.

    They are made from the training texts and have no labels. Give the file to `distill` as
    --data.unlabeled FILE.jsonl --training.unlabeled_share 0.75.
    """
    settings = load(DistillConfig, None, {"data.augment": "auto", **given_fields(options)})
    check_out_file(out, force)
    from layermix.augmentation.new_rows import SHARE
    from layermix.console import Reporter
    from layermix.runs.pipeline import new_rows

    note = new_rows(settings, out)
    Reporter(quiet).say(note)
    given = f"--data.unlabeled {shlex.quote(str(out))} --training.unlabeled_share {SHARE}"
    echo(f"Next: layermix distill {given} …")


@command("audit", stopped="stopped; the same command continues with the next fold", computes=True)
@CONFIG_FILE
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The table to write: .csv, .tsv or .jsonl.",
)
@FORCE
@JSON
@config_options(AuditConfig)
def audit_command(
    config: Path | None, out: Path, force: bool, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Find labels that are probably wrong.

    Fine-tunes a model once for each fold of the training rows, and has it judge the rows that it
    was not trained on. The table has all training rows, those on which label and model disagree
    most first; correct their labels and train on the table.
    """
    settings = load(AuditConfig, config, given_fields(options))
    from layermix.data.writing import check_rows_file

    ending = check_rows_file(out, force)
    from layermix.console import Reporter
    from layermix.runs.audit import audit

    found = audit(settings, out, ending, Reporter(quiet))
    if as_json:
        print_json(asdict(found))
        return
    echo(
        f"{out}: {found.rows:,} rows, most doubtful first; on {found.other_answers:,} of them "
        f"({found.other_answers / found.rows:.1%}) a model that was not trained on the row has "
        "another answer"
    )
    echo(
        "Next: correct the column label (and clear the probabilities of such a row, if there are "
        "any), and give the file as --data.train"
    )


@command("baseline")
@CONFIG_FILE
@click.option(
    "--kind",
    type=click.Choice(["tfidf", "static"]),
    metavar="tfidf|static",
    help="Only this baseline. By default both, static embeddings where there is --model and the "
    "extra `static` is installed.",
)
@JSON
@config_options(TeachConfig, only=("model", *ROWS))
def baseline_command(
    config: Path | None, kind: "Kind | None", as_json: bool, quiet: bool, **options: Any
) -> None:
    """Score simple models: do you need a transformer at all?

    Fits logistic regression (ridge regression for numbers) to TF-IDF of the words of the training
    rows, in seconds, and scores it on the validation and test rows; with --model also to static
    embeddings, one vector for each token, which model2vec makes of that model in minutes.
    Texts of which each word has a label have no baseline.
    """
    settings = load(TeachConfig, config, given_fields(options))
    from layermix.console import Reporter
    from layermix.runs.baseline import baselines
    from layermix.serving.evaluate import scores_text

    found = baselines(settings, kind, Reporter(quiet).say)
    if as_json:
        print_json(found)
    else:
        for name, scores in found.items():
            echo(f"{name} and a linear model\n{scores_text(scores)}")


@command("demo", stopped="stopped; the same command continues the demo", computes=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    default="demo-out",
    show_default=True,
    help="The folder for data, teacher and students. What is finished there is not run again.",
)
@click.option("--full", is_flag=True, help="Train on all pairs instead of 1,500.")
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of everything random: new weights, row order, dropout.",
)
@click.option(
    "--search",
    is_flag=True,
    help="Instead of five students, search for the smallest one that is at most 5 points below "
    "the teacher, on a task of single texts.",
)
@JSON
def demo_command(
    out: Path, full: bool, seed: int, search: bool, as_json: bool, quiet: bool
) -> None:
    """Teach, distil and compare on packaged data; nothing to download.

    Fine-tunes the packaged MiniLM on pairs made from Python's docstrings, distils it in five ways,
    and prints a table of scores, sizes and speed. It times a step first and says how long it takes.
    """
    from layermix.console import Reporter
    from layermix.demo import demo_search, run_demo, table_text

    if search:
        from layermix.search.text import search_text

        if full:
            raise click.UsageError("--full: the search has one size; leave out --full or --search")
        jobs, reporter = min(2, os.cpu_count() or 1), Reporter(quiet)
        found = demo_search(out, seed=seed, jobs=jobs, reporter=reporter, quiet=quiet)
        if as_json:
            print_json(found.record.to_dict())
        else:
            echo(search_text(found.record, found.student, found.file))
        return
    table = run_demo(out, full=full, seed=seed, reporter=Reporter(quiet))
    if as_json:
        print_json(table)
    else:
        echo(table_text(table))
