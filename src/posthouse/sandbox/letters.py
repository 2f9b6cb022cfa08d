"""What a person sees of a received message: its pixel, its links, how to leave, where to complain. Shares nothing with `posthouse.mail`."""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, a2b_qp
from collections.abc import Callable
from html import unescape
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

_FOLD = re.compile(rb"\r\n(?=[ \t])")
# Patterns begin with plain octets where they can: a search for those is many times faster than one that ignores case.
_BOUNDARY = re.compile(rb"boundary=\"?([^\";\r\n]+)")
_ANY_BOUNDARY = re.compile(_BOUNDARY.pattern, re.IGNORECASE)
_QUOTED = r"""\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))"""
_IMAGE = re.compile(r"<(?i:img\b[^>]*?\ssrc)" + _QUOTED)
_LINK = re.compile(r"<(?i:a\b[^>]*?\shref)" + _QUOTED)
_WEB_URI = re.compile(r"<\s*(https?://[^>\s]+)\s*>", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"<([^<>]+)>")


class Reading(Struct, frozen=True):
    """What people can act on. unsubscribe: only where both headers of RFC 8058 are there. head: the header block as sent."""

    pixel: str | None
    links: tuple[str, ...]
    unsubscribe: str | None
    complaint_address: str | None
    head: bytes


def read_letter(content: bytes, is_public_host: Callable[[str], bool]) -> Reading:
    """Read a message. is_public_host: whether a host name (lower case) is one of the sender's; only such images and links count."""
    head, _, _ = content.partition(b"\r\n\r\n")
    headers = _headers(head)
    html = _html_of(content)
    pixels = _found(_IMAGE, html, is_public_host)
    exits = [_way(url) for url in _WEB_URI.findall(headers.get("list-unsubscribe", ""))]
    links = tuple(url for url in _found(_LINK, html, is_public_host) if _way(url) not in exits)
    return Reading(
        pixels[-1] if pixels else None, links, _one_click(headers), _complaint_address(headers), head + b"\r\n"
    )


def _headers(head: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in _FOLD.sub(b"", head).split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            headers.setdefault(name.decode("latin-1").strip().lower(), value.decode("utf-8", "replace").strip())
    return headers


def _one_click(headers: dict[str, str]) -> str | None:
    # RFC 8058 §3.1: without this exact value there is no one-click.
    if headers.get("list-unsubscribe-post", "").replace(" ", "").lower() != "list-unsubscribe=one-click":
        return None
    for url in _WEB_URI.findall(headers.get("list-unsubscribe", "")):
        parts = _split(url)
        if parts is not None and parts.scheme == "https":
            return str(url)
    return None


def _complaint_address(headers: dict[str, str]) -> str | None:
    """RFC 9477 §3.1 where the sender asks for reports, else the customary mailbox of its From domain."""
    asked = headers.get("cfbl-address", "").partition(";")[0].strip()
    if "@" in asked:
        return asked
    author = headers.get("from", "")
    match = _IN_BRACKETS.search(author)
    domain = (match[1] if match else author).rpartition("@")[2].strip()
    return f"complaints@{domain}" if domain else None


def _html_of(content: bytes) -> str:
    boundaries = {re.escape(found) for found in _BOUNDARY.findall(content) or _ANY_BOUNDARY.findall(content)}
    parts = (
        re.split(rb"\r\n--(?:" + b"|".join(boundaries) + rb")(?:--)?[ \t]*\r\n", content) if boundaries else [content]
    )
    for part in parts:
        head, _, body = part.partition(b"\r\n\r\n")
        headers = _headers(head)
        if headers.get("content-type", "").lower().startswith("text/html"):
            return _decoded(body, headers.get("content-transfer-encoding", "").lower())
    return ""


def _decoded(body: bytes, encoding: str) -> str:
    if encoding == "quoted-printable":
        body = a2b_qp(body)
    elif encoding == "base64":
        try:
            body = a2b_base64(body)
        except Base64Error:
            return ""
    return body.decode("utf-8", "replace")


def _found(pattern: re.Pattern[str], html: str, is_public_host: Callable[[str], bool]) -> list[str]:
    urls = []
    for match in pattern.finditer(html):
        url = unescape(match[1] or match[2] or match[3] or "").strip()
        parts = _split(url)
        if parts is not None and is_public_host(str(parts.hostname)):
            urls.append(url)
    return urls


def _split(url: str) -> SplitResult | None:
    """The parts of an absolute web address, or None for anything else."""
    try:
        parts = urlsplit(url)
        named = parts.hostname
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and named else None


def _way(url: str) -> tuple[str | None, str] | None:
    # A link that leads where List-Unsubscribe leads is no offer to click on: people who leave do so by the header.
    parts = _split(url)
    return (parts.hostname, parts.path.lstrip("/").partition("/")[0]) if parts else None
