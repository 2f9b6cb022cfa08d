"""Signed tokens for links, unsubscribe addresses and return paths (UNS-5, BNC-2, TRK-3).

A token names a recipient's copy and is bound to one purpose: a pixel's token cannot unsubscribe anybody. It needs no database to be
checked. Layout: key id (1 byte) · five varints (workspace, campaign, list, contact, message) · 12 bytes of keyed BLAKE2b.
In links it is base64url; in return paths base32 in lower case, which survives mail systems that fold case.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from enum import Enum
from hashlib import blake2b

from msgspec import Struct

from posthouse.model.errors import TokenWrong

_MAC_BYTES = 12
_MAX_TOKEN_CHARS = 200
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_BASE32_PAIRS = [first + second for first in _BASE32 for second in _BASE32]


class Purpose(Enum):
    """What a token may be used for; the value separates the keys."""

    OPEN = b"open"
    CLICK = b"click"
    UNSUBSCRIBE = b"unsubscribe"
    RETURN_PATH = b"return-path"


class Subject(Struct, frozen=True):
    """The copy that a token names."""

    workspace_id: int
    campaign_id: int
    list_id: int
    contact_id: int
    message_id: int


class Tokens:
    """Makes tokens with the current key and opens those of every key that ever was current (UNS-5)."""

    def __init__(self, keys: Mapping[int, bytes], current: int) -> None:
        """keys: key id (0 to 255) → 32 secret bytes; current: the id to sign with."""
        self._keys = dict(keys)
        self._current = current
        self._signing_key = self._keys[current]
        # Setting a key up costs more than hashing a token: every token begins with a copy of its purpose's keyed state.
        self._states = {purpose: _keyed(self._signing_key, purpose) for purpose in Purpose}

    def link(self, purpose: Purpose, subject: Subject) -> str:
        """A token for a URL: letters, digits, '-' and '_' only."""
        return _base64(self._sealed(purpose, self._head(subject)))

    def of_copy(self, purposes: Sequence[Purpose], subject: Subject) -> tuple[list[str], str]:
        """One link token per purpose and the return path's token, the copy packed once: the way of the hot path."""
        head = self._head(subject)
        return [_base64(self._sealed(p, head)) for p in purposes], _base32(self._sealed(Purpose.RETURN_PATH, head))

    def return_path(self, subject: Subject) -> str:
        """A token for a local part or a Message-ID: lower-case letters and digits only, at most 59 characters."""
        return _base32(self._sealed(Purpose.RETURN_PATH, self._head(subject)))

    def seal_text(self, purpose: Purpose, subject: Subject, text: str) -> str:
        """A MAC over a copy and a text (a personal link's target), for use beside the token itself."""
        return _base64(bytes([self._current]) + _text_mac(self._signing_key, purpose, subject, text))

    def open_text(self, purpose: Purpose, subject: Subject, text: str, seal: str) -> None:
        """Raise TokenWrong unless `seal` was made by seal_text for the same purpose, copy and text."""
        raw = _unbase64(seal)
        key = self._keys.get(raw[0]) if raw else None
        if key is None:
            raise TokenWrong
        if not hmac.compare_digest(_text_mac(key, purpose, subject, text), raw[1:]):
            raise TokenWrong

    def open_link(self, purpose: Purpose, token: str) -> Subject:
        """The copy that a URL's token names. Raises TokenWrong."""
        return self._opened(purpose, _unbase64(token))

    def open_return_path(self, token: str) -> Subject:
        """The copy that a return path's token names, in whatever case it came back. Raises TokenWrong."""
        if len(token) > _MAX_TOKEN_CHARS:
            raise TokenWrong
        try:
            raw = base64.b32decode(token.upper() + "=" * (-len(token) % 8))
        except (binascii.Error, ValueError) as error:
            raise TokenWrong from error
        return self._opened(Purpose.RETURN_PATH, raw)

    def _head(self, subject: Subject) -> bytes:
        return bytes([self._current]) + _packed(subject)

    def _sealed(self, purpose: Purpose, head: bytes) -> bytes:
        mac = self._states[purpose].copy()
        mac.update(head)
        return head + mac.digest()

    def _opened(self, purpose: Purpose, raw: bytes) -> Subject:
        head, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        key = self._keys.get(head[0]) if head else None
        if key is None:
            raise TokenWrong
        expected = _keyed(key, purpose)
        expected.update(head)
        if not hmac.compare_digest(expected.digest(), mac):
            raise TokenWrong
        return _unpacked(head[1:])


def _keyed(key: bytes, purpose: Purpose) -> blake2b:
    return blake2b(key=key, digest_size=_MAC_BYTES, person=purpose.value)


def _text_mac(key: bytes, purpose: Purpose, subject: Subject, text: str) -> bytes:
    mac = blake2b(text.encode(), key=key, digest_size=_MAC_BYTES, person=purpose.value)
    mac.update(_packed(subject))
    return mac.digest()


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _base32(raw: bytes) -> str:
    """RFC 4648 base32 in lower case without padding, two characters at a time: the library's own takes five times as long."""
    bits = len(raw) * 8
    pairs = -(-bits // 10)
    number = int.from_bytes(raw, "big") << (pairs * 10 - bits)
    text = "".join([_BASE32_PAIRS[number >> shift & 1023] for shift in range((pairs - 1) * 10, -1, -10)])
    return text[: -(-bits // 5)]


def _unbase64(token: str) -> bytes:
    if len(token) > _MAX_TOKEN_CHARS or not token.isascii():
        raise TokenWrong
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise TokenWrong from error


def _packed(subject: Subject) -> bytes:
    out = bytearray()
    for number in (
        subject.workspace_id,
        subject.campaign_id,
        subject.list_id,
        subject.contact_id,
        subject.message_id,
    ):
        while number > 0x7F:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        out.append(number)
    return bytes(out)


def _unpacked(body: bytes) -> Subject:
    numbers: list[int] = []
    value = shift = 0
    for byte in body:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    if len(numbers) != 5 or shift:
        raise TokenWrong
    return Subject(*numbers)
