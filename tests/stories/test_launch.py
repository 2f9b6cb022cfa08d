"""A launch that is killed, doubled, paused or cancelled queues each recipient once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from posthouse import campaigns
from posthouse.app import App
from posthouse.campaigns import Campaign, CampaignState
from posthouse.flows.launch import CHUNK, launch
from posthouse.flows.tell import tell
from posthouse.model.errors import Refused

PEOPLE = 2 * CHUNK + 500
OpenHouse = Callable[..., Awaitable[App]]
RELAY = {"relay": "smtp://127.0.0.1:1"}


async def big_campaign(app: App, world: Any) -> Campaign:
    campaign: Campaign = await world.campaign(await world.people([f"p{n}@example.org" for n in range(PEOPLE)]))
    return campaign


async def everybody_is_queued_once(app: App, campaign: Campaign) -> None:
    rows = await app.db.fetch("select contact_id, count(*) from queue group by 1")
    assert {row["count"] for row in rows} == {1}
    assert len(rows) == PEOPLE
    now = await campaigns.find_campaign(app.db, str(campaign.campaign_id))
    assert (now.queued, now.state, now.launched_at is not None) == (PEOPLE, CampaignState.SENDING, True)
    assert now.launch_after == now.launch_until


async def test_a_launch_that_is_killed_again_and_again_skips_and_doubles_nobody(
    open_house: OpenHouse, world: Any
) -> None:
    app = await open_house(delivery=RELAY)
    campaign = await big_campaign(app, world)
    chance = random.Random(7)
    kills = 0
    while True:
        task = asyncio.create_task(launch(app))
        if kills < 12:
            await asyncio.sleep(chance.random() * 0.15)
            # Its connection is closed in the middle of a statement, as by kill -9.
            kills += not task.done()
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            if not await task:
                break
    assert kills
    await everybody_is_queued_once(app, campaign)


async def test_two_launches_at_once_share_the_work(open_house: OpenHouse, world: Any) -> None:
    app = await open_house(delivery=RELAY)
    campaign = await big_campaign(app, world)

    async def one() -> None:
        while await launch(app) or await campaigns.launching_campaigns(app.db, sandbox=False):
            pass

    await asyncio.gather(one(), one(), one())
    await everybody_is_queued_once(app, campaign)


async def test_who_joins_after_the_start_is_not_queued(open_house: OpenHouse, world: Any) -> None:
    """Answers 16: membership is frozen at launch."""
    app = await open_house(delivery=RELAY)
    news = await world.people(["ann@example.org"])
    await world.campaign(news)
    await app.db.execute(
        "insert into contacts (workspace_id, email, created_at, updated_at) values (1, 'late@example.org', $1, $1)",
        world.AT,
    )
    await app.db.execute(
        "insert into memberships (workspace_id, list_id, contact_id, status, since) "
        "select 1, $1, contact_id, 'subscribed', $2 from contacts where email like 'late%'",
        news.list_id,
        world.AT,
    )
    while await launch(app):
        pass
    assert await app.db.fetchval("select count(*) from queue") == 1


async def test_a_paused_launch_waits_and_a_cancelled_one_ends(open_house: OpenHouse, world: Any) -> None:
    app = await open_house(delivery=RELAY)
    campaign = await big_campaign(app, world)
    await launch(app)
    assert await app.db.fetchval("select count(*) from queue") == CHUNK
    await campaigns.change_state(app.db, campaign, CampaignState.PAUSED, world.AT)
    assert await launch(app) is False
    await campaigns.change_state(app.db, campaign, CampaignState.SENDING, world.AT)
    await launch(app)
    assert await app.db.fetchval("select count(*) from queue") == 2 * CHUNK
    await campaigns.change_state(app.db, campaign, CampaignState.CANCELLED, world.AT)
    assert await launch(app) is False
    assert await app.db.fetchval("select count(*) from queue") == 2 * CHUNK


async def test_an_empty_campaign_is_finished_at_once(open_house: OpenHouse, world: Any) -> None:
    app = await open_house(delivery=RELAY)
    campaign = await world.campaign(await world.people([]))
    while await launch(app):
        pass
    await tell(app)
    assert (await campaigns.find_campaign(app.db, str(campaign.campaign_id))).state is CampaignState.FINISHED


@pytest.mark.parametrize(
    ("before", "allowed"),
    [
        (CampaignState.LAUNCHING, {"paused", "cancelled"}),
        (CampaignState.SENDING, {"paused", "cancelled", "finished"}),
        (CampaignState.PAUSED, {"sending", "cancelled"}),
        (CampaignState.CANCELLED, set()),
        (CampaignState.FINISHED, set()),
    ],
)
async def test_states_may_follow_each_other_only_so(
    open_house: OpenHouse, world: Any, before: CampaignState, allowed: set[str]
) -> None:
    app = await open_house()
    campaign = await world.campaign(await world.people([]))
    for to in (CampaignState.SENDING, CampaignState.PAUSED, CampaignState.CANCELLED, CampaignState.FINISHED):
        await app.db.execute("update campaigns set state = $1", before.value)
        now = await campaigns.find_campaign(app.db, str(campaign.campaign_id))
        if to.value in allowed:
            await campaigns.change_state(app.db, now, to, world.AT)
        else:
            with pytest.raises(Refused, match=rf"“News” is {before.value}, so it cannot become {to.value}"):
                await campaigns.change_state(app.db, now, to, world.AT)
    # A state that the database saw in the meantime counts, not the one that the caller remembers.
    finished = await campaigns.find_campaign(app.db, str(campaign.campaign_id))
    assert finished.finished_at == (world.AT if "finished" in allowed else None)
