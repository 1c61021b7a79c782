"""Makes small data sets of several labels and of numbers from what Debian says of its packages.

    python bench/debian.py OUT

needs a Debian (or Ubuntu) whose package lists are at hand (`apt-get update`), and no network. It
writes two folders with train.jsonl and validation.jsonl, the same for the same lists:

- `tags`: the first lines of a package's description, and those of its debtags that at least
  `LEAST` packages have (people gave them, up to a dozen to a package);
- `size`: the same texts, and the logarithm (base 10) of the installed size in kilobytes.

Packages are drawn by a hash of their name; those of one source package are on one side of the
split, since their descriptions are much alike.
"""

import argparse
import hashlib
import json
import math
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

FACETS = ("role", "interface", "implemented-in", "use", "field", "works-with", "devel", "admin")
"""The kinds of debtags that say what a package is, not how it is packaged."""

LEAST = 400
"""A tag is kept if this many of the packages have it."""

ROWS = {"train": 4000, "validation": 1500}


def packages() -> Iterator[dict[str, str]]:
    """Every package that apt knows: its fields by name, lines joined."""
    text = subprocess.run(
        ["apt-cache", "dumpavail"], capture_output=True, check=True, text=True
    ).stdout
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line[:1] in (" ", "\t"):
                fields[name] += "\n" + line[1:]
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if "Package" in fields:
            yield fields


def draw(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def rows() -> list[dict[str, object]]:
    """Packages with tags, a description and a size: text, tags, size and source."""
    found: dict[str, dict[str, object]] = {}
    for fields in packages():
        described = fields.get("Description-en") or fields.get("Description") or ""
        tags = [tag.strip() for tag in fields.get("Tag", "").replace("\n", "").split(",")]
        size = int(fields.get("Installed-Size") or 0)
        if not described or not any(tags) or size < 1:
            continue
        short, _, long = described.partition("\n")
        first = long.partition("\n.\n")[0].replace("\n", " ")
        text = f"{short}. {first}".strip()[:600]
        found.setdefault(
            text,
            {
                "text": text,
                "tags": [tag for tag in tags if tag.partition("::")[0] in FACETS],
                "size": round(math.log10(size), 3),
                "source": fields.get("Source", fields["Package"]).partition(" ")[0],
                "name": fields["Package"],
            },
        )
    return sorted(found.values(), key=lambda row: draw(str(row["name"])))


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    every = rows()
    is_validation = [draw(f"side of {row['source']}") < 0.25 for row in every]
    sides = {
        "train": [row for row, held in zip(every, is_validation, strict=True) if not held],
        "validation": [row for row, held in zip(every, is_validation, strict=True) if held],
    }
    chosen = {side: sides[side][:count] for side, count in ROWS.items()}
    counts = Counter(tag for row in every for tag in row["tags"])  # type: ignore[attr-defined]
    common = sorted(tag for tag, count in counts.items() if count >= LEAST * len(every) / 20000)
    for name, column in {"tags": "labels", "size": "score"}.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        for side, of_side in chosen.items():
            with (folder / f"{side}.jsonl").open("w", encoding="utf-8") as file:
                for row in of_side:
                    label = row["size"]
                    if name == "tags":
                        label = [tag for tag in row["tags"] if tag in common]  # type: ignore[attr-defined]
                    file.write(json.dumps({"text": row["text"], column: label}) + "\n")
    print(f"{len(every)} packages with tags; {len(common)} tags kept: {', '.join(common)}")


if __name__ == "__main__":
    main()
