"""SQL lives in files beside the room that runs it; each statement has a name and one line of meaning.

-- name: claim
-- Take due messages of the lanes that have room.
select …
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)\s*$", re.MULTILINE)


@cache
def load(package: str, file: str = "queries.sql") -> Mapping[str, str]:
    """The named statements of one .sql file in a package. Raises ValueError on a statement without meaning or a name used twice."""
    text = resources.files(package).joinpath(file).read_text(encoding="utf-8")
    parts = _NAME.split(text)
    statements: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        if name in statements:
            raise ValueError(f"{package}/{file} names two statements “{name}”.")
        if not body.lstrip().startswith("-- "):
            raise ValueError(f"{package}/{file}: “{name}” has no line that says what it is for.")
        statements[name] = body.strip()
    return statements
