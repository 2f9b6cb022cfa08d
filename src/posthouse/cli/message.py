"""message show, find: the whole life of one recipient's copy."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from posthouse import audience, ledger, queue
from posthouse.app import App
from posthouse.cli.options import Data, Json, opened, run
from posthouse.cli.output import print_json, print_table, say
from posthouse.mail.address import parse_address
from posthouse.model.errors import Refused
from posthouse.model.events import EventKind
from posthouse.model.outcomes import BounceClass
from posthouse.model.waiting import WaitReason

commands = typer.Typer(help="One recipient's copy: what happened to it and why.", no_args_is_help=True)


@commands.command()
def show(
    message_id: Annotated[int, typer.Argument(help="A message's number, or see `message find`.", metavar="ID")],
    data: Data = None,
    json: Json = False,
) -> None:
    """Show the whole life of one message: events, attempts, replies, next try.

    Example: posthouse message show 1234
    """
    run(lambda: _show(message_id, data, json))


@commands.command()
def find(
    address: Annotated[str, typer.Argument(help="An address.")],
    data: Data = None,
    json: Json = False,
) -> None:
    """List the messages to an address.

    Example: posthouse message find ann@example.com
    """
    run(lambda: _find(address, data, json))


async def life_of(app: App, message_id: int) -> dict[str, Any]:
    """Everything known about a message. Raises Refused when nothing is."""
    now = app.clock.now()
    async with app.db.acquire() as connection:
        events = await ledger.history(connection, message_id)
        waiting = await queue.waiting_message(connection, message_id, now)
        known: dict[str, Any] | None = events[0] if events else waiting
        if known is None:
            raise Refused(
                f"There is no message {message_id}; `posthouse message find ADDRESS` lists those to an address."
            )
        address = await audience.contact_address(connection, known["workspace_id"], known["contact_id"])
    return {
        "message": message_id,
        "recipient": address,
        "events": [_event(event) for event in events],
        "waiting": _waiting(waiting, now) if waiting is not None else None,
    }


def _event(event: dict[str, Any]) -> dict[str, Any]:
    detail = dict(event["detail"] or {})
    if "next_try" in detail:
        detail["next_try"] = datetime.fromtimestamp(detail["next_try"] / 1_000_000, UTC)
    return {"at": event["at"], "kind": event["kind"], **detail}


def _waiting(row: dict[str, Any], now: datetime) -> dict[str, Any]:
    """Why it is late, from the row alone."""
    states = {0: "queued", 1: "under way", 2: "held"}
    if row["state"] == 2:
        why = f"It waits for a person: {row['reason']}."
    elif row["state"] == 1:
        why = "A sender has it in hand."
    elif row["rests_until"] is not None:
        why = f"{row['site']} rests until {row['rests_until']:%Y-%m-%d %H:%M} UTC: {row['rest_reply']}"
    elif row["due"] > now:
        why = _put_off(row)
    elif row["ready_at"] is not None:
        why = _paced(row)
    else:
        why = "It waits for its turn in its lane."
    return {
        "state": states[row["state"]],
        "reason": row["reason"],
        "why": why,
        "next_try": None if row["state"] == 2 else row["due"],
        "attempts": row["attempt"],
        "site": row["site"],
        "queued_at": row["first_at"],
    }


def _put_off(row: dict[str, Any]) -> str:
    """Why its next try is later: what it went back for, or what the last reply came to."""
    reason = row["reason"]
    if reason in set(WaitReason):
        return f"Its next try is not due yet. {WaitReason(reason).sentence}{_words(row)}"
    if reason in set(BounceClass):
        return f"Its next try is not due yet. {BounceClass(reason).sentence}"
    return "Its next try is not due yet."


def _words(row: dict[str, Any]) -> str:
    return f" It said: {row['pace_reply']}" if row["pace_reply"] else ""


def _paced(row: dict[str, Any]) -> str:
    """What slows its site down, and what the provider said."""
    rate = f" at {row['per_second'] * 60:,.0f} a minute" if row["per_second"] is not None else ""
    return f"{WaitReason(row['paced']).sentence} {row['site']} is sent to{rate}, next at {row['ready_at']:%H:%M:%S} UTC.{_words(row)}"


async def _show(message_id: int, data: Data, json: bool) -> None:
    async with opened(data) as app:
        life = await life_of(app, message_id)
    if json:
        print_json(life)
        return
    say(f"Message {message_id} to {life['recipient'] or 'an erased contact'}")
    for event in life["events"]:
        said = f"{event.get('code') or ''} {event.get('enhanced') or ''} {event.get('text') or ''}".strip()
        where = f" at {event['remote']}" if event.get("remote") else ""
        why = f" [{event['class']}]" if event.get("class") else ""
        later = f", next try {event['next_try']:%Y-%m-%d %H:%M}" if event.get("next_try") else ""
        say(
            f"{event['at']:%Y-%m-%d %H:%M:%S}  {event['kind']}{where}{why}: {said or EventKind(event['kind']).sentence}{later}"
        )
    if life["waiting"] is not None:
        waiting = life["waiting"]
        next_try = f"; next try {waiting['next_try']:%Y-%m-%d %H:%M}" if waiting["next_try"] else ""
        say(f"Now: {waiting['state']} after {waiting['attempts']} attempts. {waiting['why']}{next_try}")


async def _find(address: str, data: Data, json: bool) -> None:
    wanted = parse_address(address).text
    async with opened(data) as app:
        found = await ledger.messages_to(app.db, wanted)
    if json:
        print_json(found)
    elif not found:
        say(f"Nothing was sent to {wanted}.")
    else:
        print_table(
            f"Messages to {wanted}",
            ("message", "campaign", "last event", "at (UTC)"),
            [(row["message_id"], row["campaign_id"], row["kind"], f"{row['at']:%Y-%m-%d %H:%M}") for row in found],
            numbers_from=0,
        )
