"""Writes the folder of a finished study without running it.

`make` plans a study of three mixes and eight seeds on one task; `fill` writes the files of its
cells, with 200 predictions each, so that every score is known (`right`).
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from layermix.studies.folder import Study
from layermix.studies.plan import Cell, Plan, make_plan
from layermix.studies.spec import StudyConfig

ROWS = 200
SEEDS = 8


def make(**changes: Any) -> Plan:
    given = {
        "title": "small",
        "base": {"teacher": "T", "data": "D"},
        "tasks": {"mrpc": {}},
        "arms": {name: {"mix": name} for name in ("fixed", "uniform", "learned")},
        "seeds": SEEDS,
    }
    return make_plan(StudyConfig.model_validate(given | changes), None)


def right(cell: Cell) -> int:
    """Right answers of a cell: `learned` has two more than the others, whatever the seed."""
    return 150 + 3 * (cell.seed % 4) + 2 * (cell.arm == "learned")


def fill(
    plan: Plan, study: Study, cells: Callable[[Cell], bool] = lambda _: True, **own: Any
) -> None:
    """File cells whose scores are known."""
    for cell in filter(cells, plan.cells):
        folder = study.filed(cell.name)
        folder.mkdir(parents=True, exist_ok=True)
        labels = np.arange(ROWS) % 2
        rows = np.random.default_rng(cell.seed).permutation(ROWS)
        answers = np.where(np.arange(ROWS) < right(cell), labels, 1 - labels)
        teacher = np.where(np.arange(ROWS) % 10 == 9, 1 - labels, labels)
        reports = {"last": answers, "best_on_dev": labels}
        tables = [
            pa.table(
                {
                    "report": [name] * ROWS,
                    "row_id": rows,
                    "label": labels[rows],
                    "prediction": found[rows],
                    "teacher": teacher[rows],
                    "teacher_confidence": np.full(ROWS, 0.95),
                    "p_no": np.where(found[rows] == 1, 0.3, 0.7),
                    "p_yes": np.where(found[rows] == 1, 0.7, 0.3),
                }
            )
            for name, found in reports.items()
        ]
        pq.write_table(pa.concat_tables(tables), folder / "predictions.parquet")
        scores = {name: float((found == labels).mean()) for name, found in reports.items()}
        result = {
            "status": "ok",
            "metric": "accuracy",
            "metrics": {
                name: {"epoch": 1, "validation": {"accuracy": score}, "holdout": {"accuracy": 0.5}}
                for name, score in scores.items()
            },
            "teacher": {
                "fingerprint": "t",
                "parameters": 1000,
                "metrics": {"validation": {"accuracy": 0.9}, "holdout": {"accuracy": 0.8}},
            },
            "student": {"parameters": 500, "classes": ["no", "yes"]},
            "mix": {
                "strategy": cell.content["mix"]["strategy"],
                "student_layers": [0, 1],
                "teacher_layers": [1, 3],
            },
            "alpha": [[1.0, 0.0], [0.5, 0.5]] if cell.seed else [[0.8, 0.2], [0.5, 0.5]],
            "data": {"fingerprint": "d"},
            "precision": "float32",
            "timings": {"training_seconds": 60.0},
        } | own
        (folder / "result.json").write_text(json.dumps(result))
        epochs = [
            {
                "step": step,
                "learning_rate_mix": step / 5000,
                "loss_hidden": 100 / step,
                "loss_supervised": 0.6,
                "alpha": [[0.5 + step / 500, 0.5 - step / 500], [0.5, 0.5]],
            }
            for step in (50, 100)
        ]
        epochs += [
            {"step": 50 * n, "epoch": n, "eval_validation_accuracy": scores["last"]} for n in (1, 2)
        ]
        history = "".join(json.dumps(line) + "\n" for line in own.get("history", epochs))
        (folder / "history.jsonl").write_text(history)
        environment = {
            "written": "2026-11-25T16:09:14+00:00",
            "python": "3.11.7",
            "packages": own.get("packages", {}),
            "commit": own.get("commit", "abc"),
            "platform": "Linux",
            "processor": "x86_64",
            "threads": 1,
            "seed": cell.seed,
        }
        (folder / "environment.json").write_text(json.dumps(environment))
        (folder / "config.yaml").write_text("seed: 0")
