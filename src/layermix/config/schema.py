"""The sections and fields of a run's configuration: names, types, defaults and help texts.

A field's docstring is its help text on the command line, in the JSON schema and in the docs.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo

from layermix.config.presets import PRESETS


def _split_commas(value: Any) -> Any:
    """`"0,1,2"` as typed on a command line -> `["0", "1", "2"]`; one number -> a list of it."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _split_rows(value: Any) -> Any:
    """`"0.9,0.1; 0.5,0.5"` as typed on a command line -> rows of texts."""
    if isinstance(value, str):
        return [_split_commas(row) for row in value.split(";")]
    return value


def _expand(value: str, info: ValidationInfo) -> str:
    """Expand `~` and `$VARIABLE`; an unset variable is an error, never an empty string.

    With `context={"expand": False}` a place stays as it was written.
    """
    if info.context is not None and not info.context.get("expand", True):
        return value
    expanded = os.path.expandvars(os.path.expanduser(value))
    if unset := re.search(r"\$(\w+|\{\w+\})", expanded):
        raise ValueError(f"the environment variable {unset.group().strip('${}')} is not set")
    return expanded


Source = Annotated[str, Field(min_length=1), AfterValidator(_expand)]
"""A path or hub name as text, with `~` and `$VARIABLE` expanded."""
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
Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]

WEIGHT_ROUNDING = 0.02
"""How far from 1 a row of weights typed with few digits may sum; it is scaled to 1."""

# The names of each table in core/, in its order; a test compares them.
MixName = Literal["fixed", "uniform", "learned", "reverse", "all_to_one", "last_only", "random"]
HiddenReduction = Literal["mean", "token_norm", "literal_sum", "tinybert_mean"]
LogitLoss = Literal["soft_cross_entropy", "tinybert_mean", "kl", "mse"]
SupervisedLoss = Literal["cross_entropy", "mse", "bce"]
PresetName = Literal["default", "paper", "tinybert"]
Precision = Literal["auto", "fp32", "bf16"]


class Section(BaseModel):
    """Frozen, strict about unknown keys; a field's docstring is its help text everywhere."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class OneWord(Section):
    """A section that may be written as the value of its first field: `mix: fixed`."""


class TeacherConfig(OneWord):
    """The teacher: a fine-tuned encoder whose signals the student learns from."""

    model: Source | None = None
    """Folder or hub id of a fine-tuned sequence classifier, or a run folder made by `teach`."""
    allow_weak: bool = False
    """Go on although the teacher does not beat always answering the commonest class."""


class StudentConfig(OneWord):
    """The student: copied blocks of the teacher, a model as it is, or a fresh one."""

    model: Source | None = None
    """Folder or hub id of a model taken as it is (a new head is made if it has none for the task).
    """
    layers: Positive | None = None
    """Number of blocks; alone, the teacher's first ones are copied (default: half of them)."""
    blocks: Integers | None = None
    """Which teacher blocks to copy, counted from 0, such as 0,1,2."""
    hidden: Positive | None = None
    """Hidden size of a fresh student with the teacher's vocabulary."""
    heads: Positive | None = None
    """Attention heads of a fresh student."""
    ffn: Positive | None = None
    """Width of the feed-forward layers of a fresh student."""

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes given for a fresh student, without `layers`."""
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
        if len(given) > 1 and not (self.sizes and given[0] == "layers"):
            raise ValueError(
                f"{' and '.join(given)} contradict each other; give a model, or blocks, or layers "
                "(blocks copied from the teacher), or layers with hidden, heads, ffn (a fresh one)"
            )
        return self


class DataConfig(OneWord):
    """The texts and labels."""

    path: Source | None = None
    """Folder with train and validation (TSV, CSV, JSONL, Parquet), one such file, a saved
    `datasets` folder, or a hub data set such as glue:mrpc."""
    train: Source | None = None
    """A single training file, instead of a folder."""
    validation: Source | None = None
    """A single validation file; without one, a tenth of the training rows is split off."""
    test: Source | None = None
    """A single test file, evaluated once at the end."""
    unlabeled: Source | None = None
    """A file of texts without labels; the teacher's terms apply to them, the supervised one does
    not."""
    text_columns: Annotated[Words, Field(max_length=2)] | None = None
    """One or two text columns; found by their usual names if not given."""
    label_column: Annotated[str, Field(min_length=1)] | None = None
    """The label column; found by its usual name if not given."""
    quoting: Literal["auto", "quoted", "raw"] = "auto"
    """TSV only: whether quote marks delimit fields (quoted) or are text (raw, as in GLUE)."""
    task: str | None = None
    """Name of a known task, for its metrics (see `layermix list`); found from the path if not
    given."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Longest input in tokens; longer ones are cut. Chosen from the data if not given."""
    train_rows: Positive | None = None
    """Use only this many training rows, drawn by a hash of their text (the same rows for every
    seed)."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.path is not None and self.train is not None:
            raise ValueError("path and train contradict each other; give a folder or single files")
        single = self.train or (self.path and Path(self.path).suffix)
        if not single and (self.validation or self.test):
            raise ValueError(
                "validation and test files need a training file beside them; give it as train, or "
                "as path"
            )
        return self


class MixConfig(OneWord):
    """How teacher layers are mixed for each student layer: equations (1) and (2)."""

    strategy: MixName = "learned"
    """The way to set α; `layermix list` says what each one does."""
    teacher_layers: Integers | None = None
    """Teacher blocks to mix, counted from 0 (the paper: 2,5,8,11); by default the last of each of K
    equal groups."""
    student_layers: Integers | None = None
    """Student blocks that are taught, counted from 0; by default all."""
    weights: Rows | None = None
    """α by hand, rows of student layers such as "0.9,0.1; 0.5,0.5", each summing to 1: in place of
    the map with `fixed`, or where a `learned` α starts."""
    start: Literal["uniform", "diagonal"] = "uniform"
    """Where a learned α starts: s = 0, or near the fixed map (α = 0.9 there)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of the mix logits s; they have no weight decay."""
    schedule: Literal["same", "constant"] = "same"
    """Learning-rate schedule of s: the student's, or constant."""

    @model_validator(mode="after")
    def _weights_are_distributions(self) -> Self:
        if self.weights is None:
            return self
        if self.strategy not in ("fixed", "learned"):
            raise ValueError(f"weights go with the strategy fixed or learned, not {self.strategy}")
        for number, row in enumerate(self.weights):
            if abs(sum(row) - 1) > WEIGHT_ROUNDING:
                raise ValueError(f"weights of row {number} sum to {sum(row):g}, wanted 1")
            if self.strategy == "learned" and min(row) == 0:
                raise ValueError(
                    f"a weight of row {number} is 0, from where a learned α cannot start; give it "
                    "a small one"
                )
        return self


class LossConfig(Section):
    """The weights and kinds of the terms of equation (4); a term of weight 0 is not built."""

    supervised_weight: Weight = 1.0
    """Weight of L_sup, the loss on the labels."""
    supervised: SupervisedLoss = "cross_entropy"
    """L_sup: cross entropy (classes), mse (regression) or bce (multi-label)."""
    logit_weight: Weight = 1.0
    """λ_logit, the weight of L_logit."""
    logit: LogitLoss = "soft_cross_entropy"
    """L_logit: how the student's logits follow the teacher's."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature T of L_logit; the loss is multiplied by T²."""
    hidden_weight: Weight = 1.0
    """λ_hid, the weight of L_hid."""
    hidden: HiddenReduction = "mean"
    """L_hid: how the squared difference of equation (3) is reduced."""
    embedding_weight: Weight = 0.0
    """Weight of the same loss between the embedding outputs (the fifth pair of TinyBERT)."""
    attention_weight: Weight = 0.0
    """λ_att, the weight of L_att between attention scores before the softmax, layer by layer as
    `fixed` maps them. The teacher then runs on every batch."""
    attention_heads: Literal["matched", "averaged"] = "matched"
    """L_att: head by head, or the mean over heads (for unequal numbers of heads)."""
    entropy_weight: float = 0.1
    """β of L_ent = −β Σ_k H(α_k): positive keeps a learned α from collapsing, negative sharpens it.
    """
    projection: Literal["shared", "per_layer"] = "shared"
    """P of equation (3): one matrix for all student layers, or one each."""
    projection_bias: bool = False
    """Whether P has a bias."""
    projection_start: Literal["auto", "identity", "random"] = "auto"
    """Where P starts: identity needs equal widths, and leaves copied blocks what they know; auto is
    identity where the widths are equal, else random."""

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
    """Optimisation, selection of the reported epoch, and saving."""

    epochs: Positive = 10
    """Passes over the training rows."""
    batch_size: Positive = 16
    """Rows per forward pass in training."""
    eval_batch_size: Positive = 32
    """Rows per forward pass in evaluation."""
    batching: Literal["by_length", "random"] = "by_length"
    """by_length: rows of similar length together, so less is padded. random: batches as drawn."""
    precision: Precision = "auto"
    """Of the matrix products: bf16 (bfloat16 autocast; weights, mix and losses stay float32), fp32,
    or auto: bf16 where the machine has instructions for it."""
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that pad rows and read the teacher's stored signals ahead of the step; 0 does both
    within the step. The result is the same."""
    accumulation: Positive = 1
    """Batches whose gradients are added up before a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-5
    """Peak learning rate of the student and of P."""
    warmup: Annotated[float, Field(ge=0)] = 0.1
    """Warmup steps; below 1, the share of all steps."""
    schedule: Literal["linear", "constant"] = "linear"
    """After the warmup: linear to 0, or constant."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay (none on biases, norms and s)."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are clipped to this norm; 0 switches it off."""
    selection: Literal["none", "holdout"] = "none"
    """none: train on all rows, report `last` and `best_on_dev` (the paper's). holdout: keep rows
    out of training to choose the epoch, report `last` and `selected`."""
    holdout_fraction: Fraction = 0.1
    """Share of the training rows that `selection: holdout` keeps out, chosen by a hash of their
    text."""
    log_every: Positive = 10
    """Steps between two lines of history.jsonl."""
    gradients_every: Annotated[int, Field(ge=0)] = 0
    """Steps between two measurements of how large each part's gradient on the student is, which
    cost a backward pass per part; 0 measures nothing. The last ones are logged."""
    report_to: Trackers | None = None
    """Experiment trackers that get the logs, α included, as they are made; TensorBoard's files go
    into the run folder."""
    save_every: Positive = 200
    """Steps between two checkpoints within an epoch; there is one after every epoch as well."""


class CacheConfig(Section):
    """The teacher's signals on disk: computed once per text, shared by all runs on the machine."""

    use: bool = True
    """Keep them; otherwise the teacher runs on every batch."""
    folder: Source | None = None
    """Where (default: $LAYERMIX_CACHE, or layermix/signals in the user's cache folder)."""
    max_gb: Annotated[float, Field(ge=0)] = 50.0
    """Most space, in GB, that the folder may take; what does not fit is computed on every batch."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """How hidden states are stored."""
    precision: Precision = "auto"
    """How they are computed; auto: bf16 where the machine has instructions for it and the teacher's
    predictions stay the same."""


class Run(Section):
    """What a whole config has beyond its fields: sections in short, and values to start from."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        """Put what the user says over what it starts from."""
        if not isinstance(value, Mapping):
            return value
        given = spell_out(cls, value)
        return merge(cls.starts_from(given), given)

    @classmethod
    def starts_from(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values for what `given` does not say, where they are not the fields' own defaults."""
        return {}


class DistillConfig(Run):
    """One distillation: a teacher, a student, data, a mix, the losses, the training and a seed."""

    preset: PresetName = "default"
    """Values to start from: default (the recipe of docs/choosing.md), paper (its Table 1 and
    student) or tinybert (its recipe in a single stage). A student of your own replaces the
    preset's."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Fixes the start of new weights, the row order and dropout; arms that share it are paired."""
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    data: DataConfig = DataConfig()
    mix: MixConfig = MixConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    cache: CacheConfig = CacheConfig()

    @classmethod
    def starts_from(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The preset; its student only if the user describes none, since the two would mix."""
        name = given.get("preset", "default")
        preset = PRESETS.get(name, {}) if isinstance(name, str) else {}  # a wrong one is told later
        return {
            key: value
            for key, value in preset.items()
            if key != "student" or "student" not in given
        }


class TeachConfig(Run):
    """One fine-tuning of a teacher."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Fixes the start of the head, the row order and dropout."""
    model: Source | None = None
    """Folder or hub id of a pretrained encoder; `minilm` is the packaged MiniLM (extra `demo`)."""
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig(epochs=3, learning_rate=5e-5)

    @classmethod
    def starts_from(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The defaults of `training`, which a section with other keys keeps."""
        return {"training": {"epochs": 3, "learning_rate": 5e-5}}


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
    """Sections as dictionaries, so that they can be merged; those that say nothing are left out.

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
