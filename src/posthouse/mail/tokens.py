"""Signed tokens for links, unsubscribe addresses and return paths (UNS-5, BNC-2, TRK-3).

A token names a recipient's copy and is bound to one purpose: a pixel's token cannot unsubscribe anybody. It needs no database to be
checked. Layout: key id (1 byte) · five varints (workspace, campaign, list, contact, message) · 12 bytes of keyed BLAKE2b.
In links it is base64url; in return paths base32 in lower case, which survives mail systems that fold case.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from enum import Enum
from hashlib import blake2b

from msgspec import Struct

from posthouse.model.errors import TokenWrong

_MAC_BYTES = 12
_MAX_TOKEN_CHARS = 200


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

    def link(self, purpose: Purpose, subject: Subject) -> str:
        """A token for a URL: letters, digits, '-' and '_' only."""
        return base64.urlsafe_b64encode(self._sealed(purpose, _packed(subject))).rstrip(b"=").decode()

    def links(self, purposes: tuple[Purpose, ...], subject: Subject) -> list[str]:
        """One token per purpose for the same copy, packed once: the way of the hot path."""
        body = _packed(subject)
        return [base64.urlsafe_b64encode(self._sealed(p, body)).rstrip(b"=").decode() for p in purposes]

    def return_path(self, subject: Subject) -> str:
        """A token for a local part or a Message-ID: lower-case letters and digits only, at most 59 characters."""
        return base64.b32encode(self._sealed(Purpose.RETURN_PATH, _packed(subject))).rstrip(b"=").decode().lower()

    def seal_text(self, purpose: Purpose, subject: Subject, text: str) -> str:
        """A MAC over a copy and a text (a personal link's target), for use beside the token itself."""
        mac = blake2b(text.encode(), key=self._signing_key, digest_size=_MAC_BYTES, person=purpose.value[:16])
        mac.update(_packed(subject))
        return base64.urlsafe_b64encode(bytes([self._current]) + mac.digest()).rstrip(b"=").decode()

    def open_text(self, purpose: Purpose, subject: Subject, text: str, seal: str) -> None:
        """Raise TokenWrong unless `seal` was made by seal_text for the same purpose, copy and text."""
        raw = _unbase64(seal)
        key = self._keys.get(raw[0]) if raw else None
        if key is None:
            raise TokenWrong
        mac = blake2b(text.encode(), key=key, digest_size=_MAC_BYTES, person=purpose.value[:16])
        mac.update(_packed(subject))
        if not hmac.compare_digest(mac.digest(), raw[1:]):
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

    def _sealed(self, purpose: Purpose, body: bytes) -> bytes:
        head = bytes([self._current]) + body
        return head + blake2b(head, key=self._signing_key, digest_size=_MAC_BYTES, person=purpose.value[:16]).digest()

    def _opened(self, purpose: Purpose, raw: bytes) -> Subject:
        head, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        key = self._keys.get(head[0]) if head else None
        if key is None:
            raise TokenWrong
        expected = blake2b(head, key=key, digest_size=_MAC_BYTES, person=purpose.value[:16]).digest()
        if not hmac.compare_digest(expected, mac):
            raise TokenWrong
        return _unpacked(head[1:])


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
