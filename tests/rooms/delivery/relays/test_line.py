"""A line in the place of a session: the same contract with its feed, several messages at once, never faster than the account may send."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from typing import Any

import pytest

from posthouse.delivery import Answer, Job, Route
from posthouse.delivery.relays import Quota, RelayClient, RelayKind, RelayLine, open_line
from posthouse.delivery.relays.quota import Allowance
from posthouse.mail.replies import Failure
from posthouse.model.messages import Composed, Copy

MAILGUN = RelayKind.MAILGUN


class Desk:
    """A feed that writes down what it is told."""

    def __init__(self, jobs: int, message: Composed) -> None:
        self.waiting = deque(self._job(number, message) for number in range(jobs))
        self.answers: list[Answer] = []
        self.told: list[str] = []
        self.quits_when_idle = False
        self.changed = asyncio.Event()

    @staticmethod
    def _job(number: int, message: Composed) -> Job:
        copy = Copy(1, number, 1, 1, 1, 1, 1, 1, message.recipient, {}, 0)
        return Job(copy, Route(1, "site", ()), lambda _: message, time.monotonic() + 60)

    def next_job(self, session: RelayLine) -> Job | None:
        assert not session.is_over
        if not self.waiting:
            return None
        job = self.waiting.popleft()
        job.composed = job.compose(job.copy)
        return job

    def answered(self, job: Job, answer: Answer) -> None:
        self.answers.append(answer)
        self._note("answered")

    def returned(self, job: Job, failure: Failure) -> None:
        self.waiting.append(job)
        self._note("returned")

    def idled(self, session: RelayLine) -> None:
        assert session.idle_since is not None
        if self.quits_when_idle:
            session.quit()
        self._note("idled")

    def closed(self, session: RelayLine) -> None:
        assert session.is_over
        self._note("closed")

    def _note(self, what: str) -> None:
        self.told.append(what)
        self.changed.set()

    async def until(self, what: str, times: int = 1) -> None:
        while self.told.count(what) < times:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 10)


async def _line(client: RelayClient, desk: Desk, parallel: int) -> RelayLine:
    line = await open_line(client, desk, parallel)
    assert isinstance(line, RelayLine)
    return line


async def test_messages_go_at_once_but_never_more_than_allowed(
    http_peer: Any, client_at: Any, message: Composed, accepted: Any
) -> None:
    desk = Desk(10, message)
    async with http_peer([accepted[MAILGUN]]) as (peer, port), client_at(MAILGUN, port) as client:
        peer.gate = asyncio.Event()
        line = await _line(client, desk, 4)
        line.start()
        line.start()  # harmless at any time
        while peer.under_way < 4:
            await asyncio.sleep(0.005)
        assert (len(desk.waiting), line.has_room, line.idle_since) == (6, False, None)
        peer.gate.set()
        await desk.until("idled")
    assert (peer.most_under_way, line.sent) == (4, 10)
    assert [answer.remote_id for answer in desk.answers] == ["<mg-abc@mg.example.com>"] * 10
    assert desk.told == ["answered"] * 10 + ["idled"]


async def test_an_idle_line_wakes_and_quits(http_peer: Any, client_at: Any, message: Composed, accepted: Any) -> None:
    desk, more = Desk(1, message), Desk(2, message)
    async with http_peer([accepted[MAILGUN]]) as (_, port), client_at(MAILGUN, port) as client:
        line = await _line(client, desk, 2)
        line.start()
        await desk.until("idled")
        desk.waiting.extend(more.waiting)
        desk.quits_when_idle = True
        line.start()
        assert line.idle_since is None
        await desk.until("closed")
        line.start()
        line.quit()
        await asyncio.sleep(0)
    assert desk.told == ["answered", "idled", "answered", "answered", "idled", "closed"]


async def test_quit_lets_what_is_under_way_finish(
    http_peer: Any, client_at: Any, message: Composed, accepted: Any
) -> None:
    desk = Desk(5, message)
    async with http_peer([accepted[MAILGUN]]) as (peer, port), client_at(MAILGUN, port) as client:
        peer.gate = asyncio.Event()
        line = await _line(client, desk, 2)
        line.start()
        while peer.under_way < 2:
            await asyncio.sleep(0.005)
        line.quit()
        peer.gate.set()
        await desk.until("closed")
    assert desk.told == ["answered", "answered", "closed"]
    assert len(desk.waiting) == 3


async def test_abort_answers_what_may_have_been_taken_and_returns_what_was_not(
    http_peer: Any, client_at: Any, message: Composed
) -> None:
    desk = Desk(1, message)
    async with http_peer(["hang"]) as (peer, port), client_at(MAILGUN, port) as client:
        line = await _line(client, desk, 2)
        line.start()
        while not peer.seen:
            await asyncio.sleep(0.005)
        desk.waiting.extend(Desk(1, message).waiting)
        line.start()
        line.abort()  # the second one's request has not even begun
        await desk.until("closed")
    assert sorted(desk.told[:2]) == ["answered", "returned"]
    assert desk.told[2:] == ["closed"]
    assert desk.answers[0].failure is Failure.CONNECTION_LOST
    assert desk.answers[0].verdict is not None
    assert not desk.answers[0].verdict.permanent


async def test_a_claim_that_lapses_ends_the_request(http_peer: Any, client_at: Any, message: Composed) -> None:
    desk = Desk(1, message)
    desk.waiting[0].give_up = time.monotonic() + 0.1
    async with http_peer(["hang"]) as (_, port), client_at(MAILGUN, port) as client:
        (await _line(client, desk, 1)).start()
        await desk.until("answered")
    assert desk.answers[0].failure is Failure.REPLY_TIMEOUT


async def test_a_fault_of_ours_loses_no_message(http_peer: Any, client_at: Any, message: Composed) -> None:
    desk = Desk(2, message)
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
    async with http_peer(["hang"]) as (_, port), client_at(MAILGUN, port) as client:
        desk.waiting[0].compose = lambda _: Composed("b", "a", None)  # type: ignore[arg-type]
        (await _line(client, desk, 1)).start()
        await desk.until("closed")
    assert (len(desk.answers), desk.answers[0].failure) == (1, Failure.CONNECTION_LOST)
    assert [type(fault) for fault in faults] == [TypeError]


def _account(rate: float, most: float, sent: float, sending: bool = True) -> Any:
    account = {
        "SendQuota": {"Max24HourSend": most, "MaxSendRate": rate, "SentLast24Hours": sent},
        "SendingEnabled": sending,
    }
    return 200, {}, json.dumps(account).encode()


async def test_an_account_without_room_takes_nothing_until_it_has_room_again(
    http_peer: Any, client_at: Any, message: Composed, accepted: Any
) -> None:
    left = [_account(100, 50, 48), _account(100, 50, 49)]

    def says(request: Any) -> Any:
        return left.pop(0) if request.method == "GET" else accepted[RelayKind.SES]

    desk = Desk(5, message)
    async with http_peer(says) as (_, port), client_at(RelayKind.SES, port) as client:
        line = await _line(client, desk, 3)
        assert line.obstacle is None
        line.start()
        await desk.until("idled")
        assert (len(desk.answers), len(desk.waiting)) == (2, 3)
        assert line.obstacle == "127.0.0.1 takes no more messages from this account within its 24 hours."
        line.check_time(time.monotonic())
        assert len(left) == 1  # the limits are fresh: nobody asks again every second
        client._asked_at = -math.inf
        line.check_time(time.monotonic())
        await desk.until("answered", 3)
        line.abort()


async def test_a_paused_account_is_named(http_peer: Any, client_at: Any, message: Composed) -> None:
    async with http_peer([_account(1, 50, 0, sending=False)]) as (peer, port), client_at(RelayKind.SES, port) as client:
        desk = Desk(1, message)
        line = await _line(client, desk, 1)
        line.start()
        assert desk.told == ["idled"]
        assert line.obstacle == "Amazon SES has paused this account's sending."
    assert [request.method for request in peer.seen] == ["GET"]


@pytest.mark.parametrize(("says", "opens"), [((500, {}, b""), False), ("reset", False), ((403, {}, b"{}"), True)])
async def test_a_relay_that_is_down_opens_no_line(
    http_peer: Any, client_at: Any, message: Composed, says: Any, opens: bool
) -> None:
    async with http_peer([says]) as (_, port), client_at(RelayKind.SES, port) as client:
        opened = await open_line(client, Desk(0, message), 1)
    assert isinstance(opened, RelayLine) is opens
    if isinstance(opened, Answer):
        assert opened.verdict is not None
        assert not opened.verdict.permanent


async def test_the_rate_is_kept_and_waited_for(
    http_peer: Any, client_at: Any, message: Composed, accepted: Any
) -> None:
    desk = Desk(4, message)
    async with http_peer([accepted[RelayKind.SES]]) as (_, port), client_at(RelayKind.SES, port) as client:
        line = RelayLine(client, desk, 10)
        client.allowance.learn(Quota(per_second=20.0, per_day=None, sent=0), time.monotonic() - 1)
        for _ in range(19):
            client.allowance.take(time.monotonic())
        begun = time.monotonic()
        line.start()
        await desk.until("idled")
        # One token is left and three come in 150 ms; the machine may be slower, never faster.
        assert time.monotonic() - begun > 0.1
        assert desk.told == ["answered"] * 4 + ["idled"]


def test_an_allowance_gives_its_share_and_no_burst() -> None:
    allowance = Allowance(share=0.5)
    assert [allowance.take(0.0) for _ in range(3)] == [0.0] * 3  # before anybody told it a limit
    allowance.learn(Quota(per_second=8.0, per_day=None, sent=0), 100.0)
    assert [allowance.take(100.0) for _ in range(5)] == [0.0] * 4 + [0.25]
    assert allowance.take(100.25) == 0.0
    assert [allowance.take(9000.0) for _ in range(5)] == [0.0] * 4 + [
        0.25
    ]  # one second's worth, however long the pause
    allowance.give_back()
    assert allowance.take(9000.0) == 0.0
    allowance.learn(Quota(per_second=8.0, per_day=100, sent=96), 9010.0)
    assert [allowance.take(9010.0) for _ in range(3)] == [0.0, 0.0, math.inf]
    allowance.give_back()
    assert allowance.take(9011.0) == 0.0
    allowance.learn(Quota(per_second=0.0, per_day=None, sent=0), 9020.0)
    assert [allowance.take(9021.0) for _ in range(2)][-1] == math.inf
