"""`python -m posthouse.sandbox PLAN.json`: run a sandbox; its first line of output tells where it listens."""

from __future__ import annotations

import sys
from pathlib import Path

from posthouse.model.errors import PosthouseError
from posthouse.sandbox.plan import Ready, read_plan, to_json
from posthouse.sandbox.process import run

_USAGE = "Usage: python -m posthouse.sandbox [--with-parent] PLAN.json"


def _announce(ready: Ready) -> None:
    sys.stdout.buffer.write(to_json(ready) + b"\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Exit code: 0 after a clean stop, 1 where the sandbox cannot run, 2 for a wrong call."""
    with_parent = arguments[:1] == ["--with-parent"]
    files = arguments[with_parent:]
    if len(files) != 1:
        sys.stderr.write(f"{_USAGE}\n")
        return 2
    try:
        run(read_plan(Path(files[0])), _announce, with_parent=with_parent)
    except PosthouseError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
