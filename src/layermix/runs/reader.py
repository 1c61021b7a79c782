"""The run reader: reads a run folder, be it finished, working, failed or damaged."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator

from layermix.config import describe_problems
from layermix.errors import Note, ReportError
from layermix.evaluation.predictions import Predictions, combine, read_rows
from layermix.runs.layout import (
    BENCH,
    CONFIG,
    ENVIRONMENT,
    HISTORY,
    PARTIAL,
    PREDICTIONS,
    RESULT,
    TEXTS,
)
from layermix.runs.schema import BenchRecord, RunRecord, Status, read_text

Texts = Mapping[int, tuple[str, ...]]
Words = Mapping[int, Sequence[tuple[int, int]]]
Line = Mapping[str, Any]
WORDS = "words"
"""The column of texts.parquet that `Words` come from, as in `data.splits`, which needs torch."""
UNREADABLE = (OSError, pa.ArrowException, KeyError, ValueError)
"""The errors that reading a damaged file can raise."""


class HistoryLine(BaseModel):
    """A line of history.jsonl: numbers by name, α and its entropy."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, float | None]

    step: int | None = None
    epoch: float | None = None
    alpha: list[list[float]] | None = None
    entropy: list[float] | None = None

    @field_validator("alpha")
    @classmethod
    def _rectangular(cls, rows: list[list[float]] | None) -> list[list[float]] | None:
        if rows is not None and len({len(row) for row in rows}) != 1:
            raise ValueError("rows of different lengths")
        return rows


class _Step(HistoryLine):
    """A line that says at which step it was written."""

    step: int


_HISTORY = TypeAdapter(list[HistoryLine])


def read_history(file: Path) -> list[dict[str, Any]]:
    """The lines of history.jsonl.

    Raises:
        OSError: If it cannot be read.
        ValueError: If a line is not what a run writes, or there is none.
    """
    lines = _HISTORY.validate_json(f"[{','.join(read_text(file).splitlines())}]")
    if all(line.step is None for line in lines):
        raise ValueError(f"{file.name} has no step")
    return [line.model_dump(exclude_none=True) for line in lines]


def read_texts(file: Path, problems: list[Note]) -> Texts:
    """row_id -> text, or text and text_pair; empty if there is no such file, or it is damaged.

    Args:
        file: texts.parquet.
        problems: Gets a note if the file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        rows = pq.read_table(file).to_pydict()
        ids, _ = rows.pop("row_id"), rows.pop(WORDS, None)
        return dict(zip(ids, zip(*rows.values(), strict=True), strict=True))
    except (*UNREADABLE, TypeError) as error:
        problems.append(damaged(file.name, error))
        return {}


def read_words(file: Path, problems: list[Note]) -> Words:
    """row_id -> where its words are in its text; empty as `read_texts`, or without words.

    Args:
        file: texts.parquet.
        problems: Gets a note if the file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        if WORDS not in pq.read_schema(file).names:
            return {}
        rows = pq.read_table(file, columns=["row_id", WORDS]).to_pydict()
        spans = [list(zip(flat[::2], flat[1::2], strict=True)) for flat in rows[WORDS]]
        if not all(type(place) is int for of_row in spans for span in of_row for place in span):
            raise ValueError(f"the column {WORDS} holds values that are not places of characters")
        return dict(zip(rows["row_id"], spans, strict=True))
    except (*UNREADABLE, TypeError) as error:
        problems.append(damaged(file.name, error))
        return {}


def both_names(folder: Path) -> tuple[Path, Path]:
    """A run folder's final name and its name while the run works, from either of them."""
    final = folder.absolute().with_name(folder.absolute().name.removesuffix(PARTIAL))
    return final, final.with_name(f"{final.name}{PARTIAL}")


class RunFiles:
    """The files of a run folder, as far as they can be read.

    Args:
        folder: The run folder, finished or not; `NAME` stands for `NAME.partial` while it works.

    Attributes:
        folder: Where the files are.
        problems: A note on every file that is missing or damaged. Its code is `file-missing`,
            `file-damaged`, `fields-left-out` or `lines-left-out`. While the run works, it is
            normal that files are missing.
        history: Lines of history.jsonl.
        result: result.json, without the fields that cannot be read; if there is no such file, an
            unfinished record.
        environment: environment.json as text; empty if it cannot be read.
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
                f"{folder}: found no run and no study; wanted a folder that `layermix teach`, "
                "`distill`, `study` or `reproduce` has made"
                + "; its cells are from an older version: run the study's own command again. It "
                "writes the plan that a page needs, and does not repeat finished cells" * older
            )
        self.problems: list[Note] = []
        self.result = self._result()
        self.environment = self._environment()
        self.config = self._text(CONFIG)
        self.history = self._history()

    @property
    def is_working(self) -> bool:
        """Whether the folder has its working name: some files do not exist yet."""
        return self.folder.suffix == PARTIAL

    @property
    def is_pretraining(self) -> bool:
        """Whether it is a finished pretraining, whose record is another one."""
        return self.folder.is_dir() and bool(self._json(RESULT).get("pretrained"))

    @property
    def status(self) -> Status:
        """How the run ended, or `unfinished`."""
        return self.result.status

    def predictions(self, report: str) -> Predictions | None:
        """The predictions of a reported epoch, if they can be read."""
        file = self.folder / PREDICTIONS
        if not file.is_file():
            self._absent(PREDICTIONS)
            return None
        try:
            return combine([read_rows(file)], report)
        except (*UNREADABLE, TypeError) as error:
            self.problems.append(damaged(PREDICTIONS, error))
            return None

    @cached_property
    def texts(self) -> Texts:
        """row_id -> texts of the validation rows."""
        return read_texts(self.folder / TEXTS, self.problems)

    @cached_property
    def words(self) -> Words:
        """row_id -> where the words of a validation row are in its text, if each has a label."""
        return read_words(self.folder / TEXTS, self.problems)

    @cached_property
    def bench(self) -> BenchRecord | None:
        """bench.json, if there is one that can be read."""
        if not (self.folder / BENCH).is_file():
            return None
        try:
            return BenchRecord.from_json(self._text(BENCH))
        except ValidationError as error:
            self.problems.append(damaged(BENCH, error))
            return None

    def _absent(self, name: str) -> None:
        if not self.is_working:
            self.problems.append(Note("file-missing", f"{name} is missing"))

    def _text(self, name: str) -> str:
        try:
            return read_text(self.folder / name, errors="replace")
        except OSError:
            self._absent(name)
        except ValueError as error:
            self.problems.append(damaged(name, error))
        return ""

    def _json(self, name: str) -> Mapping[str, Any]:
        text = self._text(name)
        if not text:
            return {}
        try:
            values = json.loads(text)
            if not isinstance(values, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            self.problems.append(damaged(name, error))
            return {}
        return values

    def _result(self) -> RunRecord:
        """result.json; fields that are not what a run writes become problems."""
        values = self._json(RESULT)
        try:
            return RunRecord.from_json(json.dumps(values))
        except ValidationError as error:
            wrong = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
            if not wrong:  # no text that a run writes
                self.problems.append(damaged(RESULT, error))
                return RunRecord()
            text = f"{RESULT}: fields with values that no run writes were left out: "
            self.problems.append(Note("fields-left-out", text + ", ".join(sorted(wrong))))
            kept = {name: value for name, value in values.items() if name not in wrong}
            return RunRecord.from_json(json.dumps(kept))

    def _environment(self) -> str:
        values = self._json(ENVIRONMENT)
        return json.dumps(values, indent=2, ensure_ascii=False) if values else ""

    def _history(self) -> list[Line]:
        lines: list[Line] = []
        bad = 0
        written = self._text(HISTORY).splitlines(keepends=True)
        for line in written:
            try:
                lines.append(_Step.model_validate_json(line).model_dump(exclude_none=True))
            except ValidationError:
                bad += line.endswith("\n") or not self.is_working  # one is written just now
        if bad:
            text = f"{bad} damaged lines of {HISTORY} were left out"
            self.problems.append(Note("lines-left-out", text))
        return lines


def damaged(name: str, error: Exception) -> Note:
    """A note on a file that cannot be read."""
    return Note("file-damaged", f"{name} is damaged ({reason_of(error)})")


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, in one line."""
    if isinstance(error, ValidationError):
        return describe_problems(error)
    if isinstance(error, KeyError) and error.args:
        return f"{error.args[0]} is missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0][:200] or type(error).__name__
