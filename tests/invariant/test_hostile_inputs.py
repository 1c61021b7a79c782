"""300 hostile inputs, each drawn from a seed: no traceback, and an end within 20 seconds.

An input is a right one that was spoilt: data files, YAML, model, run and study folders, stores of
teacher signals. The commands run in this process, on tiny models. An exit code of 0 is a right
outcome too: what was spoilt may be unused, or only odd.
"""

import json
import random
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from transformers import BertForSequenceClassification, BertTokenizer, TrainerCallback

from layermix.cli import main
from layermix.runs import training
from layermix.studies.declarations import declare
from layermix.studies.folder import Study
from layermix.studies.plan import make_plan
from layermix.studies.spec import load_study

from ..study_folders import fill

LIMIT = 20
"""Seconds for one input."""
ENDS = {0, 1, 2}
"""Exit codes of a command that ended as it should."""
FAST = (
    *("--training.epochs=1", "--training.batch_size=8", "--training.learning_rate=1e-3"),
    *("--teacher.allow_weak", "--quiet"),
)
TEACH = ("--training.epochs=1", "--training.batch_size=8", "--quiet")
STUDY = """
title: small
base: {teacher: teacher, data: data}
arms: {fixed: {mix: fixed}, uniform: {mix: uniform}, learned: {mix: learned}}
family: [[learned, fixed]]
seeds: 3
"""
CONFIG: dict[str, Any] = {
    "teacher": {"model": "teacher", "allow_weak": True},
    "data": {"path": "data"},
    "mix": {"strategy": "learned"},
    "loss": {"hidden_weight": 1, "logit_weight": 1},
    "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
    "seed": 1,
}

Words = Sequence[str | Path]
Spoil = Callable[[random.Random, Path], Words]
"""Spoils something in a folder of its own; returns the command that meets it."""


# -- what spoils -----------------------------------------------------------------------------------

ODD_TEXTS = ("", " ", "nan", "a\0b", "\x1b[2J\x1b]0;x\x07", "‮evil", "=1+1", "../../x", "e\u0301")
ODD_TEXTS = (*ODD_TEXTS, "\u200b", "-->", "<!-- layermix: export -->", "x" * 5000, "1e400", "%s{}")
DEEP = "many-lists-in-lists"
ODD_NUMBERS = (-1, 0, 1, 3, 2**31, 10**30, -(10**9), 0.5, 1e308, float("nan"), float("inf"))
ODD_BYTES = (b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"PK\x03\x04", b"\x1f\x8b\x08", b"%PDF-1.7")


def mostly(draw: random.Random, usual: Any, *odd: Any) -> Any:
    """The usual value, or in a quarter of the draws one of the odd ones."""
    return draw.choice(odd) if draw.random() < 0.25 else usual


def odd_value(draw: random.Random) -> Any:
    """A value that does not belong where it is put."""
    one = draw.choice(ODD_TEXTS)
    return draw.choice(
        (None, True, [], {}, [[]], DEEP, {one: one}, [one] * 3, one, draw.choice(ODD_NUMBERS))
    )


def nested(text: str) -> str:
    """The text with lists in lists in the places of `DEEP`."""
    deep = "[" * 5_000 + "]" * 5_000
    return text.replace(f'"{DEEP}"', deep).replace(DEEP, deep)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value[:5]))
    for key, inner in pairs:
        yield value, key
        yield from places(inner)


def spoil_value(draw: random.Random, value: Any) -> Any:
    """The JSON value with one to three places replaced, removed or added."""
    for _ in range(draw.randint(1, 3)):
        found = list(places(value))
        if not found or draw.random() < 0.05:
            return odd_value(draw)
        container, key = draw.choice(found)
        how = draw.choice(("replace", "replace", "remove", "add"))
        if how == "replace":
            container[key] = odd_value(draw)
        elif how == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[draw.choice(ODD_TEXTS)] = odd_value(draw)
        else:
            container.extend([odd_value(draw)] * draw.choice((1, 1000)))
    return value


def spoil_json(draw: random.Random, file: Path, *, lines: bool = False) -> None:
    """Spoil a value of a JSON file, or of one of its lines."""
    texts = file.read_text(encoding="utf-8").splitlines() if lines else [file.read_text("utf-8")]
    place = draw.randrange(len(texts))
    texts[place] = nested(json.dumps(spoil_value(draw, json.loads(texts[place]))))
    file.write_text("\n".join(texts), encoding="utf-8")


def spoil_file(draw: random.Random, file: Path) -> None:
    """Spoil the bytes of a file, or what is at its place."""
    whole = file.read_bytes()
    place = draw.randrange(len(whole) + 1)
    how = draw.randrange(9)
    file.unlink()
    if how == 0:
        file.write_bytes(whole[:place])
    elif how == 1:
        file.write_bytes(draw.choice(ODD_BYTES))
    elif how == 2:
        file.write_bytes(whole[:place] + draw.choice(ODD_BYTES) + whole[place:])
    elif how == 3:
        spoilt = bytearray(whole)
        for _ in range(20):
            spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
        file.write_bytes(spoilt)
    elif how == 4:
        file.write_bytes(whole * 3)
    elif how == 5:
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    elif how == 6:
        file.mkdir()
    elif how == 7:
        file.symlink_to(file)
    # else it is missing


# -- data ------------------------------------------------------------------------------------------


def spoil_data(draw: random.Random, home: Path) -> Words:
    """A data file with odd rows, labels, header, quoting, encoding or bytes."""
    labels = draw.choice(
        (
            *(("good", "bad"), ("0", "1")) * 4,
            ("1.0", "nan"),
            ("a", "a "),
            ("[1, 2]", "[0]"),
            ("01", "1"),
            ("\ud800", "x"),
            ("<b>", "`|`"),
            ("\x1b[31m", "\r"),
            *((draw.choice(ODD_TEXTS), draw.choice(ODD_TEXTS)),) * 3,
        )
    )
    rows = [
        {"text": " ".join(draw.choices("abcdefgh", k=6)), "label": labels[n % 2]} for n in range(30)
    ]
    for _ in range(draw.choice((0, 0, 1, 3))):
        draw.choice(rows)[draw.choice(("text", "label"))] = draw.choice(ODD_TEXTS)
    ending = draw.choice(
        ("csv", "csv", "tsv", "jsonl", mostly(draw, "json", "txt", "parquet", "xlsx"))
    )
    file = home / f"train.{ending}"
    if ending in ("jsonl", "json"):
        objects: list[Any] = list(rows)
        if draw.random() < 0.3:
            objects[draw.randrange(30)] = odd_value(draw)
        indent = mostly(draw, None, 2)
        text = "\n".join(json.dumps(one, indent=indent) for one in objects)
        text = nested(json.dumps(objects) if draw.random() < 0.2 else text)
    else:
        separator = mostly(draw, ",", "\t", ";", "|") if ending != "tsv" else "\t"
        quote = mostly(draw, "", '"', "'")
        header = mostly(draw, "text|label", "label|text", "text|text", "|", "a|b", "")
        cells = [[quote + row[name] + quote for name in ("text", "label")] for row in rows]
        lines = [separator.join(header.split("|")), *(separator.join(row) for row in cells)]
        for _ in range(draw.choice((0, 0, 1, 2))):
            lines.insert(
                draw.randrange(len(lines)), draw.choice(('"', "", separator * 5, lines[0]))
            )
        text = mostly(draw, "\n", "\r\n", "\r").join(lines)
    encoding = mostly(draw, "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1")
    file.write_bytes(
        text.encode(encoding, errors="surrogatepass" if "utf" in encoding else "replace")
    )
    if draw.random() < 0.25:
        spoil_file(draw, file)
    command: Words = draw.choice(
        (
            ("teach", "--model", "teacher", "--data", file, "--out", home / "run", *TEACH),
            ("teach", "--model", "teacher", "--data", home, "--out", home / "run", *TEACH),
            ("evaluate", "teacher", "--data", file, "--quiet"),
            ("predict", "teacher", file, "--quiet"),
            ("predict", "teacher", file, "--out", home / "out.csv", "--quiet"),
        )
    )
    return command


# -- configs ---------------------------------------------------------------------------------------


def spoil_config(draw: random.Random, home: Path) -> Words:
    """A YAML file of a run or a study with odd values, or bytes."""
    study = draw.random() < 0.4
    given = yaml.safe_load(STUDY) if study else json.loads(json.dumps(CONFIG))
    file = home / "given.yaml"
    text = nested(yaml.safe_dump(spoil_value(draw, given), allow_unicode=True))
    bombs = ("a: &a [x, x]\nb: &b [*a, *a]\n", "? [1, 2]\n: x\n", "!!python/object:os.system x\n")
    if draw.random() < 0.2:
        text += draw.choice(
            (*bombs, "seed: 1\nseed: 2\n", "\t- x", "<<: *none\n", "x: !!float y\n")
        )
    file.write_text(text, encoding="utf-8")
    if draw.random() < 0.15:
        spoil_file(draw, file)
    if study:
        return ("study", file, "--dry-run")
    return ("distill", file, "--out", home / "run", "--quiet")


# -- folders of others -----------------------------------------------------------------------------


def spoil_model(draw: random.Random, home: Path) -> Words:
    """A model folder with an odd config.json, odd tokenizer files, or odd weights."""
    folder = shutil.copytree("teacher", home / "model")
    file = folder / draw.choice(("config.json", "config.json", "tokenizer_config.json"))
    if draw.random() < 0.3:
        file = folder / draw.choice(("tokenizer.json", "model.safetensors"))
    if file.suffix == ".json" and draw.random() < 0.8:
        spoil_json(draw, file)
    else:
        spoil_file(draw, file)
    command: Words = draw.choice(
        (
            ("evaluate", folder, "--data", "data", "--quiet"),
            ("predict", folder, "data/train.tsv", "--quiet"),
            ("teach", "--model", folder, "--data", "data", "--out", home / "run", *TEACH),
            ("distill", "--teacher", folder, "--data", "data", "--out", home / "run", *FAST),
        )
    )
    return command


def spoil_run(draw: random.Random, home: Path) -> Words:
    """A finished or a stopped run with an odd file."""
    if draw.random() < 0.4:
        folder = shutil.copytree("stopped.partial", home / "run.partial")
        (checkpoint,) = (folder / "checkpoints").glob("checkpoint-*")
        file = draw.choice(
            sorted(p for p in [*folder.iterdir(), *checkpoint.iterdir()] if p.is_file())
        )
        out = home / "run"
        command: Words = ("distill", *STOPPED, "--out", out, draw.choice(("--resume", "--restart")))
        command = draw.choice((command, command, ("report", folder)))
    else:
        folder = shutil.copytree("run", home / "run")
        file = draw.choice(sorted(p for p in folder.iterdir() if p.is_file()))
        command = draw.choice(
            (("report", folder), ("report", folder), ("evaluate", folder, "--data", "data"))
        )
    if file.suffix in (".json", ".jsonl") and file.stat().st_size and draw.random() < 0.7:
        spoil_json(draw, file, lines=file.suffix == ".jsonl")
    else:
        spoil_file(draw, file)
    return command


def spoil_study(draw: random.Random, home: Path) -> Words:
    """A finished study with an odd plan, declaration, result or cell."""
    folder = shutil.copytree("study", home / "study")
    shutil.copy("study.yaml", home)
    cells = [file for cell in (folder / "cells").iterdir() for file in cell.iterdir()]
    file = draw.choice((draw.choice(sorted(folder.glob("*.json"))), draw.choice(sorted(cells))))
    if file.suffix in (".json", ".jsonl") and draw.random() < 0.7:
        spoil_json(draw, file, lines=file.suffix == ".jsonl")
    else:
        spoil_file(draw, file)
    command: Words = draw.choice(
        (
            ("report", folder / "study.json"),
            ("report", folder),
            ("study", home / "study.yaml", "--out", folder, "--dry-run"),
        )
    )
    return command


def spoil_store(draw: random.Random, home: Path) -> Words:
    """A store of teacher signals with an odd manifest, plan or shard."""
    root = shutil.copytree("signals", home / "signals")
    (store,) = (one for one in root.iterdir() if one.is_dir())
    file = draw.choice(sorted(one for one in store.iterdir() if one.suffix))
    if file.suffix == ".json" and draw.random() < 0.7:
        spoil_json(draw, file)
    else:
        spoil_file(draw, file)
    command: Words = draw.choice(
        (
            ("cache", "info"),
            ("cache", "verify"),
            ("cache", "prune", "--days", "0"),
            ("distill", *STOPPED, "--out", home / "run"),
        )
    )
    return (*command, "--cache.folder", root)


KINDS: dict[str, tuple[int, Spoil]] = {
    "data": (90, spoil_data),
    "config": (50, spoil_config),
    "model": (70, spoil_model),
    "run": (40, spoil_run),
    "study": (25, spoil_study),
    "store": (25, spoil_store),
}
assert sum(amount for amount, _ in KINDS.values()) == 300


# -- the right things that are spoilt --------------------------------------------------------------

STOPPED = ("--teacher", "teacher", "--data", "data", *FAST, "--training.save_every=2")


class _Stop(TrainerCallback):
    """Ctrl-C after the third step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


def call(*words: str | Path) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="layermix")


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory,
    bert: Callable[..., BertForSequenceClassification],
    tokenizer: BertTokenizer,
) -> Path:
    """A folder with a teacher, data, a finished and a stopped run, a study and a store."""
    folder = tmp_path_factory.mktemp("hostile")
    model = bert(4, 16)
    model.config.id2label, model.config.label2id = {0: "bad", 1: "good"}, {"bad": 0, "good": 1}
    model.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    (folder / "data").mkdir()
    draw = random.Random(0)
    for split, rows in (("train", 30), ("validation", 10)):
        lines = [(" ".join(draw.choices("abcdefgh", k=6)), n % 2) for n in range(rows)]
        text = "".join(f"{words}\t{('bad', 'good')[label]}\n" for words, label in lines)
        (folder / "data" / f"{split}.tsv").write_text(f"text\tlabel\n{text}", encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        done = call("distill", *STOPPED, "--out", "run", "--cache.folder", "signals")
        assert done.exit_code == 0, done.stderr
        patch.setattr(training, "training_bar", lambda *_: nullcontext(_Stop()))
        assert call("distill", *STOPPED, "--out", "stopped").exit_code == 130
        study = Study(folder / "study", "study")
        plan = make_plan(load_study(Path("study.yaml"), None), study.folder)
        declare(plan, study)
        fill(plan, study)
        done = call("study", "study.yaml", "--out", "study", "--quiet")
        assert done.exit_code == 0, done.stderr
    return folder


class _TooSlow(BaseException):
    """The time is over; not an `Exception`, so that nothing catches it."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises `_TooSlow` when the time is over."""

    def stop(*_: Any) -> None:
        raise _TooSlow

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def end_of(words: Words) -> tuple[str, str]:
    """How a command ended: its exit code or the fault, and what was seen."""
    try:
        with within(LIMIT):
            done = call(*words)
    except _TooSlow:
        return "too slow", ""
    except BaseException as error:  # pyo3's PanicException is no Exception
        return type(error).__name__, "".join(traceback.format_exception(error)[-3:])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        last = traceback.format_exception(done.exception)[-3:]
        return type(done.exception).__name__, "".join(last)
    if done.exit_code not in ENDS or "Traceback" in done.stderr:
        return f"exit {done.exit_code}", done.stderr[-600:]
    if done.exit_code and not done.output.strip():
        return "silent", ""
    return str(done.exit_code), ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_inputs_end_without_a_traceback_and_in_time(
    kind: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    amount, spoil = KINDS[kind]
    ends, faults = Counter[str](), list[str]()
    for number in range(amount):
        place = tmp_path / str(number)
        place.mkdir()
        with chdir(home):
            words = spoil(random.Random(f"{kind} {number}"), place)
            end, seen = end_of(words)
        ends[end] += 1
        if not end.isdigit():
            faults.append(f"{kind} {number}: {' '.join(map(str, words))}: {end}\n{seen}")
        shutil.rmtree(place)
    with capsys.disabled():
        counts = ", ".join(f"{end}: {count}" for end, count in sorted(ends.items()))
        sys.stdout.write(f"\n{amount} hostile inputs of the kind {kind}, by exit code: {counts}\n")
    assert not faults, "\n\n".join(faults)
