"""Feedback reports: RFC 5965, with the kinds of RFC 6430 and RFC 6591."""

from __future__ import annotations

from email.message import Message

from posthouse.mail.reports.dsn import after_type
from posthouse.mail.reports.parts import blocks_in, original_in, parts_of, text_of
from posthouse.mail.reports.report import ComplaintKind, ComplaintReport, Unrecognised

_KINDS = {kind.value: kind for kind in ComplaintKind} | {"opt-out-list": ComplaintKind.OPT_OUT}


def complaint_in(message: Message) -> ComplaintReport | Unrecognised | None:
    """The complaint, Unrecognised where a required field is missing (RFC 5965 §3.1), None where this is no feedback report."""
    for part in parts_of(message):
        if part.get_content_type() == "message/feedback-report":
            fields = next(iter(blocks_in(text_of(part))), {})
            missing = [name for name in ("Feedback-Type", "User-Agent", "Version") if not fields.get(name.lower())]
            if missing:
                return Unrecognised(f"A feedback report without {missing[0]}.")
            recipients = (fields.get(name, "") for name in ("original-rcpt-to", "removal-recipient"))
            return ComplaintReport(
                kind=_KINDS.get(fields["feedback-type"].lower(), ComplaintKind.OTHER),
                user_agent=fields["user-agent"],
                source_ip=fields.get("source-ip", ""),
                recipients=tuple(after_type(value).strip("<> ") for value in recipients if value),
                mail_from=fields.get("original-mail-from", ""),
                original=original_in(message),
            )
    return None
