"""The conversation of one connection (RFC 5321 §4): a state, a table of commands, and the reply to each."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable

from posthouse.doors.smtpd.admission import AcceptRecipient, Admission, Limits, Take
from posthouse.doors.smtpd.content import has_bare_line_ends, hops
from posthouse.doors.smtpd.envelope import Sender, recipient_of, sender_of
from posthouse.doors.smtpd.wire import Hangup, LineWrong, Stopping, Wire

_LOG = logging.getLogger(__name__)
_MAX_HOPS = 100
_REFUSALS = {
    Admission.UNKNOWN: "550 5.1.1 There is no such mailbox here",
    Admission.NOT_OURS: "550 5.7.1 We do not relay",
}


class Conversation:
    """Talks with one peer until one of both ends it."""

    def __init__(
        self,
        wire: Wire,
        hostname: str,
        accept_recipient: AcceptRecipient,
        take: Take,
        limits: Limits,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._wire = wire
        self._hostname = hostname
        self._accept_recipient = accept_recipient
        self._take = take
        self._limits = limits
        self._tls = tls
        self._is_greeted = False
        self._is_encrypted = False
        self._sender: Sender | None = None
        self._recipients: list[str] = []
        self._errors = 0
        self._commands: dict[str, Callable[[str], Awaitable[str | None]]] = {
            "EHLO": self._ehlo,
            "HELO": self._helo,
            "STARTTLS": self._starttls,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": self._noop,
            "VRFY": self._vrfy,
        }

    async def run(self) -> None:
        """From the greeting to the end. Never raises for what a peer does."""
        try:
            await self._wire.say(f"220 {self._hostname} ESMTP Posthouse")
            while await self._answer_one():
                pass
        except Hangup:
            pass
        except Stopping:
            await self._wire.say("421 4.3.2 Closing for a moment, please come back")
        except LineWrong:
            await self._wire.say("500 5.5.2 Lines must end in CRLF and be at most 2048 bytes")
        except TimeoutError:
            await self._wire.say("421 4.4.2 You are too slow")
        except Exception:
            _LOG.exception("A conversation broke off.")
            await self._wire.say("421 4.3.0 Trouble on our side, please come back later")
        finally:
            self._wire.close()

    async def _answer_one(self) -> bool:
        """Answer one command; False when that was the last. Raises TimeoutError and what Wire raises."""
        async with asyncio.timeout(self._limits.command_seconds):
            line = await self._wire.line()
        try:
            verb, _, argument = line.decode("utf-8").partition(" ")
        except UnicodeDecodeError:
            verb, argument = "", ""
        if verb.upper() == "QUIT":
            await self._wire.say("221 2.0.0 Goodbye")
            return False
        command = self._commands.get(verb.upper())
        reply = await command(argument.strip()) if command else "500 5.5.1 This command is not known here"
        if reply is None:
            return True
        self._errors += reply.startswith("5")
        async with asyncio.timeout(self._limits.command_seconds):
            await self._wire.say(reply)
            if self._errors >= self._limits.max_errors:
                await self._wire.say("421 4.7.0 Too many errors")
        return self._errors < self._limits.max_errors

    async def _ehlo(self, argument: str) -> str:
        if not argument:
            return "501 5.5.4 Say EHLO and your name"
        self._is_greeted = True
        self._forget()
        offers = ["PIPELINING", f"SIZE {self._limits.max_bytes}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
        if self._tls is not None and not self._is_encrypted:
            offers.append("STARTTLS")
        lines = [self._hostname, *offers]
        return "\r\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"])

    async def _helo(self, argument: str) -> str:
        if not argument:
            return "501 5.5.4 Say HELO and your name"
        self._is_greeted = True
        self._forget()
        return f"250 {self._hostname}"

    async def _starttls(self, argument: str) -> str | None:
        """None when the reply, which must leave in the clear, was given."""
        if self._tls is None or self._is_encrypted:
            return "503 5.5.1 STARTTLS is not offered"
        if argument:
            return "501 5.5.4 STARTTLS stands alone"
        await self._wire.say("220 2.0.0 Go ahead")
        if not await self._wire.start_tls(self._tls):
            raise Hangup
        # RFC 3207 §4.2: what was said before is forgotten.
        self._is_encrypted, self._is_greeted = True, False
        self._forget()
        return None

    async def _mail(self, argument: str) -> str:
        if not self._is_greeted:
            return "503 5.5.1 Say EHLO first"
        if self._sender is not None:
            return "503 5.5.1 A transaction is open; say RSET to end it"
        sender = sender_of(argument, self._limits.max_bytes)
        if isinstance(sender, str):
            return sender
        self._sender = sender
        return "250 2.1.0 Ok"

    async def _rcpt(self, argument: str) -> str:
        if self._sender is None:
            return "503 5.5.1 Say MAIL first"
        address, refusal = recipient_of(argument, self._sender.is_utf8)
        if address is None:
            return refusal or ""
        if len(self._recipients) >= self._limits.max_recipients:
            return "452 4.5.3 Too many recipients; send the rest in the next transaction"
        try:
            async with asyncio.timeout(self._limits.take_seconds):
                admission = await self._accept_recipient(address)
        except Exception:
            _LOG.exception("A recipient could not be looked up.")
            return "451 4.3.0 Please try again later"
        if admission is not Admission.TAKEN:
            return _REFUSALS[admission]
        self._recipients.append(address)
        return "250 2.1.5 Ok"

    async def _data(self, argument: str) -> str:
        if argument:
            return "501 5.5.4 DATA stands alone"
        if not self._recipients:
            return "503 5.5.1 There is no recipient"
        await self._wire.say("354 End with <CRLF>.<CRLF>")
        async with asyncio.timeout(self._limits.content_seconds):
            incoming = await self._wire.content(self._limits.max_bytes)
        sender, recipients = self._sender, self._recipients
        assert sender is not None
        self._forget()
        if incoming.is_too_big:
            return f"552 5.3.4 At most {self._limits.max_bytes} bytes are taken here"
        content = incoming.content()
        if has_bare_line_ends(content):
            return "550 5.6.11 The message has a bare CR or LF; end every line with CRLF"
        if hops(content) > _MAX_HOPS:
            return "554 5.4.6 The message goes in circles"
        self._wire.flush()
        try:
            async with asyncio.timeout(self._limits.take_seconds):
                await self._take(sender.return_path, recipients, content)
        except Exception:
            _LOG.exception("A message could not be taken in.")
            return "451 4.3.0 Please try again later"
        return "250 2.0.0 Taken"

    async def _rset(self, argument: str) -> str:
        self._forget()
        return "250 2.0.0 Ok"

    async def _noop(self, argument: str) -> str:
        return "250 2.0.0 Ok"

    async def _vrfy(self, argument: str) -> str:
        return "252 2.5.0 Send mail and you will see"

    def _forget(self) -> None:
        self._sender = None
        self._recipients = []
