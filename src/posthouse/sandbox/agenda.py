"""What is still to happen, on the rehearsal's clock: DSNs and what people will do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from heapq import heappop, heappush

from msgspec import Struct

from posthouse.model.ports import Clock
from posthouse.sandbox.moments import SECOND, moment
from posthouse.sandbox.records import RecordKind

# True: done, whatever the answer was. False: nobody answered, so it is worth another try.
Act = Callable[[], Awaitable[bool]]

_AT_ONCE = 48
_MOST_TRIES = 8
_TRY_AGAIN = 300 * SECOND


class Entry(Struct, order=True, frozen=True):
    """One act and when it is due; the serial keeps the order of those due at once."""

    due: int
    serial: int
    kind: RecordKind
    act: Act
    tries: int = 0


class Agenda:
    """Runs each act when the clock has reached it; whoever owns it calls `start_due` at least every 50 ms."""

    def __init__(self, clock: Clock, breath_seconds: float = 0.5) -> None:
        """breath_seconds: real time that a peer is given before an act may be tried again, as the clock may leap over all tries."""
        self._clock = clock
        self._breath_seconds = breath_seconds
        self._heap: list[Entry] = []
        self._serial = 0
        self._running: set[asyncio.Task[None]] = set()
        self.pending: Counter[str] = Counter()
        self._last_due = 0

    def put(self, due: int, kind: RecordKind, act: Act, tries: int = 0) -> None:
        """Plan an act for a moment (microseconds)."""
        self._serial += 1
        heappush(self._heap, Entry(due, self._serial, kind, act, tries))
        self._last_due = max(self._last_due, due)
        self.pending[kind] += 1

    @property
    def next_due(self) -> int | None:
        """When the next act that is not running is due."""
        return self._heap[0].due if self._heap else None

    @property
    def last_due(self) -> int | None:
        """When the last of the acts that are not running is due."""
        return self._last_due if self._heap else None

    @property
    def in_flight(self) -> int:
        """How many acts are running now."""
        return len(self._running)

    def start_due(self) -> None:
        """Start what is due, a limited number at once."""
        if not self._heap:
            return
        now = moment(self._clock)
        while self._heap and self._heap[0].due <= now and len(self._running) < _AT_ONCE:
            entry = heappop(self._heap)
            task = asyncio.get_running_loop().create_task(self._perform(entry))
            self._running.add(task)
            task.add_done_callback(self._finished)

    async def close(self) -> None:
        """Cut short whatever is running."""
        for task in self._running:
            task.remove_done_callback(self._finished)
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _perform(self, entry: Entry) -> None:
        try:
            done = await entry.act()
            if not done and entry.tries + 1 < _MOST_TRIES:
                await asyncio.sleep(self._breath_seconds)
                self.put(moment(self._clock) + _TRY_AGAIN, entry.kind, entry.act, entry.tries + 1)
        finally:
            self.pending[entry.kind] -= 1

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        # An act that raises is a defect of the sandbox; result() lets the loop's handler report it.
        task.result()
        self.start_due()
