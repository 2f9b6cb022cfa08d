"""Imports that cannot go on: nothing is half done, nothing keeps running, and the next one works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from posthouse import audience
from posthouse.audience import ImportProgress, ImportReport
from posthouse.db.pool import Pool, open_pool

AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
ROWS = 60_000


class Stopped(Exception):
    """The one who watches the import stops it."""


async def load(pool: Pool, path: Path, progress: Callable[[ImportProgress], None]) -> ImportReport:
    """Import a file into the list “News”."""
    async with pool.acquire() as connection:
        news = await audience.ensure_list(connection, 1, "News", AT)
    return await audience.import_contacts(
        pool,
        workspace_id=1,
        list_id=news.list_id,
        path=path,
        mapping={},
        basis="form",
        source="test",
        at=AT,
        rejects=None,
        progress=progress,
    )


def people(path: Path) -> Path:
    """A file of many."""
    path.write_text("email\n" + "".join(f"p{n}@example.org\n" for n in range(ROWS)), encoding="utf-8")
    return path


async def test_an_import_that_is_stopped_leaves_no_task_and_no_contact_behind(pool: Pool, tmp_path: Path) -> None:
    path = people(tmp_path / "p.csv")
    seen: list[int] = []

    def stop_at_40_000(so_far: ImportProgress) -> None:
        seen.append(so_far.rows)
        if so_far.rows > 40_000:
            raise Stopped

    others = asyncio.all_tasks()
    with pytest.raises(Stopped):
        await load(pool, path, stop_at_40_000)
    assert not [task for task in asyncio.all_tasks() - others if "posthouse" in repr(task)]
    assert await pool.fetchval("select count(*) from contacts") == 0
    seen.clear()
    report = await load(pool, path, lambda so_far: seen.append(so_far.rows))
    assert report.added == ROWS
    assert seen[-1] == ROWS


async def test_a_pool_of_one_connection_is_enough(database_url: str, tmp_path: Path) -> None:
    pool = await open_pool(database_url, size=1)
    report = await asyncio.wait_for(load(pool, people(tmp_path / "p.csv"), lambda _: None), 60)
    assert report.added == ROWS
    await pool.close()


async def test_two_imports_of_the_same_people_at_once_add_each_of_them_once(pool: Pool, tmp_path: Path) -> None:
    path = people(tmp_path / "p.csv")
    async with pool.acquire() as connection:
        await audience.ensure_list(connection, 1, "News", AT)
    reports = await asyncio.gather(*(load(pool, path, lambda _: None) for _ in range(2)))
    assert sum(report.added for report in reports) == ROWS
    assert await pool.fetchval("select count(*) from contacts") == ROWS
    assert await pool.fetchval("select count(*) from memberships") == ROWS


async def test_columns_of_one_name_lose_none_of_their_values(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("email,name,name,name_2\nann@example.org,1,2,3\n", encoding="utf-8")
    await load(pool, path, lambda _: None)
    assert await pool.fetchval("select fields from contacts") == {"name": "1", "name_3": "2", "name_2": "3"}
