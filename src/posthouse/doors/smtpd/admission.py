"""What the door is told: whom it may take mail for, who takes it, and how much it stands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from posthouse.model.closed_list import ClosedList


class Admission(ClosedList):
    """Whether mail for an address is taken."""

    TAKEN = "taken", "Mail for this address is taken."
    UNKNOWN = "unknown", "The domain is ours, the address is not known."
    NOT_OURS = "not-ours", "The domain is not ours: taking it would be relaying."


AcceptRecipient = Callable[[str], Awaitable[Admission]]
Take = Callable[[str, list[str], bytes], Awaitable[None]]


class Limits(Struct, frozen=True):
    """What the door stands of one peer and of all. Times are real seconds; content_seconds is for the whole of a message."""

    max_bytes: int = 10_485_760
    max_recipients: int = 100
    max_connections: int = 500
    max_connections_per_address: int = 20
    max_errors: int = 10
    command_seconds: float = 300.0
    content_seconds: float = 600.0
    take_seconds: float = 60.0
    close_seconds: float = 5.0
