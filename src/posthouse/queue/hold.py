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
    return await _in_portions(pool, _SQL["release_held"], campaign_id, due)


async def fall_due(pool: Pool, campaign_id: int, due: datetime) -> int:
    """Let the deferred messages of a campaign fall due at `due` instead of later; returns how many."""
    return await _in_portions(pool, _SQL["fall_due"], campaign_id, due)


async def recall(pool: Pool, reason: str, due: datetime) -> int:
    """Let what waits for this reason fall due at `due` instead of later; returns how many."""
    return await _in_portions(pool, _SQL["recall"], reason, due)


async def _in_portions(pool: Pool, statement: str, which: int | str, due: datetime) -> int:
    changed = 0
    while True:
        status = await pool.execute(statement, which, due, _RELEASED_AT_ONCE)
        count = int(status.rsplit(" ", 1)[1])
        changed += count
        if count == 0:
            return changed


async def waiting_counts(connection: Connection | Pool, workspace_id: int, campaign_id: int) -> list[dict[str, Any]]:
    """What of a campaign is still queued: rows of state (0 queued, 1 claimed, 2 held), reason, count, next_due."""
    return [dict(row) for row in await connection.fetch(_SQL["waiting_counts"], workspace_id, campaign_id)]


async def waiting_message(connection: Connection | Pool, message_id: int, now: datetime) -> dict[str, Any] | None:
    """The queue row of one message with its lane, or None when it has left the queue."""
    row = await connection.fetchrow(_SQL["waiting_message"], message_id, now)
    return dict(row) if row is not None else None


async def lane_overview(connection: Connection | Pool, now: datetime, *, sandbox: bool) -> list[dict[str, Any]]:
    """Every lane with something in it: how much waits, is due, under way and held, when the next falls due, since when the oldest waits."""
    return [dict(row) for row in await connection.fetch(_SQL["lane_overview"], sandbox, now)]


async def waiting_for(connection: Connection | Pool, workspace_id: int, email: str, limit: int) -> list[int]:
    """The ids of the messages that wait for an address, oldest first; reads through the queue."""
    return [row["message_id"] for row in await connection.fetch(_SQL["waiting_for"], workspace_id, email, limit)]
