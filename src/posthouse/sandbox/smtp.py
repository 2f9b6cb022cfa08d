"""One SMTP conversation of a sandbox provider, server side (RFC 5321), built for speed: a message costs a few searches."""

from __future__ import annotations

import re
from collections.abc import Callable

from posthouse.sandbox.connection import Connection
from posthouse.sandbox.content import fault_of, message_id_of, unstuffed
from posthouse.sandbox.manners import Answer, DropPoint, answer
from posthouse.sandbox.post import Letter, Post
from posthouse.sandbox.records import Note, RecordKind

_COMMAND_OCTETS = 4096
_MAIL = re.compile(rb"MAIL FROM:[ ]?<([^<>\r\n]*)>((?: [!-~]+)*) *\Z", re.IGNORECASE)
_RCPT = re.compile(rb"RCPT TO:[ ]?<([^<>\r\n]*)>((?: [!-~]+)*) *\Z", re.IGNORECASE)
_ADDRESS = re.compile(r"[^@\s\"]+@[^@\s]+\Z|\"[^\"]*\"@[^@\s]+\Z")

_OK_MAIL = b"250 2.1.0 Sender OK\r\n"
_OK_RCPT = b"250 2.1.5 Recipient OK\r\n"
_GO_AHEAD = b"354 End data with <CR><LF>.<CR><LF>\r\n"


class Session(Connection):
    """One conversation with one provider."""

    def __init__(self, post: Post) -> None:
        super().__init__(post.records)
        self._post = post
        self._manners = post.manners
        self._provider = post.manners.persona.name
        self._scanned = 0
        self._greeted = False
        self._messages = 0
        self._forget_message()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._post.open_connections[self._ip] -= 1

    def _greet(self) -> None:
        self._post.open_connections[self._ip] += 1
        refusal = self._manners.at_connect(self._ip, self._post.open_connections[self._ip])
        if refusal is not None:
            self._refuse(refusal, RecordKind.CONNECT, closes=True)
        else:
            self._say(f"220 {self._post.host} ESMTP sandbox\r\n".encode())

    def _pause(self) -> float:
        return self._manners.pause()

    def _step(self) -> bool:
        if self._in_content:
            return self._take_content()
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > _COMMAND_OCTETS:
                self._say(b"500 5.5.2 Command line too long\r\n", closes=True)
            return False
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        self._command(line)
        return True

    def _refuse(self, refusal: Answer, kind: RecordKind, rcpt: str = "", *, closes: bool = False) -> None:
        note = Note(kind, self._provider, rcpt, self._return_path, code=refusal.code, text=refusal.text)
        self._say(refusal.wire, note, closes=closes or refusal.closes)

    def _drop_here(self) -> None:
        for rcpt in self._recipients:
            self._notes.append(Note(RecordKind.DROPPED, self._provider, rcpt, self._return_path))
        self._cut()

    def _forget_message(self) -> None:
        self._in_content = False
        self._return_path = ""
        self._has_sender = False
        self._utf8 = False
        self._recipients: list[str] = []
        self._drop: DropPoint | None = None
        self._stalls = False
        self._oversize = False
        self._stuffed = False

    # -- commands

    def _command(self, line: bytes) -> None:
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            self._say(b"500 5.5.2 Bare CR, bare LF or NUL in a command\r\n")
            return
        line = line[:-2]
        verb, _, _ = line.partition(b" ")
        handler = _COMMANDS.get(verb.upper())
        if handler is None:
            self._say(b"500 5.5.2 Command not recognised\r\n")
        else:
            handler(self, line)

    def _ehlo(self, line: bytes) -> None:
        self._forget_message()
        name = line[5:].strip()
        if not name:
            self._say(b"501 5.5.4 A host name is missing\r\n")
            return
        self._greeted = True
        if line[:4].upper() == b"HELO":
            self._say(f"250 {self._post.host}\r\n".encode())
            return
        size = self._manners.persona.size
        words = [self._post.host, "PIPELINING", f"SIZE {size}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
        if self._post.tls is not None and not self._encrypted:
            words.append("STARTTLS")
        lines = [f"250-{word}\r\n" for word in words[:-1]] + [f"250 {words[-1]}\r\n"]
        self._say("".join(lines).encode())

    def _mail(self, line: bytes) -> None:
        match = _MAIL.match(line)
        if match is None:
            self._say(b"501 5.5.4 Syntax: MAIL FROM:<address> [parameters]\r\n")
        elif not self._greeted or self._has_sender:
            self._say(b"503 5.5.1 EHLO first, and one MAIL a transaction\r\n")
        elif self._manners.persona.tls == "required" and not self._encrypted:
            self._say(b"530 5.7.0 Must issue a STARTTLS command first\r\n")
        elif (wrong := self._mail_parameters(match[2].upper().split())) is not None:
            self._say(wrong)
        elif (return_path := self._address(match[1], may_be_empty=True)) is not None:
            self._messages += 1
            self._return_path = return_path
            refusal = self._manners.at_mail(self._ip, self._messages)
            if refusal is not None:
                self._refuse(refusal, RecordKind.MAIL)
                return
            self._has_sender = True
            self._say(_OK_MAIL)

    def _mail_parameters(self, parameters: list[bytes]) -> bytes | None:
        self._utf8 = b"SMTPUTF8" in parameters
        for parameter in parameters:
            name, _, value = parameter.partition(b"=")
            if name == b"SIZE" and value.isdigit():
                if int(value[:20]) > self._manners.persona.size:
                    return b"552 5.3.4 Message size exceeds fixed limit\r\n"
            elif parameter not in (b"SMTPUTF8", b"BODY=7BIT", b"BODY=8BITMIME"):
                return b"555 5.5.4 Unsupported parameter\r\n"
        return None

    def _rcpt(self, line: bytes) -> None:
        match = _RCPT.match(line)
        if match is None or match[2]:
            self._say(b"501 5.5.4 Syntax: RCPT TO:<address>\r\n")
        elif not self._has_sender:
            self._say(b"503 5.5.1 MAIL first\r\n")
        elif len(self._recipients) >= self._manners.persona.recipients:
            self._say(b"452 4.5.3 Too many recipients\r\n")
        elif (rcpt := self._address(match[1], may_be_empty=False)) is not None:
            refusal = self._manners.at_rcpt(self._ip, self._return_path, rcpt)
            if refusal is not None:
                self._refuse(refusal, RecordKind.RCPT, rcpt)
                return
            self._recipients.append(rcpt)
            self._drop = self._drop or self._manners.drops_at(rcpt)
            self._stalls |= self._manners.stalls(rcpt)
            if self._drop is DropPoint.RCPT:
                self._drop_here()
                return
            self._say(_OK_RCPT)

    def _address(self, raw: bytes, *, may_be_empty: bool) -> str | None:
        """The address of a path, or None after the refusal was said."""
        try:
            address = raw.decode("utf-8" if self._utf8 else "ascii")
        except UnicodeDecodeError:
            self._say(b"553 5.6.7 The address needs SMTPUTF8\r\n")
            return None
        if _ADDRESS.match(address) or (may_be_empty and not address):
            return address
        self._say(b"501 5.1.3 Bad address syntax\r\n")
        return None

    def _data(self, line: bytes) -> None:
        if not self._recipients:
            self._say(b"503 5.5.1 No valid recipients\r\n")
        elif self._drop is DropPoint.DATA:
            self._drop_here()
        else:
            self._in_content = True
            self._scanned = 0
            self._say(_GO_AHEAD)

    def _rset(self, line: bytes) -> None:
        self._forget_message()
        self._say(b"250 2.0.0 OK\r\n")

    def _noop(self, line: bytes) -> None:
        self._say(b"250 2.0.0 OK\r\n")

    def _vrfy(self, line: bytes) -> None:
        self._say(b"252 2.5.0 Send some mail and see\r\n")

    def _quit(self, line: bytes) -> None:
        self._say(b"221 2.0.0 Bye\r\n", closes=True)

    def _starttls(self, line: bytes) -> None:
        if self._post.tls is None or self._encrypted:
            self._say(b"502 5.5.1 STARTTLS is not offered\r\n")
            return
        self._greeted = False
        self._forget_message()
        self._encrypt(self._post.tls, b"220 2.0.0 Ready to start TLS\r\n")

    # -- content

    def _take_content(self) -> bool:
        """Look for the end of the content; False while it has not arrived. One search finds stuffed dots and the end alike."""
        buffer = self._buffer
        if self._drop is DropPoint.CONTENT and buffer:
            self._drop_here()
            return False
        if self._stalls and buffer:
            self._stall()
            return False
        if buffer.startswith(b".\r\n") and not self._oversize:
            return self._end_of_content(0, 3)
        if buffer.startswith(b"."):
            self._stuffed = True
        at = buffer.find(b"\r\n.", self._scanned)
        while at >= 0:
            after = buffer[at + 3 : at + 5]
            if after == b"\r\n":
                return self._end_of_content(at + 2, at + 5)
            if len(after) < 2:
                break
            self._stuffed = True
            at = buffer.find(b"\r\n.", at + 3)
        self._scanned = at if at >= 0 else max(0, len(buffer) - 2)
        if len(buffer) > self._manners.persona.size:
            self._oversize = True
            del buffer[: self._scanned]
            self._scanned = 0
        return False

    def _end_of_content(self, end: int, used: int) -> bool:
        with memoryview(self._buffer) as view:
            wire = bytes(view[:end])
        del self._buffer[:used]
        self._judge(wire, unstuffed(wire) if self._stuffed else wire)
        self._forget_message()
        return True

    def _judge(self, wire: bytes, content: bytes) -> None:
        fault = fault_of(wire)
        if self._oversize or len(wire) > self._manners.persona.size:
            refusal: Answer | None = _TOO_BIG
        elif fault is not None:
            refusal = answer(550, "5.6.0", fault)
        else:
            refusal = self._manners.at_dot(self._ip, content)
        message_id = message_id_of(content)
        if self._drop is DropPoint.DOT:
            self._drop_here()
        elif refusal is not None:
            for rcpt in self._recipients:
                self._notes.append(self._decision(rcpt, message_id, refusal.code, refusal.text))
            self._say(refusal.wire, closes=refusal.closes)
        else:
            self._accept(content, message_id)

    def _accept(self, content: bytes, message_id: str) -> None:
        text = f"2.0.0 OK queued as {self._messages}"
        withheld = any(self._manners.withholds(rcpt) for rcpt in self._recipients)
        for rcpt in self._recipients:
            self._notes.append(self._decision(rcpt, message_id, 250, text, accepted=True, withheld=withheld))
            self._post.deliver(Letter(self._manners, self._ip, self._return_path, rcpt, message_id, content))
        if withheld:
            self._cut()
        else:
            self._say(f"250 {text}\r\n".encode())

    def _decision(
        self, rcpt: str, message_id: str, code: int, text: str, *, accepted: bool = False, withheld: bool = False
    ) -> Note:
        return Note(RecordKind.DOT, self._provider, rcpt, self._return_path, message_id, code, text, accepted, withheld)


_TOO_BIG = answer(552, "5.3.4", "Message size exceeds fixed limit")
_COMMANDS: dict[bytes, Callable[[Session, bytes], None]] = {
    b"EHLO": Session._ehlo,
    b"HELO": Session._ehlo,
    b"MAIL": Session._mail,
    b"RCPT": Session._rcpt,
    b"DATA": Session._data,
    b"RSET": Session._rset,
    b"NOOP": Session._noop,
    b"VRFY": Session._vrfy,
    b"STARTTLS": Session._starttls,
    b"QUIT": Session._quit,
}
