"""Recognises files that hold something else than their endings say, from their first lines."""

import codecs
import json
from collections.abc import Sequence

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that stands for one in Git LFS."""

_LINE_ENDS = b"\r\n"

_STARTS = {
    LFS_POINTER: ("a Git LFS pointer in place of the data; run `git lfs pull` there"),
    b"\x1f\x8b": "gzip data; unpack the file",
    b"BZh": "bzip2 data; unpack the file",
    b"\xfd7zXZ": "xz data; unpack the file",
    b"\x28\xb5\x2f\xfd": "zstd data; unpack the file",
    b"PK\x03\x04": (
        "a ZIP archive or an Excel workbook; unpack it, or save the sheet as CSV in UTF-8"
    ),
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV in UTF-8",
    b"PAR1": "Parquet; give the file the ending .parquet",
    b"ARROW1": "an Arrow file; save it as Parquet",
    b"%PDF-": "a PDF document; save its table as CSV",
}
"""First bytes of a file -> what it is, and what to do."""


def other_content(lines: Sequence[bytes], format: str) -> str:
    r"""Returns what a file holds instead of the wanted format, and what to do; empty if nothing.

    Args:
        lines: Its first lines, up to one with text.
        format: One of `files.FORMATS`.

    Examples:
        >>> other_content([b"\x1f\x8b\x08\n"], "csv")
        'gzip data; unpack the file'
        >>> other_content([b"<!DOCTYPE html>\n"], "csv")
        'a web page, perhaps in place of a download; download the data again'
        >>> other_content(["text,label\n".encode("utf-16-be")], "csv")
        'UTF-16 or other bytes with NUL, wanted UTF-8; save it as UTF-8'
        >>> other_content([b"text,label\rgood,1\r"], "csv")
        'lines that end with a carriage return alone (old Mac); save it with other line ends'
        >>> other_content([b"text,label\n"], "csv")
        ''
    """
    first, last = lines[0], lines[-1]
    for start, found in _STARTS.items():
        if first.startswith(start) and not (format == "parquet" and start == b"PAR1"):
            return found
    if format == "parquet":
        return ""
    if first.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32, wanted UTF-8; save it as UTF-8"
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16, wanted UTF-8; save it as UTF-8"
    if last.count(b"\0") > len(last) / 4:
        return "UTF-16 or other bytes with NUL, wanted UTF-8; save it as UTF-8"
    if format != "txt" and last.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page, perhaps in place of a download; download the data again"
    if b"\r" in last.rstrip(_LINE_ENDS) and not last.endswith(b"\n"):
        return "lines that end with a carriage return alone (old Mac); save it with other line ends"
    return ""


def other_json(line: bytes) -> str:
    r"""Returns what a file holds instead of one JSON object per line; empty if nothing.

    Args:
        line: Its first line with text.

    Examples:
        >>> other_json(b'[{"text": "good"}]')
        'a JSON array'
        >>> other_json(b"{\n")
        'a JSON object over several lines'
        >>> other_json(b'{"text": {"0": "good"}, "label": {"0": 1}}')
        "one object of columns, as pandas writes without orient='records', lines=True"
        >>> other_json(b'{"text": "good"}')
        ''
    """
    if line.lstrip().startswith(b"["):
        return "a JSON array"
    if line.strip() == b"{":
        return "a JSON object over several lines"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
        return "one object of columns, as pandas writes without orient='records', lines=True"
    return ""
