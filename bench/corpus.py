"""Gathers plain English text that a Debian machine has without network, for `layermix pretrain`.

    python bench/corpus.py OUT.txt [TRAINING_ROWS.tsv …]

One paragraph per line: documentation in /usr/share/doc, docstrings of the standard library and of
installed packages, and sentences of training rows of GLUE. Equal paragraphs come once.
The last line printed has the counts.
"""

import argparse
import ast
import csv
import gzip
import re
import site
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

DOCUMENTS = Path("/usr/share/doc")
ENDINGS = {"", ".txt", ".md", ".rst", ".gz", ".Debian", ".news"}
SHORTEST, LONGEST = 40, 5000
"""Characters of a paragraph."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("glue", type=Path, nargs="*", help="train.tsv of MRPC and the like")
    given = parser.parse_args()
    sources = {
        "documentation": paragraphs(documentation()),
        "docstrings": paragraphs(docstrings()),
        "glue": (text for file in given.glue for text in sentences(file)),
    }
    seen: set[int] = set()
    counts: Counter[str] = Counter()
    letters = 0
    with given.out.open("w", encoding="utf-8") as out:
        for name, texts in sources.items():
            for text in texts:
                if hash(text) in seen:
                    counts["repeated"] += 1
                    continue
                seen.add(hash(text))
                counts[name] += 1
                letters += len(text)
                out.write(text + "\n")
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    print(f"{given.out}: paragraphs: {told}; {letters:,} characters")


def documentation() -> Iterator[str]:
    """Text files below /usr/share/doc, unpacked; each file once, though packages link to it."""
    for file in sorted(DOCUMENTS.rglob("*")):
        if file.is_symlink() or not file.is_file() or file.suffix not in ENDINGS:
            continue
        if file.name.lower().startswith(("changelog", "copyright")) and file.suffix != ".gz":
            continue
        try:
            content = (
                gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            )
            yield content.decode()
        except (OSError, EOFError, UnicodeDecodeError):
            continue


def docstrings() -> Iterator[str]:
    """Docstrings of the standard library and of installed packages."""
    folders = {sysconfig.get_path("stdlib"), *site.getsitepackages()}
    for file in sorted({file for folder in folders for file in Path(folder).rglob("*.py")}):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue
        kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
        for node in ast.walk(tree):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield text


def sentences(training_rows: Path) -> Iterator[str]:
    """The texts of a file of training rows."""
    with training_rows.open(encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        for row in rows:
            texts = [value for name, value in row.items() if is_text(name, value)]
            yield from (" ".join(text.split()) for text in texts)


def is_text(column: str | None, value: str | None) -> bool:
    known = "sentence", "sentence1", "sentence2", "question"
    return column in known and bool(value)


def paragraphs(texts: Iterable[str]) -> Iterator[str]:
    """Paragraphs of mostly words, on one line each: no code, no tables, no lists of names."""
    for text in texts:
        for part in re.split(r"\n\s*\n", text):
            line = " ".join(part.split())
            if not SHORTEST <= len(line) <= LONGEST or ">>>" in line:
                continue
            parts = line.split()
            words = sum(part.strip(".,;:?!()\"'`").isalpha() for part in parts)
            if words > 0.7 * len(parts):
                yield line


if __name__ == "__main__":
    sys.exit(main())
