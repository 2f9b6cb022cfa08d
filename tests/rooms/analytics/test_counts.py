"""The reader of the ledger: a late COMMIT is never skipped, nothing is counted twice, and the numbers of the funnel."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from posthouse import analytics, ledger, queue
from posthouse.analytics import counts
from posthouse.db.pool import Pool
from posthouse.model.events import FINAL_KINDS, Event, EventKind

AT = int(datetime(2026, 11, 24, 9, 0, tzinfo=UTC).timestamp()) * 1_000_000


def event(message_id: int, kind: EventKind, nth: int = 1, site_id: int = 0, detail: Any = None) -> Event:
    return Event(1, message_id, kind, nth, AT + message_id, 1, message_id, site_id, detail)


@pytest.fixture
async def room(pool: Pool) -> Pool:
    """The pool, with ranges for the ledger."""
    async with pool.acquire() as connection, connection.transaction():
        first, last = await queue.next_message_ids(connection, 1000)
        await ledger.make_room(connection, first, last)
    return pool


async def record(pool: Pool, *events: Event) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await ledger.record(connection, events)


async def delivered(pool: Pool) -> int:
    return (await analytics.final_count(pool, 1, 1)).count


async def count_all(pool: Pool) -> None:
    while await analytics.count_news(pool):
        pass


async def test_a_late_commit_is_neither_skipped_nor_counted_twice(room: Pool) -> None:
    """Answers 7: what began before and commits after is waited for."""
    async with room.acquire() as slow:
        open_one = slow.transaction()
        await open_one.start()
        await ledger.record(slow, [event(1, EventKind.DELIVERED)])
        await record(room, event(2, EventKind.DELIVERED))
        await count_all(room)
        assert await delivered(room) == 0, "what committed behind an open transaction waits for it"
        await open_one.commit()
    await count_all(room)
    assert await delivered(room) == 2
    await count_all(room)
    assert await delivered(room) == 2


async def test_a_transaction_that_is_rolled_back_holds_nobody_up(room: Pool) -> None:
    async with room.acquire() as slow:
        open_one = slow.transaction()
        await open_one.start()
        await ledger.record(slow, [event(1, EventKind.DELIVERED)])
        await open_one.rollback()
    await record(room, event(2, EventKind.DELIVERED))
    await count_all(room)
    assert await delivered(room) == 1


async def test_many_readers_and_writers_at_once_agree_in_the_end(room: Pool) -> None:
    """The front and any number of reports count at the same time."""

    async def write(part: int) -> None:
        for number in range(60):
            await record(room, event(part * 100 + number, EventKind.DELIVERED))

    async def read() -> None:
        for _ in range(60):
            await analytics.count_news(room)

    await asyncio.gather(*(write(part) for part in range(1, 4)), read(), read())
    await count_all(room)
    assert await delivered(room) == 180


async def test_a_reader_with_an_older_view_never_moves_the_cursor_back(room: Pool) -> None:
    """Its snapshot was taken before it waited for the cursor; another reader has gone further in the meantime."""
    await record(room, event(1, EventKind.DELIVERED))
    await count_all(room)
    far = await room.fetchval(
        "update ledger_cursors set read_until = (read_until::text::bigint + 1000)::text::xid8 returning read_until::text"
    )
    await analytics.count_news(room)
    assert await room.fetchval("select read_until::text from ledger_cursors") == far
    assert await delivered(room) == 1


async def test_news_are_read_in_pieces_whole_transactions_at_a_time(
    room: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "_LINES_AT_ONCE", 10)
    await record(room, *(event(number, EventKind.DELIVERED) for number in range(1, 26)))
    for start in range(100, 140, 4):
        await record(room, *(event(start + number, EventKind.DELIVERED) for number in range(4)))
    seen = []
    while await analytics.count_news(room):
        seen.append(await delivered(room))
    assert await delivered(room) == 65
    assert seen[:2] == [0, 25], "one transaction that is larger than a piece is read alone"
    assert all(after - before <= 12 for before, after in pairwise(seen[1:]))
    assert len(seen) >= 4


async def test_the_funnel(room: Pool) -> None:
    await room.execute("insert into sites (site_id, name) overriding system value values (1, 'one'), (2, 'two')")
    await record(
        room,
        event(1, EventKind.DEFERRED, 1, 1, {"class": "rate"}),
        event(1, EventKind.DEFERRED, 2, 1, {"class": "rate"}),
        event(1, EventKind.DELIVERED, 3, 1),
        event(2, EventKind.DELIVERED, 1, 1),
        event(3, EventKind.DEFERRED, 1, 2, {"class": "greylist"}),
        event(3, EventKind.EXPIRED, 2, 2, {"class": "greylist"}),
        event(4, EventKind.BOUNCED, 1, 2, {"class": "user-unknown"}),
        event(5, EventKind.SUPPRESSED, 1, 2, {"rule": "complaint"}),
        event(6, EventKind.CANCELLED, 1, 2, {"rule": "campaign-cancelled"}),
        event(2, EventKind.REDELIVERED, 2, 1),
    )
    await record(
        room,
        event(1, EventKind.OPENED, AT + 5),
        event(1, EventKind.OPENED, AT + 6),
        event(1, EventKind.CLICKED, AT + 7),
        event(2, EventKind.COMPLAINED, AT + 8),
        event(2, EventKind.UNSUBSCRIBED, AT + 9),
        event(2, EventKind.BOUNCED_LATER, AT + 9, 0, {"class": "user-unknown"}),
    )
    await count_all(room)
    funnel = await analytics.funnel_of(room, 1, 1)
    one, two = funnel.sites["one"], funnel.sites["two"]
    assert (one.delivered, one.deferred, one.deferred_then_delivered, one.redelivered) == (2, 2, 1, 1)
    assert (one.opened, one.clicked, one.complained, one.unsubscribed, one.bounced_later) == (1, 1, 1, 1, 1)
    assert (two.deferred, two.deferred_then_delivered, two.expired) == (1, 0, 1)
    assert (two.bounced, two.suppressed, two.cancelled) == (1, 1, 1)
    assert (funnel.total.delivered, funnel.total.deferred, funnel.total.expired) == (2, 3, 1)
    assert funnel.bounce_classes == {"user-unknown": 1}
    assert funnel.deferral_classes == {"rate": 2, "greylist": 1}
    assert funnel.suppressed_causes == {"complaint": 1}
    final = await analytics.final_count(room, 1, 1)
    assert final.count == 6, "a second copy and what people do are no final outcomes"
    assert (final.first_at, final.last_at) == (funnel.first_at, funnel.last_at)
    assert final.last_at == datetime(2026, 11, 24, 9, 0, 0, 6, tzinfo=UTC)
    assert await analytics.funnel_of(room, 2, 1) == analytics.Funnel(analytics.funnel.Row(), {})


def test_the_final_kinds_of_the_counters_are_those_of_the_model() -> None:
    statement = counts._SQL["final_count"]
    assert all(f"'{kind.value}'" in statement for kind in FINAL_KINDS)
    assert statement.count("'") == 2 * len(FINAL_KINDS)
