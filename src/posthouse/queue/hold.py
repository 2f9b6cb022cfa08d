"""What waits, why, and how it is let go."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool

_SQL = named_sql.load("posthouse.queue")
_RELEASED_AT_ONCE = 5_000


async def release_held(pool: Pool, campaign_id: int, due: datetime) -> int:
    """Let the held messages of a campaign fall due at `due`, in short transactions; returns how many."""
    released = 0
    while True:
        status = await pool.execute(_SQL["release_held"], campaign_id, due, _RELEASED_AT_ONCE)
        count = int(status.rsplit(" ", 1)[1])
        released += count
        if count == 0:
            return released


async def waiting_counts(connection: Connection | Pool, workspace_id: int, campaign_id: int) -> list[dict[str, Any]]:
    """What of a campaign is still queued: rows of state (0 queued, 1 claimed, 2 held), reason, count, next_due."""
    return [dict(row) for row in await connection.fetch(_SQL["waiting_counts"], workspace_id, campaign_id)]


async def waiting_message(connection: Connection | Pool, message_id: int, now: datetime) -> dict[str, Any] | None:
    """The queue row of one message with its lane, or None when it has left the queue."""
    row = await connection.fetchrow(_SQL["waiting_message"], message_id, now)
    return dict(row) if row is not None else None
