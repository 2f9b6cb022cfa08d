"""DNS by dnspython, as the Resolver protocol wants it."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.name
import dns.nameserver
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.reversename

from posthouse.delivery.dns_absence import absence
from posthouse.model.errors import SettingWrong
from posthouse.model.ports import DnsTrouble, MxHost, NoSuchDomain, Record, Tlsa, Validated

# DNS flag day 2020: larger UDP answers are lost on the way too often.
_UDP_BYTES = 1232
# How long it is kept that a signed zone has no such record, where the answer does not say.
_ABSENCE_SECONDS = 300.0


class DnsResolver:
    """Asks the configured name servers, or the system's. It is a ValidatingResolver too, as far as those validate."""

    def __init__(self, nameservers: Sequence[str] = (), *, timeout: float = 10.0) -> None:
        """nameservers: "ip" or "ip:port" or "[ipv6]:port". Raises SettingWrong for anything else."""
        self._resolver = dns.asyncresolver.Resolver(configure=not nameservers)
        if nameservers:
            self._resolver.nameservers = [_nameserver(text) for text in nameservers]
        self._resolver.lifetime = timeout
        self._resolver.timeout = min(timeout, 3.0)
        # The same servers, asked for DNSSEC (DO, RFC 3225), so that they say whether they vouch for the answer.
        self._validating = dns.asyncresolver.Resolver(configure=False)
        self._validating.nameservers = self._resolver.nameservers
        self._validating.lifetime, self._validating.timeout = self._resolver.lifetime, self._resolver.timeout
        self._validating.use_edns(0, dns.flags.DO, _UDP_BYTES)
        self._validating.set_flags(dns.flags.RD | dns.flags.AD)

    async def mx(self, domain: str) -> Sequence[MxHost]:
        """MX records in the order of the answer."""
        return [_mx_host(record) for record in await self._ask(domain, dns.rdatatype.MX)]

    async def addresses(self, host: str) -> Sequence[str]:
        """IPv6 addresses first, then IPv4 (RFC 6724 prefers the former; the caller tries several)."""
        kinds = (dns.rdatatype.AAAA, dns.rdatatype.A)
        answers = await asyncio.gather(*(self._ask(host, kind) for kind in kinds), return_exceptions=True)
        found = [record.address for answer in answers if not isinstance(answer, BaseException) for record in answer]
        for answer in answers:
            if isinstance(answer, BaseException) and not found:
                raise answer
        return found

    async def names(self, address: str) -> Sequence[str]:
        """PTR records of an IP address, without final dots."""
        answer = await self._ask(dns.reversename.from_address(address).to_text(), dns.rdatatype.PTR)
        return [record.target.to_text(omit_final_dot=True) for record in answer]

    async def txt(self, name: str) -> Sequence[str]:
        """TXT records, the chunks of each joined."""
        rcode = await self._absence(name)
        if rcode is not None:
            if rcode == dns.rcode.NXDOMAIN:
                raise NoSuchDomain(name)
            return []
        answer = await self._ask(name, dns.rdatatype.TXT)
        return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]

    async def validated_mx(self, domain: str) -> Validated[MxHost]:
        """MX records, and whether the name server vouches for them."""
        answer = await self._ask(domain, dns.rdatatype.MX, self._validating)
        return _validated(answer, [_mx_host(record) for record in answer])

    async def validated_addresses(self, host: str) -> Validated[str]:
        """IPv4 addresses, or IPv6 ones where there are none, and whether the name server vouches for them."""
        answer = await self._ask(host, dns.rdatatype.A, self._validating)
        if not len(answer):
            answer = await self._ask(host, dns.rdatatype.AAAA, self._validating)
        return _validated(answer, [record.address for record in answer])

    async def tlsa(self, name: str) -> Validated[Tlsa]:
        """TLSA records, and whether the name server vouches for them."""
        try:
            answer = await self._ask(name, dns.rdatatype.TLSA, self._validating)
        except NoSuchDomain:
            return Validated((), authentic=False, seconds=_ABSENCE_SECONDS)
        return _validated(
            answer, [Tlsa(record.usage, record.selector, record.mtype, bytes(record.cert)) for record in answer]
        )

    async def _absence(self, name: str) -> int | None:
        server = self._resolver.nameservers[0]
        if isinstance(server, dns.nameserver.Do53Nameserver):
            return await absence(name, dns.rdatatype.TXT, server.address, server.port)
        return await absence(name, dns.rdatatype.TXT, str(server), self._resolver.port)

    async def _ask(
        self, name: str, kind: dns.rdatatype.RdataType, resolver: dns.asyncresolver.Resolver | None = None
    ) -> Any:
        try:
            asked = resolver or self._resolver
            return await asked.resolve(dns.name.from_text(name), kind, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN as error:
            raise NoSuchDomain(name) from error
        except (dns.exception.DNSException, OSError, ValueError) as error:
            raise DnsTrouble(f"{name}: {error}") from error


def _mx_host(record: Any) -> MxHost:
    return MxHost(record.preference, record.exchange.to_text(omit_final_dot=True).lower() or ".")


def _validated(answer: Any, records: Sequence[Record]) -> Validated[Record]:
    authentic = bool(answer.response.flags & dns.flags.AD)
    seconds = float(answer.rrset.ttl) if answer.rrset is not None else _ABSENCE_SECONDS
    return Validated(tuple(records), authentic, seconds)


def _nameserver(text: str) -> dns.nameserver.Nameserver:
    host, port = text, "53"
    if text.count(":") == 1 or text.startswith("["):
        host, _, port = text.rpartition(":")
        host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
        if not 0 < int(port) < 65536:
            raise ValueError(port)
        return dns.nameserver.Do53Nameserver(host, int(port))
    except ValueError as error:
        raise SettingWrong(
            f"dns.nameservers has {text!r}, which is not an IP address with or without :port."
        ) from error
