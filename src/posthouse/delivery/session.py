"""The SMTP conversation of one connection (RFC 5321, 2920): messages one after another, pipelined where the server allows it.

With PIPELINING the content of a message and the envelope of the next leave in one write (RFC 2920 §3.1), so a message costs one round
trip. A session pulls its next message from its feed at the last moment; what it pulled but never began to send it gives back.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol, cast

from msgspec import Struct

from posthouse.delivery.job import Answer, Job
from posthouse.mail.replies import Failure, Stage, parse_reply
from posthouse.model.outcomes import Reply

_MAX_REPLY_BYTES = 64 * 1024
_QUIT_SECONDS = 5.0


class SessionTimes(Struct, frozen=True):
    """Time-outs in seconds (SMTP-1)."""

    greeting: float = 300.0
    command: float = 300.0
    block: float = 180.0
    final_dot: float = 600.0


class Feed(Protocol):
    """Where a session gets its messages, and whom it tells what became of them."""

    def next_job(self, session: Session) -> Job | None:
        """The next message for this session's server, composed; None when there is none or the session has done its share."""
        ...

    def answered(self, job: Job, answer: Answer) -> None:
        """A message's attempt ended."""
        ...

    def returned(self, job: Job, failure: Failure) -> None:
        """A message was pulled but not sent: no byte of its content left."""
        ...

    def idled(self, session: Session) -> None:
        """The session has nothing to do; `start` wakes it, `quit` ends it."""
        ...

    def closed(self, session: Session) -> None:
        """The session is over; it comes after every `answered` and `returned`."""
        ...


class Session(asyncio.Protocol):
    """One connection to one server. Made by `dial`, which holds the opening conversation with `ask`."""

    def __init__(self, remote: str, times: SessionTimes, feed: Feed) -> None:
        """remote: the server's host name, for the record."""
        self.remote = remote
        self.capabilities: dict[str, str] = {}
        self.encrypted = False
        self.sent = 0
        self.idle_since: float | None = None
        self._times = times
        self._feed = feed
        self._transport: asyncio.Transport | None = None
        # The TCP transport, below TLS: uvloop's TLS transport says that nothing is unsent as soon as it has encrypted it.
        self._wire: asyncio.Transport | None = None
        self._buffer = b""
        self._lines: list[bytes] = []
        self._last_lines: list[bytes] = []
        self._waiter: asyncio.Future[Reply] | None = None
        self._opening = True
        self._greeting: Reply | None = None
        self._expected: deque[tuple[Stage | None, Job | None]] = deque()
        self._failed: dict[Job, Answer] = {}
        self._steps: deque[tuple[Stage | None, bytes]] = deque()
        self._pipelining = False
        self._reset_first = False
        self._in_content: Job | None = None
        self._deadline = float("inf")
        self._unsent = 0
        self._closing = False
        self._over = False

    # The opening conversation, one command at a time -------------------------------------------------------------------

    async def ask(self, command: bytes | None, seconds: float) -> Reply:
        """Send one command (None: wait for the greeting) and return the reply. Raises ConnectionError or TimeoutError."""
        if self._over:
            raise ConnectionResetError
        if command is None and self._greeting is not None:
            return self._greeting
        self._waiter = asyncio.get_running_loop().create_future()
        if command is not None:
            self._write(command + b"\r\n")
        try:
            return await asyncio.wait_for(self._waiter, seconds)
        finally:
            self._waiter = None

    def learn_capabilities(self) -> None:
        """Keep what the last EHLO reply offered: keyword → parameters, in upper case (RFC 5321 §4.1.1.1)."""
        self.capabilities = {}
        for line in self._last_lines[1:]:
            keyword, _, parameters = line[4:].strip().decode("ascii", "replace").upper().partition(" ")
            self.capabilities[keyword] = parameters

    def feed_from(self, feed: Feed) -> None:
        """The opening is over: from now on messages come from here."""
        self._feed = feed
        self._opening = False

    def abort(self) -> None:
        """Drop the connection without a word."""
        self._abandon(Failure.CONNECTION_LOST)

    def forget_plaintext(self) -> None:
        """Before TLS: what was said in the clear, or sent ahead of the handshake, must not count any more (TLS-2)."""
        self._buffer = b""
        self._lines = []
        self.capabilities = {}

    def attach(self, transport: asyncio.Transport) -> None:
        """Go on over another transport, after STARTTLS."""
        self._transport = transport
        self.encrypted = True

    @property
    def is_over(self) -> bool:
        """Whether the connection is gone."""
        return self._over

    @property
    def transport(self) -> asyncio.Transport:
        """The transport of the moment."""
        assert self._transport is not None
        return self._transport

    # Messages ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The opening is over, or a message has come for an idle session: take the next message."""
        self._pipelining = "PIPELINING" in self.capabilities
        if self._closing or self._expected:
            return
        job = self._pull()
        if job is None:
            self.idle_since = time.monotonic()
            self._deadline = float("inf")
            self._feed.idled(self)
            return
        self.idle_since = None
        self._send(b"", job)

    def quit(self) -> None:
        """Say goodbye and close; for an idle session or one that has done its share."""
        if not self._closing:
            self._closing = True
            self._deadline = time.monotonic() + _QUIT_SECONDS
            self._write(b"QUIT\r\n")
            self.transport.close()

    def check_time(self, now: float) -> None:
        """Called about once a second: give up on a server that has been silent for too long."""
        if now < self._deadline or self._over:
            return
        if self._in_content is not None and self._unsent:
            unsent = self._unsent_bytes()
            # The peer still reads, if slowly: the block time-out counts from the last progress, as long as the claim holds.
            if unsent < self._unsent and now < self._in_content.give_up:
                self._unsent = unsent
                self._deadline = min(
                    now + (self._times.block if unsent else self._times.final_dot), self._in_content.give_up
                )
                return
        self._abandon(Failure.REPLY_TIMEOUT)

    def _pull(self) -> Job | None:
        """The next message that this server can take at all; the others are answered at once."""
        while True:
            job = self._feed.next_job(self)
            if job is None or job.composed is None:
                return None
            failure = self._obstacle(job)
            if failure is None:
                return job
            self._feed.answered(job, Answer(Stage.MAIL, self.remote, failure=failure))

    def _obstacle(self, job: Job) -> Failure | None:
        composed = job.composed
        assert composed is not None
        if composed.smtputf8 and "SMTPUTF8" not in self.capabilities:
            return Failure.SMTPUTF8_MISSING
        size = self.capabilities.get("SIZE", "")
        if size.isdigit() and 0 < int(size) < len(composed.content):
            return Failure.TOO_BIG
        return None

    def _send(self, before: bytes, job: Job) -> None:
        """Write the envelope of a message after `before`; with PIPELINING as one group that ends in DATA (RFC 2920)."""
        steps = self._envelope(job)
        if self._pipelining:
            for stage, _ in steps:
                self._expected.append((stage, job))
            self._write(before + b"".join([command for _, command in steps]))
        else:
            stage, command = steps[0]
            self._steps = deque(steps[1:])
            self._expected.append((stage, job))
            self._write(before + command)
        self._deadline = time.monotonic() + self._times.command

    def _envelope(self, job: Job) -> list[tuple[Stage | None, bytes]]:
        composed = job.composed
        assert composed is not None
        parameters = b""
        if "SIZE" in self.capabilities:
            parameters += b" SIZE=%d" % len(composed.content)
        if composed.eight_bit and "8BITMIME" in self.capabilities:
            parameters += b" BODY=8BITMIME"
        if composed.smtputf8:
            parameters += b" SMTPUTF8"
        steps: list[tuple[Stage | None, bytes]] = [
            (Stage.MAIL, b"MAIL FROM:<%b>%b\r\n" % (composed.return_path.encode(), parameters)),
            (Stage.RCPT, b"RCPT TO:<%b>\r\n" % composed.recipient.encode()),
            (Stage.DATA, b"DATA\r\n"),
        ]
        if self._reset_first:
            self._reset_first = False
            steps.insert(0, (None, b"RSET\r\n"))
        return steps

    # Replies -----------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Split into replies; the last line of each has no hyphen after its code (RFC 5321 §4.2)."""
        if self._buffer:
            data = self._buffer + data
        lines = data.split(b"\n")
        self._buffer = lines.pop()
        for line in lines:
            self._lines.append(line)
            if line[3:4] != b"-":
                complete, self._lines = self._lines, []
                self._replied(complete)
        if len(self._buffer) + sum(map(len, self._lines)) > _MAX_REPLY_BYTES:
            self._abandon(Failure.PROTOCOL_ERROR)

    def _replied(self, lines: list[bytes]) -> None:
        if self._waiter is not None:
            self._last_lines = lines
            if not self._waiter.done():
                self._waiter.set_result(parse_reply(lines))
            return
        if self._opening and self._greeting is None and not self._last_lines:
            self._greeting = parse_reply(lines)  # it came before anybody asked
            return
        if not self._expected or self._over:
            if not self._closing:  # a farewell that nobody asked for, such as 421 to an idle connection
                self._abandon(Failure.CONNECTION_LOST)
            return
        stage, job = self._expected.popleft()
        first = lines[-1].lstrip()[:1]  # some put blanks before the code (SMTP-16)
        if stage is Stage.CONTENT:
            self._content_answered(job, lines)
        elif stage is Stage.DATA and first == b"3":
            self._data_invited(cast(Job, job))
            return
        elif stage is Stage.DATA or (first != b"2" and stage is not None):
            self._refused(stage, cast(Job, job), parse_reply(lines))
        elif self._steps:
            self._next_step(cast(Job, job))
        if self._expected:
            waits_for_dot = self._expected[0][0] is Stage.CONTENT
            self._deadline = time.monotonic() + (self._times.final_dot if waits_for_dot else self._times.command)

    def _next_step(self, job: Job) -> None:
        stage, command = self._steps.popleft()
        self._expected.append((stage, job))
        self._write(command)
        self._deadline = time.monotonic() + self._times.command

    def _data_invited(self, job: Job) -> None:
        """354: send the content, and with it the envelope of the next message."""
        if job in self._failed:
            # The server wants content although it refused the recipient: an empty message to nobody ends it (SMTP-13).
            self._expected.appendleft((Stage.CONTENT, None))
            self._write(b".\r\n")
            self._finish(job)
            return
        composed = job.composed
        assert composed is not None
        content = composed.content
        if composed.leading_dots and (b"\r\n." in content or content.startswith(b".")):
            content = (b"." + content if content.startswith(b".") else content).replace(b"\r\n.", b"\r\n..")
        self._in_content = job
        self.sent += 1
        self._expected.appendleft((Stage.CONTENT, job))
        following = self._pull() if self._pipelining else None
        if following is None:
            self._write(content + b".\r\n")
        else:
            self._send(content + b".\r\n", following)
        self._unsent = self._unsent_bytes()
        self._deadline = time.monotonic() + (self._times.block if self._unsent else self._times.final_dot)

    def _content_answered(self, job: Job | None, lines: list[bytes]) -> None:
        self._in_content = None
        self._unsent = 0
        reply = parse_reply(lines)
        if job is not None:
            self._feed.answered(job, Answer(Stage.CONTENT, self.remote, reply))
        if reply.code == 421:
            self._abandon(Failure.CONNECTION_LOST)
        elif not self._expected:
            self.start()

    def _refused(self, stage: Stage, job: Job, reply: Reply) -> None:
        """A command of the envelope was refused; the first refusal is the answer, those after it follow from it."""
        self._failed.setdefault(job, Answer(stage, self.remote, reply))
        self._steps.clear()
        if reply.code == 421:  # SMTP-17: the server closes, whatever else was under way
            self._abandon(Failure.CONNECTION_LOST)
        elif stage is Stage.DATA or not self._pipelining:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        """The refused message is done; a transaction may still be open at the server, so RSET comes before the next."""
        self._reset_first = True
        self._feed.answered(job, self._failed.pop(job))
        if not self._expected:
            self.start()

    # Ends --------------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP connection, or the TLS one after STARTTLS, stands."""
        self._transport = cast(asyncio.Transport, transport)
        self._wire = self._wire or self._transport

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._end(Failure.CONNECTION_LOST)

    def _abandon(self, failure: Failure) -> None:
        self._closing = True
        self._end(failure)
        if self._transport is not None:
            self._transport.abort()

    def _end(self, failure: Failure) -> None:
        if self._over:
            return
        self._over = True
        self._deadline = float("inf")
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionResetError())
        # The answer to a message's last command may have been its refusal: then nothing is expected for it any more.
        unfinished = dict.fromkeys([*self._failed, *(job for _, job in self._expected if job is not None)])
        self._expected.clear()
        for job in unfinished:
            if job is self._in_content:
                self._feed.answered(job, Answer(Stage.CONTENT, self.remote, failure=failure))
            elif job in self._failed:
                self._feed.answered(job, self._failed.pop(job))
            else:
                self._feed.returned(job, failure)
        self._feed.closed(self)

    def _unsent_bytes(self) -> int:
        return 0 if self._wire is None else self._wire.get_write_buffer_size()

    def _write(self, data: bytes) -> None:
        if not self._over:
            self.transport.write(data)
