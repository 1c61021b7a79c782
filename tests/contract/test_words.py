"""No behaviour depends on the wording of a message; all text leaves through `console`."""

import ast
from pathlib import Path

import pytest

import layermix

SOURCE = Path(layermix.__file__).parent
FOREIGN = {
    ("cli/command.py", "part in str(error)"),  # safetensors and torch give no errno
    ("data/files.py", "'unexpected end' in fault"),  # of the csv module
}
"""Messages of other packages that have no code."""
OUTCOMES = {"not attainable", "no difference shown"}
"""Values of a Literal: codes, whatever they look like."""
TESTS = {"startswith", "endswith", "partition", "rpartition", "removeprefix", "removesuffix"}


def is_sentence(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and " " in node.value.strip()
        and any(letter.isalpha() for letter in node.value)
        and node.value not in OUTCOMES
    )


def is_text_of_error(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("str", "repr")
        and len(node.args) == 1
        and isinstance(node.args[0], ast.Name)
        and "err" in node.args[0].id
    )


def compares_words(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        parts = (node.left, *node.comparators)
        return any(is_sentence(part) or is_text_of_error(part) for part in parts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in TESTS and any(map(is_sentence, node.args))
    return False


@pytest.fixture(scope="module")
def nodes() -> list[tuple[str, ast.AST]]:
    """Every node of the source, with its file."""
    return [
        (file.relative_to(SOURCE).as_posix(), node)
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
    ]


def test_no_source_compares_the_text_of_a_message(nodes: list[tuple[str, ast.AST]]) -> None:
    found = {(file, ast.unparse(node)) for file, node in nodes if compares_words(node)}
    assert found == FOREIGN


def test_all_text_leaves_through_the_console(nodes: list[tuple[str, ast.AST]]) -> None:
    """Which escapes what a terminal would obey; rows of `predict` are data."""
    printing = ("print", "click.echo", "click.secho", "Console", "sys.stdout.write")
    found = {
        (file, ast.unparse(node.func))
        for file, node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)  # others are no name of these
        and ast.unparse(node.func) in printing
    }
    assert found == {("console.py", "click.echo"), ("data/writing.py", "print")}
