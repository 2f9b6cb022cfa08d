"""Launch: the recipients of a campaign become queue rows, in chunks that a crash can neither skip nor double."""

from __future__ import annotations

from posthouse import campaigns, delivery, ledger, queue
from posthouse.app import App
from posthouse.campaigns import Campaign
from posthouse.flows.wake import wake_senders
from posthouse.model.streams import Stream

# A chunk is one short transaction; larger ones gain nothing and hold the senders back.
CHUNK = 5_000
# A domain whose DNS has not answered by then is queued for the unknown site; the sender asks again.
_PATIENCE_SECONDS = 15.0


async def launch(app: App) -> bool:
    """Queue the next chunk of every campaign that is being launched; returns whether there was anything to do."""
    busy = False
    for campaign in await campaigns.launching_campaigns(app.db, sandbox=app.sandbox):
        busy = await _launch_chunk(app, campaign) or busy
    if busy:
        await wake_senders(app)
    return busy


async def _launch_chunk(app: App, campaign: Campaign) -> bool:
    now = app.clock.now()
    site_id = (await app.routes.relay_route(app.relay)).site_id if app.relay is not None else None
    if site_id is None:
        await _find_routes(app, campaign)
    pool = await delivery.pool_of(app.db, campaign.workspace_id, Stream.BROADCAST)
    async with app.db.acquire() as connection, connection.transaction():
        chunk = await campaigns.next_chunk_end(connection, campaign, CHUNK)
        if chunk is None:
            return False
        after, until = chunk
        if until is None:
            await campaigns.mark_launched(connection, campaign, now)
            return True
        first, last = await queue.next_message_ids(connection, CHUNK)
        await ledger.make_room(connection, first, last)
        queued = await queue.put_chunk(
            connection,
            workspace_id=campaign.workspace_id,
            campaign_id=campaign.campaign_id,
            list_id=campaign.list_id,
            after=after,
            until=until,
            due=now,
            lane_pool=pool,
            priority=Stream.BROADCAST.priority,
            site_id=site_id,
        )
        await campaigns.move_launch(connection, campaign, until, queued)
    return True


async def _find_routes(app: App, campaign: Campaign) -> None:
    """Look the chunk's domains up in bulk, before the transaction: DNS may be slow, and a transaction must be short."""
    until = await campaigns.chunk_end(app.db, campaign, CHUNK)
    if until is not None:
        domains = await queue.chunk_domains(
            app.db, campaign.workspace_id, campaign.list_id, campaign.launch_after, until
        )
        await app.routes.find(domains, app.clock.now(), patience=_PATIENCE_SECONDS)
