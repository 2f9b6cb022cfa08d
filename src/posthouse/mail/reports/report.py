"""What a message that came back can turn out to be: a delivery report, a complaint, an automatic reply, or something else."""

from __future__ import annotations

from msgspec import Struct

from posthouse.mail.rules import Stage
from posthouse.model.closed_list import ClosedList
from posthouse.model.outcomes import Reply


class Action(ClosedList):
    """What the reporting server did for one recipient (RFC 3464 §2.3.3)."""

    FAILED = "failed", "It gave the message up."
    DELAYED = "delayed", "It could not deliver yet and goes on trying."
    DELIVERED = "delivered", "It delivered the message."
    RELAYED = "relayed", "It passed the message on to a server that sends no reports."
    EXPANDED = "expanded", "It delivered to an alias or list and passes the message on."


class ComplaintKind(ClosedList):
    """What a feedback report is about (RFC 5965 §7.3, RFC 6430, RFC 6591)."""

    ABUSE = "abuse", "The recipient called the message spam."
    FRAUD = "fraud", "The recipient called the message a fraud."
    VIRUS = "virus", "A virus was found in the message."
    OPT_OUT = "opt-out", "The recipient wants no more of this list."
    NOT_SPAM = "not-spam", "The recipient says that the message was no spam after all."
    AUTH_FAILURE = "auth-failure", "The message failed an authentication check."
    OTHER = "other", "A complaint of another kind."


class Original(Struct, frozen=True):
    """What came back of the message that the report is about: its header fields, names in lower case, first of each name."""

    fields: dict[str, str]


class RecipientReport(Struct, frozen=True):
    """What became of one recipient.

    reply: the remote server's words, or the nearest that the report has; its code is made up from status and action where none was given.
    stage: where in the conversation the reply came, if the report says so. remote_host: who said it, "" if unknown.
    """

    recipient: str
    action: Action
    status: str | None
    reply: Reply
    stage: Stage | None = None
    remote_host: str = ""


class DeliveryReport(Struct, frozen=True):
    """News of a delivery. standard: it came as RFC 3464 fields, and not only as words for people."""

    recipients: tuple[RecipientReport, ...]
    original: Original | None
    standard: bool


class ComplaintReport(Struct, frozen=True):
    """A feedback report (RFC 5965, also as asked for by CFBL-Address, RFC 9477).

    recipients: as reported, often none or redacted; mail_from: the return path of the message, as reported, or "".
    """

    kind: ComplaintKind
    user_agent: str
    source_ip: str
    recipients: tuple[str, ...]
    mail_from: str
    original: Original | None


class AutoReply(Struct, frozen=True):
    """A person's or a program's automatic answer (RFC 3834): neither a bounce nor a reply (MSG-5)."""

    subject: str


class Unrecognised(Struct, frozen=True):
    """Nothing of these. reason: one sentence."""

    reason: str


Report = DeliveryReport | ComplaintReport | AutoReply | Unrecognised
