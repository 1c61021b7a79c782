"""The model card of a pretrained student: what it is, what it learned from, how to go on."""

import yaml

from layermix.escaping import markdown, markdown_code
from layermix.runs.model_card import CITATION, display_name
from layermix.runs.schema import PretrainRecord


def pretraining_card(record: PretrainRecord) -> str:
    """README.md for the folder of a pretrained student, with the hub's metadata block.

    Folders of this machine appear by their last name only, since cards are passed on.

    Args:
        record: Of the finished pretraining.
    """
    corpus, teacher = record.corpus, display_name(record.teacher.place or "")
    texts = ", ".join(markdown_code(display_name(file)) for file in corpus.files)
    title = f"Encoder distilled from {teacher}"
    block = {
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "tags": ["layermix", "knowledge-distillation"],
    }
    first, last = record.held_out[0], record.held_out[-1]
    lines = [
        *("---", yaml.safe_dump(block, sort_keys=False).rstrip(), "---"),
        f"# {markdown(title)}",
        "",
        "A general encoder without a head: it is made to be fine-tuned or distilled on a task, and "
        "gives no answers as it is.",
        "",
        f"Distilled with {markdown_code(record.formula or '')} from {markdown_code(teacher)}, "
        f"without labels, on {texts}: {corpus.documents:,} documents, packed into "
        f"{corpus.rows.get('train', 0):,} rows of {corpus.max_length} tokens; "
        f"{record.tokens_seen:,} tokens seen. {record.student.parameters:,} parameters.",
        "",
        f"| loss on {corpus.rows.get('held_out', 0):,} held-out rows | at the start | at the end |",
        "| --- | ---: | ---: |",
        f"| all terms | {first.loss:.4f} | {last.loss:.4f} |",
        *(f"| {name} | {first.parts[name]:.4f} | {last.parts[name]:.4f} |" for name in last.parts),
        "",
        "## Use",
        "",
        "```bash",
        "layermix distill --teacher TEACHER --student PATH/TO/THIS/FOLDER --data DATA --out RUN",
        "```",
        "",
        "```python",
        "from transformers import AutoModel",
        "",
        'encoder = AutoModel.from_pretrained("PATH/TO/THIS/FOLDER")',
        "```",
        "",
        "## Intended use and limits",
        "",
        "The loss says how close its layers are to the teacher's on texts of the same kind, not "
        "how good it is on a task; that was not tested. Any bias in the texts, or in the teacher, "
        "is in the model too.",
        "",
        *("## Citation", "", "```bibtex", CITATION, "```", ""),
    ]
    return "\n".join(lines)
