"""The `daskmoe` command."""

from daskmoe.cli.commands import main, run

__all__ = ["main", "run"]
