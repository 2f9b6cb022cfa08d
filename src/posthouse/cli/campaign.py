"""campaign send, status, pause, resume, cancel."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from posthouse import analytics, audience, campaigns, queue
from posthouse.accounts import MAIN_WORKSPACE
from posthouse.app import App
from posthouse.campaigns import Campaign, CampaignState
from posthouse.cli.options import Data, Json, installation, opened, run
from posthouse.cli.output import console, print_json, say
from posthouse.cli.report import show_campaign
from posthouse.composing import Draft
from posthouse.data_directory import DataDirectory
from posthouse.doors.worker import Supervisor
from posthouse.flows.plan import Order, Preflight, preflight, start_campaign
from posthouse.mail.address import parse_address
from posthouse.model.errors import DataDirectoryWrong, Refused, TemplateWrong
from posthouse.settings import Settings

commands = typer.Typer(help="Campaigns: send one, follow it, pause it.", no_args_is_help=True)
Which = Annotated[str, typer.Argument(help="The campaign's number or name.", metavar="CAMPAIGN")]
_LOOK_SECONDS = 0.25
_LARGEST_TEMPLATE = 2 * 2**20


@commands.command()
def send(
    list_name: Annotated[str, typer.Option("--list", help="Who receives it.")],
    template: Annotated[Path, typer.Option(help="HTML or MJML (.mjml) or plain text (.txt).")],
    subject: Annotated[str, typer.Option(help="The subject; it may have blanks such as {{ first_name }}.")],
    from_: Annotated[
        str, typer.Option("--from", help="From address, of a verified domain; “Name <address>” works too.")
    ],
    name: Annotated[str | None, typer.Option(help="Its name; else made from subject and date.")] = None,
    text: Annotated[Path | None, typer.Option(help="Plain-text part; else made from the HTML.")] = None,
    reply_to: Annotated[str | None, typer.Option(help="Where answers go.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when every recipient has an outcome.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, send nothing.")] = False,
    test: Annotated[
        str | None, typer.Option("--test", help="Send one copy to this address only.", metavar="ADDRESS")
    ] = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Rehearse against made-up mailbox providers.")] = False,
    track_opens: Annotated[bool, typer.Option(help="Put an open pixel in.")] = True,
    track_clicks: Annotated[bool, typer.Option(help="Track links.")] = True,
    data: Data = None,
    json: Json = False,
) -> None:
    """Send a message to a list.

    Examples:

      posthouse campaign send --list Newsletter --template may.mjml --subject "May news" --from news@example.com --dry-run

      posthouse campaign send --list Newsletter --template may.mjml --subject "May news" --from news@example.com --yes --wait
    """
    sender_name, address = split_sender(from_)
    draft = read_draft(
        template, text, subject, address, sender_name, reply_to, track_opens=track_opens, track_clicks=track_clicks
    )
    if sandbox:
        from posthouse.cli.rehearsal import rehearse_list

        run(lambda: rehearse_list(data, list_name, draft, name, json=json))
        return
    run(lambda: _send(data, list_name, draft, name, wait=wait, yes=yes, dry_run=dry_run, test=test, json=json))


@commands.command()
def status(campaign: Which, data: Data = None, json: Json = False) -> None:
    """Show how far a campaign is.

    Example: posthouse campaign status "May news"
    """
    run(lambda: _status(campaign, data, json))


@commands.command()
def pause(campaign: Which, data: Data = None) -> None:
    """Stop sending within two seconds; what waits is kept."""
    run(lambda: _change(campaign, CampaignState.PAUSED, data))


@commands.command()
def resume(campaign: Which, data: Data = None) -> None:
    """Go on with a paused campaign."""
    run(lambda: _change(campaign, CampaignState.SENDING, data))


@commands.command()
def cancel(campaign: Which, data: Data = None) -> None:
    """Stop for good: what has not left is not sent."""
    run(lambda: _change(campaign, CampaignState.CANCELLED, data))


def split_sender(text: str) -> tuple[str | None, str]:
    """(name, address) of “Name <address>” or of a bare address. Raises AddressWrong."""
    name, opening, rest = text.rpartition("<")
    if opening and rest.endswith(">"):
        return name.strip().strip('"') or None, parse_address(rest[:-1]).text
    return None, parse_address(text).text


def read_draft(
    template: Path,
    text: Path | None,
    subject: str,
    from_address: str,
    from_name: str | None,
    reply_to: str | None,
    *,
    track_opens: bool = True,
    track_clicks: bool = True,
) -> Draft:
    """The draft of template files; the kind is told by the name, or for .html by an <mjml> root. Raises TemplateWrong."""
    body = _read_text(template)
    kind = template.suffix.lower()
    is_mjml = kind == ".mjml" or body.lstrip().startswith("<mjml")
    is_text = kind == ".txt"
    return Draft(
        subject=subject,
        from_address=from_address,
        from_name=from_name,
        reply_to=parse_address(reply_to).text if reply_to else None,
        html=None if is_mjml or is_text else body,
        mjml=body if is_mjml else None,
        text=body if is_text else (_read_text(text) if text else None),
        track_opens=track_opens,
        track_clicks=track_clicks,
    )


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_TEMPLATE:
            raise TemplateWrong(f"{path} is larger than 2 MB; put images on a web server instead of into the template.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TemplateWrong(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    except OSError as error:
        raise TemplateWrong(f"{path} cannot be read: {error.strerror}.") from error


async def campaign_name(app: App, draft: Draft, name: str | None) -> str:
    """The name given, or one made from subject and time."""
    return name or f"{draft.subject[:60]} {app.clock.now():%Y-%m-%d %H:%M:%S}"


async def _send(
    data: Data,
    list_name: str,
    draft: Draft,
    name: str | None,
    *,
    wait: bool,
    yes: bool,
    dry_run: bool,
    test: str | None,
    json: bool,
) -> None:
    directory, settings = installation(data)
    async with opened(data) as app:
        async with app.db.acquire() as connection:
            chosen = await audience.find_list(connection, MAIN_WORKSPACE, list_name)
            if chosen is None:
                raise Refused(f"There is no list “{list_name}”: `posthouse contacts lists` shows those there are.")
            if test is not None:
                chosen = await audience.test_recipient(connection, MAIN_WORKSPACE, test, {}, app.clock.now())
        title = await campaign_name(app, draft, name)
        title = f"Test of {title} at {app.clock.now():%H:%M:%S.%f}" if test is not None else title
        checked = await preflight(app, Order(MAIN_WORKSPACE, title, chosen, draft))
        if dry_run:
            _show_preflight(checked, json=json)
            raise typer.Exit(1 if checked.blockers else 0)
        for warning in checked.warnings:
            print(f"posthouse: warning: {warning}", file=sys.stderr)
        if not checked.blockers and not yes and test is None:
            _ask(checked)
        campaign_id = await start_campaign(app, checked)
        campaign = await campaigns.find_campaign(app.db, str(campaign_id))
        if wait:
            await _deliver_now(app, directory, settings, campaign)
            campaign = await campaigns.find_campaign(app.db, str(campaign_id))
            await show_campaign(app, campaign, json=json)
        elif json:
            print_json({"campaign": campaign_id, "name": title, "recipients": checked.recipients})
        else:
            say(f"Campaign {campaign_id} “{title}” to {checked.recipients:,} recipients is queued.")
            if not is_up(directory):
                say("Nothing is running yet: `posthouse up` delivers it.")


def _ask(checked: Preflight) -> None:
    question = f"Send “{checked.order.draft.subject}” to {checked.recipients:,} recipients of “{checked.order.recipients_list.name}”?"
    if not sys.stdin.isatty():
        raise Refused(f"{question} Nobody can answer here: add --yes.")
    if not typer.confirm(question):
        raise Refused("Nothing was sent.")


def _show_preflight(checked: Preflight, *, json: bool) -> None:
    if json:
        print_json(
            {
                "recipients": checked.recipients,
                "blockers": checked.blockers,
                "warnings": checked.warnings,
                "missing": checked.missing,
                "links": checked.compiled.links,
                "html_bytes": checked.compiled.html_bytes,
            }
        )
        return
    say(
        f"Recipients: {checked.recipients:,}; {len(checked.compiled.links)} tracked links, {checked.compiled.html_bytes:,} bytes of HTML."
    )
    for sentence in checked.blockers:
        say(f"Blocked: {sentence}")
    for sentence in checked.warnings:
        say(f"Warning: {sentence}")
    if not checked.blockers:
        say("Nothing stands in the way. Nothing was sent.")


def is_up(directory: DataDirectory) -> bool:
    """Whether an `up` runs this data directory."""
    import fcntl
    import os

    try:
        descriptor = os.open(directory.up_lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


async def _deliver_now(app: App, directory: DataDirectory, settings: Settings, campaign: Campaign) -> None:
    """Wait for a campaign; where nothing runs, run everything for as long as it takes."""
    async with AsyncExitStack() as stack:
        try:
            if not is_up(directory):
                await stack.enter_async_context(Supervisor(directory, settings, sandbox=False))
        except DataDirectoryWrong:  # an `up` began at this very moment: it delivers
            pass
        await wait_for(app, campaign)


async def wait_for(app: App, campaign: Campaign) -> None:
    """Return when every recipient has an outcome, or only what waits for a person is left; shows progress on a terminal."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not sys.stdout.isatty(),
        transient=True,
    ) as bar:
        task = bar.add_task("delivering", total=None)
        while True:
            now = await campaigns.find_campaign(app.db, str(campaign.campaign_id))
            final = await analytics.final_count(app.db, now.workspace_id, now.campaign_id)
            bar.update(task, completed=final.count, total=now.queued or None)
            if await _is_over(app, now, final.count):
                return
            await asyncio.sleep(_LOOK_SECONDS)


async def _is_over(app: App, campaign: Campaign, final: int) -> bool:
    if campaign.state in (CampaignState.FINISHED, CampaignState.PAUSED):
        return True
    if campaign.launched_at is None and campaign.state is not CampaignState.CANCELLED:
        return False
    if final >= campaign.queued:
        return True
    waiting: list[dict[str, Any]] = await queue.waiting_counts(app.db, campaign.workspace_id, campaign.campaign_id)
    held = sum(row["count"] for row in waiting if row["state"] == 2)
    return bool(held) and final + held >= campaign.queued


async def _status(which: str, data: Data, json: bool) -> None:
    async with opened(data) as app:
        while await analytics.count_news(app.db):
            pass
        await show_campaign(app, await campaigns.find_campaign(app.db, which), json=json)


async def _change(which: str, to: CampaignState, data: Data) -> None:
    async with opened(data) as app:
        campaign = await campaigns.find_campaign(app.db, which)
        now = app.clock.now()
        await campaigns.change_state(app.db, campaign, to, now)
        if to is not CampaignState.PAUSED:
            # What was held falls due: a resumed message is sent, a cancelled one is settled as cancelled by the sender that claims it.
            await queue.release_held(app.db, campaign.campaign_id, now)
        if to is CampaignState.CANCELLED:
            await queue.fall_due(app.db, campaign.campaign_id, now)
    say(f"“{campaign.name}” is {to.value}: {to.sentence}")
