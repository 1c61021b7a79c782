"""Killed while signals are stored or while training, at random moments: every restart ends right.

Also: two processes that fill one store, a disk that is full, a store that is larger than memory.
"""

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

import pytest
import torch
from safetensors import safe_open
from transformers import BertForSequenceClassification, BertTokenizer

from ..forked import Forked

ROWS, EPOCHS, BATCH = 60, 8, 4
LINES = EPOCHS * (ROWS // BATCH + 1)  # of the history
PATIENCE = 120.0
PROGRAM = """
import sys
from pathlib import Path
from layermix.teacher_cache import cached_teacher
from layermix.runs import pipeline
from layermix.config import DistillConfig
cached_teacher.FILL_TOKENS = 40  # about four texts in a batch
cached_teacher.SHARD_BYTES = 1  # a shard for each batch
config = DistillConfig.model_validate({
    "preset": "quick", "teacher": {"model": "teacher", "allow_weak": True}, "data": "data",
    "cache": {"folder": sys.argv[1]}, "mix": "learned",
    "training": {"epochs": int(sys.argv[2]), "batch_size": int(sys.argv[3]), "log_every": 1,
                 "learning_rate": 1e-3, "save_every": 3},
})
if len(sys.argv) == 4:
    pipeline.build_cache(config)
else:
    pipeline.distill(config, Path(sys.argv[4]), resume=True)
"""
SIZES = (str(EPOCHS), str(BATCH))
RESULTS = ("history.jsonl", "alpha.jsonl", "predictions.parquet", "student/model.safetensors")


@pytest.fixture
def home(
    tmp_path: Path, bert: Callable[..., BertForSequenceClassification], tokenizer: BertTokenizer
) -> Path:
    """A folder with a tiny teacher and tiny data, in which the program runs."""
    bert(4, 32).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    draw = random.Random(0)
    (tmp_path / "data").mkdir()
    for split, rows in (("train", ROWS), ("validation", 12)):
        lines = [" ".join(draw.choices("abcdefghijk", k=draw.randint(4, 12))) for _ in range(rows)]
        text = "".join(f"{line}\t{int('a' in line)}\n" for line in lines)
        (tmp_path / "data" / f"{split}.tsv").write_text(f"text\tlabel\n{text}", encoding="utf-8")
    return tmp_path


def started(home: Path, cache: str, *run: str, program: str = PROGRAM) -> Forked:
    """A process that fills a cache, and distils to a run folder if one is named."""
    return Forked(
        [cache, *SIZES, *run],
        program=program,
        folder=home,
        stderr=subprocess.PIPE,
        variables=os.environ | {"HF_HUB_OFFLINE": "1"},
    )


def finished(process: Forked) -> str:
    """What a process wrote to standard error; it must end well."""
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told.decode()
    return told.decode()


def kill_when(process: Forked, moment: Callable[[], bool], delay: float) -> bool:
    """Kill a process a little after a moment; False if it had ended by then."""
    until = time.monotonic() + PATIENCE
    while not moment() and process.poll() is None:
        assert time.monotonic() < until, "it is too slow"
        time.sleep(0.0005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    _, told = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), told.decode()
    return process.returncode != 0


def shards(store_root: Path) -> int:
    return sum(1 for _ in store_root.rglob("*.safetensors"))


def lines_in(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def content(store_root: Path) -> dict[bytes, bytes]:
    """What is stored of each row, by its key, over all shards that a manifest names."""
    found = {}
    for manifest in store_root.rglob("manifest.json"):
        for name in json.loads(manifest.read_text())["shards"]:
            with safe_open(manifest.parent / name, "pt") as file:
                keys, counts = file.get_tensor("keys"), file.get_tensor("counts").tolist()
                logits, hidden = file.get_tensor("logits"), file.get_tensor("hidden")
            parts = hidden.split([count * 2 * 32 for count in counts])
            for row, part in enumerate(parts):
                both = logits[row].numpy().tobytes() + part.view(torch.uint8).numpy().tobytes()
                found[keys[row].numpy().tobytes()] = both
    return found


@pytest.mark.parametrize(
    ("kills", "filling", "training"),
    [
        (2, (0.5,), (0.5,)),
        pytest.param(40, (0.2, 0.5, 0.8), (0.3, 0.7), marks=pytest.mark.slow),
    ],
)
def test_killed_anywhere_and_started_again_it_ends_right(
    home: Path, kills: int, filling: tuple[float, ...], training: tuple[float, ...]
) -> None:
    finished(started(home, "straight-cache", "straight"))
    expected = content(home / "straight-cache")
    assert len(expected) == ROWS
    total = shards(home / "straight-cache")
    draw = random.Random(kills)
    done = 0
    while done < kills:  # rounds of some kills while signals are stored, then some in training
        for name in ("cache", "run", "run.partial"):
            shutil.rmtree(home / name, ignore_errors=True)
        for share in filling:
            there = max(1, int(share * total) + draw.randint(-1, 1))
            process = started(home, "cache", "run")
            done += kill_when(
                process,
                lambda there=there: shards(home / "cache") >= there,
                draw.random() / 100,
            )
        for share in training:
            there = int((share + draw.uniform(-0.15, 0.15)) * LINES)
            process = started(home, "cache", "run")
            done += kill_when(
                process,
                lambda there=there: lines_in(home / "run.partial" / "history.jsonl") >= there,
                draw.random() / 100,
            )
        finished(started(home, "cache", "run"))
        assert content(home / "cache") == expected
        for name in RESULTS:
            assert (home / "run" / name).read_bytes() == (home / "straight" / name).read_bytes()


def test_two_processes_fill_one_store_and_both_end_right(home: Path) -> None:
    finished(started(home, "straight"))
    pair = [started(home, "both") for _ in range(2)]
    for process in pair:
        finished(process)
    assert content(home / "both") == content(home / "straight")
    assert shards(home / "both") == shards(home / "straight")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here (it needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_it_with_the_numbers_and_it_can_go_on(
    home: Path, tiny_disk: Path
) -> None:
    """`SPARE_BYTES` off, or it would not have begun: a disk can fill up while it writes."""
    code = PROGRAM.replace(
        "cached_teacher.FILL",
        "from layermix.teacher_cache import choose\n"
        "choose.SPARE_BYTES = -(10**9)\ncached_teacher.FILL",
        1,
    )
    full = started(home, str(tiny_disk), program=code)
    _, said = full.communicate()
    assert full.returncode == 1
    told = said.decode().splitlines()[-1]
    assert "CacheError" in told
    assert "MB of teacher signals (No space left on device; 0.0" in told
    assert "rows written before are kept. Make room (`layermix cache prune`), or choose" in told
    assert not list(tiny_disk.rglob("*.writing"))
    kept = content(tiny_disk)
    assert 0 < len(kept) < ROWS
    subprocess.run(["mount", "-o", "remount,size=4m", str(tiny_disk)], check=True)
    finished(started(home, "straight"))
    finished(started(home, str(tiny_disk), program=code))
    assert content(tiny_disk) == content(home / "straight")


READER = """
import resource, sys
from pathlib import Path
import torch
from layermix.teacher_cache.cached_teacher import CachedTeacher
from layermix.teacher_cache.manifest import Identity
from layermix.teacher_cache.store import SignalStore
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
before = anonymous()
store = SignalStore(Path(sys.argv[1]), Identity("t", (0, 1, 2, 3), False, 768, 2, "float16",
                                               "float32", "setup"), sys.exit)
keys = list(store.places)
teacher = CachedTeacher(store, range(len(keys)), keys, 12)
mapped = store.bytes_on_disk
resource.setrlimit(resource.RLIMIT_DATA, (3 * 2**30, 3 * 2**30))
order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(0))[: int(sys.argv[2])]
for rows in order.split(16):
    mask = torch.zeros(16, 128, dtype=torch.long)
    for example, row in enumerate(rows.tolist()):
        mask[example, : teacher.places[row].tokens] = 1
    found = teacher({"attention_mask": mask, "row_id": rows})
    assert found.hidden.shape == (4, 16, 128, 768)
print(mapped, 1024 * (anonymous() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc and needs sparse files")
@pytest.mark.parametrize(
    ("number", "reads"), [(13, 400), pytest.param(96, 3200, marks=pytest.mark.slow)]
)
def test_a_cache_larger_than_memory_is_read_with_little(
    tmp_path: Path, number: int, reads: int
) -> None:
    """Sparse files, so that they take no room; the limit would kill what loads the store."""
    from layermix.teacher_cache.manifest import FORMAT, Identity, Manifest, Shard
    from layermix.teacher_cache.store import stamp

    identity = Identity("t", (0, 1, 2, 3), False, 768, 2, "float16", "float32", "setup")
    rows, tokens = 400, 128
    entries = {}
    for shard in range(number):
        keys = torch.zeros(rows, 16, dtype=torch.uint8)
        keys[:, :8] = (torch.arange(rows) + shard * rows).view(-1, 1).view(torch.uint8)
        small = {
            "keys": keys,
            "counts": torch.full((rows,), tokens, dtype=torch.int32),
            "logits": torch.zeros(rows, 2),
        }
        file = tmp_path / f"{shard:016x}.safetensors"
        _sparse(file, small, rows * tokens * 4 * 768)
        entries[file.name] = Shard(
            bytes=file.stat().st_size,
            sha256="0" * 64,
            rows=rows,
            tokens=rows * tokens,
            written=stamp(file),
        )
    manifest = Manifest(format=FORMAT, identity=identity, shards=entries)
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path), str(reads)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    mapped, anonymous = map(int, done.stdout.split())
    assert mapped > number * 0.314e9  # more than the limit of 3 GB
    assert anonymous < mapped / 10


def _sparse(file: Path, small: dict[str, torch.Tensor], halves: int) -> None:
    """A safetensors file with a `hidden` of so many float16 zeros that takes no room."""
    kinds = {torch.uint8: "U8", torch.int32: "I32", torch.float32: "F32"}
    header: dict[str, object] = {}
    at = 0
    for name, tensor in small.items():
        header[name] = {
            "dtype": kinds[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    header["hidden"] = {"dtype": "F16", "shape": [halves], "data_offsets": [at, at + 2 * halves]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in small.values():
            stream.write(tensor.numpy().tobytes())
        stream.truncate(8 + len(text) + at + 2 * halves)
