"""DNS by dnspython, as the Resolver protocol wants it."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver
import dns.reversename

from posthouse.model.errors import SettingWrong
from posthouse.model.ports import DnsTrouble, MxHost, NoSuchDomain


class DnsResolver:
    """Asks the configured name servers, or the system's."""

    def __init__(self, nameservers: Sequence[str] = (), *, timeout: float = 10.0) -> None:
        """nameservers: "ip" or "ip:port" or "[ipv6]:port". Raises SettingWrong for anything else."""
        self._resolver = dns.asyncresolver.Resolver(configure=not nameservers)
        if nameservers:
            self._resolver.nameservers = [_nameserver(text) for text in nameservers]
        self._resolver.lifetime = timeout
        self._resolver.timeout = min(timeout, 3.0)

    async def mx(self, domain: str) -> Sequence[MxHost]:
        """MX records in the order of the answer."""
        answer = await self._ask(domain, dns.rdatatype.MX)
        return [
            MxHost(record.preference, record.exchange.to_text(omit_final_dot=True).lower() or ".") for record in answer
        ]

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
        answer = await self._ask(name, dns.rdatatype.TXT)
        return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType) -> Iterable[Any]:
        try:
            return await self._resolver.resolve(dns.name.from_text(name), kind, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN as error:
            raise NoSuchDomain(name) from error
        except (dns.exception.DNSException, OSError, ValueError) as error:
            raise DnsTrouble(f"{name}: {error}") from error


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
