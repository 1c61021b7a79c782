"""The sections and fields of a config: names, types, defaults and help texts.

A field's docstring is its help text on the command line, in the JSON schema and in the docs.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PlainValidator,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo

from layermix.config.presets import PRESETS


def _split_commas(value: Any) -> Any:
    """A list of a comma-separated text: `"0,1,2"` -> `["0", "1", "2"]`; `3` -> `[3]`."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _split_paths(value: Any) -> Any:
    """Paths of a comma-separated text; the name of something that exists may have commas."""
    if isinstance(value, str) and Path(os.path.expandvars(value)).expanduser().exists():
        return [value]
    return _split_commas(value)


def _split_rows(value: Any) -> Any:
    """Rows of a text: `"0.9,0.1; 0.5,0.5"` -> `[["0.9", "0.1"], ["0.5", "0.5"]]`."""
    if isinstance(value, str):
        return [_split_commas(row) for row in value.split(";")]
    return value


def _expand(value: str, info: ValidationInfo) -> str:
    """The path with `~` and `$VARIABLE` expanded; as written with `context={"expand": False}`.

    Raises:
        ValueError: If a variable is not set.
    """
    if info.context is not None and not info.context.get("expand", True):
        return value
    expanded = os.path.expandvars(os.path.expanduser(value))
    if unset := re.search(r"\$(\w+|\{\w+\})", expanded):
        raise ValueError(f"the environment variable {unset.group().strip('${}')} is not set")
    return expanded


def _text_encoding(value: str) -> str:
    """The name of an encoding in which ASCII text is the same bytes as in UTF-8.

    Raises:
        ValueError: If Python does not know it, or it is of another kind, such as UTF-16.
    """
    ascii = "".join(map(chr, range(128)))
    try:
        if ascii.encode().decode(value) == ascii:
            return value
    except (LookupError, ValueError):
        pass
    raise ValueError(
        f"found {value!r}, wanted the name of an encoding that Python knows and that contains "
        "ASCII, such as utf-8, cp1252 or gb18030; save files in other encodings as UTF-8"
    )


def _number_or(word: str, number: TypeAdapter[int], wanted: str) -> Callable[[Any], Any]:
    """A validator of a whole number, also as text, or one word.

    It raises a ValueError if a value is neither.
    """

    def validate(value: Any) -> Any:
        if value == word:
            return word
        try:
            return number.validate_python(value)
        except ValidationError:
            message = f"found {value!r}, wanted {word} or a whole number of {wanted}"
            raise ValueError(message) from None

    return validate


def _class_weights(value: Any) -> Literal["balanced"] | dict[str, float] | None:
    """`balanced`, or the weights of classes by name, also as the text `bad=2,good=1`.

    Raises:
        ValueError: If it is neither, or a weight is not positive.
    """
    if value is None:
        return None
    if value == "balanced":
        return "balanced"
    given = value
    if isinstance(value, Mapping):  # YAML reads the names of numbered classes as numbers
        given = {str(name): weight for name, weight in value.items()}
    if isinstance(value, str):
        pairs = [part.rpartition("=") for part in value.split(",")]
        given = {name.strip(): weight for name, sign, weight in pairs if sign}
        given = given if len(given) == len(pairs) else None
    try:
        return _WEIGHTS.validate_python(given)
    except ValidationError:
        raise ValueError(
            f"found {value!r}, wanted balanced, or a positive weight for each class by its name, "
            "such as bad=2,good=1"
        ) from None


_WEIGHTS = TypeAdapter(
    Annotated[dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)]
)

Source = Annotated[str, Field(min_length=1), AfterValidator(_expand)]
"""A path or hub name as text, with `~` and `$VARIABLE` expanded."""
Sources = Annotated[
    tuple[Source, ...],
    BeforeValidator(_split_paths, json_schema_input_type=list[str] | str),
    Field(min_length=1),
]
"""Paths; of a text those between commas, but a path that exists is taken as it is."""
Integers = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    BeforeValidator(_split_commas, json_schema_input_type=list[int] | int | str),
    Field(min_length=1),
]
Words = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_split_commas, json_schema_input_type=list[str] | str),
    Field(min_length=1),
]
Rows = Annotated[
    tuple[Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)], ...],
    BeforeValidator(_split_rows, json_schema_input_type=list[list[float]] | str),
    Field(min_length=1),
]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Trackers = Annotated[
    tuple[Tracker, ...],
    BeforeValidator(_split_commas, json_schema_input_type=list[Tracker] | str),
    Field(min_length=1),
]
AugmentWay = Literal["neighbours", "words", "swap", "crops"]
AugmentWays = Annotated[
    tuple[AugmentWay, ...],
    BeforeValidator(_split_commas, json_schema_input_type=list[AugmentWay] | str),
    Field(min_length=1),
]
RowsOrAuto = Annotated[
    int | Literal["auto"],
    PlainValidator(
        _number_or("auto", TypeAdapter(NonNegativeInt), "rows (0: none)"),
        json_schema_input_type=NonNegativeInt | Literal["auto"],
    ),
]
TokensOrOccurring = Annotated[
    int | Literal["occurring"],
    PlainValidator(
        _number_or("occurring", TypeAdapter(PositiveInt), "tokens, such as 8000"),
        json_schema_input_type=PositiveInt | Literal["occurring"],
    ),
]
ClassWeights = Annotated[
    Literal["balanced"] | dict[str, float],
    PlainValidator(
        _class_weights, json_schema_input_type=Literal["balanced"] | dict[str, float] | str
    ),
]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]

WEIGHT_ROUNDING = 0.02
"""How far the sum of a row of weights may be from 1, for rounded input; the row is scaled to 1."""

# The names of each table in core/, in its order; a test compares them.
MixName = Literal["fixed", "uniform", "learned", "reverse", "all_to_one", "last_only", "random"]
HiddenReduction = Literal["mean", "token_norm", "literal_sum", "tinybert_mean"]
AttentionReduction = Literal["mean", "tinybert_mean"]
LogitLoss = Literal["soft_cross_entropy", "tinybert_mean", "kl", "mse", "bce"]
SupervisedLoss = Literal["cross_entropy", "mse", "bce"]
PresetName = Literal["default", "quick", "soft", "paper", "tinybert"]
ProblemName = Literal[
    "classification", "multi_label", "regression", "relevance", "entities", "tags"
]
Precision = Literal["auto", "fp32", "bf16"]


class Section(BaseModel):
    """Base of all sections: frozen, refuses unknown keys; a field's docstring is its help text."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class OneWord(Section):
    """A section that may be written as the value of its first field: `mix: fixed`."""


class TeacherConfig(OneWord):
    """The teacher: a fine-tuned encoder whose signals the student learns from."""

    model: Source | None = None
    """A fine-tuned text classifier: a run folder made by `teach`, a model folder or a hub id. Of
    several, A,B, the mean of their probabilities is learned. Without one the data need soft labels:
    a column p_CLASS with the probability of each class."""
    allow_weak: bool = False
    """Continue even if the teacher is no better than always predicting the same class."""

    @property
    def models(self) -> tuple[str, ...]:
        """The teachers' folders or hub ids; empty if there is none."""
        if self.model is None:
            return ()
        model = os.path.expandvars(os.path.expanduser(self.model))
        if "," not in model or Path(model).exists():
            return (model,)
        parts = (part.strip() for part in model.split(","))
        return tuple(os.path.expanduser(part) for part in parts if part)


class StudentConfig(OneWord):
    """The student: copied teacher blocks (the default), an existing model, or a new one."""

    model: Source | None = None
    """An existing model: a folder or hub id. Without a head for the task it gets a new one. With
    layers or blocks: only these blocks of it."""
    layers: Positive | None = None
    """Number of blocks. Alone: copies that many of the teacher's blocks (default: half of them).
    With hidden, heads or ffn: the depth of a new student."""
    copied: Literal["first", "spread"] = "first"
    """Which blocks student.layers copies: the first, or the last of equal groups (of six blocks
    three: 1, 3, 5), which are those that the mix `fixed` follows."""
    blocks: Integers | None = None
    """Teacher blocks to copy, counted from 0, such as 0,2,4."""
    hidden: Positive | None = None
    """Hidden size of a new student, which keeps the teacher's vocabulary."""
    heads: Positive | None = None
    """Attention heads of a new student."""
    ffn: Positive | None = None
    """Width of the feed-forward layers of a new student."""
    start: Literal["random", "teacher"] = "random"
    """Weights of a new student with hidden, heads or ffn: random, or the teacher's (teacher): of
    the blocks that student.layers and student.copied say, the heads, feed-forward units and hidden
    coordinates that matter most, fitted to what the whole blocks compute."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout of the student in training; it stays in the saved student's config. Without a value
    that of its config (a copy has its teacher's)."""
    vocabulary: TokensOrOccurring | None = None
    """Trim the student's vocabulary, often most of its parameters: to the tokens that occur in the
    training texts and those without labels (occurring), or to a number of tokens, such as 8000: the
    most frequent of those, then common ones. Other words are then read in smaller pieces."""

    @property
    def sizes(self) -> dict[str, int]:
        """The given sizes of a new student, without `layers`."""
        named = {"hidden": self.hidden, "heads": self.heads, "ffn": self.ffn}
        return {name: size for name, size in named.items() if size is not None}

    @model_validator(mode="after")
    def _one_way_only(self) -> Self:
        ways = {
            "model": self.model is not None,
            "blocks": self.blocks is not None,
            "layers": self.layers is not None,
            "/".join(self.sizes): bool(self.sizes),
        }
        given = [name for name, used in ways.items() if used]
        allowed = {"model", "blocks"}, {"model", "layers"}, {"layers", "/".join(self.sizes)}
        if len(given) > 1 and set(given) not in allowed:
            raise ValueError(
                f"{' and '.join(given)} contradict each other; give a model, blocks or layers "
                "(copied from the model, else from the teacher), or layers with hidden, heads, ffn "
                "(a new one)"
            )
        return self

    @model_validator(mode="after")
    def _only_other_sizes_start(self) -> Self:
        if self.start == "teacher" and not self.sizes:
            raise ValueError(
                "start is teacher, which is for other sizes, and none is given; add hidden, heads "
                "or ffn, such as hidden 192 and heads 6, or leave start out: layers and blocks "
                "copy the teacher's weights anyway"
            )
        return self


class DataConfig(OneWord):
    """The texts and labels."""

    path: Source | None = None
    """A folder with train and, if you have them, validation and test files (TSV, CSV, JSONL,
    Parquet or CoNLL), one such file, a saved `datasets` folder, or a hub data set such as
    glue:mrpc."""
    train: Source | None = None
    """Training file, in place of data.path."""
    validation: Source | None = None
    """Validation file. Without one, a tenth of the training rows is used for validation."""
    test: Source | None = None
    """Test file, scored once at the end."""
    unlabeled: Source | None = None
    """File of texts without labels. The student learns from the teacher on them; L_sup skips
    them."""
    augment: RowsOrAuto | None = None
    """Make this many new rows without labels from the training texts, such as 20000, on which the
    student learns from the teacher, too. auto: five for each training row, at most 16,000, and
    none if you have texts without labels of your own. 0: none."""
    augment_ways: AugmentWays | None = None
    """How new rows are made, in equal numbers: neighbours (texts paired anew with similar ones),
    words (some words replaced by ones near them in the teacher's embedding), swap (the texts of a
    pair the other way round), crops (parts of texts). By default those that suit the data."""
    text_columns: Annotated[Words, Field(max_length=2)] | None = None
    """One text column, or two for text pairs. By default found by common names, such as text; where
    each word has a label, also tokens, a list of words."""
    label_column: Annotated[str, Field(min_length=1)] | None = None
    """The label column. By default found by common names, such as label; where each word has a
    label, such as ner_tags, entities or tags."""
    problem: ProblemName | None = None
    """What a label is: one of several classes (classification), several labels at once
    (multi_label), a number (regression), a number from 0 to 1, as rerankers give it (relevance),
    named entities (entities), or a tag for each word (tags). By default that of the model or the
    task, else classification."""
    label_columns: Words | None = None
    """Several labels per row: a column of 0 and 1 for each label, such as toxic,insult."""
    label_separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Several labels per row: what stands between them in a cell of the label column. By default
    the first of ; | # and the comma that occurs."""
    label_names: Words | None = None
    """Names of the labels: in the order of the integers 0, 1, …, such as bad,good, or as
    LABEL=CLASS for each label, such as 1=bad,2=good. Of entities: their tags, such as
    O,B-PER,I-PER, or their types in the order you want."""
    skip_labels: Words | None = None
    """Leave out the rows with these labels, such as -1, which marks rows without a label in data
    sets of the hub."""
    group_column: Annotated[str, Field(min_length=1)] | None = None
    """A column whose equal values keep rows together, such as the author or the document: rows
    that are split off or held out are chosen by a hash of it, so no group is on both sides."""
    quoting: Literal["auto", "quoted", "raw"] = "auto"
    """TSV only: quote marks delimit fields (quoted) or belong to the text (raw, as in GLUE); auto
    decides by the file."""
    header: bool = True
    """CSV and TSV only: the first line has the names of the columns. With --no-data.header it is a
    row, and the columns are called 1, 2, 3, …"""
    encoding: Annotated[str, AfterValidator(_text_encoding)] = "utf-8"
    """Encoding of text files, such as cp1252 (Western Windows), latin-1 or gb18030."""
    task: str | None = None
    """Name of a known task, which sets the metrics (see `layermix list`). By default guessed from
    the path."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Longest input in tokens; longer texts are cut. By default chosen from the data."""
    train_rows: Positive | None = None
    """Use only this many training rows, chosen by a hash of the text: the same rows for every
    seed."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.path is not None and self.train is not None:
            raise ValueError("path and train contradict each other; give one of them")
        single = self.train or (self.path and Path(self.path).suffix)
        if not single and (self.validation or self.test):
            raise ValueError(
                "validation and test files need a training file; give it as train, or as path"
            )
        return self


class MixConfig(OneWord):
    """The mix of teacher layers that each student layer learns from (equations 1 and 2)."""

    strategy: MixName = "learned"
    """How α, the weights of the mix, is set; `layermix list` explains each way."""
    teacher_layers: Integers | None = None
    """Teacher blocks to mix, counted from 0, such as 2,5,8,11. By default the teacher's blocks are
    split into as many equal groups as the student has layers, and the last of each group is used.
    """
    student_layers: Integers | None = None
    """Student blocks that learn from the mix, counted from 0. By default all."""
    weights: Rows | None = None
    """Your own α: one row per student layer, one weight per teacher layer, such as
    "0.9,0.1; 0.5,0.5"; each row sums to 1. `fixed` keeps it, `learned` starts from it."""
    start: Literal["uniform", "diagonal"] = "uniform"
    """Where a learned α starts: equal weights (uniform), or weight 0.9 where `fixed` has 1
    (diagonal)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of s, the logits of a learned α; s has no weight decay."""
    schedule: Literal["same", "constant"] = "same"
    """Learning-rate schedule of s: the same as the student's, or constant."""

    @model_validator(mode="after")
    def _weights_are_distributions(self) -> Self:
        if self.weights is None:
            return self
        if self.strategy not in ("fixed", "learned"):
            raise ValueError(f"weights need the strategy fixed or learned, found {self.strategy}")
        for number, row in enumerate(self.weights):
            if abs(sum(row) - 1) > WEIGHT_ROUNDING:
                raise ValueError(f"weights of row {number} sum to {sum(row):g}, wanted 1")
            if self.strategy == "learned" and min(row) == 0:
                raise ValueError(
                    f"a weight of row {number} is 0; a learned α cannot start from 0, so give a "
                    "small weight"
                )
        return self


class LabelLossConfig(Section):
    """The loss on the labels, L_sup."""

    class_weights: ClassWeights | None = None
    """Weights of the classes in L_sup, for classes of unequal size: balanced (a class with half as
    many rows counts twice as much; the mean over the rows is 1), or by name, such as bad=2,good=1.
    A class that is not named has weight 1."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a label's weight that is spread evenly over all classes, such as 0.1."""


class AnswerLossConfig(LabelLossConfig):
    """The losses on answers, L_sup and L_logit."""

    supervised_weight: Weight = 1.0
    """Weight of L_sup, the loss on the labels."""
    supervised: SupervisedLoss | None = None
    """Formula of L_sup. By default the one for the kind of label: cross_entropy (one class), bce
    (several labels, or a number from 0 to 1), mse (a number)."""
    logit_weight: Weight = 1.0
    """λ_logit, the weight of L_logit, the loss between student and teacher logits."""
    logit: LogitLoss | None = None
    """Formula of L_logit; `layermix list` explains each one. By default the one for the kind of
    label: soft_cross_entropy (one class), bce (several labels, or a number from 0 to 1), mse (a
    number)."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature T: L_logit divides all logits by T; the loss is multiplied by T²."""


class LayerLossConfig(Section):
    """The losses between layers, L_hid, L_emb, L_att and L_ent; weight 0 switches a term off."""

    hidden_weight: Weight = 1.0
    """λ_hid, the weight of L_hid, the loss between student hidden states and the mix."""
    hidden: HiddenReduction = "mean"
    """How L_hid averages the squared difference (equation 3); `layermix list` explains each
    way."""
    embedding_weight: Weight = 0.0
    """Weight of the loss between the embedding outputs (as in TinyBERT)."""
    attention_weight: Weight = 0.0
    """λ_att, the weight of L_att, the loss between attention scores before the softmax; layers are
    paired as by `fixed`. Above 0, the teacher runs on every batch."""
    attention: AttentionReduction = "mean"
    """How L_att averages the squared difference; `layermix list` explains each way."""
    attention_heads: Literal["matched", "averaged"] = "matched"
    """L_att compares head by head (matched), or the means over heads (averaged), which unequal
    numbers of heads need."""
    entropy_weight: float = 0.1
    """β of L_ent = −β Σ_k H(α_k), the entropy of a learned α: positive keeps α spread out,
    negative sharpens it."""
    projection: Literal["shared", "per_layer"] = "shared"
    """The projection P from the student's to the teacher's hidden size (equation 3): one matrix for
    all student layers, or one per layer."""
    projection_bias: bool = False
    """Give P a bias."""
    projection_start: Literal["auto", "identity", "random", "fitted"] = "auto"
    """Start of P: identity (needs equal hidden sizes; suits copied blocks), random, fitted (least
    squares on some training rows, for the student as it is), or auto: for a student that starts
    from its narrowed teacher the way back to the teacher's width, else identity if the hidden sizes
    are equal, else random."""


class LossConfig(LayerLossConfig, AnswerLossConfig):
    """The terms of the loss (equation 4) and their weights; weight 0 switches a term off."""

    @property
    def asks_teacher(self) -> bool:
        """Whether any term looks at the teacher."""
        return bool(
            self.logit_weight
            or self.hidden_weight
            or self.embedding_weight
            or self.attention_weight
        )


class TrainingConfig(Section):
    """Training: optimisation, choice of the reported epoch, logs and checkpoints."""

    epochs: Positive = 10
    """Passes over the training rows."""
    batch_size: Positive = 16
    """Rows per forward pass in training."""
    eval_batch_size: Positive = 32
    """Rows per forward pass in evaluation."""
    batching: Literal["by_length", "random"] = "by_length"
    """by_length: batches of rows of similar length, which need less padding. random: batches of
    random rows."""
    unlabeled_share: Fraction | None = None
    """Share of the rows of an epoch that have no label (data.unlabeled, data.augment), such as
    0.75, or all of them if that is fewer; each epoch takes the next ones. By default every epoch
    has all of them; those that `augment: auto` made have a share of 0.75."""
    padding: Literal["batch", "max_length"] = "batch"
    """Pad rows to the longest row of their batch (batch), or all rows to data.max_length, as
    TinyBERT's code does: slower, and the losses called tinybert_mean then average over a fixed
    length."""
    precision: Precision = "auto"
    """Precision of matrix products: fp32, bf16 (bfloat16 autocast; weights, mix and losses stay
    float32), or auto: bf16 where the hardware supports it."""
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that pad rows and read the teacher's stored signals ahead of the step; 0 does both
    within the step. The result is the same."""
    accumulation: Positive = 1
    """Number of batches whose gradients are added up for one optimiser step."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-5
    """Peak learning rate of the student and of P."""
    warmup: Annotated[float, Field(ge=0)] = 0.1
    """Warmup: a number of steps, or, below 1, a share of all steps."""
    schedule: Literal["linear", "constant"] = "linear"
    """Learning rate after the warmup: falls linearly to 0, or stays constant."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of AdamW; biases, norms and s have none."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; larger gradients are scaled down. 0: no limit."""
    selection: Literal["none", "holdout"] = "none"
    """none: train on all rows; report the last epoch and, as the paper does, the best on the
    validation rows (`last`, `best_on_dev`). holdout: keep rows out of training, choose the epoch
    by them (of equal ones that with the lowest cross-entropy), save it, and report `last` and
    `selected`."""
    holdout_fraction: Fraction = 0.1
    """Share of the training rows that `selection: holdout` keeps out, chosen by a hash of the
    text (of the group, with data.group_column)."""
    patience: Positive | None = None
    """Stop when the score on the held-out rows has not risen for this many epochs. It needs
    selection: holdout; the learning rate is scheduled for all epochs."""
    log_every: Positive = 10
    """Steps between two lines in history.jsonl."""
    gradients_every: Annotated[int, Field(ge=0)] = 0
    """Steps between two measurements of each loss term's gradient norm, which go into the log. A
    measurement costs one backward pass per term; 0: none."""
    report_to: Trackers | None = None
    """Experiment trackers that receive the logs, α included. TensorBoard's files go into the run
    folder."""
    save_every: Positive = 200
    """Steps between two checkpoints; each epoch ends with one, too. --resume continues
    from the last one."""

    @model_validator(mode="after")
    def _patience_needs_held_out_rows(self) -> Self:
        if self.patience is not None and self.selection != "holdout":
            raise ValueError(
                "patience needs rows that are not trained on; add selection: holdout "
                "(--training.selection holdout), or leave patience out"
            )
        return self


class CacheConfig(Section):
    """The teacher cache: signals on disk, computed once per text, shared by all runs."""

    use: bool = True
    """Store the teacher's signals; otherwise the teacher runs on every batch."""
    folder: Source | None = None
    """The cache folder. By default $LAYERMIX_CACHE, or layermix/signals in your cache folder."""
    max_gb: Annotated[float, Field(ge=0)] = 50.0
    """Cache size limit in GB; if it is exceeded, the teacher runs on every batch."""
    layers: Literal["needed", "all"] = "needed"
    """needed: store the hidden states that this run asks for. all: of every teacher layer, where
    there is room, so that one pass of the teacher serves students of any depth and any mix."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Number format in which hidden states are stored."""
    precision: Precision = "auto"
    """Precision in which stored signals are computed; auto: bf16 where the hardware supports it and
    the teacher's predictions stay the same, else fp32. A live teacher uses training.precision,
    after the same check."""


class Run(Section):
    """Base of a whole config: accepts sections in short form, and starts from a preset."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        """The user's values merged over those that the config starts from."""
        if not isinstance(value, Mapping):
            return value
        given = spell_out(cls, value)
        return merge(cls.starts_from(given), given)

    @classmethod
    def starts_from(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Defaults that differ from the fields' own; `given` overrides them."""
        return {}


WAYS = ("model", "layers", "blocks", "hidden", "heads", "ffn")
"""Fields of the section student that each say what it is made of."""


class DistillConfig(Run):
    """One distillation: a teacher, a student, data, a mix, the losses, the training and a seed."""

    preset: PresetName = "default"
    """Defaults to start from: default (recommended), quick (labelled rows alone: fewer steps,
    unless rows are many), soft (probabilities alone; where the data have soft labels or you name
    several teachers, commands start from it), paper (the settings and student of the paper's
    Table 1) or tinybert (TinyBERT's settings in one stage). Your own settings override them."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of everything random: new weights, row order, dropout. Compare runs of the same seed."""
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    data: DataConfig = DataConfig()
    mix: MixConfig = MixConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    cache: CacheConfig = CacheConfig()

    @classmethod
    def starts_from(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The preset's values, without its student's model if yours is made of something else."""
        name = given.get("preset", "default")
        preset = (
            PRESETS.get(name, {}) if isinstance(name, str) else {}
        )  # an unknown name fails in validation
        student = given.get("student")
        if not isinstance(student, Mapping) or all(student.get(way) is None for way in WAYS):
            return preset
        own = {key: value for key, value in preset.get("student", {}).items() if key != "model"}
        return {**preset, "student": own}


def with_implied_preset(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is given for a distillation, with the preset `soft` unless there is one teacher.

    A preset that is named stays.

    Examples:
        >>> with_implied_preset({"teacher": {"model": "A"}}), with_implied_preset({"seed": 1})
        ({'teacher': {'model': 'A'}}, {'preset': 'soft', 'seed': 1})
    """
    teacher = given.get("teacher", {})
    named = teacher.get("model") if isinstance(teacher, Mapping) else None
    if "preset" in given or not (named is None or isinstance(named, str)):
        return given
    single = len(TeacherConfig.model_construct(model=named).models) == 1
    return given if single else {"preset": "soft", **given}


class TeachConfig(Run):
    """One fine-tuning of a teacher."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of everything random: the new head, row order and dropout."""
    model: Source | None = None
    """A pretrained encoder: a folder, a hub id, or `minilm`, the packaged MiniLM (extra `demo`)."""
    data: DataConfig = DataConfig()
    loss: LabelLossConfig = LabelLossConfig()
    training: TrainingConfig = TrainingConfig(epochs=3, learning_rate=5e-5)

    @classmethod
    def starts_from(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The defaults of `training`, kept where `given` sets only some of its keys."""
        return {"training": {"epochs": 3, "learning_rate": 5e-5}}


class PretrainTeacherConfig(OneWord):
    """The teacher: a pretrained encoder, fine-tuned or not; a head that it has is not used."""

    model: Source | None = None
    """A pretrained encoder: a folder, a hub id, or `minilm`, the packaged MiniLM (extra `demo`)."""


class CorpusConfig(OneWord):
    """The plain texts, without labels, that the student learns from."""

    files: Sources | None = None
    """Files and folders with texts, A,B: .txt, .md and .rst, or tables with a text column (.csv,
    .tsv, .jsonl, .parquet). Folders are searched with all that is in them."""
    documents: Literal["auto", "lines", "paragraphs"] = "auto"
    """What a document of a text file is: a line (lines), or the lines up to an empty one
    (paragraphs). auto: paragraphs where the first 1,000 lines have an empty line between others."""
    column: Annotated[str, Field(min_length=1)] | None = None
    """The text column of tables. By default found by common names, such as text."""
    encoding: Annotated[str, AfterValidator(_text_encoding)] = "utf-8"
    """Encoding of text files, such as cp1252 (Western Windows), latin-1 or gb18030."""
    tokens: Positive | None = None
    """Use the first so many tokens, without special tokens, and read no further."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Tokens of a row, with special tokens: the texts are cut into rows of this length."""
    held_out: Fraction = 0.01
    """Share of the rows that the student does not learn from, on which its loss is measured."""
    held_out_rows: Positive = 500
    """Most rows that are held out."""


class PretrainLossConfig(LayerLossConfig):
    """The losses between layers, and their weights; weight 0 switches a term off."""

    embedding_weight: Weight = 1.0
    """Weight of the loss between the embedding outputs (as in TinyBERT)."""
    relation_weight: Weight = 0.0
    """Weight of L_rel, the loss between self-attention relations (as in MiniLMv2): of the student's
    last layer and one of the teacher's. Above 0, the teacher runs on every batch."""
    relation_heads: Positive = 12
    """L_rel: relation heads, into which queries, keys and values are split anew; the widths of
    student and teacher must be multiples of it."""
    relation_layer: Annotated[int, Field(ge=0)] | None = None
    """L_rel: the teacher's block, counted from 0. By default the last one."""


class PretrainTrainingConfig(TrainingConfig):
    """Training: optimisation, measurements, logs and checkpoints."""

    measure_every: Positive = 500
    """Steps between two measurements of the loss on the held-out rows; each epoch ends with one."""

    @model_validator(mode="after")
    def _without_scores(self) -> Self:
        fields = TrainingConfig.model_fields
        changed = [name for name in SCORED if getattr(self, name) != fields[name].default]
        if changed:
            raise ValueError(
                f"{', '.join(changed)}: pretraining has no labels and no scores to choose by; "
                "leave it out"
            )
        return self


SCORED = ("unlabeled_share", "padding", "selection", "holdout_fraction", "patience")
"""Fields of the section training that need labels, or rows of different lengths."""


class PretrainConfig(Run):
    """One general distillation: a student learns a teacher's hidden states on unlabelled texts."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of everything random: new weights, row order, dropout."""
    teacher: PretrainTeacherConfig = PretrainTeacherConfig()
    student: StudentConfig = StudentConfig()
    texts: CorpusConfig = CorpusConfig()
    mix: MixConfig = MixConfig(strategy="fixed")
    loss: PretrainLossConfig = PretrainLossConfig()
    training: PretrainTrainingConfig = PretrainTrainingConfig(
        epochs=3, batch_size=32, learning_rate=5e-4
    )
    cache: CacheConfig = CacheConfig(use=False)

    @classmethod
    def starts_from(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The defaults of sections, kept where `given` sets only some of their keys."""
        return {
            "mix": {"strategy": "fixed"},
            "training": {"epochs": 3, "batch_size": 32, "learning_rate": 5e-4},
            "cache": {"use": False},
        }

    @model_validator(mode="after")
    def _without_a_task(self) -> Self:
        if self.student.vocabulary is not None:
            raise ValueError(
                "student.vocabulary trims to the words of a task; leave it out here, and give it "
                "to `distill` with the pretrained student"
            )
        return self

    def distillation(self) -> DistillConfig:
        """Return mix, losses between layers, training and cache as those of a distillation."""
        own = set(PretrainLossConfig.model_fields) - set(LayerLossConfig.model_fields)
        loss = LossConfig(supervised_weight=0, logit_weight=0, **self.loss.model_dump(exclude=own))
        return DistillConfig(
            seed=self.seed,
            mix=self.mix,
            loss=loss,
            training=TrainingConfig.model_validate(
                self.training.model_dump(exclude={"measure_every"})
            ),
            cache=self.cache,
        )


class AuditConfig(TeachConfig):
    """One audit of labels: a model is fine-tuned once for each fold."""

    folds: Annotated[int, Field(ge=2, le=100)] = 5
    """Parts of the training rows. The rows of each part are judged by a model that was fine-tuned
    on the other parts."""


# -- merging, and what a config is made of ---------------------------------------------------------


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested dictionaries; the second one wins, neither is changed.

    Examples:
        >>> merge({"mix": {"strategy": "fixed"}, "seed": 1}, {"mix": {"start": "diagonal"}})
        {'mix': {'strategy': 'fixed', 'start': 'diagonal'}, 'seed': 1}
    """
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]  # see `both`
    return merged


def spell_out(kind: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """All sections as dictionaries that can be merged, without empty ones.

    Examples:
        >>> spell_out(DistillConfig, {"mix": "fixed", "data": None, "loss": LossConfig(logit="kl")})
        {'mix': {'strategy': 'fixed'}, 'loss': {'logit': 'kl'}}
    """
    sections = section_kinds(kind)
    spelled: dict[str, Any] = {}
    for key, value in given.items():
        section = sections.get(key)
        if section is None:
            spelled[key] = value
        elif isinstance(value, BaseModel):
            spelled[key] = value.model_dump(exclude_unset=True)
        elif isinstance(value, str | Path) and issubclass(section, OneWord):
            spelled[key] = {next(iter(section.model_fields)): str(value)}
        elif value is not None:
            spelled[key] = value
    return spelled


def section_kinds(kind: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Name -> class of every section."""
    return {
        name: field.annotation
        for name, field in kind.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }


def field_names(kind: type[BaseModel]) -> dict[str, FieldInfo]:
    """Dotted name -> pydantic field, for every field that holds a value (not a section)."""
    sections = section_kinds(kind)
    fields: dict[str, FieldInfo] = {}
    for name, field in kind.model_fields.items():
        if name in sections:
            inner = sections[name].model_fields
            fields |= {f"{name}.{key}": value for key, value in inner.items()}
        else:
            fields[name] = field
    return fields
