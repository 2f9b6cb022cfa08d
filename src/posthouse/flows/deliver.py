"""Deliver: one sender process takes due messages from the queue, composes them, sends them and settles what was answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import structlog
from msgspec import structs

from posthouse import delivery, queue
from posthouse.app import App
from posthouse.db.pool import DATABASE_TROUBLE
from posthouse.delivery import Answer, Blocked, Exchange, ExchangeLimits, Job, LaneKind, Paths
from posthouse.delivery.dial import Dialler, DialRules
from posthouse.delivery.session import SessionTimes
from posthouse.flows.composing_desk import Desk
from posthouse.flows.settle import Settler, open_journal, prune_journal, replay
from posthouse.flows.wake import QUEUE_CHANNEL
from posthouse.model.messages import Copy
from posthouse.model.outcomes import Verdict
from posthouse.model.waiting import WaitReason
from posthouse.queue import DueLane, Journal, JournalFull, LaneRoom
from posthouse.reputation import RecentSuppressions

_log = structlog.get_logger()
_IDLE_SECONDS = 0.5
_BUSY_SECONDS = 0.02
_POLL_SECONDS = 1.0
# A rehearsal's clock waits for what the senders tell.
_REHEARSED_POLL_SECONDS = 0.1
_RESCAN_SECONDS = 5.0
_FINISH_SECONDS = 30.0
_MOST_CLAIMED = 2_000
_LANES_AT_ONCE = 1_000
# Claimed messages that wait for DNS; more are not claimed before some of them have their route.
_MOST_UNROUTED = 4_000
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
# A rest where a rule gives no time of its own.
_REST_SECONDS = 3600.0
_MICROSECONDS = 1e-6
# Allowance that opens a path again which ran dry, in seconds of its rate; in a rehearsal what one jump of the clock should bring.
_WORTH_SECONDS, _BLOCK_SECONDS = 0.5, 20.0


async def deliver(app: App, slot: int, senders: int, stop: asyncio.Event) -> None:
    """Run sender number `slot` of `senders` until `stop` is set; what is under way then finishes, the rest goes back."""
    journal = await _journal_with_room(app, slot, stop)
    if journal is None:
        return
    try:
        replayed = await replay(app, journal, slot)
        if replayed:
            _log.info("outcomes of an earlier run replayed", slot=slot, outcomes=replayed)
        prune_journal(app, journal)
        if not app.tls.dane and not app.sandbox and slot == 0:
            _log.info("DANE is off: dns.validating is not set", slot=slot)
        async with Settler(app, journal, slot) as settler:
            await _Sender(app, settler, slot, senders).run(stop)
    finally:
        journal.close()


async def _journal_with_room(app: App, slot: int, stop: asyncio.Event) -> Journal | None:
    """The sender's journal, once its disk has room; None when `stop` comes first."""
    while not stop.is_set():
        try:
            return await open_journal(app, slot)
        except JournalFull as full:
            _log.warning("a sender waits for room", slot=slot, reason=str(full))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _POLL_SECONDS)
    return None


class _Sender:
    def __init__(self, app: App, settler: Settler, slot: int, senders: int) -> None:
        self._app = app
        self._settler = settler
        self._recent = RecentSuppressions(app.settings.delivery.in_flight_minutes * 60)
        self._desk = Desk(app, settler, self._recent)
        self._exchange = _exchange(app, self._answered, self._returned)
        self._paths = Paths(
            app.routes.limits,
            app.node,
            slot,
            senders,
            app.chance,
            worth=_BLOCK_SECONDS if app.sandbox else _WORTH_SECONDS,
        )
        self._lanes: list[DueLane] = []
        self._kinds: dict[int, LaneKind] = {}
        self._floors: dict[int, datetime] = {}
        self._wake = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._unrouted = 0
        self._poll = _REHEARSED_POLL_SECONDS if app.sandbox else _POLL_SECONDS
        self._in_flight = timedelta(minutes=app.settings.delivery.in_flight_minutes)

    async def run(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        polled = rescanned = 0.0
        listener = asyncio.create_task(self._listen())
        stopper = asyncio.create_task(stop.wait())
        stopper.add_done_callback(lambda _: self._wake.set())
        try:
            await self._paths.begin(self._app.db)
            while not stop.is_set():
                now = loop.time()
                if now - rescanned > _RESCAN_SECONDS:
                    self._floors.clear()
                    rescanned = now
                try:
                    if now - polled > self._poll or not self._lanes:
                        await self._look_around()
                        polled = now
                    claimed = await self._claim()
                except DATABASE_TROUBLE as error:
                    _log.warning("the database does not answer; trying again", error=str(error))
                    self._lanes = []
                    claimed = 0
                if not claimed:
                    await self._pause(_BUSY_SECONDS if self._exchange.held else _IDLE_SECONDS)
        finally:
            listener.cancel()
            stopper.cancel()
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)
            await self._exchange.close(_FINISH_SECONDS)
            await self._desk.close()
            await asyncio.gather(listener, *self._background, return_exceptions=True)

    async def _look_around(self) -> None:
        now = self._app.clock.now()
        await self._desk.look_around()
        await self._paths.refresh(self._app.db, now, self._desk.ceilings(self._paths.addresses))
        self._lanes = await queue.due_lanes(self._app.db, now, sandbox=self._app.sandbox)
        for lane in self._lanes:
            if lane.lane_id not in self._kinds:
                self._kinds[lane.lane_id] = LaneKind(lane.pool, lane.priority, lane.site_id, lane.site)
        await self._paths.tell(self._app.db, now)
        await self._recent.refresh(self._app.db, now)

    async def _claim(self) -> int:
        """Claim for every lane that has room, urgent lanes first; returns how many were taken."""
        if not self._settler.may_claim or self._unrouted > _MOST_UNROUTED:
            return 0
        app = self._app
        rooms: list[LaneRoom] = []
        asked: set[int] = set()
        now = app.clock.now_us()
        # Lanes of several workspaces and priorities share a path.
        planned: dict[tuple[str, int], int] = {}
        for lane in self._lanes:
            room = self._exchange.room(lane.lane_id)
            if room > 0:
                path = (lane.pool, lane.site_id)
                room = min(room, self._paths.room(self._kinds[lane.lane_id], now) - planned.get(path, 0))
            if room > 0:
                planned[path] = planned.get(path, 0) + room
                rooms.append(LaneRoom(lane.lane_id, room, self._floors.get(lane.lane_id, _LONG_AGO)))
                asked.add(lane.lane_id)
                if len(rooms) == _LANES_AT_ONCE:
                    break
        if not rooms:
            return 0
        give_up = time.monotonic() + self._in_flight.total_seconds()
        claimed = await queue.claim(
            app.db, rooms, app.clock.now(), self._in_flight, most=_MOST_CLAIMED, sources=self._paths.source_ids
        )
        self._floors.update(claimed.dues)
        if len(claimed.copies) < _MOST_CLAIMED:
            # Every lane that was asked gave what it had; those that gave nothing are empty until the next look around.
            self._lanes = [lane for lane in self._lanes if lane.lane_id in claimed.dues or lane.lane_id not in asked]
        routed, unrouted = self._desk.part(claimed.copies)
        await self._prepare(routed, give_up)
        if unrouted:
            # DNS may take its time: what it has not answered yet must not hold up the rest.
            self._unrouted += len(unrouted)
            self._in_background(self._prepare_unrouted(unrouted, give_up))
        return len(claimed.copies)

    async def _prepare(self, copies: Sequence[Copy], give_up: float) -> None:
        """Copies become jobs of the exchange; where that fails they go back to the queue."""
        try:
            jobs = await self._desk.jobs(copies, give_up)
            self._exchange.offer([job for job in jobs if self._has_source(job)])
        except BaseException:
            self._settler.put_back(copies, "sender-fault")
            raise

    def _has_source(self, job: Job) -> bool:
        """Give a job its source and its share of the allowance there; without one it goes back, to fall due when there may be."""
        lane = self._kinds[job.copy.lane_id]
        if job.route.site_id != lane.site_id:
            # DNS has moved the domain since the launch, or had not answered then.
            lane = LaneKind(lane.pool, lane.priority, job.route.site_id, job.route.site)
        now = self._app.clock.now_us()
        source = self._paths.assign(lane, job.copy.pinned_source, now)
        if isinstance(source, Blocked):
            due = datetime.fromtimestamp(source.until * _MICROSECONDS, UTC)
            self._settler.put_back([job.copy], source.reason, due)
            return False
        job.source = source
        job.limits = self._paths.limits(source.name, lane)
        return True

    async def _prepare_unrouted(self, copies: Sequence[Copy], give_up: float) -> None:
        try:
            await self._prepare(copies, give_up)
        except DATABASE_TROUBLE as error:
            _log.warning("messages go back to the queue", reason=str(error), messages=len(copies))
        finally:
            self._unrouted -= len(copies)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _answered(self, job: Job, answer: Answer) -> None:
        app = self._app
        now = app.clock.now_us()
        outcome, verdict = delivery.judge(job.copy, answer, app.rules, app.schedule, now, app.chance)
        source_id, site_id = job.source.source_id, job.route.site_id
        if source_id or site_id != job.copy.site_id:
            # The lane has the site that DNS named at launch, or none when it did not answer then.
            outcome = structs.replace(outcome, site_id=site_id, source_id=source_id)
        self._settler.note(outcome)
        reply = f"{outcome.code} {outcome.text}"
        if not self._paths.heard(source_id, site_id, verdict, reply, now):
            return
        self._exchange.rest(source_id, site_id, WaitReason.RATE_LIMIT)
        if verdict is not None and delivery.rests(verdict):
            self._hold(source_id, site_id, verdict, reply)

    def _hold(self, source_id: int, site_id: int, verdict: Verdict, reply: str) -> None:
        """Let a site rest from a source: at once here, and within a second at the other senders."""
        app = self._app
        until = app.clock.now() + timedelta(seconds=verdict.hold_seconds or _REST_SECONDS)
        self._in_background(delivery.start_rest(app.db, source_id, site_id, until, verdict.bounce_class.value, reply))

    def _returned(self, jobs: Sequence[Job], reason: str) -> None:
        if reason != WaitReason.RATE_LIMIT:  # a refusal leaves no allowance to give back
            for job in jobs:
                self._paths.refund(job.source.source_id, job.route.site_id)
        self._settler.put_back([job.copy for job in jobs], reason)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()

    async def _listen(self) -> None:
        """Wake at once when the queue grows or somebody is suppressed; polling catches what a broken connection misses."""

        def heard(*_: object) -> None:
            self._lanes = []
            self._wake.set()

        while True:
            try:
                connection = await asyncpg.connect(self._app.database_url)
                try:
                    await connection.add_listener(QUEUE_CHANNEL, heard)
                    await connection.add_listener("posthouse_suppressed", heard)
                    while not connection.is_closed():  # noqa: ASYNC110 -- asyncpg tells of a broken connection in no other way
                        await asyncio.sleep(_POLL_SECONDS)
                finally:
                    await connection.close(timeout=1)
            except DATABASE_TROUBLE:
                await asyncio.sleep(_POLL_SECONDS)


def _exchange(
    app: App,
    answered: Callable[[Job, Answer], None],
    put_back: Callable[[Sequence[Job], str], None],
) -> Exchange:
    settings = app.settings.delivery
    times = SessionTimes(
        settings.greeting_seconds, settings.command_seconds, settings.block_seconds, settings.final_dot_seconds
    )
    rules = DialRules(
        port=settings.port,
        ehlo_name=app.settings.sender.ehlo_name or app.mail_host,
        connect_seconds=settings.connect_seconds,
        times=times,
        allow_private_addresses=settings.allow_private_addresses,
        require_tls=settings.require_tls,
    )
    limits = ExchangeLimits(
        longest_transaction=settings.longest_transaction,
    )
    return Exchange(
        Dialler(app.resolver, rules, app.tls.results.note), app.relay, limits, app.chance, answered, put_back
    )
