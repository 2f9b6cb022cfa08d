"""Ready octets and slots: how a body is laid out at compile time, and how it is filled for one recipient.

A value stands on a line of its own, with a soft break before and after it (answers 18), so nobody needs to know its length. A token
needs none: its width is counted beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from posthouse.composing.compiled import FieldSlot, Filling, LinkSlot, RenderedSlot, Slot, TokenSlot
from posthouse.composing.compiled_kinds import Part, TokenKind
from posthouse.composing.escaping import Place, encode_for, escape_markup, escape_url_part, text_of, whole_url
from posthouse.mail.quoted_printable import LINE_ROOM, SOFT_BREAK, clean_text, encode, encode_value, wrap_encoded
from posthouse.mail.tokens import Purpose, Subject, Tokens

# 13 octets and five numbers of up to 23 octets together; a longer token is cut by a soft break.
TOKEN_ROOM = 48
# Nothing to escape, neither as HTML nor as quoted-printable, and short enough for a line.
_SAFE_TEXT = re.compile(r"(?!From |\.)(?: ?[!#$%()*+,\-./0-9:;?@A-Z\[\\\]^_`a-z{|}~]){1,36}")
_SAFE_URL = re.compile(r"(?!\.)[A-Za-z0-9._~-]{1,72}")
_IS_SAFE = {
    Place.TEXT: _SAFE_TEXT.fullmatch,
    Place.MARKUP: _SAFE_TEXT.fullmatch,
    Place.URL: _SAFE_URL.fullmatch,
    # Whether a URL may be printed is never decided by its characters alone.
    Place.URL_START: re.compile(r"(?!)").fullmatch,
}
# First names and cities come back; 4,096 of them are under a megabyte.
_encoded = lru_cache(4096)(encode_for)


class FillingBuilder:
    """Lays out a body from top to bottom."""

    def __init__(self) -> None:
        self._segments: list[bytearray | Slot] = [bytearray()]
        self._column = 0

    def ready(self, octets: bytes) -> None:
        """Octets to be taken as they are; they begin and end a line."""
        self._static().extend(octets)
        self._column = 0

    def text(self, text: str) -> None:
        """Static text, encoded here."""
        encoded, self._column = encode(clean_text(text).encode(), self._column)
        self._static().extend(encoded)

    def token(self, slot: TokenSlot) -> None:
        """A token, within the line where it fits."""
        if self._column + TOKEN_ROOM > LINE_ROOM:
            self._break_line()
        self._segments.append(slot)
        self._column += TOKEN_ROOM

    def value(self, slot: Slot) -> None:
        """A value of unknown length, alone on its line."""
        self._break_line()
        self._segments += (slot, bytearray(SOFT_BREAK))
        self._column = 0

    def rendered(self, slot: RenderedSlot) -> None:
        """What the render child makes: it begins and ends a line by itself."""
        self._segments.append(slot)
        self._column = 0

    def finish(self) -> Filling:
        """The layout, each slot listed once: tokens first, then fields, links and rendered parts."""
        if len(self._segments) == 1:
            # Filler picks by itemgetter, which gives no tuple for a single index.
            self._segments.append(bytearray())
        statics = tuple(bytes(s) for s in self._segments if isinstance(s, bytearray))
        kinds = (TokenSlot, FieldSlot, LinkSlot, RenderedSlot)
        unique = dict.fromkeys(s for s in self._segments if not isinstance(s, bytearray))
        slots = tuple(sorted(unique, key=lambda slot: kinds.index(type(slot))))
        place = {slot: len(statics) + n for n, slot in enumerate(slots)}
        static_places = iter(range(len(statics)))
        order = tuple(next(static_places) if isinstance(s, bytearray) else place[s] for s in self._segments)
        return Filling(statics, slots, order)

    def _static(self) -> bytearray:
        last = self._segments[-1]
        if isinstance(last, bytearray):
            return last
        new = bytearray()
        self._segments.append(new)
        return new

    def _break_line(self) -> None:
        if self._column:
            self._static().extend(SOFT_BREAK)
            self._column = 0


class Filler:
    """Fills one body, again and again."""

    def __init__(self, filling: Filling, public_url: str, tokens: Tokens) -> None:
        self._statics = list(filling.statics)
        self._pick = itemgetter(*filling.order)
        self._kinds = tuple(slot.kind for slot in filling.slots if isinstance(slot, TokenSlot))
        self._fields = [
            (s.name, s.default, _IS_SAFE[s.place], s.place) for s in filling.slots if isinstance(s, FieldSlot)
        ]
        self._links = [slot for slot in filling.slots if isinstance(slot, LinkSlot)]
        self._rendered = [slot.part for slot in filling.slots if isinstance(slot, RenderedSlot)]
        self._redirect = f"{public_url}/r/"
        self._tokens = tokens

    def fill(
        self,
        fields: Mapping[str, Any],
        email: str,
        tokens: Mapping[TokenKind, str],
        subject: Subject,
        rendered: Mapping[Part, bytes],
    ) -> bytes | None:
        """The body for one recipient; None when a required field is empty."""
        values = [tokens[kind].encode() for kind in self._kinds]
        if values and len(values[0]) > TOKEN_ROOM:
            values = [wrap_token(token) for token in values]
        get = fields.get
        for name, default, is_safe, place in self._fields:
            value = email if name == "email" else get(name)
            if value.__class__ is not str:
                value = text_of(value)
            if not value or value.isspace():
                if default is None:
                    return None
                value = default
            values.append(value.encode() if is_safe(value) else _encoded(place, value))
        if self._links:
            for link in self._links:
                target = filled_target(link.target, fields, email)
                if target is None:
                    return None
                values.append(self.redirect(target, link.markup, tokens[TokenKind.CLICK], subject))
        if self._rendered:
            values += [rendered[part] for part in self._rendered]
        return b"".join(self._pick(self._statics + values))

    def redirect(self, target: str, markup: bool, click_token: str, subject: Subject) -> bytes:
        """A tracking link to a target of this recipient alone, sealed for this copy; anything but a web address leads nowhere."""
        if not target.lower().startswith(("http://", "https://")):
            return encode_value(escape_markup(target) if markup else target)
        seal = self._tokens.seal_text(Purpose.CLICK, subject, target)
        # Every octet is unreserved or written here: "=" is the only one to encode.
        ampersand = "&amp;" if markup else "&"
        return wrap_encoded(
            f"{self._redirect}{click_token}?to=3D{escape_url_part(target)}{ampersand}s=3D{seal}".encode()
        )


def wrap_token(octets: bytes) -> bytes:
    """A token's octets, cut where it is wider than was counted."""
    return SOFT_BREAK.join(octets[at : at + TOKEN_ROOM] for at in range(0, len(octets), TOKEN_ROOM))


def filled_target(target: Sequence[str | FieldSlot], fields: Mapping[str, Any], email: str) -> str | None:
    """A link's target for one recipient; None when a required field is empty."""
    parts: list[str] = []
    for piece in target:
        if isinstance(piece, str):
            parts.append(piece)
            continue
        value = field_text(piece, fields, email)
        if value is None:
            return None
        value = clean_text(value)
        parts.append(whole_url(value) if piece.place is Place.URL_START else escape_url_part(value))
    return "".join(parts)


def field_text(slot: FieldSlot, fields: Mapping[str, Any], email: str) -> str | None:
    """A merge field's value or its default; None when it is required and empty."""
    value = text_of(email if slot.name == "email" else fields.get(slot.name))
    return value if value and not value.isspace() else slot.default
