"""Hooks of MkDocs: add results/, make tables from the code, forbid requests to other hosts.

A line `{{ table: NAME }}` of a page becomes the table NAME, a key of `TABLES`.
"""

import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import layermix
from layermix.config import (
    PRESETS,
    DistillConfig,
    PretrainConfig,
    TeachConfig,
    field_names,
    section_kinds,
)
from layermix.core.losses import ATTENTION, HIDDEN, LOGIT, SUPERVISED, LossRow
from layermix.core.mixing import MIXES, MixRow
from layermix.data.columns import LABEL_COLUMNS, NUMBER_COLUMNS, TEXT_COLUMNS
from layermix.data.files import FORMATS
from layermix.data.splits import SPLIT_NAMES
from layermix.data.tasks import TASKS
from layermix.report.build import page_of
from layermix.report.html import render
from layermix.search.schema import SUFFIX
from layermix.studies.folder import PLAN_SUFFIX

RESULTS = Path(__file__).parents[1] / "results"
MARKER = re.compile(r"^\{\{ table: (\S+) \}\}$", re.MULTILINE)
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; worker-src 'self'"
)
"""What a browser may load: files of the site. The theme's script could ask for more."""


# -- what MkDocs calls -----------------------------------------------------------------------------


def on_files(files: Files, *, config: Any) -> Files:
    """Add results/, a folder beside docs/: tables and pages of studies, and pages of searches."""
    tables = [file for file in sorted(RESULTS.glob("*/*.md")) if not _of_a_search(file)]
    for source in [RESULTS / "index.md", *tables]:
        files.append(File.generated(config, _on_the_site(source), abs_src_path=str(source)))
    plans = [file for file in sorted(RESULTS.glob(f"*/*{PLAN_SUFFIX}")) if not _of_a_search(file)]
    for record in [*plans, *sorted(RESULTS.glob(f"*/*{SUFFIX}"))]:
        name = record.name.removesuffix(PLAN_SUFFIX).removesuffix(SUFFIX)
        place = _on_the_site(record.with_name(f"{name}.report.html"))
        files.append(File.generated(config, place, content=render(page_of(record)[0])))
    return files


def _of_a_search(file: Path) -> bool:
    """Whether a file is of one of the studies that a search consists of."""
    names = [record.name.removesuffix(SUFFIX) for record in file.parent.glob(f"*{SUFFIX}")]
    return any(file.name.startswith(f"{name}-") for name in names)


def _on_the_site(file: Path) -> str:
    """The address in the site of a file in results/."""
    return file.relative_to(RESULTS.parent).as_posix()


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace the markers by tables, and links to ../results/ by links to the site's results/.

    Raises:
        PluginError: There is no table of the name.
    """

    def table(marker: re.Match[str]) -> str:
        if marker[1] not in TABLES:
            raise PluginError(
                f"{page.file.src_path}: no table {marker[1]}; wanted one of {', '.join(TABLES)}"
            )
        return TABLES[marker[1]]()

    return MARKER.sub(table, markdown).replace("](../results/", "](results/")


def on_post_page(output: str, **_: Any) -> str:
    """Forbid requests to other hosts."""
    return output.replace(
        "<head>", f'<head>\n<meta http-equiv="Content-Security-Policy" content="{POLICY}">', 1
    )


def on_post_template(output_content: str, *, template_name: str, **_: Any) -> str:
    """The same for the page of addresses that do not exist."""
    return on_post_page(output_content) if template_name.endswith(".html") else output_content


# -- tables ----------------------------------------------------------------------------------------


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _code(value: Any) -> str:
    return f"`{value}`"


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(_code, values))


def _named(rows: Mapping[str, MixRow | LossRow]) -> str:
    """The rows of a table of mixes or of losses."""
    return _markdown(
        ["name", "what it does", "from"],
        ([_code(name), row.summary, row.paper] for name, row in rows.items()),
    )


def _tasks() -> str:
    return _markdown(
        ["task", "question", "classes, in order", "scores"],
        (
            [_code(one.name), one.summary, _listed(one.label_names or ()), _listed(one.metrics)]
            for one in TASKS.values()
        ),
    )


def _column_names() -> str:
    pairs = ["`" + "` and `".join(names) + "`" for names in TEXT_COLUMNS if len(names) == 2]
    single = [names[0] for names in TEXT_COLUMNS if len(names) == 1]
    rows = [
        ["two texts", "; ".join(pairs)],
        ["one text", _listed(single)],
        ["the label", _listed(LABEL_COLUMNS)],
        ["a number as label, where there is none of these", _listed(NUMBER_COLUMNS)],
    ]
    return _markdown(["column", "found by the name"], rows)


def _split_names() -> str:
    return _markdown(
        ["rows for", "name of the file or split"],
        ([split, _listed(names)] for split, names in SPLIT_NAMES.items()),
    )


def _formats() -> str:
    return _markdown(
        ["ending", "is read as"],
        ([_code(f".{ending}"), FORMAT_WORDS[ending]] for ending in FORMATS),
    )


FORMAT_WORDS = {
    "tsv": "fields with tabs between, a header line",
    "csv": "fields with commas between, quoted where needed, a header line",
    "jsonl": "one JSON object per line",
    "json": "the same: one JSON object per line, not an array",
    "parquet": "Parquet",
    "conll": "a word and its labels per line, an empty line after each sentence",
    "conllu": "CoNLL-U, as Universal Dependencies has it",
    "bio": "as `.conll`",
    "iob": "as `.conll`",
    "iob2": "as `.conll`",
    "txt": "one text per line, no header, no label: texts without labels, and `predict`",
}


def _default(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return _code("true" if value else "false")
    if isinstance(value, list | tuple):
        return _code(",".join(map(str, value)))
    return _code(f"{value:g}" if isinstance(value, float) else value)


def _choices(annotation: Any) -> tuple[str, ...]:
    """What a field may be, if that is a few words."""
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    return tuple(
        word for part in typing.get_args(annotation) for word in _choices(part) if part is not None
    )


def _meaning(field: Any) -> str:
    told = " ".join((field.description or "").split())
    if words := _choices(field.annotation):
        told += f" One of {_listed(words)}."
    return told


def _fields(kind: type, section: str) -> str:
    """The fields of one section of a config, or those outside of all sections."""
    defaults = kind().model_dump()
    rows = []
    for dotted, field in field_names(kind).items():
        of, _, leaf = dotted.rpartition(".")
        if of == section:
            value = (defaults[section] if section else defaults)[leaf]
            rows.append([_code(dotted), _default(value), _meaning(field)])
    return _markdown(["field", "default", "meaning"], rows)


def _otherwise(kind: type, without: str = "") -> str:
    """What a config has otherwise than that of `distill`, but for one section."""
    ours, theirs = kind().model_dump(), DistillConfig().model_dump()
    rows = []
    for dotted, field in field_names(kind).items():
        section, _, leaf = dotted.rpartition(".")
        if section and section == without:
            continue
        value = (ours[section] if section else ours)[leaf]
        if value != (theirs.get(section, {}) if section else theirs).get(leaf, ...):
            rows.append([_code(dotted), _default(value), _meaning(field)])
    return _markdown(["field", "default", "meaning"], rows)


def _presets() -> str:
    """Every field that a preset sets, beside the default."""
    names = [name for name in PRESETS if name != "default"]
    flat = {
        name: {
            f"{section}.{leaf}": value
            for section, values in preset.items()
            for leaf, value in values.items()
        }
        for name, preset in PRESETS.items()
    }
    defaults = DistillConfig().model_dump()
    rows = []
    for dotted in field_names(DistillConfig):
        if any(dotted in flat[name] for name in names):
            section, _, leaf = dotted.rpartition(".")
            default = defaults[section][leaf]
            rows.append(
                [_code(dotted), _default(default)]
                + [_default(flat[name][dotted]) if dotted in flat[name] else "" for name in names]
            )
    return _markdown(["field", "default", *map(_code, names)], rows)


def _public() -> str:
    """The public names, with the first line of what they say of themselves."""
    rows = []
    for name in layermix.__all__:
        found = getattr(layermix, name)
        module = importlib.import_module(found.__module__)
        told = (inspect.getdoc(found) or "").partition("\n")[0]
        rows.append([f"[`{name}`][{module.__name__}.{name}]", told])
    return _markdown(["name", "what it is"], rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "mix.strategy": partial(_named, MIXES),
    "loss.supervised": partial(_named, SUPERVISED),
    "loss.logit": partial(_named, LOGIT),
    "loss.hidden": partial(_named, HIDDEN),
    "loss.attention": partial(_named, ATTENTION),
    "data.task": _tasks,
    "data.columns": _column_names,
    "data.splits": _split_names,
    "data.formats": _formats,
    "config": partial(_fields, DistillConfig, ""),
    **{
        f"config.{name}": partial(_fields, DistillConfig, name)
        for name in section_kinds(DistillConfig)
    },
    "config.teach": partial(_otherwise, TeachConfig),
    "config.pretrain": partial(_otherwise, PretrainConfig, "texts"),
    "config.pretrain.texts": partial(_fields, PretrainConfig, "texts"),
    "presets": _presets,
    "public": _public,
}
