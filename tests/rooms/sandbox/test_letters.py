"""What people find in a message, whatever the mail program that wrote it; and that no message harms them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.sandbox.content import fault_of, message_id_of
from posthouse.sandbox.letters import read_letter

HTML = '<A class=x HREF=https://l.example/c/1>one</A><img width=1 src="https://l.example/o/1">'


def is_ours(host: str) -> bool:
    return host == "l.example"


def message(*head: str, body: str) -> bytes:
    return "\r\n".join([*head, "", body, ""]).encode()


def test_a_single_html_part_in_base64() -> None:
    body = base64.encodebytes(HTML.encode()).decode().replace("\n", "\r\n")
    raw = message("Content-Type: text/html", "content-transfer-encoding: BASE64", body=body)
    reading = read_letter(raw, is_ours)
    assert (reading.pixel, reading.links) == ("https://l.example/o/1", ("https://l.example/c/1",))


def test_html_deep_inside_nested_parts() -> None:
    inner = f"--in+ner\r\nContent-Type: TEXT/HTML; charset=utf-8\r\n\r\n{HTML}\r\n--in+ner--"
    outer = f"--out\r\nContent-Type: multipart/alternative;\r\n BOUNDARY=in+ner\r\n\r\n{inner}\r\n--out--"
    reading = read_letter(message('Content-Type: multipart/mixed; Boundary="out"', body=outer), is_ours)
    assert reading.links == ("https://l.example/c/1",)


def test_only_the_senders_own_hosts_count_and_the_pixel_is_the_last_image() -> None:
    html = (
        '<img src="https://l.example/logo.png"><img src="https://other.example/o"><img src="/relative">'
        "<a href='mailto:x@l.example'>m</a><a href=''>e</a><a href='https://[broken/'>b</a><a name=x>n</a>"
        "<img alt='a' src='http://L.example/o/2'><img src='data:image/gif;base64,AAAA'>"
    )
    reading = read_letter(message("Content-Type: text/html", body=html), is_ours)
    assert (reading.pixel, reading.links) == ("http://L.example/o/2", ())


@pytest.mark.parametrize(
    ("header", "post", "expected"),
    [
        ("<https://l.example/u/1>", "List-Unsubscribe=One-Click", "https://l.example/u/1"),
        ("<mailto:a@l.example>,\r\n <https://l.example/u/1>", "list-unsubscribe=one-click", "https://l.example/u/1"),
        ("<http://l.example/u/1>", "List-Unsubscribe=One-Click", None),
        ("<https://l.example/u/1>", "One-Click", None),
        ("<https://l.example/u/1>", "", None),
        ("https://l.example/u/1", "List-Unsubscribe=One-Click", None),
    ],
)
def test_one_click_needs_both_headers_and_https(header: str, post: str, expected: str | None) -> None:
    raw = message(f"List-Unsubscribe: {header}", f"List-Unsubscribe-Post: {post}", body="text")
    assert read_letter(raw, is_ours).unsubscribe == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (["From: N <n@news.example>", "CFBL-Address: fbl@b.example; report=arf"], "fbl@b.example"),
        (["From: N <n@news.example>"], "complaints@news.example"),
        (["From: n@news.example"], "complaints@news.example"),
        (["Subject: none"], None),
    ],
)
def test_where_to_complain(head: list[str], expected: str | None) -> None:
    assert read_letter(message(*head, body="text"), is_ours).complaint_address == expected


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(
                [b"\r\n", b"\r\n\r\n", b"Content-Type: text/html", b"boundary=(", b"--(", b"<img src=", b"<a href='http://[",
                 b"Content-Transfer-Encoding: base64", b"List-Unsubscribe: <https://[x>", b"Message-ID:"]
            ),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_no_octets_can_harm_a_reader(pieces: list[bytes]) -> None:
    raw = b"".join(pieces)
    read_letter(raw, lambda host: True)
    message_id_of(raw)
    clean = all(b"\r" not in line and b"\n" not in line for line in raw.split(b"\r\n"))
    assert (fault_of(raw + b"\r\n") is None) == clean


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"Subject: x\r\nMessage-ID: <a@b>\r\n\r\nMessage-ID: <c@d>\r\n", "<a@b>"),
        (b"Message-Id:<a@b>\r\nSubject: x\r\n\r\n", "<a@b>"),
        (b"Subject: x\r\n\r\nText\r\nMessage-ID: <c@d>\r\n", ""),
        (b"Subject: x\r\nMESSAGE-ID:\r\n\t<a@b>\r\n\r\n", "<a@b>"),
    ],
)
def test_the_message_id_is_read_from_the_header_only(raw: bytes, expected: str) -> None:
    assert message_id_of(raw) == expected
