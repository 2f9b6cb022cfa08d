"""The end of a round: the rehearsal's clock moves whenever nothing is under way, until everybody has an outcome."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.fault_house import DATABASE_TROUBLE, SQL, House, Round, Stuck
from posthouse import queue
from posthouse.clock import JumpingClock
from posthouse.flows.wake import wake_senders

_LOOK_SECONDS = 0.03
# How long all must stand still before the clock jumps: a dead sender's claims look like work, so their stillness must be long.
_STILL_SECONDS = 0.12
STILL_SECONDS_WITH_CLAIMS = 2.5
_SLACK = timedelta(minutes=5)
STUCK_SECONDS = 90.0


async def finish(
    house: House, current: Round, *, patience: float = STILL_SECONDS_WITH_CLAIMS, stuck: float = STUCK_SECONDS
) -> None:
    """Let the campaign end, moving the clock whenever nothing is under way. Raises Stuck after `stuck` seconds.

    patience: how many seconds claimed messages must stand still to count as those of a dead sender.
    """
    clock = house.app.clock
    assert isinstance(clock, JumpingClock)
    changed, state = time.monotonic(), ()
    moved = time.monotonic()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            seen, claimed, moment, is_done = await _look(house, current)
            if is_done:
                return
        except DATABASE_TROUBLE:
            seen, claimed, moment = ("the database does not answer",), 0, None
        if seen != state:
            changed, state = time.monotonic(), seen
            moved = changed
        still = time.monotonic() - changed
        if time.monotonic() - moved > stuck:
            raise Stuck(f"Nothing has moved for {stuck:.0f} s: {seen}.")
        if moment is not None and still > (patience if claimed else _STILL_SECONDS):
            clock.jump_to(moment + _SLACK)
            with suppress(*DATABASE_TROUBLE):
                await wake_senders(house.app)
            changed = time.monotonic()


async def _look(house: House, current: Round) -> tuple[tuple[Any, ...], int, datetime | None, bool]:
    """(all that changes when something moves, rows claimed, the next due moment when nothing is due, whether all is done)."""
    now = house.app.clock.now()
    status = house.sandbox.status()
    async with house.app.db.acquire() as connection:
        launch = await connection.fetchrow(SQL["launch"], current.campaign_id)
        waiting = await connection.fetchrow(SQL["waiting"], current.campaign_id, now)
        work = await queue.next_work(connection, now, sandbox=True)
    unsettled = await house.unsettled()
    finals = await house.finals(current)
    assert launch is not None
    assert waiting is not None
    seen = (*launch.values(), *waiting.values(), finals, unsettled, work, status.accepted, status.refused)
    is_done = launch["launched"] and not waiting["queued"] and finals >= launch["queued"] and not unsettled
    acts = None if status.next_due is None else datetime.fromtimestamp(status.next_due / 1_000_000, UTC)
    under_way = not launch["launched"] or unsettled or status.in_flight
    moments = [each for each in (work.due, work.ready, acts) if each is not None]
    is_due = any(each <= now for each in moments)
    return seen, waiting["claimed"], None if under_way or is_due or not moments else min(moments), is_done
