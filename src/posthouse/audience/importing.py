"""Importing: a file is staged row by row, its doubles joined, and merged into contacts chunk by chunk.

Every chunk is a short transaction; a row that says nothing new touches nothing. So an import that was killed is finished by importing
the file again.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import asyncpg
import msgspec
from msgspec import Struct

from posthouse.audience.delimited import BrokenRow
from posthouse.audience.encoding import DAMAGE
from posthouse.audience.table import Table, open_table
from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool
from posthouse.mail.address import parse_address
from posthouse.model.errors import AddressWrong, ImportWrong

_SQL = named_sql.load("posthouse.audience")
_encode = msgspec.json.Encoder().encode
# COPY lasts as long as the file is read, and doubles are looked for in all of it: the pool's limit is for shorter statements.
_WHOLE_FILE_SECONDS = 86_400.0
# Rows a transaction merges, and rows that are handed to COPY at once.
_CHUNK = 40_000
_BATCH = 1_000
_BATCHES_WAITING = 8
# Connections that stage and merge at the same time.
_STREAMS = 2
# Batches of one COPY. It must end well within the pool's time limit, by which alone a COPY notices a lost connection.
_BATCHES_A_COPY = 40
_LONGEST_VALUE = 4_096
_SHOWN = 80
# A spreadsheet that opens the reject file must not run what a stranger wrote in a cell.
_FORMULA_SIGNS = ("=", "+", "-", "@")
# Another import may add the same address at the same moment: the chunk is then merged again, and finds it.
_TRIES = 20
# The plain addresses that nearly every row has; anything else takes the thorough way.
_PLAIN = re.compile(
    r"([A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*)@((?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,63})\Z"
)


class ImportProgress(Struct, frozen=True):
    """How far an import is: rows read."""

    rows: int


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
    with _Staging(table, rejects, streams=min(_STREAMS, pool.get_max_size())) as staging:
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
    pool: Pool, staging: _Staging, into: _Into, progress: Callable[[ImportProgress], None]
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
    pool: Pool, staging: _Staging, stream: int, reading: asyncio.Task[None], into: _Into
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


class _Staging:
    """Turns rows into lines for COPY, and writes the invalid ones to the reject file.

    Rows of one address go to one stream, so each stream can join its doubles and merge on a connection of its own.
    """

    def __init__(self, table: Table, rejects: Path | None, streams: int) -> None:
        self.streams = streams
        self.ended = [False] * streams
        self.rows = 0
        self.rejected = 0
        self.last_row = 0
        self.unusual = False
        self._table = table
        self._queues: list[asyncio.Queue[bytes | None]] = [asyncio.Queue(_BATCHES_WAITING) for _ in range(streams)]
        self._rejects_path = rejects
        self._rejects: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rejects is not None:
            self._rejects.close()

    async def read(self, progress: Callable[[ImportProgress], None]) -> None:
        """Read the file to its end; waits while the database is behind."""
        batches: list[list[bytes]] = [[] for _ in self._queues]
        for stream, line in self._lines():
            batch = batches[stream]
            batch.append(line)
            if len(batch) == _BATCH:
                await self._queues[stream].put(b"".join(batch))
                batch.clear()
                progress(ImportProgress(self.rows))
        for queue, batch in zip(self._queues, batches, strict=True):
            await queue.put(b"".join(batch))
            await queue.put(None)
        progress(ImportProgress(self.rows))

    async def batches(self, stream: int) -> AsyncIterator[bytes]:
        """The lines of one stream for one COPY, some thousand at a time."""
        for _ in range(_BATCHES_A_COPY):
            batch = await self._queues[stream].get()
            if batch is None:
                self.ended[stream] = True
                return
            yield batch

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        columns = self._table.columns
        email_position, fields, says_no = columns.email, columns.fields, columns.says_no
        has_consent = bool(columns.consent or columns.departure)
        width = len(columns.names)
        plain = _PLAIN.match
        for number, row in self._table.rows:
            if isinstance(row, BrokenRow):
                self.rows += 1
                self._reject(number, 0, row.text, row.reason)
                continue
            if len(row) < width:
                row += [""] * (width - len(row))
            elif len(row) > width and any(row[width:]):
                self.rows += 1
                self._reject(
                    number,
                    width - 1,
                    row[width],
                    f"The row has {len(row)} cells for {width} columns; is a quote missing?",
                )
                continue
            text = row[email_position].strip()
            if not text and not any(cell.strip() for cell in row):
                continue
            self.rows += 1
            match = plain(text)
            if match is not None and len(match[1]) <= 64 and len(text) <= 254 and "xn--" not in text:
                email = f"{match[1]}@{match[2].lower()}"
            else:
                if DAMAGE in text:
                    self._reject(number, email_position, text, self._damaged())
                    continue
                try:
                    email = parse_address(text).text
                except AddressWrong as error:
                    self._reject(number, email_position, text, str(error) if text else "The row has no email address.")
                    continue
            values = {name: value for name, position in fields if (value := row[position].strip())}
            try:
                encoded = _encode(values)
            except UnicodeEncodeError:
                self._reject(number, email_position, text, self._damaged())
                continue
            if len(encoded) > _LONGEST_VALUE and (long := self._too_long(row, fields)) is not None:
                self._reject(number, long, row[long], f"The value is longer than {_LONGEST_VALUE} characters.")
                continue
            if b"\\u0000" in encoded and any("\0" in value for value in values.values()):
                self._reject(number, email_position, text, "The row has NUL characters.")
                continue
            if b"\\" in encoded:
                encoded = encoded.replace(b"\\", b"\\\\")
            key = (email.lower() if email.isascii() else self._unusual_key(email)).encode()
            self.last_row = number
            yield (
                zlib.crc32(key) % self.streams,
                b"%d\t%b\t%b\t%b\t%b\n"
                % (number, key, email.encode(), encoded, b"t" if has_consent and says_no(row) else b"f"),
            )

    def _damaged(self) -> str:
        return f"The row has bytes that are not {self._table.encoding} text."

    def _unusual_key(self, email: str) -> str:
        """Lower case sign by sign, as PostgreSQL has it: both spellings of one address must meet in one stream."""
        self.unusual = True
        return "".join(sign.lower()[0] for sign in email)

    @staticmethod
    def _too_long(row: list[str], fields: tuple[tuple[str, int], ...]) -> int | None:
        return next((position for _, position in fields if len(row[position]) > _LONGEST_VALUE), None)

    def _reject(self, number: int, position: int, value: str, reason: str) -> None:
        self.rejected += 1
        if self._rejects_path is None:
            return
        if value.startswith(_FORMULA_SIGNS):
            value = f"'{value}"
        if self._rejects is None:
            try:
                self._rejects = self._rejects_path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            except OSError as error:
                raise ImportWrong(
                    f"The reject file {self._rejects_path} cannot be written: {error.strerror}."
                ) from error
            csv.writer(self._rejects).writerow(("row", "column", "value", "reason"))
        shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
        csv.writer(self._rejects).writerow((number, self._table.columns.names[position], shown, reason))
