"""One run: a campaign from launch to the last settled outcome, by `posthouse up`, measured from outside."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from bench import processes, signing
from bench.letters import draft
from bench.product import data_directory, environment, fill, running
from bench.receiver import Receiver, receiver
from bench.scenarios import Scenario
from posthouse import analytics, campaigns, queue
from posthouse.accounts import MAIN_WORKSPACE
from posthouse.analytics import Funnel
from posthouse.app import App, open_app
from posthouse.campaigns import Campaign
from posthouse.data_directory import DataDirectory
from posthouse.flows.plan import Order, preflight, start_campaign
from posthouse.settings import load_settings

LIMIT_SECONDS = 3.0
_LOOK_SECONDS = 0.1
# Whose work delivering is; what the receiver and the DNS server use is theirs.
OWN_ROLES = ("supervisor", "front", "sender", "render child", "postgresql")
STILL_SECONDS = 60.0


class Unaccounted(Exception):
    """Not everybody was delivered to exactly once."""


@dataclass(frozen=True)
class Spent:
    """What a campaign took. cpu_us: role → CPU microseconds a message; seconds: from launch to the last settled outcome."""

    delivered: int
    deferred: int
    received: int
    seconds: float
    launch_seconds: float
    cpu_us: dict[str, float]
    peak_mb: dict[str, int]
    private_mb: dict[str, int]
    machine_busy: float
    busy_with_others: float


def run(scenario: Scenario, limit_seconds: float = LIMIT_SECONDS) -> dict[str, Any]:
    """Run a scenario once between two measurements of the signing limit. Raises Unaccounted."""
    before = signing.measure(limit_seconds)
    with data_directory() as (directory, beside), receiver(beside, scenario) as sink:
        spent = send(scenario, directory, sink)
    limit = signing.mean(before, signing.measure(limit_seconds))
    rate = spent.delivered / spent.seconds
    own_cpu = sum(spent.cpu_us.get(role, 0.0) for role in OWN_ROLES)
    return {
        **asdict(scenario),
        "receiver": sink.name,
        **asdict(spent),
        "delivered_per_second": round(rate, 1),
        "own_cpu_us": round(own_cpu, 1),
        "signing_limit_per_second": round(limit.per_second),
        "signature_cpu_us": round(limit.cpu_us),
        "wall_ratio": round(rate / limit.per_second, 3),
        "cpu_ratio": round(limit.cpu_us / own_cpu, 3) if scenario.signed else None,
    }


def send(scenario: Scenario, directory: DataDirectory, sink: Receiver, still_seconds: float = STILL_SECONDS) -> Spent:
    """Send a campaign to a receiver, and account for everybody. still_seconds: how long nothing may move. Raises Unaccounted."""
    return asyncio.run(_send(scenario, directory, sink, still_seconds))


async def _send(scenario: Scenario, directory: DataDirectory, sink: Receiver, still_seconds: float) -> Spent:
    settings = environment(sink)
    async with open_app(directory, load_settings(directory.settings_file, settings)) as app:
        chosen = await fill(app, scenario)
        checked = await preflight(app, Order(MAIN_WORKSPACE, "Bench", chosen, draft(logic=scenario.logic)))
        with running(directory, settings) as up:
            roots = {"supervisor": up, "postgresql": processes.keeper_of(directory.path / "postgres"), **sink.pids}
            processes.wait_until_quiet(roots)
            used, machine = processes.read(roots), processes.machine_seconds()
            began = app.clock.now()
            campaign = await _finished(app, await start_campaign(app, checked), still_seconds)
            now, machine_now = processes.read(roots), processes.machine_seconds()
        funnel = await _counted(app, campaign)
    received = sink.received(scenario.recipients)
    delivered = funnel.total.delivered
    if delivered != scenario.recipients or received != scenario.recipients:
        raise Unaccounted(
            f"{scenario.name}: of {scenario.recipients} recipients {delivered} were delivered to, and the receiver took {received}."
        )
    cpu = {role: now[role].cpu_seconds - (used[role].cpu_seconds if role in used else 0.0) for role in now}
    return _spent(campaign, began, funnel, received, cpu, now, machine_now[0] - machine[0])


def _spent(
    campaign: Campaign,
    began: datetime,
    funnel: Funnel,
    received: int,
    cpu: dict[str, float],
    roles: dict[str, processes.Role],
    worked: float,
) -> Spent:
    assert campaign.launched_at is not None
    assert campaign.finished_at is not None
    delivered = funnel.total.delivered
    seconds = (campaign.finished_at - began).total_seconds()
    cores = (os.cpu_count() or 1) * seconds
    return Spent(
        delivered=delivered,
        deferred=funnel.total.deferred,
        received=received,
        seconds=round(seconds, 3),
        launch_seconds=round((campaign.launched_at - began).total_seconds(), 3),
        cpu_us={role: round(used / delivered * 1e6, 1) for role, used in cpu.items()},
        peak_mb={name: round(role.peak_mb) for name, role in roles.items()},
        private_mb={name: round(role.private_mb) for name, role in roles.items()},
        machine_busy=round(worked / cores, 3),
        busy_with_others=round((worked - sum(cpu.values())) / cores, 3),
    )


async def _finished(app: App, campaign_id: int, still_seconds: float) -> Campaign:
    """The campaign once its last recipient is accounted for. Raises Unaccounted when nothing moves any more."""
    moved, count = time.monotonic(), -1
    while True:
        campaign = await campaigns.find_campaign(app.db, str(campaign_id))
        if campaign.finished_at is not None:
            return campaign
        final = await analytics.final_count(app.db, MAIN_WORKSPACE, campaign_id)
        if final.count != count:
            moved, count = time.monotonic(), final.count
        elif time.monotonic() - moved > still_seconds:
            raise Unaccounted(
                f"{count} of {campaign.queued} recipients are accounted for, and nothing moves any more; "
                f"what waits: {await _waiting(app, campaign_id)}."
            )
        await asyncio.sleep(_LOOK_SECONDS)


async def _waiting(app: App, campaign_id: int) -> str:
    """How many still wait, and for which reasons."""
    rows = await queue.waiting_counts(app.db, MAIN_WORKSPACE, campaign_id)
    return ", ".join(f"{row['count']} ({row['reason'] or 'never tried'})" for row in rows) or "nothing"


async def _counted(app: App, campaign: Campaign) -> Funnel:
    while await analytics.count_news(app.db):
        pass
    return await analytics.funnel_of(app.db, MAIN_WORKSPACE, campaign.campaign_id)
