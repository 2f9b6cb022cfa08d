"""Which servers are responsible for a domain (SMTP-4 to SMTP-7), looked up in bulk and shared through the database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property

from msgspec import Struct
from publicsuffixlist import PublicSuffixList

from posthouse.db import named_sql
from posthouse.db.pool import Pool
from posthouse.delivery.limits import LimitBook
from posthouse.delivery.relay import Relay
from posthouse.delivery.tls_policy import OPPORTUNISTIC, TlsPolicy
from posthouse.mail.replies import Failure
from posthouse.model.ports import Chance, DnsTrouble, MxHost, NoSuchDomain, Resolver, ValidatingResolver

_SQL = named_sql.load("posthouse.delivery")
_ROUTE_LIFE = timedelta(hours=1)
# How long a domain whose DNS did not answer is not asked for again.
_SILENCE_LIFE = timedelta(minutes=1)
_LOOKUPS_AT_ONCE = 64
# What a process remembers; a campaign to a million people has far fewer domains.
_REMEMBERED = 100_000
UNKNOWN_SITE = 0


class Route(Struct, frozen=True):
    """The way to a domain: its mail exchangers, and the site (mailbox provider) that they belong to.

    mx: of a domain that has none, the domain itself (RFC 5321 §5.1). policy: the encryption that its mail needs; mx_authentic: whether a
    validating name server vouched for the MX records, or for there being none.
    """

    site_id: int
    site: str
    mx: tuple[MxHost, ...]
    policy: TlsPolicy = OPPORTUNISTIC
    mx_authentic: bool = False

    def hosts(self, chance: Chance) -> list[str]:
        """Host names in order of preference, equals shuffled."""
        shuffled = list(self.mx)
        chance.shuffle(shuffled)
        return [mx.host for mx in sorted(shuffled, key=lambda mx: mx.preference)]


class _Mx(Struct, frozen=True):
    hosts: tuple[MxHost, ...]
    authentic: bool = False


class RouteBook:
    """Finds routes: from memory, from what another process found, from DNS. Failures stay in this process."""

    def __init__(
        self, pool: Pool, resolver: Resolver, limits: LimitBook, validating: ValidatingResolver | None = None
    ) -> None:
        """limits: names the sites of the providers that it knows. validating: the resolver as one that validates DNSSEC, where the name
        servers do."""
        self._pool = pool
        self._validating = validating
        self._resolver = resolver
        self.limits = limits
        self._relay_route: Route | None = None
        self._known: dict[str, tuple[Route | Failure, datetime]] = {}

    def knows(self, domain: str, now: datetime) -> bool:
        """Whether `find` would answer for this domain from memory."""
        known = self._known.get(domain)
        return known is not None and known[1] > now

    async def find(
        self, domains: Iterable[str], now: datetime, *, patience: float | None = None
    ) -> Mapping[str, Route | Failure]:
        """The route of each domain, or the failure that stands in its way.

        patience: seconds after which a look-up that is still under way counts as unanswered; None waits for all.
        """
        found: dict[str, Route | Failure] = {}
        missing: list[str] = []
        for domain in domains:
            known = self._known.get(domain)
            if known is not None and known[1] > now:
                found[domain] = known[0]
            else:
                missing.append(domain)
        if missing:
            await self._find_shared(missing, found, now, patience)
        return found

    async def relay_route(self, relay: Relay) -> Route:
        """The one way there is when a relay takes everything: a site of its own, without mail exchangers."""
        if self._relay_route is None:
            name = f"relay {relay.host}"
            await self._pool.execute(_SQL["make_sites"], [name])
            row = await self._pool.fetchrow(_SQL["site_ids"], [name])
            assert row is not None
            self._relay_route = Route(row["site_id"], name, ())
        return self._relay_route

    async def _find_shared(
        self, domains: Sequence[str], found: dict[str, Route | Failure], now: datetime, patience: float | None
    ) -> None:
        for row in await self._pool.fetch(_SQL["known_routes"], domains, now):
            mx = tuple(MxHost(p, h) for p, h in zip(row["mx_preferences"], row["mx_hosts"], strict=True))
            route = (
                Failure.NULL_MX
                if mx[0].host == "."
                else Route(row["site_id"], row["site"], mx, mx_authentic=row["mx_authentic"])
            )
            self._remember(row["domain"], route, now)
            found[row["domain"]] = route
        missing = [domain for domain in domains if domain not in found]
        if not missing:
            return
        gate = asyncio.Semaphore(_LOOKUPS_AT_ONCE)
        lookups = {domain: asyncio.create_task(self._look_up(domain, gate)) for domain in missing}
        _, late = await asyncio.wait(lookups.values(), timeout=patience)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        answers = {d: Failure.DNS_TEMPORARY if task in late else task.result() for d, task in lookups.items()}
        await self._keep(answers, found, now)

    async def _look_up(self, domain: str, gate: asyncio.Semaphore) -> _Mx | Failure:
        async with gate:
            try:
                if self._validating is not None:
                    answer = await self._validating.validated_mx(domain)
                    mx = _Mx(answer.records, answer.authentic)
                else:
                    mx = _Mx(tuple(await self._resolver.mx(domain)))
                if mx.hosts:
                    return mx
                # No MX at all: the domain's own address counts, with preference 0. An MX that is there but does not work never does.
                if not await self._resolver.addresses(domain):
                    return Failure.NO_ADDRESS
                return _Mx((MxHost(0, domain),), mx.authentic)
            except NoSuchDomain:
                return Failure.DNS_NXDOMAIN
            except DnsTrouble:
                return Failure.DNS_TEMPORARY

    async def _keep(
        self,
        answers: Mapping[str, _Mx | Failure],
        found: dict[str, Route | Failure],
        now: datetime,
    ) -> None:
        usable = {domain: mx for domain, mx in answers.items() if not isinstance(mx, Failure)}
        names = {domain: self._site_name(mx.hosts) for domain, mx in usable.items()}
        await self._pool.execute(_SQL["make_sites"], list(set(names.values())))
        numbers = {
            row["name"]: row["site_id"] for row in await self._pool.fetch(_SQL["site_ids"], list(set(names.values())))
        }
        for domain, answer in answers.items():
            if isinstance(answer, Failure):
                found[domain] = answer
                life = _SILENCE_LIFE if answer is Failure.DNS_TEMPORARY else _ROUTE_LIFE
                self._remember(domain, answer, now, life)
            elif answer.hosts[0].host == ".":
                found[domain] = Failure.NULL_MX
                self._remember(domain, Failure.NULL_MX, now)
            else:
                route = Route(numbers[names[domain]], names[domain], answer.hosts, mx_authentic=answer.authentic)
                found[domain] = route
                self._remember(domain, route, now)
        # In one order everywhere, so that two senders that learn the same domains cannot deadlock.
        kept = sorted(usable)
        await self._pool.execute(
            _SQL["keep_routes"],
            kept,
            [numbers[names[domain]] for domain in kept],
            [" ".join(mx.host for mx in usable[domain].hosts) for domain in kept],
            [" ".join(str(mx.preference) for mx in usable[domain].hosts) for domain in kept],
            now,
            now + _ROUTE_LIFE,
            [usable[domain].authentic for domain in kept],
        )

    def _remember(self, domain: str, route: Route | Failure, now: datetime, life: timedelta = _ROUTE_LIFE) -> None:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[domain] = (route, now + life)

    @cached_property
    def _suffixes(self) -> PublicSuffixList:
        return PublicSuffixList()  # takes a fifth of a second to read, and most commands never need it

    def _site_name(self, mx: Sequence[MxHost]) -> str:
        """The organisation behind the most preferred exchanger: all domains that Google hosts are one site (SHP-1)."""
        best = min(mx, key=lambda each: (each.preference, each.host)).host
        return self.limits.site_of(best) or self._suffixes.privatesuffix(best) or best
