"""The ledger: append-only, each line once, readable by message, address and campaign."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from posthouse import ledger, queue
from posthouse.db.pool import Pool
from posthouse.model.events import Event, EventKind

AT = int(datetime(2026, 11, 24, 9, 0, tzinfo=UTC).timestamp()) * 1_000_000


def event(message_id: int, kind: EventKind, nth: int = 1, **more: Any) -> Event:
    return Event(
        **{
            "workspace_id": 1,
            "message_id": message_id,
            "kind": kind,
            "nth": nth,
            "at": AT + nth,
            "campaign_id": 1,
            "contact_id": 1,
            "site_id": 3,
            "detail": {"code": 250},
            **more,
        }
    )


async def record(pool: Pool, *events: Event) -> None:
    async with pool.acquire() as connection, connection.transaction():
        first, last = await queue.next_message_ids(connection, 10)
        await ledger.make_room(connection, first, last)
        await ledger.record(connection, events)


async def history(pool: Pool, message_id: int) -> list[dict[str, Any]]:
    async with pool.acquire() as connection:
        return await ledger.history(connection, message_id)


async def test_every_kind_of_news_can_be_kept_and_is_read_in_order(pool: Pool) -> None:
    await record(pool, *(event(7, kind, nth) for nth, kind in enumerate(reversed(EventKind), 1)))
    kept = await history(pool, 7)
    assert [line["kind"] for line in kept] == [kind.value for kind in reversed(EventKind)]
    assert kept[0] == {
        "workspace_id": 1,
        "kind": "stopped",
        "nth": 1,
        "at": datetime(2026, 11, 24, 9, 0, 0, 1, tzinfo=UTC),
        "campaign_id": 1,
        "contact_id": 1,
        "site_id": 3,
        "detail": {"code": 250},
    }
    assert await history(pool, 8) == []


async def test_a_line_that_is_there_is_never_changed(pool: Pool) -> None:
    await record(pool, event(7, EventKind.DELIVERED))
    await record(pool, event(7, EventKind.DELIVERED, detail={"code": 999}), event(7, EventKind.DELIVERED, 2))
    assert [(line["nth"], line["detail"]) for line in await history(pool, 7)] == [
        (1, {"code": 250}),
        (2, {"code": 250}),
    ]


async def test_what_people_do_is_filed_under_the_provider_that_took_the_message(pool: Pool) -> None:
    await record(pool, event(7, EventKind.DELIVERED, site_id=3))
    await record(pool, event(7, EventKind.OPENED, 2, site_id=0), event(8, EventKind.OPENED, 2, site_id=0, detail=None))
    assert [line["site_id"] for line in await history(pool, 7)] == [3, 3]
    assert [(line["site_id"], line["detail"]) for line in await history(pool, 8)] == [(0, None)]


async def test_only_a_second_delivery_is_news_after_the_end(pool: Pool) -> None:
    await record(pool, event(7, EventKind.DELIVERED))
    late = [event(7, EventKind.DELIVERED), event(7, EventKind.BOUNCED, 2), event(7, EventKind.DELIVERED, 3)]
    async with pool.acquire() as connection:
        await ledger.record_late(connection, late)
        await ledger.record_late(connection, late)
    assert [(line["kind"], line["nth"]) for line in await history(pool, 7)] == [("delivered", 1), ("redelivered", 3)]


async def test_an_address_shows_its_messages_with_their_last_news(pool: Pool, world: Any) -> None:
    await world.people(["Ann@example.org", "ben@example.org"])
    ann, ben = [row[0] for row in await pool.fetch("select contact_id from contacts order by email")]
    await record(
        pool,
        event(7, EventKind.DEFERRED, 1, contact_id=ann),
        event(7, EventKind.DELIVERED, 2, contact_id=ann),
        event(8, EventKind.BOUNCED, 1, contact_id=ann, campaign_id=2),
        event(9, EventKind.BOUNCED, 1, contact_id=ben),
    )
    found = await ledger.messages_to(pool, "ann@Example.org")
    assert [(row["message_id"], row["campaign_id"], row["kind"]) for row in found] == [
        (8, 2, "bounced"),
        (7, 1, "delivered"),
    ]
    lines = [line async for line in ledger.campaign_lines(pool, 1, 1)]
    assert sorted(lines) == [
        (7, "Ann@example.org", EventKind.DEFERRED, 1, 250),
        (7, "Ann@example.org", EventKind.DELIVERED, 2, 250),
        (9, "ben@example.org", EventKind.BOUNCED, 1, 250),
    ]
