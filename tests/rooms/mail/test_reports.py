"""Mail that comes back: delivery reports, complaints and automatic replies are told apart and read, whoever wrote them."""

from __future__ import annotations

import json
from base64 import encodebytes
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from flufl.bounce import all_failures
from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.replies import Rules, Stage
from posthouse.mail.reports import (
    Action,
    AutoReply,
    ComplaintKind,
    ComplaintReport,
    DeliveryReport,
    Report,
    Unrecognised,
    read_report,
    token_candidates,
)
from posthouse.mail.tokens import Subject, Tokens
from posthouse.model.outcomes import Reaction, Reply

BOUNCES = Path(__file__).parents[3].parent / "shared/corpora/bounces"
needs_corpora = pytest.mark.skipif(not BOUNCES.exists(), reason="the shared corpora are not beside the project")
SUBJECT = Subject(7, 3, 2, 1_000_000, 123_456_789)
TOKEN = Tokens({1: b"k" * 32}, 1).return_path(SUBJECT)

DSN = f"""From: MAILER-DAEMON@mx.example.net (Mail Delivery System)
To: b-{TOKEN}@bounce.example.com
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="b"

--b
Content-Type: text/plain

I'm sorry to have to inform you that your message could not be delivered.

--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net
Arrival-Date: Fri, 13 Nov 2026 10:00:00 +0000

Final-Recipient: rfc822; alias@example.org
Original-Recipient: rfc822;anna@example.org
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx1.example.org
Diagnostic-Code: smtp; 550 5.1.1 <anna@example.org>:
    Recipient address rejected: User unknown
    (in reply to RCPT TO command)

--b
Content-Type: message/rfc822

Return-Path: <b-{TOKEN}@bounce.example.com>
Message-ID: <{TOKEN}@example.com>
From: News <news@example.com>
To: anna@example.org
Subject: Hello

Hello.
--b--
"""

ARF = f"""From: <fbl@example.net>
To: complaints@example.com
Subject: Complaint
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="b"

--b
Content-Type: text/plain

This is an abuse report.

--b
Content-Type: message/feedback-report

Feedback-Type: abuse
User-Agent: SomeFBL/1.0
Version: 1
Source-IP: 192.0.2.1
Original-Mail-From: <b-{TOKEN}@bounce.example.com>

--b
Content-Type: text/rfc822-headers

Message-ID: <{TOKEN}@example.com>
To: redacted@example.net

--b--
"""


def read(text: str) -> Report:
    return read_report(text.encode())


def delivery(text: str) -> DeliveryReport:
    report = read(text)
    assert isinstance(report, DeliveryReport), report
    return report


def complaint(text: str) -> ComplaintReport:
    report = read(text)
    assert isinstance(report, ComplaintReport), report
    return report


# ── Delivery status notifications (RFC 3464) ──


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_dsn_names_the_recipient_as_we_wrote_it_and_the_servers_reply(ending: str) -> None:
    report = delivery(DSN.replace("\n", ending))
    (one,) = report.recipients
    assert report.standard
    assert (one.recipient, one.action, one.status) == ("anna@example.org", Action.FAILED, "5.1.1")
    words = "<anna@example.org>: Recipient address rejected: User unknown (in reply to RCPT TO command)"
    assert one.reply == Reply(550, "5.1.1", words)
    assert (one.stage, one.remote_host) == (Stage.RCPT, "mx1.example.org")


@pytest.mark.parametrize(
    ("words", "stage"),
    [
        ("(in reply to end of DATA command)", Stage.CONTENT),
        ("(in reply to MAIL FROM command)", Stage.MAIL),
        ("SMTP error from remote mail server after RCPT TO:<a@b>", Stage.RCPT),
        ("SMTP error from remote mail server after initial connection", Stage.GREETING),
        ("(in reply to EHLO command)", Stage.EHLO),
        (">>> DATA", Stage.CONTENT),
        ("nothing of the kind", None),
    ],
)
def test_the_stage_is_read_from_the_words(words: str, stage: Stage | None) -> None:
    assert delivery(DSN.replace("(in reply to RCPT TO command)", words)).recipients[0].stage is stage


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("delayed", Action.DELAYED),
        ("Delivered", Action.DELIVERED),
        ("relayed (to gateway)", Action.RELAYED),
        ("failure", Action.FAILED),
    ],
)
def test_the_action_is_read_in_any_dress(action: str, expected: Action) -> None:
    assert delivery(DSN.replace("Action: failed", f"Action: {action}")).recipients[0].action is expected


@pytest.mark.parametrize(
    ("status", "expected"), [("4.4.1", Action.DELAYED), ("2.1.5", Action.DELIVERED), ("5.0.0", Action.FAILED)]
)
def test_an_unheard_of_action_is_told_by_the_status(status: str, expected: Action) -> None:
    text = DSN.replace("Action: failed", "Action: blorbed").replace("Status: 5.1.1", f"Status: {status}")
    assert delivery(text).recipients[0].action is expected


def test_without_a_diagnostic_the_words_for_people_speak_under_the_status() -> None:
    start = DSN.index("Diagnostic-Code")
    text = DSN[:start] + DSN[DSN.index("\n--b\nContent-Type: message/rfc822") :]
    reply = delivery(text).recipients[0].reply
    assert (reply.code, reply.enhanced) == (550, "5.1.1")
    assert "could not be delivered" in reply.text


def test_a_diagnostic_that_is_no_smtp_keeps_its_words_under_the_status() -> None:
    start, end = DSN.index("Diagnostic-Code"), DSN.index("\n--b\nContent-Type: message/rfc822")
    text = DSN[:start] + "Diagnostic-Code: x-unix; mailbox quota exceeded\n" + DSN[end:]
    assert delivery(text).recipients[0].reply == Reply(550, "5.1.1", "mailbox quota exceeded")


def test_a_number_in_the_words_is_no_success() -> None:
    start, end = DSN.index("Diagnostic-Code"), DSN.index("\n--b\nContent-Type: message/rfc822")
    text = DSN[:start] + "Diagnostic-Code: x-local; given up after 240 minutes\n" + DSN[end:]
    assert delivery(text).recipients[0].reply == Reply(550, "5.1.1", "given up after 240 minutes")


@pytest.mark.parametrize("encoding", ["", "base64", "quoted-printable"])
def test_an_international_dsn_is_read(encoding: str) -> None:
    """RFC 6533: utf-8 addresses, plain or as \\x{…}, in a part that may be encoded."""
    fields = "Reporting-MTA: dns; mx.example.net\n\nFinal-Recipient: utf-8; j\\x{F6}rg@example.org\nAction: failed\nStatus: 5.1.1\n"
    if encoding == "base64":
        fields = encodebytes(fields.encode()).decode()
    elif encoding:
        fields = fields.replace("=", "=3D").replace("Status: 5", "Status:=205")
    start, end = DSN.index("Content-Type: message/delivery-status"), DSN.index("\n--b\nContent-Type: message/rfc822")
    text = (
        DSN[:start]
        + f"Content-Type: message/global-delivery-status\nContent-Transfer-Encoding: {encoding or '8bit'}\n\n{fields}"
        + DSN[end:]
    )
    (one,) = delivery(text).recipients
    assert (one.recipient, one.status) == ("jörg@example.org", "5.1.1")


def test_a_forwarded_dsn_is_read_through_its_quotes() -> None:
    quoted = "".join(f"> {line}\n" for line in DSN.splitlines())
    report = delivery(f"From: boss@example.com\nSubject: Fwd: look\n\nSee below.\n{quoted}")
    assert report.recipients[0].recipient == "anna@example.org"


# ── Our own marks (BNC-2, BNC-6) ──


def test_the_token_is_found_in_the_envelope_first_and_then_in_the_returned_message() -> None:
    report = delivery(DSN)
    assert token_candidates(f"B-{TOKEN.upper()}@bounce.example.com", report)[0] == TOKEN.upper()
    assert token_candidates("postmaster@example.com", report) == [TOKEN]
    assert token_candidates("postmaster@example.com", Unrecognised("")) == []


@pytest.mark.parametrize("lost", ["Original-Mail-From", "Message-ID"])
def test_one_trace_in_a_complaint_is_enough(lost: str) -> None:
    report = complaint("\n".join(line for line in ARF.splitlines() if not line.startswith(lost)))
    assert token_candidates("complaints@example.com", report) == [TOKEN]


# ── Complaints (RFC 5965) ──


def test_a_complaint_says_its_kind_and_who_reports() -> None:
    report = complaint(ARF)
    assert (report.kind, report.user_agent, report.source_ip) == (ComplaintKind.ABUSE, "SomeFBL/1.0", "192.0.2.1")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("not-spam", ComplaintKind.NOT_SPAM), ("opt-out-list", ComplaintKind.OPT_OUT), ("blorb", ComplaintKind.OTHER)],
)
def test_the_kinds_of_complaints_are_told_apart(name: str, kind: ComplaintKind) -> None:
    assert complaint(ARF.replace("Feedback-Type: abuse", f"Feedback-Type: {name}")).kind is kind


@pytest.mark.parametrize("name", ["Feedback-Type", "User-Agent", "Version"])
def test_a_report_without_a_required_field_is_none(name: str) -> None:
    text = "\n".join(line for line in ARF.splitlines() if not line.startswith(name))
    assert read(text) == Unrecognised(f"A feedback report without {name}.")


# ── Automatic replies (MSG-5) ──


@pytest.mark.parametrize(
    "head",
    [
        "Auto-Submitted: auto-replied",
        "Precedence: auto_reply",
        "X-Autoreply: yes",
        "Subject: Out of Office: Hello",
        "Subject: =?utf-8?q?R=C3=A9ponse_automatique_=3A_Hello?=",
    ],
)
def test_a_vacation_message_is_no_bounce(head: str) -> None:
    text = (
        f"Return-Path: <>\nFrom: Anna <anna@example.org>\n{head}\n\nI am away.\nFor help ask:\nbob@example.org\nbye\n"
    )
    assert isinstance(read(text), AutoReply)


def test_a_person_who_answers_is_neither() -> None:
    assert isinstance(read("From: anna@example.org\nAuto-Submitted: no\nSubject: Re: Hello\n\nThanks!\n"), Unrecognised)


# ── Bounces for people only ──

QMAIL = """From: MAILER-DAEMON@example.net
Subject: failure notice

Hi. This is the qmail-send program at example.net.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<anna@example.org>:
192.0.2.25 does not like recipient.
Remote host said: 552 5.2.2 Mailbox full.
Giving up on 192.0.2.25.

<bob@example.org>:
Sorry, no mailbox here by that name. (#5.1.1)

--- Below this line is a copy of the message.

Return-Path: <news@example.com>
Message-ID: <1@example.com>
To: carol@example.org
"""


def test_a_bounce_in_words_gives_each_recipient_its_reply_and_the_original() -> None:
    report = delivery(QMAIL)
    anna, bob = report.recipients
    assert not report.standard
    assert (anna.recipient, anna.reply.code, anna.reply.enhanced, anna.stage) == (
        "anna@example.org",
        552,
        "5.2.2",
        Stage.RCPT,
    )
    assert (bob.recipient, bob.reply.code, bob.reply.enhanced) == ("bob@example.org", 550, "5.1.1")
    assert report.original is not None
    assert report.original.fields["message-id"] == "<1@example.com>"


def test_a_warning_is_a_delay() -> None:
    text = QMAIL.replace(
        "This is a permanent error; I've given up.", "This is a warning message only. It will be retried."
    )
    assert {one.action for one in delivery(text).recipients} == {Action.DELAYED}


def test_the_senders_own_address_in_the_words_is_no_recipient() -> None:
    text = (
        "From: mailer-daemon@example.net\nSubject: Mail delivery failed\n\nA message sent by\n\n  <news@example.com>\n\n"
        "could not be delivered. The following address(es) failed:\n\n  anna@example.org\n    unrouteable address\n"
    )
    assert [one.recipient for one in delivery(text).recipients] == ["anna@example.org"]


def test_a_bounce_that_names_nobody_is_one_all_the_same() -> None:
    text = "From: MAILER-DAEMON@example.net\nSubject: Undelivered Mail\n\nIt did not work.\n"
    (one,) = delivery(text).recipients
    assert (one.recipient, one.action) == ("", Action.FAILED)


# ── Hostile input ──


@given(st.binary(max_size=2000))
def test_whatever_comes_in_is_read_without_a_fault(raw: bytes) -> None:
    read_report(raw)


@given(st.data())
def test_a_dsn_damaged_anywhere_is_read_without_a_fault(data: st.DataObject) -> None:
    raw = bytearray((data.draw(st.sampled_from([DSN, ARF, QMAIL]))).encode())
    for _ in range(data.draw(st.integers(1, 8))):
        position = data.draw(st.integers(0, len(raw) - 1))
        raw[position : position + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
    read_report(bytes(raw))


def test_a_message_nested_without_end_is_not_followed() -> None:
    raw = "".join(f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n' for n in range(3000))
    assert read(raw) == Unrecognised("The message is nested too deeply.")


@pytest.mark.parametrize("filler", [" ", "> ", "a@b\n", "-", "following address:\n", "user "])
def test_a_text_made_to_be_slow_is_read_in_time(filler: str) -> None:
    """Patterns that go back over what they read took forty seconds for blanks alone; a hang here is the failure."""
    report = delivery(f"From: MAILER-DAEMON@example.net\nSubject: Undelivered\n\n{filler * 100_000}\n")
    assert len(report.recipients) <= 50


def test_only_the_beginning_of_a_message_is_read() -> None:
    padding = "x" * 76 + "\n"
    late = DSN.replace("I'm sorry", padding * 4_000 + "I'm sorry")
    assert not isinstance(read(late), DeliveryReport) or not delivery(late).standard


# ── What others collected (BNC-3) ──


def _flufl_finds(raw: bytes) -> bool:
    temporary, permanent = all_failures(message_from_bytes(raw))
    return bool(temporary or permanent)


def _share(of: list[Any], test: Callable[[Any], bool]) -> float:
    return sum(map(test, of)) / len(of)


@needs_corpora
def test_more_bounces_are_found_than_by_flufl_bounce_alone() -> None:
    expected = json.loads((BOUNCES / "expected.json").read_text())
    raws = [
        (BOUNCES / "messages" / name).read_bytes() for name, rows in expected.items() if rows[0]["reason"] != "feedback"
    ]
    ours = _share(raws, lambda raw: isinstance(read_report(raw), DeliveryReport))
    assert ours >= 0.98
    assert ours > _share(raws, _flufl_finds)


@needs_corpora
def test_as_many_are_found_on_flufl_bounces_own_samples() -> None:
    raws = [path.read_bytes() for path in sorted((BOUNCES / "flufl").glob("*.txt"))]
    assert _share(raws, lambda raw: isinstance(read_report(raw), DeliveryReport)) >= _share(raws, _flufl_finds) > 0.9


@needs_corpora
def test_hard_and_soft_agree_with_sisimai() -> None:
    """Sisimai calls "user unknown" at DATA "filtered" and a disabled mailbox "suspend", both soft; we suppress both."""
    expected = json.loads((BOUNCES / "expected.json").read_text())
    rules = Rules.load()
    agreed, hard_for_other_reasons, total, found = 0, [], 0, 0
    for name, rows in expected.items():
        report = read_report((BOUNCES / "messages" / name).read_bytes())
        if not isinstance(report, DeliveryReport):
            continue
        found += len(report.recipients) == len(rows)
        for one, row in zip(report.recipients, rows, strict=False):
            verdict = rules.interpret(one.reply, one.stage or Stage.RCPT, one.remote_host or None)
            hard = one.action is Action.FAILED and verdict.reaction is Reaction.SUPPRESS
            total += 1
            agreed += hard == row["hard"]
            if hard and not row["hard"] and row["reason"] not in ("filtered", "suspend"):
                hard_for_other_reasons.append(name)
    assert found / len(expected) > 0.95
    assert agreed / total > 0.88
    assert len(hard_for_other_reasons) <= 3, hard_for_other_reasons


@needs_corpora
def test_every_complaint_report_among_the_samples_is_one() -> None:
    for path in sorted((BOUNCES / "messages").glob("arf-*.eml")):
        assert isinstance(read_report(path.read_bytes()), ComplaintReport), path.name
