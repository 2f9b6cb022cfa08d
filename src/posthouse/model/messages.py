"""A recipient's copy of a message, on its way from the queue to the wire."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Copy(Struct, frozen=True):
    """One claimed recipient of one campaign: who it is, and everything that composing and delivery need to know.

    fields: the contact's own values, plain JSON types; first_at: when it was queued, microseconds since 1970.
    withheld: why it must not be sent after all, as claim found it: a suppression's cause, "erased" or "cancelled".
    pinned_source: the source that it must leave from, because it was tried from there (SMTP-21, SMTP-22).
    """

    workspace_id: int
    message_id: int
    campaign_id: int
    contact_id: int
    list_id: int
    lane_id: int
    site_id: int
    attempt: int
    email: str
    fields: dict[str, Any]
    first_at: int
    withheld: str | None = None
    pinned_source: int | None = None


class Composed(Struct, frozen=True):
    """A message ready for the wire.

    content: CRLF lines, not dot-stuffed, ending in CRLF; return_path and recipient: bare addresses, domains as A-labels.
    smtputf8: an address needs RFC 6531; eight_bit: the content has octets above 127. leading_dots: False when no line begins with a
    dot, so that nobody has to look (RFC 5321 §4.5.2).
    """

    return_path: str
    recipient: str
    content: bytes
    smtputf8: bool = False
    eight_bit: bool = False
    leading_dots: bool = True
