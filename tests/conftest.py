"""The real engine for every test: one embedded PostgreSQL a session, one migrated database a test."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from posthouse import audience, campaigns, ledger, queue
from posthouse.campaigns import Campaign, NewCampaign
from posthouse.db.migrate import migrate
from posthouse.db.pool import Pool, open_pool
from posthouse.db.server import EmbeddedServer

CORPORA = Path(__file__).parent.parent.parent / "shared" / "corpora"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real bounces, reports and vectors beside the project."""
    if not CORPORA.is_dir():
        pytest.skip("the corpora are not beside this checkout")
    return CORPORA


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """A real PostgreSQL for the whole session, with one migrated database to copy."""
    with tempfile.TemporaryDirectory(prefix="posthouse-test-") as directory:
        Path(directory).chmod(0o755)
        with EmbeddedServer(Path(directory)) as embedded:

            async def make_template() -> None:
                connection = await asyncpg.connect(embedded.url)
                await migrate(connection)
                await connection.close()

            asyncio.run(make_template())
            yield embedded


@pytest.fixture
async def database_url(server: EmbeddedServer) -> AsyncIterator[str]:
    """The address of a fresh migrated database."""
    name = f"test_{next(_numbers)}"
    admin_url = server.url.replace("@/posthouse?", "@/postgres?")
    admin = await asyncpg.connect(admin_url)
    await admin.execute(f"create database {name} template posthouse strategy file_copy")
    yield server.url.replace("@/posthouse?", f"@/{name}?")
    await admin.execute(f"drop database {name} with (force)")
    await admin.close()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """A pool on a fresh migrated database."""
    opened = await open_pool(database_url)
    yield opened
    await opened.close()


class World:
    """People, lists, campaigns and queues in a fresh database, at a fixed moment."""

    AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._lists = itertools.count(1)

    async def people(self, emails: Sequence[str], *, workspace: int = 1) -> audience.List:
        """A new list with these people on it."""
        async with self.pool.acquire() as connection:
            made = await audience.ensure_list(connection, workspace, f"List {next(self._lists)}", self.AT)
        await self.pool.execute(
            "insert into contacts (workspace_id, email, fields, created_at, updated_at) "
            "select $1, email, jsonb_build_object('first_name', 'Person ' || n), $3, $3 "
            "from unnest($2::text[]) with ordinality as e (email, n) on conflict do nothing",
            workspace,
            list(emails),
            self.AT,
        )
        await self.pool.execute(
            "insert into memberships (workspace_id, list_id, contact_id, status, since) "
            "select $1, $2, contact_id, 'subscribed', $4 from contacts where workspace_id = $1 and email = any($3::text[])",
            workspace,
            made.list_id,
            list(emails),
            self.AT,
        )
        return made

    async def campaign(self, to: audience.List, name: str = "News", *, workspace: int = 1) -> Campaign:
        """A campaign to a list, not launched yet."""
        new = NewCampaign(workspace, name, to.list_id, "news@sender.test", "Hello", b"", {}, ("https://a.example/",))
        campaign_id = await campaigns.create_campaign(self.pool, new, self.AT)
        return await campaigns.find_campaign(self.pool, str(campaign_id))

    async def launched(self, campaign: Campaign, *, due: datetime | None = None, site_id: int | None = 0) -> int:
        """Queue a whole campaign at once; returns how many messages that made."""
        async with self.pool.acquire() as connection, connection.transaction():
            first, last = await queue.next_message_ids(connection, 1000)
            await ledger.make_room(connection, first, last)
            queued = await queue.put_chunk(
                connection,
                workspace_id=campaign.workspace_id,
                campaign_id=campaign.campaign_id,
                list_id=campaign.list_id,
                after=0,
                until=campaign.launch_until,
                due=due or self.AT,
                lane_pool="default",
                priority=5,
                site_id=site_id,
            )
            await campaigns.move_launch(connection, campaign, campaign.launch_until, queued)
            await campaigns.mark_launched(connection, campaign, self.AT)
        return queued

    async def queued(self, emails: Sequence[str], name: str = "News", *, workspace: int = 1) -> Campaign:
        """A campaign to these people, all queued in one lane."""
        campaign = await self.campaign(await self.people(emails, workspace=workspace), name, workspace=workspace)
        await self.launched(campaign)
        return await campaigns.find_campaign(self.pool, str(campaign.campaign_id))


@pytest.fixture
def make_world() -> type[World]:
    """People and campaigns for a pool of the test's own."""
    return World


@pytest.fixture
def world(pool: Pool) -> World:
    """People and campaigns to put into the fresh database."""
    return World(pool)
