"""queue, why: what waits, how fast it goes, and what is in the way."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from posthouse import delivery, queue
from posthouse.accounts import MAIN_WORKSPACE
from posthouse.app import App
from posthouse.cli.message import life_of
from posthouse.cli.options import Data, Json, opened, run
from posthouse.cli.output import print_json, print_table, say
from posthouse.mail.address import parse_address
from posthouse.model.errors import Refused
from posthouse.model.streams import stream_of
from posthouse.model.waiting import WaitReason

_MOST_SHOWN = 20
_COLUMNS = (
    "provider",
    "workspace",
    "pool",
    "stream",
    "waiting",
    "due",
    "under way",
    "held",
    "a minute",
    "done by",
    "in the way",
)


def register(program: typer.Typer) -> None:
    """Add the two commands."""

    @program.command("queue")
    def queue_(data: Data = None, json: Json = False) -> None:
        """Show what waits, lane by lane: how much, how fast it may go, when it will be done, and what is in the way.

        Example: posthouse queue
        """
        run(lambda: _queue(data, json))

    @program.command()
    def why(
        what: Annotated[str, typer.Argument(help="An address, or a message's number.", metavar="ADDRESS|MESSAGE")],
        data: Data = None,
        json: Json = False,
    ) -> None:
        """Say why mail is late: the rule, the limit, the last reply, the next try.

        Example: posthouse why ann@example.com
        """
        run(lambda: _why(what, data, json))


async def lanes_of(app: App) -> list[dict[str, Any]]:
    """The lanes that have something in them, each with its limits, the rate in force, what is in the way, and when it would be done."""
    now = app.clock.now()
    paths: dict[int, list[dict[str, Any]]] = {}
    for path in await delivery.path_overview(app.db):
        paths.setdefault(path["site_id"], []).append(path)
    resting = await delivery.resting_sites(app.db, now)
    found: list[dict[str, Any]] = []
    for lane in await queue.lane_overview(app.db, now, sandbox=app.sandbox):
        stream = stream_of(lane["priority"]).value
        limits = app.routes.limits.of(lane["site"], lane["pool"], "default", stream)
        told = min(paths.get(lane["site_id"], []), key=lambda path: path["ready_at"], default=None)
        rest = next((each for each in resting if each["site_id"] == lane["site_id"]), None)
        rate = limits.per_second if told is None or told["per_second"] is None else told["per_second"]
        found.append(
            {
                **lane,
                "stream": stream,
                "limit": {
                    "connections": limits.connections,
                    "messages_per_connection": limits.messages_per_connection,
                    "per_second": limits.per_second,
                    "tls_required": limits.tls_required,
                },
                "per_second": rate,
                "obstacle": _obstacle(told, rest, now),
                "last_reply": rest["reply"] if rest is not None else told["reply"] if told is not None else None,
                "done_by": _done_by(lane, rate, rest, now),
            }
        )
    return found


def _obstacle(told: dict[str, Any] | None, rest: dict[str, Any] | None, now: datetime) -> str | None:
    if rest is not None:
        return f"{WaitReason.SITE_RESTING}: until {rest['until']:%Y-%m-%d %H:%M} UTC, from {rest['source']}"
    if told is None:
        return None
    if told["ready_at"] > now:
        return f"{told['reason']}: next at {told['ready_at']:%H:%M:%S} UTC"
    return f"{told['reason']}: slowed down" if told["reply"] is not None else None


def _done_by(lane: dict[str, Any], rate: float | None, rest: dict[str, Any] | None, now: datetime) -> datetime | None:
    """When everything that is due would have left at the rate in force; None where nothing limits it or nothing is due."""
    if not lane["due"] or not rate:
        return None
    begins = rest["until"] if rest is not None else now
    return begins + timedelta(seconds=lane["due"] / rate)


async def _queue(data: Data, json: bool) -> None:
    async with opened(data) as app:
        lanes = await lanes_of(app)
    if json:
        print_json(lanes)
        return
    if not lanes:
        say("Nothing waits. Send something: posthouse campaign send --help")
        return
    rows = [
        (
            lane["site"],
            lane["workspace"],
            lane["pool"],
            lane["stream"],
            lane["waiting"],
            lane["due"],
            lane["under_way"],
            lane["held"],
            "any" if lane["per_second"] is None else f"{lane['per_second'] * 60:,.0f}",
            f"{lane['done_by']:%m-%d %H:%M}" if lane["done_by"] is not None else "",
            lane["obstacle"] or "",
        )
        for lane in lanes
    ]
    print_table("The queue, lane by lane", _COLUMNS, rows, numbers_from=4)
    for lane in lanes:
        if lane["last_reply"]:
            say(f"{lane['site']} said: {lane['last_reply']}")


async def _why(what: str, data: Data, json: bool) -> None:
    async with opened(data) as app:
        if what.isdigit() and len(what) < 19:
            ids = [int(what)]
        else:
            ids = await queue.waiting_for(app.db, MAIN_WORKSPACE, parse_address(what).text, _MOST_SHOWN)
            if not ids:
                raise Refused(f"Nothing waits for {what}: `posthouse message find {what}` shows what was sent.")
        lives = [await life_of(app, message_id) for message_id in ids]
    if json:
        print_json(lives)
        return
    for life in lives:
        waiting = life["waiting"]
        if waiting is None:
            last = life["events"][-1]
            say(f"Message {life['message']} is not late: it was {last['kind']} at {last['at']:%Y-%m-%d %H:%M:%S} UTC.")
            continue
        say(
            f"Message {life['message']} to {life['recipient'] or 'an erased contact'} is {waiting['state']} after "
            f"{waiting['attempts']} attempts, since {waiting['queued_at']:%Y-%m-%d %H:%M:%S} UTC."
        )
        say(f"  Why: {waiting['why']}")
        tries = [event for event in life["events"] if event.get("code") or event.get("class")]
        if tries:
            last = tries[-1]
            say(
                f"  Last reply: {last.get('code') or ''} {last.get('enhanced') or ''} {last.get('text') or ''}".rstrip()
                + (f" (rule {last['rule']})" if last.get("rule") else "")
            )
        if waiting["next_try"] is not None:
            say(f"  Next try: {waiting['next_try']:%Y-%m-%d %H:%M:%S} UTC")
