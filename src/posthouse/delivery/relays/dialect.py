"""What differs from one relay's API to the next: pure functions from a message to a request, and from an answer to its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

import msgspec
from msgspec import Struct

from posthouse.delivery.relays.api import ApiReply
from posthouse.delivery.relays.quota import Quota
from posthouse.delivery.relays.rules import RelayError
from posthouse.model.messages import Composed

_KEPT_TEXT = 500


class Request(Struct, frozen=True):
    """One HTTP request. path: encoded as it is sent."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


class CannotCarry(Struct, frozen=True):
    """Why a relay's API has no form for this message; `what` is the end of a sentence: "a Cc field"."""

    what: str


class Dialect(Protocol):
    """One relay's API."""

    kind: str
    name: str
    largest: int

    def send_request(self, message: Composed, at: datetime) -> Request | CannotCarry:
        """The request that hands a message over at this moment (aware, UTC)."""
        ...

    def receipt(self, reply: ApiReply) -> str | None:
        """The relay's own name for the message that it took ("" where it gave none); None when it did not take it."""
        ...

    def refusal(self, reply: ApiReply) -> tuple[str | None, str]:
        """What a refusal says: the relay's own name for the error where it has one, and its text on one line."""
        ...

    def quota_request(self, at: datetime) -> Request | None:
        """The request that asks for the account's limits; None where the relay tells none."""
        ...

    def quota(self, reply: ApiReply) -> Quota | None:
        """The limits in an answer to it; None when there are none in it."""
        ...


def refusal_of(dialect: Dialect, reply: ApiReply, now: datetime) -> RelayError:
    """A refusal in our words."""
    error, text = dialect.refusal(reply)
    return RelayError(reply.status, error, text, wished_pause(reply.headers, now))


def wished_pause(headers: Mapping[str, str], now: datetime) -> float | None:
    """How many seconds the relay asks us to wait: Retry-After in both forms (RFC 9110 §10.2.3), or SendGrid's moment of reset."""
    wish = headers.get("retry-after", "").strip()
    if wish.isascii() and wish.isdigit():
        return float(wish[:9])
    if wish:
        try:
            moment = parsedate_to_datetime(wish)
        except ValueError:
            return None
        return max(0.0, (moment - now).total_seconds()) if moment.tzinfo is not None else None
    reset = headers.get("x-ratelimit-reset", "").strip()
    if reset.isascii() and reset.isdigit():
        return max(0.0, float(reset[:12]) - now.timestamp())
    return None


def json_object(body: bytes) -> dict[str, object]:
    """The JSON object in a body; empty when there is none."""
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return {}


def one_line(text: str) -> str:
    """A relay's words on one line of reasonable length, whatever they are."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _KEPT_TEXT]).split())[:_KEPT_TEXT]
