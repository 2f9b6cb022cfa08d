"""On which line of a rule file a table or a key stands. tomllib does not tell; this looks at the text, and only to say where."""

from __future__ import annotations

import re

from msgspec import Struct

_HEADER = re.compile(r"\s*(\[\[?)\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*\]")
_KEY = re.compile(r"\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*=")
# A string (the three-fold quotes first), a comment, a bracket; all else is passed over.
_TOKEN = re.compile(r"\"\"\"|'''|\"(?:[^\"\\]|\\.)*\"|'[^']*'|#.*|[\[\]{}]")


class TableLines(Struct, frozen=True):
    """One table: its name (empty above the first header), the line of its header, and those of its keys; lines count from 1."""

    name: str
    line: int
    keys: dict[str, int]

    def of(self, key: str | None) -> int:
        """The line of a key, or of the header where the key is not there."""
        return self.keys.get(key or "", self.line)


def table_lines(text: str) -> list[TableLines]:
    """All tables of a TOML text that tomllib has read without complaint, in order."""
    tables = [TableLines("", 1, {})]
    depth = 0
    quotes = ""
    for number, line in enumerate(text.splitlines(), 1):
        start = 0
        if not quotes and not depth:
            header = _HEADER.match(line)
            if header:
                tables.append(TableLines(header[2], number, {}))
                continue
            key = _KEY.match(line)
            if key:
                tables[-1].keys.setdefault(key[1], number)
                start = key.end()
        quotes, depth = _after(line, start, quotes, depth)
    return tables


def _after(line: str, start: int, quotes: str, depth: int) -> tuple[str, int]:
    """Whether the next line begins inside a many-line string (and which), and how deep in brackets."""
    while True:
        if quotes:
            end = line.find(quotes, start)
            while end > 0 and quotes == '"""' and _is_escaped(line, end):
                end = line.find(quotes, end + 1)
            if end < 0:
                return quotes, depth
            start = end + 3
            quotes = ""
        token = _TOKEN.search(line, start)
        if token is None:
            return "", depth
        start = token.end()
        if token[0] in ('"""', "'''"):
            quotes = token[0]
        elif token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1


def _is_escaped(line: str, at: int) -> bool:
    before = line[:at]
    return bool((len(before) - len(before.rstrip("\\"))) % 2)
