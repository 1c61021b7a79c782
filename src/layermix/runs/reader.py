"""A run folder as it lies on disk: finished, going on, failed or damaged, and what is missing."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from layermix.errors import ReportError
from layermix.evaluation.predictions import Answers, put_together, read_rows
from layermix.runs.layout import BENCH, CONFIG, ENVIRONMENT, HISTORY, PREDICTIONS, RESULT, TEXTS

Status = Literal["ok", "failed", "cancelled", "unfinished"]
Texts = Mapping[int, tuple[str, ...]]
Line = Mapping[str, Any]
UNREADABLE = (OSError, pa.ArrowException, KeyError, ValueError)
"""How reading a damaged file can fail."""


class _Line(BaseModel):
    """A line of history.jsonl: numbers by name, and α."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, float | list[float] | None]

    step: int
    epoch: float | None = None
    alpha: list[list[float]] | None = None

    @field_validator("alpha")
    @classmethod
    def _rectangular(cls, rows: list[list[float]] | None) -> list[list[float]] | None:
        if rows is not None and len({len(row) for row in rows}) != 1:
            raise ValueError("rows of different lengths")
        return rows


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Side(_Record):
    """Teacher or student as result.json has it."""

    place: str | None = Field(None, alias="from")
    parameters: int | None = None
    bytes_on_disk: int | None = None
    classes: list[str] = []
    metrics: dict[str, dict[str, Any]] = {}

    def score(self, metric: str) -> float | None:
        """On the validation rows."""
        return _number(self.metrics.get("validation", {}).get(metric))


class Mix(_Record):
    """Which layers took part."""

    student_layers: list[int] = []
    teacher_layers: list[int] = []


class Source(_Record):
    """Where the data came from."""

    place: str = Field("a run", alias="from")


class Timings(_Record):
    """What took how long."""

    milliseconds_per_text: dict[str, float] = {}


class Record(_Record):
    """What a page needs of result.json."""

    status: Literal["ok", "failed", "cancelled"] | None = None
    error: str = "nothing is said of why"
    task: str | None = None
    metric: str = ""
    metrics: dict[str, dict[str, Any]] = {}
    teacher: Side = Side()
    student: Side | None = None
    mix: Mix | None = None
    notes: list[str] = []
    warnings: list[str] = []
    data: Source = Source.model_construct()
    timings: Timings = Timings()

    @property
    def reported(self) -> str:
        """The epoch that a page is about: the selected one, where one was."""
        return "selected" if "selected" in self.metrics else "last"

    def score(self, report: str, metric: str) -> float | None:
        """Of a reported epoch, on the validation rows."""
        return _number(self.scores(report).get("validation", {}).get(metric))

    def scores(self, report: str) -> dict[str, Mapping[str, Any]]:
        """Split -> scores of a reported epoch."""
        found = self.metrics.get(report, {})
        return {split: one for split, one in found.items() if isinstance(one, Mapping)}


class Faster(_Record):
    """How many times as fast as the first model, over rounds."""

    median: float
    low: float
    high: float


class SpeedRow(_Record):
    """One model as one of the runtimes runs it."""

    name: str
    parameters: int | None
    bytes: int
    median_ms: float
    p95_ms: float
    texts_per_second: float
    times_as_fast: dict[str, Faster]


class Speed(_Record):
    """What bench.json holds."""

    models: list[SpeedRow] = Field(min_length=1)
    rows: str
    mean_tokens: float
    rounds: int
    batch_size: int
    threads: int
    processor: str


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def read_texts(file: Path, told: list[str]) -> Texts:
    """row_id -> text, or text and text_pair; empty if there is no such file, or it is damaged.

    Args:
        file: texts.parquet.
        told: Gets a sentence if it is damaged.
    """
    if not file.is_file():
        return {}
    try:
        rows = pq.read_table(file).to_pydict()
        ids = rows.pop("row_id")
        return dict(zip(ids, zip(*rows.values(), strict=True), strict=True))
    except (*UNREADABLE, TypeError) as error:
        told.append(f"{file.name} is damaged ({short(error)})")
        return {}


def both_names(folder: Path) -> tuple[Path, Path]:
    """A run folder's final name, and the one it has while it works, whichever is given."""
    final = folder.absolute().with_name(folder.absolute().name.removesuffix(".partial"))
    return final, final.with_name(f"{final.name}.partial")


class RunFiles:
    """What can be read of a run folder.

    Args:
        folder: The run folder, finished or not; `NAME` stands for `NAME.partial` while it works.

    Attributes:
        folder: Where the files are.
        missing: What is missing or damaged, in sentences; empty for a run that still goes on.
        history: Lines of history.jsonl.
        result: What of result.json can be read.
        environment: environment.json.
        config: config.yaml as text.

    Raises:
        ReportError: If it is no run folder.
    """

    def __init__(self, folder: Path) -> None:
        final, partial = both_names(folder)
        self.name = final.name
        self.folder = final if final.is_dir() or not partial.is_dir() else partial
        if not any((self.folder / name).is_file() for name in (CONFIG, RESULT, HISTORY)):
            older = (folder / "cells").is_dir() or any(folder.glob("*.declared.json"))
            raise ReportError(
                f"{folder}: no run and no study; wanted a folder that `layermix teach`, `distill`, "
                "`study` or `reproduce` has made"
                + "; its cells are from an older version: give the study's own command again, "
                "which writes the plan that a page needs, and runs no finished cell again" * older
            )
        self.missing: list[str] = []
        self.result = self._record(self._json(RESULT))
        self.environment = self._json(ENVIRONMENT)
        self.config = self._text(CONFIG)
        self.history = self._history()

    @property
    def is_working(self) -> bool:
        """Whether the folder has its working name, so that it is normal that files are missing."""
        return self.folder.suffix == ".partial"

    @property
    def status(self) -> Status:
        """How the run ended, or that it has not."""
        return self.result.status or "unfinished"

    def answers(self, report: str) -> Answers | None:
        """The answers of a reported epoch, if they can be read."""
        file = self.folder / PREDICTIONS
        if not file.is_file():
            self._absent(PREDICTIONS)
            return None
        try:
            return put_together([read_rows(file)], report)
        except (*UNREADABLE, TypeError) as error:
            self.missing.append(f"{PREDICTIONS} is damaged ({short(error)})")
            return None

    @cached_property
    def texts(self) -> Texts:
        """row_id -> texts of the validation rows."""
        return read_texts(self.folder / TEXTS, self.missing)

    @cached_property
    def speed(self) -> Speed | None:
        """What `layermix bench` has measured, if it has been called."""
        if not (self.folder / BENCH).is_file():
            return None
        try:
            return Speed.model_validate(self._json(BENCH))
        except ValidationError as error:
            self.missing.append(f"{BENCH} is damaged ({short(error)})")
            return None

    def _absent(self, name: str) -> None:
        if not self.is_working:
            self.missing.append(f"{name} is not there")

    def _text(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            self._absent(name)
            return ""

    def _json(self, name: str) -> Mapping[str, Any]:
        text = self._text(name)
        if not text:
            return {}
        try:
            found = json.loads(text)
        except ValueError as error:
            self.missing.append(f"{name} is damaged ({short(error)})")
            return {}
        if not isinstance(found, dict):
            self.missing.append(f"{name} is damaged (not an object)")
            return {}
        return found

    def _record(self, found: Mapping[str, Any]) -> Record:
        """What has the shape that a run writes; the rest is told and left out."""
        try:
            return Record.model_validate(found)
        except ValidationError as error:
            wrong = {str(problem["loc"][0]) for problem in error.errors()}
            told = ", ".join(sorted(wrong))
            self.missing.append(f"{RESULT}: not what a run writes, so left out: {told}")
            return Record.model_validate({k: v for k, v in found.items() if k not in wrong})

    def _history(self) -> list[Line]:
        lines: list[Line] = []
        bad = 0
        written = self._text(HISTORY).splitlines(keepends=True)
        for line in written:
            try:
                lines.append(_Line.model_validate_json(line).model_dump(exclude_none=True))
            except ValidationError:
                bad += line.endswith("\n") or not self.is_working  # one is written just now
        if bad:
            self.missing.append(f"{bad} lines of {HISTORY} are damaged and left out")
        return lines


def short(error: Exception) -> str:
    """The first line of what it says."""
    return str(error).partition("\n")[0][:200] or type(error).__name__
