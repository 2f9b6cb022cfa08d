"""Attention: what needs a person. Each line says what happened, by whose reply, and how to mend it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool
from posthouse.reputation.brakes import Refusal, moment

_SQL = named_sql.load("posthouse.reputation", "brakes.sql")


async def tell_person(connection: Connection, refusal: Refusal, what: str, mend: str, *, sandbox: bool) -> None:
    """Something needs a person: inside the transaction that settles the reply. The same thing is told once until it is done."""
    await connection.execute(
        _SQL["tell"],
        sandbox,
        refusal.workspace_id,
        refusal.subject.kind.value,
        refusal.subject.value,
        refusal.rule,
        what,
        refusal.reply,
        mend,
        refusal.subject.site_id,
        refusal.campaign_id,
        refusal.message_id,
        moment(refusal.at),
    )


async def list_attention(
    connection: Connection | Pool, *, sandbox: bool, done_too: bool = False, limit: int = 100
) -> list[dict[str, Any]]:
    """What needs a person, newest first: attention_id, what, reply, mend, site, rule, kind, value, campaign_id, message_id, first_at,
    at, times, done_at, done_reason."""
    return [dict(row) for row in await connection.fetch(_SQL["attention"], sandbox, done_too, limit)]


async def attention_done(
    connection: Connection, attention_id: int, now: datetime, reason: str, *, sandbox: bool
) -> int | None:
    """A person is done with something: it leaves the list, and the brakes it is about end. Call inside a transaction.

    Returns the campaign that it is about (0: none), or None when there is no such line or it is done already.
    """
    row = await connection.fetchrow(_SQL["attention_done"], sandbox, attention_id, now, reason)
    if row is None:
        return None
    await connection.execute(
        _SQL["end_brakes_of"],
        sandbox,
        row["rule"],
        row["kind"],
        row["value"],
        row["workspace_id"],
        now,
        f"attention {attention_id}: {reason}",
    )
    return int(row["campaign_id"])
