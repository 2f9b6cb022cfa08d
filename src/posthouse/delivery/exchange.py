"""The exchange: copies wait here for a connection to their site; connections are opened, reused and closed here.

Connections are kept by source, set of mail exchangers and TLS policy (answers 13), and limited by source and site. How much a lane may
hold follows what it got rid of lately, about two seconds of work, so that a pause bites soon and a crash leaves little to wait for
(answers 1).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from posthouse.delivery.dial import Dialler
from posthouse.delivery.job import Answer, Job
from posthouse.delivery.limits import SiteLimits
from posthouse.delivery.pace import LanePace
from posthouse.delivery.relay import Relay
from posthouse.delivery.route import Route
from posthouse.delivery.session import Session
from posthouse.delivery.sources import Source
from posthouse.mail.replies import Failure, Stage
from posthouse.model.ports import Chance

_IDLE_SECONDS = 5.0
_TICK_SECONDS = 1.0
# A message that every connection broke on before its content is deferred like any other, instead of being tried for ever.
_MAX_RETURNS = 3


class ExchangeLimits(Struct, frozen=True):
    """Limits of one sender process: connections in all, seconds that a transaction may take. Those of a site come with each job."""

    connections: int = 400
    longest_transaction: float = 0.0


class Exchange:
    """All connections of one sender process.

    answered(job, answer): an attempt ended. put_back(jobs, answer): messages that wait for a server which cannot be reached, or asked
    for a rest, leave the exchange untried.
    """

    def __init__(
        self,
        dialler: Dialler,
        relay: Relay | None,
        limits: ExchangeLimits,
        chance: Chance,
        answered: Callable[[Job, Answer], None],
        put_back: Callable[[Sequence[Job], str], None],
    ) -> None:
        self.limits = limits
        self._dialler = dialler
        self._relay = relay
        self._chance = chance
        self._report = answered
        self._put_back = put_back
        self._ways: dict[tuple[object, ...], _Way] = {}
        # (source, site) → open connections.
        self._path_connections: dict[tuple[int, int], int] = {}
        self._connections = 0
        # In order of arrival, each once.
        self._starved: dict[_Way, None] = {}
        # Idle sessions of all ways, those longest without work first.
        self.idle: dict[Session, _Way] = {}
        self._paces: dict[int, LanePace] = {}
        # Messages in the exchange, waiting or under way.
        self.held = 0
        self._dialling: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._ticker = asyncio.create_task(self._tick())

    def room(self, lane_id: int) -> int:
        """How many more messages of a lane this sender should hold."""
        pace = self._paces.get(lane_id)
        return pace.room() if pace is not None else LanePace.FIRST_ROOM

    def offer(self, jobs: Sequence[Job]) -> None:
        """Take messages in; each will be answered or put back."""
        touched: dict[_Way, None] = {}
        for job in jobs:
            pace = self._paces.get(job.copy.lane_id)
            if pace is None:
                pace = self._paces[job.copy.lane_id] = LanePace()
            pace.held += 1
            self.held += 1
            way = self._way(job)
            way.waiting.append(job)
            touched[way] = None
        for way in touched:
            way.serve()

    def rest(self, source_id: int, site_id: int, reason: str) -> None:
        """A site wants no more from a source: what waits for it goes back to the queue; what is under way ends by itself."""
        for way in self._ways.values():
            if way.path == (source_id, site_id):
                way.give_back(reason)

    async def close(self, seconds: float) -> None:
        """Stop: give back what waits, let what is under way finish for at most `seconds`, then drop the connections."""
        self._stopping = True
        for way in list(self._ways.values()):
            way.give_back("sender-stopping")
        deadline = time.monotonic() + seconds
        while self.held and time.monotonic() < deadline:  # noqa: ASYNC110 -- many sessions count down; stopping is rare
            await asyncio.sleep(0.02)
        for way in list(self._ways.values()):
            way.close()
            way.give_back("sender-stopping")  # what a dropped connection had taken but not begun to send
        for task in self._dialling:
            task.cancel()
        self._ticker.cancel()
        await asyncio.gather(self._ticker, *self._dialling, return_exceptions=True)

    # For the ways ------------------------------------------------------------------------------------------------------

    def answered(self, job: Job, answer: Answer) -> None:
        """Pass an answer on and make room in its lane."""
        self.discarded(job)
        self._report(job, answer)

    def discarded(self, job: Job) -> None:
        """A message that was settled while it was composed: it leaves without an answer."""
        self.held -= 1
        self._paces[job.copy.lane_id].released()

    def give_back(self, jobs: Sequence[Job], reason: str) -> None:
        """Let untried messages leave."""
        self.held -= len(jobs)
        for job in jobs:
            self._paces[job.copy.lane_id].held -= 1
        self._put_back(jobs, reason)

    def may_open(self, way: _Way) -> bool:
        """Whether another connection on this path is allowed now; when only the total is used up, the way is remembered."""
        if self._stopping or self._path_connections.get(way.path, 0) >= way.limits.connections:
            return False
        if self._connections >= self.limits.connections and not self._close_an_idle_one():
            self._starved[way] = None
            return False
        return True

    def open(self, way: _Way) -> None:
        """Count a connection and begin to dial."""
        self._connections += 1
        self._path_connections[way.path] = self._path_connections.get(way.path, 0) + 1
        task = asyncio.create_task(self._dial(way))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    @property
    def has_starved(self) -> bool:
        """Whether a way waits for a connection that others hold."""
        return bool(self._starved)

    def connection_gone(self, way: _Way) -> None:
        """A connection ended, or could not be opened: somebody else may have its place."""
        self._connections -= 1
        left = self._path_connections[way.path] - 1
        if left:
            self._path_connections[way.path] = left
        else:
            del self._path_connections[way.path]
        if way.is_empty:
            self._ways.pop(way.key, None)
        while self._starved:
            next_way = next(iter(self._starved))
            del self._starved[next_way]
            if next_way.waiting:
                next_way.serve()
                break

    async def _dial(self, way: _Way) -> None:
        try:
            if self._relay is not None:
                opened = await self._dialler.open_relay(self._relay, way)
            else:
                hosts = way.route.hosts(self._chance)
                policy = way.route.policy.at_least_encrypted() if way.limits.tls_required else way.route.policy
                opened = await self._dialler.open(hosts, way, way.source, policy)
        except BaseException:
            way.opening -= 1
            self.connection_gone(way)
            raise
        way.opening -= 1
        if isinstance(opened, Session):
            way.opened(opened)
        else:
            self.connection_gone(way)
            way.unreachable(opened)

    def _way(self, job: Job) -> _Way:
        route = job.route
        key = ("relay",) if self._relay is not None else (job.source.source_id, route.site_id, route.mx, route.policy)
        way = self._ways.get(key)
        if way is None:
            way = self._ways[key] = _Way(self, key, route, job.source)
        way.limits = job.limits
        return way

    def _close_an_idle_one(self) -> bool:
        for session, way in self.idle.items():
            way.end_idle(session)
            return True
        return False

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            for way in list(self._ways.values()):
                way.tick(now)
                if way.is_empty:
                    self._ways.pop(way.key, None)
            for lane_id, pace in list(self._paces.items()):
                if pace.is_still:
                    del self._paces[lane_id]
                else:
                    pace.tick(now)


class _Way:
    """The way from one source to one set of mail exchangers under one TLS policy: what waits for it, and its connections."""

    def __init__(self, exchange: Exchange, key: tuple[object, ...], route: Route, source: Source) -> None:
        self.key = key
        self.route = route
        self.source = source
        self.path = (source.source_id, route.site_id)
        self.limits = SiteLimits()
        self.waiting: deque[Job] = deque()
        self.sessions: set[Session] = set()
        self.idle: dict[Session, None] = {}
        self.opening = 0
        self._exchange = exchange

    @property
    def is_empty(self) -> bool:
        """Whether nothing is here any more."""
        return not self.waiting and not self.sessions and not self.opening

    def serve(self) -> None:
        """Wake idle connections, and open more while messages outnumber the connections."""
        while self.waiting and self.idle:
            session = next(reversed(self.idle))
            self._not_idle(session)
            session.start()
        while len(self.waiting) > self.opening and self._wants_another() and self._exchange.may_open(self):
            self.opening += 1
            self._exchange.open(self)

    def _wants_another(self) -> bool:
        # One connection takes a message a round trip; a second is worth its opening only when several messages wait.
        lines = len(self.sessions) + self.opening
        return lines == 0 or len(self.waiting) > 4 * lines

    def opened(self, session: Session) -> None:
        """A connection stands: let it take its first message."""
        self.sessions.add(session)
        session.start()

    def unreachable(self, answer: Answer) -> None:
        """No server of this way could be reached: unless another connection stands, every waiting message has its answer."""
        if self.sessions or self.opening:
            return
        waiting, self.waiting = self.waiting, deque()
        for job in waiting:
            self._exchange.answered(job, answer)

    def give_back(self, reason: str) -> None:
        """Return what waits, untried."""
        waiting, self.waiting = self.waiting, deque()
        if waiting:
            self._exchange.give_back(waiting, reason)

    def tick(self, now: float) -> None:
        """Once a second: close what idles, give up on what is silent, open what is needed."""
        for session in list(self.sessions):
            if session.idle_since is not None and now - session.idle_since > _IDLE_SECONDS:
                self.end_idle(session)
            else:
                session.check_time(now)
        self.serve()

    def end_idle(self, session: Session) -> None:
        """Close a connection that has nothing to do."""
        self._not_idle(session)
        session.quit()

    def _not_idle(self, session: Session) -> None:
        self.idle.pop(session, None)
        self._exchange.idle.pop(session, None)

    def close(self) -> None:
        """Drop every connection."""
        for session in list(self.sessions):
            if session.idle_since is not None:
                session.quit()
            else:
                session.abort()

    # As the feed of its sessions ---------------------------------------------------------------------------------------

    def next_job(self, session: Session) -> Job | None:
        """The next message, composed at the last moment."""
        if session.sent >= self.limits.messages_per_connection:
            return None
        while self.waiting:
            job = self.waiting.popleft()
            if time.monotonic() + self._exchange.limits.longest_transaction > job.give_up:
                self._exchange.give_back([job], "waited-too-long")
                continue
            if job.composed is None:
                job.composed = job.compose(job.copy)
            if job.composed is not None:
                return job
            self._exchange.discarded(job)
        return None

    def answered(self, job: Job, answer: Answer) -> None:
        """Pass it on."""
        self._exchange.answered(job, answer)

    def idled(self, session: Session) -> None:
        """A session has nothing to do: keep it for a while, or close it when it has done its share or others wait for its place."""
        if session.sent >= self.limits.messages_per_connection or self._exchange.has_starved:
            session.quit()
        else:
            self.idle[session] = None
            self._exchange.idle[session] = self

    def returned(self, job: Job, failure: Failure) -> None:
        """A message comes back unsent: it goes first, unless connections keep breaking on it."""
        job.returns += 1
        job.composed = None  # it is looked at once more before it leaves
        if job.returns >= _MAX_RETURNS:
            self._exchange.answered(job, Answer(Stage.MAIL, self.route.site, failure=failure))
        else:
            self.waiting.appendleft(job)

    def closed(self, session: Session) -> None:
        """A connection is gone: open another if there is still work."""
        self.sessions.discard(session)
        self._not_idle(session)
        self._exchange.connection_gone(self)
        self.serve()
