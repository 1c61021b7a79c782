"""Several processes train one run: the numbers of one process, nothing lost, no process left."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, BertTokenizer

from layermix.core.checkpoints import CHECKSUMS, checkpoints_in, last_checkpoint
from layermix.teacher_cache.answers import STORED_FROM

from ..forked import PIPE, Forked, together

OFFLINE = os.environ | {"HF_HUB_OFFLINE": "1"}
PATIENCE = 240.0  # seconds, for processes on a busy machine
ENDED = 30.0  # seconds in which all processes end when one of them has
ROWS = {"train": 61, "validation": 11, "test": 11}


@pytest.fixture
def command(
    tmp_path: Path,
    bert: Callable[..., BertForSequenceClassification],
    tokenizer: BertTokenizer,
) -> list[str]:
    """The words of `distill …` without --out: nothing is random but the order of the rows."""
    bert(4, 32, dropout=0.0).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    draw = random.Random(0)
    (tmp_path / "data").mkdir()
    for split, rows in ROWS.items():
        lines = [" ".join(draw.choices("abcdefghijk", k=draw.randint(2, 12))) for _ in range(rows)]
        text = "".join(f"{line}\t{int('a' in line)}\n" for line in lines)
        (tmp_path / "data" / f"{split}.tsv").write_text(f"text\tlabel\n{text}", encoding="utf-8")
    return [
        *("distill", "--quiet", "--preset", "quick"),
        *("--teacher", str(tmp_path / "teacher"), "--teacher.allow_weak"),
        *("--data", str(tmp_path / "data"), "--training.precision", "fp32"),
        *("--training.epochs", "3", "--training.batch_size", "16"),
        *("--training.learning_rate", "1e-4", "--training.log_every", "1"),
        *("--training.save_every", "3"),
        *("--mix.strategy", "learned", "--mix.learning_rate", "0.05", "--loss.hidden_weight", "1"),
    ]


def run(count: int, words: list[str], out: Path, *more: str) -> None:
    """Run a command in so many processes, each number of them with a cache of its own."""
    cache = {"LAYERMIX_CACHE": str(out.with_name(f"cache of {count}"))}
    words = [*words, "--out", str(out), *more]
    if count == 1:
        assert Forked(words, variables=OFFLINE | cache).wait(PATIENCE) == 0
    else:
        started = together(count, words, variables=OFFLINE | cache)
        assert [process.wait(PATIENCE) for process in started] == [0] * count


def largest_difference(one: Any, other: Any) -> float:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max(largest_difference(one[key], other[key]) for key in one)
    if isinstance(one, list):
        pairs = zip(one, other, strict=True)
        return max((largest_difference(*pair) for pair in pairs), default=0.0)
    return abs(one - other)


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def assert_same_training(one: Path, several: Path) -> None:
    assert largest_difference(history(one), history(several)) < 1e-5
    alphas = [(folder / "alpha.jsonl") for folder in (one, several)]
    if alphas[0].exists():
        steps = [[json.loads(line) for line in file.read_text().splitlines()] for file in alphas]
        assert largest_difference(*steps) < 1e-5
    assert_same_weights(*(folder / "student" for folder in (one, several)))
    rows = [pq.read_table(folder / "predictions.parquet") for folder in (one, several)]
    reports, split = 2, ROWS["validation"]
    for table in rows:
        assert len(table) == reports * split
        assert len(set(table["row_id"].to_pylist())) == split
    assert rows[0]["prediction"].equals(rows[1]["prediction"])


def assert_same_weights(one: Path, several: Path) -> None:
    weights = [load_file(folder / "model.safetensors") for folder in (one, several)]
    for name, weight in weights[0].items():
        assert (weight - weights[1][name]).abs().max() < 1e-4, name


OPTIONS = {
    "as it is": [],
    # 61 rows, 3 at a time: the last batch has one, and one process none
    "a process without rows": ["--training.batch_size", "3", "--training.accumulation", "2"],
    "new rows, which one process makes for both": ["--data.augment", "30"],
    "all that is logged, and rows held out": [
        *("--training.selection", "holdout", "--training.gradients_every", "2"),
        *("--loss.attention_weight", "0.5", "--training.loader_workers", "1"),
        *("--loss.class_weights", "balanced", "--training.batching", "random"),
    ],
}
QUICK = ("a process without rows", "new rows, which one process makes for both")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name, options in OPTIONS.items()
    ],
)
def test_two_processes_train_what_one_trains(
    command: list[str], tmp_path: Path, options: list[str]
) -> None:
    words = [*command, "--student.dropout", "0", *options]
    run(1, words, tmp_path / "one")
    run(2, words, tmp_path / "two")
    assert_same_training(tmp_path / "one", tmp_path / "two")
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert environment["processes"] == 2


def test_teach_and_pretrain_in_two_processes(command: list[str], tmp_path: Path) -> None:
    data, teacher = str(tmp_path / "data"), str(tmp_path / "teacher")
    training = command[command.index("--training.precision") : command.index("--mix.strategy")]
    taught = ["teach", "--quiet", "--model", teacher, "--data", data, *training]
    texts = tmp_path / "texts.txt"
    draw = random.Random(0)
    lines = (" ".join(draw.choices("abcdefghijk", k=20)) for _ in range(60))
    texts.write_text("\n".join(lines), encoding="utf-8")
    pretrained = [
        *("pretrain", "--quiet", "--teacher", teacher, "--texts", str(texts)),
        *("--texts.max_length", "16", *training, "--training.epochs", "1"),
        *("--loss.projection_start", "fitted"),
    ]
    for name, words, model in (("taught", taught, "teacher"), ("pre", pretrained, "student")):
        folders = [tmp_path / f"{name}-{count}" for count in (1, 2)]
        for count, folder in enumerate(folders, 1):
            run(count, words, folder)
        assert largest_difference(*map(history, folders)) < 1e-5
        assert_same_weights(*(folder / model for folder in folders))


@pytest.mark.slow
def test_processes_of_mpirun_train_one_run(command: list[str], tmp_path: Path) -> None:
    run(1, command, tmp_path / "one", "--student.dropout", "0")
    words = [*command, "--student.dropout", "0", "--out", str(tmp_path / "two")]
    names = {"WORLD_SIZE": "OMPI_COMM_WORLD_SIZE", "RANK": "OMPI_COMM_WORLD_RANK"}
    started = together(2, words, variables=OFFLINE, names=names)
    assert [process.wait(PATIENCE) for process in started] == [0, 0]
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_each_row_is_asked_and_stored_once(command: list[str], tmp_path: Path) -> None:
    run(2, command, tmp_path / "two", "--training.epochs", "1")
    manifests = list((tmp_path / "cache of 2").glob("*/manifest.json"))
    assert len(manifests) == 1
    shards = json.loads(manifests[0].read_text())["shards"].values()
    texts = (tmp_path / "data" / "train.tsv").read_text().splitlines()[1:]
    assert sum(shard["rows"] for shard in shards) == len({text.split("\t")[0] for text in texts})
    left = {file.name for file in manifests[0].parent.iterdir()} & {"plan.json"}
    assert not left


def test_many_scored_rows_are_answered_once_and_known_to_all(
    command: list[str], tmp_path: Path
) -> None:
    rows, file = STORED_FROM // 10, tmp_path / "data" / "validation.tsv"
    draw = random.Random(1)
    lines = [" ".join(draw.choices("abcdefghijk", k=10)) for _ in range(rows)]
    text = "".join(f"{line}\t{int('a' in line)}\n" for line in lines)
    file.write_text(f"text\tlabel\n{text}", encoding="utf-8")
    tests = (tmp_path / "data" / "test.tsv").read_text().splitlines()[1:]
    scored_texts = {*lines, *(row.split("\t")[0] for row in tests)}
    tables = []
    for count in (1, 2):
        run(count, command, tmp_path / f"{count}", "--training.epochs", "1")
        tables.append(pq.read_table(tmp_path / f"{count}" / "predictions.parquet"))
        manifests = [
            json.loads(manifest.read_text())
            for manifest in (tmp_path / f"cache of {count}").glob("*/manifest.json")
        ]
        (scored,) = (one for one in manifests if one["identity"].get("scored"))
        assert sum(shard["rows"] for shard in scored["shards"].values()) == len(scored_texts)
    for name in tables[0].column_names:
        if name.startswith("teacher"):
            assert tables[0][name].equals(tables[1][name])
    assert set(tables[0]["teacher"].to_pylist()) == {0, 1}


def test_machines_that_share_no_disk_have_all_signals_each(
    command: list[str], tmp_path: Path
) -> None:
    words = [*command, "--training.epochs", "1", "--out", str(tmp_path / "out")]
    caches = [tmp_path / f"cache of machine {number}" for number in range(2)]
    machines = [{"LAYERMIX_CACHE": str(cache)} for cache in caches]
    texts = (tmp_path / "data" / "train.tsv").read_text().splitlines()[1:]
    for lost in (None, 1, 0):  # then one machine has all, and the other one nothing
        if lost is not None:
            shutil.rmtree(caches[lost])
            shutil.rmtree(tmp_path / "out")
        started = together(2, words, variables=OFFLINE, machines=machines)
        assert [process.wait(PATIENCE) for process in started] == [0, 0]
        for cache in caches:
            (manifest,) = cache.glob("*/manifest.json")
            shards = json.loads(manifest.read_text())["shards"].values()
            rows = {text.split("\t")[0] for text in texts}
            assert sum(shard["rows"] for shard in shards) == len(rows)


def wait_for(found: Callable[[], bool], processes: list[Forked]) -> None:
    until = time.monotonic() + PATIENCE
    while not found():
        assert all(one.poll() is None for one in processes), "they ended before they were killed"
        assert time.monotonic() < until, "they are too slow"
        time.sleep(0.005)


@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_if_one_is_killed_all_end_and_the_run_resumes_with_the_same_bytes(
    command: list[str], tmp_path: Path, killed: int
) -> None:
    """With dropout, whose masks each process draws for itself."""
    run(2, command, tmp_path / "straight")
    partial = tmp_path / "broken.partial"
    words = [*command, "--out", str(tmp_path / "broken"), "--resume"]
    started = together(2, words, variables=OFFLINE, stderr=PIPE)
    wait_for(lambda: any(sealed(partial)), started)
    started[killed].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    codes = [process.communicate() and process.wait(ENDED) for process in started]
    assert time.monotonic() - begun < ENDED
    assert codes[killed] == -signal.SIGKILL
    assert codes[1 - killed] != 0
    run(2, command, tmp_path / "broken", "--resume")
    assert not partial.exists()
    for name in ("history.jsonl", "alpha.jsonl", "student/model.safetensors"):
        files = [tmp_path / folder / name for folder in ("straight", "broken")]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def sealed(partial: Path) -> Iterator[Path]:
    """Checkpoints that are whole."""
    for checkpoint in checkpoints_in(partial / "checkpoints").values():
        if (checkpoint / CHECKSUMS).is_file():
            yield checkpoint


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes_and_says_what_differs(
    command: list[str], tmp_path: Path
) -> None:
    words = [*command, "--student.dropout", "0"]
    run(1, words, tmp_path / "straight")
    partial, out = tmp_path / "broken.partial", tmp_path / "broken"
    started = together(2, [*words, "--out", str(out)], variables=OFFLINE)
    wait_for(lambda: any(sealed(partial)), started)
    for process in started:
        process.send_signal(signal.SIGKILL)
    for process in started:
        process.wait(ENDED)
    assert last_checkpoint(partial / "checkpoints") is not None
    run(1, words, out, "--resume")
    assert_same_training(tmp_path / "straight", out)
    warnings = json.loads((out / "result.json").read_text())["warnings"]
    assert "other-processes" in {warning["code"] for warning in warnings}


NAN_IN_ONE = """
import os, sys
import torch
from layermix.config import DistillConfig
from layermix.core.terms import Term
from layermix.data.texts import from_splits
from layermix.errors import LayermixError
from layermix.models.loading import load_classifier
from layermix.models.students import copy_blocks
from layermix.runs.pipeline import distill_from

class Broken(Term):
    name, symbol, calls = "broken", "broken", 0
    def forward(self, given):
        self.calls += 1
        broken = self.calls == 6 and os.environ["RANK"] == "1"  # one was before training
        return given.student.logits.sum(-1) * (float("nan") if broken else 1.0)

texts = from_splits({
    split: [{"text": f"{letter} {other}", "label": int(letter < "f")} for letter in "abcdefghij"
            for other in others]
    for split, others in (("train", "abc"), ("validation", "d"))
})
teacher = load_classifier(sys.argv[1], texts.label_names)
config = DistillConfig.model_validate({
    "preset": "quick", "teacher": {"allow_weak": True},
    "training": {"epochs": 3, "batch_size": 4, "log_every": 2, "precision": "fp32"},
})
try:
    distill_from(teacher, copy_blocks(teacher, 2), texts, config, terms=[Broken()])
except LayermixError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_nan_in_one_process_ends_all_with_the_message(command: list[str], tmp_path: Path) -> None:
    del command  # it has written the teacher
    words, how = [str(tmp_path / "teacher")], {"variables": OFFLINE, "stdout": PIPE}
    started = together(2, words, program=NAN_IN_ONE, **how)
    for process in started:
        said = process.communicate(timeout=PATIENCE)[0].decode()
        assert process.returncode == 1
        assert "the loss part broken became NaN or infinite at step 5; training stopped" in said


FAMILIES_STEP = """
import importlib, sys
from layermix.config import DistillConfig
from layermix.data.texts import from_splits
from layermix.models.students import copy_blocks
from layermix.runs.pipeline import distill_from
from tests.contract.conftest import FAMILIES

texts = from_splits({
    split: [{"text": f"{letter} {other}", "label": int(letter < "f")} for letter in "abcdefghij"
            for other in others]
    for split, others in (("train", "ab"), ("validation", "d"))
})
config = DistillConfig.model_validate({
    "preset": "quick", "teacher": {"allow_weak": True}, "loss": {"hidden_weight": 1},
    "mix": {"strategy": "learned"}, "cache": {"use": False},
    "training": {"epochs": 1, "batch_size": 10, "log_every": 1, "precision": "fp32"},
})
for family in FAMILIES:
    teacher = family.make()
    result = distill_from(teacher, copy_blocks(teacher, 2), texts, config)
    print(family.name, sum("loss" in line for line in result.history), result.folder)
"""


def test_every_family_gives_every_weight_a_gradient(tmp_path: Path) -> None:
    """Else DDP would fail at the second step, since it looks for no unused parameters."""
    root = str(Path(__file__).parents[2])
    variables = OFFLINE | {"PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
    program = f"import sys; sys.path.insert(0, {root!r})\n{FAMILIES_STEP}"
    started = together(2, [], program=program, variables=variables, stdout=PIPE)
    for process in started:
        said = process.communicate(timeout=PATIENCE)[0].decode().splitlines()
        assert process.returncode == 0
        assert len(said) == 9
        assert all(line.endswith(" 2 None") for line in said)


REFUSED = {
    "FSDP": ({"ACCELERATE_USE_FSDP": "true"}, ["distill"], "launched for FSDP"),
    "DeepSpeed": ({"ACCELERATE_USE_DEEPSPEED": "true"}, ["distill"], "launched for DeepSpeed"),
    "mixed precision": (
        {"ACCELERATE_MIXED_PRECISION": "bf16"},
        ["distill"],
        "choose with --training.precision",
    ),
    "another command": ({}, ["study", "none.yaml", "--out", "out"], "runs in one"),
    "padding that counts": (
        {},
        ["distill", "--loss.hidden", "tinybert_mean"],
        "set training.padding to max_length",
    ),
}


@pytest.mark.parametrize(("variables", "words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_several_processes_cannot_do_is_refused_once(
    command: list[str],
    tmp_path: Path,
    variables: dict[str, str],
    words: list[str],
    message: str,
) -> None:
    if words[0] == "distill":
        words = [*command, *words[1:], "--out", str(tmp_path / "out")]
    started = together(2, words, variables=OFFLINE | variables, stderr=PIPE, folder=tmp_path)
    main = started[0].communicate(timeout=PATIENCE)[1].decode()
    started[1].terminate()  # as the launcher does
    other = started[1].communicate(timeout=PATIENCE)[1].decode()
    assert started[0].returncode == 2
    assert main.startswith("Error: ")
    assert message in main
    assert "Error" not in other
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_the_launchers_themselves(command: list[str], tmp_path: Path, launcher: str) -> None:
    """A run; a killed process, whose launcher ends the other one; the run resumed."""
    script = Path(sys.executable).with_name(launcher)
    several = ["--nproc_per_node", "2"] if launcher == "torchrun" else ["launch", "--multi_gpu"]
    if launcher == "accelerate":
        several += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
        several += ["--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    words = [*command, "--training.epochs", "30", "--out", str(tmp_path / "out"), "--resume"]
    launch = [str(script), *several, "-m", "layermix", *words]
    with subprocess.Popen(launch, env=OFFLINE, cwd=tmp_path, stderr=PIPE) as process:
        until = time.monotonic() + PATIENCE
        while not any(sealed(tmp_path / "out.partial")):
            assert time.monotonic() < until
            time.sleep(0.1)
        ranks = children(process.pid)
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        process.communicate(timeout=ENDED)
        assert process.returncode != 0
        assert not any(Path(f"/proc/{rank}/cmdline").exists() for rank in ranks)
    ended = subprocess.run(launch, env=OFFLINE, cwd=tmp_path, capture_output=True, timeout=PATIENCE)
    assert ended.returncode == 0
    assert ended.stdout.decode().count("validation") == 1, "printed once"
    assert (tmp_path / "out" / "result.json").is_file()


def children(process: int) -> list[int]:
    """The processes of layermix that a launcher has started, in its order."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False
    ).stdout.split()
    return [int(one) for one in listed]
