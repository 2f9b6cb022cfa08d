"""Settling: what is final goes, what is deferred waits; writing it twice changes nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from posthouse import queue
from posthouse.db.pool import Pool
from posthouse.model.messages import Copy
from posthouse.model.outcomes import BounceClass, Outcome, Status
from posthouse.queue import LaneRoom, Untried

IN_FLIGHT = timedelta(minutes=30)
MINUTE = timedelta(minutes=1)


async def claimed(pool: Pool, now: Any) -> list[Copy]:
    lanes = await queue.due_lanes(pool, now, sandbox=False)
    rooms = [LaneRoom(lane.lane_id, 1000, now - timedelta(days=30)) for lane in lanes]
    taken = await queue.claim(pool, rooms, now, IN_FLIGHT, most=1000)
    return sorted(taken.copies, key=lambda copy: copy.message_id)


def outcome(copy: Copy, status: Status, **more: Any) -> Outcome:
    made = Outcome(copy.workspace_id, copy.message_id, copy.attempt, status, 0, copy.campaign_id, copy.contact_id, 0)
    return structs.replace(made, **more)


def microseconds(moment: Any) -> int:
    return int(moment.timestamp() * 1_000_000)


async def settle(pool: Pool, *outcomes: Outcome) -> set[int]:
    async with pool.acquire() as connection, connection.transaction():
        return await queue.settle(connection, outcomes)


async def rows(pool: Pool) -> list[tuple[Any, ...]]:
    return [
        tuple(row)
        for row in await pool.fetch("select message_id, state, attempt, due, reason from queue order by message_id")
    ]


@pytest.mark.parametrize("status", [status for status in Status if status.is_final])
async def test_a_final_outcome_takes_the_row_once(pool: Pool, world: Any, status: Status) -> None:
    await world.queued(["ann@example.org", "ben@example.org"])
    first, second = await claimed(pool, world.AT)
    assert await settle(pool, outcome(first, status)) == {first.message_id}
    assert await settle(pool, outcome(first, status)) == set(), "a replay finds no row to take"
    assert [row[0] for row in await rows(pool)] == [second.message_id]


async def test_another_workspaces_row_is_never_taken(pool: Pool, world: Any) -> None:
    await world.queued(["ann@example.org"])
    (copy,) = await claimed(pool, world.AT)
    assert await settle(pool, outcome(copy, Status.DELIVERED, workspace_id=2)) == set()
    assert len(await rows(pool)) == 1


async def test_a_deferred_message_waits_for_its_next_try_with_its_reason(pool: Pool, world: Any) -> None:
    await world.queued(["ann@example.org", "ben@example.org"])
    first, second = await claimed(pool, world.AT)
    later = world.AT + 7 * MINUTE
    deferral = outcome(first, Status.DEFERRED, next_try=microseconds(later), bounce_class=BounceClass.GREYLIST)
    for _ in range(2):
        assert await settle(pool, deferral) == set()
        assert (await rows(pool))[0] == (first.message_id, 0, 1, later, "greylist")
    assert [copy.attempt for copy in await claimed(pool, later)] == [2]
    # The message is in another sender's hands now: the old deferral comes too late.
    await settle(pool, deferral)
    assert (await rows(pool))[0][1:4] == (1, 2, later + IN_FLIGHT)
    assert (await rows(pool))[1][0] == second.message_id


async def test_a_held_message_waits_for_a_person(pool: Pool, world: Any) -> None:
    campaign = await world.queued(["ann@example.org", "ben@example.org"])
    first, _ = await claimed(pool, world.AT)
    await settle(pool, outcome(first, Status.HELD, rule="missing-field: city"))
    held = await queue.waiting_counts(pool, 1, campaign.campaign_id)
    assert {(row["state"], row["reason"], row["count"]) for row in held} == {
        (2, "missing-field: city", 1),
        (1, None, 1),
    }
    assert await claimed(pool, world.AT + 20 * MINUTE) == []
    assert await queue.release_held(pool, campaign.campaign_id, world.AT + MINUTE) == 1
    assert await queue.release_held(pool, campaign.campaign_id, world.AT + MINUTE) == 0
    assert [copy.attempt for copy in await claimed(pool, world.AT + MINUTE)] == [2]
    await settle(pool, outcome(first, Status.HELD, rule="too late"))
    assert (await rows(pool))[0][1] == 1


async def test_what_was_deferred_can_be_made_due_and_nothing_else(pool: Pool, world: Any) -> None:
    campaign = await world.queued(["ann@example.org", "ben@example.org", "cleo@example.org"])
    other = await world.queued(["dan@example.org"], "Other")
    ann, ben, _, dan = await claimed(pool, world.AT)
    later = world.AT + 60 * MINUTE
    for copy in (ann, dan):
        await settle(pool, outcome(copy, Status.DEFERRED, next_try=microseconds(later)))
    await settle(pool, outcome(ben, Status.HELD, rule="missing-field: city"))
    assert other.campaign_id != campaign.campaign_id
    assert await queue.fall_due(pool, campaign.campaign_id, world.AT + MINUTE) == 1
    assert await queue.fall_due(pool, campaign.campaign_id, world.AT + MINUTE) == 0
    assert [copy.message_id for copy in await claimed(pool, world.AT + MINUTE)] == [ann.message_id]


async def test_what_is_put_back_was_not_tried(pool: Pool, world: Any) -> None:
    await world.queued(["ann@example.org"])
    (copy,) = await claimed(pool, world.AT)
    async with pool.acquire() as connection:
        await queue.put_back(connection, [Untried(copy, world.AT + MINUTE, "site-resting")])
        await queue.put_back(connection, [Untried(copy, world.AT + 2 * MINUTE, "twice")])
        await queue.put_back(connection, [])
    assert await rows(pool) == [(copy.message_id, 0, 0, world.AT + MINUTE, "site-resting")]
    (again,) = await claimed(pool, world.AT + MINUTE)
    assert again.attempt == 1


async def test_a_row_that_another_sender_took_up_is_not_put_back(pool: Pool, world: Any) -> None:
    await world.queued(["ann@example.org"])
    (old,) = await claimed(pool, world.AT)
    await claimed(pool, world.AT + IN_FLIGHT)
    async with pool.acquire() as connection:
        await queue.put_back(connection, [Untried(old, world.AT, "late")])
    assert (await rows(pool))[0][1:4] == (1, 2, world.AT + 2 * IN_FLIGHT)


async def test_the_settled_mark_never_goes_back(pool: Pool) -> None:
    async with pool.acquire() as connection:
        assert await queue.settled_mark(connection, "here", 0) == 0
        for number in (5, 3):
            await queue.mark_settled(connection, "here", 0, number)
        await queue.mark_settled(connection, "here", 1, 9)
        await queue.mark_settled(connection, "there", 0, 7)
        assert [await queue.settled_mark(connection, n, s) for n, s in (("here", 0), ("here", 1), ("there", 0))] == [
            5,
            9,
            7,
        ]
