"""Builds a config from YAML and flags, reports every problem by flag or line, and writes YAML."""

import difflib
import json
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from yaml.reader import ReaderError

from layermix.config.schema import field_names, merge, section_kinds, spell_out
from layermix.config.wording import describe_problem, problems_of
from layermix.errors import ConfigError

ALIASES = {
    "teacher": "teacher.model",
    "student": "student.model",
    "data": "data.path",
    "texts": "texts.files",
    "report_to": "training.report_to",
}
"""Short names of options: `--teacher T` sets the field `teacher.model`."""

Config = TypeVar("Config", bound=BaseModel)


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries: `{"mix.strategy": "fixed"}` -> `{"mix": {"strategy": "fixed"}}`."""
    nested: dict[str, Any] = {}
    for dotted, value in flat.items():
        *parents, leaf = dotted.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(
                    f"{parent} has a value, so {dotted} cannot have one; give one of them"
                )
        node[leaf] = value
    return nested


def load(
    kind: type[Config],
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    implied: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> Config:
    """Build a config from an optional YAML file and flags that override it.

    Args:
        kind: `DistillConfig`, `TeachConfig` or a class like them.
        file: A YAML file of the same shape.
        flags: Dotted field names (or the aliases `teacher`, `student`, `data`) to values as typed.
        implied: Adds to what is given what it implies, such as `with_implied_preset`.

    Raises:
        ConfigError: With every problem, each with its flag or its line in the file.
    """
    flags = _unaliased(flags)
    from_file, lines = read_yaml(file) if file else ({}, {})
    given = spell_out(kind, from_file)
    # A value where a section belongs must reach the validation; flags would hide it.
    no_section = {
        name for name in section_kinds(kind) if not isinstance(given.get(name, {}), Mapping)
    }
    kept = {
        name: value for name, value in flags.items() if name.partition(".")[0] not in no_section
    }
    try:
        return kind.model_validate(implied(merge(given, nest(kept))))
    except ValidationError as error:
        problems: list[str] = [
            _located(kind, problem, flags, file, lines) for problem in problems_of(error)
        ]
        count = f"{len(problems)} problem{'s' * (len(problems) != 1)} in the config:"
        raise ConfigError("\n".join([count, *problems])) from None


def as_written(
    kind: type[BaseModel], file: Path | None = None, flags: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What `load` validates: the file and the flags that override it, with places as written.

    Args:
        kind: As in `load`, which has accepted the same.
        file: As in `load`.
        flags: As in `load`.

    Raises:
        ConfigError: If the file cannot be read.
    """
    given = spell_out(kind, read_yaml(file)[0] if file else {})
    return merge(given, nest(_unaliased(flags)))


def _unaliased(flags: Mapping[str, Any] | None) -> dict[str, Any]:
    return {ALIASES.get(name, name): value for name, value in (flags or {}).items()}


def read_yaml(file: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """A YAML mapping, and the line number of each dotted key.

    Raises:
        ConfigError: If the file cannot be read, is no mapping, or sets a key twice.
    """
    try:
        value, lines, repeated = _parsed(file)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; give the path of a YAML file") from None
    except RecursionError:
        raise ConfigError(f"{file}: cannot be read as YAML: it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{file}{_described(error)}") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ConfigError(
            f"{file}: cannot be read as YAML: found the byte 0x{byte:02x}, wanted UTF-8 text; save "
            "the file as UTF-8"
        ) from None
    except Exception as error:  # PyYAML fails in many ways
        raise ConfigError(f"{file}: cannot be read as YAML: {error}") from None
    if value is None:
        return {}, {}
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: found a {type(value).__name__}, wanted `key: value` lines")
    if repeated:
        problems = [
            f"  {file}:{line}: {name} is already set on line {before}"
            for name, line, before in repeated
        ]
        raise ConfigError(
            "\n".join(["found keys that are set twice; keep one of each:", *problems])
        )
    return value, lines


Repeated = list[tuple[str, int, int]]
"""Keys that are set twice: name, line, and the line before."""


def _note_lines(node: yaml.Node, prefix: str, lines: dict[str, int], repeated: Repeated) -> None:
    """Note the line of each dotted key of a mapping, and what is set twice.

    What a mapping takes over from another one (`<<: *name`) may be set again.
    """
    taken_over: dict[str, int] = {}
    for key, child in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.tag == "tag:yaml.org,2002:merge":
            for other in child.value if isinstance(child, yaml.SequenceNode) else [child]:
                _note_lines(other, prefix, taken_over, [])
            continue
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in lines:
            repeated.append((name, line, lines[name]))
        lines[name] = line
        _note_lines(child, f"{name}.", lines, repeated)
    for name, line in taken_over.items():
        lines.setdefault(name, line)


def _described(error: yaml.MarkedYAMLError) -> str:
    """The line of an error of PyYAML, what it says, and the text there with a mark below."""
    mark = error.problem_mark or error.context_mark
    says = "cannot be read as YAML: " + ": ".join(filter(None, (error.context, error.problem)))
    if mark is None:
        return f": {says}"
    return f":{mark.line + 1}: {says}\n{mark.get_snippet(indent=2) or ''}".rstrip()


MOST_CHARACTERS = 1_000_000
"""Largest YAML file that is read, in characters."""
MOST_NODES = 100_000
"""Most keys and values in it, with every alias written out: few lines of aliases can name more than
fit into memory."""


def _parsed(file: Path) -> tuple[Any, dict[str, int], Repeated]:
    """The value of a YAML file, the line of each dotted key, and keys that are set twice.

    Raises:
        Exception: Of many kinds, if it is no YAML, or larger than any config.
    """
    with file.open(encoding="utf-8") as stream:
        text = stream.read(MOST_CHARACTERS + 1)
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has more than {MOST_CHARACTERS:,} characters")
    try:
        loader = yaml.SafeLoader(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(
            f"found the character U+{error.character:04X} on line {line}, wanted text; remove it"
        ) from None
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}, []
        _count(node, {})
        lines, repeated = dict[str, int](), Repeated()
        _note_lines(node, "", lines, repeated)  # before what is taken over is written out
        return loader.construct_document(node), lines, repeated
    finally:
        loader.dispose()


def _count(node: yaml.Node, counted: dict[int, float]) -> float:
    """How many nodes a node holds, itself and every repetition included.

    Raises:
        ValueError: If there are more than `MOST_NODES`.
    """
    if id(node) not in counted:
        counted[id(node)] = float("inf")  # where a node holds itself
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        counted[id(node)] = 1 + sum(_count(child, counted) for child in children)
    if counted[id(node)] > MOST_NODES:
        raise ValueError(f"with its aliases written out it has more than {MOST_NODES:,} values")
    return counted[id(node)]


def _located(
    kind: type[BaseModel],
    problem: Any,
    flags: Mapping[str, Any],
    file: Path | None,
    lines: Mapping[str, int],
) -> str:
    """A pydantic problem as a line that begins with the flag, or the file and line, it is about."""
    name, message = explain(kind, problem)
    short = {long: alias for alias, long in ALIASES.items()}
    typed = [flag for flag in flags if flag == name or flag.startswith(f"{name}.")]
    places = [f"--{short.get(flag, flag)}" for flag in typed]
    key = name if name in lines else name.partition(".")[0]  # a section written as one word
    if key in lines and (not typed or name in section_kinds(kind)):
        places.append(f"{file}:{lines[key]}: {key}")
    return f"  {' '.join(places) or name or file}: {message}"


def explain(kind: type[BaseModel], problem: Any) -> tuple[str, str]:
    """The dotted field that a pydantic problem is about, and what is wrong with it."""
    known = dict.fromkeys([*kind.model_fields, *field_names(kind)])
    parts = [str(part) for part in problem["loc"]]
    unknown = problem["type"] == "extra_forbidden"
    while not unknown and len(parts) > 1 and ".".join(parts) not in known:
        parts.pop()  # an index into a list
    name = ".".join(parts)
    return name, "unknown key" + _suggestion(name, known) if unknown else describe_problem(problem)


def _suggestion(unknown: str, known: Collection[str]) -> str:
    """The end of a message: the same key in another section, a similar one, or all keys there."""
    section, _, leaf = unknown.rpartition(".")
    parts = {name: name.rpartition(".") for name in known}
    beside = {own: name for name, (parent, _, own) in parts.items() if parent == section}
    meant = sorted(name for name, (_, _, own) in parts.items() if own == leaf) or [
        beside[own] for own in difflib.get_close_matches(leaf, beside, n=1, cutoff=0.5)
    ]
    if meant:
        return f"; did you mean {' or '.join(meant)}?"
    place = f"the keys of {section}" if section else "the keys"
    return f"; {place} are {', '.join(beside)}" if beside else ""


def to_yaml(config: BaseModel) -> str:
    """The whole config as YAML; `load` reads it back to an equal config."""
    return dump_yaml(config.model_dump(mode="json"))


# With libyaml, which PyYAML's wheels have, ten times as fast: a study writes and files thousands.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Sections of plain data, as JSON has it, as YAML; keys in their order."""
    return "".join(_section_yaml(json.dumps({name: part})) for name, part in value.items())


@lru_cache(maxsize=1000)
def _section_yaml(section: str) -> str:
    """One section, given as JSON; kept, as the configs of a study's cells differ in few."""
    text: str = yaml.dump(json.loads(section), Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
    return text


def read_own_yaml(file: Path) -> Any:
    """The data in a YAML file that layermix wrote; `read_yaml` is for what people write.

    Raises:
        ConfigError: If somebody has damaged it.
    """
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER)  # both are safe
    except (yaml.YAMLError, UnicodeDecodeError):
        return read_yaml(file)[0]  # says what is wrong, and where
