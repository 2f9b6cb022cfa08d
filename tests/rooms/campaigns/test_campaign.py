"""Campaigns: frozen at their making, one of each name, found by number or name."""

from __future__ import annotations

from typing import Any

import pytest

from posthouse import campaigns
from posthouse.campaigns import CampaignState
from posthouse.db.pool import Pool
from posthouse.model.errors import Refused


async def test_a_name_is_given_once_in_a_workspace(pool: Pool, world: Any) -> None:
    news = await world.people(["ann@example.org"])
    first = await world.campaign(news, "May")
    with pytest.raises(Refused, match=r"There is a campaign “May” already: give this one another --name"):
        await world.campaign(news, "May")
    rehearsal = await world.campaign(await world.people(["ann@example.org"], workspace=2), "May", workspace=2)
    assert (first.sandbox, rehearsal.sandbox) == (False, True)
    assert (await campaigns.find_campaign(pool, "May")).campaign_id == first.campaign_id, "the real one comes first"
    assert await campaigns.find_campaign(pool, str(rehearsal.campaign_id)) == rehearsal
    assert await campaigns.list_campaigns(pool) == [rehearsal, first]
    assert await campaigns.launching_campaigns(pool, sandbox=True) == [rehearsal]
    assert await campaigns.launching_campaigns(pool, sandbox=False) == [first]


async def test_a_name_may_be_a_number(pool: Pool, world: Any) -> None:
    made = await world.campaign(await world.people(["ann@example.org"]), "2026")
    assert await campaigns.find_campaign(pool, "2026") == made
    for missing in ("2027", "June", "9" * 30, ""):
        with pytest.raises(Refused, match="There is no campaign"):
            await campaigns.find_campaign(pool, missing)


async def test_what_a_sender_and_the_web_door_need(pool: Pool, world: Any) -> None:
    made = await world.campaign(await world.people(["ann@example.org"]))
    assert await campaigns.load_compiled(pool, made.campaign_id) == (1, "news@sender.test", b"", {})
    assert await campaigns.link_target(pool, 1, made.campaign_id, 0) == "https://a.example/"
    for workspace, campaign_id, index in (
        (1, made.campaign_id, 1),
        (2, made.campaign_id, 0),
        (1, 999, 0),
        (1, made.campaign_id, -1),
    ):
        assert await campaigns.link_target(pool, workspace, campaign_id, index) is None
    with pytest.raises(Refused, match="Campaign 999 is gone"):
        await campaigns.load_compiled(pool, 999)


async def test_chunks_follow_the_members_to_the_last_one(pool: Pool, world: Any) -> None:
    made = await world.campaign(await world.people([f"p{n}@example.org" for n in range(5)]))
    contacts = [row[0] for row in await pool.fetch("select contact_id from contacts order by 1")]
    assert made.launch_until == contacts[-1]
    assert await campaigns.chunk_end(pool, made, 2) == contacts[1]
    async with pool.acquire() as connection, connection.transaction():
        assert await campaigns.next_chunk_end(connection, made, 2) == (0, contacts[1])
        async with pool.acquire() as other:
            assert await campaigns.next_chunk_end(other, made, 2) is None, "one launch at a time has it"
        await campaigns.move_launch(connection, made, contacts[3], 4)
    async with pool.acquire() as connection:
        assert await campaigns.next_chunk_end(connection, made, 2) == (contacts[3], contacts[4])
        await campaigns.move_launch(connection, made, contacts[4], 1)
        assert await campaigns.next_chunk_end(connection, made, 2) == (contacts[4], None)
        await campaigns.mark_launched(connection, made, world.AT)
        assert await campaigns.next_chunk_end(connection, made, 2) is None
    now = await campaigns.find_campaign(pool, str(made.campaign_id))
    assert (now.state, now.queued, now.launched_at) == (CampaignState.SENDING, 5, world.AT)
    assert await campaigns.sending_campaigns(pool, sandbox=False) == [now]
    assert await campaigns.finish_campaign(pool, now, world.AT) is True
    assert await campaigns.finish_campaign(pool, now, world.AT) is False
    assert await campaigns.sending_campaigns(pool, sandbox=False) == []
