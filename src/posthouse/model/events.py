"""The news that the ledger keeps: what happened to whom, when, and why."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from posthouse.model.closed_list import ClosedList


class EventKind(ClosedList):
    """Everything that can happen to a recipient's copy."""

    DELIVERED = "delivered", "The recipient's server accepted the message."
    DEFERRED = "deferred", "The server asked us to come back, or could not be reached."
    BOUNCED = "bounced", "The server refused the message for good."
    EXPIRED = "expired", "Given up after its life in the queue."
    SUPPRESSED = "suppressed", "Not sent, because the address is suppressed."
    CANCELLED = "cancelled", "Not sent, because the campaign was cancelled."
    HELD = "held", "Set aside until a person decides."
    RELEASED = "released", "Let go after it was held."
    BOUNCED_LATER = "bounced-later", "Accepted first, then returned by a delivery status notification."
    COMPLAINED = "complained", "The recipient reported the message as spam."
    UNSUBSCRIBED = "unsubscribed", "The recipient left the list."
    OPENED = "opened", "The open pixel was fetched."
    CLICKED = "clicked", "A tracked link was followed."
    REDELIVERED = "redelivered", "A second copy was accepted after a crash; the first answer was never heard."
    STOPPED = "stopped", "Its refusal stopped a campaign, a stream or a domain, and a person must look."


FINAL_KINDS = frozenset(
    {EventKind.DELIVERED, EventKind.BOUNCED, EventKind.EXPIRED, EventKind.SUPPRESSED, EventKind.CANCELLED}
)


class Event(Struct, frozen=True):
    """One line of the ledger.

    The key is (workspace_id, message_id, kind, nth): nth is the attempt for delivery news and the microsecond for what people do,
    so writing the same event twice changes nothing. at: microseconds since 1970. detail: plain JSON.
    """

    workspace_id: int
    message_id: int
    kind: EventKind
    nth: int
    at: int
    campaign_id: int
    contact_id: int
    site_id: int = 0
    detail: dict[str, Any] | None = None
