"""Tell: the readers of the ledger. Counters follow it; a campaign whose last recipient is accounted for is finished."""

from __future__ import annotations

from posthouse import analytics, campaigns
from posthouse.app import App


async def tell(app: App) -> bool:
    """Count the news and finish what is done; returns whether there may be more news already."""
    more = await analytics.count_news(app.db)
    for campaign in await campaigns.sending_campaigns(app.db, sandbox=app.sandbox):
        if campaign.launched_at is not None:
            final = await analytics.final_count(app.db, campaign.workspace_id, campaign.campaign_id)
            if final.count >= campaign.queued:
                await campaigns.finish_campaign(app.db, campaign, app.clock.now())
    return more
