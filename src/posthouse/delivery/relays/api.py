"""HTTP as relays need it: one host, connections kept, every wait and every answer bounded, no redirects, no cookies, no proxy."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp
from msgspec import Struct
from yarl import URL

from posthouse.mail.replies import Failure, Stage

_MAX_BODY = 64 * 1024
_PIECE = 8192
# Shorter than the time after which the relays close an idle connection: a request must not meet a connection that is just going.
_KEPT_SECONDS = 4.0


class ApiTimes(Struct, frozen=True):
    """Time-outs in seconds: to connect, TLS included; between two pieces of an answer; for the whole request."""

    connect: float = 10.0
    reply: float = 30.0
    whole: float = 60.0


class ApiReply(Struct, frozen=True):
    """What came back, whatever it says. headers: names in lower case, the last of each; body: complete, at most 64 KiB."""

    status: int
    headers: dict[str, str]
    body: bytes


class ApiFailure(Struct, frozen=True):
    """No whole answer came. At the stages CONNECT and STARTTLS nothing of the request had left."""

    stage: Stage
    failure: Failure


class Api:
    """Connections to one relay's API. Made inside a running loop; `close` ends them."""

    def __init__(self, endpoint: str, connections: int, times: ApiTimes, tls: ssl.SSLContext | None = None) -> None:
        """endpoint: scheme and authority, such as https://api.example.com; connections: how many at once; tls: whom to trust."""
        self.endpoint = endpoint.rstrip("/")
        self.remote = URL(endpoint).host or endpoint
        self._times = times
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=connections, keepalive_timeout=_KEPT_SECONDS, ssl=_tls_context() if tls is None else tls
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            # What is unpacked has no bound that anybody sees: nothing is asked for in a packed form, and nothing is unpacked.
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "posthouse"},
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop all connections."""
        await self._session.close()

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"", seconds: float | None = None
    ) -> ApiReply | ApiFailure:
        """One request and its answer. path: encoded as it shall be sent; seconds: give up earlier than the time-outs say."""
        times = self._times
        timeout = aiohttp.ClientTimeout(
            total=times.whole if seconds is None else min(times.whole, max(0.001, seconds)),
            sock_connect=times.connect,
            sock_read=times.reply,
        )
        try:
            async with self._session.request(
                method,
                URL(self.endpoint + path, encoded=True),
                data=body or None,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                content = bytearray()
                async for piece in response.content.iter_chunked(_PIECE):
                    content += piece
                    if len(content) > _MAX_BODY:
                        response.close()
                        return ApiFailure(Stage.CONTENT, Failure.PROTOCOL_ERROR)
                names = {name.lower(): value for name, value in response.headers.items()}
                return ApiReply(response.status, names, bytes(content))
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            return _failure(error)


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _failure(error: Exception) -> ApiFailure:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ApiFailure(Stage.CONNECT, Failure.DNS_TEMPORARY)
    if isinstance(error, aiohttp.ClientSSLError):
        return ApiFailure(Stage.STARTTLS, Failure.TLS_FAILED)
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return ApiFailure(Stage.CONNECT, Failure.CONNECT_REFUSED if refused else Failure.CONNECT_UNREACHABLE)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ApiFailure(Stage.CONNECT, Failure.CONNECT_TIMEOUT)
    if isinstance(error, TimeoutError):
        return ApiFailure(Stage.CONTENT, Failure.REPLY_TIMEOUT)
    # A body that breaks off is no less of a break than a connection that does.
    if isinstance(error, (OSError, aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError)):
        return ApiFailure(Stage.CONTENT, Failure.CONNECTION_LOST)
    return ApiFailure(Stage.CONTENT, Failure.PROTOCOL_ERROR)
