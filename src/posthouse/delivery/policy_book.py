"""The policy book: which encryption each recipient domain's mail needs, and which of its mail exchangers may have it.

In order: the operator's rule for the domain; DANE for exchangers with signed TLSA records (DANE-1); MTA-STS (STS-1); else the default.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from msgspec import Struct, structs

from posthouse.db.pool import Pool
from posthouse.delivery.dane import DANE_TA, TlsaBook, TlsaFound
from posthouse.delivery.mta_sts import KeptPolicy, StsBook, StsFound, in_force
from posthouse.delivery.policy_fetch import PolicyFetcher
from posthouse.delivery.route import Route
from posthouse.delivery.tls_policy import HostTlsa, Reported, TlsNeed, TlsPolicy, result_of
from posthouse.delivery.tls_results import TlsResults
from posthouse.delivery.tls_rules import TlsRule, TlsRules
from posthouse.mail.mta_sts import StsMode, StsPolicy, mx_matches
from posthouse.mail.replies import Failure
from posthouse.mail.reports.tls_report import PolicyType
from posthouse.model.ports import Clock, DnsTrouble, NoSuchDomain, Resolver, ValidatingResolver

_LIFE = timedelta(hours=1)
# A domain whose policy stands in the way, or could not be learnt, is looked at again soon.
_TROUBLE_LIFE = timedelta(minutes=1)
_LOOKUPS_AT_ONCE = 64
_REMEMBERED = 100_000
_REPORT_RECORD = re.compile(r"v=TLSRPTv1\s*;")


class PolicySettings(Struct, frozen=True):
    """What an installation looks for.

    need: of every domain, at least. sts_port: another than 443 only in a test network. reports: whether results are counted.
    """

    need: TlsNeed = TlsNeed.OPPORTUNISTIC
    mta_sts: bool = True
    sts_port: int = 443
    allow_private_addresses: bool = False
    reports: bool = True
    rules_file: Path | None = None


class _Known(Struct, frozen=True):
    asked: Route
    answer: Route | Failure
    until: datetime


class PolicyBook:
    """Puts the TLS policy into routes, and takes out the mail exchangers that it forbids."""

    def __init__(
        self,
        pool: Pool,
        resolver: Resolver,
        validating: ValidatingResolver | None,
        settings: PolicySettings,
        clock: Clock,
    ) -> None:
        """validating: None where the name servers do not validate; then DANE is off. Raises SettingWrong for the operator's rules."""
        self.results = TlsResults(clock)
        self._resolver = resolver
        self._settings = settings
        self._tlsa = TlsaBook(validating) if validating is not None else None
        fetcher = PolicyFetcher(
            resolver, port=settings.sts_port, allow_private_addresses=settings.allow_private_addresses
        )
        self._sts = StsBook(pool, resolver, fetcher)
        self._known: dict[str, _Known] = {}
        self._rules = TlsRules()
        self._rules_read: float | None = None
        self.reload_rules()

    @property
    def dane(self) -> bool:
        """Whether DANE is on."""
        return self._tlsa is not None

    def reload_rules(self) -> bool:
        """Read the operator's rules again if their file has changed; returns whether it had. Raises SettingWrong and keeps the old ones."""
        file = self._settings.rules_file
        if file is None:
            return False
        try:
            changed: float | None = file.stat().st_mtime
        except OSError:
            changed = None
        if changed == self._rules_read:
            return False
        self._rules_read = changed
        self._rules = TlsRules.load(file, dane=self.dane)
        self._known.clear()
        return True

    def knows(self, domain: str, now: datetime) -> bool:
        """Whether `apply` would answer for this domain from memory, if its route is still the same."""
        known = self._known.get(domain)
        return known is not None and known.until > now

    async def apply(self, routes: Mapping[str, Route | Failure], now: datetime) -> dict[str, Route | Failure]:
        """The routes with their policies, or the failure that a policy makes of them."""
        applied: dict[str, Route | Failure] = {}
        missing: dict[str, Route] = {}
        for domain, route in routes.items():
            known = self._known.get(domain)
            if isinstance(route, Failure):
                applied[domain] = route
            elif known is not None and known.until > now and known.asked is route:
                applied[domain] = known.answer
            else:
                missing[domain] = route
        if missing:
            await self._find(missing, applied, now)
        return applied

    async def _find(self, routes: Mapping[str, Route], applied: dict[str, Route | Failure], now: datetime) -> None:
        kept = await self._sts.kept(routes, now) if self._settings.mta_sts else {}
        gate = asyncio.Semaphore(_LOOKUPS_AT_ONCE)
        found = await asyncio.gather(
            *(self._look_up(domain, route, kept.get(domain), gate, now) for domain, route in routes.items())
        )
        if len(self._known) + len(found) > _REMEMBERED:
            self._known.clear()
        fetched: list[KeptPolicy] = []
        for domain, (answer, until, sts) in zip(routes, found, strict=True):
            applied[domain] = answer
            self._known[domain] = _Known(routes[domain], answer, until)
            if sts.is_new and sts.kept is not None:
                fetched.append(sts.kept)
        if fetched:
            await self._sts.keep(fetched)

    async def _look_up(
        self, domain: str, route: Route, kept: KeptPolicy | None, gate: asyncio.Semaphore, now: datetime
    ) -> tuple[Route | Failure, datetime, StsFound]:
        async with gate:
            rule = self._rules.rule_of(domain)
            if rule is not None and rule.tls is not TlsNeed.DANE:
                return structs.replace(route, policy=_ruled(rule)), now + _LIFE, StsFound()
            tlsa, until = await self._tlsa_of(route, now)
            if rule is not None:
                return _dane_only(domain, route, tlsa), until, StsFound()
            wants_sts = self._settings.mta_sts and any(tlsa.get(mx.host) is None for mx in route.mx)
            sts = await self._sts.find(domain, kept, now) if wants_sts else StsFound()
            report = await self._report(domain, tlsa, sts) if self._settings.reports else None
            answer = self._joined(domain, route, tlsa, in_force(sts), report)
            if isinstance(answer, Failure):
                until = min(until, now + _TROUBLE_LIFE)
                if report is not None:
                    self.results.note(report, route.mx[0].host, result_of(answer))
            elif sts.flaw is not None:
                until = min(until, now + 5 * _TROUBLE_LIFE)
            if sts.kept is not None:
                until = min(until, sts.kept.expires_at)
            return answer, until, sts

    async def _tlsa_of(self, route: Route, now: datetime) -> tuple[dict[str, TlsaFound], datetime]:
        until = now + _LIFE
        found: dict[str, TlsaFound] = {}
        if self._tlsa is not None and route.mx_authentic:
            for mx in route.mx:
                found[mx.host], ends = await self._tlsa.find(mx.host, now)
                until = min(until, ends)
        return found, until

    async def _report(self, domain: str, tlsa: Mapping[str, TlsaFound], sts: StsFound) -> Reported | None:
        """How this domain is told of sessions; None where it does not ask for reports (RFC 8460 §3).

        A domain without any sign of a policy is not asked: for nearly all mail that would be one more question to DNS for nothing.
        """
        if sts.kept is None and sts.flaw is None and all(found is None for found in tlsa.values()):
            return None
        try:
            records = [text for text in await self._resolver.txt(f"_smtp._tls.{domain}") if _REPORT_RECORD.match(text)]
        except (NoSuchDomain, DnsTrouble):
            return None
        if len(records) != 1:
            return None
        records_of = {host: found for host, found in tlsa.items() if found is not None}
        if records_of:
            lines = tuple(
                f"_25._tcp.{host}. {record.usage} {record.selector} {record.matching} {record.data.hex()}"
                for host, found in records_of.items()
                if isinstance(found, tuple)
                for record in found
            )
            return Reported(domain, PolicyType.TLSA, lines, tuple(records_of))
        policy = in_force(sts)
        if policy is not None or sts.flaw is not None:
            quoted = (policy.lines, policy.mx) if policy is not None else ((), ())
            return Reported(domain, PolicyType.STS, *quoted, sts.flaw)
        return Reported(domain, PolicyType.NONE)

    def _joined(
        self,
        domain: str,
        route: Route,
        tlsa: Mapping[str, TlsaFound],
        sts: StsPolicy | None,
        report: Reported | None,
    ) -> Route | Failure:
        enforced = sts is not None and sts.mode is StsMode.ENFORCE
        kept = []
        failure = None
        for mx in route.mx:
            found = tlsa.get(mx.host)
            if isinstance(found, Failure):
                failure = failure or found
            elif found is None and enforced and sts is not None and not mx_matches(mx.host, sts.mx):
                failure = Failure.STS_NO_MX
            else:
                kept.append(mx)
        if not kept and failure is not None:
            return failure
        policy = TlsPolicy(
            need=TlsNeed.VERIFY if enforced else self._settings.need,
            testing=sts.mx if sts is not None and sts.mode is StsMode.TESTING else (),
            tlsa=_host_tlsa(tlsa),
            next_hop=_next_hop(domain, tlsa),
            report=report,
        )
        return structs.replace(route, mx=tuple(kept), policy=policy)


def _host_tlsa(tlsa: Mapping[str, TlsaFound]) -> tuple[HostTlsa, ...]:
    return tuple(HostTlsa(host, found) for host, found in sorted(tlsa.items()) if isinstance(found, tuple))


def _next_hop(domain: str, tlsa: Mapping[str, TlsaFound]) -> str:
    """The recipient's domain where certificates may be for it (RFC 7672 §3.2.2), else "": it would part connections for nothing."""
    records = (record for found in tlsa.values() if isinstance(found, tuple) for record in found)
    return domain if any(record.usage == DANE_TA for record in records) else ""


def _ruled(rule: TlsRule) -> TlsPolicy:
    return TlsPolicy(need=rule.tls, names=tuple(rule.names))


def _dane_only(domain: str, route: Route, tlsa: Mapping[str, TlsaFound]) -> Route | Failure:
    """The operator's word: nothing without DANE."""
    kept = tuple(mx for mx in route.mx if isinstance(found := tlsa.get(mx.host), tuple) and found)
    if not kept:
        unanswered = any(isinstance(found, Failure) for found in tlsa.values())
        return Failure.TLSA_UNANSWERED if unanswered else Failure.DANE_MISSING
    policy = TlsPolicy(need=TlsNeed.DANE, tlsa=_host_tlsa(tlsa), next_hop=_next_hop(domain, tlsa))
    return structs.replace(route, mx=kept, policy=policy)
