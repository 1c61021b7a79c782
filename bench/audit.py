"""How many labels that were changed `layermix audit` finds: planted errors among MRPC's rows.

    LAYERMIX_GLUE=… python bench/audit.py --out audit

It changes the labels of one row in twenty (seed 0), audits, and counts the changed rows among the
first. About 25 minutes on one quiet core.
"""

import argparse
import csv
import os
import random
import subprocess
import sys
from pathlib import Path

SHARE = 20
"""One row in so many gets the other label."""


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    out: Path = parser.parse_args().out
    out.mkdir()
    source = Path(os.environ["LAYERMIX_GLUE"], "mrpc", "train.tsv")
    head, *rows = (
        line.split("\t") for line in source.read_text(encoding="utf-8").split("\n") if line
    )
    place = head.index("label")
    changed = set(random.Random(0).sample(range(len(rows)), len(rows) // SHARE))
    for row in changed:
        rows[row][place] = {"0": "1", "1": "0"}[rows[row][place]]
    lines = ("\t".join(fields) + "\n" for fields in (head, *rows))
    (out / "changed.tsv").write_text("".join(lines), encoding="utf-8")
    words = ["--model", "minilm", "--data.train", out / "changed.tsv", "--out", out / "audit.csv"]
    command = [sys.executable, "-m", "layermix", "audit", *map(str, words)]
    subprocess.run([*command, "--training.learning_rate", "1e-4"], check=True)
    with (out / "audit.csv").open(encoding="utf-8", newline="") as file:
        found = [int(row["row"]) - 1 in changed for row in csv.DictReader(file)]
    print(f"{len(rows)} rows, of which {len(changed)} have a changed label")
    for first in (50, 100, len(changed), 2 * len(changed), 4 * len(changed)):
        hits = sum(found[:first])
        print(f"among the first {first}: {hits} ({hits / len(changed):.0%} of all)")


if __name__ == "__main__":
    main()
