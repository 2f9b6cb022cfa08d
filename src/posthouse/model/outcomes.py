"""What can become of one attempt, and what a reply means. Values, never exceptions."""

from __future__ import annotations

from msgspec import Struct

from posthouse.model.closed_list import ClosedList


class BounceClass(ClosedList):
    """Why a message was refused or delayed (BNC-4)."""

    USER_UNKNOWN = "user-unknown", "The mailbox does not exist."
    DOMAIN_BAD = "domain-bad", "The recipient's domain does not exist or accepts no mail."
    INACTIVE = "inactive", "The mailbox exists but was disabled or abandoned."
    MAILBOX_FULL = "mailbox-full", "The mailbox is full."
    POLICY = "policy", "The provider refused by a policy of its own."
    SPAM_CONTENT = "spam-content", "The provider judged the content or its links to be spam."
    REPUTATION = "reputation", "The provider blocks or distrusts our address or domain."
    AUTH_FAILURE = "auth-failure", "SPF, DKIM, DMARC, reverse DNS or TLS did not satisfy the provider."
    RATE = "rate", "The provider takes less mail from us than we offered."
    GREYLIST = "greylist", "The provider asks every new sender to come back later."
    PROTOCOL = "protocol", "The SMTP conversation broke a rule."
    NETWORK = "network", "The connection could not be made or was lost."
    DNS = "dns", "DNS did not answer."
    TLS = "tls", "An encrypted connection could not be made."
    EXPIRED = "expired", "The message grew too old while it waited."
    TOO_BIG = "too-big", "The message is larger than the provider accepts."
    CONTENT_TYPE = "content-type", "The provider does not accept this kind of content or address."
    MALFORMED = "malformed", "The provider says that the message breaks the mail format."
    AUTO_REPLY = "auto-reply", "A person's automatic answer, which is no bounce."
    SERVER_BUSY = "server-busy", "The provider has trouble of its own."
    UNDETERMINED = "undetermined", "The reply matches no rule that we know."
    BLOCKED = "blocked", "The provider blocks us and will not take this message; the address is well."


class Scope(ClosedList):
    """Whom a reply is about."""

    RECIPIENT = "recipient", "This one address."
    MESSAGE = "message", "This one message."
    STREAM = "stream", "Everything this campaign or stream sends."
    SOURCE_IP = "source-ip", "Our IP address, or its network."
    SENDING_DOMAIN = "sending-domain", "Our domain, as SPF, DKIM or a link shows it."
    HOST = "host", "The receiving server or the way to it."
    NETBLOCK = "netblock", "The network that our IP address is in."
    DKIM_DOMAIN = "dkim-domain", "The domain that signs the message (d=)."
    SPF_DOMAIN = "spf-domain", "The domain of the return path."
    URL_DOMAIN = "url-domain", "A domain that a link in the message leads to."
    WORKSPACE = "workspace", "Everything that this workspace sends."
    RELAY = "relay", "The relay that takes our mail, or our account there."


class Reaction(ClosedList):
    """What a reply asks of us (standards, section 8)."""

    DELIVERED = "delivered", "Accepted: nothing more to do."
    RETRY = "retry", "Try this message again later."
    SLOW = "slow", "Send less to this provider for a while."
    HOLD = "hold", "Send nothing to this provider for a while."
    SUPPRESS = "suppress", "Never send to this address again."
    FAIL = "fail", "Give this message up; the address is not to blame."
    STOP = "stop", "Pause the campaign and tell a person."
    FIX = "fix", "Retrying is useless until the operator repairs something."


class Reply(Struct, frozen=True):
    """An SMTP reply: code, RFC 3463 status where the peer gave one, and its words on one line."""

    code: int
    enhanced: str | None
    text: str


class Verdict(Struct, frozen=True):
    """What a reply or a failure means.

    permanent: do not retry this message. retry_after: the earliest retry in seconds, where a rule says one.
    hold_seconds: how long the path (site) should rest or be slowed, where a rule says so. rule: the name of the rule that decided.
    """

    permanent: bool
    bounce_class: BounceClass
    scope: Scope
    reaction: Reaction
    rule: str
    retry_after: float | None = None
    hold_seconds: float | None = None


class Status(ClosedList):
    """What one attempt, or a decision not to attempt, came to."""

    DELIVERED = "delivered", "The recipient's server accepted the message."
    DEFERRED = "deferred", "Not now: the message waits for its next try."
    BOUNCED = "bounced", "Refused for good."
    EXPIRED = "expired", "Given up: it could not be delivered within its life."
    SUPPRESSED = "suppressed", "Not sent: the address is suppressed."
    CANCELLED = "cancelled", "Not sent: a person cancelled the campaign."
    HELD = "held", "Not sent yet: it waits for a person."

    @property
    def is_final(self) -> bool:
        """Whether the queue row goes away with this outcome."""
        return self not in (Status.DEFERRED, Status.HELD)


_PINNING = frozenset({BounceClass.GREYLIST, BounceClass.REPUTATION, BounceClass.BLOCKED})


class Outcome(Struct, frozen=True, array_like=True, omit_defaults=False):
    """One outcome of one attempt, as the journal keeps it and as settle writes it.

    at and next_try are microseconds since 1970 (UTC), taken from the clock once, so that a replay writes the same row.
    """

    workspace_id: int
    message_id: int
    attempt: int
    status: Status
    at: int
    campaign_id: int
    contact_id: int
    site_id: int
    code: int = 0
    enhanced: str | None = None
    text: str = ""
    bounce_class: BounceClass | None = None
    rule: str | None = None
    remote: str | None = None
    reaction: Reaction | None = None
    next_try: int | None = None
    source_id: int = 0

    @property
    def stays_with_its_source(self) -> bool:
        """Whether the next try must leave from the same source: a greylist knows it (SMTP-21), a block is not dodged (SMTP-22)."""
        return self.bounce_class in _PINNING
