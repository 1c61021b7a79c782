"""A saved classifier as files for onnxruntime and transformers.js: float32, and int8 if it is good.

Nothing is called done before it has answered real rows: the float32 file must say what PyTorch
says, and the int8 file may cost so much of the score and no more.
"""

import copy
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layermix.atomic import LockedError, lock, scratch_folder, whole_folder, write_text
from layermix.config import DataConfig
from layermix.console import Reporter
from layermix.data.tokenization import Collator, tokenize_split
from layermix.errors import ConfigError, ExportError, ModelError, RunExistsError
from layermix.evaluation import metrics
from layermix.evaluation.metrics import UNLABELLED, softmax
from layermix.evaluation.statistics import Score, row_bootstrap
from layermix.models.encoder import Classifier, HFEncoder, fingerprint, longest_input
from layermix.models.inference import Floats, Runner, finite, logits_of
from layermix.models.loading import load_classifier, model_folder
from layermix.runs.layout import CARD, EXPORT
from layermix.runs.model_card import export_section, with_section
from layermix.serving.evaluation_rows import Sample, sample_of
from layermix.serving.predictor import (
    ONNX_FILES,
    OnnxRunner,
    Predictor,
    predictor_of,
    weight_hashes,
)
from layermix.serving.quantize import Quantizer

OPSET = 18
"""Of ONNX; onnxruntime 1.14 and transformers.js 3 read it, as do all that are newer."""

ONNX = "onnx"
"""The folder inside a model's folder."""

TOLERANCE = 1e-3
"""By how much a logit may differ between PyTorch and float32 ONNX; some 1e-6 is usual."""

ALONE = 16
"""Rows that are also compared one by one, where nothing is padded."""

PROBED = 128
"""Rows on which the harm of every quantised part is measured."""

KEPT_IN_FLOAT = 4
"""One part in so many, the most harmful ones, stays in float at the second try."""


@dataclass(frozen=True)
class Parity:
    """PyTorch against float32 ONNX on the same rows, in batches, and `alone` of them one by one."""

    rows: int
    alone: int
    max_difference: float
    other_answers: int

    def told(self) -> str:
        """As a sentence for people."""
        return (
            f"ONNX answers as PyTorch does on all {self.rows} rows; the logits differ by at most "
            f"{self.max_difference:.1e}"
        )


@dataclass(frozen=True)
class Cost:
    """What int8 costs on labelled rows.

    Attributes:
        metric: Of the scores.
        rows: How many labelled rows.
        float32: The score before.
        int8: The score after.
        drop: Before minus after, in points (hundredths).
        low: Lower end of the paired 95 % interval of the drop over rows, in points.
        high: Upper end.
        same_answers: Share of rows with the same answer.
        in_float: Parts of the network left in float beside the last product.
    """

    metric: Score
    rows: int
    float32: float
    int8: float
    drop: float
    low: float
    high: float
    same_answers: float
    in_float: tuple[str, ...]

    def told(self) -> str:
        """As a sentence for people."""
        none = (
            "; the interval contains 0, so no loss is shown" if self.low <= 0 <= self.high else ""
        )
        left = f", {len(self.in_float)} parts left in float" if self.in_float else ""
        return (
            f"int8{left}: {self.metric} {self.int8:.4f} instead of {self.float32:.4f} on "
            f"{self.rows} rows, a drop of {self.drop:.2f} points (95 % interval over rows "
            f"{self.low:.2f} to {self.high:.2f}{none})"
        )


class _Rows:
    """The rows on which versions of one model are compared, as token rows."""

    def __init__(self, sample: Sample, predictor: Predictor, reporter: Reporter) -> None:
        self.sample, self.reporter = sample, reporter
        self.tokens, _ = tokenize_split(sample.texts, predictor.tokenizer, predictor.max_length)
        self._collate = Collator(predictor.tokenizer)

    def logits(self, run: Runner, what: str) -> Floats:
        """Of all rows, in batches, (N, C)."""
        return logits_of(run, self.tokens, self._collate, track=self.reporter.track, what=what)

    def alone(self, run: Runner) -> Floats:
        """Of the first `ALONE` rows, one by one."""
        return logits_of(run, self._first(ALONE), self._collate, 1)

    def some(self, run: Runner) -> Floats:
        """Of the first `PROBED` rows."""
        return logits_of(run, self._first(PROBED), self._collate)

    def _first(self, count: int) -> Dataset:
        return self.tokens.select(range(min(count, len(self.tokens))))


def export(
    source: str,
    data: DataConfig,
    *,
    int8: bool = False,
    out: Path | None = None,
    max_drop: float = 1.0,
    force: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Export a saved classifier, check it on real rows, and put it beside its tokenizer.

    Args:
        source: Run folder or model folder.
        data: Rows to check it on; if it names none, the validation rows that its run has kept.
        int8: Quantise as well.
        out: A new folder for what serving needs; None adds `onnx/` to the model's folder.
        max_drop: Most points of the score that int8 may cost, judged on the point estimate.
        force: Replace what an earlier export has made.
        reporter: Where progress is shown; quiet if None.

    Returns:
        The folder, and what export.json holds.

    Raises:
        ExportError: If the exported file does not answer as PyTorch does, or int8 costs too much;
            the float32 file is kept in the latter case.
        LayermixError: If model or rows cannot be used, or something is there already.
    """
    reporter = reporter or Reporter(quiet=True)
    folder = model_folder(source)
    if folder is None:
        raise ModelError(f"{source}: no such folder; wanted a run folder or a model folder")
    _check_target(folder, out, force)
    card = _card(folder)
    classifier = load_classifier(source)
    predictor = predictor_of(classifier)
    sample = sample_of(source, data, predictor, reporter)
    if int8 and not (sample.labels != UNLABELLED).any():
        raise ConfigError(
            f"{sample.source}: no row has a label, so what int8 costs cannot be measured; give "
            "--data with labelled rows, or leave --int8 out"
        )
    rows = _Rows(sample, predictor, reporter)
    with _built_beside(folder if out is None else out, is_new=out is not None) as work:
        float32, small = (work / ONNX_FILES[name] for name in ("onnx", "int8"))
        float32.parent.mkdir()
        reporter.say(f"exporting to ONNX, opset {OPSET}; this may take a minute")
        write_onnx(classifier, float32)
        runner = OnnxRunner(float32, len(predictor.label_names))
        found, single = rows.logits(runner, "ONNX"), rows.alone(runner)
        wanted = finite(f"{predictor.source}: its", rows.logits(predictor.run, "PyTorch"))
        parity = compare(
            np.concatenate([wanted, rows.alone(predictor.run)]),
            np.concatenate([found, single]),
            len(single),
        )
        reporter.say(parity.told())
        record: dict[str, Any] = {
            "opset": OPSET,
            "fingerprint": fingerprint(classifier.model),
            "weights": weight_hashes(folder),
            "rows": sample.source,
            "pair": "text_pair" in sample.texts.column_names,
            "max_length": predictor.max_length,
            "parity": asdict(parity),
            "bytes": {"onnx": float32.stat().st_size},
            "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime")},
        }
        refused: ExportError | None = None
        if int8:
            try:
                record["int8"] = asdict(_quantise(float32, small, rows, found, max_drop))
                record["bytes"]["int8"] = small.stat().st_size
            except ExportError as error:
                small.unlink()
                refused = error
        write_text(work / EXPORT, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        card = with_section(card, "export", export_section(record))
        if out is not None:
            _serve(folder, work, predictor)
            write_text(work / CARD, card)
    if out is None:
        write_text(folder / CARD, card)
    if refused is not None:
        raise refused
    return out or folder, record


def export_text(record: dict[str, Any], folder: Path) -> str:
    """What was made, for people.

    Args:
        record: From `export`.
        folder: From `export`.
    """
    sizes, parity = record["bytes"], Parity(**record["parity"])
    lines = [f"{folder / ONNX_FILES['onnx']}: {sizes['onnx'] / 1e6:.1f} MB. {parity.told()}."]
    if "int8" in record:
        cost = Cost(**record["int8"])
        lines.append(f"{folder / ONNX_FILES['int8']}: {sizes['int8'] / 1e6:.1f} MB. {cost.told()}.")
    return "\n".join(lines)


# -- float32 ---------------------------------------------------------------------------------------


class _LogitsOnly(nn.Module):
    """A classifier with its inputs by position and nothing but logits, as an exporter wants it."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def write_onnx(classifier: Classifier, file: Path) -> None:
    """Write a classifier as one file whose batch and length are free.

    Args:
        classifier: Its inputs are those that its tokenizer makes and its model takes.
        file: Is written with the inputs' own names, and `logits` (batch, classes).

    Raises:
        ExportError: If torch cannot export this family.
    """
    encoder = HFEncoder(copy.deepcopy(classifier.model)).eval().cpu()
    longest = longest_input(classifier.model.config, classifier.tokenizer)
    example = classifier.tokenizer(["a", "a b"], padding=True, return_tensors="pt")
    names = [name for name in encoder.input_names if name in example]
    batch, length = torch.export.Dim("batch"), torch.export.Dim("sequence", min=2, max=longest)
    free = tuple({0: batch, 1: length} for _ in names)
    try:
        with _silent():
            torch.onnx.export(
                _LogitsOnly(encoder.model, names),
                tuple(example[name] for name in names),
                file,
                dynamo=True,
                dynamic_shapes={"inputs": free},
                external_data=False,
                opset_version=OPSET,
                input_names=names,
                output_names=["logits"],
                verbose=False,
            )
    except Exception as error:  # exporters fail in many ways
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ExportError(
            f"{classifier.source}: torch cannot export a {type(classifier.model).__name__} to "
            f"ONNX ({reason})"
        ) from error
    _strip(file)


def _strip(file: Path) -> None:
    """Take out what the exporter notes for its own makers, paths of this machine among it."""
    model = onnx.load(file)
    graphs = [model.graph, *model.functions]
    for part in [model, *graphs, *(node for graph in graphs for node in graph.node)]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    model.graph.ClearField("value_info")  # shapes in between, which a runtime infers itself
    onnx.save(model, file)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what exporters log and warn about their own insides from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def compare(wanted: Floats, found: Floats, alone: int = 0) -> Parity:
    """Logits of PyTorch and of ONNX, (N, C) each; the last ones, of rows that came `alone` as well.

    Raises:
        ExportError: If one differs by more than `TOLERANCE`, or an answer does.
    """
    differences = np.abs(wanted - found)
    other = int((wanted.argmax(-1) != found.argmax(-1)).sum())
    parity = Parity(len(wanted) - alone, alone, float(differences.max()), other)
    if not parity.max_difference <= TOLERANCE or other:  # NaN is no parity either
        raise ExportError(
            f"the ONNX file does not answer as PyTorch does: on {parity.rows} rows a logit differs "
            f"by up to {parity.max_difference:.1e} (at most {TOLERANCE:g} is allowed), and "
            f"{other} answers are others; nothing was written. This is a fault of the export: "
            "please report it with the model's family and the versions of torch and onnxruntime"
        )
    return parity


# -- int8 ------------------------------------------------------------------------------------------


def _quantise(float32: Path, small: Path, rows: _Rows, before: Floats, max_drop: float) -> Cost:
    """Write the int8 file; where it costs too much, once more without what hurts most.

    Raises:
        ExportError: If it still costs more than `max_drop` points.
    """
    classes = before.shape[1]
    with tempfile.TemporaryDirectory(dir=small.parent) as scratch:
        with _silent():
            quantizer = Quantizer(float32, Path(scratch))

        def attempt(in_float: tuple[str, ...]) -> Cost:
            with _silent():
                quantizer.write(small, set(quantizer.parts) - set(in_float))
            after = rows.logits(OnnxRunner(small, classes), "int8")
            cost = measure_cost(before, after, rows.sample, in_float)
            rows.reporter.say(cost.told())
            return cost

        first = attempt(())
        if first.drop <= max_drop:
            return first
        rows.reporter.say(f"more than {max_drop:g} points, so what hurts most is looked for")
        file = Path(scratch) / "one.onnx"
        harm: dict[str, float] = {}
        for part in rows.reporter.track(quantizer.parts, len(quantizer.parts), "part by part"):
            with _silent():
                quantizer.write(file, (part,))
            moved = softmax(rows.some(OnnxRunner(file, classes))) - softmax(before[:PROBED])
            harm[part] = float(np.abs(moved).mean())
        most = -(-len(harm) // KEPT_IN_FLOAT)
        second = attempt(tuple(sorted(harm, key=lambda part: -harm[part])[:most]))
    if second.drop <= max_drop:
        return second
    raise ExportError(
        f"int8 costs more than {max_drop:g} points, so it was not written; the float32 file was "
        "(with --force, an older int8 file is gone).\n"
        f"  {first.told()}\n  {second.told()}\n"
        "Use the float32 file, or allow more with --max-drop"
    )


def measure_cost(
    before: Floats, after: Floats, sample: Sample, in_float: tuple[str, ...] = ()
) -> Cost:
    """What answers (N, C) cost that were given instead of others, on the rows with a label."""
    known = sample.labels != UNLABELLED
    labels, first, second = sample.labels[known], before.argmax(-1)[known], after.argmax(-1)[known]
    found = row_bootstrap(first, second, labels, sample.metric)
    return Cost(
        metric=sample.metric,
        rows=int(known.sum()),
        float32=metrics.scores(before[known], labels)[sample.metric],
        int8=metrics.scores(after[known], labels)[sample.metric],
        drop=100 * found.difference,
        low=100 * found.low,
        high=100 * found.high,
        same_answers=float((first == second).mean()),
        in_float=in_float,
    )


# -- files -----------------------------------------------------------------------------------------


def _check_target(folder: Path, out: Path | None, force: bool) -> None:
    """Raise a RunExistsError if something is there already, before any work."""
    if out is not None and out.exists():
        raise RunExistsError(
            f"--out {out}: is there already, nothing is written over; choose another name "
            "(--force is for an export in the model's own folder)"
        )
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out is None and (folder / ONNX).exists() and not force:
        raise RunExistsError(
            f"{folder / ONNX}: is there already, nothing is written over; --force makes it anew, "
            "--out FOLDER puts it elsewhere"
        )


@contextmanager
def _built_beside(target: Path, *, is_new: bool) -> Iterator[Path]:
    """A folder to work in, which at the end becomes `target`, or whose `onnx` goes into it.

    What a killed export has left is removed.

    Raises:
        RunExistsError: If another process exports to the same place.
    """
    made = target.absolute() if is_new else target / ONNX
    lock_file = made.with_name(f".{made.name}.exporting")
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(lock_file, wait=False))
        except LockedError:
            raise RunExistsError(
                f"{target}: another process exports there; wait for it, or stop it"
            ) from None
        try:
            if is_new:
                with whole_folder(made) as work:
                    yield work
                return
            with scratch_folder(made) as work:
                yield work
                made.mkdir(exist_ok=True)
                for old in (*ONNX_FILES.values(), EXPORT):  # other files there stay
                    if (work / old).exists():
                        (work / old).replace(target / old)
                    else:
                        (target / old).unlink(missing_ok=True)
        finally:
            with suppress(PermissionError):  # Windows cannot remove an open file
                lock_file.unlink(missing_ok=True)


def _serve(folder: Path, work: Path, predictor: Predictor) -> None:
    """Put what serving needs beside the exported files.

    The tokenizer gets the length at which `predict` cuts: transformers.js knows no other.
    """
    shutil.copyfile(folder / "config.json", work / "config.json")
    tokenizer: PreTrainedTokenizerBase = copy.deepcopy(predictor.tokenizer)
    tokenizer.model_max_length = predictor.max_length
    tokenizer.save_pretrained(work)


def _card(folder: Path) -> str:
    """The card that is there, or nothing.

    Raises:
        ModelError: If it is no UTF-8.
    """
    file = folder / CARD
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    except UnicodeDecodeError as error:
        raise ModelError(f"{file}: not UTF-8 ({error.reason}); save it as UTF-8") from None
