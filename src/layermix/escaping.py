"""Makes text that others wrote (labels, titles, paths) safe where it leaves: terminal, Markdown."""

import re

_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, characters that turn the order of text about, and
halves of characters."""
_PUNCTUATION = r"[!-/:-@\[-`{-~]"
_MARKUP = re.compile(
    rf"[`*~|]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|(?<=\s)#(?=#*$)|\\(?={_PUNCTUATION}|$)"
)
"""What Markdown would not show as it is, within a line."""
_LINE_START = re.compile(r"^(\d{0,9})(?=(?:#+|[-+.)])(?:\s|$)|-[-\s]*$|>)")


def printable(text: str) -> str:
    r"""Returns text for a terminal; what a terminal would obey is shown as an escape.

    JSON stays the same JSON.

    Examples:
        >>> print(printable("\x1b[2Jred\u202e"), printable("two\nlines"))
        \x1b[2Jred\u202e two
        lines
    """

    def shown(match: re.Match[str]) -> str:
        number = ord(match.group())
        return f"\\x{number:02x}" if number < 32 else f"\\u{number:04x}"

    return _INVISIBLE.sub(shown, text)


def markdown(text: str) -> str:
    r"""Returns text for a line or a table cell of Markdown, which shows it as it is.

    Examples:
        >>> print(markdown("not_equivalent"), markdown("<!-- a --> | *b*"), markdown("# c\n- d"))
        not_equivalent &lt;!-- a --> \| \*b\* \# c - d
    """
    line = _MARKUP.sub(lambda match: f"\\{match.group()}", _one_line(text))
    line = re.sub(r"&(?=#?\w+;)", "&amp;", line).replace("<", "&lt;")
    return _LINE_START.sub(r"\1\\", line)


def markdown_code(text: str) -> str:
    r"""Returns text as code within a line of Markdown.

    Examples:
        >>> print(markdown_code("reviews.csv"), markdown_code("a`b"), markdown_code("`c"))
        `reviews.csv` ``a`b`` `` `c ``
    """
    line = _one_line(text)
    runs = (len(run) for run in re.findall("`+", line))
    fence = "`" * (1 + max(runs, default=0))
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())
