"""Fetching an MTA-STS policy file: HTTPS with a certificate that holds, no redirects, few bytes, little time (RFC 8461 §3.3)."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from functools import cached_property

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from posthouse.mail.mta_sts import StsPolicy, parse_policy
from posthouse.mail.reports.tls_report import ResultType
from posthouse.model.ports import DnsTrouble, NoSuchDomain, Resolver

_MAX_BYTES = 64 * 1024
_SECONDS = 10.0


class PolicyFetcher:
    """Fetches policy files through the resolver of this installation."""

    def __init__(self, resolver: Resolver, *, port: int = 443, allow_private_addresses: bool = False) -> None:
        """allow_private_addresses: for test networks; otherwise no stranger's record makes us call inside our own network."""
        self._resolver = _PublicAddresses(resolver, allow_private_addresses)
        self._port = port

    async def fetch(self, domain: str) -> StsPolicy | ResultType:
        """The policy that a domain's web server has, or what is wrong."""
        url = f"https://mta-sts.{domain}:{self._port}/.well-known/mta-sts.txt"
        connector = aiohttp.TCPConnector(resolver=self._resolver, ssl=self._trusted, use_dns_cache=False)
        try:
            async with (
                asyncio.timeout(_SECONDS),
                aiohttp.ClientSession(connector=connector, auto_decompress=False) as client,
                client.get(url, allow_redirects=False) as response,
            ):
                if response.status != 200 or response.content_type != "text/plain":
                    return ResultType.STS_FETCH
                body = await _at_most(response.content, _MAX_BYTES)
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            return ResultType.STS_WEBPKI
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return ResultType.STS_FETCH
        if body is None:
            return ResultType.STS_INVALID
        return parse_policy(body) or ResultType.STS_INVALID

    @cached_property
    def _trusted(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.hostname_checks_common_name = False
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


async def _at_most(content: aiohttp.StreamReader, most: int) -> bytes | None:
    """A body, or None where it is larger."""
    body = bytearray()
    async for piece in content.iter_any():
        body += piece
        if len(body) > most:
            return None
    return bytes(body)


class _PublicAddresses(AbstractResolver):
    """Gives aiohttp the addresses that our resolver finds and that we may call."""

    def __init__(self, resolver: Resolver, allow_private_addresses: bool) -> None:
        self._resolver = resolver
        self._allow_private_addresses = allow_private_addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            found = await self._resolver.addresses(host)
        except (NoSuchDomain, DnsTrouble) as error:
            raise OSError(f"{host} has no address") from error
        allowed = [each for each in found if self._allow_private_addresses or ipaddress.ip_address(each).is_global]
        if not allowed:
            raise OSError(f"{host} has no public address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in allowed
        ]

    async def close(self) -> None:
        return None
