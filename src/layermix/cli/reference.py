"""Commands that print reference tables: `list` and `schema`."""

import click

from layermix.cli.command import command
from layermix.cli.options import print_json
from layermix.config import DistillConfig, PretrainConfig, TeachConfig, json_schema
from layermix.console import echo


@command("list", quiet=False)
def list_command() -> None:
    """List the mixes, losses and tasks, with their papers and metrics."""
    from layermix.core.losses import ATTENTION, HIDDEN, LOGIT, SUPERVISED
    from layermix.core.mixing import MIXES
    from layermix.data.tasks import TASKS

    tables = {
        "mix.strategy": [(name, row.summary, row.paper) for name, row in MIXES.items()],
        "loss.supervised": [(name, row.summary, row.paper) for name, row in SUPERVISED.items()],
        "loss.logit": [(name, row.summary, row.paper) for name, row in LOGIT.items()],
        "loss.hidden": [(name, row.summary, row.paper) for name, row in HIDDEN.items()],
        "loss.attention": [(name, row.summary, row.paper) for name, row in ATTENTION.items()],
        "data.task": [
            (task.name, task.summary, ", ".join(task.metrics)) for task in TASKS.values()
        ],
    }
    for title, rows in tables.items():
        echo(f"\n{title}", bold=True)
        width = max(len(summary) for _, summary, _ in rows) + 2
        for name, summary, source in rows:
            echo(f"  {name:<20}{summary:<{width}}{source}")


@command("schema", quiet=False)
@click.option("--teach", "for_teach", is_flag=True, help="For `teach` instead of `distill`.")
@click.option("--pretrain", "for_pretrain", is_flag=True, help="For `pretrain`.")
def schema_command(for_teach: bool, for_pretrain: bool) -> None:
    """Print the JSON schema of CONFIG.yaml, with which editors complete and check it."""
    if for_pretrain:
        print_json(json_schema(PretrainConfig))
    else:
        print_json(json_schema(TeachConfig if for_teach else DistillConfig))
