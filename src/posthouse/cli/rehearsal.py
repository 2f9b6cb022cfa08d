"""Rehearsals: the real program against the sandbox's internet, on a clock that jumps over what nobody needs to wait for."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec import Struct

from posthouse import accounts, analytics, audience, campaigns, queue
from posthouse.accounts import MAIN_WORKSPACE, REHEARSAL_WORKSPACE
from posthouse.analytics import Funnel
from posthouse.app import App, open_app
from posthouse.campaigns import Campaign
from posthouse.cli.domain import records_of
from posthouse.cli.options import Data, opened
from posthouse.cli.output import print_json, say
from posthouse.cli.reconcile import Reconciliation, reconcile
from posthouse.cli.report import campaign_facts, print_funnel
from posthouse.clock import JumpingClock
from posthouse.composing import Draft
from posthouse.data_directory import DataDirectory
from posthouse.doors.worker import Supervisor
from posthouse.flows.plan import Order, preflight, start_campaign
from posthouse.flows.wake import wake_senders
from posthouse.model.errors import Refused
from posthouse.sandbox import People, Plan, Sandbox, ZoneRecord, publish
from posthouse.sandbox import start as start_sandbox
from posthouse.settings import load_settings

_LOOK_SECONDS = 0.03
# How often in a row all must be quiet: an act of one side reaches the other within two looks.
_QUIET_LOOKS = 3
# A jump goes a little beyond the next due moment, so that what falls due around it is done together; less so where messages only wait
# for their pace, whose allowance a longer jump would waste.
_SLACK = timedelta(minutes=20)
_PACED_SLACK = timedelta(seconds=2)
_STUCK_SECONDS = 300.0
# The rate is that of the bulk: the last few wait for providers that are slow by nature.
_BULK = 0.75
_PEOPLE = People(opens=0.32, clicks=0.06, complains=0.001, unsubscribes=0.004)


class Stage(Struct, frozen=True):
    """A rehearsal that is set up: the app in the sandbox, the sandbox itself, and the processes that send."""

    app: App
    sandbox: Sandbox
    host: Supervisor


class RehearsalResult(Struct, frozen=True):
    """What came of a rehearsed campaign. rate: messages a second, real time, until the bulk was accounted for."""

    campaign: Campaign
    funnel: Funnel
    facts: dict[str, Any]
    rate: float
    reconciliation: Reconciliation


@asynccontextmanager
async def set_stage(
    directory: DataDirectory,
    sender_domain: str,
    *,
    seed: int,
    database_url: str | None = None,
    key_file: Path | None = None,
    people: People = _PEOPLE,
    extra: dict[str, str] | None = None,
) -> AsyncIterator[Stage]:
    """Start the sandbox, register and verify the sender's domain in it, and start the processes that send.

    directory: the rehearsal's own; database_url: that of the real installation, None for one of its own. extra: further settings.
    """
    directory.sandbox.mkdir(parents=True, exist_ok=True)
    chosen = load_settings(directory.settings_file, {**os.environ, **(extra or {})})
    mail_host = chosen.public.url.split("//", 1)[1].partition(":")[0]
    web, smtp = f"127.0.0.1:{_free_port()}", f"127.0.0.1:{_free_port()}"
    plan = Plan(
        seed=seed,
        directory=directory.sandbox,
        clock_file=directory.clock_file,
        bounce_mx=smtp,
        public_address=web,
        public_hosts=(mail_host,),
        people=people,
    )
    JumpingClock(directory.clock_file)
    with start_sandbox(plan) as sandbox:
        ready = sandbox.ready
        overrides = {
            "POSTHOUSE_DNS_NAMESERVERS": f"127.0.0.1:{ready.dns_port}",
            "POSTHOUSE_DELIVERY_PORT": str(ready.smtp_port),
            "POSTHOUSE_DELIVERY_ALLOW_PRIVATE_ADDRESSES": "true",
            "POSTHOUSE_DELIVERY_RELAY": "",
            "POSTHOUSE_PUBLIC_LISTEN": web,
            "POSTHOUSE_PUBLIC_TLS_CERTIFICATE": str(ready.public_certificate),
            "POSTHOUSE_PUBLIC_TLS_KEY": str(ready.public_key),
            "POSTHOUSE_INBOUND_LISTEN": smtp,
            **({"POSTHOUSE_DATABASE_URL": database_url} if database_url else {}),
            **({"POSTHOUSE_SECRET_KEY_FILE": str(key_file)} if key_file else {}),
            **(extra or {}),
        }
        settings = load_settings(directory.settings_file, {**os.environ, **overrides})
        if key_file is not None:
            os.environ["POSTHOUSE_SECRET_KEY_FILE"] = str(key_file)
        async with open_app(directory, settings, sandbox=True) as app:
            await _verify_domain(app, sandbox, sender_domain)
            async with Supervisor(directory, settings, sandbox=True, overrides=overrides) as host:
                yield Stage(app, sandbox, host)


async def perform(stage: Stage, order: Order, on_progress: Callable[[int, int], None]) -> RehearsalResult:
    """Send a campaign in the sandbox, let its people act, and reconcile the ledger with the sandbox's own counts."""
    app = stage.app
    checked = await preflight(app, order)
    campaign_id = await start_campaign(app, checked)
    rate = await _conduct(stage, campaign_id, on_progress)
    while await analytics.count_news(app.db):
        pass
    campaign = await campaigns.find_campaign(app.db, str(campaign_id))
    funnel = await analytics.funnel_of(app.db, campaign.workspace_id, campaign.campaign_id)
    facts = await campaign_facts(app, campaign)
    return RehearsalResult(campaign, funnel, facts, rate, await reconcile(app, campaign, stage.sandbox.records()))


async def _conduct(stage: Stage, campaign_id: int, on_progress: Callable[[int, int], None]) -> float:
    """Move the clock to the next due moment whenever nothing is due on either side, until all is over.

    Returns the messages a second until the bulk was accounted for. Raises Refused when nothing moves any more.
    """
    app = stage.app
    assert isinstance(app.clock, JumpingClock)
    began = app.clock.now()
    busy, looked, quiet, rate = 0.0, time.monotonic(), 0, 0.0
    watch = _Watch()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        campaign = await campaigns.find_campaign(app.db, str(campaign_id))
        final = await analytics.final_count(app.db, campaign.workspace_id, campaign_id)
        on_progress(final.count, campaign.queued)
        watch.look((campaign.state, final.count, stage.sandbox.status().serial, quiet))
        now = time.monotonic()
        elapsed, looked = now - looked, now
        if campaign.launched_at is None or not await _is_quiet(stage):
            quiet = 0
            busy += elapsed
            if not rate and campaign.launched_at is not None and final.count >= campaign.queued * _BULK:
                rate = final.count / busy
            continue
        quiet += 1
        if quiet < _QUIET_LOOKS:
            continue
        quiet = 0
        moment = await _next_moment(stage, began)
        if moment is not None:
            app.clock.jump_to(moment)
            await wake_senders(app)
        elif campaign.finished_at is not None:
            return rate or final.count / max(busy, elapsed)


class _Watch:
    """Tells when a rehearsal stands still."""

    def __init__(self) -> None:
        self._state: object = None
        self._since = time.monotonic()

    def look(self, state: object) -> None:
        """Raise Refused when the state has been the same for too long."""
        if state != self._state:
            self._state, self._since = state, time.monotonic()
        elif time.monotonic() - self._since > _STUCK_SECONDS:
            raise Refused(
                f"The rehearsal has stood still for {_STUCK_SECONDS:.0f} seconds; the logs of its processes say more."
            )


async def _is_quiet(stage: Stage) -> bool:
    """Whether nothing is due or under way, here or at the providers."""
    now = stage.app.clock.now()
    status = stage.sandbox.status()
    if status.in_flight or (status.next_due is not None and _moment(status.next_due) <= now):
        return False
    async with stage.app.db.acquire() as connection:
        if await queue.any_claimed(connection, sandbox=True):
            return False
        work = await queue.next_work(connection, now, sandbox=True)
    return work.ready is None or work.ready > now


async def _next_moment(stage: Stage, began: datetime) -> datetime | None:
    """Where to jump, so that something can be done on either side."""
    async with stage.app.db.acquire() as connection:
        work = await queue.next_work(connection, stage.app.clock.now(), sandbox=True)
    status = stage.sandbox.status()
    acts = None if status.next_due is None else _moment(status.next_due)
    # The later it gets, the less what is due is worth a jump of its own.
    moments = [due + max(_SLACK, (due - began) / 8) for due in (work.due, acts) if due is not None]
    if work.ready is not None:
        moments.append(work.ready + _PACED_SLACK)
    return min(moments, default=None)


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC)


async def _verify_domain(app: App, sandbox: Sandbox, domain: str) -> None:
    """Publish the domain's records in the sandbox's DNS and check them there, as a person would in the real one."""
    now = app.clock.now()
    async with app.db.acquire() as connection, connection.transaction():
        await accounts.add_domain(connection, REHEARSAL_WORKSPACE, domain, app.key, now)
    records = await records_of(app, REHEARSAL_WORKSPACE, domain)
    zone = [ZoneRecord(r.name, "MX" if r.kind == "MX" else "TXT", r.value.rstrip(".")) for r in records]
    publish(sandbox.ready.ca_file.parent, [*zone, ZoneRecord(app.mail_host, "A", "127.0.0.1")])
    for _ in range(20):
        await asyncio.sleep(0.06)
        checks = await accounts.check_domain(app.resolver, records)
        if all(check.problem is None for check in checks):
            break
    async with app.db.acquire() as connection, connection.transaction():
        if not await accounts.note_check(connection, REHEARSAL_WORKSPACE, domain, checks, now, forced=False):
            raise Refused(f"The sandbox's DNS does not show the records of {domain}: {[c.problem for c in checks]}.")


async def rehearse_list(data: Data, list_name: str, draft: Draft, name: str | None, *, json: bool) -> None:
    """`campaign send --sandbox`: copy the list into the rehearsal workspace and send to it there. Exits with 1 when unreconciled."""
    async with opened(data) as real:
        async with real.db.acquire() as connection:
            chosen = await audience.find_list(connection, MAIN_WORKSPACE, list_name)
        if chosen is None:
            raise Refused(f"There is no list “{list_name}”: `posthouse contacts lists` shows those there are.")
        copied = await audience.copy_list(
            real.db, MAIN_WORKSPACE, chosen.list_id, REHEARSAL_WORKSPACE, real.clock.now()
        )
        directory = DataDirectory(real.directory.path / "rehearsal")
        if not directory.exists:
            directory.create()
        directory.settings_file.write_bytes(real.directory.settings_file.read_bytes())
        title = name or f"{draft.subject[:60]} {real.clock.now():%Y-%m-%d %H:%M:%S}"
        domain = draft.from_address.rpartition("@")[2]
        stage_manager = set_stage(
            directory,
            domain,
            seed=1,
            database_url=real.database_url,
            key_file=real.directory.key_file,
            extra=None if real.settings.sender.postal_address else {"POSTHOUSE_SENDER_POSTAL_ADDRESS": "Rehearsal"},
        )
        async with stage_manager as stage:
            result = await perform(stage, Order(REHEARSAL_WORKSPACE, title, copied, draft), lambda *_: None)
    show_result(result, json=json)
    if not result.reconciliation.is_clean:
        raise Refused("The rehearsal does not reconcile; see the lines above.")


def show_result(result: RehearsalResult, *, json: bool, before: dict[str, Any] | None = None) -> None:
    """Print what came of a rehearsal."""
    if json:
        print_json(
            {
                **(before or {}),
                **result.facts,
                "messages_per_second": round(result.rate, 1),
                "reconciliation": result.reconciliation,
            }
        )
        return
    print_funnel(result.campaign.queued, result.funnel)
    say(
        f"{result.rate:,.0f} messages a second for the bulk; slow and greylisting providers took longer, and the rehearsal's clock "
        "skipped the days between tries."
    )
    result.reconciliation.show(say)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
