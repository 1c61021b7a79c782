"""Plain texts without labels, read document by document from files and folders of any size.

Only what is needed for the next documents is in memory. Lines that cannot be read are left out and
counted; a file that is no text at all is an error before any of it is used.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from layermix.config import CorpusConfig
from layermix.data.files import Reader, open_file
from layermix.data.new_texts import SAMPLE, open_texts
from layermix.data.tables import Diagnostics
from layermix.errors import ConfigError, DataError

PLAIN = (".txt", ".md", ".rst")
"""Endings of files that are text as it is."""
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""Endings of files that have their texts in a column."""
JUDGED = 1000
"""Lines of a text file from which it is judged whether empty lines separate its documents."""
NUL_BYTES = 2**16
"""First bytes of a text file in which a NUL says that it is no text."""


@dataclass
class Corpus:
    """The files of a corpus, and what was found while they were read.

    Attributes:
        files: In the order in which they are read.
        skipped: Files in folders that are empty or have another ending.
        config: How they are read.
        documents: How many have been read so far.
        unread: Lines and rows so far that could not be read.
        first_unread: What is wrong with the first of them.
    """

    files: Sequence[Path]
    skipped: int
    config: CorpusConfig
    documents: int = field(default=0, init=False)
    unread: int = field(default=0, init=False)
    first_unread: str = field(default="", init=False)

    def __iter__(self) -> Iterator[str]:
        """Yields the documents, each without line breaks, in the order of the files."""
        self.documents, self.unread, self.first_unread = 0, 0, ""
        for file in self.files:
            for document in self._documents(file):
                self.documents += 1
                yield document

    def _documents(self, file: Path) -> Iterator[str]:
        if file.suffix.lower() in TABLES:
            for text in self._rows(file):
                yield from filter(None, (" ".join(part.split()) for part in text))
            return
        yield from split_documents(self._lines(file), self.config.documents)

    def _lines(self, file: Path) -> Iterator[str]:
        """The lines of a text file that can be decoded."""
        with _opened(file, self.config) as reader:
            for block in reader.blocks(None):
                problems = block.table.diagnostics.of(str(file))
                self._count([text for _, text in problems])
                bad = {number for number, _ in problems}
                texts = zip(block.table.numbers, block.table.columns["text"](), strict=True)
                yield from (text for number, text in texts if number not in bad)

    def _rows(self, file: Path) -> Iterator[Any]:
        """The texts of the rows of a table that can be read."""
        with open_texts(file, _columns(self.config), encoding=self.config.encoding) as stream:
            for block in stream:
                yield from (row for row in block if row is not None)
            self._count(stream.problems)
            self.unread += stream.unread - len(stream.problems)

    def _count(self, problems: Sequence[str]) -> None:
        self.unread += len(problems)
        self.first_unread = self.first_unread or next(iter(problems), "")


def split_documents(lines: Iterable[str], documents: str = "auto") -> Iterator[str]:
    """Yields the documents of a text file: its lines, or the lines between empty ones, joined.

    Args:
        lines: Without line ends; read as they are needed.
        documents: As `CorpusConfig.documents`.

    Examples:
        >>> list(split_documents(["one", "two", "", "three"]))
        ['one two', 'three']
        >>> list(split_documents(["one", "two"])), list(split_documents(["1", "", "2"], "lines"))
        (['one', 'two'], ['1', '2'])
    """
    lines = (" ".join(line.split()) for line in lines)
    if documents == "auto":
        start = list(islice(lines, JUDGED))
        text = "\n".join(start).strip("\n")
        documents = "paragraphs" if "\n\n" in text else "lines"
        lines = chain(start, lines)
    if documents == "lines":
        yield from filter(None, lines)
        return
    paragraph: list[str] = []
    for line in lines:
        if line:
            paragraph.append(line)
        elif paragraph:
            yield " ".join(paragraph)
            paragraph = []
    if paragraph:
        yield " ".join(paragraph)


def find_corpus(config: CorpusConfig) -> Corpus:
    """Finds the files of a corpus, and looks at the beginning of each.

    Args:
        config: Names files and folders.

    Raises:
        ConfigError: If it names none.
        DataError: Listing every file that cannot be used, or if folders have none to read.
    """
    if not config.files:
        raise ConfigError(
            "no texts to learn from: give --texts FILE_OR_FOLDER (several: A,B), with texts "
            f"({', '.join(PLAIN)}) or tables with a text column ({', '.join(TABLES)})"
        )
    found: dict[Path, None] = {}  # each once, in order
    skipped, problems = 0, list[str]()
    for source in map(Path, config.files):
        if not source.is_dir():
            problems += _problem_of(source, config)
            found[source] = None
            continue
        inner = _files_in(source)
        usable = [one for one in inner if one.suffix.lower() in (*PLAIN, *TABLES)]
        usable = [one for one in usable if one.stat().st_size]
        skipped += len(inner) - len(usable)
        problems += [problem for file in usable for problem in _problem_of(file, config)]
        if not usable:
            problems.append(
                f"{source}: found {len(inner)} files, none of them with text and one of the "
                f"endings {', '.join((*PLAIN, *TABLES))}; give a folder with such files"
            )
        found |= dict.fromkeys(usable)
    if problems:
        raise DataError(problems)
    return Corpus(list(found), skipped, config)


def _files_in(folder: Path) -> list[Path]:
    """All files in a folder and its folders, but those that are hidden, in a fixed order."""
    files = (file for file in folder.rglob("*") if file.is_file())
    parts = ((file.relative_to(folder).parts, file) for file in files)
    return [file for names, file in sorted(parts) if not any(one.startswith(".") for one in names)]


def _problem_of(file: Path, config: CorpusConfig) -> Sequence[str]:
    """What is wrong with a file as far as its beginning shows; empty if nothing."""
    suffix, wanted = file.suffix.lower(), ", ".join((*PLAIN, *TABLES))
    if not file.exists():
        return [f"{file}: no such file or folder; give one that exists"]
    if suffix not in (*PLAIN, *TABLES):
        return [f"{file}: found the ending {suffix or 'none'}, wanted {wanted}; rename it"]
    try:
        if suffix in TABLES:
            with open_texts(file, _columns(config), encoding=config.encoding):
                return []  # it has read the first rows
        with _opened(file, config):
            pass
    except DataError as error:
        return error.problems
    with file.open("rb") as stream:
        if b"\0" in stream.read(NUL_BYTES):
            return [f"{file}: found NUL bytes, wanted text; it is a binary file, leave it out"]
    return []


def _opened(file: Path, config: CorpusConfig) -> AbstractContextManager[Reader]:
    """A text file, of which each line is a row."""
    return open_file(
        file,
        Diagnostics(),
        format="txt",
        encoding=config.encoding,
        sample=SAMPLE,
        note=lambda note: None,
    )


def _columns(config: CorpusConfig) -> tuple[str, ...] | None:
    return None if config.column is None else (config.column,)
