"""A run folder and a study folder with numbers that are known, written by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layermix.studies.declarations import declare
from layermix.studies.folder import Study

from ..study_folders import fill, make

TEXTS = ["plain", "<script>document.title='hacked'</script>", "quotes \" and '", "שלום עולם", "🦊"]
NASTY = "<img src=x onerror=\"document.title='hacked'\">\u202e'\"&🦊"
STEPS = (5, 10, 15, 20)


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    """`run_folder(**changes)`: 40 rows; teacher right on 36, student on 32, differing on 8."""

    def build(name: str = "run", **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        labels = np.arange(40) % 2
        teacher = np.where(np.arange(40) < 36, labels, 1 - labels)
        student = np.where(np.arange(40) < 32, labels, 1 - labels)
        student[36:] = labels[36:]  # right where the teacher is wrong
        student[28:32] = 1 - labels[28:32]
        table = pa.table(
            {
                "report": ["last"] * 40,
                "epoch": [2] * 40,
                "row_id": np.arange(100, 140),
                "label": labels,
                "prediction": student,
                "teacher": teacher,
                "teacher_confidence": np.full(40, 0.9),
                "p_no": np.where(student == 1, 0.2, 0.8),
                "p_yes": np.where(student == 1, 0.8, 0.2),
            }
        )
        pq.write_table(table, folder / "predictions.parquet")
        texts = [TEXTS[row % len(TEXTS)] + f" number{row}" for row in range(40)]
        texts[30] = "x" * 2**20
        pq.write_table(
            pa.table({"row_id": np.arange(100, 140), "text": texts}), folder / "texts.parquet"
        )
        scores = {"accuracy": 0.8, "f1": 0.79}
        result = {
            "status": "ok",
            "task": "letters",
            "metric": "accuracy",
            "metrics": {"last": {"epoch": 2, "validation": scores}},
            "teacher": {"parameters": 4_000_000, "metrics": {"validation": {"accuracy": 0.9}}},
            "student": {"parameters": 1_000_000, "bytes_on_disk": 4_100_000, "classes": CLASSES},
            "mix": {"strategy": "learned", "student_layers": [0, 1], "teacher_layers": [2, 5, 8]},
            "timings": {"milliseconds_per_text": {"teacher": 9.0, "student": 2.5}},
            "notes": ["at most 9 tokens per row"],
        } | changes
        (folder / "result.json").write_text(json.dumps(result))
        lines: list[dict[str, Any]] = [
            {
                "step": step,
                "epoch": step / 10,
                "loss": 1.0,
                "loss_hidden": 5 / step,
                "loss_supervised": 0.5,
                "alpha": [[0.3 + step / 50, 0.5 - step / 50, 0.2], [0.2, 0.3, 0.5]],
            }
            for step in STEPS
        ]
        lines += [{"step": 10 * n, "epoch": n, "eval_validation_accuracy": 0.4 * n} for n in (1, 2)]
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "config.yaml").write_text("seed: 3\n")
        (folder / "environment.json").write_text(json.dumps({"commit": "abc123", "packages": {}}))
        return folder

    return build


CLASSES = ["no", NASTY]


@pytest.fixture
def study_folder(tmp_path: Path) -> Callable[..., Study]:
    """`study_folder(**changes)`: three mixes, eight seeds, everything finished."""

    def build(**changes: Any) -> Study:
        study = Study(tmp_path / "study", "small")
        plan = make(**{"family": [["learned", "fixed"]]} | changes)
        declare(plan, study)
        fill(plan, study)
        texts = study.texts("d")
        texts.parent.mkdir(exist_ok=True)
        rows = {"row_id": np.arange(200), "text": [f"word{row} {NASTY}" for row in range(200)]}
        pq.write_table(pa.table(rows), texts)
        return study

    return build
