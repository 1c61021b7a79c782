"""Commands show text as text, and a crash of a library as one line."""

import pytest
from click.testing import CliRunner

from layermix.cli import main
from layermix.cli.command import command


def test_a_command_line_that_is_wrong_is_shown_as_text() -> None:
    done = CliRunner().invoke(main, ["list", "\x1b]0;title\x07"])
    assert done.exit_code == 2
    assert r"\x1b]0;title\x07" in done.output
    assert "\x1b" not in done.output


def test_a_library_that_crashes_is_one_line() -> None:
    panic = type("PanicException", (BaseException,), {})

    @command("broken", quiet=False)
    def broken() -> None:
        raise panic("out of range \x1b[2J")

    done = CliRunner().invoke(broken)
    assert done.exit_code == 2
    assert r"Error: a library crashed (out of range \x1b[2J); a file of the model" in done.output
    debug = CliRunner().invoke(broken, ["--debug"])
    assert "Traceback" in debug.output
    assert "\x1b" not in debug.output


def test_other_base_exceptions_pass() -> None:
    @command("leaving", quiet=False)
    def leaving() -> None:
        raise GeneratorExit

    with pytest.raises(GeneratorExit):
        CliRunner().invoke(leaving, catch_exceptions=False)
