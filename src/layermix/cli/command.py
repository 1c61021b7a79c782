"""A command: its help by section, and the one place where errors become exit codes."""

import errno
import functools
import sys
import time
import traceback
from collections.abc import Callable, Collection
from typing import Any, Literal, NoReturn

import click

from layermix.cli.options import ConfigOption
from layermix.console import echo, lasting_interrupts, stop_with_parent
from layermix.errors import ConfigError, LayermixError, is_panic
from layermix.hardware.waiting import prepare_waiting
from layermix.launch import is_main, launch_problems, rank, world_size

STOPPED = 128 + 2
"""The exit code of a program that Ctrl-C (signal 2) has ended."""
HEARD_SECONDS = 5.0
"""How long a process waits before it tells of an error: if the main one has the same, it tells, and
the launcher ends the others."""
COMMON = ("as_json", "quiet", "debug", "help")
"""Options that every command lists last among its own."""


class Command(click.Command):
    """A command whose help lists its own options first, then the config's by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, grouped."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in sorted(self.get_params(ctx), key=_help_order):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                title = parameter.group if isinstance(parameter, ConfigOption) else "Options"
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _help_order(parameter: click.Parameter) -> int:
    return COMMON.index(parameter.name) + 1 if parameter.name in COMMON else 0


def command(
    name: str,
    *,
    stopped: str = "stopped",
    quiet: bool = True,
    is_run: bool = False,
    computes: bool = False,
    together: bool = False,
    any_bytes: Collection[str] = (),
) -> Callable[[Callable[..., None]], Command]:
    """Make a command of a function; its errors become one message and an exit code.

    Args:
        name: As typed.
        stopped: The message after Ctrl-C.
        quiet: Whether the command has messages and progress bars that --quiet hides.
        is_run: Whether its --json prints the record of a run; it then prints a record of a failed
            or cancelled run, too.
        computes: Whether it runs models in this process.
        together: Whether several processes, started by torchrun or accelerate, may run it as one.
        any_bytes: Parameters that may be paths whose bytes are not UTF-8.

    Returns:
        A decorator. The command exits with 0 after success, with the error's own `exit_code`
        after a `LayermixError`, with 1 where the operating system refused something, and with
        130 after Ctrl-C. An error of any other kind is a fault of layermix and stays a traceback.
    """

    def decorate(function: Callable[..., None]) -> Command:
        @click.option(
            "--debug", is_flag=True, help="If the command fails, show the Python traceback as well."
        )
        @functools.wraps(function)
        def guarded(debug: bool, **arguments: Any) -> None:
            def fail(message: str, code: int) -> NoReturn:
                if debug:
                    echo(traceback.format_exc(), error=True)
                if is_run and arguments["as_json"]:
                    _print_record(message, code)
                if not is_main():
                    time.sleep(HEARD_SECONDS)
                    message = f"process {rank()} of {world_size()}: {message}"
                echo(f"Error: {message}", error=True)
                sys.exit(code)

            try:
                _check_unicode(any_bytes)
                _check_launch(together, name)
                if computes:
                    prepare_waiting()
                with lasting_interrupts():
                    stop_with_parent()
                    function(**arguments)
                if together and world_size() > 1:
                    from layermix.hardware.processes import disconnect

                    disconnect()
                sys.stdout.flush()  # a full disk fails here, not when the interpreter exits
            except LayermixError as error:
                fail(str(error), error.exit_code)
            except KeyboardInterrupt:
                fail(stopped, STOPPED)
            except Exception as error:
                if (message := _system_refusal(error)) is None:
                    raise
                fail(message, 1)
            except BaseException as error:
                if not is_panic(error):
                    raise
                fail(f"a library crashed ({error}); a file of the model or data is damaged", 2)

        decorated: Any = guarded
        if quiet:
            decorated = click.option(
                "--quiet", is_flag=True, help="Hide progress bars and messages; errors still show."
            )(guarded)
        return click.command(name, cls=Command)(decorated)

    return decorate


def _check_launch(together: bool, name: str) -> None:
    """Raise a ConfigError if several processes were started for what they cannot do together."""
    if world_size() == 1:
        return
    problems = launch_problems()
    if not together:
        problems.append(
            f"layermix {name} was started in {world_size()} processes, and runs in one; start "
            "it without torchrun, accelerate launch or mpirun"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def _check_unicode(any_bytes: Collection[str]) -> None:
    """Raise a ConfigError for arguments whose bytes are not UTF-8.

    Neither model files nor records and pages can hold such a path.
    """
    context, problems = click.get_current_context(), list[str]()
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        for given in value if isinstance(value, tuple) else (value,):
            text = "" if given is None or parameter.name in any_bytes else str(given)
            if not _is_unicode(text):
                is_option = isinstance(parameter, click.Option)
                name = parameter.opts[0] if is_option else parameter.human_readable_name
                problems.append(f"{name}: the bytes of {text!r} are not UTF-8; rename it")
    if problems:
        raise ConfigError("\n".join(problems))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _print_record(message: str, code: int) -> None:
    """Print the record of a run that ended without a result."""
    from layermix.runs.schema import FORMAT, RunRecord

    status: Literal["cancelled", "failed"] = "cancelled" if code == STOPPED else "failed"
    echo(RunRecord(format=FORMAT, status=status, error=message).to_json().rstrip())


NOT_WRITTEN = ("(os error ", "inline_container")
"""Parts of the messages of safetensors and torch when a file could not be written; their
exceptions carry no errno."""


def _system_refusal(error: Exception) -> str | None:
    """The message for what the operating system refused; None for any other error."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror} (--debug shows where)"
    if any(part in str(error) for part in NOT_WRITTEN):
        return f"a file could not be written, is the disk full? ({error})"
    return None
