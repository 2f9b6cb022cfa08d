"""Reads the parts of a hostile MIME message: sizes and depth are capped, nothing raises for what a stranger wrote."""

from __future__ import annotations

import binascii
import quopri
import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from email import message_from_bytes, policy
from email.header import decode_header
from email.message import Message

from posthouse.mail.reports.report import Original

# A report stands before the message that it returns; what is behind this is not needed.
_MAX_BYTES = 1 << 18
_MAX_LINES = 4000
_MAX_PARTS = 50
_MAX_FIELD = 4000
_FIELD = re.compile(r"([!-9;-~]{1,80})[ \t]*:[ \t]*(.*)")

Block = dict[str, str]


def parse(raw: bytes) -> Message | None:
    """The first 256 KiB of a message as stdlib parts, or None where it is nested too deeply to be meant honestly."""
    try:
        return message_from_bytes(raw[:_MAX_BYTES], policy=policy.compat32)
    except RecursionError:
        return None


def parts_of(message: Message) -> Iterator[Message]:
    """The message and its parts in order, without the insides of returned messages; at most 50."""
    queue = [message]
    for _ in range(_MAX_PARTS):
        if not queue:
            return
        part = queue.pop(0)
        yield part
        if part.get_content_maintype() == "multipart" and part.is_multipart():
            queue[:0] = _subparts(part)


def is_text(part: Message) -> bool:
    """Whether the part is text, or calls itself multipart and has no parts."""
    return part.get_content_maintype() == "text" or (
        part.get_content_maintype() == "multipart" and not part.is_multipart()
    )


def field(message: Message, name: str) -> str:
    """A header field on one line, encoded words decoded, "" if absent."""
    value = message.get(name)
    if value is None:
        return ""
    text = str(value)[:_MAX_FIELD]
    try:
        words = [
            word if isinstance(word, str) else word.decode(charset or "ascii", "replace")
            for word, charset in decode_header(text)
        ]
    except (LookupError, ValueError, binascii.Error):
        words = [text]
    return " ".join(" ".join(words).split())


def text_of(part: Message) -> str:
    """A part's text, its transfer encoding and charset undone as far as they can be; for a part that holds a message, that as text."""
    payload = part.get_payload()
    if isinstance(payload, list):
        text = "\n".join(_as_text(sub) for sub in _subparts(part))
        return _decoded(text, str(part.get("Content-Transfer-Encoding", "")))
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return ""
    charset = part.get_content_charset() or "utf-8"
    try:
        return content.decode(charset, "replace")
    except (LookupError, ValueError):
        return content.decode("utf-8", "replace")


def blocks_in(text: str) -> list[Block]:
    """The groups of "Name: value" lines that empty lines part; names in lower case, the first of each name, folded lines joined."""
    blocks: list[Block] = [{}]
    name = None
    for line in text.splitlines()[:_MAX_LINES]:
        if not line.strip():
            name = None
            if blocks[-1]:
                blocks.append({})
        elif line[0] in " \t" and name is not None:
            blocks[-1][name] = f"{blocks[-1][name]} {line.strip()}"[:_MAX_FIELD]
        else:
            match = _FIELD.match(line)
            name = match[1].lower() if match and match[1].lower() not in blocks[-1] else None
            if match and name is not None:
                blocks[-1][name] = match[2].strip()[:_MAX_FIELD]
    return [block for block in blocks if block]


def original_in(message: Message) -> Original | None:
    """The header of the returned message, from the part that holds it or from behind the words of a plain bounce."""
    for part in parts_of(message):
        kind = part.get_content_type()
        if part is not message and (
            kind in ("message/rfc822", "message/global") or "rfc822-header" in kind or kind == "message/global-headers"
        ):
            found = blocks_in(text_of(part))
            return Original(found[0]) if found else None
    for part in parts_of(message):
        if is_text(part):
            found = [block for block in blocks_in(text_of(part)) if "message-id" in block or "received" in block]
            if found:
                return Original(found[0])
    return None


def _subparts(part: Message) -> Sequence[Message]:
    payload = part.get_payload()
    return [sub for sub in payload if isinstance(sub, Message)] if isinstance(payload, list) else []


def _as_text(message: Message) -> str:
    fields = "".join(f"{name}: {value}\n" for name, value in message.items())
    return f"{fields}\n{text_of(message) if message.is_multipart() else message.get_payload()}"


def _decoded(text: str, encoding: str) -> str:
    """Undo a transfer encoding that RFC 2046 forbids here and RFC 6533 allows."""
    if encoding.strip().lower() == "base64":
        try:
            return b64decode(text).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            return text
    if encoding.strip().lower() == "quoted-printable":
        return quopri.decodestring(text.encode("utf-8", "replace")).decode("utf-8", "replace")
    return text
