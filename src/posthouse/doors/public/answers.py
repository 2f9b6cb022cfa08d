"""What the door answers: a pixel, a redirect, or a page. Pages are files in `pages/`, their blanks filled with escaped text."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from urllib.parse import quote

from posthouse.doors.public.request import Send

Headers = Sequence[tuple[bytes, bytes]]

_GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_ALWAYS: tuple[tuple[bytes, bytes], ...] = (
    (b"cache-control", b"no-store, no-cache, must-revalidate, private"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-robots-tag", b"noindex, nofollow"),
)
# Everything that may stand in a URL as it is (RFC 3986 §2.2, §2.3), and % because the target was encoded by its author.
_URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"


def _page(name: str) -> str:
    return (files(__package__) / "pages" / name).read_text("utf-8")


_FRAME_TEXT = _page("frame.html")
_FRAME = Template(_FRAME_TEXT)
_STYLE = _FRAME_TEXT.partition("<style>")[2].partition("</style>")[0]
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest())
_PAGE_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/html; charset=utf-8"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'sha256-"
        + _STYLE_HASH
        + b"'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    *_ALWAYS,
)
_PAGES = {name: Template(_page(f"{name}.html")) for name in ("unsubscribe", "unsubscribed", "notice")}
_GIF_HEADERS: Headers = ((b"content-type", b"image/gif"), (b"content-length", str(len(_GIF)).encode()), *_ALWAYS)
_TEXT_HEADERS: Headers = ((b"content-type", b"text/plain; charset=utf-8"), *_ALWAYS)


async def pixel(send: Send, with_body: bool = True) -> None:
    """One transparent pixel, never to be kept."""
    await _answer(send, 200, _GIF_HEADERS, _GIF if with_body else b"")


async def redirect(send: Send, target: str) -> None:
    """To a web address (302, never kept: TRK-3)."""
    await _answer(
        send,
        302,
        ((b"location", quote(target, safe=_URL_CHARACTERS).encode()), (b"content-length", b"0"), *_ALWAYS),
        b"",
    )


async def text(send: Send, status: int, words: str) -> None:
    """A line of text, for programs."""
    body = words.encode()
    await _answer(send, status, ((b"content-length", str(len(body)).encode()), *_TEXT_HEADERS), body)


async def page(send: Send, status: int, name: str, with_body: bool = True, more: Headers = (), **blanks: str) -> None:
    """A page of `pages/`, for people. blanks: plain text; it is escaped here."""
    content = _PAGES[name].substitute({blank: escape(value) for blank, value in blanks.items()})
    title = re.search(r"<h1[^>]*>(.*?)</h1>", content, re.DOTALL)
    body = _FRAME.substitute(title=title[1] if title else "", content=content).encode()
    length = (b"content-length", str(len(body)).encode())
    await _answer(send, status, (length, *_PAGE_HEADERS, *more), body if with_body else b"")


async def notice(send: Send, status: int, title: str, words: str, with_body: bool = True, more: Headers = ()) -> None:
    """A page that says one thing."""
    await page(send, status, "notice", with_body, more, title=title, words=words)


async def _answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
