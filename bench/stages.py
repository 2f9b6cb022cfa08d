"""What a message costs, stage by stage: one sender in this process, the real functions with clocks around them.

Everything is queued before the sender starts, so PostgreSQL's time can be told apart by what it was used for: launch, send, count.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import uvloop

from bench import processes
from bench.clocks import Clocks
from bench.letters import draft
from bench.product import data_directory, environment, fill
from bench.receiver import receiver
from bench.run import Unaccounted
from bench.scenarios import Scenario
from posthouse import analytics, campaigns, delivery, queue
from posthouse.accounts import MAIN_WORKSPACE
from posthouse.app import App, open_app
from posthouse.composing import Composer
from posthouse.data_directory import DataDirectory
from posthouse.delivery.exchange import Exchange
from posthouse.delivery.session import Session
from posthouse.flows import settle as settling
from posthouse.flows.composing_desk import Desk
from posthouse.flows.deliver import deliver
from posthouse.flows.launch import launch
from posthouse.flows.plan import Order, preflight, start_campaign
from posthouse.flows.tell import tell
from posthouse.mail.dkim import DkimSigner
from posthouse.queue import Journal
from posthouse.settings import load_settings

_SENDER_CONNECTIONS = 4
_LOOK_SECONDS = 0.05
_FUNCTIONS = (
    ("sign", DkimSigner, "sign_digest"),
    ("fill", Composer, "compose"),
    ("wire", Session, "data_received"),
    ("judge", delivery, "judge"),
    ("journal", Journal, "note"),
    ("journal", Journal, "sync"),
    ("offer", Exchange, "offer"),
)
_COROUTINES = (("claim", queue, "claim"), ("route", Desk, "jobs"), ("settle", settling, "settle"))


def measure(messages: int) -> dict[str, Any]:
    """CPU microseconds a message: `sender` by stage with its sum, `postgresql` by use; `clock` is what the clocks themselves cost."""
    scenario = Scenario("stages", messages)
    with data_directory() as (directory, beside), receiver(beside, scenario) as sink:
        settings = load_settings(directory.settings_file, environment(sink))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_measure(directory, settings, scenario))


async def _measure(directory: DataDirectory, settings: Any, scenario: Scenario) -> dict[str, Any]:
    clocks = Clocks()
    async with open_app(directory, settings, connections=_SENDER_CONNECTIONS) as app:
        chosen = await fill(app, scenario)
        server = {"postgresql": processes.keeper_of(directory.path / "postgres")}
        checked = await preflight(app, Order(MAIN_WORKSPACE, "Stages", chosen, draft(logic=False)))
        campaign_id = await start_campaign(app, checked)
        marks = [_cpu(server)]
        while await launch(app):
            pass
        marks.append(_cpu(server))
        with clocks.patched(*_FUNCTIONS, coroutines=_COROUTINES):
            used = await _deliver(app)
        marks.append(_cpu(server))
        while await tell(app):
            pass
        marks.append(_cpu(server))
        campaign = await campaigns.find_campaign(app.db, str(campaign_id))
        funnel = await analytics.funnel_of(app.db, MAIN_WORKSPACE, campaign.campaign_id)
    if funnel.total.delivered != scenario.recipients:
        raise Unaccounted(f"{funnel.total.delivered} of {scenario.recipients} were delivered to.")
    by_stage = dict(clocks.seconds)
    each = 1e6 / scenario.recipients
    sender = {stage: round(seconds * each, 1) for stage, seconds in by_stage.items()}
    sender["loop and the rest"] = round((used - sum(by_stage.values())) * each, 1)
    uses = ("launch", "claim and settle", "count")
    return {
        "messages": scenario.recipients,
        "sender": sender,
        "sender_sum": round(used * each, 1),
        "clock": round(_clock_cost() * sum(clocks.calls.values()) * each, 1),
        "postgresql": {
            use: round((after - before) * each, 1) for use, before, after in zip(uses, marks, marks[1:], strict=False)
        },
    }


async def _deliver(app: App) -> float:
    """Run a sender until the queue is empty; CPU seconds of this process, its threads included."""
    stop = asyncio.Event()
    began = time.process_time()
    sender = asyncio.create_task(deliver(app, 0, 1, stop))
    while not sender.done() and await _waiting(app):
        await asyncio.sleep(_LOOK_SECONDS)
    used = time.process_time() - began
    stop.set()
    await sender
    return used


async def _waiting(app: App) -> bool:
    async with app.db.acquire() as connection:
        work = await queue.next_work(connection, app.clock.now(), sandbox=False)
    return work.due is not None or work.ready is not None


def _cpu(server: dict[str, int]) -> float:
    return processes.read(server)["postgresql"].cpu_seconds


def _clock_cost() -> float:
    """Seconds that one pair of clock readings takes."""
    clocks = Clocks()
    nothing = clocks.around("nothing", lambda: None)
    count = 20_000
    began = time.thread_time()
    for _ in range(count):
        nothing()
    return (time.thread_time() - began) / count
