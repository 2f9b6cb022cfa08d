"""Quoted-printable and header fields, judged by Python's own parser."""

from __future__ import annotations

import quopri
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from email.utils import parsedate_to_datetime

import pytest

from posthouse.mail.header_field import date_text, encoded_words, mailbox_field, unstructured_field
from posthouse.mail.mime import boundary_for
from posthouse.mail.quoted_printable import clean_text, encode, encode_value, without_empty_end, wrap_encoded


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        (b"a=b", b"a=3Db"),
        (b"two  spaces", b"two =20spaces"),
        (b"end \nnext", b"end=20\r\nnext"),
        (b"a\tb", b"a=09b"),
        (b"a \n b", b"a=20\r\n b"),
        (b".\n..", b"=2E\r\n=2E."),
        (b"From me\nFrom you", b"=46rom me\r\n=46rom you"),
        (b"a\nFro", b"a\r\n=46ro"),
        (b"Frost", b"Frost"),
        ("é".encode(), b"=C3=A9"),
        (b"x" * 75 + b".y", b"x" * 75 + b"=\r\n=2Ey"),
        (b"x" * 74 + b"=", b"x" * 74 + b"=\r\n=3D"),
    ],
)
def test_static_text(text: bytes, encoded: bytes) -> None:
    assert encode(text)[0] == encoded


def test_the_column_is_carried_on() -> None:
    assert encode(b"ab\ncd") == (b"ab\r\ncd", 2)
    assert encode(b"abc", 74) == (b"a=\r\nbc", 2)
    assert encode(b".", 5) == (b".", 6)
    assert encode(b"a{b", also=b"{") == (b"a=7Bb", 5)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("plain", b"plain"),
        ("", b""),
        (".dot", b"=2Edot"),
        ("From here", b"=46rom here"),
        ("a\r\nb\rc\nd ", b"a\r\nb\r\nc\r\nd "),
        ("a \n.b", b"a=20\r\n=2Eb"),
        ("x   y", b"x =20=20y"),
        ("\x00a\x07\x7f", b"a"),
        ("\ud800", b"?"),
    ],
)
def test_values(text: str, encoded: bytes) -> None:
    assert encode_value(text) == encoded


def test_long_values_are_cut_between_sequences_and_no_line_begins_with_a_dot() -> None:
    text = ("é" * 30 + "." * 200 + "x=") * 3
    encoded = encode_value(text)
    assert quopri.decodestring(encoded).decode() == text
    lines = encoded.split(b"\r\n")
    assert max(map(len, lines)) <= 76
    assert not any(line.startswith(b".") for line in lines)
    assert wrap_encoded(b"a" * 72) == b"a" * 72
    assert wrap_encoded(b"a" * 73) == b"a" * 72 + b"=\r\na"


def test_controls_go_and_line_breaks_become_one_kind() -> None:
    assert clean_text("a\x00\x0b\x1f\r\nb\rc\td") == "a\nb\nc\td"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("Hello", b"Subject: Hello\r\n"),
        ("a\r\nBcc: evil@example.com\x00", b"Subject: a Bcc: evil@example.com\r\n"),
        ("é", b"Subject: =?utf-8?B?w6k=?=\r\n"),
        ("=?utf-8?Q?x?=", b"Subject: =?utf-8?B?PT91dGYtOD9RP3g/PQ==?=\r\n"),
        ("", b"Subject:\r\n"),
        ("w" * 61, b"Subject: =?utf-8?B?" + b"d3d3" * 14 + b"?=\r\n =?utf-8?B?d3d3d3d3d3d3d3d3d3d3d3d3dw==?=\r\n"),
    ],
)
def test_subject(text: str, field: bytes) -> None:
    assert unstructured_field("Subject", text) == field


def test_long_subjects_are_folded_and_read_back() -> None:
    for text in ("word " * 40 + "end", "żółw " * 40 + "end", "漢" * 200):
        field = unstructured_field("Subject", text)
        assert max(map(len, field.split(b"\r\n"))) <= 78
        assert message_from_bytes(field + b"\r\n", policy=default)["Subject"] == text


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (None, b"From: a@example.com\r\n"),
        ("Jane Doe", b"From: Jane Doe <a@example.com>\r\n"),
        ('Doe, "J"', b'From: "Doe, \\"J\\"" <a@example.com>\r\n'),
        ("Zoë", b"From: =?utf-8?B?Wm/Dqw==?= <a@example.com>\r\n"),
    ],
)
def test_mailbox(name: str | None, field: bytes) -> None:
    assert mailbox_field("From", name, "a@example.com") == field


def test_encoded_words_never_cut_a_character() -> None:
    words = list(encoded_words("a" + "é" * 60))
    assert len(words) > 1
    assert all(len(word) <= 75 for word in words)
    read = message_from_bytes(b"Subject: " + "\r\n ".join(words).encode() + b"\r\n\r\n", policy=default)["Subject"]
    assert read == "a" + "é" * 60


def test_date() -> None:
    at = datetime(2026, 1, 4, 5, 6, 7, tzinfo=UTC)
    assert date_text(at) == "Sun, 04 Jan 2026 05:06:07 +0000"
    for month in range(1, 13):
        assert parsedate_to_datetime(date_text(at.replace(month=month))) == at.replace(month=month)


def test_boundary_depends_on_the_parts_and_cannot_occur_in_quoted_printable() -> None:
    assert boundary_for(b"a", b"b") == boundary_for(b"a", b"b") != boundary_for(b"a", b"c")
    boundary = boundary_for(b"a").encode()
    assert boundary.startswith(b"=_")
    assert boundary not in encode(boundary)[0]


@pytest.mark.parametrize(
    ("encoded", "ended"),
    [
        (b"a\r\n", b"a\r\n"),
        (b"a=\r\n\r\n", b"a\r\n"),
        (b"a =\r\n\r\n", b"a=20\r\n"),
        (b"a=\r\n=\r\n\r\n", b"a\r\n"),
        (b"a\r\n\r\n\r\n", b"a\r\n"),
        (b"=\r\n\r\n", b"=20\r\n"),
    ],
)
def test_a_body_has_no_empty_end(encoded: bytes, ended: bytes) -> None:
    assert without_empty_end(encoded) == ended
