"""What a study's scheduler itself takes: many cells on many nodes, and nothing is trained.

    python bench/scheduler.py --nodes 1000 --cells 100000

A simulated executor has as many slots as nodes. A job ends a little after it has begun and leaves
what a run leaves: a small finished folder on a real disk, which the scheduler files. It prints the
processor time per cell without that of the executor, and the most memory that the process held.
"""

import argparse
import io
import json
import os
import random
import resource
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from layermix.config import to_yaml
from layermix.runs.layout import CONFIG, ENVIRONMENT, HISTORY, PREDICTIONS, RESULT
from layermix.runs.schema import FORMAT, EnvironmentRecord, RunRecord
from layermix.studies.executor import Job
from layermix.studies.folder import Study
from layermix.studies.plan import Plan, make_plan
from layermix.studies.scheduler import Scheduler
from layermix.studies.spec import StudyConfig

SEEDS, LARGEST = 1000, 10_000  # seeds and cells of a study, at most
EPOCH = {"validation": {"accuracy": 0.8}, "epoch": 1}
PLACE = "LAYERMIX_SIMULATED"  # filed files name it, so that each is rewritten, as in a real study
MOST_TURNS = 3  # for which a simulated job runs


@dataclass
class Simulated:
    """A job that ends after some turns of the scheduler."""

    turns: int

    def is_running(self) -> bool:
        self.turns -= 1
        return self.turns > 0

    def error(self) -> str:
        return "a simulated job does not fail"


@dataclass
class Simulation:
    """An executor that runs nothing; counts its own processor time."""

    draw: random.Random
    place: str
    seconds: float = 0.0
    started: int = 0
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        metrics = {"last": EPOCH, "best_on_dev": EPOCH}
        record = RunRecord.model_validate(
            {
                "format": FORMAT,
                "status": "ok",
                "metric": "accuracy",
                "metrics": metrics,
                "precision": "float32",
                "teacher": {"from": f"{self.place}/teacher"},
                "student": {"parameters": 1},
                "data": {},
                "timings": {"training_seconds": 1.0},
            }
        )
        environment = EnvironmentRecord(format=FORMAT, packages={})
        self.files = {
            RESULT: record.to_json(),
            ENVIRONMENT: environment.to_json(),
            HISTORY: '{"step": 1}\n',
            PREDICTIONS: "not read here",
        }

    def start(self, job: Job) -> Simulated:
        begun = time.process_time()
        job.work.mkdir(parents=True)
        for name, text in {**self.files, CONFIG: to_yaml(job.config)}.items():
            (job.work / name).write_text(text, encoding="utf-8")
        self.started += 1
        self.seconds += time.process_time() - begun
        return Simulated(self.draw.randint(1, MOST_TURNS))

    def stop(self) -> None:
        pass


def planned_cells(count: int, folder: Path) -> Plan:
    """As many cells as wanted, of several studies if one may not have so many."""
    plans, left = [], count
    while left > 0:
        cells = min(left, LARGEST)
        first = len(plans) * (LARGEST // SEEDS) + 1
        arms = range(first, first + -(-cells // SEEDS))
        study = {
            "title": "simulated",
            "base": {"teacher": f"${PLACE}/teacher", "data": f"${PLACE}/data"},
            "tasks": {"task": {}},
            "arms": {f"rate {arm}": {"training": {"learning_rate": arm * 1e-6}} for arm in arms},
            "seeds": min(cells, SEEDS),
        }
        plans.append(make_plan(StudyConfig.model_validate(study), folder))
        left -= len(plans[-1].cells)
    return Plan(plans[0].study, [cell for plan in plans for cell in plan.cells])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[PLACE] = folder
        begun = time.process_time()
        plan = planned_cells(given.cells, Path(folder))
        planned = time.process_time() - begun
        simulation = Simulation(random.Random(0), folder)
        console = Console(file=io.StringIO(), quiet=True)
        begun = time.process_time()
        scheduler = Scheduler(plan, Study(Path(folder)), given.nodes, console, executor=simulation)
        scheduler.run()
        seconds = time.process_time() - begun - simulation.seconds
    cells = len(plan.runs)
    assert simulation.started == cells
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {
        "nodes": given.nodes,
        "cells": cells,
        "ms_per_cell": round(1000 * seconds / cells, 3),
        "planning_ms_per_cell": round(1000 * planned / cells, 3),
        "gib": round(memory, 3),
    }
    print(json.dumps(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
