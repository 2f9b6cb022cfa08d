"""The last look before MAIL: suppressions that were written after a copy was claimed."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from posthouse.db import named_sql
from posthouse.db.pool import Pool

_SQL = named_sql.load("posthouse.reputation")
# A transaction may commit a while after the moment that it wrote as `at`.
_OVERLAP = timedelta(seconds=60)


class RecentSuppressions:
    """A small set in memory, refreshed on NOTIFY and by polling, since a NOTIFY is lost when the connection breaks (answers 14)."""

    def __init__(self, remember_seconds: float) -> None:
        """remember_seconds: how long a claimed copy may wait in this process; later claims see the suppression themselves."""
        self._remember_seconds = remember_seconds
        self._causes: dict[tuple[int, str, int], tuple[str, float]] = {}
        self._since: datetime | None = None

    async def refresh(self, pool: Pool, now: datetime) -> None:
        """Read what was written since the last time, and forget what no waiting copy can have missed."""
        seen = time.monotonic()
        since = (self._since or now) - _OVERLAP
        for row in await pool.fetch(_SQL["recent"], since):
            self._causes[(row["workspace_id"], row["address_key"], row["list_id"])] = (row["cause"], seen)
        forgotten = [key for key, (_, at) in self._causes.items() if seen - at > self._remember_seconds]
        for key in forgotten:
            del self._causes[key]
        self._since = now

    def cause(self, workspace_id: int, email: str, list_id: int) -> str | None:
        """Why this address must not be written to, if that became known lately."""
        if not self._causes:
            return None
        key = email.lower()
        found = self._causes.get((workspace_id, key, 0)) or self._causes.get((workspace_id, key, list_id))
        return None if found is None else found[0]
