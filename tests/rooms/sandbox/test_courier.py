"""How providers hand notices to the sender's door: content unharmed, and every answer told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP

from posthouse.sandbox.courier import send_notice


class Door:
    """Keeps envelopes; refuses one recipient for good."""

    def __init__(self) -> None:
        self.envelopes: list[Any] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address.startswith("nobody"):
            return "550-5.1.1 No\r\n550 5.1.1 such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.envelopes.append(envelope)
        return "250 2.0.0 kept"


async def test_a_notice_arrives_as_it_was_written() -> None:
    door = Door()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(door, enable_SMTPUTF8=True, loop=loop), "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    content = "Subject: x\r\n\r\n.\r\n..ä\r\n".encode()
    assert await send_notice(address, "mx1.x.test", "", "b@news.example", content) == (250, "2.0.0 kept")
    assert await send_notice(address, "mx1.x.test", "f@x.test", "nobody@news.example", b"\r\n") == (
        550,
        "5.1.1 such mailbox",
    )
    assert (await send_notice(address, "mx1.x.test", "f@x.test", "grün@news.example", b"\r\n"))[0] == 250
    server.close()
    assert [(e.mail_from, e.rcpt_tos, e.content) for e in door.envelopes] == [
        ("<>", ["b@news.example"], content),
        ("f@x.test", ["grün@news.example"], b"\r\n"),
    ]
    assert door.envelopes[0].mail_options == ["BODY=8BITMIME"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [(b"", "IncompleteReadError"), (b"hello\r\n", "ValueError"), (b"421 4.3.2 Closing\r\n", "IncompleteReadError")],
)
async def test_a_peer_that_speaks_no_smtp_is_no_answer(said: bytes, expected: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    code, text = await send_notice(address, "mx1.x.test", "", "b@news.example", b"\r\n")
    server.close()
    assert code == 0
    assert expected in text or "Connection" in text
    assert (await send_notice(address, "mx1.x.test", "", "b@news.example", b"\r\n"))[0] == 0
