"""Exports a saved classifier for onnxruntime and transformers.js, as float32 and int8.

Both files are checked on real rows before they are kept: the logits of the float32 file must equal
those of PyTorch, and the int8 file may lower the score by a given number of points at most.
"""

import copy
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layermix.atomic import LockedError, lock, scratch_folder, whole_folder, write_text
from layermix.config import DataConfig
from layermix.console import Reporter
from layermix.data.tokenization import Collator, tokenize_split
from layermix.errors import ConfigError, ExportError, ModelError, RunExistsError
from layermix.models.encoder import Classifier, HFEncoder, fingerprint, longest_input
from layermix.models.inference import Floats, Runner, finite, joined, logits_of
from layermix.models.loading import load_classifier, model_folder
from layermix.models.tokenizers import save_tokenizer
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.problem import Problem
from layermix.runs.layout import CARD, EXPORT
from layermix.runs.model_card import export_section, read_card, with_section
from layermix.runs.schema import (
    FORMAT,
    BatchEffect,
    ExportRecord,
    FileSizes,
    Parity,
    QuantizationCost,
    QuantizationTry,
)
from layermix.serving.compared import drop_of, points_lost
from layermix.serving.evaluation_rows import ENOUGH, EvaluationRows, evaluation_rows
from layermix.serving.predictor import (
    ONNX_FILES,
    OnnxRunner,
    Predictor,
    predictor_of,
    weight_hashes,
)
from layermix.serving.quantize import Quantizer

OPSET = 18
"""ONNX operator set; onnxruntime ≥ 1.14 and transformers.js ≥ 3 read it."""

ONNX = "onnx"
"""The folder of exported files in a model's folder."""

TOLERANCE = 1e-3
"""Largest difference allowed between a logit of PyTorch and of float32 ONNX; 1e-6 is usual."""

LARGE = 100
"""Outputs beyond this size may differ by more, in proportion: numbers can be in the thousands."""

ALONE = 16
"""Rows that are also compared one by one, without padding."""

BATCH = 32
"""Rows per batch, the default of `predict`."""

PROBED = 128
"""Rows on which the effect of every quantised part is measured."""

KEPT_IN_FLOAT = 4
"""At the second try 1/4 of the parts, those with the largest effect, stay in float."""


class _TokenizedRows:
    """The rows on which versions of one model are compared, tokenized.

    Logits are in the order of the data's classes.
    """

    def __init__(self, rows: EvaluationRows, predictor: Predictor, reporter: Reporter) -> None:
        self.rows, self.reporter = rows, reporter
        self.tokens, _ = tokenize_split(rows.texts, predictor.tokenizer, predictor.max_length)
        self._collate = Collator(predictor.tokenizer)

    def logits(self, run: Runner, what: str) -> Floats:
        """The logits of all rows, (N, C), computed in batches of `BATCH` rows of like length."""
        track = self.reporter.track
        found = logits_of(run, self.tokens, self._collate, BATCH, track=track, what=what)
        return self.rows.in_order(found)

    def alone(self, run: Runner) -> Floats:
        """The logits of the first `ALONE` rows, computed one by one."""
        first = self.tokens.select(range(len(self.tokens))[:ALONE])
        return self.rows.in_order(logits_of(run, first, self._collate, 1))

    def at(self, run: Runner, rows: Sequence[int]) -> Floats:
        """The logits of some rows."""
        found = logits_of(run, self.tokens.select(rows), self._collate, BATCH)
        return self.rows.in_order(found)


def export(
    source: str,
    data: DataConfig,
    *,
    int8: bool = False,
    out: Path | None = None,
    max_drop: float = 1.0,
    force: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Path, ExportRecord]:
    """Export a saved classifier and check the files on real rows.

    Args:
        source: Run folder or model folder.
        data: Rows for the check; by default the validation rows of the model's run.
        int8: Write an int8 file as well.
        out: A new folder with everything that serving needs; None adds `onnx/` to the model's
            folder.
        max_drop: Largest drop of the score by int8, in points, by the point estimate.
        force: Replace an earlier export.
        reporter: Where progress is shown; quiet if None.

    Returns:
        The folder, and the content of export.json.

    Raises:
        ExportError: If the logits differ from those of PyTorch, or int8 lowers the score by more
            than `max_drop`; the float32 file is kept in the latter case.
        LayermixError: If model or rows cannot be used, or the target exists.
    """
    reporter = reporter or Reporter(quiet=True)
    folder = model_folder(source)
    if folder is None:
        raise ModelError(f"{source}: no such folder; wanted a run folder or a model folder")
    _check_target(folder, out, force)
    card = read_card(folder)
    classifier = load_classifier(source)
    predictor = predictor_of(classifier)
    rows = evaluation_rows(source, data, predictor, reporter)
    if int8 and not len(rows.labelled):
        raise ConfigError(
            f"{rows.source}: no row has a label, so the cost of int8 cannot be measured; give "
            "--data with labelled rows, or leave out --int8"
        )
    tokenized = _TokenizedRows(rows, predictor, reporter)
    with _built_beside(folder if out is None else out, is_new=out is not None) as work:
        float32, quantized = (work / ONNX_FILES[name] for name in ("onnx", "int8"))
        float32.parent.mkdir()
        reporter.say(f"exporting to ONNX, opset {OPSET}; this may take a minute")
        write_onnx(classifier, float32)
        by_word = predictor.problem.by_word
        runner = OnnxRunner(float32, len(predictor.label_names), by_word=by_word)
        onnx_logits, onnx_alone = tokenized.logits(runner, "ONNX"), tokenized.alone(runner)
        torch_logits = finite(
            f"{predictor.source}: its", tokenized.logits(predictor.run, "PyTorch")
        )
        parity = compare(
            joined([torch_logits, tokenized.alone(predictor.run)]),
            joined([onnx_logits, onnx_alone]),
            len(onnx_alone),
            predictor.problem,
        )
        reporter.say(parity_text(parity))
        cost: QuantizationCost | None = None
        refused: ExportError | None = None
        if int8:
            try:
                cost = _quantise(float32, quantized, tokenized, onnx_logits, max_drop)
            except ExportError as error:
                quantized.unlink()
                refused = error
        record = ExportRecord(
            format=FORMAT,
            opset=OPSET,
            form=predictor.problem.form,
            fingerprint=fingerprint(classifier.model),
            weights=weight_hashes(folder),
            rows=rows.source,
            pair="text_pair" in rows.texts.column_names,
            max_length=predictor.max_length,
            parity=parity,
            bytes=FileSizes(
                onnx=float32.stat().st_size,
                int8=None if cost is None else quantized.stat().st_size,
            ),
            versions={name: version(name) for name in ("torch", "onnx", "onnxruntime")},
            int8=cost,
        )
        write_text(work / EXPORT, record.to_json())
        card = with_section(card, "export", export_section(record))
        if out is not None:
            _serve(folder, work, predictor)
        write_text((folder if out is None else work) / CARD, card)
    if refused is not None:
        raise refused
    return out or folder, record


def export_text(record: ExportRecord, folder: Path) -> str:
    """A summary of an export for the command line.

    Args:
        record: From `export`.
        folder: From `export`.
    """
    sizes, parity = record.bytes, parity_text(record.parity)
    lines = [f"{folder / ONNX_FILES['onnx']}: {sizes.onnx / 1e6:.1f} MB. {parity}."]
    if record.int8 is not None and sizes.int8 is not None:
        file, cost = folder / ONNX_FILES["int8"], cost_text(record.int8)
        lines.append(f"{file}: {sizes.int8 / 1e6:.1f} MB. {cost}.")
    return "\n".join(lines)


def parity_text(parity: Parity) -> str:
    """A sentence on how PyTorch and ONNX compare."""
    return (
        f"ONNX answers as PyTorch does on all {parity.rows} rows; the logits differ "
        f"by at most {parity.max_difference:.1e}"
    )


def cost_text(cost: QuantizationCost) -> str:
    """A few sentences on what int8 costs, on which rows, and what batches change."""
    no_loss = "; the interval contains 0, so no loss is shown" if cost.low <= 0 <= cost.high else ""
    in_float = f", {len(cost.in_float)} parts left in float" if cost.in_float else ""
    sentences = [
        f"int8{in_float}: {cost.metric} {cost.int8:.4f} instead of {cost.float32:.4f} on "
        f"{cost.rows} rows, a drop of {cost.drop:.2f} points (95 % interval over rows "
        f"{cost.low:.2f} to {cost.high:.2f}{no_loss})"
    ]
    if told := _rows_text(cost):
        sentences.append(told)
    if effect := cost.in_batches:
        sentences.append(
            f"In batches of {effect.batch_size}, the drop would be {effect.drop:.2f} points, "
            f"{effect.other_answers} predictions would differ and a probability would move by up "
            f"to {effect.max_change:.3f}; layermix therefore runs int8 row by row"
        )
    return ". ".join(sentences)


def _rows_text(cost: QuantizationCost) -> str:
    """A sentence on whether the rows that judge int8 also chose the version."""
    match cost.judged_on:
        case None:  # a record before format 2
            return ""
        case "other-rows":
            return f"This version was chosen on {cost.steering_rows} other rows"
        case "rows-that-rejected":
            return (
                "The version with all parts in int8 was rejected on these rows "
                f"({cost.tries[0].drop:.2f} points), so this drop may be too low"
            )
        case "same-rows":
            return (
                "This version was chosen on the same rows, so this drop may be too low; with "
                f"{2 * ENOUGH} labelled rows or more, half of them only measure"
            )


# -- float32 ---------------------------------------------------------------------------------------


class _LogitsOnly(nn.Module):
    """A classifier with inputs by position and logits as its only output, for the exporter."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def write_onnx(classifier: Classifier, file: Path) -> None:
    """Write a classifier as one file with dynamic batch size and length.

    Args:
        classifier: Its inputs are those that its tokenizer gives and its model takes.
        file: The target; inputs keep their names, the output is `logits` (batch, classes), or
            (batch, sequence, classes) where each token has its own.

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
    """Remove the exporter's debugging metadata, which holds paths of this machine."""
    model = onnx.load(file)
    graphs = [model.graph, *model.functions]
    for part in [model, *graphs, *(node for graph in graphs for node in graph.node)]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    model.graph.ClearField("value_info")  # intermediate shapes, which runtimes infer
    onnx.save(model, file)


@contextmanager
def _silent() -> Iterator[None]:
    """Hide the log messages and warnings of exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def compare(
    expected: Floats, exported: Floats, alone: int = 0, problem: Problem = CLASSIFICATION
) -> Parity:
    """Compare logits of PyTorch and ONNX.

    Args:
        expected: Logits of PyTorch, (N, C).
        exported: Logits of ONNX, (N, C).
        alone: Number of rows at the end that repeat others, computed one by one.
        problem: Says which answers are the same.

    Raises:
        ExportError: If a logit differs by more than `TOLERANCE`, or a prediction differs.
    """
    other = int((~problem.same(expected, exported)).sum())
    parity = Parity(
        rows=len(expected) - alone,
        alone=alone,
        max_difference=float(np.abs(expected - exported).max()),
        other_answers=other,
    )
    tolerance = TOLERANCE * max(1.0, float(np.abs(expected).max()) / LARGE)
    if not parity.max_difference <= tolerance or other:  # NaN fails as well
        raise ExportError(
            f"the ONNX file differs from PyTorch: on {parity.rows} rows logits differ by up to "
            f"{parity.max_difference:.1e} (at most {tolerance:.2g} is allowed), and {other} "
            "predictions differ; nothing was written. This is an error in the export: please "
            "report it with the model's family and the versions of torch and onnxruntime"
        )
    return parity


# -- int8 ------------------------------------------------------------------------------------------


def write_int8(float32: Path, quantized: Path, work: Path) -> None:
    """Write an int8 version of a float32 file, with all parts in int8 and without a check.

    Args:
        float32: The file.
        quantized: The file to write.
        work: A folder for an intermediate file.
    """
    with _silent():
        quantizer = Quantizer(float32, work)
        quantizer.write(quantized, quantizer.parts)


def _quantise(
    float32: Path, quantized: Path, rows: _TokenizedRows, before: Floats, max_drop: float
) -> QuantizationCost:
    """Write the int8 file; if it costs too much, once more with the worst parts left in float.

    One half of the labelled rows chooses between the two versions and the parts, the other half
    judges, where there are enough. Rows are run one by one, as layermix serves int8.

    Raises:
        ExportError: If it still costs more than `max_drop` points on the rows that judge.
    """
    classes, problem = before.shape[-1], rows.rows.problem
    steering, judging = rows.rows.steering_and_judging()
    tries: list[QuantizationTry] = []
    with tempfile.TemporaryDirectory(dir=quantized.parent) as scratch:
        with _silent():
            quantizer = Quantizer(float32, Path(scratch))

        def attempt(in_float: tuple[str, ...], judged_on: str) -> QuantizationCost:
            with _silent():
                quantizer.write(quantized, set(quantizer.parts) - set(in_float))
            runner = OnnxRunner(quantized, classes, by_word=problem.by_word, one_by_one=True)
            after = rows.logits(runner, "int8")
            cost = measure_cost(before, after, rows.rows, in_float, judging)
            steering_drop = points_lost(before, after, rows.rows, steering)
            tries.append(
                QuantizationTry(in_float=len(in_float), steering_drop=steering_drop, drop=cost.drop)
            )
            cost = cost.model_copy(
                update={
                    "steering_rows": len(steering),
                    "judged_on": judged_on,
                    "tries": tuple(tries),
                    "in_batches": _in_batches(quantized, rows, before, after, judging),
                }
            )
            rows.reporter.say(cost_text(cost))
            return cost

        judged_on = "same-rows" if np.array_equal(steering, judging) else "other-rows"
        first = attempt((), judged_on)
        chosen = first.tries[0].steering_drop <= max_drop
        if chosen and first.drop <= max_drop:
            return first
        rows.reporter.say(
            f"more than {max_drop:g} points, so the effect of each quantised part is measured"
        )
        file = Path(scratch) / "part.onnx"
        probed = steering[:PROBED]
        effect: dict[str, float] = {}
        for part in rows.reporter.track(quantizer.parts, len(quantizer.parts), "part by part"):
            with _silent():
                quantizer.write(file, (part,))
            runner = OnnxRunner(file, classes, by_word=problem.by_word, one_by_one=True)
            after = rows.at(runner, probed.tolist())
            change = problem.values(after) - problem.values(before[probed, : after.shape[1]])
            effect[part] = float(np.nanmean(np.abs(change)))  # NaN: there is no such word
        kept = -(-len(effect) // KEPT_IN_FLOAT)
        worst = tuple(sorted(effect, key=lambda part: -effect[part])[:kept])
        if chosen and judged_on == "other-rows":  # only the judging rows can have turned it down
            judged_on = "rows-that-rejected"
        second = attempt(worst, judged_on)
    if second.drop <= max_drop:
        return second
    raise ExportError(
        f"int8 costs more than {max_drop:g} points, so its file was not kept; the float32 file was "
        "(--force has removed an older int8 file).\n"
        f"  {cost_text(first)}\n  {cost_text(second)}\n"
        "Use the float32 file, or allow more with --max-drop"
    )


def measure_cost(
    before: Floats,
    after: Floats,
    rows: EvaluationRows,
    in_float: tuple[str, ...] = (),
    at: NDArray[np.integer[Any]] | None = None,
) -> QuantizationCost:
    """The cost of replacing logits `before` by `after`, (N, C) each, on labelled rows.

    Args:
        before: Of the float32 file.
        after: Of the int8 file.
        rows: The N rows.
        in_float: Parts that the int8 file left in float.
        at: Indices of labelled rows; all of them if None.
    """
    if at is None:
        at = rows.labelled
    drop = drop_of(before, after, rows, at)
    return QuantizationCost(
        metric=rows.metric,
        rows=len(at),
        float32=drop.before,
        int8=drop.after,
        drop=drop.points,
        low=drop.low,
        high=drop.high,
        same_answers=float(rows.problem.same(before[at], after[at]).mean()),
        in_float=in_float,
    )


def _in_batches(
    quantized: Path,
    rows: _TokenizedRows,
    before: Floats,
    after: Floats,
    judging: NDArray[np.integer[Any]],
) -> BatchEffect:
    """What batches of rows of like length change in the answers of an int8 file."""
    problem = rows.rows.problem
    runner = OnnxRunner(quantized, before.shape[-1], by_word=problem.by_word)
    batched = rows.logits(runner, "int8 in batches")
    return BatchEffect(
        batch_size=BATCH,
        drop=points_lost(before, batched, rows.rows, judging),
        other_answers=int((~problem.same(batched, after)).sum()),
        max_change=float(np.nanmax(np.abs(problem.values(batched) - problem.values(after)))),
    )


# -- files -----------------------------------------------------------------------------------------


def _check_target(folder: Path, out: Path | None, force: bool) -> None:
    """Raise a RunExistsError if the target exists, before any work."""
    made = folder / ONNX if out is None else out.absolute()
    if _lock_file(made).exists():  # an export was killed, perhaps in its last moment
        with _only_one(made), scratch_folder(made):
            pass
    if out is not None and out.exists():
        raise RunExistsError(
            f"--out {out} already exists, and layermix does not overwrite it; choose another name "
            "(--force is for an export in the model's own folder)"
        )
    if out is not None and not made.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; create it first")
    if out is None and made.exists() and not force:
        raise RunExistsError(
            f"{made} already exists; --force replaces it, --out FOLDER writes somewhere else"
        )


@contextmanager
def _built_beside(target: Path, *, is_new: bool) -> Iterator[Path]:
    """A working folder that at the end becomes `target`, or whose `onnx` is moved into it.

    Raises:
        RunExistsError: If another process exports to the same place.
    """
    made = target.absolute() if is_new else target / ONNX
    with _only_one(made):
        if is_new:
            with whole_folder(made) as work:
                yield work
            return
        with scratch_folder(made) as work:
            yield work
            if not made.exists():  # at once: half an export would stand in the way of the next
                (work / ONNX).rename(made)
                return
            for old in (*ONNX_FILES.values(), EXPORT):  # other files there stay
                if (work / old).exists():
                    (work / old).replace(target / old)
                else:
                    (target / old).unlink(missing_ok=True)


@contextmanager
def _only_one(made: Path) -> Iterator[None]:
    """Locks a folder that is exported.

    Raises:
        RunExistsError: If another process exports to the same place.
    """
    lock_file = _lock_file(made)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(lock_file, wait=False))
        except LockedError:
            raise RunExistsError(
                f"{made}: another process is exporting to this folder; wait until it has "
                "finished, or stop it"
            ) from None
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows cannot remove an open file
                lock_file.unlink(missing_ok=True)


def _lock_file(made: Path) -> Path:
    return made.with_name(f".{made.name}.exporting")


def _serve(folder: Path, work: Path, predictor: Predictor) -> None:
    """Write what serving needs beside the exported files.

    The tokenizer gets the length at which `predict` cuts, since transformers.js has no other.
    """
    shutil.copyfile(folder / "config.json", work / "config.json")
    tokenizer: PreTrainedTokenizerBase = copy.deepcopy(predictor.tokenizer)
    tokenizer.model_max_length = predictor.max_length
    save_tokenizer(tokenizer, work)
