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
import structlog

from posthouse.accounts import MasterKey, load_key, prove_key
from posthouse.clock import JumpingClock, SystemClock
from posthouse.data_directory import DataDirectory
from posthouse.db.migrate import migrate
from posthouse.db.pool import Pool, open_pool
from posthouse.db.server import EmbeddedServer
from posthouse.delivery import (
    DnsResolver,
    LimitBook,
    PolicyBook,
    PolicySettings,
    Relay,
    RouteBook,
    SiteLimits,
    TlsNeed,
    parse_relay,
)
from posthouse.mail.replies import Rules
from posthouse.mail.rule_files import Look, RuleFiles
from posthouse.mail.tokens import Tokens
from posthouse.model.errors import DatabaseUnavailable
from posthouse.model.ports import Chance, Clock, Resolver
from posthouse.model.retry import RetrySchedule
from posthouse.settings import Settings

_log = structlog.get_logger()
_GUARD_SECONDS = 1.0
_RULES_SECONDS = 1.0


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
    rule_files: RuleFiles
    schedule: RetrySchedule

    @property
    def rules(self) -> Rules:
        """What replies mean, as the rule files stand now: ask again for every reply."""
        return self.rule_files.rules

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
    rule_files = RuleFiles(directory.reply_rules)
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
        watching = asyncio.create_task(_watch_rules(rule_files))
        stack.callback(watching.cancel)
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
            routes=RouteBook(pool, resolver, load_limits(directory, settings), validating),
            tls=PolicyBook(pool, resolver, validating, _policy_settings(directory, settings, sandbox=sandbox), clock),
            relay=relay,
            chance=random.Random(),
            key=key,
            tokens=key.tokens(),
            rule_files=rule_files,
            schedule=RetrySchedule(
                first=delivery.first_retry_minutes * 60,
                longest=delivery.longest_retry_minutes * 60,
                life=delivery.life_hours * 3600,
            ),
        )


def load_limits(directory: DataDirectory, settings: Settings) -> LimitBook:
    """The shipped limits of mailbox providers and the operator's. Raises SettingWrong with file, line and reason."""
    own = [directory.site_limits] if directory.site_limits.exists() else []
    return LimitBook.load(
        SiteLimits(
            connections=settings.delivery.connections_per_site,
            messages_per_connection=settings.delivery.messages_per_connection,
            # A relay is no mailbox provider: it says by itself what it takes.
            per_second=None if settings.delivery.relay else settings.delivery.messages_per_second or None,
            tls_required=settings.delivery.require_tls,
        ),
        *own,
    )


async def _watch_rules(rule_files: RuleFiles) -> None:
    """Take changed rules over within two seconds or so; wrong ones are told once and change nothing."""
    while True:
        await asyncio.sleep(_RULES_SECONDS)
        look = rule_files.look()
        if look is Look.RELOADED:
            _log.info("reply rules were read again", rules=len(rule_files.rules.rules))
        elif look is Look.REFUSED:
            _log.error("reply rules are wrong; the old ones stay in force", reason=rule_files.trouble)


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
