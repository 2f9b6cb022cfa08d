"""Taking work: one statement serves many lanes, and writes attempt and next try before anybody dials."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool
from posthouse.model.messages import Copy

_SQL = named_sql.load("posthouse.queue")


_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class DueLane(Struct, frozen=True):
    """A lane with something due: (workspace, pool, priority, site by number and name); a lower priority number goes first."""

    lane_id: int
    workspace_id: int
    pool: str
    priority: int
    site_id: int
    site: str


class LaneRoom(Struct, frozen=True):
    """How many messages a sender takes from a lane. due_from: nothing older is left in it, as far as this sender knows."""

    lane_id: int
    room: int
    due_from: datetime


async def due_lanes(pool: Pool, now: datetime, *, sandbox: bool) -> list[DueLane]:
    """Lanes with due messages, urgent ones first."""
    return [DueLane(*row) for row in await pool.fetch(_SQL["due_lanes"], now, sandbox)]


class Claimed(Struct, frozen=True):
    """What one claim took. dues: lane → the latest due time taken: nothing before it is left for another claim."""

    copies: list[Copy]
    dues: dict[int, datetime]


async def claim(
    pool: Pool,
    rooms: Sequence[LaneRoom],
    now: datetime,
    in_flight: timedelta,
    *,
    most: int,
    sources: Sequence[int] = (0,),
) -> Claimed:
    """Claim due messages, at most `room` of each lane and `most` in all, lanes in the order given.

    They fall due again after `in_flight` should this process die. sources: of what is bound to a source, only what is bound to these.

    A copy whose `withheld` is set must not be sent.
    """
    rows = await pool.fetch(
        _SQL["claim"],
        [r.lane_id for r in rooms],
        [r.room for r in rooms],
        [r.due_from for r in rooms],
        now,
        now + in_flight,
        most,
        list(sources),
    )
    copies: list[Copy] = []
    dues: dict[int, datetime] = {}
    for row in rows:
        *values, due = row
        copy = Copy(*values)
        copies.append(copy)
        if due > dues.get(copy.lane_id, _LONG_AGO):
            dues[copy.lane_id] = due
    return Claimed(copies, dues)


async def any_claimed(connection: Connection, *, sandbox: bool) -> bool:
    """Whether a sender has a message in its hands."""
    return bool(await connection.fetchval(_SQL["any_claimed"], sandbox))


class NextWork(Struct, frozen=True):
    """due: when the next message that is not held falls due; ready: when the first of those that are due already may leave, as their
    pacing has it (a moment that has passed: now). None where there is none."""

    due: datetime | None
    ready: datetime | None


async def next_work(connection: Connection, now: datetime, *, sandbox: bool) -> NextWork:
    """When there is something to do for the senders."""
    row = await connection.fetchrow(_SQL["next_work"], sandbox, now)
    assert row is not None
    return NextWork(row["due"], row["ready"])
