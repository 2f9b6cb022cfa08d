"""Our own marks in what came back: the token in the return path, and those in the message that was returned (BNC-2, BNC-6)."""

from __future__ import annotations

import re

from posthouse.mail.reports.report import ComplaintReport, DeliveryReport, Report

# base32 of key id, five numbers and the MAC: 29 characters or more, in whatever case they came back.
_TOKEN = re.compile(r"(?<![a-z0-9])[a-z2-7]{29,70}(?![a-z0-9])", re.IGNORECASE)
_TRACES = ("return-path", "message-id", "x-posthouse-token", "cfbl-feedback-id", "list-unsubscribe", "errors-to")
_MAX_CANDIDATES = 12


def token_candidates(envelope_to: str, report: Report) -> list[str]:
    """What may be a return-path token, the surest first: from the envelope recipient, then from the returned message.

    Whether one is ours says only Tokens.open_return_path.
    """
    sources = [envelope_to.rpartition("@")[0]]
    if isinstance(report, ComplaintReport):
        sources.append(report.mail_from)
    if isinstance(report, DeliveryReport | ComplaintReport) and report.original is not None:
        sources.extend(report.original.fields.get(name, "") for name in _TRACES)
    found = dict.fromkeys(match for source in sources for match in _TOKEN.findall(source))
    return list(found)[:_MAX_CANDIDATES]
