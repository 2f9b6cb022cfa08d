"""The schema that the migrations build is the one that schema.txt describes.

After a new migration: `DESCRIBE_SCHEMA=1 python -m pytest tests/rooms/db/test_schema.py`, and read what changed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from posthouse.db.migrate import migrate, migration_files
from posthouse.db.pool import Pool, open_pool
from posthouse.db.server import EmbeddedServer
from posthouse.model.errors import DatabaseUnavailable

DESCRIPTION = Path(__file__).with_name("schema.txt")

COLUMNS = """
select c.relname as table, a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
       || case when a.attnotnull then ' not null' else '' end
       || case a.attidentity when '' then '' else ' identity' end
       || coalesce(case a.attgenerated when '' then ' default ' else ' generated ' end || pg_get_expr(d.adbin, d.adrelid), '')
       || coalesce('  -- ' || col_description(c.oid, a.attnum), '') as line
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
order by c.relname, a.attnum
"""
CONSTRAINTS = """
select c.relname as table, pg_get_constraintdef(k.oid) as line
from pg_constraint k join pg_class c on c.oid = k.conrelid
where c.relnamespace = 'public'::regnamespace and not c.relispartition and k.contype <> 'n'
order by c.relname, line
"""
INDEXES = """
select c.relname as table, regexp_replace(pg_get_indexdef(i.indexrelid), 'ON (ONLY )?public\\.', 'ON ') as line
from pg_index i join pg_class c on c.oid = i.indrelid
where c.relnamespace = 'public'::regnamespace and not c.relispartition and not i.indisprimary
  and not exists (select from pg_constraint k where k.conindid = i.indexrelid)
order by c.relname, line
"""
OTHERS = """
select 'enum ' || t.typname || ': ' || string_agg(e.enumlabel, ', ' order by e.enumsortorder) as line
from pg_type t join pg_enum e on e.enumtypid = t.oid group by t.typname
union all
select 'function ' || p.proname || '(' || pg_get_function_arguments(p.oid) || ') returns ' || pg_get_function_result(p.oid)
from pg_proc p where p.pronamespace = 'public'::regnamespace
union all
select 'sequence ' || relname from pg_class
where relnamespace = 'public'::regnamespace and relkind = 'S'
  and not exists (select from pg_depend d where d.objid = pg_class.oid and d.deptype in ('a', 'i'))
order by line
"""


async def description(connection: asyncpg.Connection[asyncpg.Record]) -> str:
    """Tables with their columns, constraints and indexes, then what stands by itself."""
    tables: dict[str, list[str]] = {}
    for statement in (COLUMNS, CONSTRAINTS, INDEXES):
        for row in await connection.fetch(statement):
            tables.setdefault(row["table"], []).append(f"    {row['line']}")
    lines = [f"{table}\n" + "\n".join(listed) + "\n" for table, listed in sorted(tables.items())]
    return "\n".join([*lines, *(row["line"] for row in await connection.fetch(OTHERS))]) + "\n"


@pytest.fixture
async def empty_url(server: EmbeddedServer) -> AsyncIterator[str]:
    """The address of a database without any table."""
    admin = await asyncpg.connect(server.url.replace("@/posthouse?", "@/postgres?"))
    await admin.execute("create database empty_one template template0 strategy file_copy")
    yield server.url.replace("@/posthouse?", "@/empty_one?")
    await admin.execute("drop database empty_one with (force)")
    await admin.close()


async def test_the_migrations_build_what_is_described(pool: Pool) -> None:
    async with pool.acquire() as connection:
        found = await description(connection)  # type: ignore[arg-type]
    if "DESCRIBE_SCHEMA" in os.environ:
        DESCRIPTION.write_text(found, encoding="utf-8")
    assert found == DESCRIPTION.read_text(encoding="utf-8")


async def test_processes_that_start_at_once_migrate_once(empty_url: str) -> None:
    connections = [await asyncpg.connect(empty_url) for _ in range(4)]
    done = await asyncio.gather(*(migrate(connection) for connection in connections))
    names = [name for name, _ in migration_files()]
    assert sorted(done, key=len)[:3] == [[], [], []]
    assert max(done, key=len) == names == sorted(names)
    assert [row["name"] for row in await connections[0].fetch("select name from migrations order by name")] == names
    for connection in connections:
        await connection.close()


async def test_a_migration_that_was_changed_afterwards_is_refused_and_the_lock_is_let_go(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("update migrations set sha256 = 'other' where name like '0001%'")
    for _ in range(2):
        with pytest.raises(
            DatabaseUnavailable, match=r"Migration 0001_\w+\.sql was changed after this database applied it"
        ):
            await migrate(connection)
    assert await connection.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0
    await connection.close()


async def test_what_is_missing_is_applied_and_nothing_else(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    assert await migrate(connection) == []
    await connection.execute("delete from migrations where name like '0002%'")
    await connection.execute("drop aggregate merge_fields(jsonb)")
    assert await migrate(connection) == ["0002_merge_fields.sql"]
    await connection.close()


@pytest.mark.parametrize("url", ["postgresql://nobody@/x?host=/nonexistent", "not a url", "postgresql://127.0.0.1:1/x"])
async def test_a_database_that_does_not_answer_is_one_sentence(url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="PostgreSQL does not answer: "):
        await open_pool(url)


async def test_jsonb_travels_as_plain_values(pool: Pool) -> None:
    value = {"a": [1, 2.5, None, True, "ä\u2028"], "b": {}}
    assert await pool.fetchval("select $1::jsonb", value) == value
    assert await pool.fetchval("select $1::jsonb ->> 'b'", value) == "{}"
