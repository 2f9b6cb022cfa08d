"""One run: a campaign from launch to the last settled outcome, by the real processes, measured from outside."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import processes, signing
from bench.letters import draft
from bench.receiver import receiver
from posthouse import accounts, analytics, audience, campaigns
from posthouse.app import App, open_app
from posthouse.data_directory import DataDirectory
from posthouse.db import named_sql
from posthouse.doors.worker import Supervisor
from posthouse.flows.plan import Order, preflight, start_campaign
from posthouse.settings import load_settings

SQL = named_sql.load("bench", "bench.sql")
_LIMIT_SECONDS = 3.0
_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Scenario:
    """What is sent to whom."""

    name: str
    recipients: int
    logic: bool = False
    tls: bool = False
    signed: bool = True
    domains: int = 1


def run(scenario: Scenario) -> dict[str, Any]:
    """Run a scenario once between two measurements of the signing limit; all times in seconds, CPU in microseconds a message."""
    before = signing.measure(_LIMIT_SECONDS)
    with tempfile.TemporaryDirectory(prefix="posthouse-bench-") as folder:
        Path(folder).chmod(0o755)
        directory = DataDirectory(Path(folder) / "data")
        directory.create()
        accounts.create_key(directory.key_file)
        with receiver(Path(folder) / "sandbox", scenario.domains, tls=scenario.tls) as sink:
            measured = asyncio.run(_send(scenario, directory, sink))
    limit = signing.mean(before, signing.measure(_LIMIT_SECONDS))
    own_cpu = sum(measured["cpu_us"][role] for role in ("senders", "front", "postgresql"))
    return {
        **asdict(scenario),
        "receiver": sink.name,
        **measured,
        "signing_limit_per_second": round(limit.per_second),
        "signature_cpu_us": round(limit.cpu_us),
        "wall_ratio": round(measured["delivered_per_second"] / limit.per_second, 3),
        "cpu_ratio": round(limit.cpu_us / own_cpu, 3) if scenario.signed else None,
    }


async def _send(scenario: Scenario, directory: DataDirectory, sink: Any) -> dict[str, Any]:
    overrides = {
        "POSTHOUSE_DNS_NAMESERVERS": f"127.0.0.1:{sink.dns_port}",
        "POSTHOUSE_DELIVERY_PORT": str(sink.smtp_port),
        "POSTHOUSE_DELIVERY_ALLOW_PRIVATE_ADDRESSES": "true",
        "POSTHOUSE_DELIVERY_MESSAGES_PER_CONNECTION": "1000",
        "POSTHOUSE_SENDER_POSTAL_ADDRESS": "1 Coach Road, Sampletown",
        "POSTHOUSE_PUBLIC_LISTEN": "127.0.0.1:18026",
        "POSTHOUSE_INBOUND_LISTEN": "127.0.0.1:18025",
    }
    settings = load_settings(directory.settings_file, {**os.environ, **overrides})
    async with open_app(directory, settings) as app:
        await _fill(app, scenario)
        async with Supervisor(directory, settings, sandbox=False, overrides=overrides) as host:
            await asyncio.sleep(1.0)  # the processes have started when their CPU time is read first
            roots = {
                "postgresql": processes.postmaster(directory.path / "postgres"),
                "receiver": sink.pid,
                **host.pids,
            }
            if sink.dns_pid != sink.pid:
                roots["dns"] = sink.dns_pid
            cpu, began = processes.cpu_seconds(roots), time.perf_counter()
            delivered = await _campaign(app, scenario)
            seconds = time.perf_counter() - began
            cpu = {role: used - cpu[role] for role, used in processes.cpu_seconds(roots).items()}
            peaks = {role: round(processes.peak_megabytes(pid)) for role, pid in roots.items()}
    by_role = {role: used / scenario.recipients * 1e6 for role, used in cpu.items()}
    senders = sum(used for role, used in by_role.items() if role.startswith("sender"))
    others = {role: used for role, used in by_role.items() if not role.startswith("sender")}
    return {
        "delivered": delivered,
        "seconds": round(seconds, 2),
        "delivered_per_second": round(delivered / seconds, 1),
        "cpu_us": {"senders": round(senders, 1), **{role: round(used, 1) for role, used in others.items()}},
        "peak_mb": {
            "sender": max(peak for role, peak in peaks.items() if role.startswith("sender")),
            "front": peaks["front"],
        },
    }


async def _fill(app: App, scenario: Scenario) -> None:
    now = app.clock.now()
    async with app.db.acquire() as connection:
        chosen = await audience.ensure_list(connection, 1, "Bench", now)
        await connection.execute(SQL["fill_contacts"], scenario.recipients, scenario.domains, now)
        await connection.execute(SQL["fill_list"], chosen.list_id, now)
        await connection.execute(SQL["vacuum_contacts"])
        await connection.execute(SQL["vacuum_memberships"])
        async with connection.transaction():
            await accounts.add_domain(connection, 1, "posthouse.example", app.key, now)
            await accounts.note_check(connection, 1, "posthouse.example", [], now, forced=True)
        if not scenario.signed:
            await connection.execute(SQL["forget_keys"])


async def _campaign(app: App, scenario: Scenario) -> int:
    """Send it; returns how many were delivered. Raises RuntimeError when somebody is not accounted for."""
    async with app.db.acquire() as connection:
        chosen = await audience.find_list(connection, 1, "Bench")
    assert chosen is not None
    checked = await preflight(app, Order(1, "Bench", chosen, draft(logic=scenario.logic)))
    campaign_id = str(await start_campaign(app, checked))
    while (campaign := await campaigns.find_campaign(app.db, campaign_id)).finished_at is None:
        await asyncio.sleep(_LOOK_SECONDS)
    while await analytics.count_news(app.db):
        pass
    funnel = await analytics.funnel_of(app.db, 1, campaign.campaign_id)
    if funnel.total.delivered != scenario.recipients:
        raise RuntimeError(f"{scenario.name}: {funnel.total.delivered} of {scenario.recipients} were delivered")
    return funnel.total.delivered
