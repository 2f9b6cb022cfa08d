"""SMTP conversations as scripts: `->` is sent, `<-` must be how the next reply begins (its lines joined by blanks)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posthouse.sandbox import Sandbox

SCRIPTS = sorted((Path(__file__).parent / "dialogs").glob("*.smtp"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_dialog(script: Path, quiet_sandbox: Sandbox, dial: Callable[[Sandbox, str], Any]) -> None:
    dialog = dial(quiet_sandbox, "plain")
    for number, line in enumerate(script.read_text().splitlines(), 1):
        mark, _, words = line.partition(" ")
        if mark == "->":
            dialog.send(words.encode().decode("unicode_escape").encode("latin-1") + b"\r\n")
        elif mark == "<-":
            reply = dialog.read().replace("\n", " ")
            expected = "" if words == "closed" else words
            assert reply.startswith(expected), f"{script.name}:{number}: {reply!r}"
            assert bool(reply) == bool(expected), f"{script.name}:{number}: {reply!r}"
