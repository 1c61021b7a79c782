"""A run folder as it lies on disk: finished, going on, failed or damaged, and what is missing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from layermix.errors import ReportError
from layermix.folder import CONFIG, ENVIRONMENT, HISTORY, PREDICTIONS, RESULT, TEXTS

Status = Literal["ok", "failed", "cancelled", "unfinished"]
Texts = Mapping[int, tuple[str, ...]]
Line = Mapping[str, Any]
_LINE = TypeAdapter(dict[str, int | float | list[float] | list[list[float]] | None])


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Side(_Record):
    """Teacher or student as result.json has it."""

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

    status: str | None = None
    error: str = "nothing is said of why"
    task: str | None = None
    metric: str = ""
    metrics: dict[str, dict[str, Any]] = {}
    teacher: Side = Side()
    student: Side | None = None
    mix: Mix | None = None
    formula: str | None = None
    notes: list[str] = []
    data: Source = Source.model_construct()
    timings: Timings = Timings()

    def score(self, report: str, metric: str) -> float | None:
        """Of a reported epoch, on the validation rows."""
        return _number(self.scores(report).get("validation", {}).get(metric))

    def scores(self, report: str) -> dict[str, Mapping[str, Any]]:
        """Split -> scores of a reported epoch."""
        found = self.metrics.get(report, {})
        return {split: one for split, one in found.items() if isinstance(one, Mapping)}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True)
class Answers:
    """What a student answered on the validation rows, for one seed or several.

    Attributes:
        row_ids: (N,).
        labels: (N,), −100 where a row has none.
        predicted: (S, N), class indices.
        confidence: (S, N), the probability of the answer.
        teacher: (N,), its answers, or None if they are not on record.
        teacher_confidence: (N,), or None.
    """

    row_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    teacher: NDArray[np.int64] | None
    teacher_confidence: NDArray[np.float64] | None

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,), rows that have a label."""
        return self.labels >= 0


def read_answers(files: Sequence[Path], report: str) -> Answers | None:
    """The answers of one reported epoch.

    Args:
        files: predictions.parquet of every seed.
        report: `last`, `best_on_dev` or `selected`.

    Returns:
        None if the epoch was not reported, or the files have different rows.

    Raises:
        OSError, ArrowException, KeyError: If a file is damaged.
    """
    found = [_one_report(pq.read_table(file), report) for file in files]
    first = found[0]
    if not len(first["row_id"]) or any(
        not np.array_equal(first[name], other[name])
        for other in found[1:]
        for name in ("row_id", "label")
    ):
        return None
    confidences = [
        np.max([values for name, values in one.items() if name.startswith("p_")], axis=0)
        for one in found
    ]
    return Answers(
        first["row_id"],
        first["label"],
        np.stack([one["prediction"] for one in found]),
        np.stack(confidences),
        first.get("teacher"),
        first.get("teacher_confidence"),
    )


def _one_report(table: pa.Table, report: str) -> dict[str, Any]:
    columns = {name: np.asarray(table[name]) for name in table.column_names}
    kept = columns.pop("report") == report
    order = columns["row_id"][kept].argsort()
    return {name: values[kept][order] for name, values in columns.items()}


def read_texts(file: Path) -> Texts:
    """row_id -> text, or text and text_pair; empty if there is no such file, or it is damaged."""
    try:
        rows = pq.read_table(file).to_pydict()
        ids = rows.pop("row_id")
    except (OSError, pa.ArrowException, KeyError):
        return {}
    return dict(zip(ids, zip(*rows.values(), strict=True), strict=True))


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
        partial = folder.with_name(f"{folder.name}.partial")
        self.name = folder.name.removesuffix(".partial")
        self.folder = partial if not folder.is_dir() and partial.is_dir() else folder
        if not any((self.folder / name).is_file() for name in (CONFIG, RESULT, HISTORY)):
            raise ReportError(
                f"{folder}: no run and no study; wanted a folder that `layermix teach`, `distill`, "
                "`study` or `reproduce` has made"
            )
        self.missing: list[str] = []
        self.result = self._record(self._json(RESULT))
        self.environment = self._json(ENVIRONMENT)
        self.config = self._text(CONFIG)
        self.history = self._history()
        if self.is_working:
            self.missing.clear()

    @property
    def is_working(self) -> bool:
        """Whether the folder has its working name, so that it is normal that files are missing."""
        return self.folder.suffix == ".partial" and self.result.status is None

    @property
    def status(self) -> Status:
        """How the run ended, or that it has not."""
        found = self.result.status
        return found if found in ("ok", "failed", "cancelled") else "unfinished"  # type: ignore

    def answers(self, report: str) -> Answers | None:
        """The answers of a reported epoch, if they can be read."""
        file = self.folder / PREDICTIONS
        if not file.is_file():
            self._miss(f"{PREDICTIONS} is not there")
            return None
        try:
            return read_answers([file], report)
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            self._miss(f"{PREDICTIONS} is damaged ({_short(error)})")
            return None

    @cached_property
    def texts(self) -> Texts:
        """row_id -> texts of the validation rows."""
        return read_texts(self.folder / TEXTS)

    def _miss(self, what: str) -> None:
        if not self.is_working and what not in self.missing:
            self.missing.append(what)

    def _text(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            self.missing.append(f"{name} is not there")
            return ""

    def _json(self, name: str) -> Mapping[str, Any]:
        text = self._text(name)
        if not text:
            return {}
        try:
            found = json.loads(text)
        except ValueError as error:
            self.missing.append(f"{name} is damaged ({_short(error)})")
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
        for line in self._text(HISTORY).splitlines():
            try:
                lines.append(_LINE.validate_json(line))
            except ValidationError:
                bad += 1
        if bad and not self.is_working:  # a line half written is normal while it works
            self.missing.append(f"{bad} lines of {HISTORY} are damaged and left out")
        return lines


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
