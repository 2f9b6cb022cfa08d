"""MTA-STS policies of recipient domains: found by DNS and HTTPS, kept until they end, shared through the database (STS-1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from posthouse.db import named_sql
from posthouse.db.pool import Pool
from posthouse.delivery.policy_fetch import PolicyFetcher
from posthouse.mail.mta_sts import StsMode, StsPolicy, policy_id
from posthouse.mail.reports.tls_report import ResultType
from posthouse.model.ports import DnsTrouble, NoSuchDomain, Resolver

_SQL = named_sql.load("posthouse.delivery")
# A policy whose id has not changed is fetched anew after this, so that it does not end while the domain still has it (RFC 8461 §10.2).
_REFRESH = timedelta(days=1)
# A web server that fails is left alone for this long (RFC 8461 §3.3).
_FAILED_REFRESH = timedelta(minutes=5)


class KeptPolicy(Struct, frozen=True):
    """A policy as it is kept. expires_at: fetched_at and its max_age."""

    domain: str
    policy_id: str
    policy: StsPolicy
    fetched_at: datetime
    expires_at: datetime


class StsFound(Struct, frozen=True):
    """What is in force: the policy, if any; what was wrong with the newest try to learn it; whether it must be written down."""

    kept: KeptPolicy | None = None
    flaw: ResultType | None = None
    is_new: bool = False


class StsBook:
    """Finds the MTA-STS policy of a domain."""

    def __init__(self, pool: Pool, resolver: Resolver, fetcher: PolicyFetcher) -> None:
        self._pool = pool
        self._resolver = resolver
        self._fetcher = fetcher
        self._failed: dict[tuple[str, str], tuple[ResultType, datetime]] = {}

    async def kept(self, domains: Iterable[str], now: datetime) -> dict[str, KeptPolicy]:
        """The policies of these domains that were fetched once and have not ended."""
        rows = await self._pool.fetch(_SQL["kept_sts_policies"], list(domains), now)
        return {
            row["domain"]: KeptPolicy(
                row["domain"],
                row["policy_id"],
                StsPolicy(StsMode(row["mode"]), tuple(row["mx"]), row["max_age"]),
                row["fetched_at"],
                row["expires_at"],
            )
            for row in rows
        }

    async def find(self, domain: str, kept: KeptPolicy | None, now: datetime) -> StsFound:
        """The policy in force. Whatever fails, one that was kept stays in force until it ends (RFC 8461 §3.1, §5.1)."""
        try:
            announced = policy_id(await self._resolver.txt(f"_mta-sts.{domain}"))
        except (NoSuchDomain, DnsTrouble):
            announced = None
        if announced is None:
            return StsFound(kept)
        if kept is not None and kept.policy_id == announced and now < kept.fetched_at + _REFRESH:
            return StsFound(kept)
        failed = self._failed.get((domain, announced))
        if failed is not None and now < failed[1]:
            return StsFound(kept, failed[0])
        fetched = await self._fetcher.fetch(domain)
        if isinstance(fetched, ResultType):
            self._failed = {key: each for key, each in self._failed.items() if each[1] > now}
            self._failed[domain, announced] = fetched, now + _FAILED_REFRESH
            return StsFound(kept, fetched)
        ends = now + timedelta(seconds=fetched.max_age)
        return StsFound(KeptPolicy(domain, announced, fetched, now, ends), is_new=True)

    async def keep(self, policies: Sequence[KeptPolicy]) -> None:
        """Write fetched policies down for all senders, in one order everywhere, so that two senders cannot deadlock."""
        ordered = sorted(policies, key=lambda each: each.domain)
        await self._pool.execute(
            _SQL["keep_sts_policies"],
            [each.domain for each in ordered],
            [each.policy_id for each in ordered],
            [each.policy.mode.value for each in ordered],
            [" ".join(each.policy.mx) for each in ordered],
            [each.policy.max_age for each in ordered],
            [each.fetched_at for each in ordered],
            [each.expires_at for each in ordered],
        )


def in_force(found: StsFound) -> StsPolicy | None:
    """The policy that counts; a domain that says “none” has none (RFC 8461 §3.2)."""
    kept = found.kept
    return None if kept is None or kept.policy.mode is StsMode.NONE else kept.policy
