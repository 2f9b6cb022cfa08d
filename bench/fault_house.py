"""A house to be set on fire: a data directory, the sandbox's internet, Posthouse as a process of its own, and somebody who watches.

The watcher speaks to PostgreSQL directly and holds no lock of the embedded server, so a kill is as bad as in real life.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import msgspec

from bench import fault_processes as processes
from bench.fault_journal import Journals
from posthouse import accounts, audience
from posthouse.accounts import REHEARSAL_WORKSPACE
from posthouse.app import App, open_app
from posthouse.clock import JumpingClock
from posthouse.composing import Draft
from posthouse.data_directory import DataDirectory
from posthouse.db import named_sql
from posthouse.db.server import EmbeddedServer
from posthouse.flows.plan import Order, preflight, start_campaign
from posthouse.sandbox import People, Plan, Record, Sandbox
from posthouse.sandbox import start as start_sandbox
from posthouse.settings import load_settings

SQL = named_sql.load("bench", "fault_queries.sql")
DATABASE_TROUBLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)
SENDER_DOMAIN = "faults.example"
_ROOT = Path(__file__).parents[1]
_READY_SECONDS = 60.0
_STOP_SECONDS = 60.0
_decode_record = msgspec.json.Decoder(Record).decode

_HTML = "<html><body><h1>Hello {{ first_name }}</h1>" + (
    "".join(
        f"<p>The coach to {{{{ city }}}} leaves at {hour}. <a href='https://faults.example/t/{hour}'>Timetable {hour}</a></p>"
        for hour in range(8, 18)
    )
    + "<p>{{ postal_address }} <a href='{{ unsubscribe_url }}'>leave the list</a></p></body></html>"
)


class Stuck(Exception):
    """A campaign stands still, though nothing is under way and nothing waits for a later moment."""


@dataclass
class Round:
    """A campaign under way. record_offset: where its lines begin in the sandbox's file; dots: copies taken before it began."""

    campaign_id: int
    list_id: int
    recipients: int
    prefix: str
    record_offset: int
    dots: int
    began: float = field(default_factory=time.monotonic)


class House:
    """One data directory and everything that runs in it."""

    # The watcher's own, as soon as there is a database.
    app: App

    def __init__(self, directory: DataDirectory, sandbox: Sandbox, environment: dict[str, str]) -> None:
        self.directory = directory
        self.sandbox = sandbox
        self.journals = Journals(directory.path / "journal")
        self.starts = 0
        self._environment = environment
        self._host: subprocess.Popen[bytes] | None = None

    # Posthouse -------------------------------------------------------------------------------------------------------------

    @property
    def host_pid(self) -> int:
        """The supervisor."""
        assert self._host is not None
        return self._host.pid

    @property
    def is_up(self) -> bool:
        """Whether the supervisor is still there."""
        return self._host is not None and self._host.poll() is None

    def members(self) -> dict[str, int]:
        """Name → process id of all of Posthouse: host, front, sender-0 …, render-…; PostgreSQL and its keeper are apart."""
        found = {}
        postmaster = self.postmaster()
        keeper = self.keeper()
        for pid in processes.descendants(self.host_pid):
            line = processes.command_line(pid)
            if "posthouse.doors.worker" in line:
                role = line[line.index("posthouse.doors.worker") + 1 :]
                found[role[0] if role[0] == "front" else f"sender-{role[1]}"] = pid
            elif pid not in (postmaster, keeper) and processes.parent_of(pid) not in (postmaster, keeper):
                found[f"render-{pid}"] = pid
        return {**found, "host": self.host_pid}

    def postmaster(self) -> int | None:
        """PostgreSQL's first process."""
        with suppress(OSError, ValueError, IndexError):
            pid = int((self.directory.path / "postgres" / "postmaster.pid").read_text().split()[0])
            return pid if processes.is_alive(pid) else None
        return None

    def keeper(self) -> int | None:
        """The process that keeps PostgreSQL."""
        postmaster = self.postmaster()
        return processes.parent_of(postmaster) if postmaster is not None else None

    async def start(self) -> int:
        """Start Posthouse as an init system would, again where it does not come up; returns how many tries it took."""
        for attempt in range(1, 6):
            if await asyncio.to_thread(start_host, self):
                return attempt
            await asyncio.sleep(0.2)
        raise Stuck(f"Posthouse does not start; see {self.directory.path / 'posthouse.log'}.")

    def launch_host(self) -> bool:
        """One try to start the host; returns whether it is up."""
        with (self.directory.path / "posthouse.log").open("ab") as log:
            self._host = subprocess.Popen(
                [sys.executable, "-m", "bench.fault_host", str(self.directory.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                cwd=_ROOT,
                preexec_fn=processes.end_with_parent,
            )
        self.starts += 1
        assert self._host.stdout is not None
        if self._host.stdout.readline() == b"ready\n":
            return True
        self._host.wait(_READY_SECONDS)
        return False

    def stop(self) -> int:
        """SIGTERM and wait; returns the exit code, -9 where only kill -9 of everything ended it."""
        assert self._host is not None
        if self._host.poll() is None:
            self._host.send_signal(signal.SIGTERM)
        try:
            code = self._host.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill_all()
            code = self._host.wait(_READY_SECONDS)
        if self._host.stdout is not None:
            self._host.stdout.close()
        return code

    def kill_all(self) -> None:
        """kill -9 of all of Posthouse, the supervisor last."""
        members = self.members()
        processes.kill(pid for name, pid in members.items() if name != "host")
        processes.kill([members["host"]])
        self.reap(members)

    def reap(self, members: Mapping[str, int]) -> None:
        """Wait for the end of everybody who was killed."""
        processes.wait_gone(pid for name, pid in members.items() if name != "host")
        assert self._host is not None
        self._host.wait(_READY_SECONDS)

    # A campaign ------------------------------------------------------------------------------------------------------------

    async def send(self, name: str, recipients: int, domains: list[str], html: str = _HTML) -> Round:
        """Add people and a list, check the campaign as `campaign send` does, and hand it to launch."""
        prefix = f"{name}-"
        status = self.sandbox.status()
        now = self.app.clock.now()
        async with self.app.db.acquire() as connection:
            await connection.execute(SQL["add_people"], REHEARSAL_WORKSPACE, recipients, prefix, domains, now)
            list_id = await connection.fetchval(SQL["add_list"], REHEARSAL_WORKSPACE, name, now)
            await connection.execute(SQL["join_list"], REHEARSAL_WORKSPACE, list_id, prefix, now)
            chosen = await audience.find_list(connection, REHEARSAL_WORKSPACE, name)
        assert chosen is not None
        draft = Draft(subject="Hello {{ first_name }}", from_address=f"news@{SENDER_DOMAIN}", html=html)
        checked = await preflight(self.app, Order(REHEARSAL_WORKSPACE, name, chosen, draft))
        offset = self.sandbox.ready.record_file.stat().st_size
        campaign_id = await start_campaign(self.app, checked)
        return Round(campaign_id, list_id, recipients, prefix, offset, status.accepted.get("dot", 0))

    def taken(self, current: Round) -> int:
        """Copies that the providers have taken since the round began."""
        return self.sandbox.status().accepted.get("dot", 0) - current.dots

    def records(self, current: Round) -> Iterator[Record]:
        """What the sandbox wrote down about the round's recipients."""
        with self.sandbox.ready.record_file.open("rb") as file:
            file.seek(current.record_offset)
            for line in file:
                if line.endswith(b"\n"):
                    record = _decode_record(line)
                    if record.rcpt.startswith(current.prefix):
                        yield record

    async def unsettled(self) -> int:
        """Outcomes that the journals have and the database has not."""
        marks = {row["slot"]: row["settled"] for row in await self.app.db.fetch(SQL["marks"])}
        return sum(max(0, each.number - marks.get(slot, 0)) for slot, each in self.journals.look().items())

    async def finals(self, current: Round) -> int:
        """Recipients with a final outcome."""
        return int(await self.app.db.fetchval(SQL["finals"], current.campaign_id))


def start_host(house: House) -> bool:
    """For a thread: the host's first line takes a second or two."""
    return house.launch_host()


@asynccontextmanager
async def open_house(
    path: Path,
    *,
    settings: Mapping[str, str] | None = None,
    seed: int = 1,
    domains: Mapping[str, str] | None = None,
    providers: Path | None = None,
    withhold: float = 0.0,
    rate_scale: float = 1000.0,
    prepare: Callable[[DataDirectory], None] | None = None,
    keep: bool = False,
) -> AsyncIterator[House]:
    """A fresh house at `path`, running; everything in it is stopped and, unless `keep`, removed in the end.

    prepare: called when the data directory is there and nothing runs yet.
    settings: POSTHOUSE_… variables; domains, providers, withhold, rate_scale: as in the sandbox's plan.
    """
    directory = DataDirectory(path)
    directory.create()
    accounts.create_key(directory.key_file)
    directory.sandbox.mkdir(parents=True, exist_ok=True)
    JumpingClock(directory.clock_file)
    if prepare is not None:
        prepare(directory)
    smtp = f"127.0.0.1:{_free_port()}"
    plan = Plan(
        seed=seed,
        directory=directory.sandbox,
        clock_file=directory.clock_file,
        bounce_mx=smtp,
        people=People(),
        domains=dict(domains or {}),
        providers=providers,
        withhold=withhold,
        rate_scale=rate_scale,
    )
    with start_sandbox(plan) as sandbox:
        environment = {**os.environ, **_settings(sandbox, smtp), **(settings or {})}
        house = House(directory, sandbox, environment)
        try:
            # The first start makes the cluster; the watcher's own connections come after it.
            await house.start()
            watcher = {**environment, "POSTHOUSE_DATABASE_URL": EmbeddedServer(directory.path).url}
            async with open_app(directory, load_settings(directory.settings_file, watcher), sandbox=True) as house.app:
                await _register(house.app)
                yield house
        finally:
            house.stop()
            if not keep:
                await asyncio.to_thread(_clear, directory)


async def _register(app: App) -> None:
    async with app.db.acquire() as connection, connection.transaction():
        await accounts.add_domain(connection, REHEARSAL_WORKSPACE, SENDER_DOMAIN, app.key, app.clock.now())


def _settings(sandbox: Sandbox, smtp: str) -> dict[str, str]:
    """POSTHOUSE_… variables of a house in this sandbox; smtp: where its SMTP door opens."""
    return {
        "POSTHOUSE_DNS_NAMESERVERS": f"127.0.0.1:{sandbox.ready.dns_port}",
        "POSTHOUSE_DELIVERY_PORT": str(sandbox.ready.smtp_port),
        "POSTHOUSE_DELIVERY_ALLOW_PRIVATE_ADDRESSES": "true",
        "POSTHOUSE_DELIVERY_LIFE_HOURS": "6",
        "POSTHOUSE_DELIVERY_MESSAGES_PER_SECOND": "0",
        "POSTHOUSE_PUBLIC_URL": f"https://mail.{SENDER_DOMAIN}",
        "POSTHOUSE_PUBLIC_LISTEN": f"127.0.0.1:{_free_port()}",
        "POSTHOUSE_INBOUND_LISTEN": smtp,
        "POSTHOUSE_SENDER_POSTAL_ADDRESS": "1 Coach Road, 12345 Sampletown",
        "POSTHOUSE_JOURNAL_SEGMENT_MEGABYTES": "1",
    }


def _clear(directory: DataDirectory) -> None:
    """Wait for PostgreSQL's end, then remove the directory and a cluster that lies elsewhere."""
    pid_file = directory.path / "postgres" / "postmaster.pid"
    deadline = time.monotonic() + 30
    while pid_file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    cluster = directory.path / "postgres"
    if cluster.is_symlink():
        shutil.rmtree(cluster.resolve().parent, ignore_errors=True)
    shutil.rmtree(directory.path, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
