"""Importing against the plainest way to put the same rows in: COPY into a logged table with the same indexes (answers 39)."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.import_queries import SQL
from posthouse import audience
from posthouse.audience.sample import write_sample
from posthouse.clock import SystemClock
from posthouse.db.migrate import migrate
from posthouse.db.pool import Pool, open_pool
from posthouse.db.server import EmbeddedServer


async def measure(rows: int, directory: Path) -> dict[str, Any]:
    """Import `rows` sample rows, then COPY the contacts that came of it; rates in rows per second, their ratio, peak memory in MB."""
    sample = directory / "contacts.csv"
    facts = write_sample(sample, rows, seed=3)
    with EmbeddedServer(directory) as server:
        pool = await open_pool(server.url, size=4)
        async with pool.acquire() as connection:
            await migrate(connection)
            chosen = await audience.ensure_list(connection, 1, "Bench", SystemClock().now())
        began = time.perf_counter()
        report = await audience.import_contacts(
            pool,
            workspace_id=1,
            list_id=chosen.list_id,
            path=sample,
            mapping={},
            basis="bench",
            source="bench",
            at=SystemClock().now(),
            rejects=None,
            progress=lambda _: None,
        )
        import_seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        copy_seconds, copied = await _copy(pool, directory)
        await pool.close()
    assert (report.added, report.rejected) == (facts.addresses, facts.rejects)
    import_rate, copy_rate = facts.rows / import_seconds, copied / copy_seconds
    return {
        "rows": facts.rows,
        "import_rows_per_second": round(import_rate),
        "copy_rows_per_second": round(copy_rate),
        "ratio": round(import_rate / copy_rate, 3),
        "peak_megabytes": peak,
    }


async def _copy(pool: Pool, directory: Path) -> tuple[float, int]:
    """Seconds and rows of a COPY from a file into a table like contacts, with its two unique indexes."""
    file = directory / "contacts.copy"
    async with pool.acquire() as connection:
        await connection.copy_from_query(SQL["contacts_as_copied"], output=str(file))
        await connection.execute(SQL["make_plain"])
        began = time.perf_counter()
        status = await connection.copy_to_table(
            "plain_contacts",
            source=str(file),
            columns=["workspace_id", "contact_id", "email", "fields", "created_at", "updated_at"],
        )
        return time.perf_counter() - began, int(status.rsplit(" ", 1)[1])


if __name__ == "__main__":
    import asyncio
    import json
    import sys

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        print(json.dumps(asyncio.run(measure(int(sys.argv[1]), Path(folder)))))
