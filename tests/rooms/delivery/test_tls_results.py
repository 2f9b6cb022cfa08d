"""Sessions counted for TLS reports (RFC 8460): by day, in batches, by several senders at once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from posthouse.db.pool import Pool, open_pool
from posthouse.delivery import results_of_day
from posthouse.delivery.tls_policy import Reported
from posthouse.delivery.tls_results import TlsResults
from posthouse.mail.reports.tls_report import PolicyResults, PolicyType, ResultType, TlsFailures

AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
DAY = AT.date()


class FixedClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.at = AT

    def now(self) -> datetime:
        return self.at

    def now_us(self) -> int:
        return int(self.at.timestamp() * 1_000_000)


async def test_sessions_are_counted_by_day_and_written_in_batches(pool: Pool) -> None:
    clock = FixedClock()
    results = TlsResults(clock)
    sts, none = (
        Reported("a.test", PolicyType.STS, ("mode: enforce",), ("*.a.test",)),
        Reported("a.test", PolicyType.NONE),
    )
    for told, host, result in [
        (none, "mx1", None),
        (sts, "mx1", None),
        (sts, "mx2", None),
        (sts, "mx2", ResultType.EXPIRED),
        (sts, "mx2", ResultType.EXPIRED),
        (sts, "mx1", ResultType.HOST_MISMATCH),
    ]:
        results.note(told, host, result)
    await results.flush(pool)
    assert await results_of_day(pool, DAY, "a.test") == [], "not every second"
    await results.flush(pool, at_once=True)
    results.note(sts, "mx1", None)
    clock.at += timedelta(days=1)
    results.note(sts, "mx1", None)
    await results.flush(pool, at_once=True)
    await results.flush(pool, at_once=True)
    assert await results_of_day(pool, DAY, "a.test") == [
        PolicyResults("no-policy-found", "a.test", (), (), 1, 0),
        PolicyResults(
            "sts",
            "a.test",
            ("mode: enforce",),
            ("*.a.test",),
            3,
            3,
            (TlsFailures("certificate-expired", "mx2", 2), TlsFailures("certificate-host-mismatch", "mx1", 1)),
        ),
    ]
    assert [each.successful for each in await results_of_day(pool, DAY + timedelta(days=1), "a.test")] == [1]
    assert await results_of_day(pool, DAY, "b.test") == []


async def test_counts_outlive_a_database_that_does_not_answer(pool: Pool, database_url: str) -> None:
    results = TlsResults(FixedClock())
    results.note(Reported("a.test", PolicyType.NONE), "mx1", None)
    closed = await open_pool(database_url)
    await closed.close()
    with pytest.raises(Exception, match="closed"):
        await results.flush(closed, at_once=True)
    results.note(Reported("a.test", PolicyType.NONE), "mx1", None)
    await results.flush(pool, at_once=True)
    assert [each.successful for each in await results_of_day(pool, DAY, "a.test")] == [2]


async def test_two_senders_add_up(pool: Pool) -> None:
    senders = [TlsResults(FixedClock()) for _ in range(4)]
    for sender in senders:
        for number in range(50):
            sender.note(Reported(f"{number}.test", PolicyType.NONE), "mx1", None)
    await asyncio.gather(*(sender.flush(pool, at_once=True) for sender in senders))
    assert [each.successful for each in await results_of_day(pool, DAY, "7.test")] == [4]


async def test_old_days_are_forgotten(pool: Pool) -> None:
    clock = FixedClock()
    results = TlsResults(clock)
    results.note(Reported("a.test", PolicyType.NONE), "mx1", None)
    await results.flush(pool, at_once=True)
    clock.at += timedelta(days=30)
    for kept in (True, False):
        results.note(Reported("a.test", PolicyType.NONE), "mx1", None)
        await results.flush(pool, at_once=True)
        assert bool(await results_of_day(pool, DAY, "a.test")) is kept
        clock.at += timedelta(days=1)
    assert await pool.fetchval("select count(*) from tls_results where day = $1", DAY) == 0
