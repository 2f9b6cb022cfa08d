"""Importing: a file is staged row by row, its doubles joined, and merged into contacts chunk by chunk.

Every chunk is a short transaction; a row that says nothing new touches nothing. So an import that was killed is finished by importing
the file again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import asyncpg
from msgspec import Struct

from posthouse.audience.staging import ImportProgress, Staging
from posthouse.audience.table import open_table
from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool
from posthouse.model.errors import ImportWrong

_SQL = named_sql.load("posthouse.audience")
# Doubles are looked for in the whole file: the pool's limit is for shorter statements.
_WHOLE_FILE_SECONDS = 86_400.0
# Rows a transaction merges.
_CHUNK = 40_000
# Connections that stage and merge at the same time.
_STREAMS = 2
# Another import may add the same address at the same moment: the chunk is then merged again, and finds it.
_TRIES = 20


class ImportReport(Struct, frozen=True):
    """What an import did; rows is the sum of the others.

    merged: rows of an address that another row of the file had as well.
    """

    rows: int
    added: int
    updated: int
    unchanged: int
    merged: int
    rejected: int


async def import_contacts(
    pool: Pool,
    *,
    workspace_id: int,
    list_id: int,
    path: Path,
    mapping: Mapping[str, str],
    basis: str | None,
    source: str,
    at: datetime,
    rejects: Path | None,
    progress: Callable[[ImportProgress], None],
) -> ImportReport:
    """Import a file into a list. mapping: column → field; rejects: where invalid rows go, with the reasons.

    A later row wins for every field that it fills. Nobody who left is resubscribed, and consent on record stays as it is (answers 24).
    Raises ImportWrong when the file cannot be understood.
    """
    table = open_table(path, dict(mapping))
    if rejects is not None:
        _clear(rejects, path)
    import_id = await pool.fetchval(_SQL["begin_import"], workspace_id, list_id, path.name, at)
    into = _Into(workspace_id, list_id, basis, source, at)
    with Staging(table, rejects, streams=min(_STREAMS, pool.get_max_size())) as staging:
        totals = await _run_streams(pool, staging, into, progress)
    added, updated, kept, merged = (sum(parts) for parts in zip(*totals, strict=True))
    report = ImportReport(staging.rows, added, updated, kept - added - updated, merged, staging.rejected)
    await pool.execute(
        _SQL["end_import"],
        workspace_id,
        import_id,
        at,
        report.rows,
        report.added,
        report.updated,
        report.unchanged + report.merged,
        report.rejected,
    )
    return report


def _clear(rejects: Path, path: Path) -> None:
    """Let no rejects of an earlier run pass for those of this one."""
    try:
        if rejects.exists() and rejects.samefile(path):
            raise ImportWrong(f"The reject file {rejects} is the file to import: name another one.")
        rejects.unlink(missing_ok=True)
    except OSError as error:
        raise ImportWrong(f"The reject file {rejects} cannot be written: {error.strerror}.") from error


class _Into(Struct, frozen=True):
    """Where the rows go, and what is put on record with them."""

    workspace_id: int
    list_id: int
    basis: str | None
    source: str
    at: datetime


async def _run_streams(
    pool: Pool, staging: Staging, into: _Into, progress: Callable[[ImportProgress], None]
) -> list[tuple[int, int, int, int]]:
    """Read the file and run all streams beside it; when one of them fails, all have ended before its error goes on."""
    reading = asyncio.create_task(staging.read(progress))
    streams = [
        asyncio.create_task(_stage_and_merge(pool, staging, stream, reading, into)) for stream in range(staging.streams)
    ]
    try:
        # The reader comes first: when it fails, its error is the one that says why.
        await asyncio.gather(reading, *streams)
    except BaseException:
        for task in (reading, *streams):
            task.cancel()
        await asyncio.gather(reading, *streams, return_exceptions=True)
        raise
    return [stream.result() for stream in streams]


async def _stage_and_merge(
    pool: Pool, staging: Staging, stream: int, reading: asyncio.Task[None], into: _Into
) -> tuple[int, int, int, int]:
    """Take one stream of rows from staging to contacts; returns (added, updated, kept, joined into others)."""
    async with pool.acquire() as connection:
        await connection.execute(_SQL["drop_staging"])
        await connection.execute(_SQL["make_staging"])
        try:
            while not staging.ended[stream]:
                source = staging.batches(stream)
                await connection.copy_to_table("staged", source=source, format="text", encoding="utf-8")
            await asyncio.shield(reading)  # a file that breaks off in the middle changes nothing
            if staging.unusual:
                await connection.execute(_SQL["set_address_keys"], timeout=_WHOLE_FILE_SECONDS)
            merged = await _join_doubles(connection)
            added, updated, kept = await _merge(connection, into, staging.last_row)
        finally:
            # A connection that is gone has taken its temporary tables with it; the error that ended it is on its way.
            with contextlib.suppress(asyncpg.InterfaceError, asyncpg.PostgresConnectionError):
                await connection.execute(_SQL["drop_staging"])
    return added, updated, kept, merged


async def _join_doubles(connection: Connection) -> int:
    await connection.execute(_SQL["find_doubles"], timeout=_WHOLE_FILE_SECONDS)
    await connection.execute(_SQL["merge_doubles"], timeout=_WHOLE_FILE_SECONDS)
    merged = await connection.fetchval(_SQL["count_joined"], timeout=_WHOLE_FILE_SECONDS) or 0
    if merged:
        await connection.execute(_SQL["remove_doubles"], timeout=_WHOLE_FILE_SECONDS)
        await connection.execute(_SQL["return_joined"], timeout=_WHOLE_FILE_SECONDS)
    await connection.execute(_SQL["index_staging"], timeout=_WHOLE_FILE_SECONDS)
    await connection.execute(_SQL["analyze_staging"], timeout=_WHOLE_FILE_SECONDS)
    return int(merged)


async def _merge(connection: Connection, into: _Into, last_row: int) -> tuple[int, int, int]:
    """(added, updated, all) of the staged rows, merged chunk by chunk."""
    added = updated = kept = 0
    for after in range(0, last_row, _CHUNK):
        row = await _merge_chunk(connection, into, after)
        added += row["added"]
        updated += row["updated"]
        kept += row["rows"]
    return added, updated, kept


async def _merge_chunk(connection: Connection, into: _Into, after: int) -> asyncpg.Record:
    for left in reversed(range(_TRIES)):
        try:
            async with connection.transaction():
                await connection.execute(_SQL["plan_each_chunk"])
                row = await connection.fetchrow(
                    _SQL["merge_chunk"],
                    into.workspace_id,
                    into.list_id,
                    into.at,
                    into.basis,
                    after,
                    after + _CHUNK,
                    into.source,
                )
        except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError):
            if not left:
                raise
        else:
            assert row is not None
            return row
    raise AssertionError("the last try returns or raises")
