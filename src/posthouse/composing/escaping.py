"""How a merged value is made harmless for the place where it lands. Shared with the render child: it must import little."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from urllib.parse import quote

from posthouse.mail.quoted_printable import clean_text, encode_value


class Place(IntEnum):
    """Where a blank stands; stored in compiled messages, so numbers keep their meaning.

    URL: inside a URL. URL_START: the value is the URL, or its beginning.
    """

    TEXT = 0
    MARKUP = 1
    URL = 2
    URL_START = 3


_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;"})
_UNRESERVED = "-._~"
# RFC 3986 §2.2; a percent sign is kept where it already encodes something. "&", quotes and "=" are left to be escaped as markup needs.
_RESERVED = ":/?#[]@!$()*+,;=&~"
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ALLOWED_SCHEME = re.compile(r"(?:https?://|mailto:|tel:)", re.IGNORECASE)
# Nowhere: what stands for a URL that we would not print.
_NOWHERE = "#"


def escape_markup(text: str) -> str:
    """For HTML text and for quoted attributes."""
    return text.translate(_MARKUP)


def escape_url_part(text: str) -> str:
    """For the inside of a URL: everything but unreserved characters is percent-encoded."""
    return quote(text, safe=_UNRESERVED, errors="replace")


def whole_url(text: str) -> str:
    """A value that is a URL itself: web, mail and telephone addresses are kept, anything else becomes "#"."""
    text = clean_text(text).strip()
    if not _ALLOWED_SCHEME.match(text):
        return _NOWHERE
    return quote(_BARE_PERCENT.sub("%25", text), safe=_RESERVED + "%", errors="replace")


_ESCAPES: dict[Place, Callable[[str], str]] = {
    Place.TEXT: lambda text: text,
    Place.MARKUP: escape_markup,
    Place.URL: escape_url_part,
    Place.URL_START: lambda text: escape_markup(whole_url(text)),
}


def encode_for(place: Place, text: str) -> bytes:
    """A value in quoted-printable, escaped for its place; it begins on a line of its own and wants a soft break after it."""
    return encode_value(_ESCAPES[place](clean_text(text)))


def text_of(value: object) -> str:
    """A JSON value as people read it: true and false in lower case, nothing for null, nothing for a method of a container."""
    if value is None or callable(value):
        return ""
    if value is True or value is False:
        return "true" if value else "false"
    return str(value)
