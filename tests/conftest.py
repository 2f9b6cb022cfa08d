"""The real engine for every test: one embedded PostgreSQL a session, one migrated database a test."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

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
