"""A line to a relay over HTTP: what an exchange holds in the place of an SMTP session, with the same contract towards its feed.

A session has one message under way and waits for its turn to speak; a line has several, each in a request of its own.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Protocol

from posthouse.delivery.job import Answer, Job
from posthouse.delivery.relays.client import RelayClient
from posthouse.mail.replies import Failure


class LineFeed(Protocol):
    """Where a line gets its messages, and whom it tells what became of them (delivery.session.Feed, for a line)."""

    def next_job(self, session: RelayLine) -> Job | None:
        """The next message, composed; None when there is none or the line has done its share."""
        ...

    def answered(self, job: Job, answer: Answer) -> None:
        """A message's attempt ended."""
        ...

    def returned(self, job: Job, failure: Failure) -> None:
        """A message was pulled but not sent: no byte of it left."""
        ...

    def idled(self, session: RelayLine) -> None:
        """The line has nothing under way and nothing to take; `start` wakes it, `quit` ends it.

        With an `obstacle` it may take nothing: what waits must be given back here, or whoever wakes idle lines would do so for ever.
        """
        ...

    def closed(self, session: RelayLine) -> None:
        """The line is over; it comes after every `answered` and `returned`."""
        ...


async def open_line(client: RelayClient, feed: LineFeed, parallel: int) -> RelayLine | Answer:
    """A line, once the account's limits are known; or how the relay could not be reached. `start` lets it begin."""
    if client.quota_is_old:
        failed = await client.learn_quota()
        if failed is not None:
            return failed
    return RelayLine(client, feed, parallel)


class RelayLine:
    """Hands messages to one relay, at most `parallel` at once, no faster than its account may send."""

    def __init__(self, client: RelayClient, feed: LineFeed, parallel: int) -> None:
        self.remote = client.remote
        self.encrypted = True
        self.sent = 0
        self.idle_since: float | None = None
        self._client = client
        self._feed = feed
        self._parallel = parallel
        self._under_way: dict[Job, asyncio.Task[None]] = {}
        self._begun: set[Job] = set()
        self._learning: asyncio.Task[Answer | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._over = False

    @property
    def is_over(self) -> bool:
        """Whether the line is closed."""
        return self._over

    @property
    def has_room(self) -> bool:
        """Whether `start` may take another message at once."""
        return not self._closing and len(self._under_way) < self._parallel

    @property
    def obstacle(self) -> str | None:
        """One sentence when the account may send nothing now; what waits for this line should wait elsewhere."""
        quota = self._client.quota
        if quota is None or self._client.allowance.seconds_left(time.monotonic()) < math.inf:
            return None
        return quota.obstacle or f"{self.remote} takes no more messages from this account within its 24 hours."

    def start(self) -> None:
        """Take as many messages as may be under way. Harmless at any time: at the opening, when work has come, when a request ended."""
        self._stop_timer()
        while self.has_room:
            pause = self._client.allowance.take(time.monotonic())
            if pause > 0:
                if pause < math.inf:
                    self._timer = asyncio.get_running_loop().call_later(pause, self.start)
                break
            job = self._feed.next_job(self)
            if job is None or job.composed is None:
                self._client.allowance.give_back()
                break
            self.idle_since = None
            self.sent += 1
            task = asyncio.create_task(self._send(job))
            self._under_way[job] = task
            task.add_done_callback(lambda _, job=job: self._ended(job))  # type: ignore[misc]
        if not self._under_way and self._timer is None and not self._closing:
            self.idle_since = self.idle_since or time.monotonic()
            self._feed.idled(self)

    def quit(self) -> None:
        """Take no more; what is under way ends by itself."""
        if not self._closing:
            self._closing = True
            self._stop_timer()
            self._end_soon()

    def abort(self) -> None:
        """Give up what is under way: the relay may have taken it, so it is answered, not returned."""
        self._closing = True
        self._stop_timer()
        for task in self._under_way.values():
            task.cancel()
        self._end_soon()

    def check_time(self, now: float) -> None:
        """Called about once a second: ask for the account's limits again when they are old. Every request has its own time-outs."""
        if self._client.quota_is_old and self._learning is None and not self._closing:
            self._learning = asyncio.create_task(self._client.learn_quota())
            self._learning.add_done_callback(self._learned)

    async def _send(self, job: Job) -> None:
        composed = job.composed
        assert composed is not None
        self._begun.add(job)
        answer = self._client.lost()  # the answer where this task is cancelled, or fails by a fault of ours
        try:
            answer = await self._client.hand_over(composed, job.give_up - time.monotonic())
        finally:
            self._feed.answered(job, answer)

    def _ended(self, job: Job) -> None:
        task = self._under_way.pop(job)
        if job not in self._begun:
            self._feed.returned(job, Failure.CONNECTION_LOST)
        self._begun.discard(job)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.abort()
            raise error
        if self._closing:
            self._end_soon()
        else:
            self.start()

    def _learned(self, task: asyncio.Task[Answer | None]) -> None:
        self._learning = None
        if not task.cancelled():
            task.result()
            self.start()

    def _end_soon(self) -> None:
        # Not at once: whoever told the line to quit may be in the middle of a step of its own.
        if not self._under_way:
            asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        if self._over or self._under_way:
            return
        self._over = True
        if self._learning is not None:
            self._learning.cancel()
        self._feed.closed(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
