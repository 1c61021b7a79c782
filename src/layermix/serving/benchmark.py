"""Size and speed of models side by side, on texts with the lengths of the data."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from layermix.atomic import write_text
from layermix.config import DataConfig
from layermix.console import Reporter
from layermix.errors import Note
from layermix.hardware.device import default_device
from layermix.models.inference import TorchRunner
from layermix.models.loading import model_folder
from layermix.runs.environment import environment
from layermix.runs.layout import BENCH, CARD
from layermix.runs.model_card import bench_cells, bench_note, bench_section, with_section
from layermix.runs.reader import RunFiles
from layermix.runs.schema import FORMAT, BenchRecord, BenchRow, Speedup, Speedups
from layermix.serving.evaluation_rows import EvaluationRows, evaluation_rows, run_of
from layermix.serving.predictor import ONNX_FILES, Predictor, open_predictor

ALONE, TOGETHER = 20, 32
"""Texts per round that are measured one at a time, and texts in its one batch."""

MeasuredRuntime = Literal["torch", "onnx", "int8"]

RUNTIME_NAMES: Mapping[MeasuredRuntime, str] = {"torch": "PyTorch", "onnx": "ONNX", "int8": "int8"}

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class _Version:
    source: str
    runtime: MeasuredRuntime
    predictor: Predictor


def bench(
    models: Sequence[str],
    data: DataConfig,
    *,
    rounds: int = 10,
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> BenchRecord:
    """Measure models in turns on the same texts, one text at a time and in batches.

    Args:
        models: Run folders or model folders; the others are compared with the first. An exported
            model is measured with PyTorch, ONNX and int8. The teacher of a single student is
            measured first, if its folder is found.
        data: The texts; by default the validation rows of the last model's run.
        rounds: Number of rounds; each measures every model.
        threads: CPU threads of this process; PyTorch's own number if None.
        reporter: Where progress is shown; quiet if None.

    Returns:
        The content of bench.json. It is written into the last model's run folder, if there is one,
        and its table into the model's card.

    Raises:
        LayermixError: If a model or the texts cannot be used.
    """
    reporter = reporter or Reporter(quiet=True)
    if threads is not None:
        torch.set_num_threads(threads)
    sources = _with_teacher(models, reporter)
    versions = {
        name: _Version(source, runtime, open_predictor(source, runtime))
        for source, short_name in zip(sources, _short_names(sources), strict=True)
        for runtime in _runtimes(source)
        for name in [f"{short_name}, {_runtime_name(runtime)}"]
    }
    last = list(versions.values())[-1].predictor
    rows = evaluation_rows(models[-1], data, last, reporter)
    alone, together = _timed(versions, rows, rounds, reporter)
    parameters = Counter[str]()  # an exported model has as many as the original
    for version in versions.values():
        parameters[version.source] += sum(weight.numel() for weight in _weights(version))
    first = next(iter(versions))
    measured = [
        BenchRow(
            name=name,
            runtime=version.runtime,
            parameters=parameters[version.source] or None,
            bytes=_bytes(version),
            median_ms=1000 * float(np.median(alone[name])),
            p95_ms=1000 * float(np.quantile(alone[name], 0.95)),
            texts_per_second=float(np.median(TOGETHER / together[name])),
            times_as_fast=Speedups(
                alone=_speedup(alone[first].sum(1) / alone[name].sum(1)),
                together=_speedup(together[first] / together[name]),
            ),
        )
        for name, version in versions.items()
    ]
    tokens = [len(last.tokenizer(*text, verbose=False)["input_ids"]) for text in rows.tuples]
    now = environment(0)
    record = BenchRecord(
        format=FORMAT,
        models=tuple(measured),
        rows=rows.source,
        texts=len(tokens),
        mean_tokens=float(np.minimum(tokens, last.max_length).mean()),
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
    """The table that the command line prints."""
    heads, rows = bench_cells(record)
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in (heads, *rows)
    ]
    return "\n".join([*lines, "", bench_note(record)])


# -- what is measured ------------------------------------------------------------------------------


def _with_teacher(models: Sequence[str], reporter: Reporter) -> list[str]:
    """The models, with the teacher of a single student before it."""
    run = run_of(models[0])
    result = None if run is None else RunFiles(run).result
    if len(models) > 1 or result is None or result.student is None or not result.teacher.place:
        return list(models)
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


def _short_names(sources: Sequence[str]) -> list[str]:
    """The ends of the paths, just long enough to be different."""
    parts = [Path(source).absolute().parts for source in sources]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(sources)  # the same model twice


def _runtime_name(runtime: MeasuredRuntime) -> str:
    """The runtime's name, with its device if that is not the CPU."""
    device = default_device().type
    return RUNTIME_NAMES[runtime] + (
        f" on {device}" if runtime == "torch" and device != "cpu" else ""
    )


def _runtimes(source: str) -> list[MeasuredRuntime]:
    """The runtimes for which a model has files; PyTorch if it has none, for its error message."""
    folder = model_folder(source)
    if folder is None:
        return ["torch"]
    runtimes: list[MeasuredRuntime] = ["torch"] if any(folder.glob("*.safetensors")) else []
    exported: list[MeasuredRuntime] = ["onnx", "int8"]
    runtimes += [runtime for runtime in exported if (folder / ONNX_FILES[runtime]).is_file()]
    return runtimes or ["torch"]


def _bytes(version: _Version) -> int:
    """The size of the file with the weights; for a hub model, of its weights in memory."""
    folder = model_folder(version.source)
    if version.runtime != "torch":
        assert folder is not None  # only a folder has exported files
        return (folder / ONNX_FILES[version.runtime]).stat().st_size
    if folder is not None:
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return sum(weight.nbytes for weight in _weights(version))


def _weights(version: _Version) -> list[torch.Tensor]:
    run = version.predictor.run
    return list(run.encoder.parameters()) if isinstance(run, TorchRunner) else []


# -- measuring -------------------------------------------------------------------------------------


def _timed(
    versions: Mapping[str, _Version], rows: EvaluationRows, rounds: int, reporter: Reporter
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Seconds by name, of one text at a time (rounds, ALONE) and of a batch (rounds,).

    All models run a text before any runs the next one, and each round starts with another model.
    The first round warms up and is not counted.
    """
    texts = rows.tuples
    order = np.random.default_rng(0).permutation(len(texts))
    names = list(versions)
    alone = {name: np.zeros((rounds + 1, ALONE)) for name in names}
    together = {name: np.zeros(rounds + 1) for name in names}

    def seconds(name: str, batch: list[tuple[str, ...]]) -> float:
        start = time.perf_counter()
        versions[name].predictor.answer(batch)
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
