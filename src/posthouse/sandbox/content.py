"""A message as it arrives: what makes it unacceptable, and its Message-ID. Shares nothing with the sender's own parsers."""

from __future__ import annotations

import re

_LINE_OCTETS = 998
# Most mail passes this one scan. The dot excludes LF and the "+" forbids backtracking, so it stays linear.
_GOOD_LINES = re.compile(rb"(?:.{0,998}\r\n)*+\Z")
_MESSAGE_ID = re.compile(rb"^message-id:(?:[ \t]|\r\n[ \t])*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


_SIGNATURE = re.compile(rb"^dkim-signature:((?:[^\r\n]|\r\n[ \t])*)", re.IGNORECASE | re.MULTILINE)
_SIGNER = re.compile(rb"(?:^|;)\s*d\s*=\s*([^;\s]+)")


def signers_of(content: bytes) -> list[str]:
    """The domains (d=) of the DKIM signatures in the header, in lower case; nobody checks here whether they are good."""
    end = content.find(b"\r\n\r\n")
    found = (_SIGNER.search(tags) for tags in _SIGNATURE.findall(content, 0, end + 2 if end >= 0 else len(content)))
    return [match[1].decode("utf-8", "replace").lower() for match in found if match is not None]


def unstuffed(wire: bytes) -> bytes:
    """The content without the dots that the sender put before dots (RFC 5321 §4.5.2)."""
    if wire.startswith(b"."):
        wire = wire[1:]
    return wire.replace(b"\r\n.", b"\r\n")


def fault_of(content: bytes) -> str | None:
    """The sentence that says why a message is refused, or None: bare CR or LF (§2.3.8), or a line over 998 octets (§4.5.3.1.6)."""
    if content.count(b"\r") == content.count(b"\n") and _GOOD_LINES.match(content):
        return None
    ends = content.count(b"\r\n")
    if content.count(b"\n") != ends:
        return "Bare LF received: lines end with CRLF"
    if content.count(b"\r") != ends:
        return "Bare CR received: lines end with CRLF"
    return f"Line longer than {_LINE_OCTETS} octets"


def message_id_of(content: bytes) -> str:
    """The value of the Message-ID header as written, or nothing."""
    at = content.find(b"\r\nMessage-ID: <")
    if at >= 0:
        end = content.find(b"\r\n", at + 14)
        found = content[at + 14 : end]
        if at < content.find(b"\r\n\r\n"):
            return found.decode("utf-8", "replace")
    end = content.find(b"\r\n\r\n")
    match = _MESSAGE_ID.search(content, 0, end + 2 if end >= 0 else len(content))
    return match[1].decode("utf-8", "replace").strip() if match else ""
