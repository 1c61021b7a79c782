"""The model card: what a saved model is, how it was made, how well it does, how to use it."""

from collections.abc import Mapping
from typing import Any


def model_card(record: Mapping[str, Any], role: str) -> str:
    """README.md for a model folder, with the hub's metadata block.

    Args:
        record: What result.json holds.
        role: `student` or `teacher`.
    """
    model = record[role]
    saved = "selected" if "selected" in record["metrics"] else "last"
    report = record["metrics"][saved]
    scores = [
        f"| {name} | {value:.4f} |"
        for name, value in report["validation"].items()
        if name != "per_class"
    ]
    made = (
        f"Distilled with `{record['formula']}` from `{record['teacher']['from']}`"
        if role == "student"
        else f"Fine-tuned from `{model.get('from', 'a model in memory')}`"
    )
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        "tags: [layermix, knowledge-distillation]" if role == "student" else "tags: [layermix]",
        "---",
        f"# {role.capitalize()} for {record['task'] or record['data']['from']}",
        "",
        f"{made} on {record['data']['rows']['train']} rows of `{record['data']['from']}`, at most "
        f"{record['data']['max_length']} tokens. {model['parameters']:,} parameters; classes: "
        f"{', '.join(model['classes'])}.",
        "",
        f"| validation score ({saved} epoch: {report['epoch']}) | |",
        "| --- | ---: |",
        *scores,
        "",
        "```python",
        "from transformers import pipeline",
        "",
        'classify = pipeline("text-classification", model="PATH/TO/THIS/FOLDER")',
        "```",
        "",
    ]
    return "\n".join(lines)
