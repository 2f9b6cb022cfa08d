"""Many messages, few connections: reuse, limits, rests and an orderly end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from posthouse.delivery import ExchangeLimits, Job, SiteLimits
from posthouse.mail.replies import Failure, Stage

MakeJob = Callable[..., Job]
ONE = SiteLimits(connections=1)


async def test_a_connection_is_kept_and_used_again(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers()
    async with sender(peer) as post:
        for number in range(5):
            await post.send(job(number))
    assert len(peer.conversations) == 1


async def test_a_connection_is_closed_after_its_share(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers()
    limits = SiteLimits(connections=1, messages_per_connection=2)
    async with sender(peer, limits=limits) as post:
        await post.send(*(job(number) for number in range(5)))
    mails = [[line for line in said if line.startswith("MAIL")] for said in peer.conversations]
    assert [len(said) for said in mails] == [2, 2, 1]
    assert [said[-1] for said in peer.conversations[:2]] == ["QUIT", "QUIT"]


async def test_a_farewell_to_an_idle_connection_costs_nothing(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers(dot=["250 ok\r\n421 4.4.2 idle for too long", "250 ok"])
    async with sender(peer) as post:
        await post.send(job(1))
        await post.send(job(2))
    assert len(peer.messages) == 2
    assert len(peer.conversations) == 2


async def test_a_site_gets_no_more_connections_than_allowed(peers: Any, sender: Any, job: MakeJob) -> None:
    gate = asyncio.Event()
    peer = await peers(reads=gate)
    async with sender(peer, limits=SiteLimits(connections=3)) as post:
        post.exchange.offer([job(number) for number in range(40)])
        async with asyncio.timeout(10):
            while sum("DATA" in said for said in peer.conversations) < 3:
                await asyncio.sleep(0.01)
        # A second look at the waiting messages, which the exchange takes every second, must not open more.
        await asyncio.sleep(1.2)
        assert len(peer.conversations) == 3
        gate.set()
        await post.told(40)
    assert len(peer.messages) == 40


async def test_ways_beyond_the_limit_of_all_connections_take_their_turns(
    peers: Any, sender: Any, job: MakeJob, make_zone: Any
) -> None:
    peer = await peers()
    hosts = [f"mx{number}.peer.test" for number in range(6)]
    zone = make_zone({host: ["127.0.0.1"] for host in hosts})
    async with sender(peer, zone=zone, totals=ExchangeLimits(connections=2)) as post:
        jobs = [job(number, hosts=[host], site=number, lane=number) for number, host in enumerate(hosts)]
        answers = await post.send(*jobs)
    assert [answer.remote for answer in answers] == hosts
    assert len(peer.messages) == 6


async def test_a_message_that_was_settled_while_it_waited_is_not_sent(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers()
    async with sender(peer) as post:
        post.exchange.offer([job(1, compose=lambda _: None), job(2)])
        await post.told(1)
        assert post.exchange.held == 0
    assert peer.recipients == ["r2@peer.test"]


async def test_a_message_whose_claim_lapses_before_it_could_end_is_let_go(
    peers: Any, sender: Any, job: MakeJob
) -> None:
    """Another sender may take it up then: nobody begins what two could finish."""
    peer = await peers()
    async with sender(peer, totals=ExchangeLimits(longest_transaction=60.0)) as post:
        late, early = job(1), job(2)
        late.give_up = time.monotonic() + 59
        early.give_up = time.monotonic() + 90
        post.exchange.offer([late, early])
        await post.told(2)
    assert post.returned == [(1, "waited-too-long")]
    assert peer.recipients == ["r2@peer.test"]


async def test_what_waits_for_a_resting_site_goes_back_and_the_rest_is_left_alone(
    peers: Any, sender: Any, job: MakeJob, make_zone: Any
) -> None:
    gate = asyncio.Event()
    peer = await peers(reads=gate)
    zone = make_zone({"mx.peer.test": ["127.0.0.1"], "mx.other.test": ["127.0.0.1"]})
    async with sender(peer, zone=zone, limits=ONE) as post:
        post.exchange.offer([job(1), job(2), job(3), job(4, hosts=["mx.other.test"], site=8)])
        async with asyncio.timeout(10):
            while sum("DATA" in said for said in peer.conversations) < 2:
                await asyncio.sleep(0.01)
        post.exchange.rest(0, 7, "site-resting")
        taken = {1, 2} - {number for number, _ in post.returned}
        assert {(3, "site-resting")} <= set(post.returned)
        gate.set()
        await post.told(4)
    assert {number for number, _ in post.answers} == taken | {4}


async def test_stopping_gives_back_what_waits_and_finishes_what_is_under_way(
    peers: Any, sender: Any, job: MakeJob
) -> None:
    gate = asyncio.Event()
    peer = await peers(EHLO="250 peer.test", reads=gate)
    async with sender(peer, limits=ONE) as post:
        post.exchange.offer([job(1), job(2)])
        async with asyncio.timeout(10):
            while "DATA" not in peer.commands:
                await asyncio.sleep(0.01)
        closing = asyncio.create_task(post.exchange.close(20.0))
        await asyncio.sleep(0.05)
        assert post.returned == [(2, "sender-stopping")]
        gate.set()
        await closing
        assert [(number, answer.reply.code) for number, answer in post.answers] == [(1, 250)]


@pytest.mark.parametrize(("silent_at", "kept"), [(("MAIL", "RCPT", "DATA"), True), (("dot",), False)])
async def test_what_cannot_finish_in_time_goes_back_or_is_told_as_lost(
    peers: Any, sender: Any, job: MakeJob, silent_at: tuple[str, ...], kept: bool
) -> None:
    peer = await peers(**dict.fromkeys(silent_at, "silence"))
    async with sender(peer) as post:
        post.exchange.offer([job(1)])
        async with asyncio.timeout(10):
            while "DATA" not in peer.commands:
                await asyncio.sleep(0.01)
        await post.exchange.close(0.2)
        if kept:
            assert post.returned == [(1, "sender-stopping")]
        else:
            assert [(a.stage, a.failure) for _, a in post.answers] == [(Stage.CONTENT, Failure.CONNECTION_LOST)]
        assert post.exchange.held == 0


async def test_a_lane_is_given_more_only_as_fast_as_it_empties(peers: Any, sender: Any, job: MakeJob) -> None:
    gate = asyncio.Event()
    peer = await peers(reads=gate)
    async with sender(peer) as post:
        assert post.exchange.room(1) == 40
        post.exchange.offer([job(number) for number in range(30)])
        assert post.exchange.room(1) == 0, "not until half of it is gone"
        assert post.exchange.room(2) == 40, "another lane has room of its own"
        gate.set()
        await post.told(30)
        assert post.exchange.room(1) >= 40
