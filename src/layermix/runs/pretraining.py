"""General distillation: a student learns a teacher's hidden states on texts without labels.

The texts are packed into token rows once, on disk, in the run's folder; the trainer, checkpoints
and folder are those of a distillation. What is saved is an encoder without a head.
"""

import copy
import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from layermix.atomic import whole_folder, write_text
from layermix.config import PretrainConfig
from layermix.console import Reporter
from layermix.core.objective import Objective
from layermix.core.signals import Teacher
from layermix.core.terms import Relations
from layermix.data.corpus import Corpus, find_corpus
from layermix.data.packing import Frame, split_rows, write_rows
from layermix.data.prepared import PreparedData
from layermix.data.texts import TextData
from layermix.data.tokenization import Collator
from layermix.errors import ConfigError, DataError, LayermixError, ModelError, Note
from layermix.evaluation.metrics import UNLABELLED
from layermix.hardware.cpu_kernels import prepare_process
from layermix.hardware.precision import choose_precision
from layermix.hardware.processes import from_main
from layermix.launch import is_main
from layermix.models.embedding_rows import occurring, only_occurring_trained
from layermix.models.encoder import Classifier, HFEncoder, blocks_of, fingerprint
from layermix.models.live_teacher import LiveTeacher
from layermix.models.loading import load_classifier
from layermix.models.narrowing import narrow_encoder
from layermix.models.students import described_student, with_dropout
from layermix.models.tokenizers import equal_inputs, save_tokenizer
from layermix.runs.callbacks import (
    HistoryRecorder,
    MixRecorder,
    clean_history,
    needed_to_resume,
)
from layermix.runs.environment import environment
from layermix.runs.extensions import Extensions
from layermix.runs.held_out import HeldOutLosses, HeldOutTrainer, Measuring, held_out_losses
from layermix.runs.layout import CARD, CHECKPOINTS, ENVIRONMENT, HISTORY, RESULT, ROWS, RunFolder
from layermix.runs.pipeline import kind_of, mix_record, objective_for, open_run, warn_of_unused
from layermix.runs.pretraining_card import pretraining_card
from layermix.runs.progress_bar import PretrainingBar, shown
from layermix.runs.projection import fit_projection
from layermix.runs.schema import (
    FORMAT,
    CorpusRecord,
    HeldOutLoss,
    ModelRecord,
    PretrainRecord,
    StartRecord,
    Timings,
    read_text,
)
from layermix.runs.start import begun, check_reachable, check_start, model_hash, resumable
from layermix.runs.trackers import trackers
from layermix.runs.training import in_all, state_of
from layermix.teacher_cache.choose import (
    chosen_for_all,
    filled,
    no_room,
    not_stored,
    open_cache,
)
from layermix.teacher_cache.store import SignalStore

NO_CLASSES = ("0", "1")
"""Classes of the heads that teacher and student have while they are read; no term looks at them."""
COMPARED = 500
"""Documents on which the tokenizers of teacher and student are compared."""
ROWS_FILE, CORPUS = "rows.arrow", "corpus.json"
"""The packed rows in the folder `rows` of an unfinished run, and the record of their texts."""
STUDENT = "student"


@dataclass(frozen=True)
class Pretrained:
    """The result of a pretraining.

    Attributes:
        student: The trained model, with a head that was not trained.
        record: The content of result.json.
        history: One record per log and measurement.
        folder: The run folder, if there is one.
    """

    student: Classifier
    record: PretrainRecord
    history: Sequence[Mapping[str, Any]]
    folder: Path | None = None


def pretrain(
    config: PretrainConfig,
    out: Path | None = None,
    *,
    resume: bool = False,
    restart: bool = False,
    reporter: Reporter | None = None,
) -> Pretrained:
    """Load the teacher and find the texts that the config names, and distil.

    Args:
        config: Must name a teacher and texts.
        out: The run folder to make; None keeps no run.
        resume: Continue an unfinished run in `out`, if there is one.
        restart: Discard an unfinished run in `out`.
        reporter: Where progress is shown; quiet if None.

    Raises:
        LayermixError: Says what was found, what was wanted, and what to do.
    """
    reporter = reporter or Reporter(quiet=True)
    run = open_run(out, config, resume, restart)  # before the work, so that it fails early
    corpus = _found(config)
    assert config.teacher.model is not None  # by _found
    prepare_process()
    teacher = _without_head_note(load_classifier(config.teacher.model, NO_CLASSES, seed=0))
    student = _without_head_note(_student(config, teacher, corpus))
    _check_tokenizers(teacher, student, corpus, config)
    warn_of_unused(config.distillation(), reporter)
    pretraining = _Pretraining(
        config, corpus, teacher, student, _objective(teacher, student, config)
    )
    pretraining.try_one_row()
    reporter.say(pretraining.objective.formula())
    if run is None:
        with tempfile.TemporaryDirectory(prefix="layermix-") as folder:
            if from_main(lambda: False):
                return in_all(None, student)
            return pretraining.in_folder(Path(folder), None, reporter)
    with begun(run):
        result = pretraining.finished(run) if run.only_lacks_its_name else None
        if from_main(lambda: result is not None):
            return in_all(result, student)
        return pretraining.in_folder(run.work, run, reporter)


# -- before the work -------------------------------------------------------------------------------


def _found(config: PretrainConfig) -> Corpus:
    """The texts; every problem of what the config names is in one error."""
    problems = []
    if config.teacher.model is None:
        problems.append("no teacher: give --teacher FOLDER, a hub id, or minilm")
    loss = config.loss
    weights = loss.hidden_weight, loss.embedding_weight, loss.attention_weight, loss.relation_weight
    if not any(weights):
        problems.append(
            "every term of the loss has weight 0, so there is nothing to learn from; set one of "
            "loss.hidden_weight, embedding_weight, attention_weight, relation_weight above 0"
        )
    try:
        corpus = find_corpus(config.texts)
    except LayermixError as error:
        if not problems:
            raise
        problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return corpus


def _student(config: PretrainConfig, teacher: Classifier, corpus: Corpus) -> Classifier:
    """The student that the config describes; a narrowed one is fitted on the first texts.

    Raises:
        ConfigError: If the losses or the rows do not fit the sizes of teacher and student.
    """
    wanted = config.student
    if wanted.start != "teacher":
        student = described_student(wanted, config.seed, teacher, NO_CLASSES)
        _check_sizes(teacher, student.model.config.hidden_size, student.max_length, config)
        return student
    width = wanted.sizes.get("hidden", teacher.model.config.hidden_size)
    _check_sizes(teacher, width, teacher.max_length, config)  # the narrowing takes a minute
    student = narrow_encoder(
        teacher,
        _first_texts(corpus, config),
        wanted.layers,
        wanted.sizes,
        spread=wanted.copied == "spread",
        max_length=min(config.texts.max_length, teacher.max_length),
    )
    return with_dropout(student, wanted.dropout)


def _without_head_note(model: Classifier) -> Classifier:
    """The same without the note on its new head, which is not used."""
    return replace(model, notes=tuple(note for note in model.notes if note.code != "new-head"))


def _check_sizes(
    teacher: Classifier, student_width: int, student_max_length: int, config: PretrainConfig
) -> None:
    """Raise a ConfigError for rows that are too long, and relations that do not fit the sizes."""
    problems = []
    limit = min(teacher.max_length, student_max_length)
    if config.texts.max_length > limit:
        problems.append(
            f"texts.max_length is {config.texts.max_length}, but the models take at most {limit} "
            "tokens; give at most that"
        )
    loss, depth = config.loss, len(blocks_of(teacher.model))
    if loss.relation_weight:
        widths = {"teacher": teacher.model.config.hidden_size, "student": student_width}
        problems += [
            f"the {name} is {width} wide, which {loss.relation_heads} "
            "relation heads do not divide; give --loss.relation_heads a number that does"
            for name, width in widths.items()
            if width % loss.relation_heads
        ]
        if (layer := loss.relation_layer) is not None and layer >= depth:
            problems.append(
                f"loss.relation_layer is {layer}, but the teacher has {depth} blocks, numbered 0 "
                f"to {depth - 1}"
            )
    if problems:
        raise ConfigError("\n".join(problems))


def _check_tokenizers(
    teacher: Classifier, student: Classifier, corpus: Corpus, config: PretrainConfig
) -> None:
    """Raise a ModelError for a student that reads other tokens than the teacher."""
    sample = _first_texts(corpus, config)
    if "input_ids" not in equal_inputs(teacher.tokenizer, student.tokenizer, [(sample,)]):
        raise ModelError(
            f"{student.source}: its tokenizer is not the teacher's, so their hidden states stand "
            "for different tokens; give a student with the teacher's tokenizer, such as "
            "--student.layers (copied blocks) or --student.hidden (a fresh one)"
        )


def _first_texts(corpus: Corpus, config: PretrainConfig) -> list[str]:
    """The first documents, `COMPARED` at most; a DataError if there are none."""
    if texts := list(islice(corpus, COMPARED)):
        return texts
    raise DataError([f"{', '.join(config.texts.files or ())}: no text in any of the files"])


def _objective(teacher: Classifier, student: Classifier, config: PretrainConfig) -> Objective:
    """The losses between layers, and the relations if they are wanted."""
    loss, terms = config.loss, list[Relations]()
    if loss.relation_weight:
        last, depth = len(blocks_of(student.model)) - 1, len(blocks_of(teacher.model))
        layer = depth - 1 if loss.relation_layer is None else loss.relation_layer
        terms.append(Relations(loss.relation_weight, last, layer, loss.relation_heads))
    return objective_for(student, teacher, config.distillation(), Extensions(terms=terms))


# -- one pretraining -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pretraining:
    """One pretraining from its objects to a result, in a run folder or in a temporary one."""

    config: PretrainConfig
    corpus: Corpus
    teacher: Classifier
    student: Classifier
    objective: Objective

    @property
    def collate(self) -> Collator:
        return Collator(self.teacher.tokenizer)

    def try_one_row(self) -> None:
        """Run both models on a row, so that what they cannot give is known before the work.

        Raises:
            ModelError: If a model does not give what a term needs, or a number is not finite.
        """
        tokens = self.teacher.tokenizer("a text", add_special_tokens=False)["input_ids"]
        row = Frame.of(self.teacher.tokenizer).around(tokens)
        batch = self.collate([{**row, "labels": UNLABELLED, "row_id": 0}])
        self.objective.eval()
        with torch.no_grad():
            output = self.objective(batch, self._live()(batch))
        if not output.loss.isfinite():
            bad = [name for name, part in output.parts.items() if not part.isfinite()]
            raise ModelError(
                f"{self.teacher.source}: the loss part {bad[0]} of a first text is "
                f"{float(output.parts[bad[0]])}, wanted a number; weights of the teacher or the "
                "student are damaged"
            )

    def _live(self) -> LiveTeacher:
        precision = choose_precision(self.config.training.precision)
        return LiveTeacher(HFEncoder(self.teacher.model), self.objective.teacher_needs, precision)

    def finished(self, run: RunFolder) -> Pretrained | None:
        """The result of a run that was killed in its last moments; None if it was not."""
        try:
            record = PretrainRecord.from_json(read_text(run.work / RESULT))
        except (OSError, ValueError):
            return None
        if record.status != "ok":
            return None
        encoder: Any = self.student.model.base_model
        saved = type(encoder).from_pretrained(run.work / STUDENT)
        encoder.load_state_dict(saved.state_dict())
        lines = (run.work / HISTORY).read_text(encoding="utf-8").splitlines()
        run.finish()
        return Pretrained(self.student, record, [*map(json.loads, lines)], run.final)

    def in_folder(self, work: Path, run: RunFolder | None, reporter: Reporter) -> Pretrained:
        """Pack the texts, train, and write the result if there is a run folder."""
        packed = self._packed(work, reporter)
        rows = split_rows(
            work / ROWS / ROWS_FILE, self.config.texts.held_out, self.config.texts.held_out_rows
        )
        weights = fingerprint(self.teacher.model)
        checkpoint = from_main(lambda: self._checkpoint(run, packed, weights, reporter))
        check_reachable(checkpoint)
        notes = self._notes(packed, reporter)
        signals = self._signals(rows[0], packed, weights, reporter)
        if self.config.loss.projection_start == "fitted":
            size = self.config.training.eval_batch_size
            fit_projection(self.objective, signals, rows[0], self.collate, size, reporter)
        record, history = self._train(work, rows, packed, signals, checkpoint, reporter)
        if not is_main():
            return in_all(None, self.student)
        record = record.model_copy(
            update={
                "teacher": self._teacher_record(weights),
                "notes": tuple(notes),
                "warnings": tuple(reporter.warnings()),
            }
        )
        if run is not None:
            record = self._write(record, history, run)
        folder = run.final if run else None
        return in_all(Pretrained(self.student, record, history, folder), self.student)

    def _checkpoint(
        self, run: RunFolder | None, packed: CorpusRecord, weights: str, reporter: Reporter
    ) -> Path | None:
        """The checkpoint to resume from; records what the run is begun with."""
        if run is None:
            return None
        start = self._start(packed, weights)
        for note in check_start(run, start):
            reporter.warn(note)
        return resumable(run, start, reporter)

    def _packed(self, work: Path, reporter: Reporter) -> CorpusRecord:
        """Packs the texts, unless an earlier process has done it; returns what they are.

        Raises:
            DataError: If there are not two rows of text.
        """
        folder, texts = work / ROWS, self.config.texts
        if (known := _packed_before(folder)) is not None:
            return known
        with (
            whole_folder(folder, replace=True) as scratch,
            reporter.counting(texts.tokens, "packing tokens") as count,
        ):
            packed = write_rows(
                self.corpus,
                self.teacher.tokenizer,
                texts.max_length,
                scratch / ROWS_FILE,
                tokens=texts.tokens,
                progress=count,
            )
            if packed.rows < 2:
                raise DataError(
                    [
                        f"{', '.join(texts.files or ())}: found {packed.tokens} tokens, wanted "
                        f"more than one row of {texts.max_length}; give more text, or a smaller "
                        "--texts.max_length"
                    ]
                )
            learned, held_out = split_rows(scratch / ROWS_FILE, texts.held_out, texts.held_out_rows)
            record = CorpusRecord(
                format=FORMAT,
                files=texts.files or (),
                read=len(self.corpus.files),
                skipped=self.corpus.skipped,
                documents=self.corpus.documents,
                unread=self.corpus.unread,
                rows={"train": len(learned), "held_out": len(held_out)},
                tokens={"train": _tokens(learned), "held_out": _tokens(held_out)},
                max_length=texts.max_length,
                fingerprint=packed.sha256,
            )
            write_text(scratch / CORPUS, record.to_json())
        return record

    def _notes(self, packed: CorpusRecord, reporter: Reporter) -> list[Note]:
        """Say what was read; warn of what was not."""
        rows, tokens = packed.rows, packed.tokens
        skipped = f"; {packed.skipped:,} files in the folders left out" if packed.skipped else ""
        text = (
            f"{packed.read:,} file(s), {packed.documents:,} documents{skipped}: {rows['train']:,} "
            f"rows of {packed.max_length} tokens to learn from ({tokens['train']:,} tokens), "
            f"{rows['held_out']:,} held out"
        )
        notes = [Note("corpus", text), *self.teacher.notes, *self.student.notes]
        for note in notes:
            reporter.say_once(note)
        if packed.unread:
            example = f", such as {self.corpus.first_unread}" if self.corpus.first_unread else ""
            text = f"{packed.unread:,} lines could not be read and were left out{example}"
            reporter.warn(Note("texts-unread", text))
        return notes

    def _start(self, packed: CorpusRecord, weights: str) -> StartRecord:
        assert packed.fingerprint is not None
        return StartRecord(
            format=FORMAT,
            data=packed.fingerprint,
            classes=(),
            rows=packed.fingerprint,
            teacher=model_hash(self.teacher, weights),
            student=model_hash(self.student),
        )

    def _signals(
        self, rows: Dataset, packed: CorpusRecord, weights: str, reporter: Reporter
    ) -> Teacher:
        """The teacher: read from the cache if that is wanted and has room, else live."""
        config, needs = self.config.distillation(), self.objective.teacher_needs
        if not config.cache.use:
            return self._live()
        prepared = self._as_prepared(rows, packed, weights)

        def chosen() -> SignalStore | None:
            if not (reason := not_stored(needs, config.cache)):
                # No term looks at the logits: there are no predictions that bfloat16 could change.
                store, size = open_cache(
                    prepared, self.teacher, needs, config, reporter, agreed=lambda: True
                )
                if not (reason := no_room(store, size, config.cache)):
                    reporter.say(f"teacher signals: {size.total / 1e9:.2f} GB in {store.folder}")
                    return store
            reporter.say(f"{reason}: the teacher runs live on every batch")
            return None

        if (found := chosen_for_all(chosen, config.cache, reporter)) is None:
            return self._live()
        return filled(prepared, self.teacher, found, reporter, needs)

    def _as_prepared(self, rows: Dataset, packed: CorpusRecord, weights: str) -> PreparedData:
        """The rows as those of a distillation, as far as the cache looks at them."""
        assert packed.fingerprint is not None
        texts = TextData(
            splits={},
            text_columns=("text",),
            label_names=NO_CLASSES,
            task=None,
            source=", ".join(packed.files),
            fingerprint=packed.fingerprint,
            train_hash=packed.fingerprint,
            split_off=False,
            source_notes=(),
            split_notes=(),
        )
        length = self.config.texts.max_length
        return PreparedData(texts, {"train": rows}, self.collate, length, {}, weights)

    def _train(
        self,
        work: Path,
        rows: tuple[Dataset, Dataset],
        packed: CorpusRecord,
        signals: Teacher,
        checkpoint: Path | None,
        reporter: Reporter,
    ) -> tuple[PretrainRecord, list[dict[str, Any]]]:
        """Train; return the record as far as it is known, and the history."""
        config, mix = self.config.training, self.objective.mix
        train, held_out = rows
        epoch_tokens = packed.tokens["train"]
        measured = HeldOutLosses(
            self.objective, self._live(), held_out, self.collate, config.eval_batch_size
        )
        bar = PretrainingBar(reporter.console, "pretrain", epoch_tokens)
        writing: list[TrainerCallback] = []
        if is_main():
            writing += [HistoryRecorder(work), *trackers(config.report_to or (), work)]
            if mix is not None and not getattr(mix, "constant", False):
                writing.append(MixRecorder(work))
        tokens = occurring(train, self.student.tokenizer.pad_token_id)
        with only_occurring_trained(self.student.model, tokens), shown(bar):
            trainer = HeldOutTrainer(
                self.objective,
                signals,
                config,
                self.config.mix,
                self.config.seed,
                work / CHECKPOINTS,
                measured=measured,
                epoch_tokens=epoch_tokens,
                beside=lambda: needed_to_resume(work),
                train_dataset=train,
                data_collator=self.collate,
                callbacks=[*writing, Measuring(config.measure_every), bar],
            )
            trainer.remove_callback(PrinterCallback)
            first = measured()  # of the weights before any step, also where a run is resumed
            before = state_of(checkpoint)
            started = time.monotonic()
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            seconds = time.monotonic() - started
        history = clean_history(trainer.state.log_history)
        losses = [_first_loss(first), *held_out_losses(history)]
        learned = [line["alpha"] for line in history if "alpha" in line]
        since = 0.0 if before is None else (before.epoch or 0.0)
        record = PretrainRecord(
            format=FORMAT,
            status="ok",
            student=ModelRecord.model_validate(
                {**self.student.start, "parameters": _parameters(self.student)}
            ).model_copy(update={"new_head": None}),
            mix=mix_record(self.objective),
            formula=self.objective.formula(),
            signals=kind_of(signals),
            alpha=learned[-1] if learned else None,
            corpus=packed,
            held_out=tuple(losses),
            tokens_per_second=round((config.epochs - since) * epoch_tokens / seconds, 1),
            precision=str(self.objective.precision).removeprefix("torch."),
            timings=Timings(training_seconds=round(seconds, 3), resumed=checkpoint is not None),
        )
        return record, history

    def _teacher_record(self, weights: str) -> ModelRecord:
        return ModelRecord(
            place=self.teacher.source,
            parameters=_parameters(self.teacher),
            fingerprint=weights,
        )

    def _write(
        self, record: PretrainRecord, history: Sequence[Mapping[str, Any]], run: RunFolder
    ) -> PretrainRecord:
        """Write and finish the run folder; return the record with the size of the model."""
        with whole_folder(run.work / STUDENT, replace=True) as folder:
            _headless(self.student).save_pretrained(folder)
            tokenizer: Any = copy.deepcopy(self.student.tokenizer)
            tokenizer.model_max_length = self.student.max_length
            save_tokenizer(tokenizer, folder)
            size = sum(file.stat().st_size for file in folder.iterdir())
            student = record.student.model_copy(update={"bytes_on_disk": size})
            record = record.model_copy(update={"student": student})
            write_text(folder / CARD, pretraining_card(record))
        write_text(run.work / HISTORY, "".join(json.dumps(line) + "\n" for line in history))
        run.write(ENVIRONMENT, environment(self.config.seed).to_json())
        run.write(RESULT, record.to_json())
        run.finish()
        return record


def _packed_before(folder: Path) -> CorpusRecord | None:
    """The record of rows that an earlier process has packed; None if they are not whole."""
    try:
        record = CorpusRecord.from_json(read_text(folder / CORPUS))
        with (folder / ROWS_FILE).open("rb") as rows:
            digest = hashlib.file_digest(rows, "sha256").hexdigest()
    except (OSError, ValueError):
        return None
    return record if digest == record.fingerprint else None


def _tokens(rows: Dataset) -> int:
    """Tokens of rows, with special tokens."""
    return sum(sum(chunk["length"]) for chunk in rows.select_columns("length").iter(100_000))


def _parameters(model: Classifier) -> int:
    """Parameters of the encoder without a head."""
    encoder: Any = model.model.base_model
    return int(encoder.num_parameters())


def _first_loss(losses: Mapping[str, float]) -> HeldOutLoss:
    """The measurement before the first step."""
    parts = {name: losses[name] for name in sorted(losses) if name != "loss"}  # as in a history
    return HeldOutLoss(step=0, epoch=0.0, tokens=0, loss=losses["loss"], parts=parts)


def _headless(student: Classifier) -> Any:
    """The encoder alone, whose config says nothing of the head that it had."""
    encoder: Any = student.model.base_model
    encoder.config = copy.deepcopy(student.model.config)
    names = ["LABEL_0", "LABEL_1"]  # transformers' default, which it does not write
    encoder.config.id2label = dict(enumerate(names))
    encoder.config.label2id = {name: number for number, name in enumerate(names)}
    encoder.config.problem_type = None
    if hasattr(encoder.config, "layermix"):
        del encoder.config.layermix
    encoder.eval()
    return encoder
