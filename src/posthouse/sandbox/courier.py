"""How providers send mail to Posthouse's own door: one message, one connection."""

from __future__ import annotations

import asyncio

_SECONDS = 30.0


async def send_notice(door: tuple[str, int], host: str, return_path: str, rcpt: str, content: bytes) -> tuple[int, str]:
    """Deliver one message (CRLF lines) and give the last reply: code and text; code 0 where nobody answered.

    door: address and port; host: the name to greet with; return_path: empty for a DSN (RFC 5321 §4.5.5).
    """
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection(*door)
            try:
                return await _converse(reader, writer, host, return_path, rcpt, content)
            finally:
                writer.close()
    except (OSError, EOFError, TimeoutError, ValueError) as error:
        return 0, f"{type(error).__name__}: {error}"


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, return_path: str, rcpt: str, content: bytes
) -> tuple[int, str]:
    body = "" if content.isascii() else " BODY=8BITMIME"
    utf8 = "" if (return_path + rcpt).isascii() else " SMTPUTF8"
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    code, text = await _reply(reader)
    for line, expected in (
        (f"EHLO {host}\r\n".encode(), 250),
        (f"MAIL FROM:<{return_path}>{body}{utf8}\r\n".encode(), 250),
        (f"RCPT TO:<{rcpt}>\r\n".encode(), 250),
        (b"DATA\r\n", 354),
        (stuffed + b".\r\n", 250),
    ):
        writer.write(line)
        await writer.drain()
        code, text = await _reply(reader)
        if code != expected:
            break
    writer.write(b"QUIT\r\n")
    return code, text


async def _reply(reader: asyncio.StreamReader) -> tuple[int, str]:
    """The last line of one reply. Raises ValueError where it is none, EOFError where the peer hangs up."""
    while True:
        line = await reader.readuntil(b"\n")
        if line[3:4] != b"-":
            return int(line[:3]), line[4:].decode("utf-8", "replace").strip()
