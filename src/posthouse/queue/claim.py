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
    """A lane with something due: (workspace, pool, site, priority); a lower priority number goes first."""

    lane_id: int
    site_id: int
    workspace_id: int
    priority: int


class LaneRoom(Struct, frozen=True):
    """How many messages a sender takes from a lane. due_from: nothing older is left in it, as far as this sender knows."""

    lane_id: int
    room: int
    due_from: datetime


async def due_lanes(pool: Pool, now: datetime, *, sandbox: bool) -> list[DueLane]:
    """Lanes with due messages whose site does not rest, urgent ones first."""
    return [
        DueLane(row["lane_id"], row["site_id"], row["workspace_id"], row["priority"])
        for row in await pool.fetch(_SQL["due_lanes"], now, sandbox)
    ]


class Claimed(Struct, frozen=True):
    """What one claim took. dues: lane → the latest due time taken: nothing before it is left for another claim."""

    copies: list[Copy]
    dues: dict[int, datetime]


async def claim(pool: Pool, rooms: Sequence[LaneRoom], now: datetime, in_flight: timedelta, *, most: int) -> Claimed:
    """Claim due messages, at most `room` of each lane and `most` in all, lanes in the order given.

    They fall due again after `in_flight` should this process die.

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


async def next_due(connection: Connection, *, sandbox: bool) -> datetime | None:
    """When the earliest message that is not held falls due and its site does not rest; None when nothing waits."""
    due: datetime | None = await connection.fetchval(_SQL["next_due"], sandbox)
    return due
