"""Gathers news into batches, so that a burst of opens costs a few transactions and not one for each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from posthouse.feedback import Heard

_LOG = logging.getLogger(__name__)
_WAIT_SECONDS = 0.05
_BATCH = 200
_RETRY_SECONDS = 1.0
_MAX_WAITING = 20_000

Listen = Callable[[Sequence[Heard]], Awaitable[None]]


class NotRecorded(Exception):
    """The news could not be committed now; it is kept and tried again."""


class Batches:
    """News on its way to `listen`, in order, one batch at a time. What fails stays and is tried again; writing it twice changes nothing."""

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self._waiting: list[tuple[Heard, asyncio.Future[None] | None]] = []
        self._full = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None

    def add(self, heard: Heard) -> bool:
        """Put news into the next batch; False when so much waits that this one is left out."""
        return self._put(heard, None)

    async def add_and_wait(self, heard: Heard) -> None:
        """Put news into the next batch and wait until it is committed. Raises NotRecorded."""
        committed = asyncio.get_running_loop().create_future()
        if not self._put(heard, committed):
            raise NotRecorded
        await committed

    async def close(self) -> None:
        """Hand over what waits, and wait for it once."""
        self._full.set()
        if self._flusher is not None:
            await asyncio.wait([self._flusher], timeout=2 * _RETRY_SECONDS)

    def _put(self, heard: Heard, committed: asyncio.Future[None] | None) -> bool:
        if len(self._waiting) >= _MAX_WAITING:
            _LOG.warning("The news waits faster than it can be recorded; one of kind %s was left out.", heard.kind)
            return False
        self._waiting.append((heard, committed))
        if len(self._waiting) >= _BATCH:
            self._full.set()
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush())
        return True

    async def _flush(self) -> None:
        """Hand over batch after batch until nothing waits."""
        while self._waiting:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), _WAIT_SECONDS)
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            if len(self._waiting) < _BATCH:
                self._full.clear()
            try:
                await self._listen([heard for heard, _ in batch])
            except Exception:
                _LOG.exception("A batch of %d news could not be recorded and is tried again.", len(batch))
                self._waiting = [(heard, None) for heard, _ in batch] + self._waiting
                _settle(batch, NotRecorded())
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                _settle(batch, None)


def _settle(batch: Sequence[tuple[Heard, asyncio.Future[None] | None]], error: Exception | None) -> None:
    for _, committed in batch:
        if committed is None or committed.done():
            continue
        if error is None:
            committed.set_result(None)
        else:
            committed.set_exception(error)
