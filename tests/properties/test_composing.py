"""Whatever a contact's fields hold, the receiver reads exactly what was meant, and nothing else (MSG-3)."""

from __future__ import annotations

import html
import quopri
import re
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import default
from urllib.parse import parse_qs, quote, urlsplit

import dkim
from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.composing import Composer, Draft, Frame, compile_message
from posthouse.mail.dkim import DkimSigner
from posthouse.mail.dkim_canonical import canonical_body
from posthouse.mail.dkim_keys import dkim_record, generate_ed25519, generate_rsa
from posthouse.mail.header_field import mailbox_field, unstructured_field
from posthouse.mail.quoted_printable import encode, encode_value
from posthouse.mail.tokens import Tokens
from posthouse.model.messages import Composed, Copy

AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
FRAME = Frame(
    "https://mail.example.com",
    "bounce.example.com",
    "News <n.example.com>",
    "c:w:bulk:posthouse",
    "f@example.com",
    "m.example.com",
    "1 St",
)
DRAFT = Draft(
    subject="A {{ a }} b {{ b|default('none') }}",
    from_address="news@example.com",
    html='<p title="{{ a }}">Hi {{ a }}. {{b|default("none")}}{{ a }}</p>'
    '<p><a href="https://x.example/{{ a }}?b={{ b|d("none") }}">x</a></p>',
    text="Hi {{ a }}. {{ b|default('none') }}{{ a }}\n{{ a }} https://x.example/{{ a }}?b={{ b|d('none') }}",
    track_opens=False,
)
RSA, ED = generate_rsa(1024), generate_ed25519()
SIGNERS = [DkimSigner("example.com", "rsa", RSA), DkimSigner("example.com", "ed", ED)]
KEYS = {
    b"rsa._domainkey.example.com.": dkim_record(RSA.public_key()),
    b"ed._domainkey.example.com.": dkim_record(ED.public_key()),
}
TOKENS = Tokens({1: b"k" * 32}, 1)
COMPOSER = Composer(compile_message(DRAFT, FRAME), FRAME, SIGNERS, TOKENS)
LONE = compile_message(Draft("x", "news@example.com", text="{{ a }}{{ b|d('') }}"), FRAME)
NASTY = st.sampled_from(
    [
        "\r\n.\r\n",
        "\r\nBcc: x@y.example\r\n\r\n",
        "\r",
        "\n",
        "\x00",
        "  ",
        "\t",
        "=",
        "=?utf-8?q?x?=",
        ".",
        "From ",
        "é",
        "漢",
        "🐎",
        "<",
        "&amp;",
        '"',
    ]
)
VALUES = st.lists(st.one_of(NASTY, st.text(max_size=20), st.sampled_from(["word", "x" * 90])), max_size=8).map("".join)
NAMES = [
    *("DKIM-Signature", "DKIM-Signature", "From", "To", "Subject", "Date", "Message-ID", "List-Id", "List-Unsubscribe"),
    *("List-Unsubscribe-Post", "Feedback-ID", "CFBL-Address", "MIME-Version", "Content-Type"),
]


def as_text(value: str) -> str:
    """What a value is as text: no controls, one kind of line break."""
    value = re.sub(r"\r\n?", "\n", re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "", value))
    return value.encode("utf-8", "replace").decode()


def content_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode().replace("\r\n", "\n")


def link_target(url: str) -> str:
    return parse_qs(urlsplit(url).query, strict_parsing=True)["to"][0]


@settings(deadline=None, max_examples=200)
@given(a=VALUES.filter(lambda text: bool(text.strip())), b=VALUES)
def test_any_values_are_read_back_exactly(a: str, b: str) -> None:
    copy = Copy(1, 2, 3, 4, 5, 6, 7, 1, "jane@example.org", {"a": a, "b": b}, 0)
    sent = COMPOSER.compose(copy, AT)
    assert isinstance(sent, Composed)
    content = sent.content
    assert COMPOSER.compose(copy, AT) == sent

    lines = content.split(b"\r\n")
    assert max(map(len, lines)) <= 78
    assert not any(octet in line for line in lines for octet in (b"\r", b"\n", b"\x00"))
    assert not any(line.startswith((b".", b"From ")) for line in lines)
    body = content.partition(b"\r\n\r\n")[2]
    assert canonical_body(body) == body

    mail = message_from_bytes(content, policy=default)
    assert isinstance(mail, EmailMessage)
    assert mail.keys() == NAMES
    assert not mail.defects
    b_shown = b if b and not b.isspace() else "none"
    in_subject = " ".join(f"A {a} b {b_shown}".split())
    assert " ".join(str(mail["Subject"]).split()) == " ".join(clean_subject(in_subject).split())

    a_text, b_text = as_text(a), as_text(b_shown)
    target = f"https://x.example/{quote(a_text, safe='')}?b={quote(b_text, safe='')}"
    text = content_of(mail, "plain")
    assert text.startswith(f"Hi {a_text}. {b_text}{a_text}\n{a_text} https://mail.example.com/r/")
    assert link_target(text.rsplit(" ", 1)[1].strip()) == target
    page = content_of(mail, "html")
    a_html, b_html = (
        html.escape(value).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") for value in (a_text, b_text)
    )
    assert f'<p title="{a_html}">Hi {a_html}. {b_html}{a_html}</p>' in page
    assert link_target(page.split('href="')[1].split('"')[0].replace("&amp;", "&")) == target


def clean_subject(text: str) -> str:
    return "".join(c for c in text if not re.match(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", c) or c.isspace())


@settings(deadline=None, max_examples=40)
@given(a=VALUES.filter(lambda text: bool(text.strip())), b=VALUES)
def test_the_signatures_hold_for_any_values(a: str, b: str) -> None:
    sent = COMPOSER.compose(Copy(1, 2, 3, 4, 5, 6, 7, 1, "jane@example.org", {"a": a, "b": b}, 0), AT)
    assert isinstance(sent, Composed)
    for index in (0, 1):
        assert dkim.DKIM(sent.content).verify(index, dnsfunc=lambda name, timeout=5: KEYS[name].encode())


@settings(deadline=None, max_examples=100)
@given(a=VALUES.filter(lambda text: bool(text.strip())), b=VALUES)
def test_a_single_part_is_signed_rightly_whatever_it_ends_in(a: str, b: str) -> None:
    sent = Composer(LONE, FRAME, SIGNERS[1:], TOKENS).compose(
        Copy(1, 2, 3, 4, 5, 6, 7, 1, "j@example.org", {"a": a, "b": b}, 0), AT
    )
    assert isinstance(sent, Composed)
    assert dkim.DKIM(sent.content).verify(0, dnsfunc=lambda name, timeout=5: KEYS[name].encode())
    body = sent.content.partition(b"\r\n\r\n")[2]
    assert canonical_body(body) == body
    shown = as_text(a) + (as_text(b) if b and not b.isspace() else "")
    assert quopri.decodestring(body).decode().replace("\r\n", "\n").rstrip("\n") in (shown.rstrip("\n"), " ")


@settings(deadline=None, max_examples=300)
@given(text=VALUES)
def test_quoted_printable_keeps_every_octet(text: str) -> None:
    import quopri

    for encoded in (encode_value(text), encode(as_text(text).encode())[0]):
        assert quopri.decodestring(encoded).decode().replace("\r\n", "\n") == as_text(text)
        lines = encoded.split(b"\r\n")
        assert max(map(len, lines)) <= 76
        assert not any(line.startswith((b".", b"From ")) for line in lines)
        assert not any(line.endswith(b" ") for line in lines[:-1])


@settings(deadline=None, max_examples=300)
@given(text=VALUES)
def test_header_text_is_one_field_and_is_read_back(text: str) -> None:
    field = unstructured_field("Subject", text)
    mail = message_from_bytes(field + b"\r\n", policy=default)
    assert mail.keys() == ["Subject"]
    assert " ".join(str(mail["Subject"]).split()) == " ".join(clean_subject(text).split())
    assert max(map(len, field.split(b"\r\n"))) <= 78
    sender = mailbox_field("From", text, "a@example.com")
    mail = message_from_bytes(sender + b"\r\n", policy=default)
    assert mail.keys() == ["From"]
    (address,) = mail["From"].addresses
    assert address.addr_spec == "a@example.com"
    shown = address.display_name
    if b"=?utf-8?B?" in sender:
        # Python's structured parser puts a space between the encoded words of a phrase, against RFC 2047 §6.2; its older one does not.
        shown = str(make_header(decode_header(sender.decode()[len("From:") : -2].rpartition("<")[0])))
    assert " ".join(shown.split()) == " ".join(clean_subject(text).split())
