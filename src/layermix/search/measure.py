"""Measures what students cost before they are trained: training changes neither size nor time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from layermix.atomic import write_text
from layermix.errors import ModelError
from layermix.hardware.device import cpu_name, processor_name
from layermix.models.encoder import Classifier
from layermix.models.latency import WARMUP, seconds_in_turns
from layermix.runs.reader import reason_of
from layermix.runs.schema import FORMAT, read_text
from layermix.search.schema import Measured, MeasuredRecord
from layermix.serving.predictor import OnnxRunner, Predictor, predictor_of

TIMED = 60
"""Texts that each model answers one at a time."""


def way_to_run(*, int8: bool) -> str:
    """How models run here, on which their times depend: files of other machines do not count."""
    where = cpu_name() if int8 else processor_name()
    return f"{'int8' if int8 else 'torch'} on {where}, {torch.get_num_threads()} threads"


def read_measured(file: Path) -> dict[str, Measured]:
    """What was measured before; empty if there is no file.

    Raises:
        ModelError: If the file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        return dict(MeasuredRecord.from_json(read_text(file)).models)
    except ValueError as error:
        raise ModelError(
            f"{file} is damaged ({reason_of(error)}); remove it, and sizes and times are measured "
            "again"
        ) from None


def write_measured(file: Path, models: Mapping[str, Measured]) -> None:
    """Writes what was measured so far."""
    write_text(file, MeasuredRecord(format=FORMAT, models=dict(models)).to_json())


def measure(
    models: Mapping[str, Callable[[], Classifier]],
    texts: Sequence[tuple[str, ...]],
    max_length: int,
    *,
    int8: bool,
    on_each: Callable[[str, Measured | Exception], object],
) -> None:
    """Measures models one after the other, each in turns with the first.

    Args:
        models: Name -> makes the model; only two of them are in memory at once.
        texts: One or two strings each, that are typical of the data.
        max_length: Longer texts are cut, in tokens.
        int8: Whether they run as int8 files, else with PyTorch.
        on_each: Is given each name with what it costs, or with the error that made it fail.
    """
    chosen = [texts[place % len(texts)] for place in range(WARMUP + TIMED)]
    first: tuple[Predictor, int, int] | None = None
    with TemporaryDirectory() as folder:
        for number, (name, make) in enumerate(models.items()):
            try:
                one = _runnable(make(), Path(folder) / str(number), max_length, int8=int8)
                actions = {"first": _answer((first or one)[0]), "this": _answer(one[0])}
                seconds = seconds_in_turns(actions, chosen)["this"][WARMUP:]
            except Exception as error:  # a student that cannot be run costs only itself
                on_each(name, error)
                continue
            first = first or one
            milliseconds = 1000 * float(np.median(seconds))
            on_each(name, Measured(bytes=one[1], milliseconds=milliseconds, parameters=one[2]))


def _answer(predictor: Predictor) -> Callable[[tuple[str, ...]], Any]:
    return lambda text: predictor.answer([text])


def _runnable(
    classifier: Classifier, folder: Path, max_length: int, *, int8: bool
) -> tuple[Predictor, int, int]:
    """A model as it will be run, the bytes of its weights, and the number of its parameters."""
    classifier.model.eval()  # type: ignore[no-untyped-call]  # transformers
    predictor = predictor_of(classifier)
    predictor = replace(predictor, max_length=min(max_length, predictor.longest))
    parameters = classifier.model.num_parameters()
    if not int8:
        weights = classifier.model.parameters()
        return predictor, sum(weight.nbytes for weight in weights), parameters
    folder.mkdir()
    file = write_int8(classifier, folder)
    by_word = predictor.problem.by_word
    run = OnnxRunner(file, len(predictor.label_names), by_word=by_word, one_by_one=True)
    return replace(predictor, run=run), file.stat().st_size, parameters


def write_int8(classifier: Classifier, folder: Path) -> Path:
    """Writes a classifier as an int8 file for onnxruntime, all parts in int8.

    Args:
        classifier: Not changed.
        folder: Gets the file, and nothing else.

    Raises:
        ExportError: If its family cannot be exported.
    """
    from layermix.serving.export import write_onnx  # the extra `onnx`
    from layermix.serving.quantize import Quantizer

    file = folder / "model_quantized.onnx"
    with TemporaryDirectory() as work:
        float32 = Path(work) / "model.onnx"
        write_onnx(classifier, float32)
        quantizer = Quantizer(float32, Path(work))
        quantizer.write(file, quantizer.parts)
    return file
