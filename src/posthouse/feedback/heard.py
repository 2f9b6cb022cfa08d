"""What was heard about one copy, or why nothing was."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from posthouse.mail.tokens import Subject
from posthouse.model.closed_list import ClosedList
from posthouse.model.events import EventKind


class WhyNot(ClosedList):
    """Why something that came in is no news."""

    NO_TOKEN = "no-token", "It bears no token of ours, or a forged one."
    NO_REPORT = "no-report", "It is no delivery report, complaint or automatic reply."
    AUTO_REPLY = "auto-reply", "It is a person's automatic answer."
    STILL_TRYING = "still-trying", "The server has not given the message up."
    DELIVERED = "delivered", "The report says that the message was delivered."
    NO_COMPLAINT = "no-complaint", "The feedback report does not complain of the message."


class Heard(Struct, frozen=True):
    """News of one copy. at: microseconds since 1970; detail: plain JSON with the raw facts; suppress: a hard bounce or a complaint."""

    subject: Subject
    kind: EventKind
    at: int
    detail: dict[str, Any]
    suppress: bool = False


class NotHeard(Struct, frozen=True):
    """No news."""

    reason: WhyNot
