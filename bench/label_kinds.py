"""Makes small real data sets for the studies label-kinds.yaml and token-labels.yaml.

    python bench/label_kinds.py OUT GLUE

needs a Debian whose package lists are at hand (`apt-get update`) and that can download one package
(python3.11-doc), and the folder `qnli` of GLUE in the folder GLUE. It writes four folders with
train.jsonl and validation.jsonl, the same for the same lists:

- `tags`: the short description of a Debian package, and those of its debtags that are common
  (people gave them, up to a dozen to a package);
- `size`: the same texts, and the logarithm (base 10) of the installed size in kilobytes;
- `answers`: a question and a sentence of QNLI, and 1 if the sentence answers it, else 0;
- `names`: sentences of Python's documentation in which its authors marked names of modules,
  classes, exceptions, functions, methods or attributes (for links), and where; no mark is left in
  the text.

    python bench/label_kinds.py OUT GLUE --soft TEACHER

writes `soft`: the rows of `tags` with the probabilities of a teacher beside the labels, for the
study soft-labels.yaml. These probabilities are made, not given by people.

Packages are drawn by a hash of their name; those of one source package are on one side of the
split, since their descriptions are much alike. Questions and sentences are drawn by a hash, too;
sentences of one page are on one side.
"""

import argparse
import csv
import hashlib
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

FACETS = ("role", "interface", "implemented-in", "use", "field", "works-with", "devel", "admin")
"""The kinds of debtags that say what a package is, not how it is packaged."""

LEAST = 0.02
"""A tag is kept if this share of the packages has it."""

ROWS = {"train": 2000, "validation": 1000}


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


class Package(NamedTuple):
    """A package with tags, a description and a size."""

    name: str
    source: str
    text: str
    tags: list[str]
    size: float


@cache
def described_packages() -> list[Package]:
    """One package for each description, in the order of the hashes of their names."""
    found: dict[str, Package] = {}
    for fields in packages():
        described = fields.get("Description-en") or fields.get("Description") or ""
        tags = [tag.strip() for tag in fields.get("Tag", "").replace("\n", "").split(",")]
        size = int(fields.get("Installed-Size") or 0)
        if not described or not any(tags) or size < 1:
            continue
        short, _, long = described.partition("\n")
        first = long.partition("\n.\n")[0].replace("\n", " ")
        text = f"{short}. {first}".strip()[:600]
        package = Package(
            name=fields["Package"],
            source=fields.get("Source", fields["Package"]).partition(" ")[0],
            text=text,
            tags=[tag for tag in tags if tag.partition("::")[0] in FACETS],
            size=round(math.log10(size), 3),
        )
        found.setdefault(text, package)
    return sorted(found.values(), key=lambda package: draw(package.name))


def split_of_packages() -> dict[str, list[Package]]:
    """The drawn packages by side."""
    sides: dict[str, list[Package]] = {side: [] for side in ROWS}
    for package in described_packages():
        side = "validation" if draw(f"side of {package.source}") < 0.25 else "train"
        sides[side].append(package)
    return {side: of_side[: ROWS[side]] for side, of_side in sides.items()}


def common_tags() -> list[str]:
    """The tags that are kept, in alphabetical order."""
    every = described_packages()
    counts = Counter(tag for package in every for tag in package.tags)
    return sorted(tag for tag, count in counts.items() if count >= LEAST * len(every))


def answers(glue: Path, side: str) -> list[dict[str, object]]:
    """Pairs of QNLI with 1 or 0."""
    name = {"train": "train_partial.tsv", "validation": "validation.tsv"}[side]
    with (glue / "qnli" / name).open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    lines.sort(key=lambda line: draw(line["question"] + line["sentence"]))
    return [
        {
            "question": line["question"],
            "sentence": line["sentence"],
            "score": float(line["label"] in ("entailment", "0")),
        }
        for line in lines[: ROWS[side]]
    ]


ROLES = {
    "mod": "module",
    "class": "class",
    "exc": "exception",
    "func": "function",
    "meth": "method",
    "attr": "attribute",
}
"""What an author calls a name in reStructuredText -> its type."""

MARKED = re.compile(r":(?:(?:py|c):)?(?P<role>[a-z:]+):`(?P<name>[^`]+)`|``(?P<code>[^`]+)``")
SENTENCE_END = re.compile(r"(?<=[.?!:])\s+(?=[A-Z:`])")
WORDS_OF_SENTENCE = range(6, 50)


def pages() -> Iterator[tuple[str, str]]:
    """The name and the source of each page of Python's documentation."""
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["apt-get", "download", "-q", "python3.11-doc"], cwd=name, check=True)
        for file in Path(name).glob("*.deb"):
            subprocess.run(["dpkg", "-x", file.name, "."], cwd=name, check=True)
        for file in sorted(Path(name).rglob("*.rst.txt")):
            yield file.name, file.read_text(encoding="utf-8")


def paragraphs(source: str) -> Iterator[str]:
    """The paragraphs of a page, without code, headings, lists and directives."""
    for block in source.split("\n\n"):
        lines = [line.strip() for line in block.strip("\n").splitlines()]
        text = " ".join(lines).removesuffix("::")
        begins = text[:1].isalpha() or text.startswith((":", "``"))
        is_heading = any(set(line) <= set("=-~^*#") for line in lines)
        if begins and not is_heading and ">>>" not in text:
            yield text


def shown(name: str) -> str:
    """The text of a mark as a reader sees it, without the brackets of a call."""
    title = re.sub(r"\s*<[^>]*>$", "", name).removeprefix("!")
    short = title.rpartition(".")[2] if title.startswith("~") else title
    return re.sub(r"\(.*\)$", "", short)


def marked_sentence(source: str) -> dict[str, object] | None:
    """The text of a sentence and the spans of its names; None if it has none, is odd, or long."""
    text, spans, at = "", list[dict[str, object]](), 0
    for found in MARKED.finditer(source):
        text += source[at : found.start()].replace("*", "").replace("\\", "")
        inner = found["code"] or shown(found["name"])
        kind = ROLES.get((found["role"] or "").rpartition(":")[2])
        if kind and re.fullmatch(r"[\w.]+", inner):
            spans.append({"start": len(text), "end": len(text) + len(inner), "label": kind})
        text, at = text + inner, found.end()
    text += source[at:].replace("*", "").replace("\\", "")
    if "`" in text or "|" in text or text != text.strip() or not text[:1].strip():
        return None
    fits = bool(spans) and len(text.split()) in WORDS_OF_SENTENCE
    return {"text": text, "spans": spans} if fits else None


def names() -> dict[str, list[dict[str, object]]]:
    """The drawn sentences by side."""
    sides: dict[str, dict[str, dict[str, object]]] = {side: {} for side in ROWS}
    for page, source in pages():
        of_side = sides["validation" if draw(f"side of {page}") < 0.3 else "train"]
        for paragraph in paragraphs(source):
            for sentence in SENTENCE_END.split(paragraph):
                if (row := marked_sentence(sentence)) is not None:
                    of_side.setdefault(str(row["text"]), row)
    known = sides["train"].keys()
    drawn = {}
    for side, rows in sides.items():
        texts = [text for text in rows if side == "train" or text not in known]
        drawn[side] = [rows[text] for text in sorted(texts, key=draw)[: ROWS[side]]]
    return drawn


def write(folder: Path, side: str, lines: list[dict[str, object]]) -> None:
    """Write one side as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{side}.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def write_soft(out: Path, teacher: str) -> None:
    """Write `tags` with the probabilities of a teacher beside the labels of the training rows."""
    from layermix.serving.predict import predict

    (out / "soft").mkdir(exist_ok=True)
    shutil.copyfile(out / "tags/validation.jsonl", out / "soft/validation.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        predict(teacher, str(out / "tags/train.jsonl"), f"{folder}/found.jsonl")
        found = Path(folder, "found.jsonl").read_text(encoding="utf-8").splitlines()
    own = (out / "tags/train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = []
    for line, answer in zip(map(json.loads, own), map(json.loads, found), strict=True):
        del answer["label"]
        rows.append({**answer, "labels": line["labels"]})
    write(out / "soft", "train", rows)


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("glue", type=Path)
    parser.add_argument("--soft", help="a teacher for `tags`; then only `soft` is written")
    given = parser.parse_args()
    if given.soft:
        write_soft(given.out, given.soft)
        return
    kept = common_tags()
    for side, chosen in split_of_packages().items():
        tags: list[dict[str, object]] = [
            {"text": package.text, "labels": [tag for tag in package.tags if tag in kept]}
            for package in chosen
        ]
        sizes: list[dict[str, object]] = [
            {"text": package.text, "score": package.size} for package in chosen
        ]
        write(given.out / "tags", side, tags)
        write(given.out / "size", side, sizes)
        write(given.out / "answers", side, answers(given.glue, side))
    for side, rows in names().items():
        write(given.out / "names", side, rows)
    print(f"{len(kept)} tags: {', '.join(kept)}")


if __name__ == "__main__":
    main()
