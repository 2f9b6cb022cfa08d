"""report: what became of a campaign, in words and numbers."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from msgspec import to_builtins

from posthouse import analytics, campaigns, delivery, queue
from posthouse.analytics import Funnel
from posthouse.app import App
from posthouse.campaigns import Campaign
from posthouse.cli.options import Data, Json, opened, run
from posthouse.cli.output import print_json, print_table, say

_WAITING = {0: "queued", 1: "under way", 2: "held"}


def register(program: typer.Typer) -> None:
    """Add this command to the program."""
    program.command()(report)


def report(
    campaign: Annotated[str | None, typer.Option("--campaign", help="Its number or name.")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show all campaigns, or the funnel of one.

    Examples:

      posthouse report

      posthouse report --campaign 3 --json
    """
    run(lambda: _report(campaign, data, json))


async def _report(name: str | None, data: Data, json: bool) -> None:
    async with opened(data) as app:
        while await analytics.count_news(app.db):
            pass
        if name is None:
            await _all(app, json)
        else:
            await show_campaign(app, await campaigns.find_campaign(app.db, name), json=json)


async def show_campaign(app: App, campaign: Campaign, *, json: bool) -> None:
    """Print one campaign."""
    facts = await campaign_facts(app, campaign)
    if json:
        print_json(facts)
        return
    kind = " (rehearsal)" if campaign.sandbox else ""
    say(f"Campaign {campaign.campaign_id} “{campaign.name}”{kind} is {campaign.state.value}: {campaign.state.sentence}")
    if campaign.paused_reason is not None:
        say(f"A reply paused it: {campaign.paused_reason}")
    funnel: Funnel = await analytics.funnel_of(app.db, campaign.workspace_id, campaign.campaign_id)
    print_funnel(campaign.queued, funnel)
    for wait in facts["waiting"]:
        reason = f" ({wait['reason']})" if wait["reason"] else ""
        due = f", next at {wait['next_due']:%Y-%m-%d %H:%M} UTC" if wait["next_due"] else ""
        say(f"{wait['count']:,} {wait['state']}{reason}{due}")
    for rest in facts["resting"]:
        say(f"{rest['site']} rests until {rest['until']:%Y-%m-%d %H:%M} UTC: {rest['reply']}")


async def campaign_facts(app: App, campaign: Campaign) -> dict[str, Any]:
    """Everything that a report of a campaign says, as plain data."""
    funnel = await analytics.funnel_of(app.db, campaign.workspace_id, campaign.campaign_id)
    waiting = await queue.waiting_counts(app.db, campaign.workspace_id, campaign.campaign_id)
    return {
        "campaign": campaign.campaign_id,
        "name": campaign.name,
        "state": campaign.state.value,
        "paused_reason": campaign.paused_reason,
        "rehearsal": campaign.sandbox,
        "queued": campaign.queued,
        **{name: value for name, value in to_builtins(funnel).items() if name != "total"},
        "total": to_builtins(funnel.total),
        "first_at": funnel.first_at,
        "last_at": funnel.last_at,
        "waiting": [
            {
                "state": _WAITING[row["state"]],
                "reason": row["reason"],
                "count": row["count"],
                # Held messages wait for a person, not for a time.
                "next_due": None if row["state"] == 2 else row["next_due"],
            }
            for row in waiting
        ],
        "resting": await delivery.resting_sites(app.db, app.clock.now()) if waiting else [],
    }


def print_funnel(queued: int, funnel: Funnel) -> None:
    """The funnel as tables: in all, per provider, and the classes of what did not arrive."""
    columns = (
        "provider",
        "delivered",
        "after deferral",
        "bounced",
        "later",
        "suppressed",
        "opened",
        "clicked",
        "complained",
        "left",
    )

    def cells(name: str, row: Any) -> tuple[object, ...]:
        return (
            name,
            row.delivered,
            row.deferred_then_delivered,
            row.bounced + row.expired,
            row.bounced_later,
            row.suppressed + row.cancelled,
            row.opened,
            row.clicked,
            row.complained,
            row.unsubscribed,
        )

    rows = [cells(name, row) for name, row in funnel.sites.items()]
    print_table(f"{queued:,} queued", columns, [*rows, cells("all", funnel.total)])
    for title, classes in (
        ("Bounced", funnel.bounce_classes),
        ("Suppressed", funnel.suppressed_causes),
        ("Deferrals", funnel.deferral_classes),
    ):
        if classes:
            listed = ", ".join(
                f"{name} {count:,}" for name, count in sorted(classes.items(), key=lambda each: -each[1])
            )
            say(f"{title}: {listed}")


async def _all(app: App, json: bool) -> None:
    found = await campaigns.list_campaigns(app.db)
    if json:
        print_json(found)
        return
    if not found:
        say("There is no campaign yet: posthouse campaign send --help shows how to send one.")
        return
    rows = []
    for each in found:
        final = await analytics.final_count(app.db, each.workspace_id, each.campaign_id)
        name = f"{each.name} (rehearsal)" if each.sandbox else each.name
        rows.append(
            (
                f"{each.campaign_id} {name}",
                each.state.value,
                each.queued,
                final.count,
                f"{each.created_at:%Y-%m-%d %H:%M}",
            )
        )
    print_table("Campaigns", ("campaign", "state", "queued", "accounted for", "created (UTC)"), rows)
