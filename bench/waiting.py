"""How threads should wait for each other: training steps a second, quiet and beside busy programs.

    python bench/waiting.py --busy 0 1 2

For each number of busy programs, the policies take turns, each in a process of its own: OpenMP
reads them once. Compare within a column; the machine should do nothing else.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

POLICIES = {
    "default": {},
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 20,000": {"GOMP_SPINCOUNT": "20000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BATCH, TOKENS, WARM = 16, 48, 4


def steps_per_second(seconds: float) -> float:
    """Steps of the packaged MiniLM, forward and backward, in this process."""
    import torch

    from layermix.hardware.cpu_kernels import fast_pass, prepare_process
    from layermix.hardware.precision import choose_precision
    from layermix.models.loading import load_classifier

    prepare_process()
    model = load_classifier("minilm", ["no", "yes"], seed=0).model.train()
    ids = torch.randint(1000, 20000, (BATCH, TOKENS))
    labels = torch.zeros(BATCH, dtype=torch.long)
    start, steps = 0.0, 0
    while steps <= WARM or time.perf_counter() - start < seconds:
        if steps == WARM:
            start = time.perf_counter()
        with fast_pass(torch.device("cpu"), choose_precision("auto")):
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        loss.backward()
        model.zero_grad()
        steps += 1
    return (steps - WARM) / (time.perf_counter() - start)


def main() -> None:
    """Print a row for each number of busy programs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        print(steps_per_second(given.seconds))
        return
    print(f"{'busy':>4} " + " ".join(f"{name:>12}" for name in POLICIES) + "   median steps/s")
    for busy in given.busy:
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        taken: dict[str, list[float]] = {name: [] for name in POLICIES}
        for _ in range(given.turns):
            for name, variables in POLICIES.items():
                command = [sys.executable, __file__, "--here", "--seconds", str(given.seconds)]
                done = subprocess.run(
                    command, env=os.environ | variables, capture_output=True, text=True, check=True
                )
                taken[name].append(float(done.stdout))
        for loop in loops:
            loop.kill()
        medians = " ".join(f"{statistics.median(times):12.2f}" for times in taken.values())
        print(f"{busy:4} {medians}", flush=True)


if __name__ == "__main__":
    main()
