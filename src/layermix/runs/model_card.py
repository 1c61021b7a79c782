"""The model card: what a saved model is, how it was made, how well it does, how to use it.

A run writes the card; an export and a benchmark each put a section of their own into it, between
marks, so that whatever a person has written into the rest stays.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CITATION = """@misc{yun-moon-layerwise,
  title = {{BERT} Distillation via Layer-wise Weighted Learning},
  author = {Yun, Seo-Hee and Moon, Yong-Hyuk},
  note = {Sungshin Women's University; the method that this student was made with}
}"""


def model_card(record: Mapping[str, Any], role: str) -> str:
    """README.md for a model folder, with the hub's metadata block.

    Folders of this machine are called by their last name only: cards are made to be passed on.

    Args:
        record: What result.json holds.
        role: `student` or `teacher`.
    """
    model, data = record[role], record["data"]
    saved = "selected" if "selected" in record["metrics"] else "last"
    report = record["metrics"][saved]
    title = f"{role.capitalize()} for {record['task'] or _name(data['from'])}"
    made = (
        f"Distilled with `{record['formula']}` from `{_name(record['teacher']['from'])}`"
        if role == "student"
        else f"Fine-tuned from `{_name(model.get('from', 'a model in memory'))}`"
    )
    lines = [
        *_metadata(record, role, title, report["validation"]),
        f"# {title}",
        "",
        f"{made} on {data['rows']['train']} rows of `{_name(data['from'])}`, at most "
        f"{data['max_length']} tokens. {model['parameters']:,} parameters; classes: "
        f"{', '.join(model['classes'])}.",
        "",
        *_scores(record, role, saved, report),
        *_alpha(record),
        "## Use",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        'classify = pipeline("text-classification", model="PATH/TO/THIS/FOLDER")',
        *_call(record),
        "```",
        "",
        *_limits(record, role),
        *(["## Citation", "", "```bibtex", CITATION, "```", ""] if role == "student" else []),
    ]
    return "\n".join(lines)


def _metadata(
    record: Mapping[str, Any], role: str, title: str, scores: Mapping[str, Any]
) -> list[str]:
    """The block that the hub reads; licence and language are for the owner to say."""
    data = _name(record["data"]["from"])
    numbers = [
        {"type": name, "value": round(value, 4)}
        for name, value in scores.items()
        if name in ("accuracy", "f1", "matthews")
    ]
    task = {"type": "text-classification", "name": "Text classification"}
    found = {"task": task, "dataset": {"name": data, "type": data}, "metrics": numbers}
    block = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["layermix", *(["knowledge-distillation"] if role == "student" else [])],
        "metrics": [one["type"] for one in numbers],
        "model-index": [{"name": title, "results": [found]}],
    }
    return ["---", yaml.safe_dump(block, sort_keys=False, allow_unicode=True).rstrip(), "---"]


def _scores(
    record: Mapping[str, Any], role: str, saved: str, report: Mapping[str, Any]
) -> list[str]:
    taught = record["teacher"]["metrics"]["validation"] if role == "student" else None
    head = f"| validation score ({saved} epoch: {report['epoch']}) | |"
    lines = [
        f"{head} teacher |" if taught else head,
        "| --- | ---: | ---: |" if taught else "| --- | ---: |",
    ]
    for name, value in report["validation"].items():
        if isinstance(value, float):
            other = f" {taught[name]:.4f} |" if taught and name in taught else " |" * bool(taught)
            lines.append(f"| {name} | {value:.4f} |{other}")
    lines.append("")
    if interval := record.get("interval"):
        about = f"95 % interval of {interval['metric']} over the {interval['rows']} rows"
        lines += [f"{about}: {interval['low']:.4f} to {interval['high']:.4f}."]
        if "difference" in interval:
            lines += [
                f"Student minus teacher: {100 * interval['difference']:+.1f} points "
                f"({100 * interval['difference_low']:+.1f} to "
                f"{100 * interval['difference_high']:+.1f}, paired)."
            ]
        lines += ["Another seed would give another score; this is one run.", ""]
    return lines


def _alpha(record: Mapping[str, Any]) -> list[str]:
    """The weights of the teacher's layers at the end, if layers were mixed."""
    mix, alpha = record.get("mix"), record.get("alpha")
    if not mix or not alpha:
        return []
    heads = [f"teacher layer {layer}" for layer in mix["teacher_layers"]]
    return [
        f"Each layer of the student followed a mix of the teacher's layers ({mix['strategy']}); α "
        "at the end:",
        "",
        "| | " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * len(heads),
        *(
            f"| student layer {layer} | " + " | ".join(f"{weight:.3f}" for weight in row) + " |"
            for layer, row in zip(mix["student_layers"], alpha, strict=True)
        ),
        "",
    ]


def _call(record: Mapping[str, Any]) -> list[str]:
    given = '{"text": "one text", "text_pair": "the other"}' if record.get("pair") else '"a text"'
    return [f"classify({given}, truncation=True, max_length={record['data']['max_length']})"]


def _limits(record: Mapping[str, Any], role: str) -> list[str]:
    classes = ", ".join(record[role]["classes"])
    return [
        "## Intended use and limits",
        "",
        f"It sorts texts like those it was trained on into {classes}, and knows nothing else: "
        "other languages, other kinds of text and other times are untested, and every text gets "
        "one of these classes. Its probabilities are as good as the `ece` above says. What is "
        "unfair in the training texts, or in the teacher, is in it too.",
        "",
    ]


# -- sections that others add ----------------------------------------------------------------------


def with_section(card: str, name: str, text: str) -> str:
    """A card in which one section is put in, or put in the place of an older one.

    Args:
        card: README.md as it is; all but the section stays as it was.
        name: Stands in the marks around the section.
        text: Markdown.

    Examples:
        >>> card = with_section("# Mine", "speed", "fast")
        >>> print(with_section(card, "speed", "faster"))
        # Mine
        <BLANKLINE>
        <!-- layermix: speed -->
        faster
        <!-- layermix: end of speed -->
        <BLANKLINE>
    """
    begin, end = f"<!-- layermix: {name} -->", f"<!-- layermix: end of {name} -->"
    section = f"{begin}\n{text}\n{end}"
    old = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if old.search(card):
        return old.sub(lambda _: section, card, count=1)
    before = f"{card.rstrip()}\n\n" if card.strip() else ""
    return f"{before}{section}\n"


def export_section(record: Mapping[str, Any]) -> str:
    """What export.json tells, and how the files are run.

    Args:
        record: What export.json holds.
    """
    parity, sizes = record["parity"], record["bytes"]
    lines = [
        "## ONNX",
        "",
        f"`onnx/model.onnx` ({sizes['onnx'] / 1e6:.1f} MB, opset {record['opset']}) answers as "
        f"PyTorch does on {parity['rows']} rows (largest difference of a logit "
        f"{parity['max_difference']:.1e}).",
    ]
    if cost := record.get("int8"):
        lines += [
            "",
            f"`onnx/model_quantized.onnx` ({sizes['int8'] / 1e6:.1f} MB, int8): {cost['metric']} "
            f"{cost['int8']:.4f} instead of {cost['float32']:.4f} on {cost['rows']} rows; it costs "
            f"{cost['drop']:.2f} points (paired 95 % interval {cost['low']:.2f} to "
            f"{cost['high']:.2f}).",
        ]
    dtype, file = ("q8", "model_quantized") if cost else ("fp32", "model")
    texts, called = '"a text"', "'a text'"
    if record["pair"]:
        texts, called = '"one text", "the other"', "{ text: 'one text', text_pair: 'the other' }"
    length = record["max_length"]
    return "\n".join(
        [
            *lines,
            "",
            "```python",
            "import onnxruntime",
            "from transformers import AutoTokenizer",
            "",
            'folder = "PATH/TO/THIS/FOLDER"',
            f'session = onnxruntime.InferenceSession(f"{{folder}}/onnx/{file}.onnx")',
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            f"cut = {{'truncation': True, 'max_length': {length}, 'return_tensors': 'np'}}",
            f"inputs = tokenizer({texts}, **cut)",
            "names = [one.name for one in session.get_inputs()]",
            "logits = session.run(None, {name: inputs[name] for name in names})[0]",
            "```",
            "",
            "```js",
            "import { pipeline } from '@huggingface/transformers';",
            "",
            "const classify = await pipeline('text-classification', 'NAME', "
            f"{{ dtype: '{dtype}' }});",
            f"await classify({called});",
            "```",
        ]
    )


def bench_section(record: Mapping[str, Any]) -> str:
    """Size and speed as a table.

    Args:
        record: What bench.json holds.
    """
    heads, rows = bench_cells(record)
    return "\n".join(
        [
            "## Size and speed",
            "",
            f"| {' | '.join(heads)} |",
            "| --- |" + " ---: |" * (len(heads) - 1),
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            bench_note(record),
        ]
    )


def bench_cells(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of a benchmark.

    Args:
        record: What bench.json holds.
    """
    heads = ["", "parameters", "MB", "ms per text", "95th percentile"]
    heads += [f"texts/s in batches of {record['batch_size']}", "times as fast, one at a time"]
    heads += ["in batches"]
    rows = [
        [
            row["name"],
            f"{row['parameters'] / 1e6:.1f} M" if row["parameters"] else "–",
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['median_ms']:.1f}",
            f"{row['p95_ms']:.1f}",
            f"{row['texts_per_second']:.0f}",
            *(
                f"{one['median']:.1f} ({one['low']:.1f} to {one['high']:.1f})"
                for one in (row["times_as_fast"][how] for how in ("alone", "together"))
            ),
        ]
        for row in record["models"]
    ]
    return heads, rows


def bench_note(record: Mapping[str, Any]) -> str:
    """How a benchmark was made, in a sentence or two.

    Args:
        record: What bench.json holds.
    """
    return (
        f"Medians; tokenizing included; {record['threads']} threads, {record['processor']}. Texts: "
        f"{record['rows']}, {record['mean_tokens']:.0f} tokens in the mean. The models took turns: "
        f"the ratios are to {record['models'][0]['name']}, median of {record['rounds']} rounds, "
        "and the least and the most."
    )


def _name(source: str) -> str:
    """A file or folder without the folders above it; a hub's name as it is.

    Examples:
        >>> _name("/home/me/runs/teacher"), _name("org/model"), _name("../mine"), _name("minilm")
        ('teacher', 'org/model', 'mine', 'minilm')
    """
    path = Path(source)
    here = path.exists() or path.is_absolute() or len(path.parts) > 2 or source[:1] in (".", "~")
    return path.absolute().name if here else source
