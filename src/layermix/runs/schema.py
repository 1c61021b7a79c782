"""The records that a run leaves as JSON, each written and read by one class.

`result.json` is a `RunRecord`, of a pretraining a `PretrainRecord`; `start.json` is a
`StartRecord`, `environment.json` an `EnvironmentRecord`, `bench.json` a `BenchRecord`,
`onnx/export.json` an `ExportRecord`; config.json of a saved model keeps a `SavedModelEntry`. All
but the last have a field `format`, the version of
their layout: 0 in records that were written before there was one. Fields that are unknown or do not
apply are left out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt

from layermix.errors import Note
from layermix.evaluation.forms import Form
from layermix.runs.layout import RESULT

FORMAT = 2
"""The version of the layout that this code writes; it reads this one and all older ones."""


SOFT_LABELS = "soft labels"
"""The source of signals where it is no teacher model."""
CLASSES = "classification"
"""The kind of label in records that do not name one."""


class Part(BaseModel):
    """A part of a record: cannot be changed; fields that it does not know are ignored."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, populate_by_name=True, ser_json_inf_nan="constants"
    )


MOST_BYTES = 200_000_000
"""Largest file of a record or a history that is read."""


def read_text(file: Path, errors: str = "strict") -> str:
    """The text of a file of records.

    Args:
        file: Where it is.
        errors: What becomes of bytes that are not UTF-8, as in `bytes.decode`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not UTF-8, or larger than any that a run writes.
    """
    with file.open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{file.name} has more than {MOST_BYTES:,} bytes")
    return content.decode("utf-8", errors)


class Record(Part):
    """A file of its own."""

    format: int = Field(0, ge=0, le=FORMAT)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The record in a JSON text.

        Raises:
            ValidationError: If it is not what `to_json` writes, in this version or an older one.
        """
        return cls.model_validate_json(text, strict=True)

    def to_json(self) -> str:
        """The record as JSON text, which ends with a line break."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, for JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _note(value: Any) -> Any:
    """A note; records of format 0 hold its text alone."""
    return {"code": "", "text": value} if isinstance(value, str) else value


Notes = tuple[Annotated[Note, BeforeValidator(_note)], ...]
Matrix = tuple[tuple[float, ...], ...]
"""Weights of the mix: one row per student layer, one column per teacher layer."""


# -- result.json -----------------------------------------------------------------------------------


class Scores(Part):
    """Scores on one split: numbers by the names of `layermix.evaluation.metrics`.

    Attributes:
        per_class: Class -> score -> value; `support` is the number of its rows.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    per_class: dict[str, dict[str, float]] | None = None

    @property
    def numbers(self) -> Mapping[str, float]:
        """The scores over all classes by name."""
        return self.__pydantic_extra__ or {}

    def number(self, name: str) -> float | None:
        """One score; None if it is not on record."""
        return self.numbers.get(name)


class ScoresBySplit(Part):
    """Scores of one model; `holdout` are training rows that were held out."""

    validation: Scores | None = None
    holdout: Scores | None = None
    test: Scores | None = None

    @property
    def splits(self) -> dict[str, Scores]:
        """The scores on record, by split."""
        by_split = {"validation": self.validation, "holdout": self.holdout, "test": self.test}
        return {split: scores for split, scores in by_split.items() if scores is not None}

    def score(self, metric: str, split: str = "validation") -> float | None:
        """One score; None if it is not on record."""
        scores = self.splits.get(split)
        return None if scores is None else scores.number(metric)


class EpochScores(ScoresBySplit):
    """Scores of one reported epoch; epochs count from 1."""

    epoch: int


class Metrics(Part):
    """Scores by reported epoch, and those of the saved model on test rows.

    Attributes:
        last: The last epoch.
        best_on_dev: The best epoch, chosen on the validation rows themselves.
        selected: The best epoch, chosen on held-out training rows.
        test: The saved model on the test rows.
    """

    EPOCHS: ClassVar = ("last", "best_on_dev", "selected")

    last: EpochScores | None = None
    best_on_dev: EpochScores | None = None
    selected: EpochScores | None = None
    test: Scores | None = None

    @property
    def epochs(self) -> dict[str, EpochScores]:
        """The reported epochs on record, by name."""
        reported = ((name, getattr(self, name)) for name in self.EPOCHS)
        return {name: scores for name, scores in reported if scores is not None}

    @property
    def saved_epoch(self) -> str:
        """The name of the reported epoch whose weights were saved."""
        return "last" if self.selected is None else "selected"

    @property
    def saved(self) -> EpochScores:
        """The scores of the saved model; empty if they are not on record."""
        return self.epochs.get(self.saved_epoch, EpochScores(epoch=0))


class ModelRecord(Part):
    """The teacher or the student of a run.

    Attributes:
        place: The folder, hub id or name that its weights came from.
        kind: How its weights began: a `model` as it was, copied `blocks`, or `fresh`.
        new_head: Whether its classification head was started anew.
        blocks: The teacher blocks that were copied.
        family: Of a fresh student.
        layers: Of a fresh student.
        hidden: Hidden size of a fresh or narrowed student, if it was chosen.
        heads: Attention heads of a fresh or narrowed student, if they were chosen.
        ffn: Width between a block's two products of a fresh or narrowed student, if it was chosen.
        vocabulary: Number of its tokens, if it was trimmed.
        notes: What had to be changed in its weights.
        parameters: How many.
        bytes_on_disk: Size of the files in its folder.
        fingerprint: Hash of its weights.
        classes: Names in label order.
        metrics: Scores of a teacher.
    """

    place: str | None = Field(None, alias="from")
    kind: Literal["model", "blocks", "fresh", "narrowed"] | None = None
    new_head: bool | None = None
    blocks: tuple[int, ...] | None = None
    family: str | None = None
    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    ffn: int | None = None
    vocabulary: int | None = None
    notes: Notes = ()
    parameters: int | None = None
    bytes_on_disk: int | None = None
    fingerprint: str | None = None
    classes: tuple[str, ...] = ()
    metrics: ScoresBySplit | None = None

    def score(self, metric: str, split: str = "validation") -> float | None:
        """One score; None if it is not on record."""
        return None if self.metrics is None else self.metrics.score(metric, split)


class MixRecord(Part):
    """How teacher layers were mixed.

    Attributes:
        strategy: As in the config, or the name of a mix of the user's own.
        student_layers: Blocks of the student, from 0.
        teacher_layers: Blocks of the teacher, from 0.
        start: α before the first step.
        learned: Whether α is learned; None in records of older versions.
    """

    strategy: str | None = None
    student_layers: tuple[int, ...] = ()
    teacher_layers: tuple[int, ...] = ()
    start: Matrix | None = None
    learned: bool | None = None

    @property
    def learns(self) -> bool:
        """Whether α is learned; older records say it by the name of the strategy."""
        return self.strategy == "learned" if self.learned is None else self.learned


class DataRecord(Part):
    """The data of a run.

    Attributes:
        place: Folder, file or hub id.
        fingerprint: Hash of texts and labels.
        rows: By split.
        max_length: In tokens.
        cut: Share of rows that `max_length` cut, by split.
        guessed: Number of scored rows without a label, by split: their most probable class by the
            soft labels stands for it.
    """

    place: str | None = Field(None, alias="from")
    fingerprint: str | None = None
    rows: dict[str, int] = {}
    max_length: int | None = None
    cut: dict[str, float] = {}
    guessed: dict[str, int] | None = None


class Interval(Part):
    """95 % intervals over validation rows, for one run.

    Attributes:
        metric: The score.
        rows: The number of labelled validation rows.
        groups: The number of their groups, which were resampled whole; None without groups.
        low: Lower end of the score of the saved model.
        high: Upper end.
        difference: Student minus teacher; None without a teacher.
        difference_low: Lower end of the paired interval.
        difference_high: Upper end.
    """

    metric: str
    rows: int
    groups: int | None = None
    low: float
    high: float
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None


class Calibration(Part):
    """What was fitted to a saved classifier on the held-out rows.

    Attributes:
        temperature: By which logits are divided.
        thresholds: The probability from which on each of several labels is given.
        scores: Those that it changes, on the validation rows, without it.
        calibrated: The same with it.
    """

    temperature: float | None = Field(None, gt=0)
    thresholds: tuple[float, ...] | None = None
    scores: dict[str, float] = {}
    calibrated: dict[str, float] = {}


class Timings(Part):
    """Durations.

    Attributes:
        training_seconds: Of this process; of a resumed run, since it was resumed.
        resumed: Whether the run was resumed.
        milliseconds_per_text: Median for one text at a time, of `teacher` and `student`.
    """

    training_seconds: float | None = None
    resumed: bool = False
    milliseconds_per_text: dict[str, float] | None = None


Role = Literal["student", "teacher"]
"""What a trained model is to its run."""

Status = Literal["ok", "failed", "cancelled", "unfinished"]


class RunRecord(Record):
    """result.json of a distillation or a fine-tuning.

    A finished run has every field but those that do not apply to it: `teach` has no student and no
    mix. A failed or cancelled one has `status` and `error` only. An `unfinished` one has no file;
    this is what a reader gets instead.

    Attributes:
        status: How the run ended.
        error: Why it failed.
        problem: The kind of label.
        form: What a label is; None, a class, in records of older versions.
        task: A known task's name.
        metric: The score by which epochs are compared.
        higher_is_better: Whether more of it is; None in records of older versions.
        metrics: All scores.
        teacher: The teacher; of `teach`, the model that was trained.
        student: The model that was trained.
        mix: None if no layer was mixed.
        formula: The loss.
        signals: Where the teacher's signals came from; None if they were not needed.
        alpha: α in the last step of the epoch whose weights are saved.
        data: Where the rows came from.
        pair: Whether a row has two texts.
        notes: Notes to the user about data and models.
        warnings: Warnings to the user.
        precision: Number format of the training.
        timings: Durations.
        interval: None if no validation row has a label, or the score has no interval.
        calibration: None if no rows were held out.
    """

    status: Status = "unfinished"
    error: str | None = None
    problem: str = CLASSES
    form: Form | None = None
    task: str | None = None
    metric: str = ""
    higher_is_better: bool | None = None
    metrics: Metrics = Metrics()
    teacher: ModelRecord = ModelRecord()
    student: ModelRecord | None = None
    mix: MixRecord | None = None
    formula: str | None = None
    signals: str | None = None
    alpha: Matrix | None = None
    data: DataRecord = DataRecord()
    pair: bool = False
    notes: Notes = ()
    warnings: Notes = ()
    precision: str | None = None
    timings: Timings = Timings()
    interval: Interval | None = None
    calibration: Calibration | None = None

    @property
    def trained(self) -> ModelRecord:
        """The model that the run trained."""
        return self.student or self.teacher

    @property
    def prefers_more(self) -> bool:
        """Whether more of the primary score is better."""
        if self.higher_is_better is not None:
            return self.higher_is_better
        # Only here: it takes a second or two to import what the scores need.
        from layermix.evaluation.metrics import HIGHER_IS_BETTER

        return HIGHER_IS_BETTER.get(self.metric, True)

    @property
    def score(self) -> float | None:
        """The primary score of the saved model on the validation rows, if it is on record."""
        return self.metrics.saved.score(self.metric)


def read_result(folder: Path) -> RunRecord:
    """result.json of a finished run or a filed cell.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged, or the run did not finish.
    """
    file = folder / RESULT
    record = RunRecord.from_json(read_text(file))
    if record.status != "ok":
        raise ValueError(f"{file}: the run is {record.status}")
    needed = {"metric", "metrics", "teacher", "data", "precision"}
    if missing := needed - record.model_fields_set:
        raise ValueError(f"{file}: these fields are missing: {', '.join(sorted(missing))}")
    return record


class CorpusRecord(Record):
    """The texts of a pretraining: rows/corpus.json of an unfinished run, and in result.json.

    Attributes:
        files: Files and folders as they were named.
        read: How many files were read.
        skipped: Files in the folders that are empty or have another ending.
        documents: How many were read.
        unread: Lines and rows that were left out, because they could not be read.
        rows: Packed rows, `train` and `held_out`.
        tokens: In the rows, with special tokens, `train` and `held_out`.
        max_length: Tokens of a row.
        fingerprint: sha256 of the rows.
    """

    files: tuple[str, ...] = ()
    read: int = 0
    skipped: int = 0
    documents: int = 0
    unread: int = 0
    rows: dict[str, int] = {}
    tokens: dict[str, int] = {}
    max_length: int | None = None
    fingerprint: str | None = None


class HeldOutLoss(Part):
    """The loss on held-out rows, mean per row.

    Attributes:
        step: Steps done.
        epoch: Epochs done.
        tokens: Tokens that the student has learned from.
        loss: All terms with their weights.
        parts: Each term before its weight.
    """

    step: int
    epoch: float
    tokens: int
    loss: float
    parts: dict[str, float]


class PretrainRecord(Record):
    """result.json of a pretraining; that of one that failed is a `RunRecord`.

    Attributes:
        pretrained: Tells it from a `RunRecord`.
        status: How it ended.
        teacher: What was learned from.
        student: What was trained; it has no head.
        mix: None if no layer was mixed.
        formula: The loss.
        signals: Where the teacher's signals came from.
        alpha: α in the last step.
        corpus: The texts.
        held_out: The loss on held-out rows: before the first step, then as it was measured.
        tokens_per_second: In this process; of a resumed run, since it was resumed.
        notes: Notes to the user about texts and models.
        warnings: Warnings to the user.
        precision: Number format of the training.
        timings: Durations.
    """

    pretrained: Literal[True] = True
    status: Status = "unfinished"
    teacher: ModelRecord = ModelRecord()
    student: ModelRecord = ModelRecord()
    mix: MixRecord | None = None
    formula: str | None = None
    signals: str | None = None
    alpha: Matrix | None = None
    corpus: CorpusRecord = CorpusRecord()
    held_out: tuple[HeldOutLoss, ...] = ()
    tokens_per_second: float | None = None
    notes: Notes = ()
    warnings: Notes = ()
    precision: str | None = None
    timings: Timings = Timings()

    @property
    def tokens_seen(self) -> int:
        """Tokens that the student has learned from, those of every epoch counted."""
        return max((one.tokens for one in self.held_out), default=0)


# -- start.json ------------------------------------------------------------------------------------


class StartRecord(Record):
    """start.json of an unfinished run: what it was begun with, so that it is resumed with the same.

    Attributes:
        data: Hash of texts and labels.
        classes: Names in label order.
        rows: Hash of the token rows.
        teacher: Hash of the teacher's weights and config; None without a teacher.
        student: Hash of the student's config.
    """

    data: str
    classes: tuple[str, ...]
    rows: str
    teacher: str | None = None
    student: str


# -- environment.json ------------------------------------------------------------------------------


class EnvironmentRecord(Record):
    """What it takes to repeat a run.

    Attributes:
        written: ISO 8601, UTC.
        python: Version.
        packages: Name -> version; that of torch names its build.
        commit: Of layermix's source tree, with `+` if it was changed; None if it was installed.
        platform: Operating system.
        processor: The name of the graphics card, or of the CPU.
        threads: Of PyTorch.
        processes: How many trained the run together.
        seed: Of the run.
    """

    packages: dict[str, str]
    written: str | None = None
    python: str | None = None
    commit: str | None = None
    platform: str | None = None
    processor: str | None = None
    threads: int | None = None
    processes: int | None = None
    seed: int | None = None


# -- bench.json ------------------------------------------------------------------------------------


class Speedup(Part):
    """How many times as fast as the first model, over rounds."""

    median: float
    low: float
    high: float


class Speedups(Part):
    """Of texts one at a time (`alone`) and in batches (`together`)."""

    alone: Speedup
    together: Speedup


class BenchRow(Part):
    """One model as one of the runtimes runs it.

    Attributes:
        name: The model and what runs it.
        runtime: What runs it.
        parameters: None where the folder has no weights to count.
        bytes: Size of the file with the weights.
        median_ms: Milliseconds for one text at a time, tokenizing included.
        p95_ms: The same, 95th percentile.
        texts_per_second: In batches, tokenizing included; median over rounds.
        times_as_fast: Against the first model as the first row runs it.
        same_runtime: Against the first model run by the same runtime; None if that was not
            measured, and in records before format 2.
        mean_tokens: Per text as this model got it; None in records before format 2.
        cut: Share of the texts that were cut, in [0, 1].
        own_limit: At which `predict` cuts texts for this model, in tokens.
        temporary: Whether its exported file was made for the measurement only.
    """

    name: str
    runtime: Literal["torch", "onnx", "int8"] | None = None
    parameters: int | None = None
    bytes: int
    median_ms: float
    p95_ms: float
    texts_per_second: float
    times_as_fast: Speedups
    same_runtime: Speedups | None = None
    mean_tokens: float | None = None
    cut: float | None = None
    own_limit: int | None = None
    temporary: bool = False


class BenchRecord(Record):
    """bench.json: size and speed of models, measured in turns.

    Attributes:
        models: The first one is compared with.
        rows: Where the texts came from, in words.
        texts: How many there were.
        max_tokens: At which the texts were cut for every model. None in records before format 2,
            where each model cut them at its own limit.
        mean_tokens: Per text, as the last model got it; in records before format 2 only.
        rounds: How often everything was measured.
        batch_size: Texts per batch.
        written: ISO 8601, UTC.
        threads: Of PyTorch.
        processor: The name of the graphics card, or of the CPU.
        packages: Name -> version.
    """

    models: tuple[BenchRow, ...] = Field(min_length=1)
    rows: str
    texts: int | None = None
    max_tokens: int | None = None
    mean_tokens: float | None = None
    rounds: int
    batch_size: int
    written: str | None = None
    threads: int
    processor: str
    packages: dict[str, str] = {}


# -- onnx/export.json ------------------------------------------------------------------------------


class Parity(Part):
    """PyTorch against float32 ONNX on the same rows.

    Attributes:
        rows: Compared in batches.
        alone: So many of them were compared one by one as well.
        max_difference: Of a logit.
        other_answers: Rows with another prediction.
    """

    rows: int
    alone: int
    max_difference: float
    other_answers: int


class QuantizationTry(Part):
    """One int8 version that was made and measured.

    Attributes:
        in_float: How many parts of the network were left in float beside the last product.
        steering_drop: Lost points on the rows that choose the version.
        drop: Lost points on the rows that judge it.
    """

    in_float: int
    steering_drop: float
    drop: float


class BatchEffect(Part):
    """What changes if the int8 file gets the same rows in batches of like length.

    Attributes:
        batch_size: Rows per batch.
        drop: Lost points against float32, on the rows that judge.
        other_answers: Rows with another prediction than one by one, of all rows.
        max_change: Largest change of a probability, of all rows.
    """

    batch_size: int
    drop: float
    other_answers: int
    max_change: float


class QuantizationCost(Part):
    """What int8 costs on labelled rows, run one by one as layermix serves it.

    Records before format 2 measured batches of 32, on the rows that had chosen the version.

    Attributes:
        metric: The score.
        rows: How many labelled rows.
        float32: The score before.
        int8: The score after.
        drop: Before minus after, in points (hundredths).
        low: Lower end of the paired 95 % interval of the drop over rows, in points.
        high: Upper end.
        same_answers: Share of rows with the same prediction.
        in_float: Parts of the network left in float beside the last product.
        steering_rows: How many rows chose the version.
        judged_on: Rows that had no say in the choice (`other-rows`); rows that turned the first
            version down (`rows-that-rejected`); or those that chose (`same-rows`), where there
            were too few to split.
        tries: Every version that was made, in order; the last one is meant above.
        in_batches: What changes in batches.
    """

    metric: str
    rows: int
    float32: float
    int8: float
    drop: float
    low: float
    high: float
    same_answers: float
    in_float: tuple[str, ...]
    steering_rows: int | None = None
    judged_on: Literal["other-rows", "rows-that-rejected", "same-rows"] | None = None
    tries: tuple[QuantizationTry, ...] = ()
    in_batches: BatchEffect | None = None


class FileSizes(Part):
    """Bytes of the exported files."""

    onnx: int
    int8: int | None = None


class ExportRecord(Record):
    """onnx/export.json: what was exported, and how it was checked.

    Attributes:
        opset: Of ONNX.
        fingerprint: Hash of the model's weights.
        weights: File -> sha256 of the weights that it was made from.
        rows: Where the rows it was checked on came from, in words.
        pair: Whether a row has two texts.
        form: What a label is; None in records of older versions.
        max_length: In tokens.
        parity: The float32 file against PyTorch.
        bytes: Sizes.
        versions: Package -> version.
        int8: None if there is no int8 file.
    """

    opset: int
    fingerprint: str
    weights: dict[str, str]
    rows: str
    pair: bool
    max_length: int
    parity: Parity
    bytes: FileSizes
    versions: dict[str, str] = {}
    int8: QuantizationCost | None = None
    form: Form | None = None


# -- config.json of a saved model ------------------------------------------------------------------


class SavedModelEntry(Part):
    """The entry `layermix` of config.json, so that a saved model reads texts as it was trained to.

    Attributes:
        max_length: At which texts are cut, in tokens.
        text_columns: The columns that it reads.
        taught: sha256 of the texts of its training rows, with those that were split off.
        split_off: Whether a tenth of those rows was kept for validation.
        group_column: The column by whose values it was chosen, if not by text.
        temperature: That of `Calibration`, if it was fitted.
        thresholds: Those of `Calibration`, if they were fitted.
        problem: The kind of its labels.
    """

    max_length: PositiveInt | None = None
    text_columns: tuple[str, ...] = Field((), max_length=2)
    taught: str | None = None
    split_off: bool = False
    group_column: str | None = None
    temperature: float | None = Field(None, gt=0)
    thresholds: tuple[float, ...] | None = None
    problem: str = CLASSES
