"""How often the test of non-inferiority errs at its margin, and its power, by simulation.

    python bench/noninferiority.py [--trials 4000]

Teacher and students answer rows of two classes. Every row has its own chance that a student errs
where the teacher is right, or the reverse; each seed shifts these chances. At the margin the
expected score of a student is below the teacher's by exactly that much, so every "shown" is an
error; the test allows 5 %.
"""

import argparse
import math

import numpy as np

from layermix.evaluation.noninferiority import judged, power

CASES = [
    # rows, seeds, margin, share of rows on which they differ, spread of the seeds' scores
    (100, 5, 0.04, 0.15, 0.010),
    (408, 3, 0.01, 0.10, 0.005),
    (408, 5, 0.01, 0.03, 0.002),
    (5463, 3, 0.02, 0.08, 0.012),
    (5463, 5, 0.02, 0.08, 0.012),
    (408, 5, 0.01, 0.10, 0.010),
    (408, 5, 0.02, 0.10, 0.010),
    (408, 10, 0.02, 0.15, 0.015),
    (5463, 3, 0.01, 0.08, 0.003),
    (5463, 5, 0.01, 0.08, 0.006),
    (5463, 5, 0.02, 0.10, 0.010),
    (5463, 10, 0.005, 0.06, 0.002),
]


def simulated(
    generator: np.random.Generator,
    rows: int,
    seeds: int,
    differ: float,
    below: float,
    spread: float,
) -> tuple[np.ndarray, float]:
    """Differences of the seeds, (seeds,), and the bootstrap's standard error over rows.

    Args:
        generator: Of everything random.
        rows: Number of rows, drawn anew.
        seeds: Number of students.
        differ: Expected share of rows on which a student and the teacher differ in being right.
        below: How far a student is expected to be below the teacher.
        spread: Standard deviation of the seeds' expected scores.
    """
    worse, better = (differ + below) / 2, (differ - below) / 2
    # Some rows are hard for every student: a beta distribution with this mean.
    loses = generator.beta(worse, 1 - worse, rows)
    wins = generator.beta(better, 1 - better, rows) if better > 0 else np.zeros(rows)
    shift = np.clip(generator.normal(0, spread, (seeds, 1)), -worse, 1 - worse)
    flip = generator.random((seeds, rows))
    lost = flip < loses * (1 + shift / worse)
    won = ~lost & (generator.random((seeds, rows)) < wins / np.maximum(1 - loses, 1e-9))
    each = won.astype(float) - lost
    mean = each.mean(0)
    return each.mean(1), float(np.sqrt(mean.var() / rows))


def main() -> None:
    """Print a table: how often non-inferiority is shown at the margin, and with equal scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4000)
    trials = parser.parse_args().trials
    print(f"{trials} trials; the simulation's own error is ±{196 * math.sqrt(0.0475 / trials):.1f}")
    print("| rows | seeds | margin | they differ on | error | shown if equal | told beforehand |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for rows, seeds, margin, differ, spread in CASES:
        shown = {}
        for below in (margin, 0.0):
            generator = np.random.default_rng(0)
            tries = [
                simulated(generator, rows, seeds, differ, below, spread) for _ in range(trials)
            ]
            shown[below] = np.mean([judged(*one, margin, rows, rows).shown for one in tries])
        sd = float(np.mean([np.std(each, ddof=1) for each, _ in tries]))
        error = float(np.mean([error for _, error in tries]))
        told = power(margin, 0.0, sd, error, seeds, rows, rows)
        print(
            f"| {rows} | {seeds} | {100 * margin:g} points | {differ:.0%} | {shown[margin]:.1%} | "
            f"{shown[0.0]:.0%} | {told:.0%} |"
        )


if __name__ == "__main__":
    main()
