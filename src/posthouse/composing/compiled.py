"""A message compiled once: octets that are ready, and slots for what each recipient adds."""

from __future__ import annotations

from typing import Self

import msgspec
from msgspec import Struct

from posthouse.composing.compiled_kinds import Part, TokenKind
from posthouse.composing.escaping import Place
from posthouse.model.errors import TemplateWrong

# Raised whenever an older stored message could no longer be filled as it was meant.
_FORMAT = 1


class TokenSlot(Struct, frozen=True, tag="t"):
    """A token of the copy; it needs no escaping and has a counted width."""

    kind: TokenKind


class FieldSlot(Struct, frozen=True, tag="f"):
    """A merge field. default: what stands in for an empty value; None means that the field is required."""

    name: str
    default: str | None
    place: Place


class LinkSlot(Struct, frozen=True, tag="l"):
    """A tracking link to a target with blanks in it, sealed for each recipient (TRK-3). markup: it stands in HTML."""

    target: tuple[str | FieldSlot, ...]
    markup: bool


class RenderedSlot(Struct, frozen=True, tag="r"):
    """What the render child made of this part."""

    part: Part


Slot = TokenSlot | FieldSlot | LinkSlot | RenderedSlot


class Filling(Struct, frozen=True):
    """Ready octets and slots in order: number n of `order` is statics[n], or slots[n - len(statics)]."""

    statics: tuple[bytes, ...]
    slots: tuple[Slot, ...]
    order: tuple[int, ...]


class CompiledMessage(Struct, frozen=True):
    """A draft and its frame, ready to be filled for a million recipients.

    fields: required merge fields; links: tracked targets, in the place that their URL's index names; html_bytes: the size of the HTML
    part before transfer encoding; sources: templates for the render child, empty when there are only blanks.
    """

    subject: tuple[str | FieldSlot | RenderedSlot, ...]
    body: Filling
    from_field: bytes
    reply_to_field: bytes
    content_type_fields: bytes
    fields: tuple[str, ...]
    links: tuple[str, ...]
    sources: dict[Part, str]
    html_bytes: int
    warnings: tuple[str, ...]
    has_body_unsubscribe: bool
    has_postal_address: bool

    @property
    def engine(self) -> bool:
        """Whether the render child is needed: some part has more than blanks."""
        return bool(self.sources)

    @property
    def child_sources(self) -> dict[str, str]:
        """`sources` as the render child takes them, by the part's name."""
        return {part.name.lower(): source for part, source in self.sources.items()}

    def to_bytes(self) -> bytes:
        """For storage; `from_bytes` gives back an equal message."""
        return bytes([_FORMAT]) + msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Raises TemplateWrong when it was stored by a Posthouse whose format this one does not know."""
        if stored[:1] != bytes([_FORMAT]):
            raise TemplateWrong(
                "This compiled message was stored by another version of Posthouse. Compile the campaign again."
            )
        return msgspec.msgpack.decode(stored[1:], type=cls)
