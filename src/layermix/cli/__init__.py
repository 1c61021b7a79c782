"""The command line."""

from layermix.cli.commands import main as main
