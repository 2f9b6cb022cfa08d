"""One conversation: what is said, in which order, and what every possible answer comes to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from posthouse.delivery import Job, SiteLimits
from posthouse.delivery.session import SessionTimes
from posthouse.mail.replies import Failure, Stage

MakeJob = Callable[..., Job]
PLAIN = "250-peer.test\r\n250 8BITMIME"
UTF8 = "250-peer.test\r\n250-SIZE 1000\r\n250-SMTPUTF8\r\n250-8BITMIME\r\n250 PIPELINING"


def summary(answers: list[Any]) -> list[tuple[Any, ...]]:
    return [(a.stage, a.reply.code if a.reply else a.failure) for a in answers]


async def test_messages_are_pipelined_content_and_next_envelope_in_one_piece(
    peers: Any, sender: Any, job: MakeJob
) -> None:
    peer = await peers()
    async with sender(peer) as post:
        answers = await post.send(job(1), job(2), job(3))
    assert summary(answers) == [(Stage.CONTENT, 250)] * 3
    assert [answer.remote for answer in answers] == ["mx.peer.test"] * 3
    (conversation,) = peer.conversations
    assert conversation[:10] == [
        "EHLO sender.test",
        *("MAIL FROM:<b-1@bounces.sender.test>", "RCPT TO:<r1@peer.test>", "DATA"),
        *("MAIL FROM:<b-2@bounces.sender.test>", "RCPT TO:<r2@peer.test>", "DATA"),
        *("MAIL FROM:<b-3@bounces.sender.test>", "RCPT TO:<r3@peer.test>", "DATA"),
    ]
    assert peer.messages == [b"Subject: hello\r\n\r\nHello"] * 3
    assert peer.groups[0][1] == b"MAIL FROM:<b-1@bounces.sender.test>\r\nRCPT TO:<r1@peer.test>\r\nDATA\r\n"


async def test_without_pipelining_every_command_waits_for_its_answer(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers(EHLO=PLAIN)
    async with sender(peer) as post:
        assert summary(await post.send(job(1), job(2))) == [(Stage.CONTENT, 250)] * 2
    commands = [piece for piece in peer.groups[0] if piece.count(b"\r\n") == 1]
    assert [piece.split(b" ")[0].strip() for piece in commands[:7]] == [
        *(b"EHLO", b"MAIL", b"RCPT", b"DATA", b"MAIL", b"RCPT", b"DATA")
    ]


async def test_helo_is_for_those_who_do_not_know_ehlo(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers(EHLO="502 what?", HELO="250 peer.test")
    async with sender(peer) as post:
        assert summary(await post.send(job())) == [(Stage.CONTENT, 250)]
    assert peer.commands[:3] == ["EHLO sender.test", "HELO sender.test", "MAIL FROM:<b-1@bounces.sender.test>"]


@pytest.mark.parametrize("ehlo", [PLAIN, UTF8], ids=["plain", "pipelined"])
@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({"MAIL": ["550 5.7.1 not you", "250 ok"]}, (Stage.MAIL, 550)),
        ({"RCPT": ["550-5.1.1 no such\r\n550 5.1.1 user", "250 ok"]}, (Stage.RCPT, 550)),
        ({"DATA": ["451 4.3.0 later", "354 go"]}, (Stage.DATA, 451)),
        ({"dot": ["554 5.7.1 spam", "250 ok"]}, (Stage.CONTENT, 554)),
        ({"dot": ["452 4.2.2 full", "250 ok"]}, (Stage.CONTENT, 452)),
    ],
)
async def test_a_refusal_is_answered_at_its_stage_and_the_next_message_goes_on(
    peers: Any, sender: Any, job: MakeJob, ehlo: str, replies: dict[str, Any], expected: tuple[Stage, int]
) -> None:
    peer = await peers(EHLO=ehlo, **replies)
    async with sender(peer, limits=SiteLimits(connections=1)) as post:
        assert summary(await post.send(job(1), job(2))) == [expected, (Stage.CONTENT, 250)]
    assert len(peer.conversations) == 1
    refused_early = expected[0] is not Stage.CONTENT
    assert ("RSET" in peer.commands) is refused_early, "RSET ends a transaction that may still be open"


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({"MAIL": ["451 4.7.1 later", "250 ok"], "RCPT": ["503 MAIL first", "250 ok"]}, (Stage.MAIL, 451)),
        ({"RCPT": ["550 5.1.1 no", "250 ok"]}, (Stage.RCPT, 550)),
    ],
)
async def test_what_follows_from_a_refusal_is_not_the_answer(
    peers: Any, sender: Any, job: MakeJob, replies: dict[str, Any], expected: tuple[Stage, int]
) -> None:
    peer = await peers(DATA=["503 no recipients", "354 go"], **replies)
    async with sender(peer, limits=SiteLimits(connections=1)) as post:
        assert summary(await post.send(job(1), job(2))) == [expected, (Stage.CONTENT, 250)]


async def test_a_server_that_wants_content_for_nobody_gets_an_empty_one(peers: Any, sender: Any, job: MakeJob) -> None:
    """SMTP-13: every recipient was refused, and DATA was on its way already."""
    peer = await peers(RCPT=["550 5.1.1 no", "250 ok"], DATA="354 go", dot=["554 no recipients", "250 ok"])
    async with sender(peer, limits=SiteLimits(connections=1)) as post:
        assert summary(await post.send(job(1), job(2))) == [(Stage.RCPT, 550), (Stage.CONTENT, 250)]
    assert peer.messages == [b"", b"Subject: hello\r\n\r\nHello"]


@pytest.mark.parametrize("ehlo", [PLAIN, UTF8], ids=["plain", "pipelined"])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "dot"])
async def test_421_ends_the_connection_and_is_one_answer(
    peers: Any, sender: Any, job: MakeJob, ehlo: str, verb: str
) -> None:
    """SMTP-17: the message is answered once, what was behind it goes over another connection."""
    peer = await peers(EHLO=ehlo, **{verb: ["421 4.7.0 enough", "354 go" if verb == "DATA" else "250 ok"]})
    stage = Stage.CONTENT if verb == "dot" else Stage[verb]
    async with sender(peer, limits=SiteLimits(connections=1)) as post:
        answers = await post.send(job(1), job(2))
        await post.send(job(3))
        assert [number for number, _ in post.answers] == [1, 2, 3]
    assert summary(answers) == [(stage, 421), (Stage.CONTENT, 250)]
    assert len(peer.conversations) == 2
    assert len([line for line in peer.commands if line.startswith("MAIL FROM:<b-1@")]) == 1


@pytest.mark.parametrize("ehlo", [PLAIN, UTF8], ids=["plain", "pipelined"])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
async def test_a_cut_before_the_content_costs_nothing(
    peers: Any, sender: Any, job: MakeJob, ehlo: str, verb: str
) -> None:
    peer = await peers(EHLO=ehlo, **{verb: [None, "354 go" if verb == "DATA" else "250 ok"]})
    async with sender(peer, limits=SiteLimits(connections=1)) as post:
        assert summary(await post.send(job(1), job(2))) == [(Stage.CONTENT, 250)] * 2
    assert len(peer.messages) == 2


async def test_a_message_on_which_every_connection_breaks_is_answered_in_the_end(
    peers: Any, sender: Any, job: MakeJob
) -> None:
    peer = await peers(MAIL=None)
    async with sender(peer) as post:
        assert summary(await post.send(job())) == [(Stage.MAIL, Failure.CONNECTION_LOST)]
    assert len(peer.conversations) == 3


async def test_a_cut_after_the_final_dot_may_have_been_a_delivery(peers: Any, sender: Any, job: MakeJob) -> None:
    """SMTP-19: the message is not sent again at once; it is deferred like any other."""
    peer = await peers(dot=[None, "250 ok"])
    async with sender(peer, limits=SiteLimits(connections=1)) as post:
        answers = await post.send(job(1), job(2))
    assert summary(answers) == [(Stage.CONTENT, Failure.CONNECTION_LOST), (Stage.CONTENT, 250)]
    assert len(peer.messages) == 2


@pytest.mark.parametrize("ehlo", [PLAIN, UTF8], ids=["plain", "pipelined"])
@pytest.mark.parametrize(
    "replies",
    [
        {"DATA": "250 ok"},
        {"DATA": " 250 ok"},
        {"MAIL": "350 what"},
        {"RCPT": "hello"},
        {"dot": "354 more"},
        {"dot": ""},
    ],
)
async def test_an_answer_out_of_place_is_never_a_delivery(
    peers: Any, sender: Any, job: MakeJob, ehlo: str, replies: dict[str, Any], rulebook: Any
) -> None:
    peer = await peers(EHLO=ehlo, **replies)
    async with sender(peer) as post:
        (answer,) = await post.send(job(1))
    assert rulebook(answer) == "deferred"


async def test_replies_with_blanks_before_them_count(peers: Any, sender: Any, job: MakeJob, rulebook: Any) -> None:
    """SMTP-16."""
    peer = await peers(MAIL=" 250 ok", RCPT=["  250 ok", " 550 5.1.1 no", "250 ok"], DATA=" 354 go", dot=" 250 ok")
    async with sender(peer, limits=SiteLimits(connections=1)) as post:
        answers = await post.send(job(1), job(2), job(3))
    assert [rulebook(answer) for answer in answers] == ["delivered", "bounced", "delivered"]


async def test_an_endless_reply_ends_the_connection(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers(MAIL="\r\n".join(["250-" + "x" * 1_000] * 1_000))
    async with sender(peer) as post:
        assert summary(await post.send(job())) == [(Stage.MAIL, Failure.PROTOCOL_ERROR)]


async def test_leading_dots_are_doubled(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers()
    async with sender(peer) as post:
        await post.send(job(1, content=b".\r\n..\r\na.b\r\n.end\r\n"))
    assert peer.messages == [b"..\r\n...\r\na.b\r\n..end"]


async def test_what_a_server_cannot_take_is_not_sent_to_it(peers: Any, sender: Any, job: MakeJob) -> None:
    """SMTP-12 and SMTP-15, without a byte of the message."""
    small = await peers(EHLO="250-peer.test\r\n250-SIZE 20\r\n250 PIPELINING")
    async with sender(small) as post:
        answers = await post.send(job(1), job(2, content=b"a\r\n"), job(3, recipient="jörg@peer.test", smtputf8=True))
    assert summary(answers) == [
        (Stage.MAIL, Failure.TOO_BIG),
        (Stage.CONTENT, 250),
        (Stage.MAIL, Failure.SMTPUTF8_MISSING),
    ]
    assert small.recipients == ["r2@peer.test"]


async def test_the_envelope_says_what_the_server_wants_to_know(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers(EHLO=UTF8)
    async with sender(peer) as post:
        await post.send(job(1, recipient="jörg@peer.test", content="Ä\r\n".encode(), smtputf8=True, eight_bit=True))
    assert peer.commands[1:3] == [
        "MAIL FROM:<b-1@bounces.sender.test> SIZE=4 BODY=8BITMIME SMTPUTF8",
        "RCPT TO:<jörg@peer.test>",
    ]


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("greeting", (Stage.GREETING, Failure.REPLY_TIMEOUT)),
        ("EHLO", (Stage.EHLO, Failure.REPLY_TIMEOUT)),
        ("dot", (Stage.CONTENT, Failure.REPLY_TIMEOUT)),
    ],
)
async def test_a_silent_server_is_given_up(
    peers: Any, sender: Any, job: MakeJob, verb: str, expected: tuple[Stage, Failure]
) -> None:
    peer = await peers(**{verb: "silence"})
    async with sender(peer, times=SessionTimes(0.2, 0.2, 0.2, 0.2)) as post:
        assert summary(await post.send(job())) == [expected]


async def test_a_reader_that_is_slow_but_reads_is_waited_for(peers: Any, sender: Any, job: MakeJob) -> None:
    reads = asyncio.Event()
    peer = await peers(reads=reads, receive_buffer=4096)
    content = b"x" * 70 + b"\r\n"
    async with sender(peer, times=SessionTimes(5, 5, 30, 5)) as post:
        post.exchange.offer([job(1, content=content * 200_000)])
        await asyncio.sleep(1.5)
        assert post.answers == []
        reads.set()
        assert summary(await post.told(1)) == [(Stage.CONTENT, 250)]


async def test_a_peer_that_stops_reading_is_given_up(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers(reads=asyncio.Event(), receive_buffer=4096)
    async with sender(peer, times=SessionTimes(5, 5, 0.5, 30)) as post:
        answers = await post.send(job(1, content=(b"x" * 70 + b"\r\n") * 200_000))
    assert summary(answers) == [(Stage.CONTENT, Failure.REPLY_TIMEOUT)]
