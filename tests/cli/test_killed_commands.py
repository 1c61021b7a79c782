"""Every command that writes, killed at any moment: nothing is torn, and given again it ends right.

Half of the kills come at a time of the command's life, half before one of its changes to files, so
that its last moments are hit as well. After each, what has a final name is as it was, or as it is
after an undisturbed run; the command, given again, leaves exactly the files of an undisturbed run.
"""

import hashlib
import json
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from layermix.teacher_cache.maintenance import stores
from layermix.teacher_cache.manifest import read_manifest
from layermix.teacher_cache.store import damaged

from ..forked import SERVER, Forked, address
from .conftest import environment

pytestmark = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc")

PATIENCE = 300.0  # seconds, on a busy machine
VARYING = {"written", "timings", "threads", "resumed"}
"""Entries of JSON files that hold times, or whether a run was resumed."""
WORKING = (".partial", ".writing", ".exporting", ".discarded", ".lock")
"""Endings of names that only unfinished work has."""
MEASURED = {"bench.json", "README.md"}
"""Files with speeds, whose numbers are not compared."""
LOGS = "study/logs/"
PROGRAM = """
import json, os, subprocess, sys
from types import SimpleNamespace
sys.path.append(os.environ["TESTS"])
from tests.forked import ForkedCell
from layermix.cli import main
from layermix.studies import local_processes
from layermix.teacher_cache import cached_teacher

class Cell(ForkedCell):
    counted = json.loads(os.environ["CELLS"])
    def __init__(self, *words, **how):
        super().__init__(*words, changes=Cell.counted.pop(0) if Cell.counted else None, **how)

local_processes.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": Cell})
cached_teacher.FILL_TOKENS, cached_teacher.SHARD_BYTES = 60, 1  # a shard for each of many batches
main(prog_name="layermix")
"""
STEPS = "--training.epochs=2 --training.batch_size=8 --training.learning_rate=5e-3"
STEPS += " --training.log_every=1 --training.save_every=3"
DISTILL = f"--teacher teacher --data reviews --teacher.allow_weak --mix.strategy learned {STEPS}"
QUICK = {"epochs": 2, "batch_size": 8, "log_every": 1, "save_every": 3}
STUDY = {
    "base": {"student": {"blocks": [0, 1]}, "teacher": {"allow_weak": True}, "training": QUICK},
    "teach": {"model": "base", "training": QUICK},
    "tasks": {"reviews": {"data": "reviews"}},
    "arms": {name: {"mix": name} for name in ("learned", "fixed")},
    "seeds": 1,
    "family": [],
}


@dataclass(frozen=True)
class Command:
    """A command to be killed.

    Attributes:
        words: What is typed.
        has: What it finds in its folder.
        kills: How many in the slow test.
        resume: What is typed as well when it is given again.
        between: Folders whose files need not be those before or after it.
        cells: Whether a cell is killed, in the place of the study's own process.
    """

    words: str
    has: tuple[str, ...]
    kills: int
    resume: str = ""
    between: tuple[str, ...] = ()
    cells: bool = False


MODELS = ("base", "reviews", "teacher", "student")
IN_STUDY = ("study/work", "cache")
COMMANDS = {
    "teach": Command(
        f"teach --model base --data reviews --out run {STEPS}", MODELS[:2], 20, "--resume"
    ),
    "distil, live": Command(
        f"distill {DISTILL} --out run --no-cache.use", MODELS[:3], 20, "--resume"
    ),
    "distil, cached": Command(
        f"distill {DISTILL} --out run", (*MODELS[:3], "cache"), 20, "--resume"
    ),
    "distil, to be cached": Command(
        f"distill {DISTILL} --out run", MODELS[:3], 20, "--resume", ("cache",)
    ),
    "cache build": Command(f"cache build {DISTILL}", MODELS[:3], 12, between=("cache",)),
    "cache verify": Command("cache verify", ("cache",), 8),
    "cache prune": Command("cache prune --days 0", ("cache",), 12),
    "study": Command(
        "study study.yaml --out study", ("base", "reviews", "study.yaml"), 16, between=IN_STUDY
    ),
    "cell of a study": Command(
        "study study.yaml --out study",
        ("base", "reviews", "study.yaml"),
        12,
        between=(*IN_STUDY, "study/study.json", "study/study.md"),  # they tell the failure
        cells=True,
    ),
    "evaluate": Command("evaluate student --data reviews --json", MODELS, 4),
    "predict": Command("predict student reviews/train.csv --out labels.csv", MODELS, 8),
    "predict, again": Command(
        "predict student reviews/train.csv --out labels.csv --force", (*MODELS, "labels.csv"), 6
    ),
    "report": Command("report student --figures figures", MODELS, 10),
    "export": Command("export student --onnx", MODELS, 8),
    "export, int8": Command("export student --int8 --max-drop 100", MODELS, 8),
    "export, again": Command(
        "export exported --int8 --max-drop 100 --force", (*MODELS, "exported"), 8
    ),
    "export, elsewhere": Command("export student --onnx --out served", MODELS, 6),
    "bench": Command("bench student --rounds 2 --threads 1", MODELS, 6),
    "bench, exported": Command("bench exported --rounds 2 --threads 1", (*MODELS, "exported"), 4),
}
MADE = {
    "teacher": ("teach", "run"),
    "student": ("distil, live", "run"),
    "cache": ("cache build", "cache"),
    "exported": ("export, int8", "student"),
    "labels.csv": ("predict", "labels.csv"),
}
"""What a command finds -> the command that makes it, and its name there."""
QUICKLY = ("cache verify", "cache prune", "predict, again", "bench")
"""Killed once in `make test`, where other tests kill `distill`, `study` and the filling cache."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Path:
    """What commands find in their folder; `prepared` adds what others make, once it is needed."""
    source = tmp_path_factory.mktemp("killed") / "source"
    shutil.copytree(base, source / "base")
    shutil.copytree(data, source / "reviews")
    (source / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    return source


def home_of(source: Path) -> Path:
    """The folder in which commands run."""
    return source.with_name("home")


def prepared(source: Path, command: Command) -> Path:
    """The folder as a command finds it."""
    home = home_of(source)
    for name in command.has:
        if not (source / name).exists():
            maker, result = MADE[name]
            ended(started(prepared(source, COMMANDS[maker]), COMMANDS[maker].words), maker)
            (home / result).rename(source / name)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    for name in command.has:
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy2
        copy(source / name, home / name)
    return home


def started(home: Path, words: str, counted: Sequence[Any] = (), of_cells: bool = False) -> Forked:
    """A process of a command.

    Args:
        home: Where it runs.
        words: What is typed.
        counted: The arguments of `count_changes` for this process.
        of_cells: `counted` is for the processes that it starts, one after the other.
    """
    (home / "tmp").mkdir(exist_ok=True)
    variables = {
        SERVER: str(address()),
        "TESTS": str(Path(__file__).parents[2]),
        "CELLS": json.dumps(counted if of_cells else []),
        "LAYERMIX_CACHE": "cache",
        "TMPDIR": str(home / "tmp"),
    }
    return Forked(
        words.split(),
        program=PROGRAM,
        folder=home,
        variables=environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        changes=counted[0] if counted and not of_cells else None,
    )


def ended(process: Forked, what: str) -> str:
    """What a process printed; it must end well."""
    out, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, f"{what}: {told.decode()}"
    return out.decode()


def alive(home: Path) -> list[str]:
    """The processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").samefile(home):
                found.append(process.name)
        except OSError:  # it has ended
            continue
    return found


def files(home: Path) -> dict[str, str]:
    """File -> hash of its content without times; folder of unfinished work -> nothing."""
    found = {}
    for path in home.rglob("*"):
        name = path.relative_to(home).as_posix()
        if name.startswith(("tmp/", LOGS)):
            continue
        if path.is_file():
            found[name] = hashlib.sha256(content(path)).hexdigest()
        elif is_working(name):
            found[name] = ""
    return found


def content(file: Path) -> bytes:
    """The content of a file without times and other chance."""
    content = file.read_bytes()
    if file.name in MEASURED:
        return re.sub(rb"[\d.\s-]+", b" ", content)
    if file.suffix == ".pdf":  # the rest differs from process to process
        return content[:5] + content[-6:]
    if file.suffix != ".json" or file.name.startswith("."):
        return content
    return json.dumps(without_times(json.loads(content))).encode()


def without_times(value: Any) -> Any:
    """A JSON value without its times."""
    if isinstance(value, Mapping):
        return {name: without_times(one) for name, one in value.items() if name not in VARYING}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def is_working(name: str) -> bool:
    """Whether a path is one of unfinished work."""
    return any(part.endswith(WORKING) for part in name.split("/"))


@dataclass(frozen=True)
class Undisturbed:
    """A command that was not killed: what it found, what it left, what it did."""

    before: Mapping[str, str]
    after: Mapping[str, str]
    said: str
    seconds: float
    changes: list[list[str]]


def undisturbed(source: Path, command: Command) -> Undisturbed:
    """Run a command once; note its changes to files, or those of each of its cells."""
    home = prepared(source, command)
    before = files(home)
    logs = [source.with_name(f"changes-{number}") for number in range(3 if command.cells else 1)]
    for log in logs:
        log.unlink(missing_ok=True)
    counted = [(str(log), None) for log in logs]
    begun = time.monotonic()
    said = ended(started(home, command.words, counted, command.cells), command.words)
    seconds = time.monotonic() - begun
    changes = [log.read_text().splitlines() if log.exists() else [] for log in logs]
    assert not alive(home)
    return Undisturbed(before, files(home), said, seconds, changes)


def killed(home: Path, command: Command, known: Undisturbed, share: float, at_change: bool) -> bool:
    """Start a command and kill it after a share of its life; False if it had ended by then.

    Args:
        home: Where it runs.
        command: Or a cell that it starts.
        known: What it does if it is not killed.
        share: Of its changes to files, or of its time.
        at_change: Kill it before a change, not at a time.
    """
    counted: list[Any] = []
    if (at_change and any(known.changes)) or command.cells:
        before, part = divmod(share * len(known.changes), 1)
        last = int(part * len(known.changes[int(before)]))
        counted = [None] * int(before) + [(None, last)]
    process = started(home, command.words, counted, command.cells)
    if not counted:
        until = time.monotonic() + share * known.seconds
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    process.communicate(timeout=PATIENCE)
    return command.cells or process.returncode != 0


def phase(found: Mapping[str, str], known: Undisturbed) -> str:
    """How far a killed command has come, by its files."""
    if found == known.before:
        return "nothing was written"
    named = {name: one for name, one in found.items() if not is_working(name)}
    return "all was written" if named == known.after != known.before else "at work"


def check_whole(home: Path, command: Command, known: Undisturbed) -> str:
    """Check the files that a killed command has left; the phase it was in."""
    found = files(home)
    for name in found.keys() | known.before.keys():
        if is_working(name) or name.startswith(command.between):
            continue
        allowed = {known.before.get(name), known.after.get(name)}
        assert found.get(name) in allowed, f"{name} is neither as before nor as after"
    for store in stores(home / "cache"):
        manifest, _ = read_manifest(store.folder)
        assert not manifest or not damaged(store.folder, manifest.shards, full=True)
    return phase(found, known)


@pytest.mark.parametrize(
    ("name", "kills"),
    [
        *((name, 1) for name in QUICKLY),
        *(
            pytest.param(name, command.kills, marks=pytest.mark.slow)
            for name, command in COMMANDS.items()
        ),
    ],
)
def test_killed_at_any_moment_and_given_again_it_ends_as_if_undisturbed(
    source: Path, name: str, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[name]
    known = undisturbed(source, command)
    draw = random.Random(f"{name} {kills}")
    phases: Counter[str] = Counter()
    begun, missed = time.monotonic(), 0
    while (number := phases.total()) < kills:
        share = (number + draw.random()) / kills * 0.9**missed
        home = prepared(source, command)
        if not killed(home, command, known, share, at_change=number % 2 == 0):
            missed += 1  # it was faster than when it was timed
            continue
        missed = 0
        until = time.monotonic() + PATIENCE
        while alive(home):
            assert time.monotonic() < until, "a process is left alive"
            time.sleep(0.01)
        where = check_whole(home, command, known)
        phases[where] += 1
        again = started(home, f"{command.words} {command.resume}")
        out, told = (one.decode() for one in again.communicate(timeout=PATIENCE))
        if where == "all was written" and again.returncode:
            assert "already" in told
            assert "--out" in told
        else:
            assert again.returncode == 0, told
            assert known.before != known.after or out == known.said
        assert files(home) == known.after, f"{where}, share {share}"
        assert not alive(home)
    with capsys.disabled():
        took = time.monotonic() - begun
        print(f"\n{name}: {dict(phases)}, {took:.0f} s")  # noqa: T201  # counts
