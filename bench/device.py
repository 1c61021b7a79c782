"""What one GPU gives: the parts of device.sh, each in a process of its own, and their JSON.

A part prints a row as soon as it has one, so one that is stopped or fails leaves what it found.
"""

import argparse
import copy
import datetime
import gc
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache as once
from pathlib import Path
from typing import Any

import step

HOME = Path(__file__).resolve().parents[1]
BATCHES = (16, 128)
PROFILED = 20  # steps
ROW = "ROW "
WHOLE = 10_000  # epochs: a window ends it


class Sizes:
    """How much is measured; `--smoke` takes the second of each."""

    steps, windows, fixed_length, replays = 50, 2, 64, 50

    @classmethod
    def shrink(cls) -> None:
        """Toy sizes, to see whether a part runs at all."""
        cls.steps, cls.windows, cls.fixed_length, cls.replays = 2, 1, 8, 2
        step.WARM = 1
        step.models = toys
        everything = step.tokens

        def few(tokenizer: Any) -> Any:
            found = everything(tokenizer)
            found.splits["train"] = found.splits["train"].select(range(40))
            return found

        step.tokens = few


def toys(_: str) -> tuple[Any, Any]:
    from transformers import BertConfig, BertForSequenceClassification

    from layermix.models.encoder import Classifier

    tokenizer = step.packaged().tokenizer

    def toy(depth: int) -> Any:
        small = {"hidden_size": 24, "num_attention_heads": 12, "intermediate_size": 24}
        model = BertForSequenceClassification(BertConfig(num_hidden_layers=depth, **small))
        return Classifier(model, tokenizer, "toy")

    return toy(12), toy(4)


def make_models_once() -> None:
    """Each measurement gets copies: to draw the weights of BERT base takes longer than a window."""
    made = once(step.models)

    def copies(which: str) -> tuple[Any, ...]:
        return tuple(replace(one, model=copy.deepcopy(one.model)) for one in made(which))

    step.models = copies


def row(name: str, value: Any, unit: str) -> None:
    print(ROW + json.dumps({"name": name, "value": value, "unit": unit}), flush=True)


@contextmanager
def told(what: str) -> Iterator[None]:
    """An error within is written down, and what comes after goes on."""
    try:
        yield
    except Exception as error:  # whatever it is, the rest is worth having
        traceback.print_exc()
        row(f"{what}: error", f"{type(error).__name__}: {error}"[:500], "error")
    free()


def free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> float:
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def per_step(found: Any) -> float:
    """Milliseconds of a step."""
    return 1000 * found["seconds"] * step.BATCH / found["examples"]


# -- the tests, and the speed of a step beside others ----------------------------------------------


def tests(_: Path) -> None:
    """The tests marked `gpu`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "tests/gpu",
            "-m",
            "gpu",
            "-p",
            "no:cacheprovider",
        ]
        done = subprocess.run([*command, f"--junitxml={report}"], cwd=HOME, check=False)
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    for case in cases:
        bad = [one for one in case if one.tag in ("failure", "error", "skipped")]
        outcome = f"{bad[0].tag}: {bad[0].get('message')}"[:500] if bad else "passed"
        row(f"test {case.get('name')}", outcome, f"outcome, {float(case.get('time') or 0):.1f} s")
    if done.returncode:
        row("tests: error", f"pytest ended with {done.returncode}", "error")


def steps(cache: Path) -> None:
    """Examples a second, in turns; then the float32 ones with TF32 products."""
    import torch

    live = {"live": True}
    contenders: dict[str, Callable[[], Any]] = {
        "textbrewer": lambda: step.textbrewer("paper", Sizes.steps),
        "tinybert": lambda: step.tinybert("paper", Sizes.steps),
        "layermix fp32": lambda: own("fp32", cache),
        "layermix bf16": lambda: own("bf16", cache),
        "layermix bf16, live teacher": lambda: own("bf16", cache, **live),
    }
    for step.BATCH in BATCHES:
        at = f"batch {step.BATCH}"
        limits: Any = {}
        with told(f"{at}: bound"):
            limits = step.bound("paper")
            for kind in ("fp32", "bf16"):
                row(f"{at}: one large product, {kind}", limits[kind]["gigaflops"] / 1000, "TFLOP/s")
                for how in ("one large product", "the student's own shapes"):
                    row(f"{at}: bound of a step by {how}, {kind}", limits[kind][how], "examples/s")
        rates: dict[str, list[float]] = defaultdict(list)
        for _ in range(Sizes.windows):
            for name, run in contenders.items():
                measured(at, name, run, rates[name])
        compare(at, rates, limits)
    torch.set_float32_matmul_precision("high")  # at the last size
    rates = defaultdict(list)
    for name in ("textbrewer", "tinybert", "layermix fp32"):
        measured(f"{at}, TF32", name, contenders[name], rates[name])
    compare(f"{at}, TF32", rates, {})


def own(precision: str, cache: Path, **options: Any) -> Any:
    """A window of our steps."""
    return step.layermix("paper", precision, Sizes.steps, WHOLE, cache, **options)


def measured(at: str, name: str, run: Callable[[], Any], rates: list[float]) -> None:
    with told(f"{at}: {name}"):
        free()
        found = run()
        rates.append(found["examples"] / found["seconds"])
        row(f"{at}: {name}", rates[-1], "examples/s")
        row(f"{at}: {name}, a step", per_step(found), "ms")
        row(f"{at}: {name}, peak memory of the device", peak(), "GiB")


def compare(at: str, rates: dict[str, list[float]], limits: Any) -> None:
    middle = {name: statistics.median(own) for name, own in rates.items() if own}
    for name, rate in middle.items():
        for peer in ("textbrewer", "tinybert"):
            if name.startswith("layermix") and peer in middle:
                row(f"{at}: {name} against {peer}", rate / middle[peer], "times as fast")
        kind = name.removeprefix("layermix ")
        if kind in limits:
            row(
                f"{at}: {name} against its bound", limits[kind]["one large product"] / rate, "times"
            )


# -- what limits a step ----------------------------------------------------------------------------


def profile(cache: Path) -> None:
    """Launches, busy share, synchronisations and the host's time of a bfloat16 step."""
    for step.BATCH in BATCHES:
        for name, options in (("cached", {}), ("live", {"live": True})):
            at = f"bf16, batch {step.BATCH}, {name} teacher"
            with told(at):
                plain = per_step(own("bf16", cache, **options))
                row(f"{at}: a step", plain, "ms")
                watched(at, cache, plain, options)
            if name == "cached":
                with told(f"{at}: synchronisations"):
                    synchronisations(at, cache)
        with told(f"batch {step.BATCH}: host"):
            host_phases(f"bf16, batch {step.BATCH}, cached teacher", cache)


def watched(at: str, cache: Path, plain: float, options: dict[str, Any]) -> None:
    """Rows from a trace of some steps; `plain` is what a step takes without the profiler."""
    import torch
    from transformers import TrainerCallback

    profiler = torch.profiler.profile()

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (step.WARM, step.WARM + PROFILED):
                step.settled()
                (profiler.start if state.global_step == step.WARM else profiler.stop)()

    many = PROFILED + 5
    step.layermix("paper", "bf16", many, WHOLE, cache, callbacks=[Watch()], **options)
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(f"{folder}/trace.json").read_text("utf-8"))["traceEvents"]
    kinds = defaultdict(list)
    for event in events:
        kinds[event.get("cat")].append(event)

    def milliseconds(kind: str) -> float:
        return sum(event["dur"] for event in kinds[kind]) / 1000 / PROFILED

    busy = sum(milliseconds(kind) for kind in ("kernel", "gpu_memcpy", "gpu_memset"))
    row(f"{at}: kernels a step", len(kinds["kernel"]) / PROFILED, "launches")
    row(f"{at}: copies a step", len(kinds["gpu_memcpy"]) / PROFILED, "copies")
    row(f"{at}: time of kernels, copies and fills a step", busy, "ms")
    row(f"{at}: of these, copies", milliseconds("gpu_memcpy"), "ms")
    row(f"{at}: busy share", busy / plain, "of the step's time without the profiler")
    calls = Counter(event["name"] for event in kinds["cuda_runtime"] + kinds["cuda_driver"])
    for name in calls:
        if "Synchronize" in name or "Launch" in name or "Memcpy" in name:
            row(f"{at}: {name} a step", calls[name] / PROFILED, "calls")
    operations = Counter(event["name"] for event in kinds["cpu_op"])
    for name in ("aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"):
        row(f"{at}: {name} a step", operations[name] / PROFILED, "calls")
    for name, count in operations.most_common(20):
        row(f"{at}: operation {name}", count / PROFILED, "calls a step")
    each: dict[str, list[float]] = defaultdict(list)
    for event in kinds["kernel"] + kinds["gpu_memcpy"] + kinds["gpu_memset"]:
        each[short(event["name"])].append(event["dur"])
    for name, times in sorted(each.items(), key=lambda one: -sum(one[1]))[:15]:
        many_a_step = f"{len(times) / PROFILED:.1f} a step"
        row(f"{at}: kernel {name}, {many_a_step}", sum(times) / 1000 / PROFILED, "ms a step")


def short(kernel: str) -> str:
    """A kernel's name without most of its template's arguments."""
    return re.sub(r"^void ", "", kernel)[:110]


def synchronisations(at: str, cache: Path) -> None:
    """Which lines wait for the device, by torch's own warnings."""
    import torch
    from transformers import TrainerCallback

    if not torch.cuda.is_available():
        return
    seen: Counter[str] = Counter()

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            seen[place(traceback.extract_stack())] += 1

    class Listen(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step.WARM:
                torch.cuda.set_sync_debug_mode("warn")
            elif state.global_step == step.WARM + PROFILED:
                torch.cuda.set_sync_debug_mode("default")

    many = PROFILED + 5
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        try:
            step.layermix("paper", "bf16", many, WHOLE, cache, callbacks=[Listen()])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    row(f"{at}: lines that wait for the device", sum(seen.values()) / PROFILED, "a step")
    for where, count in seen.most_common(25):
        row(f"{at}: waits at {where}", count / PROFILED, "a step")


def place(stack: Any) -> str:
    """The innermost line outside torch, and ours that led to it."""
    lines = [
        (frame.filename.replace("\\", "/"), frame.lineno, frame.line)
        for frame in stack
        if Path(frame.filename).name not in ("device.py", "warnings.py")
    ]
    outside = [one for one in lines if "/torch/" not in one[0]]
    ours = [one for one in lines if "/layermix/" in one[0]]

    def name(one: tuple[str, int, str]) -> str:
        file = re.sub(r".*/(?=(layermix|transformers|accelerate|datasets)/)", "", one[0])
        return f"{file}:{one[1]} `{one[2]}`"

    found = [name(group[-1]) for group in (outside, ours) if group]
    return " in ".join(dict.fromkeys(found)) or "?"


def host_phases(at: str, cache: Path) -> None:
    """The host's own time in each part of a step, waiting for the device included."""
    import accelerate
    import torch

    from layermix.core.objective import Objective
    from layermix.core.trainer import DistillTrainer, PartMeter
    from layermix.data.tokenization import Collator
    from layermix.teacher_cache.cached_teacher import CachedTeacher

    phases = {
        "reading the teacher's signals": (CachedTeacher, "__call__"),
        "collating": (Collator, "__call__"),
        "moving the batch": (DistillTrainer, "_prepare_inputs"),
        "counting the rows": (DistillTrainer, "_get_num_items_in_batch"),
        "forward": (Objective, "forward"),
        "meter": (PartMeter, "add"),
        "backward": (accelerate.Accelerator, "backward"),
        "clipping": (DistillTrainer, "_clip_grad_norm"),
        "AdamW": (torch.optim.AdamW, "step"),
        "schedule": (torch.optim.lr_scheduler.LambdaLR, "step"),
        "clearing gradients": (torch.nn.Module, "zero_grad"),
        "the whole of training_step": (DistillTrainer, "training_step"),
    }
    spent: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, plain: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return plain(*arguments, **options)
            finally:
                spent[name].append(time.perf_counter() - started)

        return run

    plain = {name: getattr(*where) for name, where in phases.items()}
    for name, where in phases.items():
        setattr(*where, timed(name, plain[name]))
    try:
        row(f"{at}: a step with timers", per_step(own("bf16", cache)), "ms")
    finally:
        for name, where in phases.items():
            setattr(*where, plain[name])
    for name, times in spent.items():
        late = times[-Sizes.steps :]
        row(f"{at}: host, {name}", 1000 * statistics.median(late), "ms a call, median")


# -- torch.compile and CUDA graphs -----------------------------------------------------------------


def compiled(cache: Path) -> None:
    """A bfloat16 step with the student's blocks compiled; then the losses, too."""
    import torch

    step.WARM += 10  # it compiles in the first steps

    def blocks(objective: Any) -> None:
        for block in objective.student.blocks:
            block.forward = torch.compile(block.forward, dynamic=True)

    def losses(objective: Any) -> None:
        blocks(objective)
        objective.hidden = torch.compile(objective.hidden, dynamic=True)
        objective.mix.forward = torch.compile(objective.mix.forward, dynamic=True)

    ways: dict[str, dict[str, Any]] = {
        "as it is": {},
        "blocks compiled": {"change": blocks},
        "blocks, mix and hidden loss compiled": {"change": losses},
    }
    for step.BATCH in BATCHES:
        for name, options in ways.items():
            if BATCHES[0] < step.BATCH and options.get("change") is losses:
                continue
            with told(f"batch {step.BATCH}, {name}"):
                started = time.perf_counter()
                took = per_step(own("bf16", cache, **options))
                row(f"bf16, batch {step.BATCH}, {name}: a step", took, "ms")
                whole = time.perf_counter() - started
                row(f"bf16, batch {step.BATCH}, {name}: all, compiling included", whole, "s")


def graphed(_: Path) -> None:
    """A whole step of one shape, as it is and replayed as a CUDA graph: without any launching."""
    import torch

    for step.BATCH in BATCHES:
        at = f"bf16, batch {step.BATCH} × {Sizes.fixed_length} tokens, one shape"
        with told(f"{at}: eager"):
            train = fixed_step(capturable=False)
            for _ in range(5):
                train()
            started = step.settled()
            for _ in range(Sizes.replays):
                train()
            took = 1000 * (step.settled() - started) / Sizes.replays
            row(f"{at}: a step", took, "ms")
        if not torch.cuda.is_available():
            continue
        with told(f"{at}: graph"):
            train = fixed_step(capturable=True)
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):
                    train()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                train()
            graph.replay()
            started = step.settled()
            for _ in range(Sizes.replays):
                graph.replay()
            took = 1000 * (step.settled() - started) / Sizes.replays
            row(f"{at}: a step replayed as a CUDA graph", took, "ms")


def fixed_step(capturable: bool) -> Callable[[], None]:
    """Forward, backward, clipping and AdamW on one batch of random tokens, signals at hand."""
    import torch

    from layermix.config import DistillConfig
    from layermix.core.objective import build_objective, param_groups
    from layermix.core.signals import Signal
    from layermix.models.encoder import HFEncoder

    teacher, student = step.models("paper")
    layers, wide = step.LAYERS["paper"], teacher.model.config.hidden_size
    mix = {"strategy": "learned", "teacher_layers": layers}
    config = DistillConfig.model_validate(
        {"preset": "quick", "mix": mix, "training": {"precision": "bf16"}}
    )
    device = step.device()
    objective = build_objective(HFEncoder(student.model.train()), 12, wide, config).to(device)
    shape = (step.BATCH, Sizes.fixed_length)
    batch = {
        "input_ids": torch.randint(1000, 20000, shape, device=device),
        "attention_mask": torch.ones(shape, dtype=torch.long, device=device),
        "labels": torch.zeros(shape[0], dtype=torch.long, device=device),
    }
    answers = Signal(
        torch.randn(shape[0], 2, device=device),
        batch["attention_mask"].bool(),
        layers,
        torch.randn(len(layers), *shape, wide, device=device),
    )
    optimizer = torch.optim.AdamW(
        param_groups(objective, 3e-5, 0.01, 1e-3), fused=True, capturable=capturable
    )

    def train() -> None:
        objective(batch, answers).loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


# -- cache, evaluation, demo -----------------------------------------------------------------------


def filling(_: Path) -> None:
    """Texts a second into an empty store: collating alone, the teacher alone, all of it."""
    import torch

    from layermix.core.signals import Needs
    from layermix.data.tokenization import Collator
    from layermix.models.encoder import HFEncoder
    from layermix.models.inference import moved
    from layermix.models.live_teacher import LiveTeacher
    from layermix.teacher_cache.cached_teacher import _by_length, fill, find_store, row_keys
    from layermix.teacher_cache.manifest import Identity

    teacher, _student = step.models("paper")
    rows = step.tokens(teacher.tokenizer).splits["train"]
    collate, device = Collator(teacher.tokenizer), step.device()
    layers, wide = step.LAYERS["paper"], teacher.model.config.hidden_size
    batches = _by_length(list(range(len(rows))), rows["length"])
    started = step.settled()
    ready = [moved(collate([rows[i] for i in batch]), device) for batch in batches]
    took = step.settled() - started
    row("cache: reading the rows, collating and moving alone", len(rows) / took, "texts/s")

    def alone(name: str) -> None:
        """The first pass meets every shape for the first time."""
        for time_ in ("first", "second"):
            started = step.settled()
            for batch in ready:
                live(batch)
            took = step.settled() - started
            row(f"cache: the teacher alone, {name}, {time_} pass", len(rows) / took, "texts/s")

    needs = Needs(layers)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        live = LiveTeacher(HFEncoder(teacher.model), needs, dtype)
        live(ready[0])
        alone(name)
        if name == "bf16":
            torch.backends.cuda.enable_cudnn_sdp(False)
            alone(f"{name}, without cuDNN's attention")
            torch.backends.cuda.enable_cudnn_sdp(True)
    identity = Identity(name, layers, False, wide, 2, "float16", str(dtype)[6:], "bench")
    with tempfile.TemporaryDirectory() as folder:
        store, keys = find_store(Path(folder), identity, print), row_keys(rows)
        started = step.settled()
        fill(store, live, rows, keys, lambda chosen: moved(collate(chosen), device))
        took = step.settled() - started
        row(f"cache: filling an empty store, {name}", len(rows) / took, "texts/s")
        row(f"cache: written, {name}", store.bytes_on_disk / 1e6 / took, "MB/s")


def evaluating(_: Path) -> None:
    """Rows a second of teacher and student, the way `evaluate` and the end of an epoch ask them."""
    from layermix.data.tokenization import Collator
    from layermix.models.encoder import HFEncoder
    from layermix.models.inference import TorchRunner, logits_of

    teacher, student = step.models("paper")
    rows = step.tokens(teacher.tokenizer).splits["train"]
    collate = Collator(teacher.tokenizer)
    for name, one in (("student", student), ("teacher", teacher)):
        run = TorchRunner(HFEncoder(one.model))
        logits_of(run, rows.select(range(min(100, len(rows)))), collate)
        for batch in (32, 256):
            started = step.settled()
            logits_of(run, rows, collate, batch)
            took = step.settled() - started
            row(f"evaluation, {name}, fp32, {batch} rows a pass", len(rows) / took, "rows/s")


def demo(_: Path) -> None:
    """`layermix demo`, as a user runs it; where less time is left, one student of fewer rows."""
    left = float(os.environ.get("LAYERMIX_SECONDS_LEFT", "1000"))
    with tempfile.TemporaryDirectory() as folder:
        if left < DEMO_SECONDS:
            short_demo(Path(folder))
            return
        took, done = command("demo", "--json", "--out", f"{folder}/demo")
        row("demo", took, "s")
        for one in json.loads(done)["rows"]:
            row(f"demo: accuracy of {one['model']}", one["accuracy"], "share")
            row(f"demo: {one['model']}, one text", one["ms_per_text"], "ms")
        for arm in ("teacher", "learned"):
            record = json.loads(Path(f"{folder}/demo/{arm}/result.json").read_text("utf-8"))
            row(f"demo: training {arm}", record["timings"]["training_seconds"], "s")


def short_demo(folder: Path) -> None:
    from layermix.data.docstrings import docstring_pairs, write_rows

    data, teacher = folder / "data", folder / "teacher"
    write_rows(data, docstring_pairs(600))
    few = ("--data", data, "--quiet", "--training.epochs", "1")
    took, _ = command("teach", "--model", "minilm", *few, "--out", teacher)
    row("short demo: layermix teach, 600 rows, one epoch", took, "s")
    how = ("--preset", "quick", "--mix.strategy", "learned")
    student = ("--teacher", teacher, "--teacher.allow_weak", *how)
    took, _ = command("distill", *student, *few, "--out", folder / "run")
    row("short demo: layermix distill, 600 rows, one epoch", took, "s")
    for place, what in ((teacher, "teacher"), (folder / "run", "student")):
        record = json.loads((place / "result.json").read_text("utf-8"))
        accuracy = record["metrics"]["last"]["validation"]["accuracy"]
        row(f"short demo: accuracy of the {what}", accuracy, "share")
        row(f"short demo: training, {what}", record["timings"]["training_seconds"], "s")


def command(*words: Any) -> tuple[float, str]:
    """Seconds that `layermix …` took, and what it wrote."""
    started = time.perf_counter()
    asked = [sys.executable, "-m", "layermix", *map(str, words)]
    done = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - started, done.stdout


def stacked_students(_: Path) -> None:
    """Several students in one pass, beside the same in turns."""
    import stacked

    for size in ("tiny", "narrow"):
        for count in (1, 4, 16):
            found = stacked.measure(size, count, 16, 48)
            at = f"{count} students ({size}) at once"
            row(at, found["times_as_fast"], "times as fast as in turns")
            row(f"{at}: difference", found["differs_by"], "of the largest gradient")


DEMO_SECONDS = 150
PARTS: dict[str, tuple[Callable[[Path], None], int]] = {  # and the most seconds it may take
    "profile": (profile, 90),
    "steps": (steps, 140),
    "graphed": (graphed, 40),
    "filling": (filling, 60),
    "compiled": (compiled, 100),
    "tests": (tests, 120),
    "evaluating": (evaluating, 30),
    "stacked": (stacked_students, 30),
    "demo": (demo, 170),
}


# -- all parts, and the file -----------------------------------------------------------------------


def about(commit: str | None) -> dict[str, Any]:
    """What every row was measured with."""
    import torch
    import transformers

    if commit is None:
        asked = ["git", "-C", str(HOME), "rev-parse", "--short", "HEAD"]
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
        commit = found.stdout.strip() or "unknown"
    there = torch.cuda.is_available()
    return {
        "commit": commit,
        "device": torch.cuda.get_device_name() if there else "no GPU",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
    }


def run(
    part: str, options: argparse.Namespace, cache: str, seconds: float
) -> tuple[list[Any], str]:
    """Its rows, and what went wrong, if anything."""
    command = [sys.executable, __file__, "--part", part, "--cache", cache]
    command += ["--smoke"] if options.smoke else []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        told_of = os.environ | {"LAYERMIX_SECONDS_LEFT": str(seconds)}
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=HOME,
            env=told_of,
            start_new_session=True,
        )
        wrong = ""
        try:
            if code := process.wait(seconds):
                wrong = f"it ended with {code}"
        except subprocess.TimeoutExpired:
            wrong = f"stopped after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # and what it started
                process.wait()
        out.seek(0)
        lines = out.read().splitlines()
    rows = [json.loads(line.removeprefix(ROW)) for line in lines if line.startswith(ROW)]
    if wrong or any(one["unit"] == "error" for one in rows):
        rest = [line for line in lines if not line.startswith(ROW)]
        print("\n".join(rest[-40:]))
        wrong = f"{wrong}\n" + "\n".join(rest[-15:]) if wrong else wrong
    return rows, wrong


def write(file: Path, found: dict[str, Any]) -> None:
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def text() -> None:
    """MRPC where it is; else docstrings of this Python's library in its place."""
    if "LAYERMIX_GLUE" in os.environ:
        return
    from layermix.data.docstrings import docstring_pairs, write_rows

    folder = Path(tempfile.mkdtemp(prefix="layermix-bench-"))
    write_rows(folder / "mrpc", docstring_pairs(None))
    os.environ["LAYERMIX_GLUE"] = str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=HOME / "bench" / "results")
    parser.add_argument("--seconds", type=float, default=450, help="for all parts together")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--commit", help="where there is no git to ask")
    parser.add_argument("--smoke", action="store_true", help="toy sizes, also without a GPU")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        step.WARM = 15  # steps in which kernels are loaded and first shapes met
        if options.smoke:
            Sizes.shrink()
        make_models_once()
        PARTS[options.part][0](options.cache)
        return
    started = time.monotonic()
    known = about(options.commit)
    if known["device"] == "no GPU" and not options.smoke:
        sys.exit("torch finds no GPU here (torch.cuda.is_available()); --smoke tries it without")
    source = "MRPC" if "LAYERMIX_GLUE" in os.environ else "docstrings"
    text()
    options.out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "-", known["device"]).strip("-").lower()
    file = options.out / f"device-{name}-{known['date']}.json"
    command = "bench/device.sh" + (" --smoke" if options.smoke else "")
    every = {"command": command, **{one: known[one] for one in ("commit", "device", "torch")}}
    found: dict[str, Any] = {"about": known | {"text": source}, "rows": [], "errors": {}}
    asked = options.only.split(",") if options.only else list(PARTS)
    if file.is_file():  # parts measured again take the place of the older ones
        older = json.loads(file.read_text(encoding="utf-8"))
        again = {f"{command} --only {part}" for part in asked}
        found["rows"] = [one for one in older["rows"] if one["command"] not in again]
        found["errors"] = {
            part: wrong for part, wrong in older["errors"].items() if part not in asked
        }
    with tempfile.TemporaryDirectory() as cache:
        for part in asked:
            left = options.seconds - (time.monotonic() - started)
            if left < 10:
                found["errors"][part] = "no time was left"
                continue
            begun = time.monotonic()
            rows, wrong = run(part, options, cache, min(left, PARTS[part][1]))
            found["rows"] += [one | every | {"command": f"{command} --only {part}"} for one in rows]
            took = {"name": f"part {part}", "value": time.monotonic() - begun, "unit": "s"}
            found["rows"].append(took | every | {"command": f"{command} --only {part}"})
            if wrong:
                found["errors"][part] = wrong[-1500:]
            for one in [*rows, took]:
                value = one["value"]
                value = f"{value:.4g}" if isinstance(value, float) else value
                print(f"{one['name']}: {value} {one['unit']}", flush=True)
            if wrong:
                print(f"part {part}: {wrong}", flush=True)
            write(file, found)
    write(file, found)
    print(f"{file}: {len(found['rows'])} rows, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
