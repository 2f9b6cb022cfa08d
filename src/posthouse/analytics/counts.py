"""Counters per campaign, kept by a reader that follows the ledger."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool

_SQL = named_sql.load("posthouse.analytics")
_READER = "campaign-counts"
_LINES_AT_ONCE = 20_000


class CampaignCount(Struct, frozen=True):
    """How many lines of one kind (and class of bounce, where there is one) a campaign has at a provider."""

    site: str
    kind: str
    bounce_class: str
    count: int


async def count_news(pool: Pool) -> bool:
    """Count what the ledger has gained, about 20,000 lines at most; returns whether there may be more.

    Lines are read in the order of their transactions and only below the oldest open one, so a late COMMIT is never skipped; cursor and
    counts move in one transaction, so none is counted twice (answers 7).
    """
    async with pool.acquire() as connection, connection.transaction():
        cursor = await connection.fetchrow(_SQL["take_cursor"], _READER)
        assert cursor is not None
        stop = await connection.fetchval(_SQL["next_stop"], cursor["read_from"], cursor["read_to"], _LINES_AT_ONCE)
        # A transaction is read whole or not at all; if one alone has more lines than fit, it is read alone.
        if stop is not None and stop == cursor["read_from"]:
            stop = str(int(stop) + 1)
        until = stop or cursor["read_to"]
        await connection.execute(_SQL["count_news"], cursor["read_from"], until)
        await connection.execute(_SQL["move_cursor"], _READER, until)
    return stop is not None


async def campaign_counts(connection: Connection | Pool, workspace_id: int, campaign_id: int) -> list[CampaignCount]:
    """The counts of a campaign, as far as the reader has come."""
    rows = await connection.fetch(_SQL["campaign_counts"], workspace_id, campaign_id)
    return [CampaignCount(*row) for row in rows]


class FinalCount(Struct, frozen=True):
    """How many messages have their final outcome, and when the first and the last of them had it."""

    count: int
    first_at: datetime | None
    last_at: datetime | None


async def final_count(connection: Connection | Pool, workspace_id: int, campaign_id: int) -> FinalCount:
    """The final outcomes of a campaign, as far as the reader has come."""
    row = await connection.fetchrow(_SQL["final_count"], workspace_id, campaign_id)
    assert row is not None
    return FinalCount(**row)
