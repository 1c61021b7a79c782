"""The model card: what a saved model is, how it was made, its scores, and how to use it.

A run writes the card. An export and a benchmark each add a section between marks, so that text
that a person has written elsewhere in the card stays.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from layermix.errors import ModelError
from layermix.escaping import markdown, markdown_code
from layermix.evaluation.forms import Form
from layermix.runs.layout import CARD
from layermix.runs.schema import (
    BenchRecord,
    ExportRecord,
    ModelRecord,
    QuantizationCost,
    Role,
    RunRecord,
    ScoresBySplit,
    Speedups,
)

CITATION = """@misc{yun-moon-layerwise,
  title = {{BERT} Distillation via Layer-wise Weighted Learning},
  author = {Yun, Seo-Hee and Moon, Yong-Hyuk},
  note = {Sungshin Women's University; the method that this student was made with}
}"""


PUBLISHED: Mapping[str, str] = {
    "accuracy": "accuracy",
    "f1": "f1",
    "f1_micro": "f1",
    "entity_f1": "f1",
    "entity_precision": "precision",
    "entity_recall": "recall",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "mae": "mae",
}
"""Scores in the block that the hub reads -> their names there."""


def model_card(record: RunRecord, role: Role) -> str:
    """README.md for a model folder, with the hub's metadata block.

    Folders of this machine appear by their last name only, since cards are passed on.

    Args:
        record: Of the finished run.
        role: Of the model.
    """
    model, data = record.trained, record.data
    source, words = display_name(data.place or ""), WORDS[record.form or "class"]
    title = f"{role.capitalize()} for {record.task or source}"
    teacher = record.teacher.place or ""
    if record.teacher.parameters is not None:  # soft labels say in words what they are
        teacher = display_name(teacher)
    made = (
        f"Distilled with {markdown_code(record.formula or '')} from {markdown_code(teacher)}"
        if role == "student"
        else f"Fine-tuned from {markdown_code(display_name(model.place or 'a model in memory'))}"
    )
    lines = [
        *_metadata(record, role, title),
        f"# {markdown(title)}",
        "",
        f"{made} on {data.rows.get('train')} rows of {markdown_code(source)}, at most "
        f"{data.max_length} tokens. {model.parameters:,} parameters; "
        f"{words.outputs}: {_classes(model)}.{_vocabulary(model)}",
        "",
        *_scores(record),
        *_alpha(record),
        "## Use",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        f'classify = pipeline("{words.task}", model="PATH/TO/THIS/FOLDER"{words.options})',
        *_call(record),
        "```",
        "",
        *_limits(record),
        *(["## Citation", "", "```bibtex", CITATION, "```", ""] if role == "student" else []),
    ]
    return "\n".join(lines)


def _vocabulary(model: ModelRecord) -> str:
    if model.vocabulary is None:
        return ""
    return (
        f" Its vocabulary is trimmed to {model.vocabulary:,} tokens, those of its training texts "
        "first: other words are read in smaller pieces."
    )


def _validation(scores: ScoresBySplit | None) -> Mapping[str, float]:
    """Scores on the validation rows by name; empty if there are none."""
    return {} if scores is None or scores.validation is None else scores.validation.numbers


def _metadata(record: RunRecord, role: Role, title: str) -> list[str]:
    """The block that the hub reads; the owner adds licence and language."""
    data = display_name(record.data.place or "")
    guessed = (record.data.guessed or {}).get("validation")
    numbers = (
        []
        if guessed
        else [
            {"type": PUBLISHED[name], "value": round(value, 4)}
            for name, value in _validation(record.metrics.saved).items()
            if name in PUBLISHED
        ]
    )
    task_type = WORDS[record.form or "class"].task
    task = {"type": task_type, "name": task_type.replace("-", " ").capitalize()}
    result = {"task": task, "dataset": {"name": data, "type": data}, "metrics": numbers}
    block = {
        "library_name": "transformers",
        "pipeline_tag": task_type,
        "tags": ["layermix", *(["knowledge-distillation"] if role == "student" else [])],
        "metrics": [number["type"] for number in numbers],
        "model-index": [{"name": title, "results": [result]}],
    }
    return ["---", yaml.safe_dump(block, sort_keys=False, allow_unicode=True).rstrip(), "---"]


def _scores(record: RunRecord) -> list[str]:
    """The scores of the saved epoch, beside those of the teacher if there is one."""
    saved = record.metrics.saved
    has_teacher = record.student is not None
    teacher = _validation(record.teacher.metrics) if has_teacher else {}
    head = f"| validation score ({record.metrics.saved_epoch} epoch: {saved.epoch}) | |"
    lines = [
        f"{head} teacher |" if teacher else head,
        "| --- | ---: | ---: |" if teacher else "| --- | ---: |",
    ]
    for name, value in _validation(saved).items():
        other = f" {teacher[name]:.4f} |" if name in teacher else " |" * bool(teacher)
        lines.append(f"| {name} | {value:.4f} |{other}")
    lines.append("")
    if about := guessed_note(record):
        lines += [about, ""]
    if interval := record.interval:
        of_groups = f" in {interval.groups} groups" if interval.groups else ""
        about = f"95 % interval of {interval.metric} over the {interval.rows} rows{of_groups}"
        lines += [f"{about}: {interval.low:.4f} to {interval.high:.4f}."]
        ends = interval.difference, interval.difference_low, interval.difference_high
        if None not in ends:
            difference, low, high = (100 * value for value in ends if value is not None)
            lines += [
                f"Student minus teacher: {difference:+.1f} points ({low:+.1f} to {high:+.1f}, "
                "paired)."
            ]
        lines += ["Another seed would give another score; this is one run.", ""]
    return lines


def guessed_note(record: RunRecord) -> str:
    """A sentence on validation rows whose label is that of the soft labels; empty if none is."""
    if not (guessed := (record.data.guessed or {}).get("validation")):
        return ""
    return (
        f"{guessed} of {record.data.rows.get('validation')} validation rows have no label: the "
        "most probable class of their soft labels stands for it, so on them the scores say how "
        "often the model agrees with the soft labels, not how often it is right."
    )


def _alpha(record: RunRecord) -> list[str]:
    """The weights of the teacher's layers at the end, if layers were mixed."""
    mix, alpha = record.mix, record.alpha
    if not mix or not alpha:
        return []
    heads = [f"teacher layer {layer}" for layer in mix.teacher_layers]
    return [
        f"Each layer of the student followed a mix of the teacher's layers ({mix.strategy}); α "
        "at the end:",
        "",
        "| | " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * len(heads),
        *(
            f"| student layer {layer} | " + " | ".join(f"{weight:.3f}" for weight in row) + " |"
            for layer, row in zip(mix.student_layers, alpha, strict=True)
        ),
        "",
    ]


def _call(record: RunRecord) -> list[str]:
    words = WORDS[record.form or "class"]
    if words.task == TOKENS:  # whose pipeline cuts texts at the limit of the tokenizer
        return ['classify("a text")']
    given = '{"text": "one text", "text_pair": "the other"}' if record.pair else '"a text"'
    every = ", top_k=None" if words.several else ""
    return [f"classify({given}, truncation=True, max_length={record.data.max_length}{every})"]


def _classes(model: ModelRecord) -> str:
    return ", ".join(markdown(name) for name in model.classes)


TEXTS, TOKENS = "text-classification", "token-classification"
"""Tasks of transformers and of the hub."""


class FormWords(NamedTuple):
    """What a card says of models whose labels have one form.

    Attributes:
        outputs: What its outputs are, before their names.
        use: What it does with a text, before the names of its outputs.
        limits: What it does with every text.
        several: Whether a text may have more than one of them.
        task: What transformers and the hub call it.
        options: Of the pipeline.
    """

    outputs: str
    use: str
    limits: str
    several: bool = False
    task: str = TEXTS
    options: str = ""


WORDS: Mapping[Form, FormWords] = {
    "class": FormWords(
        "classes",
        "assigns texts like its training texts to one of these classes",
        "and it assigns every text to one of the classes. `ece` above says how far its "
        "probabilities can be trusted.",
    ),
    "labels": FormWords(
        "labels, of which a text may have several",
        "gives texts like its training texts any of these labels, each with a probability of its "
        "own",
        "and it may give a text none of the labels. A label counts as given from a probability of "
        ".5 on; `thresholds` in config.json, if they are there, suit the labels better.",
        several=True,
    ),
    "number": FormWords(
        "output, a number",
        "gives texts like its training texts a number",
        "and it gives every text a number. `mae` above is the mean error.",
    ),
    "tags": FormWords(
        "tags of words",
        "gives each word of texts like its training texts one of these tags",
        "and it gives every word a tag. The tag of a word is that of its first token; the pipeline "
        "above joins neighbouring words with the same tag.",
        task=TOKENS,
        options=', aggregation_strategy="first"',
    ),
}
"""Form of a label -> its words."""


def _limits(record: RunRecord) -> list[str]:
    words = WORDS[record.form or "class"]
    return [
        "## Intended use and limits",
        "",
        f"The model {words.use}: {_classes(record.trained)}. It was not tested on other languages, "
        f"other kinds of text, or texts of other times, {words.limits} Any bias in the training "
        "texts, or in the teacher, is in the model too.",
        "",
    ]


# -- sections of export and bench -----------------------------------------------------------------


def read_card(folder: Path) -> str:
    """The text of the model card in a folder; empty if there is none.

    Raises:
        ModelError: If it is not UTF-8.
    """
    file = folder / CARD
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    except UnicodeDecodeError as error:
        raise ModelError(f"{file}: not UTF-8 ({error.reason}); save it as UTF-8") from None


def with_section(card: str, name: str, text: str) -> str:
    """A card with a section added, or replaced if there is an older one.

    Args:
        card: README.md; everything outside the section stays as it is.
        name: The name in the marks around the section.
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
    # On lines of their own: a name in the text may look like a mark.
    old = re.compile(f"^{re.escape(begin)}$.*?^{re.escape(end)}$", re.DOTALL | re.MULTILINE)
    if old.search(card):
        return old.sub(lambda _: section, card, count=1)
    before = f"{card.rstrip()}\n\n" if card.strip() else ""
    return f"{before}{section}\n"


def of_changed_model(card: str) -> str:
    """A card without what was measured: the sections on files and speed, the scores for the hub."""
    for name in ("export", "speed"):
        section = f"<!-- layermix: {name} -->.*?<!-- layermix: end of {name} -->\n*"
        card = re.sub(f"^{section}", "", card, flags=re.DOTALL | re.MULTILINE)
    scores = r"\A(---\n.*?)^model-index:\n(?:[- ][^\n]*\n)*"
    return re.sub(scores, r"\1", card, count=1, flags=re.DOTALL | re.MULTILINE)


def export_section(record: ExportRecord) -> str:
    """The section on exported files: their check, and how to run them."""
    parity, sizes = record.parity, record.bytes
    lines = [
        "## ONNX",
        "",
        f"`onnx/model.onnx` ({sizes.onnx / 1e6:.1f} MB, opset {record.opset}) answers as "
        f"PyTorch does on {parity.rows} rows (largest difference of a logit "
        f"{parity.max_difference:.1e}).",
    ]
    if (cost := record.int8) and sizes.int8 is not None:
        lines += [
            "",
            f"`onnx/model_quantized.onnx` ({sizes.int8 / 1e6:.1f} MB, int8): {cost.metric} "
            f"{cost.int8:.4f} instead of {cost.float32:.4f} on {cost.rows} rows; it costs "
            f"{cost.drop:.2f} points (paired 95 % interval {cost.low:.2f} to {cost.high:.2f})."
            f"{_rows_note(cost)}",
        ]
        if effect := cost.in_batches:
            lines += [
                "",
                "The int8 file was measured with one text at a time. In a batch, an answer depends "
                f"on the other texts: in batches of {effect.batch_size}, a probability moved by up "
                f"to {effect.max_change:.3f}, {effect.other_answers} predictions differed, and the "
                f"cost was {effect.drop:.2f} points. Run one text at a time.",
            ]
    task = WORDS[record.form or "class"].task
    dtype, file = ("q8", "model_quantized") if cost else ("fp32", "model")
    texts, called = '"a text"', "'a text'"
    length = record.max_length
    if record.pair:
        texts, called = '"one text", "the other"', "{ text: 'one text', text_pair: 'the other' }"
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
            "names = [node.name for node in session.get_inputs()]",
            "logits = session.run(None, {name: inputs[name] for name in names})[0]",
            "```",
            "",
            "```js",
            "import { pipeline } from '@huggingface/transformers';",
            "",
            f"const classify = await pipeline('{task}', 'NAME', {{ dtype: '{dtype}' }});",
            f"await classify({called});",
            "```",
        ]
    )


def _rows_note(cost: QuantizationCost) -> str:
    """A sentence on whether the rows that judge int8 were also used to choose the version."""
    match cost.judged_on:
        case None:  # a record before format 2
            return ""
        case "other-rows":
            return " These rows were not used to choose this version."
        case "rows-that-rejected" | "same-rows":
            return " These rows were also used to choose this version, so the cost may be higher."


def bench_section(record: BenchRecord) -> str:
    """The section on size and speed: its tables."""
    lines = ["## Size and speed", ""]
    for heads, rows in bench_tables(record):
        lines += [
            f"| {' | '.join(heads)} |",
            "| --- |" + " ---: |" * (len(heads) - 1),
            *(f"| {' | '.join(map(markdown, row))} |" for row in rows),
            "",
        ]
    return "\n".join([*lines, markdown(bench_note(record))])


Cells = tuple[list[str], list[list[str]]]
"""The column heads and the rows of a table."""


def bench_tables(record: BenchRecord) -> tuple[Cells, Cells]:
    """A benchmark's tables: sizes and times, and how many times as fast the models are."""
    models = record.models
    tokens = all(row.mean_tokens is not None for row in models)
    heads = ["", "parameters", "MB", *(["tokens per text"] * tokens), "ms per text"]
    heads += ["95th percentile", f"texts/s in batches of {record.batch_size}"]
    rows = [
        [
            row.name,
            f"{row.parameters / 1e6:.1f} M" if row.parameters else "–",
            f"{row.bytes / 1e6:.1f}",
            *([f"{row.mean_tokens:.0f}"] if tokens else []),
            f"{row.median_ms:.1f}",
            f"{row.p95_ms:.1f}",
            f"{row.texts_per_second:.0f}",
        ]
        for row in models
    ]
    ratio_heads = ["times as fast", f"as {models[0].name}", "in batches"]
    same_runtime = len({row.runtime for row in models if row.same_runtime is not None}) > 1
    if same_runtime:
        ratio_heads += ["as the first model in the same runtime", "in batches"]
    ratios = [
        [
            row.name,
            *_ratios(row.times_as_fast),
            *(_ratios(row.same_runtime) if same_runtime else []),
        ]
        for row in models
    ]
    return (heads, rows), (ratio_heads, ratios)


def _ratios(speedups: Speedups | None) -> list[str]:
    """The cells of one text at a time and of batches: median (minimum to maximum)."""
    if speedups is None:
        return ["–", "–"]
    return [
        f"{one.median:.1f} ({one.low:.1f} to {one.high:.1f})"
        for one in (speedups.alone, speedups.together)
    ]


def bench_note(record: BenchRecord) -> str:
    """A few sentences on how a benchmark was made."""
    models = record.models
    texts = f"Texts: {record.rows}, {_cut_text(record)}."
    sentences = [
        f"Medians, tokenizing included; {record.threads} threads, {record.processor}.",
        texts,
        f"The models were measured in turns; ratios: median of {record.rounds} rounds (minimum to "
        "maximum).",
    ]
    if record.max_tokens is not None and any(row.runtime == "int8" for row in models):
        sentences.append(
            "int8 files run the texts of a batch one by one, so that no answer depends on the "
            "other texts."
        )
    if any(row.temporary for row in models):
        sentences.append(
            "The exported files of the first model were made for this measurement only; what int8 "
            "costs it in score was not measured."
        )
    return " ".join(sentences)


def _cut_text(record: BenchRecord) -> str:
    """How long the texts were for the models."""
    if record.max_tokens is None:  # a record before format 2
        about = f"{record.mean_tokens:.0f} tokens on average, " if record.mean_tokens else ""
        return f"{about}but each model cut them at its own limit"
    limits = [row.own_limit for row in record.models if row.own_limit is not None]
    shortest = limits and record.max_tokens == min(limits)
    cut = max(row.cut or 0 for row in record.models)
    return (
        f"the same for every model, cut at {record.max_tokens} tokens"
        f"{', the shortest limit of these models' if shortest else ''} ({cut:.1%} of the texts "
        "were cut)"
    )


def display_name(source: str) -> str:
    """The name of a file or folder without its path; the name of a hub model as it is.

    Examples:
        >>> [display_name(source) for source in ("/home/me/teacher", "org/model", "../mine", "m")]
        ['teacher', 'org/model', 'mine', 'm']
    """
    path = Path(source)
    here = path.exists() or path.is_absolute() or len(path.parts) > 2 or source[:1] in (".", "~")
    return path.absolute().name if here else source
