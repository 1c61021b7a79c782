"""Size and speed of models beside each other, on texts of the data's own lengths."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from layermix.atomic import write_text
from layermix.config import DataConfig
from layermix.console import Reporter
from layermix.hardware.precision import default_device
from layermix.models.inference import TorchRunner
from layermix.models.loading import model_folder
from layermix.runs.environment import environment
from layermix.runs.layout import BENCH, CARD
from layermix.runs.model_card import bench_cells, bench_note, bench_section, with_section
from layermix.runs.reader import RunFiles
from layermix.serving.evaluation_rows import Sample, run_of, sample_of
from layermix.serving.predictor import ONNX_FILES, Predictor, Runtime, open_predictor

ALONE, TOGETHER = 20, 32
"""Texts per round that are taken one at a time, and texts in its one batch."""

CALLED: Mapping[Runtime, str] = {"torch": "PyTorch", "onnx": "ONNX", "int8": "int8"}

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Spread:
    """How many times as fast as the first model: median, least and most over rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """One model as one of the runtimes runs it.

    Attributes:
        name: The model and what runs it.
        runtime: `torch`, `onnx` or `int8`.
        parameters: None where the folder has no weights to count.
        bytes: Of the file with the weights.
        median_ms: Milliseconds for one text at a time, tokenizing included.
        p95_ms: The same, 95th percentile.
        texts_per_second: In batches, tokenizing included; median over rounds.
        times_as_fast: `alone` and `together`, against the first model.
    """

    name: str
    runtime: Runtime
    parameters: int | None
    bytes: int
    median_ms: float
    p95_ms: float
    texts_per_second: float
    times_as_fast: Mapping[str, Spread]


@dataclass(frozen=True)
class _Version:
    source: str
    runtime: Runtime
    predictor: Predictor


def bench(
    models: Sequence[str],
    data: DataConfig,
    *,
    rounds: int = 10,
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Measure models in turns: text by text, and batch by batch, each takes the same.

    Args:
        models: Run folders or model folders, the one to compare with first. One that has been
            exported is measured with PyTorch, ONNX and int8. If there is one only, and it was
            distilled, its teacher goes first where it can be found.
        data: Texts to take; if it names none, those that the last model's run has kept.
        rounds: How often.
        threads: Of the processor, set for this process; torch's own number if None.
        reporter: Where progress is shown; quiet if None.

    Returns:
        What bench.json holds; it is written into the last model's run folder, if it has one, and
        a table of it into its card.

    Raises:
        LayermixError: If a model or the texts cannot be used.
    """
    reporter = reporter or Reporter(quiet=True)
    if threads is not None:
        torch.set_num_threads(threads)
    sources = _with_teacher(models, reporter)
    versions = {
        name: _Version(source, runtime, open_predictor(source, runtime))
        for source, called in zip(sources, _called(sources), strict=True)
        for runtime, name in ((one, f"{called}, {_by(one)}") for one in _runtimes(source))
    }
    last = list(versions.values())[-1].predictor
    sample = sample_of(models[-1], data, last, reporter)
    alone, together = _timed(versions, sample, rounds, reporter)
    parameters = Counter[str]()  # what is exported has as many as what it was exported from
    for one in versions.values():
        parameters[one.source] += sum(weight.numel() for weight in _weights(one))
    first = next(iter(versions))
    measured = [
        Measured(
            name=name,
            runtime=version.runtime,
            parameters=parameters[version.source] or None,
            bytes=_bytes(version),
            median_ms=1000 * float(np.median(alone[name])),
            p95_ms=1000 * float(np.quantile(alone[name], 0.95)),
            texts_per_second=float(np.median(TOGETHER / together[name])),
            times_as_fast={
                "alone": _spread(alone[first].sum(1) / alone[name].sum(1)),
                "together": _spread(together[first] / together[name]),
            },
        )
        for name, version in versions.items()
    ]
    tokens = [len(last.tokenizer(*text, verbose=False)["input_ids"]) for text in sample.tuples]
    around = environment(0)
    record: dict[str, Any] = {
        "models": [asdict(one) for one in measured],
        "rows": sample.source,
        "texts": len(tokens),
        "mean_tokens": float(np.minimum(tokens, last.max_length).mean()),
        "rounds": rounds,
        "batch_size": TOGETHER,
        **{key: around[key] for key in ("written", "threads", "processor", "packages")},
    }
    _keep(record, models[-1], reporter)
    return record


def bench_text(record: Mapping[str, Any]) -> str:
    """What `bench` found as a table for people."""
    heads, rows = bench_cells(record)
    wide = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = [
        "  ".join([row[0].ljust(wide[0]), *map(str.rjust, row[1:], wide[1:])])
        for row in (heads, *rows)
    ]
    return "\n".join([*lines, "", bench_note(record)])


# -- what is measured ------------------------------------------------------------------------------


def _with_teacher(models: Sequence[str], reporter: Reporter) -> list[str]:
    """The models, before a single student its teacher."""
    run = run_of(models[0])
    result = None if run is None else RunFiles(run).result
    if len(models) > 1 or result is None or result.student is None or not result.teacher.place:
        return list(models)
    teacher = result.teacher.place
    if not Path(teacher).is_dir():  # never asked for on the hub: it may be another one's
        reporter.say(f"its teacher, {teacher}, is not here; give it as the first model to compare")
        return list(models)
    return [teacher, *models]


def _called(sources: Sequence[str]) -> list[str]:
    """As little of the end of each path as tells them apart."""
    parts = [Path(source).absolute().parts for source in sources]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return list(sources)  # the same model twice


def _by(runtime: Runtime) -> str:
    """What runs it, and where, if that is not the processor."""
    device = default_device().type
    return CALLED[runtime] + (f" on {device}" if runtime == "torch" and device != "cpu" else "")


def _runtimes(source: str) -> list[Runtime]:
    folder = model_folder(source)
    if folder is None:
        return ["torch"]
    found: list[Runtime] = ["torch"] if any(folder.glob("*.safetensors")) else []
    exported: list[Runtime] = ["onnx", "int8"]
    found += [one for one in exported if (folder / ONNX_FILES[one]).is_file()]
    return found or ["torch"]  # which says what is missing


def _bytes(version: _Version) -> int:
    """Of the file with the weights; of a hub model, of its weights in memory."""
    folder = model_folder(version.source)
    if version.runtime != "torch":
        assert folder is not None  # or there were no exported file
        return (folder / ONNX_FILES[version.runtime]).stat().st_size
    if folder is not None:
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return sum(one.nbytes for one in _weights(version))


def _weights(version: _Version) -> list[torch.Tensor]:
    run = version.predictor.run
    return list(run.encoder.parameters()) if isinstance(run, TorchRunner) else []


# -- measuring -------------------------------------------------------------------------------------


def _timed(
    versions: Mapping[str, _Version], sample: Sample, rounds: int, reporter: Reporter
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Seconds by name: one text at a time (rounds, ALONE), and a batch (rounds,).

    Every text goes through all models before the next is taken; who begins changes by round. The
    first round warms up and is not counted.
    """
    texts = sample.tuples
    order = np.random.default_rng(0).permutation(len(texts))
    names = list(versions)
    alone = {name: np.zeros((rounds + 1, ALONE)) for name in names}
    together = {name: np.zeros(rounds + 1) for name in names}

    def seconds(name: str, chosen: list[tuple[str, ...]]) -> float:
        start = time.perf_counter()
        versions[name].predictor.answer(chosen)
        return time.perf_counter() - start

    for number in reporter.track(range(rounds + 1), rounds + 1, "rounds"):
        turn = names[number % len(names) :] + names[: number % len(names)]
        first = number * (ALONE + TOGETHER)
        taken = [texts[order[(first + k) % len(texts)]] for k in range(ALONE + TOGETHER)]
        for place in range(ALONE):
            for name in turn:
                alone[name][number, place] = seconds(name, taken[place : place + 1])
        for name in turn:
            together[name][number] = seconds(name, taken[ALONE:])
    return {name: found[1:] for name, found in alone.items()}, {
        name: found[1:] for name, found in together.items()
    }


def _spread(ratios: Floats) -> Spread:
    return Spread(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))


def _keep(record: Mapping[str, Any], source: str, reporter: Reporter) -> None:
    """Write bench.json and the card's section, where the model has a run and a card."""
    run, folder = run_of(source), model_folder(source)
    try:
        if run is not None:
            write_text(run / BENCH, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        if folder is not None and (folder / CARD).is_file():
            card = (folder / CARD).read_text(encoding="utf-8")
            write_text(folder / CARD, with_section(card, "speed", bench_section(record)))
    except (OSError, UnicodeDecodeError) as error:  # what was measured is told all the same
        reporter.say(f"it could not be kept beside {source}: {error}", "yellow")
