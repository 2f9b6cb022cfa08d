"""A campaign and its states."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool
from posthouse.model.closed_list import ClosedList
from posthouse.model.errors import Refused

_SQL = named_sql.load("posthouse.campaigns")


class CampaignState(ClosedList):
    """Where a campaign is."""

    LAUNCHING = "launching", "Its recipients are about to be queued."
    SENDING = "sending", "Its messages are queued and leave."
    PAUSED = "paused", "It was paused, and its messages wait until a person resumes it."
    CANCELLED = "cancelled", "A person cancelled it; nothing more of it leaves."
    FINISHED = "finished", "Every recipient has a final outcome."


# State → those it may be reached from.
_BEFORE: dict[CampaignState, tuple[CampaignState, ...]] = {
    CampaignState.PAUSED: (CampaignState.LAUNCHING, CampaignState.SENDING),
    CampaignState.SENDING: (CampaignState.PAUSED,),
    CampaignState.CANCELLED: (CampaignState.LAUNCHING, CampaignState.SENDING, CampaignState.PAUSED),
    CampaignState.FINISHED: (CampaignState.SENDING,),
}


class NewCampaign(Struct, frozen=True):
    """What is frozen at launch. compiled: the stored form of the compiled message; frame: what the system adds, as plain JSON."""

    workspace_id: int
    name: str
    list_id: int
    from_address: str
    subject: str
    compiled: bytes
    frame: dict[str, Any]
    links: tuple[str, ...]


class Campaign(Struct, frozen=True):
    """A campaign as it stands. launch_after: contacts up to this id are queued; queued: how many messages that made."""

    workspace_id: int
    campaign_id: int
    name: str
    list_id: int
    state: CampaignState
    from_address: str
    subject: str
    created_at: datetime
    launch_after: int
    launch_until: int
    launched_at: datetime | None
    queued: int
    finished_at: datetime | None
    sandbox: bool
    paused_reason: str | None = None


class CampaignTraits(Struct, frozen=True):
    """What everything that a campaign sends has in common. links: the targets of its tracked links."""

    workspace_id: int
    campaign_id: int
    name: str
    from_address: str
    links: tuple[str, ...]


def _campaign(row: Any) -> Campaign:
    return Campaign(**{**dict(row), "state": CampaignState(row["state"])})


async def create_campaign(connection: Connection | Pool, new: NewCampaign, at: datetime) -> int:
    """Add a campaign in state `launching`; returns its id. Raises Refused when the name is taken."""
    campaign_id = await connection.fetchval(
        _SQL["create"],
        new.workspace_id,
        new.name,
        new.list_id,
        new.from_address,
        new.subject,
        new.compiled,
        new.frame,
        list(new.links),
        at,
    )
    if campaign_id is None:
        raise Refused(name_taken(new.name))
    return int(campaign_id)


def name_taken(name: str) -> str:
    """The sentence for a name that another campaign has."""
    return f"There is a campaign “{name}” already: give this one another --name, so that nobody gets it twice."


async def name_is_taken(connection: Connection | Pool, workspace_id: int, name: str) -> bool:
    """Whether a workspace has a campaign of this name."""
    return bool(await connection.fetchval(_SQL["name_is_taken"], workspace_id, name))


async def find_campaign(connection: Connection | Pool, text: str) -> Campaign:
    """The campaign of an id or a name; a real one before a rehearsal of the same name. Raises Refused when there is none."""
    row = await connection.fetchrow(_SQL["find"], int(text)) if text.isdigit() and len(text) < 19 else None
    row = row or await connection.fetchrow(_SQL["find_by_name"], text)
    if row is None:
        raise Refused(f"There is no campaign “{text}”; `posthouse report` lists them.")
    return _campaign(row)


async def list_campaigns(connection: Connection | Pool, limit: int = 50) -> list[Campaign]:
    """Campaigns, newest first."""
    return [_campaign(row) for row in await connection.fetch(_SQL["list"], limit)]


async def launching_campaigns(connection: Connection | Pool, *, sandbox: bool) -> list[Campaign]:
    """Campaigns whose launch is not complete, oldest first; paused ones wait."""
    return [_campaign(row) for row in await connection.fetch(_SQL["unlaunched"], sandbox)]


async def sending_campaigns(connection: Connection | Pool, *, sandbox: bool) -> list[Campaign]:
    """Campaigns in state `sending`, oldest first."""
    return [_campaign(row) for row in await connection.fetch(_SQL["by_state"], CampaignState.SENDING.value, sandbox)]


async def stopped_campaigns(connection: Connection | Pool, campaign_ids: Sequence[int]) -> frozenset[int]:
    """Those of these campaigns that a person paused or cancelled."""
    stopped = [CampaignState.PAUSED.value, CampaignState.CANCELLED.value]
    rows = await connection.fetch(_SQL["those_in_states"], campaign_ids, stopped)
    return frozenset(row["campaign_id"] for row in rows)


async def traits_of(connection: Connection | Pool, campaign_ids: Sequence[int]) -> dict[int, CampaignTraits]:
    """The traits of those of these campaigns that there are, by id."""
    rows = await connection.fetch(_SQL["traits"], campaign_ids)
    return {row["campaign_id"]: CampaignTraits(**{**dict(row), "links": tuple(row["links"])}) for row in rows}


async def stop_campaign(connection: Connection, campaign_id: int, reason: str) -> bool:
    """Pause a campaign because of a provider's reply, inside the transaction that settles it; returns whether this call did it."""
    before = [state.value for state in _BEFORE[CampaignState.PAUSED]]
    return await connection.fetchval(_SQL["stop"], campaign_id, before, reason) is not None


async def load_compiled(connection: Connection | Pool, campaign_id: int) -> tuple[int, str, bytes, dict[str, Any]]:
    """(workspace id, From address, stored compiled message, frame) of a campaign."""
    row = await connection.fetchrow(_SQL["compiled"], campaign_id)
    if row is None:
        raise Refused(f"Campaign {campaign_id} is gone.")
    return row["workspace_id"], row["from_address"], row["compiled"], row["frame"]


async def link_target(connection: Connection | Pool, workspace_id: int, campaign_id: int, index: int) -> str | None:
    """Where tracked link number `index` of a campaign leads, or None."""
    target: str | None = await connection.fetchval(_SQL["link"], workspace_id, campaign_id, index)
    return target


async def next_chunk_end(connection: Connection, campaign: Campaign, limit: int) -> tuple[int, int | None] | None:
    """(launch_after, the contact id that ends the next chunk or None at the end), with the campaign locked; None when another has it."""
    row = await connection.fetchrow(_SQL["lock_for_launch"], campaign.workspace_id, campaign.campaign_id)
    if row is None:
        return None
    after: int = row["launch_after"]
    end: int | None = await connection.fetchval(
        _SQL["chunk_end"], campaign.workspace_id, campaign.list_id, after, campaign.launch_until, limit
    )
    return after, end


async def chunk_end(connection: Connection | Pool, campaign: Campaign, limit: int) -> int | None:
    """The contact id that ends the next chunk, as this campaign value knows it; None at the end. Locks nothing."""
    end: int | None = await connection.fetchval(
        _SQL["chunk_end"], campaign.workspace_id, campaign.list_id, campaign.launch_after, campaign.launch_until, limit
    )
    return end


async def move_launch(connection: Connection, campaign: Campaign, until: int, queued: int) -> None:
    """Note a chunk as queued, inside the transaction that queued it."""
    await connection.execute(_SQL["move_launch"], campaign.workspace_id, campaign.campaign_id, until, queued)


async def mark_launched(connection: Connection, campaign: Campaign, at: datetime) -> None:
    """Note that every recipient is queued."""
    await connection.execute(_SQL["mark_launched"], campaign.workspace_id, campaign.campaign_id, at)


async def change_state(connection: Connection | Pool, campaign: Campaign, to: CampaignState, at: datetime) -> None:
    """Move a campaign to another state. Raises Refused when it cannot go there from where it is."""
    before: Sequence[str] = [state.value for state in _BEFORE[to]]
    moved = await connection.fetchval(
        _SQL["change_state"], campaign.workspace_id, campaign.campaign_id, to.value, before, at
    )
    if moved is None:
        raise Refused(f"“{campaign.name}” is {campaign.state.value}, so it cannot become {to.value}.")


async def finish_campaign(connection: Connection | Pool, campaign: Campaign, at: datetime) -> bool:
    """Note that every recipient has a final outcome; returns whether this call did it."""
    moved = await connection.fetchval(
        _SQL["change_state"],
        campaign.workspace_id,
        campaign.campaign_id,
        CampaignState.FINISHED.value,
        [CampaignState.SENDING.value],
        at,
    )
    return moved is not None
