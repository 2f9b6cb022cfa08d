"""Reads the mail that comes back: delivery reports, complaints, automatic replies, told apart (BNC-3, BNC-6, MSG-5).

All of it was written by strangers: sizes and depth are capped, and whatever cannot be read is Unrecognised, never an exception.
What a report means is not said here: its replies go through `posthouse.mail.replies`, and nothing is believed without one of our tokens.
"""

from __future__ import annotations

from email.message import Message

from posthouse.mail.reports import arf, auto_reply, dsn, parts, prose
from posthouse.mail.reports.report import (
    Action,
    AutoReply,
    ComplaintKind,
    ComplaintReport,
    DeliveryReport,
    Original,
    RecipientReport,
    Report,
    Unrecognised,
)
from posthouse.mail.reports.traces import token_candidates

__all__ = [
    "Action",
    "AutoReply",
    "ComplaintKind",
    "ComplaintReport",
    "DeliveryReport",
    "Original",
    "RecipientReport",
    "Report",
    "Unrecognised",
    "read_report",
    "token_candidates",
]


def read_report(raw: bytes) -> Report:
    """What a message that came back is. raw: the message as received, CRLF or LF; only its first 256 KiB are read."""
    message = parts.parse(raw)
    if message is None:
        return Unrecognised("The message is nested too deeply.")
    try:
        return _told_apart(message)
    except RecursionError:
        return Unrecognised("The message is nested too deeply.")


def _told_apart(message: Message) -> Report:
    complaint = arf.complaint_in(message)
    if complaint is not None:
        return complaint
    recipients = dsn.recipients_in(message)
    if recipients:
        if len(recipients) == 1 and not recipients[0].reply.text:
            recipients = [dsn.with_words(recipients[0], prose.words_of(message))]
        return DeliveryReport(tuple(recipients), parts.original_in(message), standard=True)
    recipients = prose.recipients_in(message)
    if recipients:
        return DeliveryReport(tuple(recipients), parts.original_in(message), standard=False)
    return auto_reply.auto_reply_in(message) or Unrecognised(
        "Neither a delivery report nor a complaint nor an automatic reply."
    )
