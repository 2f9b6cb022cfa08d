"""Rests: a provider that wants no mail from a source gets none for a while, from any sender of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool

_SQL = named_sql.load("posthouse.delivery")


async def start_rest(pool: Pool, source_id: int, site_id: int, until: datetime, reason: str, reply: str) -> None:
    """Let a site rest from a source until a moment; all senders see it within a second. A longer rest that is under way stays."""
    await pool.execute(_SQL["start_rest"], source_id, site_id, until, reason, reply)


async def resting_sites(connection: Connection | Pool, now: datetime) -> list[dict[str, Any]]:
    """Sites that rest now: source_id, source, site_id, site, until, class, reply."""
    return [dict(row) for row in await connection.fetch(_SQL["resting_sites"], now)]
