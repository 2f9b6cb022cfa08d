"""Opens, clicks and unsubscribes: what a request with one of our tokens says (TRK-1, UNS-3)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from posthouse.feedback.heard import Heard, NotHeard, WhyNot
from posthouse.feedback.visitors import Visitors
from posthouse.mail.tokens import Purpose, Subject, Tokens
from posthouse.model.errors import TokenWrong
from posthouse.model.events import EventKind

_MAX_USER_AGENT = 400
_MAX_URL = 2000
_NO_TOKEN = NotHeard(WhyNot.NO_TOKEN)


class Visit(Struct, frozen=True):
    """The facts of one request. at: microseconds since 1970; is_head: it was a HEAD, which no person sends (TRK-2)."""

    user_agent: str
    remote_ip: str
    at: int
    is_head: bool = False


def hear_open(token: str, visit: Visit, tokens: Tokens, visitors: Visitors) -> Heard | NotHeard:
    """The open that a pixel's token tells of."""
    return _heard(Purpose.OPEN, EventKind.OPENED, token, visit, tokens, visitors, {})


def hear_click(token: str, index: int, visit: Visit, tokens: Tokens, visitors: Visitors) -> Heard | NotHeard:
    """The click on a link of the campaign's own table."""
    return _heard(Purpose.CLICK, EventKind.CLICKED, token, visit, tokens, visitors, {"link": index})


def hear_personal_click(
    token: str, target: str, seal: str, visit: Visit, tokens: Tokens, visitors: Visitors
) -> Heard | NotHeard:
    """The click on a link whose target is this recipient's own; a target that we did not seal is no news (TRK-3)."""
    heard = _heard(Purpose.CLICK, EventKind.CLICKED, token, visit, tokens, visitors, {"url": target[:_MAX_URL]})
    if isinstance(heard, NotHeard):
        return heard
    try:
        tokens.open_text(Purpose.CLICK, heard.subject, target, seal)
    except TokenWrong:
        return _NO_TOKEN
    return heard


def hear_unsubscribe(token: str, how: str, visit: Visit, tokens: Tokens) -> Heard | NotHeard:
    """The wish to leave the list. how: "one-click" (RFC 8058) or "page"."""
    subject = unsubscriber(token, tokens)
    if subject is None:
        return _NO_TOKEN
    return Heard(subject, EventKind.UNSUBSCRIBED, visit.at, {"how": how, **_facts(visit)})


def unsubscriber(token: str, tokens: Tokens) -> Subject | None:
    """Whom an unsubscribe link is for; None for a forged one."""
    try:
        return tokens.open_link(Purpose.UNSUBSCRIBE, token)
    except TokenWrong:
        return None


def _heard(
    purpose: Purpose,
    kind: EventKind,
    token: str,
    visit: Visit,
    tokens: Tokens,
    visitors: Visitors,
    detail: dict[str, Any],
) -> Heard | NotHeard:
    try:
        subject = tokens.open_link(purpose, token)
    except TokenWrong:
        return _NO_TOKEN
    visitor = visitors.recognise(visit.user_agent, visit.remote_ip, visit.is_head)
    return Heard(
        subject, kind, visit.at, {"class": visitor.visitor_class.value, "rule": visitor.name, **detail, **_facts(visit)}
    )


def _facts(visit: Visit) -> dict[str, Any]:
    return {"user_agent": visit.user_agent[:_MAX_USER_AGENT], "ip": visit.remote_ip}
