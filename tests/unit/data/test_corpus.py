"""A corpus: documents of files and folders, read as they are needed; what is no text is named."""

import os
import sys
import threading
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layermix.config import CorpusConfig
from layermix.data.corpus import Corpus, find_corpus, split_documents
from layermix.errors import ConfigError, DataError


def corpus(*files: Path, **settings: object) -> Corpus:
    return find_corpus(CorpusConfig.model_validate({"files": [*map(str, files)], **settings}))


def problems(*files: Path, **settings: object) -> list[str]:
    with pytest.raises(DataError) as caught:
        corpus(*files, **settings)
    return list(caught.value.problems)


def test_documents_are_lines_or_paragraphs_as_the_file_has_them(tmp_path: Path) -> None:
    lines, wrapped = tmp_path / "lines.txt", tmp_path / "wrapped.md"
    lines.write_text("one\ntwo  words\n\n\n", encoding="utf-8")  # empty lines at the end
    wrapped.write_text("# A title\n\nbegins here\nand ends\n", encoding="utf-8")
    assert list(corpus(lines)) == ["one", "two words"]
    assert list(corpus(wrapped)) == ["# A title", "begins here and ends"]
    assert list(corpus(wrapped, documents="lines")) == ["# A title", "begins here", "and ends"]
    assert list(corpus(lines, documents="paragraphs")) == ["one two words"]


def test_a_folder_is_read_in_a_fixed_order_and_what_is_no_text_is_counted(tmp_path: Path) -> None:
    (tmp_path / "b" / ".hidden").mkdir(parents=True)
    (tmp_path / "b" / ".hidden" / "no.txt").write_text("hidden", encoding="utf-8")
    (tmp_path / "b" / "c.rst").write_text("third", encoding="utf-8")
    (tmp_path / "a.TXT").write_text("first", encoding="utf-8")
    (tmp_path / "b" / "a.md").write_text("second", encoding="utf-8")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "code.py").write_text("x = 1", encoding="utf-8")
    found = corpus(tmp_path, tmp_path / "a.TXT")  # the file is in the folder, too
    assert list(found) == ["first", "second", "third"]
    assert (found.skipped, found.documents) == (2, 3)
    assert list(found) == ["first", "second", "third"]  # again
    assert found.documents == 3


def test_tables_have_their_texts_in_a_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,\n3,three\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"body": "x", "text": "four\\nlines"}\n', encoding="utf-8")
    pq.write_table(pa.table({"text": ["five"]}), tmp_path / "c.parquet")
    found = corpus(tmp_path)
    assert list(found) == ["one", "three", "four lines", "five"]
    assert found.unread == 1
    assert found.first_unread.endswith("a.csv:3: the text is empty (column 'text')")
    assert list(corpus(tmp_path / "b.jsonl", column="body")) == ["x"]
    (problem,) = problems(tmp_path / "b.jsonl", column="nope")
    assert "b.jsonl:1: no column 'nope'" in problem


def test_lines_that_are_not_in_the_encoding_are_left_out_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("good\ncafé\nfine\n".encode("cp1252"))
    found = corpus(file)
    assert list(found) == ["good", "fine"]
    assert found.unread == 1
    assert "a.txt:2: invalid UTF-8 (byte 0xe9 at column 4)" in found.first_unread
    assert list(corpus(file, encoding="cp1252")) == ["good", "café", "fine"]


def test_every_file_that_cannot_be_used_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"text\nthen \0\1\2")
    (tmp_path / "packed.txt").write_bytes(b"\x1f\x8b\x08 \n")
    (tmp_path / "code.py").touch()
    (tmp_path / "none").mkdir()
    names = ("empty.txt", "binary.txt", "packed.txt", "code.py", "missing.txt", "none")
    found = problems(*(tmp_path / name for name in names))
    wanted = (
        "the file is empty",
        "found NUL bytes, wanted text; it is a binary file, leave it out",
        "found gzip data; unpack the file",
        "found the ending .py, wanted .txt, .md, .rst,",
        "no such file or folder; give one that exists",
        "found 0 files, none of them with text",
    )
    assert len(found) == len(wanted)
    for problem, name, told in zip(found, names, wanted, strict=True):
        assert problem.startswith(f"{tmp_path / name}: {told}")
    with pytest.raises(ConfigError, match="no texts to learn from: give --texts FILE_OR_FOLDER"):
        find_corpus(CorpusConfig())


@pytest.mark.skipif(sys.platform == "win32", reason="has no named pipes")
@pytest.mark.parametrize("line", [b"some words\n", b"a paragraph\n\n"])
def test_a_file_without_an_end_gives_its_documents_as_they_are_needed(
    tmp_path: Path, line: bytes
) -> None:
    endless = tmp_path / "endless.txt"
    os.mkfifo(endless)

    def write() -> None:
        with suppress(BrokenPipeError), endless.open("wb") as file:
            while True:
                file.write(line * 100)

    writer = threading.Thread(target=write)
    writer.start()
    documents = iter(Corpus([endless], 0, CorpusConfig()))
    assert len(set(islice(documents, 3000))) == 1
    documents.close()
    writer.join(10)
    assert not writer.is_alive()


def test_a_paragraph_ends_with_the_file() -> None:
    assert list(split_documents(["", "a", "", "", "b", "c"], "paragraphs")) == ["a", "b c"]
    assert list(split_documents([])) == []
