"""Commands on a saved model: `evaluate`, `predict`, `trim`, `check`, `export` and `bench`."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from layermix.cli.command import command
from layermix.cli.options import (
    BATCH_SIZE,
    DATA,
    FORCE,
    JSON,
    MODEL,
    READING,
    RUNTIME,
    TRIMMED,
    config_options,
    extra_needed,
    given_fields,
    print_json,
)
from layermix.config import DistillConfig, TeachConfig, load
from layermix.console import echo
from layermix.errors import ConfigError

CALIBRATED = click.option(
    "--calibrated",
    is_flag=True,
    help="Use what was fitted on held-out rows: a temperature, for probabilities that are as sure "
    "as they are right, or thresholds for several labels. Needs a model trained with "
    "--training.selection holdout.",
)


@command("evaluate", computes=True)
@MODEL
@RUNTIME
@BATCH_SIZE
@CALIBRATED
@JSON
@DATA
def evaluate_command(
    model: str,
    runtime: Any,
    batch_size: int,
    calibrated: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Score MODEL on labelled data.

    MODEL is a run folder, a model folder or a hub id. --data is a file, of which every row is
    scored, or a folder or hub data set, of which the validation and test splits are.
    """
    data = load(TeachConfig, flags=given_fields(options)).data
    from layermix.console import Reporter
    from layermix.serving.evaluate import evaluate, scores_text

    scores = evaluate(
        model,
        data,
        runtime=runtime,
        batch_size=batch_size,
        calibrated=calibrated,
        reporter=Reporter(quiet),
    )
    if as_json:
        print_json(scores)
    else:
        echo(scores_text(scores))


@command("predict", computes=True, any_bytes=("file", "out"))
@MODEL
@click.argument("file", default="-")
@click.option(
    "--out",
    default="-",
    metavar="FILE",
    help="The file to write: .jsonl, .csv or .tsv.  [default: standard output, as JSONL]",
)
@FORCE
@click.option(
    "--format",
    "input_format",
    type=click.Choice(["txt", "csv", "tsv", "jsonl", "parquet", "conll", "conllu"]),
    metavar="txt|csv|tsv|jsonl|parquet|conll|conllu",
    help="Format of the input.  [default: by the file's ending; standard input is JSONL if its "
    "first line is, else one text per line]",
)
@RUNTIME
@BATCH_SIZE
@CALIBRATED
@config_options(TeachConfig, only=READING)
def predict_command(
    model: str,
    file: str,
    out: str,
    force: bool,
    input_format: str | None,
    runtime: Any,
    batch_size: int,
    calibrated: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Label texts, with a probability for each class, or find names in them.

    MODEL is a run folder, a model folder or a hub id. FILE is TSV, CSV, JSONL, Parquet, CoNLL or
    plain text; - (the default) is standard input. The output keeps the order of the rows. A row
    that cannot be read is written without text and label and listed at the end; the exit code is
    then 1.
    """
    data = load(TeachConfig, flags=given_fields(options)).data
    from layermix.console import Reporter
    from layermix.serving.predict import predict

    predict(
        model,
        file,
        out,
        text_columns=data.text_columns,
        input_format=input_format,
        quoting=data.quoting,
        header=data.header,
        encoding=data.encoding,
        force=force,
        runtime=runtime,
        batch_size=batch_size,
        calibrated=calibrated,
        reporter=Reporter(quiet),
    )


@command("trim", computes=True)
@MODEL
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A new folder for the smaller model.",
)
@JSON
@config_options(DistillConfig, only=TRIMMED)
def trim_command(model: str, out: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Make MODEL smaller without training: keep the words that its texts use.

    MODEL is a run folder, a model folder or a hub id. The training texts and those of
    --data.unlabeled say which tokens stay; by default those of MODEL's run. With
    --student.vocabulary occurring (the default here) the answers on them stay the same to the last
    bit. Other words are read in smaller pieces, so the answers on validation rows are compared,
    too.
    """
    given = {"student.vocabulary": "occurring", **given_fields(options)}
    settings = load(DistillConfig, flags=given)
    from layermix.console import Reporter
    from layermix.serving.trim import trim, trimming_text

    wanted = settings.student.vocabulary or "occurring"
    trimming = trim(model, settings.data, out, vocabulary=wanted, reporter=Reporter(quiet))
    if as_json:
        print_json(asdict(trimming))
        return
    echo(trimming_text(trimming, out))
    echo(f"Next: layermix evaluate {shlex.quote(str(out))} --data DATA")


@command("check", computes=True)
@MODEL
@click.option(
    "--against",
    metavar="MODEL",
    help="The model to compare with: the teacher, or the model in service.",
)
@click.option(
    "--max-drop",
    type=float,
    metavar="X",
    help="Points (hundredths) of the main score that MODEL may be worse than --against.",
)
@click.option(
    "--sure",
    is_flag=True,
    help="The whole 95 % interval of the drop must be within --max-drop, not only its estimate.",
)
@click.option(
    "--max-ms",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="Milliseconds that one text may take, the median of 100 texts.",
)
@click.option(
    "--min-speedup",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="How many times as fast as --against MODEL must be, for one text. Holds on slow machines, "
    "too.",
)
@click.option(
    "--max-mb",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="Megabytes that the file of MODEL's weights may have.",
)
@RUNTIME
@JSON
@DATA
def check_command(
    model: str,
    against: str | None,
    max_drop: float | None,
    sure: bool,
    max_ms: float | None,
    min_speedup: float | None,
    max_mb: float | None,
    runtime: Any,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Check that MODEL is good, fast and small enough: a gate for CI.

    Prints one line. The exit code is 0 if every limit is kept, 1 if one is not, and 2 if something
    could not be measured. The rows are the validation rows of MODEL's run, or those of --data
    (every row of a file, the validation split of a folder or hub data set).
    """
    data = load(TeachConfig, flags=given_fields(options)).data
    from layermix.console import Reporter
    from layermix.serving.check import Limits, check, check_text

    limits = Limits(max_drop, sure, max_ms, min_speedup, max_mb)
    checked = check(model, against, limits, data, runtime=runtime, reporter=Reporter(quiet))
    passed = all(one.passed for one in checked)
    if as_json:
        print_json({"passed": passed, "model": model, "checks": [asdict(one) for one in checked]})
    else:
        echo(check_text(model, checked))
    if not passed:
        sys.exit(1)


@command("export", computes=True)
@MODEL
@click.option("--onnx", is_flag=True, help="Write onnx/model.onnx (float32).")
@click.option("--int8", is_flag=True, help="Write onnx/model_quantized.onnx as well (int8).")
@click.option(
    "--max-drop",
    metavar="X",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Largest loss of score that int8 may cause, in points (hundredths); a larger one is an "
    "error.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A new folder for the exported files and all else that serving needs.  [default: onnx/ "
    "in the model's own folder]",
)
@click.option("--force", is_flag=True, help="If the export exists, replace it.")
@click.option(
    "--push_to_hub",
    metavar="USER/NAME",
    help="Upload the model's folder, model card included, to this repository; without --onnx or "
    "--int8, upload it as it is.",
)
@click.option("--private", is_flag=True, help="If the hub repository is new, make it private.")
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
    **options: Any,
) -> None:
    """Export MODEL for onnxruntime and transformers.js, or upload it to the hub.

    MODEL is a run folder or a model folder. The export is checked on labelled rows: the float32
    file must give PyTorch's answers, and int8 may lose --max-drop points at most. Of 400 rows or
    more, one half chooses what stays in float and the other half judges int8. The rows are the
    validation rows of MODEL's run, or those of --data (every row of a file, the validation split
    of a folder or hub data set).
    """
    if not (onnx or int8 or push_to_hub):
        raise ConfigError(
            "nothing to do: give --onnx (float32), --int8 (float32 and int8) or --push_to_hub "
            "USER/NAME (upload)"
        )
    if private and push_to_hub is None:
        raise ConfigError("--private needs --push_to_hub USER/NAME")
    data = load(TeachConfig, flags=given_fields(options)).data
    result: dict[str, Any] = {}
    where = shlex.quote(str(out or model))
    if onnx or int8:
        with extra_needed("onnx", "An export"):
            from layermix.serving.export import export, export_text
        from layermix.console import Reporter

        folder, record = export(
            model,
            data,
            int8=int8,
            out=out,
            max_drop=max_drop,
            force=force,
            reporter=Reporter(quiet),
        )
        result = {"folder": str(folder), **record.to_dict()}
        if not as_json:
            echo(export_text(record, folder))
            runtime = "int8" if int8 else "onnx"
            rows = f" --data {shlex.quote(data.path)}" if data.path else ""
            beside = f" {where}" if out else ""
            echo(
                f"\nNext: layermix bench {shlex.quote(model)}{beside}{rows}    or    "
                f"layermix predict {where} FILE --runtime {runtime}"
            )
    if push_to_hub is not None:
        from layermix.serving.hub import push

        try:
            result["pushed"] = push(out or model, push_to_hub, private=private)
        finally:
            if as_json:  # the export is printed even if the upload fails
                print_json(result)
        if not as_json:
            echo(f"Uploaded to {result['pushed']}")
    elif as_json:
        print_json(result)


@command("bench", computes=True)
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
@click.option(
    "--rounds",
    metavar="N",
    type=click.IntRange(min=2),
    default=10,
    show_default=True,
    help="Measurements per model; the models take turns.",
)
@click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(min=1),
    help="Processor threads.  [default: PyTorch's number]",
)
@click.option(
    "--max_tokens",
    metavar="N",
    type=int,
    help="Length in tokens at which the texts are cut, the same for every model.  [default: the "
    "shortest limit of the models]",
)
@JSON
@DATA
def bench_command(
    models: tuple[str, ...],
    rounds: int,
    threads: int | None,
    max_tokens: int | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure size and speed of models side by side.

    MODEL is a run folder, a model folder or a hub id. The first one is the baseline; a single
    student is compared with its teacher. Exported files (ONNX, int8) are measured as well; the
    first model is then also measured as ONNX and int8. The texts are the validation rows of the
    last MODEL's run, or those of --data, cut at the same length for every model. The result is
    saved in that run's folder, and shown in its report and model card.
    """
    data = load(TeachConfig, flags=given_fields(options)).data
    from layermix.console import Reporter
    from layermix.serving.benchmark import bench, bench_text

    result = bench(
        models,
        data,
        rounds=rounds,
        threads=threads,
        max_tokens=max_tokens,
        reporter=Reporter(quiet),
    )
    if as_json:
        print_json(result.to_dict())
    else:
        echo(bench_text(result))
