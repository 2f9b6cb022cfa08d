"""Listens, admits connections within the limits, and ends them all in order."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter

from posthouse.doors.smtpd.admission import AcceptRecipient, Limits, Take
from posthouse.doors.smtpd.conversation import Conversation
from posthouse.doors.smtpd.wire import Wire

_STOP_SECONDS = 20.0


class InboundDoor:
    """An SMTP server for mail that comes back."""

    def __init__(
        self,
        hostname: str,
        accept_recipient: AcceptRecipient,
        take: Take,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """hostname: our name in greetings; accept_recipient: asked for each RCPT, address in normal form (or "postmaster");
        take: (return path, "" for a bounce; recipients; content with CRLF lines) returns once the mail is committed, and is the only
        ground for a 250; whatever either raises becomes a 451. tls: offers STARTTLS.
        """
        self._hostname = hostname
        self._accept_recipient = accept_recipient
        self._take = take
        self._limits = limits or Limits()
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._wires: set[Wire] = set()
        self._conversations: set[asyncio.Task[None]] = set()
        self._by_address: Counter[str] = Counter()

    @property
    def port(self) -> int:
        """The port that the door listens at, once started."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, host: str = "127.0.0.1", port: int = 0, listener: socket.socket | None = None) -> None:
        """Begin to listen: at a bound socket if one is handed over (port 25 without root), else at host and port."""
        loop = asyncio.get_running_loop()
        if listener is not None:
            self._server = await loop.create_server(self._wire, sock=listener)
        else:
            self._server = await loop.create_server(self._wire, host, port)

    async def stop(self) -> None:
        """Listen no more, let messages under way finish, send everybody else away."""
        if self._server is not None:
            self._server.close()
        for wire in self._wires:
            wire.stop()
        if self._conversations:
            _, late = await asyncio.wait(self._conversations, timeout=_STOP_SECONDS)
            for task in late:
                task.cancel()

    def _wire(self) -> Wire:
        return Wire(self._opened, self._closed, self._limits.close_seconds)

    def _opened(self, wire: Wire) -> None:
        limits = self._limits
        task = asyncio.get_running_loop().create_task(
            self._turn_away(wire)
            if len(self._wires) >= limits.max_connections
            or self._by_address[wire.peer] >= limits.max_connections_per_address
            else Conversation(wire, self._hostname, self._accept_recipient, self._take, limits, self._tls).run()
        )
        # A message may still be on its way to `take` when its peer has gone.
        self._conversations.add(task)
        task.add_done_callback(self._conversations.discard)
        self._wires.add(wire)
        self._by_address[wire.peer] += 1

    async def _turn_away(self, wire: Wire) -> None:
        await wire.say("421 4.7.0 Too many connections, please come back later")
        wire.close()

    def _closed(self, wire: Wire) -> None:
        self._wires.discard(wire)
        self._by_address[wire.peer] -= 1
        if not self._by_address[wire.peer]:
            del self._by_address[wire.peer]
