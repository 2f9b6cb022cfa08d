"""Bounces and complaints become news of one copy; whatever bears no token of ours becomes nothing."""

from __future__ import annotations

import pytest

from posthouse.feedback import Heard, NotHeard, WhyNot, hear_mail
from posthouse.mail.replies import Rules
from posthouse.mail.tokens import Subject, Tokens
from posthouse.model.events import EventKind

TOKENS = Tokens({1: b"k" * 32, 2: b"l" * 32}, 2)
STRANGERS = Tokens({2: b"x" * 32}, 2)
RULES = Rules.load()
SUBJECT = Subject(7, 3, 2, 1_000_000, 123_456_789)
AT = 1_795_000_000_000_000


def returned(token: str) -> str:
    return f"--b\nContent-Type: text/rfc822-headers\n\nMessage-ID: <{token}@example.com>\n\n--b--\n"


def dsn(
    token: str,
    reply: str = "550 5.1.1 User unknown",
    action: str = "failed",
    more: str = "",
    host: str = "mx.example.org",
) -> bytes:
    return (
        "From: MAILER-DAEMON@example.net\nSubject: Undelivered\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
        "--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.net\n\n"
        f"Final-Recipient: rfc822; anna@example.org\nAction: {action}\nStatus: {reply.split()[1]}\n"
        f"Remote-MTA: dns; {host}\nDiagnostic-Code: smtp; {reply}\n\n{more}{returned(token)}"
    ).encode()


def arf(token: str, kind: str = "abuse") -> bytes:
    return (
        "From: fbl@example.net\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=feedback-report; boundary="b"\n\n'
        f"--b\nContent-Type: message/feedback-report\n\nFeedback-Type: {kind}\nUser-Agent: FBL/1\nVersion: 1\nSource-IP: 192.0.2.1\n\n"
        f"{returned(token)}"
    ).encode()


def hear(raw: bytes, envelope_to: str = "postmaster@example.com") -> Heard | NotHeard:
    return hear_mail(raw, envelope_to, TOKENS, RULES, AT)


def news(raw: bytes, envelope_to: str = "postmaster@example.com") -> Heard:
    heard = hear(raw, envelope_to)
    assert isinstance(heard, Heard), heard
    return heard


TOKEN = TOKENS.return_path(SUBJECT)


def test_a_hard_bounce_names_the_copy_and_suppresses() -> None:
    heard = news(dsn(TOKEN))
    assert (heard.subject, heard.kind, heard.at, heard.suppress) == (SUBJECT, EventKind.BOUNCED_LATER, AT, True)
    assert heard.detail == {
        "recipient": "anna@example.org",
        "code": 550,
        "enhanced": "5.1.1",
        "text": "User unknown",
        "class": "user-unknown",
        "scope": "recipient",
        "reaction": "suppress",
        "rule": "user-unknown",
        "remote": "mx.example.org",
        "standard": True,
    }


@pytest.mark.parametrize(
    ("reply", "bounce_class"),
    [
        ("552 5.2.2 Mailbox full", "mailbox-full"),
        ("550 5.7.1 blocked using zen.spamhaus.org", "blocked"),
        ("554 5.7.9 Blorb", "auth-failure"),
        ("450 4.1.1 User unknown", "user-unknown"),
    ],
)
def test_a_bounce_that_does_not_blame_the_address_suppresses_nobody(reply: str, bounce_class: str) -> None:
    heard = news(dsn(TOKEN, reply))
    assert (heard.detail["class"], heard.suppress) == (bounce_class, False)


def test_the_remote_server_tells_whose_manners_apply() -> None:
    assert news(
        dsn(TOKEN, "550 5.4.1 Recipient address rejected: Access denied", host="x.mail.protection.outlook.com")
    ).detail["rule"] == ("microsoft-edge-directory")


def test_of_several_failures_the_hardest_counts() -> None:
    other = "Final-Recipient: rfc822; bob@example.org\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 User unknown\n\n"
    assert news(dsn(TOKEN, "552 5.2.2 Mailbox full", more=other)).suppress


@pytest.mark.parametrize("kind", ["abuse", "fraud", "virus", "other"])
def test_a_complaint_suppresses(kind: str) -> None:
    heard = news(arf(TOKEN, kind))
    assert (heard.subject, heard.kind, heard.suppress) == (SUBJECT, EventKind.COMPLAINED, True)
    assert heard.detail == {"complaint": kind, "user_agent": "FBL/1", "source_ip": "192.0.2.1"}


def test_an_opt_out_report_is_an_unsubscribe() -> None:
    heard = news(arf(TOKEN, "opt-out"))
    assert (heard.kind, heard.suppress) == (EventKind.UNSUBSCRIBED, False)


@pytest.mark.parametrize("token", [TOKEN, TOKEN.upper(), Tokens({1: b"k" * 32}, 1).return_path(SUBJECT)])
def test_the_return_path_is_enough_in_any_case_and_with_an_older_key(token: str) -> None:
    assert news(dsn("nothing"), f"b-{token}@bounces.example.com").subject == SUBJECT


def test_the_return_path_wins_over_the_returned_message() -> None:
    other = Subject(7, 3, 2, 1, 1)
    assert news(dsn(TOKENS.return_path(other)), f"b-{TOKEN}@bounces.example.com").subject == SUBJECT


@pytest.mark.parametrize(
    "raw", [dsn("nothing"), dsn(STRANGERS.return_path(SUBJECT)), arf(STRANGERS.return_path(SUBJECT))]
)
def test_without_a_token_of_ours_nothing_was_heard(raw: bytes) -> None:
    forged = STRANGERS.return_path(SUBJECT)
    assert hear(raw, f"b-{forged}@bounces.example.com") == NotHeard(WhyNot.NO_TOKEN)


def test_one_changed_letter_makes_a_token_foreign() -> None:
    for position in range(len(TOKEN) - 1):
        changed = TOKEN[:position] + ("a" if TOKEN[position] != "a" else "b") + TOKEN[position + 1 :]
        assert hear(dsn("nothing"), f"b-{changed}@bounces.example.com") == NotHeard(WhyNot.NO_TOKEN)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (dsn(TOKEN, "450 4.4.1 No route", "delayed"), WhyNot.STILL_TRYING),
        (dsn(TOKEN, "250 2.0.0 Ok", "delivered"), WhyNot.DELIVERED),
        (arf(TOKEN, "not-spam"), WhyNot.NO_COMPLAINT),
        (arf(TOKEN, "auth-failure"), WhyNot.NO_COMPLAINT),
        (b"From: anna@example.org\nAuto-Submitted: auto-replied\nSubject: Away\n\nI am away.\n", WhyNot.AUTO_REPLY),
        (b"From: anna@example.org\nSubject: Re: Hello\n\nThanks.\n", WhyNot.NO_REPORT),
    ],
)
def test_what_is_no_failure_and_no_complaint_is_no_news(raw: bytes, reason: WhyNot) -> None:
    assert hear(raw, f"b-{TOKEN}@bounces.example.com") == NotHeard(reason)
