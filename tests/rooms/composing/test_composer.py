"""The header and envelope of one recipient's message (MSG-1 to MSG-6, UNS-1, UNS-2, UNS-8, BNC-2, BNC-7, SMTP-10, SMTP-18)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from email import message_from_bytes
from email.policy import default

import dkim
import msgspec
import pytest

from posthouse.composing import CompiledMessage, Composer, Frame, Lacking
from posthouse.mail.dkim import DkimSigner
from posthouse.mail.tokens import Purpose, Subject, Tokens
from posthouse.model.errors import SettingWrong
from posthouse.model.messages import Composed, Copy

Compile = Callable[..., CompiledMessage]
CopyFor = Callable[..., Copy]
COPY = Subject(3, 120, 45, 1234567, 9876543)
ORDER = [
    *(
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "Reply-To",
        "List-Id",
        "List-Unsubscribe",
        "List-Unsubscribe-Post",
    ),
    *("Feedback-ID", "CFBL-Address", "MIME-Version", "Content-Type"),
]


def header_lines(content: bytes) -> list[str]:
    return content.partition(b"\r\n\r\n")[0].decode().split("\r\n")


def test_the_whole_header(
    compiled: Compile, frame: Frame, tokens: Tokens, signers: list[DkimSigner], at: datetime, copy_for: CopyFor
) -> None:
    message = compiled(html="<p>x</p>", from_name="Example, Ltd", reply_to="reply@Example.COM")
    sent = Composer(message, frame, signers, tokens).compose(copy_for(), at)
    assert isinstance(sent, Composed)
    token = sent.return_path.removeprefix("b-").removesuffix("@bounce.example.com")
    assert tokens.open_return_path(token) == COPY
    mail = message_from_bytes(sent.content, policy=default)
    assert mail.keys() == ["DKIM-Signature", "DKIM-Signature", *ORDER]
    assert mail["From"] == '"Example, Ltd" <news@example.com>'
    assert mail["To"] == "jane@example.org"
    assert mail["Date"] == "Tue, 24 Nov 2026 09:00:00 +0000"
    assert mail["Message-ID"] == f"<{token}@mail.example.com>"
    assert mail["Reply-To"] == "reply@example.com"
    assert mail["List-Id"] == "Newsletter <news.example.com>"
    one_click = re.fullmatch(r"<https://mail\.example\.com/u/([\w-]+)>", mail["List-Unsubscribe"])
    assert one_click is not None
    assert tokens.open_link(Purpose.UNSUBSCRIBE, one_click[1]) == COPY
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mail["Feedback-ID"] == "c1:w1:bulk:posthouse"
    assert mail["CFBL-Address"] == "fbl@example.com; report=arf"
    assert mail.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    assert (sent.recipient, sent.smtputf8, sent.eight_bit) == ("jane@example.org", False, False)
    assert max(map(len, header_lines(sent.content))) <= 78
    assert not any(line.endswith((" ", "\t")) for line in header_lines(sent.content))


def test_both_signatures_verify_and_cover_the_list_fields(
    compiled: Compile,
    frame: Frame,
    tokens: Tokens,
    signers: list[DkimSigner],
    at: datetime,
    copy_for: CopyFor,
    dns: Callable[..., bytes],
) -> None:
    """100 % and a folded subject are what a careless template of the header would break on."""
    odd = msgspec.structs.replace(
        frame, public_url="https://mail.example.com/100%25", list_id_header="100 % <x.example>"
    )
    message = compiled(subject="100 % {{ s }}", html="<p>{{ s }} 100 %</p>")
    sent = Composer(message, odd, signers, tokens).compose(copy_for(s="ż " * 60), at)
    assert isinstance(sent, Composed)
    assert [dkim.DKIM(sent.content).verify(index, dnsfunc=dns) for index in (0, 1)] == [True, True]
    names = re.sub(r"\s", "", sent.content.decode().split("h=", 1)[1].split(";")[0]).split(":")
    for name in ("List-Id", "List-Unsubscribe", "List-Unsubscribe-Post", "Feedback-ID", "CFBL-Address"):
        assert name in names
    assert [names.count(name) for name in ("From", "To", "Subject", "Date", "Message-ID", "Cc", "Reply-To")] == [
        2,
        2,
        2,
        2,
        2,
        1,
        1,
    ]


def test_optional_fields_are_left_out(
    compiled: Compile, frame: Frame, tokens: Tokens, at: datetime, copy_for: CopyFor
) -> None:
    bare = msgspec.structs.replace(frame, list_id_header="", feedback_id="", complaints_address="")
    sent = Composer(compiled(text="x"), bare, [], tokens).compose(copy_for(), at)
    assert isinstance(sent, Composed)
    left = {"Reply-To", "List-Id", "Feedback-ID", "CFBL-Address"}
    mail = message_from_bytes(sent.content, policy=default)
    assert mail.keys() == [*[name for name in ORDER if name not in left], "Content-Transfer-Encoding"]
    assert mail.get_content() == "x\r\n"


@pytest.mark.parametrize(
    "wrong",
    [
        {"feedback_id": "a\r\nBcc: x@y.example"},
        {"complaints_address": "ö@example.com"},
        {"list_id_header": "no id"},
        {"list_id_header": "x <a@b>"},
    ],
)
def test_a_frame_that_cannot_stand_in_a_header_is_refused(
    compiled: Compile, frame: Frame, tokens: Tokens, wrong: dict[str, str]
) -> None:
    with pytest.raises(SettingWrong):
        Composer(compiled(text="x"), msgspec.structs.replace(frame, **wrong), [], tokens)


def test_a_list_id_is_encoded_and_stays_within_255_octets(
    compiled: Compile, frame: Frame, tokens: Tokens, at: datetime, copy_for: CopyFor
) -> None:
    long = msgspec.structs.replace(frame, list_id_header=f"{'Żółw ' * 60}<a.example>")
    sent = Composer(compiled(text="x"), long, [], tokens).compose(copy_for(), at)
    assert isinstance(sent, Composed)
    value = message_from_bytes(sent.content, policy=default)["List-Id"]
    assert value.startswith("Żółw Żółw")
    assert value.endswith(" <a.example>")
    raw = re.search(rb"List-Id:(?:[^\r]|\r\n )*\r\n", sent.content)
    assert raw is not None
    assert len(raw[0]) <= 255


def test_every_copy_has_its_own_message_id_and_return_path(
    compiled: Compile, frame: Frame, tokens: Tokens, at: datetime, copy_for: CopyFor
) -> None:
    composer = Composer(compiled(text="x"), frame, [], tokens)
    first, second = (composer.compose(msgspec.structs.replace(copy_for(), message_id=n), at) for n in (1, 2))
    assert isinstance(first, Composed)
    assert isinstance(second, Composed)
    assert first.return_path != second.return_path
    ids = [message_from_bytes(m.content, policy=default)["Message-ID"] for m in (first, second)]
    assert ids[0] != ids[1]


def test_the_date_follows_the_clock(
    compiled: Compile, frame: Frame, tokens: Tokens, signers: list[DkimSigner], at: datetime, copy_for: CopyFor
) -> None:
    composer = Composer(compiled(text="x"), frame, signers[1:], tokens)
    first = composer.compose(copy_for(), at)
    later = composer.compose(copy_for(), at.replace(second=59))
    assert isinstance(first, Composed)
    assert isinstance(later, Composed)
    assert b"09:00:00 +0000" in first.content
    assert b"09:00:59 +0000" in later.content
    assert b"t=%d;" % (at.timestamp() + 59) in later.content
    assert composer.compose(copy_for(), at) == first


def test_an_address_outside_ascii_asks_for_smtputf8(
    compiled: Compile,
    frame: Frame,
    tokens: Tokens,
    signers: list[DkimSigner],
    at: datetime,
    copy_for: CopyFor,
    dns: Callable[..., bytes],
) -> None:
    sent = Composer(compiled(text="{{ email }}"), frame, signers, tokens).compose(copy_for("zoë@example.org"), at)
    assert isinstance(sent, Composed)
    assert (sent.recipient, sent.smtputf8, sent.eight_bit) == ("zoë@example.org", True, True)
    assert "To: zoë@example.org" in header_lines(sent.content)
    assert dkim.DKIM(sent.content).verify(0, dnsfunc=dns)
    assert sent.content.partition(b"\r\n\r\n")[2].isascii()


def test_required_fields_that_are_empty_are_named(
    compiled: Compile, frame: Frame, tokens: Tokens, at: datetime, copy_for: CopyFor
) -> None:
    composer = Composer(compiled(subject="{{ a }}", text="{{ b }} https://x.example/{{ c }}"), frame, [], tokens)
    assert composer.compose(copy_for(a="", b=" \n", c=None), at) == Lacking(("a", "b", "c"))
    assert composer.compose(copy_for(a="x", b="y", c=""), at) == Lacking(("c",))
    assert composer.compose(copy_for(a="", b="y", c="z"), at) == Lacking(("a",))
    assert isinstance(composer.compose(copy_for(a="x", b=0, c="z"), at), Composed)


def test_a_value_that_looks_encoded_is_shown_as_it_is(
    compiled: Compile, frame: Frame, tokens: Tokens, at: datetime, copy_for: CopyFor
) -> None:
    sent = Composer(compiled(subject="{{ s }}", text="{{ s }}"), frame, [], tokens).compose(
        copy_for(s="=?utf-8?q?x?="), at
    )
    assert isinstance(sent, Composed)
    mail = message_from_bytes(sent.content, policy=default)
    assert mail["Subject"] == "=?utf-8?q?x?="
    assert mail.get_content() == "=?utf-8?q?x?=\r\n"


@pytest.mark.parametrize("value", ["From me", ".", ".x"])
def test_a_value_never_begins_a_line_with_what_others_would_quote(
    compiled: Compile, frame: Frame, tokens: Tokens, at: datetime, copy_for: CopyFor, value: str
) -> None:
    sent = Composer(compiled(text="x\n{{ s }}\n"), frame, [], tokens).compose(copy_for(s=value), at)
    assert isinstance(sent, Composed)
    assert not any(line.startswith((b".", b"From ")) for line in sent.content.split(b"\r\n"))
    assert message_from_bytes(sent.content, policy=default).get_content() == f"x\r\n{value}\r\n"


def test_huge_ids_and_long_hosts_keep_lines_short_where_they_can(
    compiled: Compile,
    tokens: Tokens,
    frame: Frame,
    at: datetime,
    signers: list[DkimSigner],
    dns: Callable[..., bytes],
    copy_for: CopyFor,
) -> None:
    largest = 2**63 - 1
    copy = msgspec.structs.replace(
        copy_for(f"{'l' * 60}@{'d' * 60}.example"),
        workspace_id=largest,
        campaign_id=largest,
        list_id=largest,
        contact_id=largest,
    )
    message = compiled(
        html='<p><a href="https://x.example">x</a> <a href="{{ unsubscribe_url }}">y</a></p>', track_opens=True
    )
    sent = Composer(message, frame, signers, tokens).compose(copy, at)
    assert isinstance(sent, Composed)
    body = sent.content.partition(b"\r\n\r\n")[2]
    assert max(map(len, body.split(b"\r\n"))) <= 76
    assert dkim.DKIM(sent.content).verify(0, dnsfunc=dns)
    lines = header_lines(sent.content)
    assert "To:" in lines
    assert "Message-ID:" in lines
    assert "List-Unsubscribe:" in lines


def test_a_long_static_beginning_is_hashed_once_and_rightly(
    compiled: Compile,
    frame: Frame,
    tokens: Tokens,
    signers: list[DkimSigner],
    at: datetime,
    copy_for: CopyFor,
    dns: Callable[..., bytes],
) -> None:
    message = compiled(text="static " * 1000 + "{{ a }}")
    composer = Composer(message, frame, signers[1:], tokens)
    for value in ("one", "two"):
        sent = composer.compose(copy_for(a=value), at)
        assert isinstance(sent, Composed)
        assert dkim.DKIM(sent.content).verify(0, dnsfunc=dns)


def test_a_body_without_any_blank(
    compiled: Compile, frame: Frame, tokens: Tokens, at: datetime, copy_for: CopyFor
) -> None:
    sent = Composer(compiled(text=".\nFrom me\n\n\n"), frame, [], tokens).compose(copy_for(), at)
    assert isinstance(sent, Composed)
    assert sent.content.endswith(b"\r\n\r\n=2E\r\n=46rom me\r\n")
