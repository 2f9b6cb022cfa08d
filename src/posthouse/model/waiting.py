"""Why a message waits: one closed list, and the values by which rooms slow a path down without knowing each other."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from posthouse.model.closed_list import ClosedList


class WaitReason(ClosedList):
    """Why a message that is due is not being sent, or why it went back to the queue untried."""

    RATE_LIMIT = "rate-limit", "The provider's rate limit, or the rate that it was lately found to take, is used up."
    CONNECTION_LIMIT = "connection-limit", "All connections that the provider allows are in use."
    SITE_RESTING = "site-resting", "The provider asked for a rest."
    BRAKE = "brake", "A brake on the address, domain or stream is on."
    SOURCE_UNAVAILABLE = "source-unavailable", "No source that may send it is at hand."


class Ceiling(Struct, frozen=True):
    """A limit on how much may leave, set by somebody who is not pacing: warm-up, a brake, a quota.

    source_id, site_id: which paths it is for; None for all. per_second: messages a second; remaining: messages until `until`; None for
    no limit of that kind. until: when it ends, aware, UTC; None for no end. It says its reason and, in words, who set it and why.
    """

    source_id: int | None
    site_id: int | None
    per_second: float | None
    remaining: int | None
    until: datetime | None
    reason: WaitReason
    why: str = ""
