"""Claiming: who gets what, in which order, and what is written before anybody dials."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta
from typing import Any

import pytest

from posthouse import campaigns, delivery, queue
from posthouse.campaigns import Campaign, CampaignState
from posthouse.db.pool import Pool
from posthouse.delivery import LimitBook, Paths, SiteLimits
from posthouse.model.messages import Copy
from posthouse.queue import Claimed, DueLane, LaneRoom, NextWork

IN_FLIGHT = timedelta(minutes=30)
LONG_AGO = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
MINUTE = timedelta(minutes=1)


async def lanes(pool: Pool, now: datetime) -> list[int]:
    return [lane.lane_id for lane in await queue.due_lanes(pool, now, sandbox=False)]


async def claim(pool: Pool, now: datetime, room: int = 1000, most: int = 1000, floor: datetime = LONG_AGO) -> Claimed:
    """Claim from every lane that has something due."""
    rooms = [LaneRoom(lane, room, floor) for lane in await lanes(pool, now)]
    return await queue.claim(pool, rooms, now, IN_FLIGHT, most=most)


async def rows(pool: Pool) -> list[dict[str, Any]]:
    found = await pool.fetch("select message_id, state, attempt, due, reason from queue order by message_id")
    return [dict(row) for row in found]


async def change(pool: Pool, campaign: Campaign, to: CampaignState, at: datetime) -> None:
    await campaigns.change_state(pool, campaign, to, at)


async def test_a_claim_tells_all_and_writes_the_attempt_before_anybody_dials(pool: Pool, world: Any) -> None:
    campaign = await world.queued(["ann@example.org"])
    claimed = await claim(pool, world.AT)
    (row,) = await rows(pool)
    (lane,) = await lanes(pool, world.AT + IN_FLIGHT)
    contact = await pool.fetchval("select contact_id from contacts")
    assert claimed.copies == [
        Copy(
            workspace_id=1,
            message_id=row["message_id"],
            campaign_id=campaign.campaign_id,
            contact_id=contact,
            list_id=campaign.list_id,
            lane_id=lane,
            site_id=0,
            attempt=1,
            email="ann@example.org",
            fields={"first_name": "Person 1"},
            first_at=int(world.AT.timestamp()) * 1_000_000,
            withheld=None,
        )
    ]
    assert claimed.dues == {lane: world.AT}
    assert (row["state"], row["attempt"], row["due"]) == (1, 1, world.AT + IN_FLIGHT)


async def test_what_a_dead_sender_had_falls_due_again(pool: Pool, world: Any) -> None:
    await world.queued(["ann@example.org"])
    await claim(pool, world.AT)
    assert (await claim(pool, world.AT + IN_FLIGHT - MINUTE)).copies == []
    assert [copy.attempt for copy in (await claim(pool, world.AT + IN_FLIGHT)).copies] == [2]


async def test_lanes_give_what_they_have_room_for_the_oldest_first(pool: Pool, world: Any) -> None:
    first = await world.people([f"a{n}@example.org" for n in range(5)])
    second = await world.people([f"b{n}@example.org" for n in range(5)])
    await pool.execute("insert into sites (site_id, name) overriding system value values (1, 'one'), (2, 'two')")
    await world.launched(await world.campaign(first, "later"), due=world.AT, site_id=1)
    await world.launched(await world.campaign(second, "sooner"), due=world.AT - MINUTE, site_id=1)
    await world.launched(await world.campaign(first, "elsewhere"), due=world.AT, site_id=2)
    one, two = await lanes(pool, world.AT)
    taken = await queue.claim(
        pool, [LaneRoom(one, 6, LONG_AGO), LaneRoom(two, 0, LONG_AGO)], world.AT, IN_FLIGHT, most=100
    )
    assert sorted(copy.email[0] for copy in taken.copies) == ["a"] + ["b"] * 5
    assert taken.dues == {one: world.AT}
    rest = await queue.claim(
        pool, [LaneRoom(one, 9, LONG_AGO), LaneRoom(two, 9, LONG_AGO)], world.AT, IN_FLIGHT, most=6
    )
    assert [copy.lane_id for copy in rest.copies].count(one) == 4, "lanes in the order given, until there are enough"
    assert len(rest.copies) == 6


async def test_a_claim_may_begin_behind_what_is_known_to_be_gone(pool: Pool, world: Any) -> None:
    await world.launched(await world.campaign(await world.people(["a@example.org"]), "old"), due=world.AT - MINUTE)
    await world.launched(await world.campaign(await world.people(["b@example.org"]), "new"), due=world.AT)
    assert [c.email for c in (await claim(pool, world.AT, floor=world.AT)).copies] == ["b@example.org"]
    assert [c.email for c in (await claim(pool, world.AT, floor=LONG_AGO)).copies] == ["a@example.org"]


async def test_what_is_not_due_is_left(pool: Pool, world: Any) -> None:
    await world.queued(["ann@example.org"])
    (lane,) = await lanes(pool, world.AT)
    rooms = [LaneRoom(lane, 9, LONG_AGO)]
    assert (await queue.claim(pool, rooms, world.AT - MINUTE, IN_FLIGHT, most=9)).copies == []
    assert await lanes(pool, world.AT - MINUTE) == []


async def test_two_senders_share_a_lane_without_waiting_for_each_other(pool: Pool, world: Any) -> None:
    await world.queued([f"p{n}@example.org" for n in range(100)])
    async with pool.acquire() as other, other.transaction():
        # Another sender is in the middle of its claim: these rows are locked and must be passed by.
        locked = await other.fetch("select message_id from queue order by message_id limit 30 for update")
        async with asyncio.timeout(10):
            taken = {copy.message_id for copy in (await claim(pool, world.AT)).copies}
    assert len(taken) == 70
    assert not taken & {row["message_id"] for row in locked}
    both = await asyncio.gather(*(claim(pool, world.AT + IN_FLIGHT, room=25) for _ in range(4)))
    numbers = [copy.message_id for claimed in both for copy in claimed.copies]
    assert len(numbers) == len(set(numbers)) == 100


async def test_a_paused_campaign_is_held_untried_and_goes_on_when_it_is_resumed(pool: Pool, world: Any) -> None:
    campaign = await world.queued(["ann@example.org", "ben@example.org"])
    await change(pool, campaign, CampaignState.PAUSED, world.AT)
    assert (await claim(pool, world.AT)).copies == []
    assert [(row["state"], row["attempt"], row["reason"]) for row in await rows(pool)] == [
        (2, 0, "campaign-paused")
    ] * 2
    assert await lanes(pool, world.AT + 1000 * IN_FLIGHT) == []
    assert await queue.next_work(pool, world.AT, sandbox=False) == NextWork(None, None)  # type: ignore[arg-type]
    await change(pool, campaign, CampaignState.SENDING, world.AT)
    assert await queue.release_held(pool, campaign.campaign_id, world.AT + MINUTE) == 2
    assert [copy.attempt for copy in (await claim(pool, world.AT + MINUTE)).copies] == [1, 1]


async def test_a_cancelled_campaign_is_given_out_as_withheld(pool: Pool, world: Any) -> None:
    campaign = await world.queued(["ann@example.org"])
    await change(pool, campaign, CampaignState.CANCELLED, world.AT)
    assert [copy.withheld for copy in (await claim(pool, world.AT)).copies] == ["cancelled"]


async def test_an_erased_contact_is_withheld(pool: Pool, world: Any) -> None:
    await world.queued(["ann@example.org"])
    await pool.execute("update contacts set erased_at = $1", world.AT)
    assert [copy.withheld for copy in (await claim(pool, world.AT)).copies] == ["erased"]


@pytest.mark.parametrize(
    ("scope", "on_list", "workspace", "lifted", "expected"),
    [
        ("all", None, 1, False, "why"),
        ("marketing", None, 1, False, "why"),
        ("list", "this", 1, False, "why"),
        ("list", "another", 1, False, None),
        ("all", None, 1, True, None),
        ("all", None, 2, False, None),
    ],
)
async def test_a_suppression_holds_for_what_it_is_about(
    pool: Pool, world: Any, scope: str, on_list: str | None, workspace: int, lifted: bool, expected: str | None
) -> None:
    """Answers 15; it holds for what was queued before it was written, whatever case the address is in."""
    campaign = await world.queued(["Ann@example.org", "ben@example.org"])
    list_id = {"this": campaign.list_id, "another": campaign.list_id + 1, None: 0}[on_list]
    await pool.execute(
        "insert into suppressions (workspace_id, address_key, scope, list_id, cause, at, lifted_at) "
        "values ($1, 'ann@example.org', $2, $3, 'why', $4, $5)",
        workspace,
        scope,
        list_id,
        world.AT,
        world.AT if lifted else None,
    )
    found = {copy.email: copy.withheld for copy in (await claim(pool, world.AT)).copies}
    assert found == {"Ann@example.org": expected, "ben@example.org": None}


async def test_rehearsals_and_real_mail_do_not_see_each_other(pool: Pool, world: Any) -> None:
    await world.queued(["ann@example.org"], workspace=1)
    await world.queued(["ann@example.org"], workspace=2)
    real, rehearsed = [await queue.due_lanes(pool, world.AT, sandbox=sandbox) for sandbox in (False, True)]
    assert [lane.workspace_id for lane in real] == [1]
    assert [lane.workspace_id for lane in rehearsed] == [2]
    async with pool.acquire() as connection:
        assert await queue.any_claimed(connection, sandbox=False) is False
        await claim(pool, world.AT)
        assert await queue.any_claimed(connection, sandbox=False) is True
        assert await queue.any_claimed(connection, sandbox=True) is False
        assert await queue.next_work(connection, world.AT, sandbox=True) == NextWork(None, world.AT)
        assert await queue.next_work(connection, world.AT, sandbox=False) == NextWork(world.AT + IN_FLIGHT, None)


async def test_urgent_lanes_come_first_and_a_site_that_rests_is_left_alone(pool: Pool, world: Any) -> None:
    await world.queued(["ann@example.org"])
    await pool.execute("insert into sites (site_id, name) overriding system value values (5, 'busy')")
    await world.launched(await world.campaign(await world.people(["b@busy.test"]), "b"), site_id=5)
    await pool.execute("update lanes set priority = 1 where site_id = 5")
    slow, usual = await queue.due_lanes(pool, world.AT, sandbox=False)
    assert (slow, usual.site_id) == (DueLane(slow.lane_id, 1, "default", 1, 5, "busy"), 0)
    await queue.claim(pool, [LaneRoom(usual.lane_id, 9, LONG_AGO)], world.AT, IN_FLIGHT, most=9)
    paces = Paths(LimitBook.load(SiteLimits()), "here", 0, 1, random.Random(1))
    await delivery.start_rest(pool, 0, 5, world.AT + MINUTE, "rate", "421 slow down")
    await paces.refresh(pool, world.AT)
    await paces.tell(pool, world.AT)
    async with pool.acquire() as connection:
        waits = NextWork(world.AT + IN_FLIGHT, world.AT + MINUTE)
        assert await queue.next_work(connection, world.AT, sandbox=False) == waits, (
            "due, but not before the rest is over"
        )
        message = await pool.fetchval("select message_id from queue where lane_id = $1", slow.lane_id)
        waiting = await queue.waiting_message(connection, message, world.AT)
        assert waiting is not None
        assert (waiting["site"], waiting["rests_until"], waiting["rest_reply"]) == (
            "busy",
            world.AT + MINUTE,
            "421 slow down",
        )
        rested = await queue.waiting_message(connection, message, world.AT + MINUTE)
        assert rested is not None
        assert rested["rests_until"] is None
        assert await queue.waiting_message(connection, 999, world.AT) is None
    await paces.tell(pool, world.AT + MINUTE)
    async with pool.acquire() as connection:
        assert (await queue.next_work(connection, world.AT + MINUTE, sandbox=False)).ready == world.AT, (
            "the rest is over"
        )


async def test_a_shorter_rest_does_not_cut_a_longer_one_short(pool: Pool, world: Any) -> None:
    await pool.execute("insert into sites (site_id, name) overriding system value values (5, 'busy')")
    await delivery.start_rest(pool, 0, 5, world.AT + 2 * MINUTE, "rate", "long")
    await delivery.start_rest(pool, 0, 5, world.AT + MINUTE, "rate", "short")
    assert [rest["reply"] for rest in await delivery.resting_sites(pool, world.AT)] == ["long"]
    await delivery.start_rest(pool, 0, 5, world.AT + 3 * MINUTE, "rate", "longer")
    (rest,) = await delivery.resting_sites(pool, world.AT + 2 * MINUTE)
    assert (rest["source"], rest["site"], rest["until"], rest["class"], rest["reply"]) == (
        "default",
        "busy",
        world.AT + 3 * MINUTE,
        "rate",
        "longer",
    )
