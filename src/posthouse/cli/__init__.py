"""The command line: typed commands, progress bars on a terminal, JSON for machines. The one place that knows the sandbox."""

from posthouse.cli.program import main

__all__ = ["main"]
