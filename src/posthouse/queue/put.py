"""Queueing a campaign in chunks, so that a crash neither skips nor doubles a recipient."""

from __future__ import annotations

from datetime import datetime

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool

_SQL = named_sql.load("posthouse.queue")

# Message ids a partition spans; the ledger's ranges are the same.
MESSAGES_PER_PARTITION = 8_000_000
# Dropping a range waits for the claims under way; it gives up rather than make the next ones wait.
_LOCK_MILLISECONDS = 200


async def next_message_ids(connection: Connection, count: int) -> tuple[int, int]:
    """The range of ids that the next `count` messages may get, with the queue's partitions made; call inside a transaction.

    Other launches may take ids of this range first, so the range leaves room for them.
    """
    await connection.execute(_SQL["lock_ranges"])
    first = await connection.fetchval(_SQL["last_message_id"])
    last = first + count + MESSAGES_PER_PARTITION // 8
    await connection.execute(_SQL["make_room"], first, last, MESSAGES_PER_PARTITION)
    return first, last


async def chunk_domains(
    connection: Connection | Pool, workspace_id: int, list_id: int, after: int, until: int
) -> list[str]:
    """The distinct recipient domains that put_chunk with the same bounds will need a site for."""
    rows = await connection.fetch(_SQL["chunk_domains"], workspace_id, list_id, after, until)
    return [row["domain"] for row in rows]


async def put_chunk(
    connection: Connection,
    *,
    workspace_id: int,
    campaign_id: int,
    list_id: int,
    after: int,
    until: int,
    due: datetime,
    lane_pool: str,
    priority: int,
    site_id: int | None,
) -> int:
    """Queue the subscribed contacts of a list with after < contact_id <= until; returns how many.

    site_id: the one site of all lanes, where a relay takes everything; None: the site behind each domain.
    Call inside the transaction that moves the campaign's launch_after: the two stand or fall together.
    """
    sites = await connection.fetch(_SQL["chunk_sites"], workspace_id, list_id, after, until, site_id)
    await connection.execute(_SQL["make_lanes"], workspace_id, lane_pool, [s["site_id"] for s in sites], priority)
    status = await connection.execute(
        _SQL["put_chunk"], workspace_id, list_id, after, until, campaign_id, due, lane_pool, priority, site_id
    )
    return int(status.rsplit(" ", 1)[1])


async def drop_empty_ranges(pool: Pool) -> int:
    """Drop the ranges of the queue that are empty and full: their space is free without a vacuum. Returns how many."""
    dropped = 0
    last = await pool.fetchval(_SQL["last_message_id"])
    for row in await pool.fetch(_SQL["ranges"]):
        low = int(row["name"].rpartition("_")[2])
        if low + MESSAGES_PER_PARTITION <= last:
            dropped += bool(await pool.fetchval(_SQL["drop_range"], row["name"], _LOCK_MILLISECONDS))
    return dropped
