"""How fast a distillation is: layermix, TextBrewer, the TinyBERT recipe, and the machine's bound.

    pip install textbrewer==0.2.1.post1
    LAYERMIX_GLUE=… python bench/step.py --models paper --json bench-paper.json

Every measurement is a process of its own, so that memory and settings do not leak; peers and steps
are measured in windows, in turns; layermix also runs whole. Text of MRPC's training rows; weights
are random for the paper's sizes, which does not matter for speed. All run on the GPU, if there is
one (bench/device.sh measures more there).
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cache as once
from pathlib import Path
from typing import Any

BATCH, LAYERS = 16, {"paper": (2, 5, 8, 11), "minilm": (1, 3, 5)}
WARM = 5  # steps before the clock starts
PRODUCTS = 10  # a large product is timed after so many steps
PEERS = ("textbrewer", "tinybert")
STEPS = ("layermix-fp32", "layermix-bf16")


# -- what is measured: each in a process of its own ------------------------------------------------


def device() -> Any:
    """The GPU if there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settled() -> float:
    """The time at which the device has done all that it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def stamp(step: int, steps: int | None) -> float:
    """The time before a step; a GPU is waited for at both ends of a window, not in between."""
    return settled() if step in (WARM, (steps or 0) + WARM) else time.perf_counter()


@once
def packaged() -> Any:
    from layermix import load_classifier

    return load_classifier("minilm", ("different", "same"), seed=0)


def models(which: str) -> tuple[Any, Any]:
    """Teacher and student as classifiers: the paper's sizes with random weights, or MiniLM."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from layermix import copy_blocks
    from layermix.models.encoder import Classifier

    minilm = packaged()
    if which == "minilm":
        return minilm, copy_blocks(minilm, 3)
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(BertConfig())
    student = BertForSequenceClassification(
        BertConfig(
            hidden_size=312,
            num_hidden_layers=4,
            num_attention_heads=12,
            intermediate_size=1200,
        )
    )
    return tuple(Classifier(model, minilm.tokenizer, which) for model in (teacher, student))


@once
def tokens(tokenizer: Any) -> Any:
    from layermix import DataConfig, load_texts
    from layermix.data.tokenization import tokenize

    texts = load_texts(DataConfig(path=f"{os.environ['LAYERMIX_GLUE']}/mrpc"))
    return tokenize(texts, tokenizer, 128)


def layermix(
    which: str,
    precision: str,
    steps: int | None,
    epochs: int,
    cache: Path,
    all_words: bool = False,
    live: bool = False,
    change: Callable[[Any], Any] = lambda objective: None,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Fill the cache, then train.

    `steps` measures a window of steps instead of the whole. `all_words` trains the words that do
    not occur, too (`--only layermix-bf16-words`); `live` asks the teacher in every step. `change`
    is given the objective before the training, `callbacks` the Trainer.
    """
    from transformers import TrainerCallback

    from layermix.config import DistillConfig
    from layermix.core.objective import build_objective
    from layermix.core.trainer import Cadence, DistillTrainer
    from layermix.data.tokenization import Collator
    from layermix.hardware.cpu_kernels import prepare_process
    from layermix.models.embedding_rows import occurring, only_occurring_trained
    from layermix.models.encoder import HFEncoder
    from layermix.models.inference import moved
    from layermix.models.live_teacher import LiveTeacher
    from layermix.teacher_cache.cached_teacher import CachedTeacher, fill, find_store, row_keys
    from layermix.teacher_cache.manifest import Identity

    teacher, student = models(which)
    rows = tokens(teacher.tokenizer).splits["train"]
    config = DistillConfig.model_validate(
        {
            "preset": "quick",
            "mix": {"strategy": "learned", "teacher_layers": LAYERS[which]},
            "training": {
                "epochs": epochs,
                "batch_size": BATCH,
                "precision": precision,
                "batching": "by_length",
                "log_every": 50,
            },
        }
    )
    prepare_process()
    source = HFEncoder(teacher.model)
    objective = build_objective(
        HFEncoder(student.model), source.num_layers, source.hidden_size, config
    )
    collate = Collator(teacher.tokenizer)
    identity = Identity(
        which,
        LAYERS[which],
        False,
        source.hidden_size,
        2,
        "float16",
        str(objective.precision)[6:],
        "bench",
    )
    started = time.perf_counter()
    store, keys = find_store(cache, identity, print), row_keys(rows)
    asked = LiveTeacher(source, objective.teacher_needs, objective.precision)
    if not live:
        fill(store, asked, rows, keys, lambda chosen: moved(collate(chosen), device()))
    filled = time.perf_counter() - started
    answers = asked if live else CachedTeacher(store, rows["row_id"], keys, source.num_layers)
    change(objective)
    marks: list[tuple[float, int, int]] = []
    product = large_product(objective.precision)
    seen, rates, paused = [0, 0], [product()], 0.0

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            nonlocal paused
            now = stamp(len(marks), steps)
            marks.append((now - paused, *seen))
            control.should_training_stop = steps is not None and len(marks) > steps + WARM
            if len(marks) % PRODUCTS == 0 and device().type == "cpu":
                rates.append(product())
                paused += time.perf_counter() - now

    def counted(chosen: list[Any]) -> Any:
        batch = collate(chosen)
        seen[0] += len(chosen)
        seen[1] += int(batch["attention_mask"].sum())
        return batch

    words = occurring(rows, teacher.tokenizer.pad_token_id)
    chosen = nullcontext() if all_words else only_occurring_trained(student.model, words)
    with tempfile.TemporaryDirectory() as folder, chosen:
        trainer = DistillTrainer(
            objective,
            answers,
            config.training,
            config.mix,
            0,
            Path(folder),
            train_dataset=rows,
            data_collator=counted,
            callbacks=[Clock(), *callbacks],
        )
        trainer.remove_callback(Cadence)
        started = settled()
        trainer.train()
        trained = settled() - started - paused
    between = {"gigaflops": statistics.median(rates)}
    if steps is None:
        whole = {"seconds": trained, "filling": filled, "examples": seen[0], "tokens": seen[1]}
        return whole | between
    return window(marks) | between


def window(marks: list[tuple[float, int, int]]) -> dict[str, float]:
    (start, *first), (end, *last) = marks[WARM], marks[-1]
    return {"seconds": end - start, "examples": last[0] - first[0], "tokens": last[1] - first[1]}


def batches(rows: Any, collate: Any, marks: list[Any], steps: int) -> Iterator[Any]:
    """Random batches without the row ids; marks the time before each."""
    import torch

    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    seen = [0, 0]
    for step in range(steps + WARM + 1):
        chosen = [rows[order[(step * BATCH + i) % len(order)]] for i in range(BATCH)]
        batch = collate(chosen)
        batch.pop("row_id")
        marks.append((stamp(step, steps), *seen))
        seen[0] += BATCH
        seen[1] += int(batch["attention_mask"].sum())
        yield batch


def textbrewer(which: str, steps: int) -> Any:
    """TextBrewer's GeneralDistiller: hidden MSE matches, KD and hard labels, padded to longest."""
    import torch
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    from layermix.data.tokenization import Collator

    teacher, student = models(which)
    for one in (teacher.model.to(device()), student.model.to(device())):
        one.config.output_hidden_states = True
    teacher.model.eval()
    wide, narrow = (one.model.config.hidden_size for one in (teacher, student))
    matches = [
        {
            "layer_T": layer + 1,
            "layer_S": number + 1,
            "feature": "hidden",
            "loss": "hidden_mse",
            "weight": 1,
            "proj": ["linear", narrow, wide],
        }
        for number, layer in enumerate(LAYERS[which])
    ]

    def adaptor(batch: Any, outputs: Any) -> Any:
        return {
            "logits": outputs.logits,
            "hidden": outputs.hidden_states,
            "losses": outputs.loss,
            "inputs_mask": batch["attention_mask"],
        }

    marks: list[Any] = []
    rows = tokens(teacher.tokenizer).splits["train"]
    with tempfile.TemporaryDirectory() as folder:
        distiller = GeneralDistiller(
            TrainingConfig(device=device(), output_dir=folder, log_dir=None, ckpt_steps=10**6),
            DistillationConfig(
                temperature=1, hard_label_weight=1, kd_loss_type="ce", intermediate_matches=matches
            ),
            teacher.model,
            student.model,
            adaptor,
            adaptor,
        )
        optimizer = torch.optim.AdamW(student.model.parameters(), lr=3e-5)
        loader = list(batches(rows, Collator(teacher.tokenizer), [], steps))
        timed = (
            marks.append((stamp(i, steps), *counts(loader, i))) or batch
            for i, batch in enumerate(loader)
        )
        with distiller:
            distiller.train(optimizer, timed, num_steps=len(loader), max_grad_norm=1.0)
    return window(marks)


def counts(loader: list[Any], index: int) -> tuple[int, int]:
    """Examples and real tokens of the batches before one."""
    before = loader[:index]
    return BATCH * index, sum(int(batch["attention_mask"].sum()) for batch in before)


def tinybert(which: str, steps: int) -> Any:
    """The TinyBERT recipe: padded to 128, live fp32 teacher, mean MSE, soft labels."""
    import torch
    from torch.nn import functional

    from layermix.data.tokenization import Collator

    teacher, student = models(which)
    teacher.model.eval().to(device())
    student.model.train().to(device())
    tokenizer = teacher.tokenizer
    project = torch.nn.Linear(student.model.config.hidden_size, teacher.model.config.hidden_size)
    project.to(device())
    optimizer = torch.optim.AdamW([*student.model.parameters(), *project.parameters()], lr=3e-5)
    rows, marks = tokens(tokenizer).splits["train"], []
    pad = Collator(tokenizer)

    def collate(chosen: list[Any]) -> Any:
        batch = pad(chosen)
        missing = 128 - batch["input_ids"].shape[1]
        return {
            name: functional.pad(value, (0, missing)) if value.ndim == 2 else value
            for name, value in batch.items()
        }

    for batch in batches(rows, collate, marks, steps):
        inputs = {name: value.to(device()) for name, value in batch.items() if name != "labels"}
        with torch.no_grad():
            wanted = teacher.model(**inputs, output_hidden_states=True)
        found = student.model(**inputs, output_hidden_states=True)
        loss = -(wanted.logits.softmax(-1) * found.logits.log_softmax(-1)).mean()
        for number, layer in enumerate(LAYERS[which]):
            hidden = project(found.hidden_states[number + 1])
            loss = loss + functional.mse_loss(hidden, wanted.hidden_states[layer + 1])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return window(marks)


def bound(which: str) -> dict[str, Any]:
    """Examples per second if there were only the matrix products of student and P, no padding."""
    import torch

    teacher, student = models(which)
    config, wide = student.model.config, teacher.model.config.hidden_size
    width, inner, depth = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    lengths = tokens(teacher.tokenizer).splits["train"]["length"]
    mean = sum(lengths) / len(lengths)
    many = round(mean * BATCH)
    heads, each = BATCH * config.num_attention_heads, width // config.num_attention_heads
    length = round(mean)
    linear = [(many, width, width, 4 * depth), (many, width, inner, depth)]
    linear += [(many, inner, width, depth), (many, width, wide, len(LAYERS[which]))]
    flops = sum(3 * 2 * a * b * c * times for a, b, c, times in linear)
    flops += 3 * 2 * 2 * heads * length * length * each * depth
    found: dict[str, Any] = {"gigaflop_per_example": flops / BATCH / 1e9}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        product = large_product(dtype)
        rate = 1e9 * max(product() for _ in range(15))
        own = 0.0
        for a, b, c, times in linear:
            x, w, g = (torch.randn(*s, device=device()).to(dtype) for s in ((a, b), (c, b), (a, c)))
            own += times * fastest(lambda x=x, w=w: x @ w.T)
            own += times * fastest(lambda g=g, w=w: g @ w)
            own += times * fastest(lambda g=g, x=x: g.T @ x)
        q, s = (torch.randn(heads, length, n, device=device()).to(dtype) for n in (each, length))
        own += 3 * depth * fastest(lambda q=q: q @ q.mT)
        own += 3 * depth * fastest(lambda s=s, q=q: s @ q)
        found[name] = {
            "gigaflops": rate / 1e9,
            "one large product": BATCH * rate / flops,
            "the student's own shapes": BATCH / own,
        }
    return found


def large_product(dtype: Any) -> Callable[[], float]:
    """What times one product of 3072 x 3072 and gives its rate, in billions of operations a second.

    The first of two is not timed: what was done before it may have emptied the processor's caches.
    A GPU gets 8192 x 8192.
    """
    import torch

    size = 3072 if device().type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device()).to(dtype) for _ in range(2))

    def timed() -> float:
        left @ right
        started = settled()
        left @ right
        return 2 * size**3 / (settled() - started) / 1e9

    return timed


def fastest(work: Callable[[], Any], tries: int = 15) -> float:
    """Seconds of the fastest of some tries; on a GPU without the time to launch it."""
    import torch

    times, many, run = [], 1, work
    if device().type == "cuda":
        many, graph = 20, torch.cuda.CUDAGraph()
        work()
        with torch.cuda.graph(graph):
            for _ in range(many):
                work()
        run = graph.replay
    for _ in range(tries):
        started = settled()
        run()
        times.append((settled() - started) / many)
    return min(times)


def measure(what: str, which: str, steps: int, epochs: int, cache: Path) -> Any:
    if what == "bound":
        return bound(which)
    if what == "textbrewer":
        return textbrewer(which, steps)
    if what == "tinybert":
        return tinybert(which, steps)
    _, precision, *how = what.split("-")
    many = None if "whole" in how else steps
    return layermix(which, precision, many, epochs, cache, all_words="words" in how)


# -- in turns, and the table -----------------------------------------------------------------------


def apart(what: str, options: argparse.Namespace, cache: str) -> Any:
    """Measure in a process of its own; its peak memory comes along."""
    arguments = ["--only", what, "--models", options.models, "--steps", str(options.steps)]
    arguments += ["--epochs", str(options.epochs), "--cache", cache]
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{what} failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{what:<22}{json.dumps(found)}", file=sys.stderr, flush=True)
    return found


def compare(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        found: dict[str, Any] = {"bound": apart("bound", options, cache)}
        windows: dict[str, list[Any]] = {name: [] for name in (*PEERS, *STEPS)}
        for _ in range(options.windows):
            for name, own in windows.items():
                own.append(apart(name, options, cache))
    found["windows"] = windows
    found["whole"] = {}
    for name in options.whole.split(","):
        with tempfile.TemporaryDirectory() as cache:
            found["whole"][name] = apart(f"layermix-{name}-whole", options, cache)
    return found | {
        "options": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(options).items()
        }
    }


def table(found: dict[str, Any]) -> str:
    options, lines = found["options"], []
    rates: dict[str, float] = {}
    lines.append(
        f"{'':<24}{'examples/s':>11}{'spread':>8}{'tokens/s':>10}{'memory':>9}"
        f"{'10 epochs':>11}{'tenth run':>11}"
    )
    total = 3668 * options["epochs"]
    jobs: dict[str, tuple[float, float]] = {}
    for name, own in found["windows"].items():
        each = [one["examples"] / one["seconds"] for one in own]
        rates[name] = statistics.median(each)
        memory = max(one["memory"] for one in own) / 2**30
        real = statistics.median(one["tokens"] / one["seconds"] for one in own)
        projected = ""
        if name in PEERS:
            jobs[name] = (total / rates[name],) * 2
            projected = f"{jobs[name][0]:>9.0f}*s{jobs[name][1]:>9.0f}*s"
        lines.append(
            f"{name:<24}{rates[name]:>11.1f}{max(each) / min(each) - 1:>8.0%}{real:>10.0f}"
            f"{memory:>6.1f}GiB{projected}"
        )
    for name, own in found["whole"].items():
        jobs[f"layermix-{name}"] = (own["filling"] + own["seconds"], own["seconds"])
        lines.append(
            f"{'layermix-' + name + ' whole':<24}{own['examples'] / own['seconds']:>11.1f}{'':>8}"
            f"{own['tokens'] / own['seconds']:>10.0f}{own['memory'] / 2**30:>6.1f}GiB"
            f"{jobs[f'layermix-{name}'][0]:>10.0f}s{jobs[f'layermix-{name}'][1]:>10.0f}s"
        )
    lines += ["* projected from the windows; ours ran whole, the filling of the cache included", ""]
    for name, (first, tenth) in jobs.items():
        if name.startswith("layermix"):
            lines += [
                f"{name} against {peer}: {jobs[peer][0] / first:.1f} times, "
                f"tenth run {jobs[peer][1] / tenth:.1f} times"
                for peer in PEERS
            ]
    flops = found["bound"]["gigaflop_per_example"]
    for name in ("fp32", "bf16"):
        limit, rate = found["bound"][name], rates[f"layermix-{name}"]
        large, own_shapes = limit["one large product"], limit["the student's own shapes"]
        lines.append(
            f"the step in {name} takes {large / rate:.2f} times the bound by one large product "
            f"({large:.0f} examples/s), {own_shapes / rate:.2f} times that by the student's own "
            "shapes, each the fastest of 15"
        )
        whole = [found["whole"][name]] if name in found["whole"] else []
        runs = found["windows"][f"layermix-{name}"] + whole
        ratios = [one["gigaflops"] / flops * one["seconds"] / one["examples"] for one in runs]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        last = "; the last is the whole run" if whole else ""
        lines.append(
            f"by products timed between its steps (median): {statistics.median(ratios):.2f} times "
            f"({each}{last})"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=sorted(LAYERS), default="paper")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="in a window")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--whole", default="fp32,bf16", help="precisions in which ours runs whole")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if "LAYERMIX_GLUE" not in os.environ:
        sys.exit("$LAYERMIX_GLUE is not set; it names a folder with mrpc/train.tsv")
    if options.only:
        found = measure(options.only, options.models, options.steps, options.epochs, options.cache)
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(found if options.only == "bound" else found | {"memory": memory}))
        return
    found = compare(options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
