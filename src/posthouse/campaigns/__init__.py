"""Campaigns: one compiled message to one list, and how far its launch has come.

Writes the table `campaigns`. Never queues anything itself: the flow `launch` does, chunk by chunk.
"""

from posthouse.campaigns.campaign import (
    Campaign,
    CampaignState,
    CampaignTraits,
    NewCampaign,
    change_state,
    chunk_end,
    create_campaign,
    find_campaign,
    finish_campaign,
    launching_campaigns,
    link_target,
    list_campaigns,
    load_compiled,
    mark_launched,
    move_launch,
    name_is_taken,
    name_taken,
    next_chunk_end,
    sending_campaigns,
    stop_campaign,
    stopped_campaigns,
    traits_of,
)

__all__ = [
    "Campaign",
    "CampaignState",
    "CampaignTraits",
    "NewCampaign",
    "change_state",
    "chunk_end",
    "create_campaign",
    "find_campaign",
    "finish_campaign",
    "launching_campaigns",
    "link_target",
    "list_campaigns",
    "load_compiled",
    "mark_launched",
    "move_launch",
    "name_is_taken",
    "name_taken",
    "next_chunk_end",
    "sending_campaigns",
    "stop_campaign",
    "stopped_campaigns",
    "traits_of",
]
