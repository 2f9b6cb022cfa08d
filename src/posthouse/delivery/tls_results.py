"""What came of TLS sessions, counted for the recipients' domains that want to know (RFC 8460): written in batches, by day."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool
from posthouse.delivery.tls_policy import Reported
from posthouse.mail.reports.tls_report import PolicyResults, ResultType, TlsFailures
from posthouse.model.ports import Clock

_SQL = named_sql.load("posthouse.delivery")
_FLUSH_SECONDS = 10.0
# More than this is written at once; a broken database must not fill the memory either, so what is beyond ten times as much is dropped.
_MOST_WAITING = 2_000

# Reports are due a day later; who sends them late still finds the counts.
_KEPT = timedelta(days=30)

# Day, domain, policy type; and then the mail exchanger and the result, "" for success.
_PolicyKey = tuple[date, str, str]
_Key = tuple[date, str, str, str, str]


class TlsResults:
    """Counts sessions in memory and adds them to the table every ten seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: Counter[_Key] = Counter()
        self._policies: dict[_PolicyKey, Reported] = {}
        self._flushed = time.monotonic()

    def note(self, reported: Reported, mx_host: str, result: ResultType | None) -> None:
        """One session with a mail exchanger. result: what failed; None where it was encrypted as the policy asks."""
        shown = result or reported.flaw
        day = self._clock.now().date()
        key = (day, reported.domain, reported.kind.value, mx_host, "" if shown is None else shown.value)
        if key in self._counts or len(self._counts) < 10 * _MOST_WAITING:
            self._counts[key] += 1
            self._policies[key[:3]] = reported

    async def flush(self, pool: Pool, *, at_once: bool = False) -> None:
        """Add what was counted to the table, when it is time. Raises what the database raises; the counts are then kept."""
        now = time.monotonic()
        is_time = at_once or now - self._flushed >= _FLUSH_SECONDS or len(self._counts) > _MOST_WAITING
        if not self._counts or not is_time:
            return
        self._flushed = now
        counts, self._counts = self._counts, Counter()
        policies, self._policies = self._policies, {}
        try:
            await self._write(pool, counts, policies)
        except BaseException:
            self._counts.update(counts)
            self._policies = {**policies, **self._policies}
            raise

    async def _write(self, pool: Pool, counts: Counter[_Key], policies: dict[_PolicyKey, Reported]) -> None:
        # In one order everywhere, so that two senders cannot deadlock.
        keys, told = sorted(counts), sorted(policies)
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(
                _SQL["keep_tls_policies"],
                [key[0] for key in told],
                [key[1] for key in told],
                [key[2] for key in told],
                ["\n".join(policies[key].lines) for key in told],
                ["\n".join(policies[key].mx) for key in told],
            )
            await connection.execute(
                _SQL["add_tls_results"],
                [key[0] for key in keys],
                [key[1] for key in keys],
                [key[2] for key in keys],
                [key[3] for key in keys],
                [key[4] for key in keys],
                [counts[key] for key in keys],
            )
            await connection.execute(_SQL["forget_tls_policies"], self._clock.now().date() - _KEPT)


async def results_of_day(connection: Connection | Pool, day: date, domain: str) -> Sequence[PolicyResults]:
    """What came of a day's sessions with a domain, one entry for each kind of policy, for its report."""
    rows = await connection.fetch(_SQL["tls_results_of_day"], day, domain)
    by_kind: dict[str, list[Any]] = {}
    for row in rows:
        by_kind.setdefault(row["policy_type"], []).append(row)
    return [
        PolicyResults(
            kind,
            domain,
            tuple(own[0]["policy"]),
            tuple(own[0]["mx"]),
            sum(row["sessions"] for row in own if not row["result"]),
            sum(row["sessions"] for row in own if row["result"]),
            tuple(TlsFailures(row["result"], row["mx_host"], row["sessions"]) for row in own if row["result"]),
        )
        for kind, own in by_kind.items()
    ]
