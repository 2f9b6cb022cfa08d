"""Queueing: who is queued, in which lane, and the ranges that the table is made of."""

from __future__ import annotations

import asyncio
from typing import Any

from posthouse import ledger, queue
from posthouse.db.pool import Pool
from posthouse.queue.put import MESSAGES_PER_PARTITION

PER_RANGE = MESSAGES_PER_PARTITION


async def ranges(pool: Pool, table: str = "queue") -> list[str]:
    found = await pool.fetch(
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = $1::text::regclass "
        "order by c.relname",
        table,
    )
    return [row["relname"] for row in found]


def test_queue_and_ledger_are_cut_at_the_same_ids() -> None:
    assert ledger.events.MESSAGES_PER_PARTITION == MESSAGES_PER_PARTITION


async def test_only_subscribers_who_are_not_erased_are_queued(pool: Pool, world: Any) -> None:
    people = await world.people([f"p{n}@example.org" for n in range(6)])
    campaign = await world.campaign(people)
    contacts = [row[0] for row in await pool.fetch("select contact_id from contacts order by contact_id")]
    await pool.execute("update memberships set status = 'unsubscribed' where contact_id = $1", contacts[0])
    await pool.execute("update memberships set status = 'pending' where contact_id = $1", contacts[1])
    await pool.execute("update contacts set erased_at = now() where contact_id = $1", contacts[2])
    assert await world.launched(campaign) == 3
    assert [row[0] for row in await pool.fetch("select contact_id from queue order by message_id")] == contacts[3:]


async def test_each_domain_is_queued_for_the_site_behind_it(pool: Pool, world: Any) -> None:
    people = await world.people(["a@one.test", "b@two.test", "c@one.test", "d@unknown.test"])
    await pool.execute("insert into sites (site_id, name) overriding system value values (1, 'one'), (2, 'two')")
    await pool.execute(
        "insert into domain_routes select d, s, '{}', '{}', $1, $1 from (values ('one.test', 1), ('two.test', 2)) v (d, s)",
        world.AT,
    )
    campaign = await world.campaign(people)
    assert set(await queue.chunk_domains(pool, 1, people.list_id, 0, campaign.launch_until)) == {
        "one.test",
        "two.test",
        "unknown.test",
    }
    await world.launched(campaign, site_id=None)
    found = await pool.fetch(
        "select c.email, l.site_id from queue q join lanes l using (lane_id) "
        "join contacts c on c.contact_id = q.contact_id order by q.message_id"
    )
    assert [tuple(row) for row in found] == [
        ("a@one.test", 1),
        ("b@two.test", 2),
        ("c@one.test", 1),
        ("d@unknown.test", 0),
    ]


async def test_ranges_are_made_before_they_are_needed_by_any_number_of_launches_at_once(pool: Pool) -> None:
    async def make(count: int) -> None:
        async with pool.acquire() as connection, connection.transaction():
            first, last = await queue.next_message_ids(connection, count)
            await ledger.make_room(connection, first, last)

    await asyncio.gather(*(make(5_000) for _ in range(4)))
    assert await ranges(pool) == ["queue_0"]
    await pool.execute("select setval('message_ids', $1)", PER_RANGE - 2_000)
    await asyncio.gather(*(make(5_000) for _ in range(4)))
    assert await ranges(pool) == ["queue_0", f"queue_{PER_RANGE}"]
    assert await ranges(pool, "ledger") == ["ledger_0", f"ledger_{PER_RANGE}"]


async def test_a_chunk_may_lie_in_two_ranges(pool: Pool, world: Any) -> None:
    await pool.execute("select setval('message_ids', $1)", PER_RANGE - 3)
    await world.queued([f"p{n}@example.org" for n in range(6)])
    found = await pool.fetch("select tableoid::regclass::text as range, count(*) from queue group by 1 order by 1")
    assert [tuple(row) for row in found] == [("queue_0", 2), (f"queue_{PER_RANGE}", 4)]


async def test_a_range_goes_when_it_is_full_and_empty_and_nobody_uses_it(pool: Pool, world: Any) -> None:
    await world.queued(["ann@example.org"])
    assert await queue.drop_empty_ranges(pool) == 0, "it is the one in use"
    await pool.execute("select setval('message_ids', $1)", PER_RANGE + 10)
    await world.queued(["ben@example.org"], "Second")
    assert await queue.drop_empty_ranges(pool) == 0, "a message waits in it"
    async with pool.acquire() as other:
        await other.execute("delete from queue where message_id < $1", PER_RANGE)
        async with other.transaction():
            await other.fetch("select * from queue limit 1")
            assert await queue.drop_empty_ranges(pool) == 0, "somebody reads it, and is not made to wait"
    assert await queue.drop_empty_ranges(pool) == 1
    assert await ranges(pool) == [f"queue_{PER_RANGE}"]
