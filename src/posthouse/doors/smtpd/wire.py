"""One SMTP connection as bytes: lines in, replies out, with strict line ends, time limits and back-pressure."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from posthouse.doors.smtpd.content import Incoming

_MAX_LINE = 2048
_MAX_BUFFER = 1 << 18
_FLUSH_AT = 1 << 13


class LineWrong(Exception):
    """A command line is too long or does not end in CRLF."""


class Hangup(Exception):
    """The peer is gone."""


class Stopping(Exception):
    """The door is being closed and the peer has nothing under way."""


class Wire(asyncio.Protocol):
    """The transport's side of a connection; the conversation awaits its methods, one at a time."""

    def __init__(self, on_open: Callable[[Wire], None], on_close: Callable[[Wire], None], close_seconds: float) -> None:
        self._close_seconds = close_seconds
        self._on_open, self._on_close = on_open, on_close
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._out = bytearray()
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._is_lost = False
        self._is_stopping = False
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports have the methods of asyncio.Transport and are no subclass of it.
        self._transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        self.peer = name[0] if name else ""
        self._on_open(self)

    def data_received(self, data: bytes) -> None:
        """Keep what came; stop reading while the conversation is behind."""
        self._buffer += data
        if len(self._buffer) > _MAX_BUFFER and self._transport is not None:
            self._transport.pause_reading()
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer or we have closed."""
        self._is_lost = True
        self._news.set()
        self._writable.set()
        self._on_close(self)

    def pause_writing(self) -> None:
        """The peer does not read our replies."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It reads again."""
        self._writable.set()

    def stop(self) -> None:
        """End the conversation when the peer has nothing under way."""
        self._is_stopping = True
        self._news.set()

    async def say(self, reply: str) -> None:
        """Queue a reply, one line or several; it leaves before the next wait, so that pipelined commands get theirs together."""
        self._out += reply.encode("utf-8", "replace") + b"\r\n"
        if len(self._out) > _FLUSH_AT:
            self.flush()
            await self._writable.wait()

    async def line(self) -> bytes:
        """The next command line without its CRLF. Raises LineWrong, Hangup or Stopping."""
        while True:
            end = self._buffer.find(b"\n")
            if end > _MAX_LINE or (end < 0 and len(self._buffer) > _MAX_LINE):
                raise LineWrong
            if end >= 0:
                line = bytes(self._buffer[: end + 1])
                del self._buffer[: end + 1]
                if not line.endswith(b"\r\n") or line.count(b"\r") > 1:
                    raise LineWrong
                return line[:-2]
            if self._is_stopping:
                raise Stopping
            await self._more()

    async def content(self, max_bytes: int) -> Incoming:
        """The content up to its end. Raises Hangup."""
        incoming = Incoming(max_bytes)
        while True:
            rest = incoming.feed(self._buffer)
            self._buffer.clear()
            if rest is not None:
                self._buffer += rest
                return incoming
            await self._more()

    async def start_tls(self, context: ssl.SSLContext) -> bool:
        """Encrypt from here on. What the peer sent too early in the clear is dropped (RFC 3207, TLS-2). False if it failed."""
        assert self._transport is not None
        self.flush()
        self._buffer.clear()
        try:
            transport = await asyncio.get_running_loop().start_tls(self._transport, self, context, server_side=True)
        except (OSError, asyncio.IncompleteReadError):
            return False
        self._transport = transport
        return transport is not None

    def close(self) -> None:
        """Send what is queued and close; a peer that does not read is cut off after `close_seconds`."""
        if self._transport is not None and not self._is_lost:
            self.flush()
            self._transport.close()
            asyncio.get_running_loop().call_later(self._close_seconds, self._transport.abort)

    def flush(self) -> None:
        """Send what is queued."""
        if self._out and self._transport is not None and not self._is_lost:
            self._transport.write(bytes(self._out))
        self._out.clear()

    async def _more(self) -> None:
        """Wait until more came. Raises Hangup."""
        self.flush()
        await self._writable.wait()
        self._news.clear()
        if self._is_lost or self._transport is None:
            raise Hangup
        self._transport.resume_reading()
        await self._news.wait()
