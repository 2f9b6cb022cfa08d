"""DKIM's relaxed canonicalization (RFC 6376 §3.4.2 and §3.4.4), and a message cut into the pieces that it works on."""

from __future__ import annotations

import re

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:[^\r\n]*(?:\r\n[ \t][^\r\n]*)*\r\n")
_FOLD = re.compile(rb"\r\n(?=[ \t])")
_SPACES = re.compile(rb"[ \t]+")
_LINE_END_SPACES = re.compile(rb"[ \t]+(?=\r\n)")


def split_message(content: bytes) -> tuple[list[tuple[str, bytes]], bytes]:
    """(header fields as name and raw octets, body) of a message in CRLF lines. A line that is no field ends the header."""
    fields: list[tuple[str, bytes]] = []
    position = 0
    while match := _FIELD.match(content, position):
        fields.append((match[1].decode("ascii"), match[0]))
        position = match.end()
    return fields, content[position + 2 :] if content.startswith(b"\r\n", position) else content[position:]


def canonical_field(raw: bytes) -> bytes:
    """One header field in relaxed form, ending in CRLF."""
    name, _, value = raw.partition(b":")
    unfolded = _SPACES.sub(b" ", _FOLD.sub(b"", value)).strip(b" \t\r\n")
    return name.strip(b" \t").lower() + b":" + unfolded + b"\r\n"


def canonical_body(body: bytes) -> bytes:
    """The body in relaxed form: no space at line ends, one space elsewhere, no empty lines at the end."""
    relaxed = _SPACES.sub(b" ", _LINE_END_SPACES.sub(b"", body))
    end = len(relaxed)
    while relaxed.endswith(b"\r\n", 0, end):
        end -= 2
    return relaxed[:end] + b"\r\n" if end else b""
