"""Quoted-printable that needs nothing done to it afterwards (RFC 2045 §6.7).

Lines stay within 76 octets. A line never begins with a dot, so SMTP has nothing to double (RFC 5321 §4.5.2), nor with "From ",
which old mailboxes quote. There is never a tab, a run of spaces or a space at the end of a line, so DKIM's relaxed body
canonicalization (RFC 6376 §3.4.4) finds nothing to change and the body hash is the hash of the bytes as they are.

This module is loaded by the render child: it must import little.
"""

from __future__ import annotations

import re

SOFT_BREAK = b"=\r\n"
# 76 octets with the "=" of a soft break (RFC 2045 §6.7 rule 5).
LINE_ROOM = 75

_ATOMS = tuple(bytes([n]) if 33 <= n <= 126 and n != 0x3D else b"=%02X" % n for n in range(256))
_NEWLINE, _SPACE, _DOT, _F = 0x0A, 0x20, 0x2E, 0x46
# C0 controls and DEL are no text (XML 1.0 and HTML refuse them too); tab and line breaks are.
_CONTROLS = dict.fromkeys([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
_LINE_BREAKS = re.compile(r"\r\n?")
_TO_ENCODE = re.compile(rb"[^ -<>-~]|(?<= ) ")
# Shorter than a line by what the first octet of one may grow, and a sequence of three octets is never cut.
_CHUNK = 72
_CHUNKS = re.compile(rb"[^=]{72}|(?:[^=]|=[0-9A-F]{2}){1,24}")
_LINE_START = re.compile(rb"(?:\A|(?<=\n))(?:\.|F(?=rom ))")


def clean_text(text: str) -> str:
    """Text without control characters, every line break as a single LF."""
    return _LINE_BREAKS.sub("\n", text.translate(_CONTROLS))


def encode(data: bytes, column: int = 0, also: bytes = b"") -> tuple[bytes, int]:
    """Encode `data`, whose line breaks are LF, starting at `column`.

    also: further octets to write as =XX. Returns the encoded octets and the column after them; 0 means that a new line has begun.
    """
    out = bytearray()
    space_before = False
    last = len(data) - 1
    for index, octet in enumerate(data):
        if octet == _NEWLINE:
            out += b"\r\n"
            column = 0
            continue
        if octet == _SPACE:
            at_line_end = index < last and data[index + 1] == _NEWLINE
            atom = b"=20" if space_before or at_line_end else b" "
        else:
            atom = b"=%02X" % octet if octet in also else _ATOMS[octet]
        if column + len(atom) > LINE_ROOM:
            out += SOFT_BREAK
            column = 0
        if column == 0 and (octet == _DOT or (octet == _F and b"From ".startswith(data[index : index + 5]))):
            atom = b"=%02X" % octet
        out += atom
        column += len(atom)
        space_before = atom == b" "
    return bytes(out), column


def encode_value(text: str) -> bytes:
    """A merged value of any length, beginning on a line of its own: what follows must begin with a soft break."""
    lines = clean_text(text).encode("utf-8", "replace").split(b"\n")
    return (
        b"\r\n".join(map(_encode_line, lines[:-1])) + b"\r\n" * (len(lines) > 1) + _encode_line(lines[-1], is_last=True)
    )


def _encode_line(line: bytes, is_last: bool = False) -> bytes:
    encoded = _TO_ENCODE.sub(_as_atom, line)
    if not is_last and encoded.endswith(b" "):
        encoded = encoded[:-1] + b"=20"
    return wrap_encoded(encoded)


def _as_atom(octet: re.Match[bytes]) -> bytes:
    return b"=%02X" % octet[0][0]


def wrap_encoded(encoded: bytes) -> bytes:
    """Cut encoded octets into lines with soft breaks between them, none of which begins with a dot or "From "."""
    if len(encoded) > _CHUNK:
        encoded = SOFT_BREAK.join(_CHUNKS.findall(encoded))
    return _LINE_START.sub(_as_atom, encoded)


def without_empty_end(encoded: bytes) -> bytes:
    """A whole body that meant nothing by the empty lines at its end, which relaxed canonicalization does not hash.

    A soft break before a line break means nothing either; a body is never left quite empty.
    """
    while True:
        if encoded.endswith(b"=\r\n\r\n"):
            encoded = encoded[:-5]
            encoded = (encoded[:-1] + b"=20" if encoded.endswith(b" ") else encoded) + b"\r\n"
        elif encoded.endswith(b"\r\n\r\n"):
            encoded = encoded[:-2]
        else:
            return encoded if encoded != b"\r\n" else b"=20\r\n"
