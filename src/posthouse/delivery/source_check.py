"""Is a source fit to send? Its address on this host, its EHLO name leading to it, and reverse DNS leading back (SMTP-8)."""

from __future__ import annotations

import ipaddress
import socket

from posthouse.delivery.sources import Source
from posthouse.model.ports import DnsTrouble, NoSuchDomain, Resolver


async def check_source(source: Source, resolver: Resolver, *, here: bool) -> list[str]:
    """What stands in the way of a source, a sentence each with the remedy. here: it should be an address of this host."""
    findings: list[str] = []
    if source.address is None:
        return findings
    if here and not is_local(source.address):
        findings.append(f"{source.address} is not an address of this host: add it to a network interface first.")
    if source.ehlo_name is None:
        findings.append("It has no EHLO name of its own: give it one that resolves to its address (--ehlo).")
        return findings
    if source.address not in await _addresses(resolver, source.ehlo_name):
        findings.append(f"{source.ehlo_name} does not lead to {source.address}: publish an address record for it.")
    names = await _names(resolver, source.address)
    if source.ehlo_name.lower() not in names:
        seen = f"says {names[0]}" if names else "says nothing"
        findings.append(
            f"Reverse DNS of {source.address} {seen}: let whoever runs the network set it to {source.ehlo_name} (Gmail refuses others)."
        )
    return findings


def is_local(address: str) -> bool:
    """Whether this host can send from an address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


async def _addresses(resolver: Resolver, name: str) -> list[str]:
    try:
        return [str(ipaddress.ip_address(address)) for address in await resolver.addresses(name)]
    except (NoSuchDomain, DnsTrouble):
        return []


async def _names(resolver: Resolver, address: str) -> list[str]:
    try:
        return [name.lower().rstrip(".") for name in await resolver.names(address)]
    except (NoSuchDomain, DnsTrouble):
        return []
