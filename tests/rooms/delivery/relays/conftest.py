"""A small real HTTP server that answers as its script says, and clients of each relay that talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.message import Message
from email.parser import BytesParser
from typing import Any

import msgspec
import pytest

from posthouse.delivery.relays import RelayClient, RelayKind, RelayRules, open_client, parse_settings
from posthouse.delivery.relays.api import ApiTimes
from posthouse.model.messages import Composed

NOW = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)
RETURN_PATH = "b-token@bounces.example.com"
CONTENT = (
    b"DKIM-Signature: v=1; a=rsa-sha256; d=example.com;\r\n\tb=abc\r\n"
    b"dkim-signature: v=1; a=ed25519-sha256; d=example.com; b=def\r\n"
    b"From: News <news@example.com>\r\nTo: Ann <ann@example.net>\r\nSubject: =?utf-8?B?R3LDvMOfZQ==?=\r\n"
    b"Message-ID: <token@example.com>\r\nDate: Sun, 01 Mar 2026 22:00:00 +0000\r\n"
    b"List-Unsubscribe: <https://mail.example.com/u/token>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/alternative; boundary="=_b"\r\n\r\n'
    b"--=_b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe\r\n"
    b"--=_b\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<p>Gr=C3=BC=C3=9Fe</p>\r\n"
    b"--=_b--\r\n"
)
MESSAGE = Composed(RETURN_PATH, "ann@example.net", CONTENT)
SETTINGS: dict[RelayKind, dict[str, object]] = {
    RelayKind.SES: {"region": "eu-west-1", "access_key_id": "A" * 20, "secret_access_key": "very/secret+key"},
    RelayKind.SENDGRID: {"api_key": "SG.very.secret"},
    RelayKind.MAILGUN: {"api_key": "key-very-secret", "domain": "mg.example.com"},
}
ACCEPTED: dict[RelayKind, tuple[int, dict[str, str], bytes]] = {
    RelayKind.SES: (200, {}, b'{"MessageId":"0102-abc"}'),
    RelayKind.SENDGRID: (202, {"X-Message-Id": "sg-abc"}, b""),
    RelayKind.MAILGUN: (200, {}, b'{"id":"<mg-abc@mg.example.com>","message":"Queued. Thank you."}'),
}


class Fixed:
    """A clock that stands still."""

    def now(self) -> datetime:
        return NOW

    def now_us(self) -> int:
        return int(NOW.timestamp() * 1_000_000)


class Seen(msgspec.Struct):
    """One request as it came."""

    method: str
    path: str
    headers: Message
    body: bytes


# (status, headers, body), raw octets, or: "reset" after the request, "hang" for ever.
Said = tuple[int, dict[str, str], bytes] | bytes | str


class HttpPeer:
    """An HTTP server that takes one answer after the other from its script; the last one stays."""

    def __init__(self, says: Callable[[Seen], Said] | list[Said]) -> None:
        self._says = says
        self.seen: list[Seen] = []
        self.connections = 0
        self.under_way = 0
        self.most_under_way = 0
        self.gate: asyncio.Event | None = None

    def answer(self, request: Seen) -> Said:
        if callable(self._says):
            return self._says(request)
        return self._says.pop(0) if len(self._says) > 1 else self._says[0]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, _, head = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
        method, path, _ = first.decode().split(" ")
        headers = BytesParser().parsebytes(head, headersonly=True)
        request = Seen(method, path, headers, await reader.readexactly(int(headers.get("Content-Length", "0"))))
        self.seen.append(request)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.gate is not None:
                await self.gate.wait()
            said = self.answer(request)
            if said == "hang":
                await asyncio.Event().wait()
        finally:
            self.under_way -= 1
        if isinstance(said, str):
            writer.transport.abort()
            return False
        writer.write(said if isinstance(said, bytes) else _framed(*said))
        await writer.drain()
        return not isinstance(said, bytes)


def _framed(status: int, headers: dict[str, str], body: bytes) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def _http_peer(
    says: Callable[[Seen], Said] | list[Said], tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[HttpPeer, int]]:
    """A peer on a port of 127.0.0.1."""
    peer = HttpPeer(says)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield peer, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 0.2)


@asynccontextmanager
async def _client_at(
    kind: RelayKind, port: int, times: ApiTimes | None = None, share: float = 1.0, **others: Any
) -> AsyncIterator[RelayClient]:
    """A client of this kind whose API is on this port."""
    given = {**SETTINGS[kind], "endpoint": f"http://127.0.0.1:{port}", **others}
    settings = parse_settings(kind, given, "test")
    client = open_client(settings, RelayRules.load(), Fixed(), share, times or ApiTimes(5.0, 5.0, 8.0))  # type: ignore[arg-type]
    try:
        yield client
    finally:
        await client.close()


_HTTP_KINDS = (RelayKind.SES, RelayKind.SENDGRID, RelayKind.MAILGUN)


@pytest.fixture(params=_HTTP_KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> RelayKind:
    """Each relay with an API in turn."""
    assert isinstance(request.param, RelayKind)
    return request.param


@pytest.fixture
def http_peer() -> Any:
    """http_peer(says, tls=None): an async context of (peer, port)."""
    return _http_peer


@pytest.fixture
def client_at() -> Any:
    """client_at(kind, port, times=None, share=1.0, **settings): an async context of a client."""
    return _client_at


@pytest.fixture
def message() -> Composed:
    """A message as composing makes it: signed twice, text and HTML."""
    return MESSAGE


@pytest.fixture
def accepted() -> dict[RelayKind, Said]:
    """What each relay says when it takes a message."""
    return dict(ACCEPTED)


@pytest.fixture
def given() -> dict[RelayKind, dict[str, object]]:
    """Settings of each kind of relay."""
    return {kind: dict(settings) for kind, settings in SETTINGS.items()}


@pytest.fixture
def clock() -> Fixed:
    """22:00 UTC of a first of March, for ever."""
    return Fixed()
