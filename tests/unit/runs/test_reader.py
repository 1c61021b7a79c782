"""Files of a run that others wrote: read as far as they can be, each problem named."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import EvalPrediction

from layermix.core.signals import NO_WORD
from layermix.data.prepared import PreparedData
from layermix.data.splits import make_split
from layermix.problems.tags import ENTITIES
from layermix.report.build import page_of
from layermix.report.html import render
from layermix.runs import schema
from layermix.runs.callbacks import EpochRecorder
from layermix.runs.layout import CONFIG, ENVIRONMENT, HISTORY, RESULT
from layermix.runs.reader import RunFiles, read_history

DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE: dict[str, bytes] = {
    "deep": DEEP.encode(),
    "deep within": f'{{"metrics": {DEEP}}}'.encode(),
    "a deep unknown field": f'{{"unknown": {DEEP}}}'.encode(),
    "half a character": b'{"status": "ok", "task": "\\ud800", "metric": "accuracy"}',
    "digits": b'{"step": ' + b"9" * 5000 + b"}",
    "a huge number": b'{"step": 1e999, "status": "ok"}',
    "not UTF-8": b'{"step": 1, "\xff": 1}',
    "a list": b"[1]",
    "a number": b"1",
    "null": b"null",
    "text": b'"text"',
    "NUL": b"\0" * 100,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", [RESULT, HISTORY, ENVIRONMENT, CONFIG])
def test_a_hostile_file_is_a_problem_and_no_traceback(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / CONFIG).write_text("seed: 0\n", encoding="utf-8")
    (tmp_path / name).write_bytes(HOSTILE[kind])
    page, _ = page_of(tmp_path)
    render(page).encode("utf-8")
    if name != CONFIG:
        told = {note.code for note in RunFiles(tmp_path).problems}
        assert told & {"file-damaged", "fields-left-out", "lines-left-out", "file-missing"}


@pytest.mark.parametrize(
    "line",
    [
        *(["[]"], ["1"], ["{}"], [], ['{"step": "1"}'], ['{"step": 1, "alpha": [[1], [1, 2]]}']),
        *(['{"step": 1, "loss": "low"}'], ['{"step": 1}', DEEP], ['{"step": 1.5}'], ["}{"]),
    ],
)
def test_a_history_that_no_run_writes_is_refused(tmp_path: Path, line: list[str]) -> None:
    file = tmp_path / HISTORY
    file.write_text("\n".join(line), encoding="utf-8")
    with pytest.raises(ValueError):  # noqa: PT011  # pydantic's words
        read_history(file)


def test_a_history_is_read(tmp_path: Path) -> None:
    lines: list[Any] = [{"step": 1, "loss": 0.5, "alpha": [[0.5, 0.5]]}, {"epoch": 1.0}]
    file = tmp_path / HISTORY
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert read_history(file) == lines


def test_no_file_is_read_beyond_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MOST_BYTES", 10)
    (tmp_path / RESULT).write_text('{"status": "ok"}', encoding="utf-8")
    assert [note.code for note in RunFiles(tmp_path).problems[:1]] == ["file-damaged"]


def test_tags_that_a_run_records_are_read_with_their_words(tmp_path: Path) -> None:
    words = [[(0, 3), (4, 8)], [(0, 2), (3, 6), (7, 11)]]
    labels = [[1, 0], [-100, 1, 2]]
    split = make_split([("Ann runs",), ("in New York",)], labels, 5, words)
    texts: Any = SimpleNamespace(
        splits={"validation": split}, problem=ENTITIES, label_names=("O", "B-X", "I-X"), task=None
    )
    padded = np.array([[1, 0, -100], [-100, 1, 2]])
    logits = np.where(padded[..., None] < 0, NO_WORD, np.eye(3)[np.maximum(padded, 0)])
    logits[1, 2] = NO_WORD  # cut off
    prepared = PreparedData(
        texts,
        {"validation": {"row_id": [5, 6], "labels": labels}},
        None,  # nothing is padded here
        max_length=9,
        cut={},
        teacher_logits={"validation": logits},
    )
    recorder = EpochRecorder(tmp_path, prepared, keep_selected=False)
    given = EvalPrediction(logits[::-1], (padded[::-1], np.array([6, 5])))  # by length
    scores = recorder.score(given)
    assert (scores["entity_f1"], scores["accuracy"], scores["agreement"]) == (0.5, 0.75, 1)
    recorder.on_evaluate(None, SimpleNamespace(epoch=1.0, log_history=[]), None)
    recorder.predictions({"last": 1, "best_on_dev": 1})
    (tmp_path / CONFIG).write_text("seed: 0\n", encoding="utf-8")
    files = RunFiles(tmp_path)
    found = files.predictions("last")
    assert found is not None
    assert found.form == "tags"
    assert found.labels.tolist() == padded.tolist()
    assert found.predicted.tolist() == [[[1, 0, -100], [-100, 1, -100]]]
    assert found.has_teacher.tolist() == [True]
    assert files.texts == {5: ("Ann runs",), 6: ("in New York",)}
    assert files.words == dict(zip((5, 6), words, strict=True))
