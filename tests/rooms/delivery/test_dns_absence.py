"""The quick look whether a name has a record: it says so only where nothing else could be meant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from posthouse.delivery.dns_absence import absence

TXT = 16


class Server(asyncio.DatagramProtocol):
    """A name server that answers by the script; answers: what `say` makes of each question."""

    def __init__(self, say: Callable[[bytes], list[bytes]]) -> None:
        self._say = say
        self.asked: list[bytes] = []
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.asked.append(data)
        for answer in self._say(data):
            self._transport.sendto(answer, addr)


async def look(say: Callable[[bytes], list[bytes]], name: str = "_mta-sts.a.test") -> tuple[int | None, list[bytes]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Server(say), local_addr=("127.0.0.1", 0))
    try:
        return await absence(name, TXT, *transport.get_extra_info("sockname")), server.asked
    finally:
        transport.close()


def reply(question: bytes, *, rcode: int = 3, answers: int = 0, flags: int = 0x81) -> bytes:
    return question[:2] + bytes((flags, 0x80 | rcode, 0, 1, 0, answers, 0, 1, 0, 0)) + question[12:] + b"authority"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({}, 3),
        ({"rcode": 0}, 0),
        ({"rcode": 0, "answers": 1}, None),
        ({"rcode": 3, "answers": 1}, None),
        ({"rcode": 2}, None),
        ({"rcode": 5}, None),
        ({"rcode": 0, "flags": 0x83}, None),
    ],
)
async def test_only_plain_absence_is_absence(said: dict[str, int], found: int | None) -> None:
    assert (await look(lambda question: [reply(question, **said)]))[0] == found


async def test_the_question_is_one() -> None:
    _, (asked,) = await look(lambda question: [reply(question)])
    assert asked[2:] == b"\x01\x00\x00\x01" + bytes(6) + b"\x08_mta-sts\x01a\x04test\x00" + b"\x00\x10\x00\x01"


async def test_what_was_not_asked_is_not_heard() -> None:
    """A forged answer has another id; an answer to another question decides nothing."""

    def other_id(question: bytes) -> bytes:
        return bytes((question[0] ^ 1, question[1])) + reply(question)[2:]

    found, _ = await look(
        lambda question: [
            b"",
            other_id(question),
            question,
            reply(question)[:20],
            reply(question, rcode=0),
            reply(question),
        ]
    )
    assert found == 0
    assert (await look(lambda question: [reply(question.replace(b"test", b"TEST"))]))[0] is None


async def test_a_name_that_dns_cannot_carry_is_not_asked() -> None:
    for name in ("a" * 64 + ".test", "a..test", "ä.test", ".".join("a" * 60 for _ in range(5))):
        assert await look(lambda question: [reply(question)], name) == (None, [])


async def test_a_server_that_is_not_there_decides_nothing() -> None:
    assert await absence("a.test", TXT, "127.0.0.9", 9) is None
    assert await absence("a.test", TXT, "not an address", 9) is None


async def test_a_silent_server_decides_nothing() -> None:
    assert (await look(lambda question: []))[0] is None
