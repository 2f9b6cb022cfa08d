"""App: what one process of Posthouse has in its hands. Opened once, handed to the flows; the only place that wires the world in."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from posthouse.accounts import MasterKey, load_key, prove_key
from posthouse.clock import JumpingClock, SystemClock
from posthouse.data_directory import DataDirectory
from posthouse.db.migrate import migrate
from posthouse.db.pool import Pool, open_pool
from posthouse.db.server import EmbeddedServer
from posthouse.delivery import DnsResolver, PolicyBook, PolicySettings, Relay, RouteBook, TlsNeed, parse_relay
from posthouse.mail.replies import Rules
from posthouse.mail.tokens import Tokens
from posthouse.model.errors import DatabaseUnavailable
from posthouse.model.ports import Chance, Clock, Resolver
from posthouse.model.retry import RetrySchedule
from posthouse.settings import Settings

_GUARD_SECONDS = 1.0


@dataclass(frozen=True)
class App:
    """The hands of one process.

    sandbox: whether it works for rehearsals (workspaces marked sandbox) instead of for real ones; node: the name of this
    host among those that share the database; a rehearsal counts as a host of its own.
    """

    directory: DataDirectory
    settings: Settings
    sandbox: bool
    node: str
    db: Pool
    database_url: str
    clock: Clock
    resolver: Resolver
    routes: RouteBook
    tls: PolicyBook
    relay: Relay | None
    chance: Chance
    key: MasterKey
    tokens: Tokens
    rules: Rules
    schedule: RetrySchedule

    @property
    def mail_host(self) -> str:
        """The host name of this installation in DNS: that of the public URL."""
        return self.settings.public.url.split("//", 1)[1].partition(":")[0]


@asynccontextmanager
async def open_app(
    directory: DataDirectory, settings: Settings, *, sandbox: bool = False, connections: int = 4, guard: bool = False
) -> AsyncIterator[App]:
    """Open the database (starting the embedded server where it is needed), migrate it, and load keys and rules.

    guard: give the embedded server a new keeper whenever the old one is killed; for one process that lives long.

    Raises DatabaseUnavailable, KeyWrong or SettingWrong, each with one sentence.
    """
    relay = parse_relay(settings.delivery.relay)
    resolver = DnsResolver(settings.dns.nameservers, timeout=settings.dns.timeout_seconds)
    clock: Clock = JumpingClock(directory.clock_file) if sandbox else SystemClock()
    own_rules = [directory.reply_rules] if directory.reply_rules.exists() else []
    rules = Rules.load(*own_rules)
    async with AsyncExitStack() as stack:
        url = settings.database.url
        if not url:
            chosen = Path(settings.database.bin_directory) if settings.database.bin_directory else None
            server = stack.enter_context(EmbeddedServer(directory.path, bin_directory=chosen))
            url = server.url
            if guard:
                guarding = asyncio.create_task(_guard(server))
                stack.callback(guarding.cancel)
        await _migrate(url)
        pool = await open_pool(url, size=connections)
        stack.push_async_callback(pool.close)
        key = load_key(directory.key_file)
        await prove_key(pool, key)
        delivery = settings.delivery
        validating = resolver if settings.dns.validating else None
        yield App(
            directory=directory,
            settings=settings,
            sandbox=sandbox,
            node=socket.gethostname() + (" (rehearsal)" if sandbox else ""),
            db=pool,
            database_url=url,
            clock=clock,
            resolver=resolver,
            routes=RouteBook(pool, resolver, validating),
            tls=PolicyBook(pool, resolver, validating, _policy_settings(directory, settings, sandbox=sandbox), clock),
            relay=relay,
            chance=random.Random(),
            key=key,
            tokens=key.tokens(),
            rules=rules,
            schedule=RetrySchedule(
                first=delivery.first_retry_minutes * 60,
                longest=delivery.longest_retry_minutes * 60,
                life=delivery.life_hours * 3600,
            ),
        )


def _policy_settings(directory: DataDirectory, settings: Settings, *, sandbox: bool) -> PolicySettings:
    delivery = settings.delivery
    return PolicySettings(
        need=TlsNeed.ENCRYPT if delivery.require_tls else TlsNeed.OPPORTUNISTIC,
        # A rehearsal plays domains that have policies in the world, and must neither keep to those nor count for their reports.
        mta_sts=delivery.mta_sts and not sandbox,
        sts_port=delivery.mta_sts_port,
        allow_private_addresses=delivery.allow_private_addresses,
        reports=delivery.tls_reports and not sandbox,
        rules_file=None if sandbox else directory.tls_rules,
    )


async def _guard(server: EmbeddedServer) -> None:
    while True:
        await asyncio.sleep(_GUARD_SECONDS)
        with contextlib.suppress(
            OSError, DatabaseUnavailable
        ):  # tried again in a second; whoever needs the server says so
            await asyncio.to_thread(server.revive)


async def _migrate(url: str) -> None:
    try:
        connection = await asyncpg.connect(url)
    except (OSError, asyncpg.PostgresError, ValueError) as error:
        raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}.") from error
    try:
        await migrate(connection)
    finally:
        await connection.close()
