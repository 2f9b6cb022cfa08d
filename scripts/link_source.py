"""Make `posthouse` importable and runnable from this checkout, without a build step and without asking a package index."""

from __future__ import annotations

import site
import sys
from pathlib import Path

SCRIPT = """\
#!{python}
from posthouse.cli import main

main()
"""


def link() -> None:
    """Put src/ on the path of this virtual environment and a `posthouse` command in its bin folder."""
    root = Path(__file__).resolve().parent.parent
    packages = Path(site.getsitepackages()[0])
    (packages / "posthouse-source.pth").write_text(f"{root / 'src'}\n", encoding="utf-8")
    command = Path(sys.executable).parent / "posthouse"
    command.write_text(SCRIPT.format(python=sys.executable), encoding="utf-8")
    command.chmod(0o755)


if __name__ == "__main__":
    link()
