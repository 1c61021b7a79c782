"""Size and speed of models side by side, on texts with the lengths of the data."""

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from layermix.atomic import write_text
from layermix.config import DataConfig
from layermix.console import Reporter
from layermix.errors import ConfigError, ExportError, Note
from layermix.hardware.device import default_device
from layermix.models.inference import TorchRunner
from layermix.models.loading import load_classifier, model_folder
from layermix.runs.environment import environment
from layermix.runs.layout import BENCH, CARD
from layermix.runs.model_card import bench_note, bench_section, bench_tables, with_section
from layermix.runs.reader import RunFiles
from layermix.runs.schema import FORMAT, SOFT_LABELS, BenchRecord, BenchRow, Speedup, Speedups
from layermix.serving.evaluation_rows import EvaluationRows, evaluation_rows, run_of
from layermix.serving.predictor import ONNX_FILES, OnnxRunner, Predictor, open_predictor

ALONE, TOGETHER = 20, 32
"""Texts per round that are measured one at a time, and texts in its one batch."""

MeasuredRuntime = Literal["torch", "onnx", "int8"]

RUNTIME_NAMES: Mapping[MeasuredRuntime, str] = {"torch": "PyTorch", "onnx": "ONNX", "int8": "int8"}

SHORTEST = 8
"""Fewest tokens at which texts may be cut: room for a pair and its special tokens."""

CHECKED = 16
"""Texts on which a file that is made for the measurement must answer as PyTorch does."""

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class _Version:
    """One model as one runtime runs it; `file` was made for the measurement only."""

    source: str
    runtime: MeasuredRuntime
    predictor: Predictor
    file: Path | None = None


def bench(
    models: Sequence[str],
    data: DataConfig,
    *,
    rounds: int = 10,
    threads: int | None = None,
    max_tokens: int | None = None,
    reporter: Reporter | None = None,
) -> BenchRecord:
    """Measure models in turns on the same texts, cut alike, one at a time and in batches.

    If a model has exported files, the first model is measured in these runtimes as well: with its
    own files, or with files made in a temporary folder.

    Args:
        models: Run folders or model folders; the others are compared with the first. An exported
            model is measured with PyTorch, ONNX and int8. The teacher of a single student is
            measured first, if its folder is found.
        data: The texts; by default the validation rows of the last model's run.
        rounds: Number of rounds; each measures every model.
        threads: CPU threads of this process; PyTorch's own number if None.
        max_tokens: At which the texts are cut for every model; the shortest limit of the models if
            None.
        reporter: Where progress is shown; quiet if None.

    Returns:
        The content of bench.json. It is written into the last model's run folder, if there is one,
        and its table into the model's card.

    Raises:
        LayermixError: If a model or the texts cannot be used, or a model takes fewer than
            `max_tokens` tokens.
    """
    reporter = reporter or Reporter(quiet=True)
    if threads is not None:
        torch.set_num_threads(threads)
    sources = _with_teacher(models, reporter)
    with tempfile.TemporaryDirectory() as scratch:
        names = _short_names(sources)
        versions = {
            _name(short_name, runtime): _Version(source, runtime, open_predictor(source, runtime))
            for source, short_name in zip(sources, names, strict=True)
            for runtime in _runtimes(source)
        }
        last = list(versions.values())[-1].predictor
        rows = evaluation_rows(models[-1], data, last, reporter)
        versions = _with_first_exported(versions, names[0], rows, Path(scratch), reporter)
        limit = _common_limit(versions, max_tokens)
        alone, together = _timed(versions, rows, limit, rounds, reporter)
        measured = _rows(versions, rows, limit, alone, together)
    now = environment(0)
    record = BenchRecord(
        format=FORMAT,
        models=measured,
        rows=rows.source,
        texts=len(rows.texts),
        max_tokens=limit,
        rounds=rounds,
        batch_size=TOGETHER,
        written=now.written,
        threads=torch.get_num_threads(),
        processor=now.processor or "",
        packages=now.packages,
    )
    _keep(record, models[-1], reporter)
    return record


def bench_text(record: BenchRecord) -> str:
    """The tables that the command line prints."""
    lines: list[str] = []
    for heads, rows in bench_tables(record):
        widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
        lines += [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in (heads, *rows)
        ]
        lines.append("")
    return "\n".join([*lines, bench_note(record)])


# -- what is measured ------------------------------------------------------------------------------


def _with_teacher(models: Sequence[str], reporter: Reporter) -> list[str]:
    """The models, with the teacher of a single student before it."""
    run = run_of(models[0])
    result = None if run is None else RunFiles(run).result
    if len(models) > 1 or result is None or result.student is None or not result.teacher.place:
        return list(models)
    if result.signals == SOFT_LABELS:
        return list(models)  # there is no one teacher model
    teacher = result.teacher.place
    if not Path(teacher).is_dir():  # not looked for on the hub, where the name may be another model
        reporter.say(
            Note(
                "teacher-not-found",
                f"the folder of its teacher, {teacher}, was not found; give the teacher as the "
                "first model to compare with it",
            )
        )
        return list(models)
    return [teacher, *models]


def _with_first_exported(
    versions: Mapping[str, _Version],
    short_name: str,
    rows: EvaluationRows,
    scratch: Path,
    reporter: Reporter,
) -> dict[str, _Version]:
    """The versions, with those of the first model that only others have, made for the measurement.

    Args:
        versions: By name; those of the first model come first.
        short_name: Of the first model.
        rows: On some of which an exported file must answer as PyTorch does.
        scratch: An empty folder for the files; keep it while they are measured.
        reporter: Is told if a file cannot be made; the versions then stay as they are.
    """
    source = next(iter(versions.values())).source
    own = {name: version for name, version in versions.items() if version.source == source}
    runtimes = {version.runtime for version in own.values()}
    wanted = {version.runtime for version in versions.values()} - runtimes - {"torch"}
    if not wanted or "torch" not in runtimes:
        return dict(versions)
    pytorch = own[_name(short_name, "torch")]
    reporter.say(
        f"exporting {short_name} to a temporary folder, to compare in the same runtimes; this may "
        "take a minute"
    )
    try:
        files = _exported(pytorch, rows, scratch)
    except (ImportError, ExportError) as error:
        text = f"{short_name} could not be exported, so it is measured with PyTorch only: {error}"
        reporter.say(Note("first-not-exported", text), "yellow")
        return dict(versions)
    made = {
        _name(short_name, runtime): _Version(
            source, runtime, replace(pytorch.predictor, runtime=runtime, run=runner), runner.file
        )
        for runtime, runner in files.items()
        if runtime in wanted
    }
    return {**own, **made, **versions}


def _exported(
    version: _Version, rows: EvaluationRows, scratch: Path
) -> dict[MeasuredRuntime, OnnxRunner]:
    """Runners of the ONNX and int8 files of a model, which are made in a folder.

    Raises:
        ImportError: If the extra `onnx` is not installed.
        ExportError: If the float32 file cannot be made, or answers other than PyTorch does.
    """
    from layermix.serving.export import compare, write_int8, write_onnx

    float32, quantized = scratch / "model.onnx", scratch / "model_quantized.onnx"
    write_onnx(load_classifier(version.source), float32)
    classes, problem = len(version.predictor.label_names), version.predictor.problem
    runner = OnnxRunner(float32, classes, by_word=problem.by_word)
    some = version.predictor.encode(rows.tuples[:CHECKED])
    compare(version.predictor.run(some), runner(some), problem=problem)
    write_int8(float32, quantized, scratch)
    int8 = OnnxRunner(quantized, classes, by_word=problem.by_word, one_by_one=True)
    return {"onnx": runner, "int8": int8}


def _common_limit(versions: Mapping[str, _Version], max_tokens: int | None) -> int:
    """The number of tokens at which every model cuts the texts.

    Raises:
        ConfigError: If `max_tokens` leaves no room for text, or is more than a model takes.
    """
    predictors = {version.source: version.predictor for version in versions.values()}
    if max_tokens is None:
        return min(predictor.max_length for predictor in predictors.values())
    if max_tokens < SHORTEST:
        raise ConfigError(f"--max_tokens {max_tokens}: wanted {SHORTEST} or more")
    if too_short := [
        f"{source} takes {predictor.longest}"
        for source, predictor in predictors.items()
        if predictor.longest < max_tokens
    ]:
        raise ConfigError(
            f"--max_tokens {max_tokens}: more tokens than these models take: "
            f"{'; '.join(too_short)}; give the smallest of these numbers or less"
        )
    return max_tokens


def _short_names(sources: Sequence[str]) -> list[str]:
    """The ends of the paths, just long enough to be different."""
    parts = [Path(source).absolute().parts for source in sources]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(sources)  # the same model twice


def _name(short_name: str, runtime: MeasuredRuntime) -> str:
    """What tables call a model and its runtime, with the device if that is not the CPU."""
    device = default_device().type
    on_device = f" on {device}" if runtime == "torch" and device != "cpu" else ""
    return f"{short_name}, {RUNTIME_NAMES[runtime]}{on_device}"


def _runtimes(source: str) -> list[MeasuredRuntime]:
    """The runtimes for which a model has files; PyTorch if it has none, for its error message."""
    folder = model_folder(source)
    if folder is None:
        return ["torch"]
    runtimes: list[MeasuredRuntime] = ["torch"] if any(folder.glob("*.safetensors")) else []
    exported: list[MeasuredRuntime] = ["onnx", "int8"]
    runtimes += [runtime for runtime in exported if (folder / ONNX_FILES[runtime]).is_file()]
    return runtimes or ["torch"]


def weight_bytes(source: str, predictor: Predictor) -> int:
    """The size of the file with the weights; for a hub model, of its weights in memory."""
    folder = model_folder(source)
    if predictor.runtime in ONNX_FILES:
        assert folder is not None  # only a folder has exported files
        return (folder / ONNX_FILES[predictor.runtime]).stat().st_size
    if folder is not None:
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return sum(weight.nbytes for weight in _weights(predictor))


def _weights(predictor: Predictor) -> list[torch.Tensor]:
    run = predictor.run
    return list(run.encoder.parameters()) if isinstance(run, TorchRunner) else []


# -- measuring -------------------------------------------------------------------------------------


def _timed(
    versions: Mapping[str, _Version],
    rows: EvaluationRows,
    limit: int,
    rounds: int,
    reporter: Reporter,
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Seconds by name, of one text at a time (rounds, ALONE) and of a batch (rounds,).

    Texts are cut at `limit` tokens. All models run a text before any runs the next one, and each
    round starts with another model. The first round warms up and is not counted.
    """
    texts = rows.tuples
    order = np.random.default_rng(0).permutation(len(texts))
    predictors = {
        name: replace(version.predictor, max_length=limit) for name, version in versions.items()
    }
    names = list(versions)
    alone = {name: np.zeros((rounds + 1, ALONE)) for name in names}
    together = {name: np.zeros(rounds + 1) for name in names}

    def seconds(name: str, batch: list[tuple[str, ...]]) -> float:
        start = time.perf_counter()
        predictors[name].answer(batch)
        return time.perf_counter() - start

    for number in reporter.track(range(rounds + 1), rounds + 1, "rounds"):
        turns = names[number % len(names) :] + names[: number % len(names)]
        first = number * (ALONE + TOGETHER)
        chosen = [texts[order[(first + k) % len(texts)]] for k in range(ALONE + TOGETHER)]
        for place in range(ALONE):
            for name in turns:
                alone[name][number, place] = seconds(name, chosen[place : place + 1])
        for name in turns:
            together[name][number] = seconds(name, chosen[ALONE:])
    return {name: seconds_of[1:] for name, seconds_of in alone.items()}, {
        name: seconds_of[1:] for name, seconds_of in together.items()
    }


def _rows(
    versions: Mapping[str, _Version],
    rows: EvaluationRows,
    limit: int,
    alone: Mapping[str, Floats],
    together: Mapping[str, Floats],
) -> tuple[BenchRow, ...]:
    """What was measured, model by model; the arguments are those and the results of `_timed`."""
    first, first_version = next(iter(versions.items()))
    same_runtime = {  # runtime -> the first model run by it
        version.runtime: name
        for name, version in versions.items()
        if version.source == first_version.source
    }
    parameters = Counter[str]()  # an exported model has as many as the original
    for version in versions.values():
        parameters[version.source] += sum(weight.numel() for weight in _weights(version.predictor))
    lengths = {
        version.source: _lengths(version.predictor, rows.tuples) for version in versions.values()
    }

    def times_as_fast(name: str, base: str) -> Speedups:
        return Speedups(
            alone=_speedup(alone[base].sum(1) / alone[name].sum(1)),
            together=_speedup(together[base] / together[name]),
        )

    return tuple(
        BenchRow(
            name=name,
            runtime=version.runtime,
            parameters=parameters[version.source] or None,
            bytes=(
                weight_bytes(version.source, version.predictor)
                if version.file is None
                else version.file.stat().st_size
            ),
            median_ms=1000 * float(np.median(alone[name])),
            p95_ms=1000 * float(np.quantile(alone[name], 0.95)),
            texts_per_second=float(np.median(TOGETHER / together[name])),
            times_as_fast=times_as_fast(name, first),
            same_runtime=(
                times_as_fast(name, same_runtime[version.runtime])
                if version.runtime in same_runtime
                else None
            ),
            mean_tokens=float(np.minimum(lengths[version.source], limit).mean()),
            cut=float((lengths[version.source] > limit).mean()),
            own_limit=version.predictor.max_length,
            temporary=version.file is not None,
        )
        for name, version in versions.items()
    )


def _lengths(predictor: Predictor, texts: Sequence[tuple[str, ...]]) -> NDArray[np.integer[Any]]:
    """Tokens of each text before it is cut, (N,)."""
    columns = [list(column) for column in zip(*texts, strict=True)]
    encoded = predictor.tokenizer(*columns, verbose=False)["input_ids"]
    return np.array([len(ids) for ids in encoded])


def _speedup(ratios: Floats) -> Speedup:
    return Speedup(
        median=float(np.median(ratios)), low=float(ratios.min()), high=float(ratios.max())
    )


def _keep(record: BenchRecord, source: str, reporter: Reporter) -> None:
    """Write bench.json and the card's section, where the model has a run and a card."""
    run, folder = run_of(source), model_folder(source)
    try:
        if run is not None:
            write_text(run / BENCH, record.to_json())
        if folder is not None and (folder / CARD).is_file():
            card = (folder / CARD).read_text(encoding="utf-8")
            write_text(folder / CARD, with_section(card, "speed", bench_section(record)))
    except (OSError, UnicodeDecodeError) as error:  # the table is printed anyway
        text = f"the benchmark could not be written beside {source}: {error}"
        reporter.say(Note("bench-not-written", text), "yellow")
