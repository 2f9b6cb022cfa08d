"""Queueing a campaign in chunks, so that a crash neither skips nor doubles a recipient."""

from __future__ import annotations

from datetime import datetime

from posthouse.db import named_sql
from posthouse.db.pool import Connection

_SQL = named_sql.load("posthouse.queue")

# Message ids a partition spans; the ledger's ranges are the same.
MESSAGES_PER_PARTITION = 8_000_000


async def next_message_ids(connection: Connection, count: int) -> tuple[int, int]:
    """The range of ids that the next `count` messages may get, with the queue's partitions made; call inside a transaction.

    Other launches may take ids of this range first, so the range leaves room for them.
    """
    await connection.execute(_SQL["lock_ranges"])
    first = await connection.fetchval(_SQL["last_message_id"])
    last = first + count + MESSAGES_PER_PARTITION // 8
    await connection.execute(_SQL["make_room"], first, last, MESSAGES_PER_PARTITION)
    return first, last


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
) -> int:
    """Queue the subscribed contacts of a list with after < contact_id <= until; returns how many.

    Call inside the transaction that moves the campaign's launch_after: the two stand or fall together.
    """
    sites = await connection.fetch(_SQL["chunk_sites"], workspace_id, list_id, after, until)
    await connection.execute(_SQL["make_lanes"], workspace_id, lane_pool, [s["site_id"] for s in sites], priority)
    status = await connection.execute(
        _SQL["put_chunk"], workspace_id, list_id, after, until, campaign_id, due, lane_pool, priority
    )
    return int(status.rsplit(" ", 1)[1])
