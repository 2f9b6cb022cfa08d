"""Suppressions: by cause and scope, once, lifted by a person, and known to a sender at the last moment."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from posthouse import reputation
from posthouse.db.pool import Pool
from posthouse.reputation import Cause, NewSuppression, RecentSuppressions

MINUTE = timedelta(minutes=1)


def new(contact_id: int, cause: Cause, at: datetime, *, list_id: int = 9, reason: str = "why") -> NewSuppression:
    return NewSuppression(1, contact_id, list_id, cause, int(at.timestamp() * 1_000_000), 77, reason)


async def suppress(pool: Pool, *found: NewSuppression) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await reputation.suppress(connection, found)


async def contact(pool: Pool, world: Any, email: str = "Ann@example.org") -> int:
    await world.people([email])
    number: int = await pool.fetchval("select contact_id from contacts where email = $1", email)
    return number


@pytest.mark.parametrize(
    ("cause", "scope", "list_id"),
    [(Cause.HARD_BOUNCE, "all", 0), (Cause.COMPLAINT, "marketing", 0), (Cause.UNSUBSCRIBE, "list", 9)],
)
async def test_each_cause_stops_what_it_is_about(
    pool: Pool, world: Any, cause: Cause, scope: str, list_id: int
) -> None:
    """Answers 15."""
    await suppress(pool, new(await contact(pool, world), cause, world.AT))
    (row,) = await reputation.list_suppressed(pool, 1)
    assert row == {
        "address_key": "ann@example.org",
        "scope": scope,
        "list_id": list_id,
        "cause": cause.value,
        "at": world.AT,
        "message_id": 77,
        "reason": "why",
    }
    assert await reputation.list_suppressed(pool, 2) == []


async def test_the_first_cause_stays_until_a_person_lifts_it(pool: Pool, world: Any) -> None:
    ann = await contact(pool, world)
    first = new(ann, Cause.HARD_BOUNCE, world.AT, reason="first")
    await suppress(pool, first, new(ann, Cause.HARD_BOUNCE, world.AT + MINUTE, reason="in the same batch"))
    await suppress(pool, new(ann, Cause.HARD_BOUNCE, world.AT + MINUTE, reason="second"))
    await suppress(pool)
    assert [row["reason"] for row in await reputation.list_suppressed(pool, 1)] == ["first"]
    assert await reputation.lift(pool, 1, "ANN@example.org", world.AT + MINUTE, "she wrote to us") is True
    assert await reputation.lift(pool, 1, "ann@example.org", world.AT, "again") is False
    assert await reputation.list_suppressed(pool, 1) == []
    kept = await pool.fetchrow("select reason, lifted_at, lifted_reason from suppressions")
    assert kept is not None
    assert tuple(kept) == ("first", world.AT + MINUTE, "she wrote to us")
    await suppress(pool, new(ann, Cause.HARD_BOUNCE, world.AT + 2 * MINUTE, reason="it bounced again"))
    assert [row["reason"] for row in await reputation.list_suppressed(pool, 1)] == ["it bounced again"]


async def test_lifting_is_about_one_workspace(pool: Pool, world: Any) -> None:
    await suppress(pool, new(await contact(pool, world), Cause.COMPLAINT, world.AT))
    assert await reputation.lift(pool, 2, "ann@example.org", world.AT, "why") is False


async def test_writing_one_tells_the_senders(pool: Pool, world: Any) -> None:
    heard = asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    async with pool.acquire() as listener:
        await listener.add_listener("posthouse_suppressed", hear)
        await suppress(pool, new(await contact(pool, world), Cause.COMPLAINT, world.AT))
        async with asyncio.timeout(10):
            await heard.wait()
        await listener.remove_listener("posthouse_suppressed", hear)


async def test_a_sender_knows_what_was_written_after_its_claim(pool: Pool, world: Any) -> None:
    """Answers 14: asked for just before MAIL, from memory."""
    ann, ben = await contact(pool, world), await contact(pool, world, "ben@example.org")
    recent = RecentSuppressions(remember_seconds=600.0)
    await recent.refresh(pool, world.AT)
    assert recent.cause(1, "Ann@example.org", 9) is None
    await suppress(pool, new(ann, Cause.HARD_BOUNCE, world.AT), new(ben, Cause.UNSUBSCRIBE, world.AT + MINUTE))
    await recent.refresh(pool, world.AT + MINUTE)
    assert recent.cause(1, "Ann@example.org", 9) == "hard-bounce"
    assert recent.cause(1, "ben@example.org", 9) == "unsubscribe"
    assert recent.cause(1, "ben@example.org", 8) is None, "another list"
    assert recent.cause(2, "Ann@example.org", 9) is None, "another workspace"
    assert recent.cause(1, "cat@example.org", 9) is None


async def test_a_transaction_that_commits_late_is_found_all_the_same(pool: Pool, world: Any) -> None:
    ann = await contact(pool, world)
    recent = RecentSuppressions(remember_seconds=600.0)
    await recent.refresh(pool, world.AT)
    await recent.refresh(pool, world.AT + timedelta(seconds=50))
    await suppress(pool, new(ann, Cause.COMPLAINT, world.AT))
    await recent.refresh(pool, world.AT + timedelta(seconds=59))
    assert recent.cause(1, "ann@example.org", 1) == "complaint"


async def test_what_no_waiting_copy_can_have_missed_is_forgotten(pool: Pool, world: Any) -> None:
    ann = await contact(pool, world)
    recent = RecentSuppressions(remember_seconds=0.0)
    await suppress(pool, new(ann, Cause.COMPLAINT, world.AT))
    await recent.refresh(pool, world.AT)
    for hours in (1, 2):
        await recent.refresh(pool, world.AT + timedelta(hours=hours))
    assert recent.cause(1, "ann@example.org", 1) is None
