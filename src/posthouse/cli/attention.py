"""attention list, done; brake list, end: what providers slowed or stopped, and what a person must repair."""

from __future__ import annotations

from typing import Annotated

import typer

from posthouse import campaigns, queue, reputation
from posthouse.app import App
from posthouse.campaigns import CampaignState
from posthouse.cli.options import Data, Json, opened, run
from posthouse.cli.output import print_json, print_table, say
from posthouse.model.errors import Refused
from posthouse.model.waiting import WaitReason
from posthouse.reputation import Brake

attention = typer.Typer(help="What needs a person: what happened, whose reply, how to mend it.", no_args_is_help=True)
brakes = typer.Typer(help="What providers' replies slowed or stopped.", no_args_is_help=True)
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]


@attention.command("list")
def list_attention(
    data: Data = None,
    json: Json = False,
    all_: Annotated[bool, typer.Option("--all", help="Show what is done, too.")] = False,
    limit: int = 100,
) -> None:
    """Show what needs a person, newest first."""
    run(lambda: _list_attention(data, json, all_, limit))


@attention.command()
def done(number: Annotated[int, typer.Argument(metavar="ID")], reason: Reason, data: Data = None) -> None:
    """Say that something is repaired: it leaves the list, and what it held goes on.

    Example: posthouse attention done 3 --reason "published the SPF record"
    """
    run(lambda: _done(number, reason, data))


@brakes.command("list")
def list_brakes(data: Data = None, json: Json = False) -> None:
    """Show the brakes that are on."""
    run(lambda: _list_brakes(data, json))


@brakes.command()
def end(number: Annotated[int, typer.Argument(metavar="ID")], reason: Reason, data: Data = None) -> None:
    """End a brake before its time.

    Example: posthouse brake end 7 --reason "Microsoft confirmed that the block is lifted"
    """
    run(lambda: _end(number, reason, data))


async def _list_attention(data: Data, json: bool, all_: bool, limit: int) -> None:
    async with opened(data) as app:
        rows = await reputation.list_attention(app.db, sandbox=app.sandbox, done_too=all_, limit=limit)
    if json:
        print_json(rows)
        return
    if not rows:
        say("Nothing needs a person.")
    for row in rows:
        times = f", {row['times']} times" if row["times"] > 1 else ""
        say(f"{row['attention_id']}  {row['at']:%Y-%m-%d %H:%M} UTC{times}: {row['what']}")
        say(f"   {row['site']} said: {row['reply']}  (rule {row['rule']}, message {row['message_id']})")
        if row["done_at"] is None:
            say(f"   {row['mend']}")
        else:
            say(f"   Done {row['done_at']:%Y-%m-%d %H:%M} UTC: {row['done_reason']}")


async def _done(number: int, reason: str, data: Data) -> None:
    _require(reason)
    async with opened(data) as app:
        async with app.db.acquire() as connection, connection.transaction():
            campaign_id = await reputation.attention_done(
                connection, number, app.clock.now(), reason, sandbox=app.sandbox
            )
        if campaign_id is None:
            raise Refused(
                f"Nothing that needs a person has the number {number}; `posthouse attention list` shows what has."
            )
        await _go_on(app)
        say(f"{number} is done.")
        if campaign_id:
            campaign = await campaigns.find_campaign(app.db, str(campaign_id))
            if campaign.state is CampaignState.PAUSED and campaign.paused_reason is not None:
                say(f"“{campaign.name}” is still paused: posthouse campaign resume {campaign_id}")


async def _list_brakes(data: Data, json: bool) -> None:
    async with opened(data) as app:
        found = await reputation.brakes_in_force(app.db, app.clock.now(), sandbox=app.sandbox)
    if json:
        print_json(found)
    elif not found:
        say("No brake is on.")
    else:
        rows = [
            (
                str(each.brake_id),
                f"{each.kind} {each.value}",
                each.site or "every site",
                _pace(each),
                f"{each.until:%Y-%m-%d %H:%M}" if each.until else "a person ends it",
                f"{each.rule}: {each.reply[:60]}",
            )
            for each in found
        ]
        print_table("Brakes", ("id", "on", "towards", "lets through", "until (UTC)", "why"), rows, numbers_from=9)


async def _end(number: int, reason: str, data: Data) -> None:
    _require(reason)
    async with opened(data) as app:
        if not await reputation.end_brake(app.db, number, app.clock.now(), reason, sandbox=app.sandbox):
            raise Refused(f"No brake that is on has the number {number}; `posthouse brake list` shows those that are.")
        await _go_on(app)
    say(f"Brake {number} has ended.")


async def _go_on(app: App) -> None:
    """What waited for brakes falls due; another brake that is still on holds its own back again."""
    await queue.recall(app.db, WaitReason.BRAKE, app.clock.now())


def _pace(brake: Brake) -> str:
    if brake.is_hold:
        return "nothing"
    limits = (
        (brake.per_minute, "{:g}/min"),
        (brake.connections, "{} connections"),
        (brake.messages_per_connection, "{} a connection"),
    )
    return ", ".join(words.format(limit) for limit, words in limits if limit is not None)


def _require(reason: str) -> None:
    if not reason.strip():
        raise Refused("Say why with --reason: it is recorded.")
