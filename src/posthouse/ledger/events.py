"""Writing and reading the ledger's lines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool
from posthouse.model.events import Event, EventKind

_SQL = named_sql.load("posthouse.ledger")
_encode_json = msgspec.json.Encoder().encode

# Message ids a partition spans: with a million messages a day it holds a week.
MESSAGES_PER_PARTITION = 8_000_000


async def record(connection: Connection, events: Sequence[Event]) -> None:
    """Append events, in one statement. An event whose key is there already changes nothing, so a retried COMMIT is harmless."""
    if events:
        await connection.execute(
            _SQL["record"],
            [e.workspace_id for e in events],
            [e.message_id for e in events],
            [e.kind.value for e in events],
            [e.nth for e in events],
            [e.at for e in events],
            [e.campaign_id for e in events],
            [e.contact_id for e in events],
            [e.site_id for e in events],
            [None if e.detail is None else _encode_json(e.detail).decode() for e in events],
        )


async def record_late(connection: Connection, events: Sequence[Event]) -> None:
    """Append deliveries of messages that were settled before: a true second copy becomes `redelivered`, a replay nothing."""
    delivered = [e for e in events if e.kind is EventKind.DELIVERED]
    if delivered:
        await connection.execute(
            _SQL["record_late"],
            [e.workspace_id for e in delivered],
            [e.message_id for e in delivered],
            [e.nth for e in delivered],
            [e.at for e in delivered],
            [e.campaign_id for e in delivered],
            [e.contact_id for e in delivered],
            [e.site_id for e in delivered],
            [None if e.detail is None else _encode_json(e.detail).decode() for e in delivered],
        )


async def history(connection: Connection, message_id: int) -> list[dict[str, Any]]:
    """Every line about one message, oldest first: workspace_id, kind, nth, at, campaign_id, contact_id, site_id, detail."""
    return [dict(row) for row in await connection.fetch(_SQL["history"], message_id)]


async def messages_to(pool: Pool, address: str) -> list[dict[str, Any]]:
    """The last event of each message to an address: message_id, campaign_id, kind, at; newest first, at most 100."""
    return [dict(row) for row in await pool.fetch(_SQL["messages_to"], address)]


async def campaign_lines(
    pool: Pool, workspace_id: int, campaign_id: int
) -> AsyncIterator[tuple[int, str, EventKind, int, int]]:
    """Every line of a campaign, streamed: (message id, recipient, kind, nth, reply code)."""
    async with pool.acquire() as connection, connection.transaction():
        async for row in connection.cursor(_SQL["campaign_lines"], workspace_id, campaign_id, prefetch=1000):
            yield row["message_id"], row["email"], EventKind(row["kind"]), row["nth"], row["code"]


async def make_room(connection: Connection, first: int, last: int) -> None:
    """Make the partitions for message ids from `first` to `last`, where they are missing."""
    await connection.execute(_SQL["make_room"], first, last, MESSAGES_PER_PARTITION)
