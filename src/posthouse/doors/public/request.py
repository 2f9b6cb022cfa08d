"""What an ASGI request holds, within limits: header fields, who asks, the fields of a posted form."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from email import message_from_bytes
from typing import Any
from urllib.parse import parse_qsl

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_PATH = 512
MAX_QUERY = 8192
_MAX_BODY = 16_384
_MAX_FIELDS = 10


class BodyTooLarge(Exception):
    """The body is larger than anything that belongs here."""


class BodyTooSlow(Exception):
    """The body did not come in time."""


def header(scope: Scope, name: bytes) -> str:
    """A request header as text, "" if absent; name in lower case."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def query(scope: Scope) -> dict[str, str]:
    """The query's fields, the first of each name; empty for what is no query."""
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        return {}
    return dict(reversed(pairs))


async def posted_form(scope: Scope, receive: Receive, seconds: float) -> dict[str, str]:
    """The fields of an urlencoded or multipart body, as RFC 8058 §3.2 allows both, within `seconds`. Raises BodyTooLarge or BodyTooSlow."""
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > _MAX_BODY:
        raise BodyTooLarge
    try:
        async with asyncio.timeout(seconds):
            body = await _body(receive)
    except TimeoutError as error:
        raise BodyTooSlow from error
    kind = header(scope, b"content-type")
    if kind.lower().startswith("multipart/form-data"):
        return _multipart(kind, body)
    try:
        return dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        return {}


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _MAX_BODY:
            raise BodyTooLarge
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return bytes(body)


def _multipart(kind: str, body: bytes) -> dict[str, str]:
    message = message_from_bytes(b"Content-Type: " + kind.encode("latin-1") + b"\r\n\r\n" + body)
    fields: dict[str, str] = {}
    for part in message.walk():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes) and len(fields) < _MAX_FIELDS:
            fields[name] = content.decode("utf-8", "replace").strip("\r\n")
    return fields
