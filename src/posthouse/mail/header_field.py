"""Header fields: RFC 2047 words where they are allowed, folding at 78, and nothing in a value that could start another field."""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import datetime

_FOLD_AT = 78
# "=?utf-8?B?" and "?=" take 12 of the 75 characters that RFC 2047 §2 allows; 42 octets are 56 in base64, which leaves room for the name.
_WORD_OCTETS = 42
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_PLAIN_LINE = re.compile(r"[!-~]+(?: [!-~]+)*")
_LONGEST_PLAIN_WORD = 60
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def clean_header_text(text: str) -> str:
    """One line: runs of white space become one space, control characters and lone surrogates go (MSG-3)."""
    kept = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cs"))
    return " ".join(kept.split())


def field(name: str, words: Iterable[str]) -> bytes:
    """`name: word word …` in CRLF lines, folded before the word that would pass column 78 (RFC 5322 §2.2.3)."""
    lines = [f"{name}:"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > _FOLD_AT:
            lines.append(f" {word}")
        else:
            lines[-1] += f" {word}"
    return "\r\n".join(lines).encode() + b"\r\n"


def unstructured_field(name: str, text: str) -> bytes:
    """A field of free text, such as Subject; text outside ASCII becomes encoded words (MSG-2)."""
    text = clean_header_text(text)
    plain = _PLAIN_LINE.fullmatch(text) and "=?" not in text and max(map(len, text.split())) <= _LONGEST_PLAIN_WORD
    return field(name, text.split() if plain or not text else encoded_words(text))


def mailbox_field(name: str, display_name: str | None, address: str) -> bytes:
    """A field with one mailbox, such as From: the display name is encoded where it must be, the address never (MSG-2)."""
    shown = clean_header_text(display_name or "")
    return field(name, [*phrase(shown), f"<{address}>"] if shown else [address])


def phrase(text: str) -> list[str]:
    """A display name (RFC 5322 §3.2.5) as words to fold between: atoms, one quoted string, or encoded words."""
    if not text:
        return []
    if "=?" not in text and len(text) <= _LONGEST_PLAIN_WORD:
        if _ATOMS.fullmatch(text):
            return text.split(" ")
        if _PLAIN_LINE.fullmatch(text):
            quoted = text.replace("\\", r"\\").replace('"', r"\"")
            return [f'"{quoted}"']
    return list(encoded_words(text))


def encoded_words(text: str) -> Iterator[str]:
    """RFC 2047 words that never cut a character in two."""
    part = bytearray()
    for character in text:
        octets = character.encode("utf-8", "replace")
        if len(part) + len(octets) > _WORD_OCTETS:
            yield _encoded_word(part)
            part.clear()
        part += octets
    yield _encoded_word(part)


def _encoded_word(octets: bytearray) -> str:
    return f"=?utf-8?B?{base64.b64encode(octets).decode()}?="


def date_text(at: datetime) -> str:
    """RFC 5322 §3.3, always in UTC. `at` is an aware datetime in UTC."""
    return (
        f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year} "
        f"{at.hour:02}:{at.minute:02}:{at.second:02} +0000"
    )
