"""Command-line options: made from the fields of a config, and those that commands share."""

import json
import types
import typing
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from layermix.config import ALIASES, Source, TeachConfig, field_names, section_kinds
from layermix.console import echo
from layermix.errors import ConfigError

# -- the fields of a config ------------------------------------------------------------------------


class ConfigOption(click.Option):
    """An option that is a field of a config; `group` is the title under which help lists it."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


RUN_TITLE = "Settings, here or in CONFIG.yaml; options override the file"


def config_options(
    kind: type[BaseModel], only: Collection[str] | None = None
) -> Callable[[Any], Any]:
    """Add an option for each field of a config; help shows its default, the command gets None.

    Args:
        kind: The config class; a field's docstring is the option's help.
        only: Dotted names of the fields to add; all if None.
    """
    short = {dotted: alias for alias, dotted in ALIASES.items()}
    sections = section_kinds(kind)
    defaults = kind().model_dump()

    def decorate(function: Any) -> Any:
        for dotted, field in reversed(field_names(kind).items()):
            if only is not None and dotted not in only:
                continue
            section, _, leaf = dotted.rpartition(".")
            flag = field.annotation is bool
            names = [f"--{name}" for name in (short.get(dotted), dotted) if name]
            text = " ".join((field.description or "").split())
            default = (defaults[section] if section else defaults)[leaf]
            if default is not None:
                shown = f"{default:g}" if isinstance(default, float) else default
                if flag:
                    shown = "yes" if default else "no"
                text += f"  [default: {shown}]"
            title = (sections[section].__doc__ or "").rstrip(".") if section else RUN_TITLE
            option = click.option(
                *([f"--{dotted}/--no-{dotted}"] if flag else names),
                dotted.replace(".", "__"),
                cls=ConfigOption,
                group=title,
                help=text,
                metavar=None if flag else _metavar(field.annotation),
                default=None,
            )
            function = option(function)
        return function

    return decorate


def _metavar(annotation: Any) -> str:
    """The placeholder of an option's value: its choices, or the kind of value.

    Examples:
        >>> from typing import Literal
        >>> [_metavar(kind) for kind in (Literal["a", "b"], int | None, float, tuple[int, ...])]
        ['a|b', 'N', 'X', 'N,N,…']
        >>> _metavar(int | Literal["auto"] | None)
        'N|auto'
        >>> _metavar(tuple[tuple[float, ...], ...]), _metavar(dict[str, float])
        ('X,X;…', 'NAME=X,…')
    """
    if annotation == Source:
        return "PATH"
    parts = [part for part in typing.get_args(annotation) if part not in (type(None), Ellipsis)]
    if typing.get_origin(annotation) is typing.Literal:
        return "|".join(parts)
    if typing.get_origin(annotation) is dict:
        return "NAME=X,…"
    if typing.get_origin(annotation) is tuple:
        item = _metavar(parts[0])
        if "|" in item:
            return f"{item},…"
        return f"{item.removesuffix(',…')};…" if "," in item else f"{item},{item},…"
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return "|".join(map(_metavar, parts))  # those beside None
    if parts:
        return _metavar(parts[0])  # the type that is annotated
    return {int: "N", float: "X"}.get(annotation, "NAME")


def given_fields(options: dict[str, Any]) -> dict[str, Any]:
    """The config options that were typed, by dotted field name."""
    return {name.replace("__", "."): value for name, value in options.items() if value is not None}


# -- options that commands share -------------------------------------------------------------------

MODEL = click.argument("model")
CONFIG_FILE = click.argument(
    "config",
    required=False,
    type=click.Path(path_type=Path),
    metavar="[CONFIG.yaml]",
)
RUN_OUT = click.option(
    "--out",
    required=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="The run folder to create; it must not exist yet.",
)
RESUME = click.option("--resume", is_flag=True, help="If --out has an unfinished run, continue it.")
RESTART = click.option(
    "--restart", is_flag=True, help="If --out has an unfinished run, delete it and start over."
)
FORCE = click.option("--force", is_flag=True, help="If the --out file exists, replace it.")
JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."
)
BATCH_SIZE = click.option(
    "--batch_size",
    metavar="N",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Rows per forward pass; an int8 file always runs row by row.",
)
RUNTIME = click.option(
    "--runtime",
    type=click.Choice(["auto", "torch", "onnx", "int8"]),
    metavar="torch|onnx|int8",
    default="auto",
    help="Run the model with PyTorch, or with onnxruntime on a file that `layermix export` made "
    "(float32 or int8).  [default: torch if the folder has weights, else onnx, else int8]",
)
READING = ("data.text_columns", "data.quoting", "data.header", "data.encoding")
"""Fields that say how texts are read."""
LABELS = (
    *("data.label_column", "data.label_columns", "data.label_separator"),
    *("data.label_names", "data.skip_labels"),
)
"""Fields that say how labels are read."""
TRIMMED = ("student.vocabulary", "data.path", "data.unlabeled", *LABELS, *READING)
"""Fields that say which words a trimmed model keeps."""
DATA = config_options(TeachConfig, only=("data.path", *LABELS, *READING))


@contextmanager
def extra_needed(name: str, purpose: str) -> Iterator[None]:
    """Name the extra to install if an import within fails.

    Args:
        name: The extra of pyproject.toml.
        purpose: What needs it, to begin a sentence with.

    Raises:
        ConfigError: If a module is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed. {purpose} needs the extra `{name}`: run "
            f"pip install '.[{name}]' in your clone of layermix"
        ) from None


def print_json(value: Any) -> None:
    """Print a result as JSON on standard output."""
    echo(json.dumps(value, indent=2, ensure_ascii=False))
