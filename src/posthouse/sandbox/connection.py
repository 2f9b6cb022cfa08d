"""The wire side of an SMTP server connection: buffers, batched replies, records stamped after their reply, STARTTLS, rude ends."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from posthouse.sandbox.records import Note, Records


class Connection(asyncio.Protocol):
    """Hands the buffer to `_step` as long as that makes progress. Replies to pipelined commands leave together (RFC 2920)."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._notes: list[Note] = []
        self._waiting = False
        self._closing = False
        self._encrypted = False
        self._ip = ""
        self._upgrade: asyncio.Task[None] | None = None

    # -- for the conversation to fill in

    def _greet(self) -> None:
        """Say the first words."""
        raise NotImplementedError

    def _step(self) -> bool:
        """Take one command or the content from the buffer; False while it has not arrived whole."""
        raise NotImplementedError

    def _pause(self) -> float:
        """Real seconds for which the reply just said is kept back."""
        raise NotImplementedError

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ip = transport.get_extra_info("peername")[0]
        self._greet()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._waiting:
            self._work()

    # -- for the conversation to use

    def _say(self, wire: bytes, note: Note | None = None, *, closes: bool = False) -> None:
        """Answer. The note is written down once the answer is on its way; nothing follows an answer that closes."""
        self._out.append(wire)
        if note is not None:
            self._notes.append(note)
        if closes:
            self._closing = True
        pause = self._pause()
        if pause:
            self._waiting = True
            asyncio.get_running_loop().call_later(pause, self._resume)

    def _cut(self) -> None:
        """End the connection at once, without a word; the notes are written down."""
        self._flush()
        self._closing = True
        self._transport.abort()

    def _stall(self) -> None:
        """Read nothing more and say nothing more, for as long as the peer holds on."""
        self._flush()
        self._transport.pause_reading()
        self._waiting = True

    def _encrypt(self, context: ssl.SSLContext, go_ahead: bytes) -> None:
        """Say the go-ahead and put TLS under the conversation."""
        # RFC 3207 §4.2 and CVE-2011-0411: what was sent ahead in the clear must not be obeyed inside TLS.
        self._buffer.clear()
        self._transport.pause_reading()
        self._out.append(go_ahead)
        self._flush()
        self._waiting = True
        self._upgrade = asyncio.get_running_loop().create_task(self._start_tls(context))

    # -- inside

    def _work(self) -> None:
        while not (self._waiting or self._closing) and self._step():
            pass
        self._flush()

    def _resume(self) -> None:
        self._waiting = False
        self._flush()
        self._work()

    def _flush(self) -> None:
        if self._waiting:
            return
        gone = self._transport.is_closing()
        if self._out and not gone:
            self._transport.write(b"".join(self._out))
        self._out.clear()
        if self._notes:
            for note in self._notes:
                note.withheld |= gone and note.accepted
                self._records.write(note)
            self._notes.clear()
        if self._closing:
            self._transport.close()

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        try:
            upgraded = await asyncio.get_running_loop().start_tls(self._transport, self, context, server_side=True)
        except (OSError, ssl.SSLError):
            # The client gave up or does not trust us: its own log says why, and the connection is gone.
            self._transport.abort()
            return
        self._transport = cast(asyncio.Transport, upgraded)
        self._encrypted = True
        self._waiting = False
        self._work()
