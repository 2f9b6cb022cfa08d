"""A server that others wrote takes what we send, octet by octet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from posthouse.delivery import Job, SiteLimits
from posthouse.mail.replies import Stage

MakeJob = Callable[..., Job]


class Box:
    """What aiosmtpd took."""

    def __init__(self) -> None:
        self.taken: list[tuple[str | None, list[str], bytes, list[str]]] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.taken.append((envelope.mail_from, list(envelope.rcpt_tos), envelope.content, list(envelope.mail_options)))
        return "250 2.0.0 taken"


@pytest.mark.parametrize("utf8", [False, True])
async def test_aiosmtpd_takes_it(peers: Any, sender: Any, job: MakeJob, utf8: bool) -> None:
    box = Box()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(box, loop=loop, enable_SMTPUTF8=utf8), "127.0.0.1", 0)
    peer = await peers("127.0.0.2")
    peer.server = server
    contents = [b".\r\n.a\r\n..\r\n\r\n", b"x" * 998 + b"\r\n", "Grüße\r\n".encode(), b"Subject: a\r\n\r\nb\r\n"]
    jobs = [job(n, content=content, eight_bit=not content.isascii()) for n, content in enumerate(contents, 1)]
    if utf8:
        jobs.append(job(9, recipient="jörg@peer.test", smtputf8=True))
    try:
        async with sender(peer, limits=SiteLimits(connections=1)) as post:
            answers = await post.send(*jobs)
    finally:
        server.close()
    assert [(answer.stage, answer.reply.code) for answer in answers] == [(Stage.CONTENT, 250)] * len(jobs)
    assert [content for _, _, content, _ in box.taken][:4] == contents
    assert box.taken[0][:2] == ("b-1@bounces.sender.test", ["r1@peer.test"])
    assert "BODY=8BITMIME" in box.taken[2][3]
    if utf8:
        assert box.taken[4][1] == ["jörg@peer.test"]
