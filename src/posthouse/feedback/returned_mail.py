"""Mail that came back to a return path, a complaints address or a postmaster: bounces and complaints (BNC-2, BNC-5, BNC-6)."""

from __future__ import annotations

from posthouse.feedback.heard import Heard, NotHeard, WhyNot
from posthouse.mail.replies import Rules, Stage
from posthouse.mail.reports import (
    Action,
    AutoReply,
    ComplaintKind,
    ComplaintReport,
    DeliveryReport,
    RecipientReport,
    Report,
    Unrecognised,
    read_report,
    token_candidates,
)
from posthouse.mail.tokens import Subject, Tokens
from posthouse.model.errors import TokenWrong
from posthouse.model.events import EventKind
from posthouse.model.outcomes import Reaction, Verdict

_NO_COMPLAINT = frozenset({ComplaintKind.NOT_SPAM, ComplaintKind.AUTH_FAILURE})
_MAX_TEXT = 1000


def hear_mail(raw: bytes, envelope_to: str, tokens: Tokens, rules: Rules, at: int) -> Heard | NotHeard:
    """What a message that came back says about one of our copies.

    raw: as received; envelope_to: the RCPT TO address it came for; at: microseconds since 1970. Only a complaint, or a failure that
    `rules` calls a hard one, suppresses. The token must be ours, in the envelope or in the returned message.
    """
    report = read_report(raw)
    nothing = _why_nothing(report)
    if nothing is not None:
        return NotHeard(nothing)
    subject = _subject(envelope_to, report, tokens)
    if subject is None:
        return NotHeard(WhyNot.NO_TOKEN)
    if isinstance(report, ComplaintReport):
        return _complaint(report, subject, at)
    assert isinstance(report, DeliveryReport)
    return _bounce(report, subject, rules, at)


def _why_nothing(report: Report) -> WhyNot | None:
    match report:
        case AutoReply():
            return WhyNot.AUTO_REPLY
        case Unrecognised():
            return WhyNot.NO_REPORT
        case ComplaintReport(kind=kind):
            return WhyNot.NO_COMPLAINT if kind in _NO_COMPLAINT else None
        case DeliveryReport(recipients=recipients):
            actions = {one.action for one in recipients}
            if Action.FAILED in actions:
                return None
            return WhyNot.STILL_TRYING if Action.DELAYED in actions else WhyNot.DELIVERED


def _subject(envelope_to: str, report: Report, tokens: Tokens) -> Subject | None:
    for candidate in token_candidates(envelope_to, report):
        try:
            return tokens.open_return_path(candidate)
        except TokenWrong:
            continue
    return None


def _complaint(report: ComplaintReport, subject: Subject, at: int) -> Heard:
    detail = {"complaint": report.kind.value, "user_agent": report.user_agent, "source_ip": report.source_ip}
    if report.kind is ComplaintKind.OPT_OUT:
        return Heard(subject, EventKind.UNSUBSCRIBED, at, {**detail, "how": "feedback-report"})
    return Heard(subject, EventKind.COMPLAINED, at, detail, suppress=True)


def _bounce(report: DeliveryReport, subject: Subject, rules: Rules, at: int) -> Heard:
    """A copy has one recipient. Where a report names several (an alias that was expanded), the hardest failure counts."""
    judged = [(one, _verdict(one, rules)) for one in report.recipients if one.action is Action.FAILED]
    one, verdict = next((pair for pair in judged if pair[1].reaction is Reaction.SUPPRESS), judged[0])
    detail = {
        "recipient": one.recipient,
        "code": one.reply.code,
        "enhanced": one.status or one.reply.enhanced,
        "text": one.reply.text[:_MAX_TEXT],
        "class": verdict.bounce_class.value,
        "scope": verdict.scope.value,
        "reaction": verdict.reaction.value,
        "rule": verdict.rule,
        "remote": one.remote_host,
        "standard": report.standard,
    }
    return Heard(subject, EventKind.BOUNCED_LATER, at, detail, suppress=verdict.reaction is Reaction.SUPPRESS)


def _verdict(one: RecipientReport, rules: Rules) -> Verdict:
    """A report speaks of one recipient; where it does not say the stage, the reply is taken as an answer to that recipient."""
    return rules.interpret(one.reply, one.stage or Stage.RCPT, one.remote_host or None)
