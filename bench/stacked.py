"""Does it pay to train several students in one pass, their weights stacked, instead of in turns?

    python bench/stacked.py --students 1 2 4 --batch 16 --threads 1

K students of equal sizes see the same batch: forward and backward of each in turns, or of all at
once (`torch.func.stack_module_state` and `vmap`, which make one batched product of each layer's).
Both are measured in turns, on the GPU if there is one; gradients are compared first. It prints the
median time of a step of all K, and the ratio. Dropout is off, as it draws other numbers.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from transformers import BertConfig, BertModel

SIZES = {  # blocks, width, heads, feed-forward units
    "minilm": (3, 384, 12, 1536),
    "tiny": (4, 312, 12, 1200),
    "narrow": (3, 192, 6, 768),
}
WARM, TURNS = 2, 7


def seconds(step: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def measure(name: str, count: int, batch: int, length: int) -> dict[str, Any]:
    """Both ways, for so many students of one of `SIZES`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    blocks, width, heads, units = SIZES[name]
    config = BertConfig(
        vocab_size=8000,
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=units,
        attn_implementation="eager",  # vmap has no rule for the fused kernel's backward pass
    )
    students = [BertModel(config, add_pooling_layer=False).eval().to(device) for _ in range(count)]
    tokens = torch.randint(0, 8000, (batch, length), device=device)
    mask = torch.ones_like(tokens)
    wanted = torch.randn(batch, length, width, device=device)
    skeleton = copy.deepcopy(students[0]).to("meta")

    def loss(weights: Any, buffers: Any) -> torch.Tensor:
        hidden = functional_call(skeleton, (weights, buffers), (tokens, mask)).last_hidden_state
        return ((hidden - wanted) ** 2).mean()

    def in_turns() -> list[Any]:
        for student in students:
            student.zero_grad()
            ((student(tokens, mask).last_hidden_state - wanted) ** 2).mean().backward()
        return [student.encoder.layer[0].output.dense.weight.grad for student in students]

    weights, buffers = stack_module_state(students)
    together = vmap(grad(loss))

    def at_once() -> Any:
        return together(weights, buffers)["encoder.layer.0.output.dense.weight"]

    apart = torch.stack(in_turns()).detach()
    difference = float((apart - at_once().detach()).abs().max() / apart.abs().max())
    found: dict[str, list[float]] = {"in_turns": [], "at_once": []}
    for turn in range(WARM + TURNS):
        for way, step in (("in_turns", in_turns), ("at_once", at_once)):
            taken = seconds(step, device)
            if turn >= WARM:
                found[way].append(taken)
    times = {way: statistics.median(taken) for way, taken in found.items()}
    ratio = statistics.median(
        one / other for one, other in zip(found["in_turns"], found["at_once"], strict=True)
    )
    rounded = {f"{way}_ms": round(1000 * taken, 1) for way, taken in times.items()}
    sizes = {"size": name, "students": count, "batch": batch, "length": length}
    return {**sizes, **rounded, "times_as_fast": round(ratio, 2), "differs_by": difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--students", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=48)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    found = []
    for name in given.sizes:
        for count in given.students:
            found.append(measure(name, count, given.batch, given.length))
            print(json.dumps(found[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
