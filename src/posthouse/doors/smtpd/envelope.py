"""The arguments of MAIL and RCPT (RFC 5321 §4.1.2, RFC 1870, RFC 6152, RFC 6531). A refusal is the reply that says it."""

from __future__ import annotations

import re

from msgspec import Struct

from posthouse.mail.address import parse_address
from posthouse.model.errors import AddressWrong

# Many peers put a blank behind the colon.
_PATH = r":[ ]?<([^<>\x00-\x20\x7f]{0,320})>(?:[ ]+(.*))?\Z"
_FROM = re.compile("FROM" + _PATH, re.IGNORECASE)
_TO = re.compile("TO" + _PATH, re.IGNORECASE)
_MAX_PATH = 256


class Sender(Struct, frozen=True):
    """The sender of a transaction; return_path is "" for a bounce."""

    return_path: str
    is_utf8: bool = False


def sender_of(argument: str, max_bytes: int) -> Sender | str:
    """MAIL's sender, or the reply that refuses it."""
    match = _FROM.match(argument)
    if not match:
        return "501 5.5.4 Say MAIL FROM:<address>"
    path, utf8 = match[1], False
    for parameter in (match[2] or "").split():
        name, _, value = parameter.upper().partition("=")
        if name == "SIZE" and value.isascii() and value.isdigit() and len(value) <= 20:
            if int(value) > max_bytes:
                return f"552 5.3.4 At most {max_bytes} bytes are taken here"
        elif name == "SMTPUTF8" and not value:
            utf8 = True
        elif not (name == "BODY" and value in ("7BIT", "8BITMIME")):
            return f"555 5.5.4 {_shown(name)} is not known here"
    if path and ("@" not in path.strip("@") or len(path.encode()) > _MAX_PATH):
        return "553 5.1.7 This is no address"
    if not path.isascii() and not utf8:
        return "553 5.6.7 This address needs SMTPUTF8"
    return Sender(path, utf8)


def recipient_of(argument: str, is_utf8: bool) -> tuple[str, None] | tuple[None, str]:
    """RCPT's address in its normal form, or the reply that refuses it. Postmaster needs no domain (RFC 5321 §4.1.1.3)."""
    match = _TO.match(argument)
    if not match:
        return None, "501 5.5.4 Say RCPT TO:<address>"
    if match[2]:
        return None, f"555 5.5.4 {_shown(match[2].split('=')[0])} is not known here"
    path = match[1]
    if path.lower() == "postmaster":
        return "postmaster", None
    if not path.isascii() and not is_utf8:
        return None, "553 5.6.7 This address needs SMTPUTF8"
    try:
        return parse_address(path).text, None
    except AddressWrong:
        return None, "553 5.1.3 This is no address"


def _shown(word: str) -> str:
    """A peer's word as it may stand in a reply."""
    return re.sub(r"[^A-Za-z0-9-]", "?", word[:20]) or "This"
