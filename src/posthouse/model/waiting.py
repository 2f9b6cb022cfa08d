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
    WARM_UP_CAP = "warm-up-cap", "The source is being warmed up and has sent its share of the day to this provider."
    BRAKE = "brake", "A brake on the address, domain or stream is on."
    QUOTA = "quota", "The quota of the workspace or of the stream is used up."
    OUTSIDE_WINDOW = "outside-window", "It is outside the delivery window."
    SOURCE_UNAVAILABLE = "source-unavailable", "No source that may send it is at hand."
    DNS_UNANSWERED = "dns-unanswered", "DNS has not yet said which servers are responsible."
    CAMPAIGN_PAUSED = "campaign-paused", "A person paused the campaign."
    CAMPAIGN_STOPPED = "campaign-stopped", "The campaign was stopped while the message was in a sender's hands."
    SENDER_STOPPING = "sender-stopping", "The sender that held it stopped."
    SENDER_FAULT = "sender-fault", "The sender that held it met a fault."
    WAITED_TOO_LONG = "waited-too-long", "It waited so long for a connection that its claim would have lapsed."
    RENDER_CHILD_UNAVAILABLE = "render-child-unavailable", "The process that renders templates could not be started."


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
