"""How threads wait for each other: at once on a quiet machine, without spinning on a busy one.

This module imports neither torch nor numpy: it must act before OpenMP is loaded.
"""

import os
import sys

BUSY_CORES = 0.5
"""Other programs that use more of all cores together make a machine busy."""

SAMPLE_SECONDS = 0.1

POLICY = "OMP_WAIT_POLICY"
"""Read by OpenMP once, when torch is imported."""


def prepare_waiting() -> None:
    """Makes OpenMP's threads sleep while they wait for each other, if other programs are busy.

    Threads that wait spin, which is faster by up to a quarter on a quiet machine. On a busy one,
    the thread that is waited for has no core, and the others spin through their time: two threads
    beside one other program took up to ten times as long as with `OMP_WAIT_POLICY=PASSIVE`
    (docs/performance.md). A policy that the user has set stays, and so does that of a process that
    has loaded torch.
    """
    chosen = {POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys()
    if chosen or "torch" in sys.modules or os.environ.get("OMP_NUM_THREADS") == "1":
        return
    if busy_cores() > BUSY_CORES:
        os.environ[POLICY] = "PASSIVE"


def busy_cores() -> float:
    """Cores that are in use now, while this process waits."""
    import psutil  # 20 ms, which help texts need not take

    share: float = psutil.cpu_percent(SAMPLE_SECONDS) / 100
    return share * (psutil.cpu_count() or 1)
