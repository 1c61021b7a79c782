"""Builds the tasks of the demo from the docstrings of Python's standard library.

Pairs: does a sentence document the named object? Each row pairs an object (its qualified name
and the first sentence of its docstring) with a later sentence of the same docstring or of another
object's. For a third of the objects, the other object is in the same top-level module.

Topics: which part of the library does a sentence document?

Source files are read with `ast`; only a few compiled modules are imported.
"""

import ast
import csv
import importlib
import inspect
import random
import re
import sys
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from layermix.errors import DataError

LABEL_NAMES = ("different", "same")
"""Class names of the pairs in label order."""

TOPICS = ("asyncio", "builtins", "email", "logging", "os", "xml")
"""Parts of the library with many docstrings."""

# In the libraries of Python 3.11 to 3.14 on every platform; enough prose; no tests or demos.
_SOURCE_MODULES = """
    abc argparse ast asyncio base64 bdb bisect bz2 calendar cmd code codecs codeop collections
    concurrent configparser contextlib copy csv ctypes dataclasses difflib dis doctest email
    enum filecmp fileinput fractions ftplib functools getopt getpass gettext glob graphlib gzip
    hashlib heapq hmac html http imaplib importlib inspect ipaddress json linecache locale
    logging lzma mailbox mimetypes modulefinder multiprocessing netrc numbers optparse os
    pathlib pdb pickle pickletools pkgutil platform plistlib poplib posixpath pprint profile
    pstats py_compile pyclbr pydoc queue random reprlib runpy sched secrets selectors shelve
    shlex shutil smtplib socket socketserver sqlite3 ssl statistics string subprocess symtable
    sysconfig tabnanny tarfile tempfile textwrap threading timeit tokenize trace traceback
    turtle types typing unittest urllib uuid venv warnings wave weakref webbrowser wsgiref xml
    xmlrpc zipapp zipfile zoneinfo
"""

# Compiled in whole or in part, so their docstrings must be read by importing them; the import only
# defines names. A platform or a slim build may lack some (fcntl on Windows).
_IMPORTED_MODULES = """
    array atexit binascii builtins cmath contextvars datetime decimal faulthandler fcntl gc io
    itertools marshal math mmap operator os re select signal struct sys time tracemalloc
    unicodedata zlib
"""

_WORDS = range(4, 61)
_SENTENCES_PER_OBJECT = 3  # so that a few long docstrings do not dominate
_VALIDATION_SHARE = 0.1  # of the objects; leaves about 590 rows
# Of the objects; other negatives come from any other module and are easier. On 1,500 rows, 3
# epochs, one seed, the packaged MiniLM reached .68 at 1, .73 at 1/2 and .77 at 1/3; word overlap
# has about .70.
_SAME_MODULE = 1 / 3
_FEWEST_ROWS = 2000  # 3.11 to 3.13 have about 6,000 in all
_TOPICS_VALIDATION_SHARE = 0.25  # of the objects; leaves about 520 rows
_FEWEST_TOPICS_ROWS = 1000

_SENTENCE_END = re.compile(r"[.!?][\"')`]*\s+(?=[\"'`(*]?[A-Z])")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|esp|resp|approx|Mr|Dr|[A-Z])\.$")
_LIST_OR_TABLE = re.compile(r"^\s+|^[-+*=|•]|^\(?\d+[.)]|^\.\. ", re.MULTILINE)
_CODE = re.compile(r">>>|->|::|==|--|[|{}]|https?:|\w=\S|\w\(\w*,.*\)")


@dataclass(frozen=True)
class _Part:
    """A later sentence of a docstring, and the object that it documents."""

    module: str
    name: str
    text: str
    sentence: str


def docstring_pairs(
    train_rows: int | None = 1500, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Builds the task from the library of the running Python, in about two seconds.

    In the full sets, each sentence occurs once in a pair `same` and once in a pair `different`, so
    neither text alone predicts the label. Train and validation share no sentence: objects with
    equal first sentences are in the same split, and later sentences of several objects are left
    out.

    Args:
        train_rows: Number of training rows, half of each label; None: all. The rows for a smaller
            number are a subset of those for a larger one.
        seed: Determines the negatives and the order of rows. Which objects are in `validation`
            depends on their text alone.

    Returns:
        `train` and `validation`: rows of `text` ("module.name: First sentence."), `text_pair` and
        `label`, "same" or "different". `validation` does not depend on `train_rows`.

    Raises:
        DataError: If this Python has no source files of its library, or fewer than `train_rows`
            rows can be made.
    """
    docstrings = _docstrings(Path(sysconfig.get_path("stdlib")))
    return _build(docstrings, train_rows, seed)


def docstring_topics() -> dict[str, list[dict[str, Any]]]:
    """Builds the other task, of single texts, from the library of the running Python.

    Train and validation share no object and no sentence.

    Returns:
        `train` and `validation`: rows of `text`, a sentence, and `label`, one of `TOPICS`.

    Raises:
        DataError: If this Python has no source files of its library.
    """
    return _topics(_docstrings(Path(sysconfig.get_path("stdlib"))))


def write_rows(folder: Path, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Writes each list of rows as `<name>.tsv`: a header, tabs, no quoting (as in GLUE).

    Args:
        folder: Created if it does not exist; must not hold files of these names.
        splits: The result of `docstring_pairs` or `docstring_topics`.

    Raises:
        FileExistsError: If a file exists.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        with (folder / f"{name}.tsv").open("x", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(
                file,
                list(rows[0]),
                delimiter="\t",
                quoting=csv.QUOTE_NONE,
                quotechar=None,
                lineterminator="\n",
            )
            writer.writeheader()
            writer.writerows(rows)


def _build(
    docstrings: Mapping[str, str], train_rows: int | None, seed: int
) -> dict[str, list[dict[str, Any]]]:
    sides: dict[str, list[_Part]] = {"train": [], "validation": []}
    for name, (first, later) in _usable(docstrings).items():
        sides[_side(first, _VALIDATION_SHARE)] += [
            _Part(name.split(".")[0], name, f"{name}: {first}", sentence)
            for sentence in later[:_SENTENCES_PER_OBJECT]
        ]
    pairs = {side: _rows(parts, random.Random(f"{side} {seed}")) for side, parts in sides.items()}
    _check_enough(pairs, _FEWEST_ROWS)
    if train_rows is not None:
        if not 0 < train_rows <= len(pairs["train"]):
            raise DataError(
                [f"found train_rows {train_rows}, wanted 1 to {len(pairs['train'])} (or None: all)"]
            )
        pairs["train"] = pairs["train"][:train_rows]
    return pairs


def _topics(docstrings: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    topics = {name: name.split(".")[0] for name in docstrings}
    sentences = {
        name: _sentences(docstrings[name]) for name, topic in topics.items() if topic in TOPICS
    }
    times = _times(sentences)
    sides: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for name in sorted(sentences):
        once = [sentence for sentence in sentences[name] if times[_same_text(sentence)] == 1]
        if once:
            sides[_side(once[0], _TOPICS_VALIDATION_SHARE)] += [
                {"text": sentence, "label": topics[name]}
                for sentence in once[:_SENTENCES_PER_OBJECT]
            ]
    _check_enough(sides, _FEWEST_TOPICS_ROWS)
    for side, rows in sides.items():
        random.Random(side).shuffle(rows)
    return sides


def _side(sentence: str, validation_share: float) -> Literal["train", "validation"]:
    """The split of an object, which depends on its first sentence alone."""
    digest = int.from_bytes(sha256(_same_text(sentence).encode()).digest()[:8], "big")
    return "validation" if digest < validation_share * 2**64 else "train"


def _check_enough(splits: Mapping[str, Sequence[Mapping[str, Any]]], fewest: int) -> None:
    rows = sum(map(len, splits.values()))
    if rows < fewest:
        raise DataError(
            [
                f"found {rows} rows in the docstrings of this Python's library, wanted {fewest}; "
                "its source files are missing, so use a full Python, or your own data"
            ]
        )


def _docstrings(library: Path) -> dict[str, str]:
    """Returns qualified name -> docstring for public functions, classes, methods, properties."""
    docstrings: dict[str, str] = {}
    for module in _SOURCE_MODULES.split():
        single = library / f"{module}.py"
        for file in [single] if single.is_file() else sorted((library / module).rglob("*.py")):
            parts = file.relative_to(library).with_suffix("").parts
            if "test" in parts:  # ctypes.test and unittest.test, in 3.11 only
                continue
            # users know pathlib._local.Path as pathlib.Path
            prefix = ".".join(part for part in parts if not part.startswith("_"))
            with tokenize.open(file) as source:
                tree = ast.parse(source.read())
            for name, text in _from_source(tree, prefix):
                docstrings.setdefault(name, text)
    for module in _IMPORTED_MODULES.split():
        try:
            members = vars(importlib.import_module(module))
        except ImportError:
            continue
        for name, text in _from_memory(_own(members), module):
            docstrings.setdefault(name, text)
    return docstrings


def _own(members: Mapping[str, Any]) -> dict[str, Any]:
    """Drops members that other packages added, as notebooks do to `builtins`."""
    return {
        key: member
        for key, member in members.items()
        if (getattr(member, "__module__", None) or "builtins").split(".")[0]
        in sys.stdlib_module_names
    }


def _from_source(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If | ast.Try):
            yield from _from_source(child, prefix)
        elif isinstance(
            child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ) and not child.name.startswith("_"):
            name = f"{prefix}.{child.name}"
            if text := ast.get_docstring(child):
                yield name, text
            if isinstance(child, ast.ClassDef):
                yield from _from_source(child, name)


def _from_memory(members: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key in sorted(members):
        member = members[key]
        if key.startswith("_") or not (
            isinstance(member, type)
            or inspect.isroutine(member)
            or inspect.isdatadescriptor(member)
        ):
            continue
        name = f"{prefix}.{key}"
        if isinstance(text := getattr(member, "__doc__", None), str):
            yield name, inspect.cleandoc(text)
        if isinstance(member, type) and prefix.count(".") == 0:
            yield from _from_memory(vars(member), name)


def _sentences(docstring: str) -> list[str]:
    """Returns the sentences of plain paragraphs, without lists, tables, code and signatures."""
    sentences = []
    for paragraph in re.split(r"\n\s*\n", docstring):
        if _LIST_OR_TABLE.search(paragraph):
            continue
        text = " ".join(paragraph.split())
        start = 0
        for end in [match.end() for match in _SENTENCE_END.finditer(text)] + [len(text)]:
            sentence = text[start:end].strip()
            if _ABBREVIATION.search(sentence) and end < len(text):
                continue
            start = end
            if (
                len(sentence.split()) in _WORDS
                and sentence[0].isupper()
                and sentence[-1] in ".!?)"
                and not _CODE.search(sentence)
            ):
                sentences.append(sentence)
    return sentences


def _same_text(sentence: str) -> str:
    """Returns the words in lower case: equal where only case, spaces or punctuation differ."""
    return " ".join(re.findall(r"\w+", sentence.lower()))


def _times(sentences: Mapping[str, Sequence[str]]) -> Counter[str]:
    """How often each sentence occurs, by its words."""
    return Counter(_same_text(sentence) for of_name in sentences.values() for sentence in of_name)


def _usable(docstrings: Mapping[str, str]) -> dict[str, tuple[str, list[str]]]:
    """Returns name -> (first sentence, later sentences that occur once in the library)."""
    sentences = {name: _sentences(text) for name, text in docstrings.items()}
    times = _times(sentences)
    usable = {}
    for name, of_name in sentences.items():
        later = [sentence for sentence in of_name[1:] if times[_same_text(sentence)] == 1]
        if later:
            usable[name] = of_name[0], later
    return usable


def _rows(parts: Sequence[_Part], generator: random.Random) -> list[dict[str, Any]]:
    """Returns a positive row and then a negative one for every part; parts in random order."""
    # sorted, so that the draw does not depend on the order in which files were found
    names = sorted({part.name for part in parts})
    modules = sorted({part.module for part in parts})
    generator.shuffle(names)
    generator.shuffle(modules)
    place = {name: index for index, name in enumerate(names)}
    near = set(names[: round(_SAME_MODULE * len(names))])

    couples: list[tuple[_Part, str]] = []
    far: list[_Part] = []
    for module in modules:
        inside = sorted(
            (part for part in parts if part.module == module), key=lambda part: place[part.name]
        )
        some = [part for part in inside if part.name in near]
        near_couples = _rotated(some, "name")
        if not near_couples and generator.random() < _SAME_MODULE:
            # too few objects for a share of them: all or none, which keeps the share on average
            near_couples = _rotated(inside, "name")
        taken = {part for part, _ in near_couples}
        couples += near_couples
        far += [part for part in inside if part not in taken]
    couples += _rotated(far, "module")
    generator.shuffle(couples)
    return [
        {"text": part.text, "text_pair": sentence, "label": label}
        for part, other in couples
        for sentence, label in ((part.sentence, "same"), (other, "different"))
    ]


def _rotated(parts: Sequence[_Part], group: Literal["name", "module"]) -> list[tuple[_Part, str]]:
    """Pairs each part with the sentence of a part of another group; uses every sentence once.

    The parts of a group are adjacent. If no group has more than `shift` parts and there are at
    least 2 · `shift` parts, then the part `shift` places ahead (cyclically) is of another group.
    With fewer parts there are no pairs.
    """
    shift = max(Counter(getattr(part, group) for part in parts).values(), default=0)
    if len(parts) < 2 * shift:
        return []
    return [(part, parts[(i + shift) % len(parts)].sentence) for i, part in enumerate(parts)]
