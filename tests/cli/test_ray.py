"""A study on a Ray cluster of two nodes files what this machine files, whatever dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from layermix.console import STOP_SECONDS
from layermix.studies.folder import WORK

from .conftest import COMMAND
from .test_study import VARYING

PATIENCE = 600.0  # seconds, on a busy machine
CELLS = 12


@pytest.fixture(scope="module")
def study_file(place: Path, base: Path, data: Path) -> Path:
    quick = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "log_every": 3}
    mixes = {name: {"mix": name} for name in ("fixed", "uniform", "learned")}
    study = {
        "title": "tiny",
        "base": {"preset": "quick", "student": {"blocks": [0, 1]}, "training": quick},
        "teach": {"model": str(base), "training": quick | {"epochs": 6}},
        "tasks": {"reviews": {"data": str(data)}},
        "arms": {"ce_only": {"loss": {"logit_weight": 0, "hidden_weight": 0}}, **mixes},
        "seeds": 3,
    }
    file = place / "cluster.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def straight(cli: Any, study_file: Path, place: Path) -> dict[str, Any]:
    """What the cells of this machine hold."""
    done = cli("study", study_file, "--out", "local", "--jobs", "2")
    assert done.code == 0, done.err
    return contents(place / "local")


def contents(folder: Path) -> dict[str, Any]:
    """What is filed, without clock times."""
    found: dict[str, Any] = {}
    for file in sorted((folder / "cells").rglob("*")):
        if file.suffix == ".json":
            read = json.loads(file.read_text())
            found[str(file.relative_to(folder))] = {
                key: value for key, value in read.items() if key not in VARYING
            }
        elif file.is_file():
            found[str(file.relative_to(folder))] = file.read_bytes()
    return found


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes with a processor each."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from ray.cluster_utils import Cluster

    memory = {"num_cpus": 1, "object_store_memory": 100_000_000}
    made = Cluster(initialize_head=True, head_node_args={**memory, "include_dashboard": False})
    try:
        yield made, made.add_node(**memory)
    finally:
        made.shutdown()


def conductor(study_file: Path, place: Path, address: str, out: str) -> "subprocess.Popen[bytes]":
    """The process of the command."""
    arguments = ["study", str(study_file), "--out", out, "--executor", "ray", "--address", address]
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=place, env=variables, stderr=subprocess.PIPE
    )


def runs_of(folder: Path) -> list[psutil.Process]:
    """Processes that run cells of a study."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(word.startswith(str(folder / WORK)) for word in words):
            found.append(process)
    return found


def until(condition: Callable[[], Any], process: "subprocess.Popen[bytes]") -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_whatever_dies_the_cells_are_those_of_this_machine(
    study_file: Path, straight: dict[str, Any], place: Path, cluster: Any
) -> None:
    made, other = cluster
    folder = place / "far"

    def filed() -> int:
        return len(list((folder / "cells").glob("[!.]*")))

    process = conductor(study_file, place, made.address, "far")
    until(lambda: filed() >= 1 and runs_of(folder), process)
    worker = runs_of(folder)[0].parent()
    assert worker is not None
    worker.kill()
    until(lambda: filed() >= 3 and runs_of(folder), process)
    made.remove_node(other, allow_graceful=False)
    until(lambda: filed() >= 5 and runs_of(folder), process)
    process.kill()
    process.wait()
    end = time.monotonic() + 2 * STOP_SECONDS
    while runs_of(folder):
        assert time.monotonic() < end, "a cell outlives its scheduler"
        time.sleep(0.1)

    process = conductor(study_file, place, made.address, "far")
    until(lambda: filed() >= 8 and runs_of(folder), process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=3 * STOP_SECONDS)[1].decode()
    assert process.returncode == 130
    assert "the same command continues the study" in said
    assert not runs_of(folder)
    before = filed()
    assert before < CELLS

    process = conductor(study_file, place, made.address, "far")
    said = process.communicate(timeout=PATIENCE)[1].decode()
    assert process.returncode == 0, said
    assert f"{CELLS} of {CELLS}: " in said
    assert said.count(" of 12: ") == CELLS - before, "a cell was run twice"
    assert contents(folder) == straight


REFUSED = {
    "nobody answers": (["--executor", "ray", "--address", "127.0.0.1:1"], "does not answer"),
    "no address": (["--executor", "ray", "--address", "there"], "wanted HOST:PORT"),
    "not on a cluster": (
        ["--address", "127.0.0.1:1", "--cpus", "2"],
        "--address and --cpus are of a Ray cluster; give --executor ray as well",
    ),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_a_cluster_that_is_not_there_is_told_at_once(
    cli: Any, study_file: Path, place: Path, options: list[str], message: str
) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    begun = time.monotonic()
    done = cli("study", study_file, "--out", "none", *options)
    assert done.code == 2
    assert message in done.err
    assert not (place / "none").exists()
    assert time.monotonic() - begun < 30


def test_something_else_at_the_address_is_no_cluster(cli: Any, study_file: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    server = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        port = process.stdout.readline().decode().split(" port ")[1].split()[0]
        address = f"127.0.0.1:{port}"
        done = cli("study", study_file, "--out", "none", "--executor", "ray", "--address", address)
        process.kill()
    assert done.code == 2
    assert "something answers, but it is no Ray cluster" in done.err


def test_without_ray_the_extra_is_named(
    cli: Any, study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "layermix.studies.ray_tasks", raising=False)
    done = cli("study", study_file, "--out", "none", "--executor", "ray")
    assert done.code == 2
    assert "--executor ray needs the extra `ray`" in done.err
