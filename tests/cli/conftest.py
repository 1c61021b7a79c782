"""The command line on tiny real models and data: in this process, or as an installed command.

With $LAYERMIX_CLI (the path of an installed `layermix`) every call is a process of what is
installed: of the command itself where a test asks for a process, or else forked from its Python.
`make wheel` runs the tests marked `wheel` so.
"""

import csv
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import BertConfig, BertModel, BertTokenizer

from layermix.cli import main
from layermix.studies import local_processes

from ..forked import Forked, ForkedCell, start_server

INSTALLED = os.environ.get("LAYERMIX_CLI")
if INSTALLED:
    start_server()  # it imports while this process does
COMMAND = [INSTALLED] if INSTALLED else [sys.executable, "-m", "layermix"]
WORDS = [f"word{number}" for number in range(30)]
ENTRIES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "poor", *WORDS]
RECIPE = (  # after 9 epochs one seed in six has less than .9; after 15 none of twelve had
    "--training.epochs=15",
    "--training.batch_size=8",
    "--training.learning_rate=5e-3",
    "--training.log_every=3",
)


@dataclass(frozen=True)
class Done:
    """What a call of the command line left."""

    code: int
    out: str
    err: str


Cli = Callable[..., Done]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, outside the source tree, in which commands run."""
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def cli(place: Path) -> Cli:
    """`cli(arguments, stdin=b"", process=False, folder=place)`; `process`: one of its own."""

    def call(
        *arguments: str | Path, stdin: bytes = b"", process: bool = False, folder: Path = place
    ) -> Done:
        words = [str(argument) for argument in arguments]
        if INSTALLED or process:
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            ended = process_of(words, folder, fresh=process and bool(INSTALLED), **pipes)
            out, err = ended.communicate(stdin)
            return Done(ended.returncode, out.decode(), err.decode())
        with chdir(folder):
            result = CliRunner().invoke(main, words, input=stdin, prog_name="layermix")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture(scope="session")
def start(place: Path) -> Callable[..., Any]:
    """`start(arguments, fresh=False, file_blocks=None, …)`: a process, as `subprocess.Popen`.

    It is forked from one that has imported everything, unless `fresh`. `file_blocks`: it may write
    no larger file, in blocks of 512 bytes.
    """

    def begin(*arguments: str | Path, **how: Any) -> Any:
        return process_of(list(map(str, arguments)), place, stderr=subprocess.PIPE, **how)

    return begin


@pytest.fixture(scope="package", autouse=True)
def _forked_cells() -> Iterator[None]:
    """The cells of a study that runs in this process are forked; those of a process are fresh."""
    with pytest.MonkeyPatch.context() as patch:
        forking = SimpleNamespace(**vars(subprocess) | {"Popen": ForkedCell})
        patch.setattr(local_processes, "subprocess", forking)
        yield


def process_of(
    words: list[str],
    folder: Path,
    fresh: bool = False,
    file_blocks: int | None = None,
    **how: Any,
) -> Any:
    """A process of the command."""
    if not fresh:
        variables = environment()
        return Forked(words, folder=folder, variables=variables, file_blocks=file_blocks, **how)
    command = [*COMMAND, *words]
    if file_blocks is not None:
        command = ["sh", "-c", f'ulimit -f {file_blocks} && exec "$@"', "sh", *command]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        # A shell that runs tests in the background has them ignore SIGINT, and so their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **how,
    )


@pytest.fixture(scope="session")
def recipe() -> tuple[str, ...]:
    """Flags with which the tiny models learn, in a second."""
    return RECIPE


def environment() -> dict[str, str]:
    """The variables of a process of the command; an installed one must not find the source."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if INSTALLED:
        variables.pop("PYTHONPATH", None)
    return variables


@pytest.fixture(scope="session")
def base(place: Path) -> Path:
    """A random BERT of four blocks without a head: what `teach` starts from."""
    folder = place / "base"
    config = BertConfig(
        vocab_size=len(ENTRIES),
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab={word: number for number, word in enumerate(ENTRIES)}).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def data(place: Path) -> Path:
    """Reviews as CSV: does `fine` or `poor` stand in them?"""
    folder = place / "reviews"
    folder.mkdir()
    draw = random.Random(0)
    for name, amount in (("train", 64), ("validation", 24)):
        rows = []
        for number in range(amount):
            label = ("good", "bad")[number % 2]
            words = draw.choices(WORDS, k=draw.randint(3, 9))
            words[draw.randrange(len(words))] = "fine" if label == "good" else "poor"
            rows.append((" ".join(words), label))
        write_csv(folder / f"{name}.csv", [("review", "label"), *rows])
    return folder


def write_csv(file: Path, rows: list[tuple[str, ...]]) -> Path:
    """Write rows, the first of them the header."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return file


@pytest.fixture(scope="session")
def teacher(cli: Cli, place: Path, base: Path, data: Path) -> Path:
    """A run folder made by `teach`."""
    done = cli("teach", "--model", base, "--data", data, "--out", "runs/teacher", *RECIPE)
    assert done.code == 0, done.err
    return place / "runs" / "teacher"


@pytest.fixture(scope="session")
def distilled(cli: Cli, teacher: Path, data: Path) -> Done:
    """`distill` to runs/student: what it said."""
    return cli("distill", "--teacher", teacher, "--data", data, "--out", "runs/student", *RECIPE)


@pytest.fixture(scope="session")
def student(distilled: Done, place: Path) -> Path:
    """A run folder made by `distill`."""
    assert distilled.code == 0, distilled.err
    return place / "runs" / "student"


@pytest.fixture
def untouched(place: Path) -> Iterator[None]:
    """Whatever the test does, no file or folder is made, changed or lost."""
    before = snapshot(place)
    yield
    assert snapshot(place) == before


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    """File -> size and time of its last change."""
    return {
        file: (file.stat().st_size, file.stat().st_mtime_ns) if file.is_file() else (0, 0)
        for file in folder.rglob("*")
    }
