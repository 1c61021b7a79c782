"""The ways to run a saved classifier, by batch: PyTorch, or onnxruntime on an exported file."""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from layermix.config import describe_problems
from layermix.core.signals import Batch, at_words
from layermix.data.labels import read_class_names
from layermix.data.tokenization import Collator, tokenize_texts
from layermix.data.words import words_of
from layermix.errors import ConfigError, ModelError, Note
from layermix.models.encoder import MODEL_INPUTS, Classifier, HFEncoder, longest_input
from layermix.models.inference import Floats, Runner, TorchRunner
from layermix.models.labels import check_class_names, class_order, is_head_for
from layermix.models.loading import described, load_classifier, model_folder
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.kinds import PROBLEMS, problem_of
from layermix.problems.problem import Problem
from layermix.runs.layout import EXPORT
from layermix.runs.schema import ExportRecord, SavedModelEntry

Runtime = Literal["auto", "torch", "onnx", "int8"]
"""`auto` is PyTorch where a folder has weights for it, else the exported file."""

ONNX_FILES: Mapping[str, str] = {"onnx": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}
"""Where transformers.js and the hub's tools look for them, inside a model's folder."""


class OnnxRunner:
    """onnxruntime on the processor.

    Args:
        file: One exported by `layermix export`, or by another tool in the same form.
        classes: Number of logits that it must give.
        by_word: Whether it gives them for each token, of which each word has its own.
        threads: Processor threads; torch's number if None.
        one_by_one: Run the rows of a batch one by one, without padding. Answers of a file with
            dynamic int8 would otherwise depend on the batch: it scales an activation by the largest
            value in the whole batch.

    Raises:
        ModelError: If the file is damaged, or has other inputs or outputs.
        ConfigError: If onnxruntime is not installed.
    """

    def __init__(
        self,
        file: Path,
        classes: int,
        threads: int | None = None,
        *,
        by_word: bool = False,
        one_by_one: bool = False,
    ) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ConfigError(
                f"{file}: onnxruntime is not installed; pip install '.[onnx]' in the clone of "
                "layermix"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3  # errors
        # Threads that spin while they wait would slow down other work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's own exceptions have no common base
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise ModelError(
                f"{file}: cannot be loaded by onnxruntime ({reason}); export it again"
            ) from error
        self.inputs = [node.name for node in self.session.get_inputs()]
        shape = self.session.get_outputs()[0].shape
        unknown = set(self.inputs) - set(MODEL_INPUTS)
        fits = len(shape) == 2 + by_word and shape[-1] == classes
        if unknown or "input_ids" not in self.inputs or not fits:
            raise ModelError(
                f"{file}: takes {', '.join(self.inputs)} and gives an output of shape {shape}; "
                f"wanted input_ids, optionally {' and '.join(MODEL_INPUTS[1:])}, and one "
                f"logit for each of {classes} classes" + " and each token" * by_word
            )
        self.file, self.one_by_one = file, one_by_one

    def __call__(self, batch: Batch) -> Floats:
        """The logits of one batch, as `Runner` says."""
        logits = self._logits(batch)
        if "word_starts" not in batch:
            return logits
        return at_words(torch.from_numpy(logits), batch["word_starts"])[0].numpy()

    def _logits(self, batch: Batch) -> Floats:
        """The logits of one batch, (B, C), or (B, T, C)."""
        feeds = {  # without token_type_ids all tokens belong to the first text
            name: batch[name].numpy() if name in batch else np.zeros_like(batch["input_ids"])
            for name in self.inputs
        }
        if not self.one_by_one:
            return self._run(feeds)
        mask = batch["attention_mask"].numpy().astype(bool)
        rows = (
            {name: values[row : row + 1, kept] for name, values in feeds.items()}
            for row, kept in enumerate(mask)
        )
        alone = [self._run(row) for row in rows]
        if alone[0].ndim == 2:
            return np.concatenate(alone)
        logits = np.zeros((*mask.shape, alone[0].shape[-1]), dtype=np.float32)
        logits[mask] = np.concatenate([of_tokens[0] for of_tokens in alone])
        return logits

    def _run(self, feeds: Mapping[str, NDArray[Any]]) -> Floats:
        try:
            logits: Floats = self.session.run(None, feeds)[0]
        except Exception as error:  # the runtime's own exceptions
            reason = str(error).partition("\n")[0]
            raise ModelError(
                f"{self.file}: onnxruntime cannot run it on a batch of shape "
                f"{feeds['input_ids'].shape} ({reason}); export it again"
            ) from error
        return logits


@dataclass(frozen=True)
class Predictor:
    """A saved classifier, whatever runs it.

    Attributes:
        source: What the user named.
        runtime: `torch`, `onnx` or `int8`.
        run: Batch -> logits, as `Runner` says.
        tokenizer: Its own.
        label_names: Class names by index.
        max_length: The longest input in training; if unknown, the longest that it takes, in tokens.
        longest: The longest input that it takes, in tokens.
        text_columns: Those it was trained on; empty if unknown.
        taught: `TextData.train_hash` of the data that it was trained on; None if unknown.
        split_off: Whether its validation rows were split off from these.
        group_column: The column by whose values they were, if not by text.
        problem: The kind of its labels.
        calibration: What was fitted for it, as `Problem.calibration` gives it; empty if nothing.
        notes: What was changed to run it, and how its classes were reordered or renamed.
    """

    source: str
    runtime: Runtime
    run: Runner
    tokenizer: PreTrainedTokenizerBase
    label_names: tuple[str, ...]
    max_length: int
    longest: int
    text_columns: tuple[str, ...]
    taught: str | None = None
    split_off: bool = False
    group_column: str | None = None
    problem: Problem = CLASSIFICATION
    calibration: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()

    def in_order(self, names: Sequence[str]) -> "Predictor":
        """Return it with its logits in the order of the data's classes.

        Raises:
            ModelError: If the sets of classes differ.
        """
        named = self.problem.named
        order, note = class_order(self.source, self.label_names, names, named=named)
        run = self.run if order == sorted(order) else lambda batch: self.run(batch)[..., order]
        notes = self.notes if note is None else (*self.notes, note)
        return replace(self, run=run, label_names=tuple(names), notes=notes)

    def calibrated(self) -> "Predictor":
        """Return it with the temperature, or the thresholds, that were fitted for it.

        Raises:
            ModelError: If there is none.
        """
        if not self.problem.calibrated_scores:
            raise ModelError(
                f"{self.source}: there is nothing to calibrate for {self.problem.name}; leave out "
                "--calibrated"
            )
        if not self.calibration:
            raise ModelError(
                f"{self.source}: nothing was fitted for it, which takes held-out rows, some of "
                "them answered wrongly; train it with --training.selection holdout, or leave out "
                "--calibrated"
            )
        run, problem, found = self.run, self.problem, self.calibration
        return replace(self, run=lambda batch: problem.calibrated(run(batch), found))

    def cut_note(self, name: str, share: float) -> Note | None:
        """A note on the share of the rows that was cut; None if none was."""
        about = f"{share:.1%} of the rows are longer than {self.max_length} tokens and were cut"
        return Note("rows-cut", f"{name}: {about}") if share else None

    def answer(self, texts: Sequence[tuple[str, ...]]) -> NDArray[Any]:
        """What it answers to texts or pairs, in one batch: the problem's answers."""
        return self.problem.answers(self.run(self.encode(texts)))

    def encode(self, texts: Sequence[tuple[str, ...]]) -> Batch:
        """Texts or pairs, cut at `max_length`, as one padded batch, with their words if wanted."""
        if self.problem.by_word:
            words = [words_of(text[0]) for text in texts]
            rows, _ = tokenize_texts(texts, self.tokenizer, self.max_length, words)
            return Collator(self.tokenizer)(rows)
        columns = [list(column) for column in zip(*texts, strict=True)]
        return dict(
            self.tokenizer(
                *columns,
                truncation=True,
                max_length=self.max_length,
                padding=True,
                return_attention_mask=True,
                return_tensors="pt",
            )
        )


def open_predictor(
    source: str, runtime: Runtime = "auto", problem: Problem | None = None
) -> Predictor:
    """Load a saved classifier to run it.

    Args:
        source: Run folder, model folder or hub id.
        runtime: `onnx` and `int8` need a folder with files of `layermix export`.
        problem: The kind of its labels, if it is not one of layermix's own.

    Raises:
        LayermixError: If it cannot be used, or is no classifier.
    """
    folder = model_folder(source)
    if runtime == "auto":
        runtime = _available_runtime(folder)
    if runtime == "torch":
        return predictor_of(load_classifier(source), problem)
    if folder is None or not (folder / ONNX_FILES[runtime]).is_file():
        raise ModelError(
            f"{source}: has no {ONNX_FILES[runtime]}; `layermix export MODEL --{runtime}` writes "
            "it for a model in a folder"
        )
    _check_exported(source, folder)
    config, tokenizer, notes = described(source, str(folder))
    names = read_class_names(config.id2label)
    check_class_names(source, names)
    trained = _trained(source, config, tokenizer, problem)
    by_word = trained["problem"].by_word
    file, is_int8 = folder / ONNX_FILES[runtime], runtime == "int8"
    run = OnnxRunner(file, len(names), by_word=by_word, one_by_one=is_int8)
    return Predictor(source, runtime, run, tokenizer, names, **trained, notes=notes)


def weight_hashes(folder: Path) -> dict[str, str]:
    """sha256 of the files with a model's weights, by name."""
    hashes = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            hashes[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def _check_exported(source: str, folder: Path) -> None:
    """Raise a ModelError if the weights beside an exported file are not those it was made from."""
    try:
        text = (folder / EXPORT).read_text(encoding="utf-8")
        made_from = ExportRecord.from_json(text).weights
    except (OSError, ValueError):  # another tool, which records no weights
        return
    if (now := weight_hashes(folder)) and now != made_from:
        what = "int8" if (folder / ONNX_FILES["int8"]).is_file() else "onnx"
        raise ModelError(
            f"{source}: its weights have changed since they were exported; `layermix export "
            f"{shlex.quote(source)} --{what} --force` exports them again"
        )


def _available_runtime(folder: Path | None) -> Runtime:
    """PyTorch, unless a folder has an exported file and no weights for it."""
    if folder is None or any(folder.glob("*.safetensors")):
        return "torch"
    exported: tuple[Runtime, ...] = ("onnx", "int8")
    return next((name for name in exported if (folder / ONNX_FILES[name]).is_file()), "torch")


def predictor_of(classifier: Classifier, problem: Problem | None = None) -> Predictor:
    """A classifier in memory, run by PyTorch.

    Args:
        classifier: The model.
        problem: As for `open_predictor`.

    Raises:
        ModelError: If it is no classifier.
    """
    config, tokenizer = classifier.model.config, classifier.tokenizer
    return Predictor(
        classifier.source,
        "torch",
        TorchRunner(HFEncoder(classifier.model)),
        tokenizer,
        classifier.label_names,
        **_trained(classifier.source, config, tokenizer, problem),
        notes=classifier.notes,
    )


def _problem(source: str, config: Any, given: Problem | None) -> Problem:
    """The kind of label of a classifier.

    Raises:
        ModelError: If layermix has no such kind, or it is not the one that is given.
    """
    if given is not None and is_head_for(config, given):
        return given
    try:
        found = problem_of(config)
        if given is not None:
            raise KeyError(found.name)
    except KeyError as error:
        wanted = ", ".join(PROBLEMS) if given is None else given.name
        raise ModelError(
            f"{source}: its labels are of the kind {error.args[0]!r}, wanted one of {wanted}; run "
            "it in Python, with problem= that kind"
        ) from None
    if fault := found.outputs_fault(config.num_labels):
        raise ModelError(
            f"{source}: has a head for {found.name} with {config.num_labels} output(s), {fault}"
        )
    return found


def _trained(
    source: str, config: Any, tokenizer: PreTrainedTokenizerBase, problem: Problem | None
) -> dict[str, Any]:
    """What a run wrote into config.json, as fields of `Predictor`; `max_length` within limits.

    Raises:
        ModelError: If the entry is not what a run writes.
    """
    try:
        entry = SavedModelEntry.model_validate(getattr(config, "layermix", None) or {})
    except ValidationError as error:
        raise ModelError(
            f"{source}: the entry `layermix` of its config.json is not what a run writes "
            f"({describe_problems(error)}); correct it, or remove it"
        ) from None
    problem = _problem(source, config, problem)
    longest = longest_input(config, tokenizer)
    length = min(entry.max_length or longest, longest)
    limits = {"max_length": length, "longest": longest}
    fields = entry.model_dump()
    fitted = {name: fields.pop(name) for name in ("temperature", "thresholds")}
    calibration = {name: value for name, value in fitted.items() if value is not None}
    return fields | limits | {"problem": problem, "calibration": calibration}
