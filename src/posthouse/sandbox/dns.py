"""The sandbox's DNS server (UDP and TCP): every recipient domain has a home, the sender's zones come from `zones.json`."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from ipaddress import ip_address
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset

from posthouse.model.closed_list import ClosedList
from posthouse.sandbox.personas import Homes, Persona
from posthouse.sandbox.plan import PlanWrong
from posthouse.sandbox.zones import ZoneRecord, Zones

_TTL = 60
_UDP_OCTETS = 512
_TXT_OCTETS = 255
_LONGEST_CHAIN = 8
_SOA_OWNER = dns.name.from_text("test.")
_SOA = "ns.sandbox.test. hostmaster.sandbox.test. 1 3600 600 86400 60"


class Fate(ClosedList):
    """What becomes of a domain that has no mailbox provider."""

    NXDOMAIN = "nxdomain", "The domain does not exist."
    SERVFAIL = "servfail", "The name server fails."
    SILENT = "silent", "The name server never answers."
    NULL_MX = "null-mx", "The domain exists and takes no mail (RFC 7505)."
    IMPLICIT_MX = "implicit-mx", "The domain has an address and no MX (RFC 5321 §5.1)."


_FATES = {fate.value: fate for fate in Fate}


class Answers:
    """What the sandbox's DNS says, apart from the wire."""

    def __init__(
        self,
        homes: Homes,
        addresses: dict[str, list[str]],
        personas: list[Persona],
        zones: Zones,
        domains: dict[str, str],
    ) -> None:
        """addresses: provider → the addresses of its MX hosts, in order; domains: as in the plan."""
        self._homes = homes
        self._zones = zones
        self._domains = {name.lower(): fate for name, fate in domains.items()}
        self._personas = {persona.name: persona for persona in personas}
        self._hosts: dict[str, str] = {}
        self._reverse: dict[str, str] = {}
        for persona in personas:
            for host, address in zip(persona.hosts, addresses[persona.name], strict=True):
                self._hosts[host] = address
                self._reverse[ip_address(address).reverse_pointer] = host
        for fate in self._domains.values():
            if fate not in self._personas and fate not in _FATES:
                raise PlanWrong(f"“{fate}” is neither a provider nor one of {', '.join(Fate)}.")

    def reply(self, query: dns.message.Message) -> dns.message.Message | None:
        """The response to one query, or None where the server keeps silent."""
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
            response.set_rcode(dns.rcode.NOTIMP)
            return response
        response.flags |= dns.flags.RA
        question = query.question[0]
        rdtype = dns.rdatatype.to_text(question.rdtype)
        owner: str | None = question.name.to_text(omit_final_dot=True).lower()
        for _ in range(_LONGEST_CHAIN):
            if owner is None:
                break
            found = self.look_up(owner, rdtype)
            if found is Fate.SILENT:
                return None
            if isinstance(found, Fate):
                response.set_rcode(dns.rcode.SERVFAIL if found is Fate.SERVFAIL else dns.rcode.NXDOMAIN)
                break
            name = dns.name.from_text(owner) if response.answer else question.name
            response.answer.extend(_rrset(name, kind, value) for kind, value in found)
            # As a resolver would: a CNAME is answered together with what it leads to.
            owner = next((value.rstrip(".").lower() for kind, value in found if kind == "CNAME" != rdtype), None)
        if not response.answer and response.rcode() != dns.rcode.SERVFAIL:
            # RFC 2308 §3: the SOA tells for how long "no" may be kept.
            response.authority.append(_rrset(_SOA_OWNER, "SOA", _SOA))
        return response

    def look_up(self, name: str, rdtype: str) -> list[tuple[str, str]] | Fate:
        """Records of a name as (type, presentation form); an empty list for "no such record"; a Fate for no answer of that kind."""
        published = self._zones.of(name)
        if published:
            return _of_type(published, rdtype)
        if name in self._hosts:
            return [("A", self._hosts[name])] if rdtype == "A" else []
        if name in self._reverse:
            return [("PTR", f"{self._reverse[name]}.")] if rdtype == "PTR" else []
        if published is not None or name.startswith("_") or "._" in name or name.endswith((".invalid", ".arpa")):
            return Fate.NXDOMAIN
        return self._recipient_domain(name, rdtype)

    def _recipient_domain(self, domain: str, rdtype: str) -> list[tuple[str, str]] | Fate:
        named = self._zones.fate_of(domain) or self._domains.get(domain, "")
        fate = _FATES.get(named)
        if named and fate is None and named not in self._personas:
            return Fate.SERVFAIL
        if fate in (Fate.NXDOMAIN, Fate.SERVFAIL, Fate.SILENT):
            return fate
        if fate is Fate.NULL_MX:
            return [("MX", "0 .")] if rdtype == "MX" else []
        persona = self._personas.get(named) or self._homes.of(domain)
        if fate is Fate.IMPLICIT_MX:
            return [("A", self._hosts[persona.hosts[0]])] if rdtype == "A" else []
        if rdtype != "MX":
            return []
        return [("MX", f"{pref} {host}.") for pref, host in zip(persona.mx_preferences, persona.hosts, strict=True)]


def _rrset(owner: dns.name.Name, rdtype: str, value: str) -> dns.rrset.RRset:
    return dns.rrset.from_rdata(owner, _TTL, _rdata(rdtype, value))


@lru_cache(4096)
def _rdata(rdtype: str, value: str) -> dns.rdata.Rdata:
    # A few values answer nearly every question, and reading one costs ten times as much as sending it.
    return dns.rdata.from_text("IN", rdtype, value)


def _of_type(records: list[ZoneRecord], rdtype: str) -> list[tuple[str, str]]:
    return [
        (r.type, _presented(r))
        for r in records
        if r.type == rdtype or (r.type == "CNAME" and rdtype in ("A", "AAAA", "TXT"))
    ]


def _presented(record: ZoneRecord) -> str:
    if record.type == "TXT":
        raw = record.value.encode()
        chunks = [raw[at : at + _TXT_OCTETS] for at in range(0, len(raw), _TXT_OCTETS)] or [b""]
        return " ".join('"' + "".join(_escaped(byte) for byte in chunk) + '"' for chunk in chunks)
    if record.type == "A":
        return record.value
    return record.value if record.value.endswith(".") else f"{record.value}."


def _escaped(byte: int) -> str:
    if byte in b'"\\':
        return f"\\{chr(byte)}"
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03d}"


def respond(answers: Answers, wire: bytes, *, limit: int | None) -> bytes | None:
    """The response octets to one query's; None where nothing is said. limit: the UDP size, unless EDNS allows more."""
    try:
        query = dns.message.from_wire(wire)
    except dns.exception.DNSException:
        return None
    response = answers.reply(query)
    if response is None:
        return None
    if limit is None:
        return response.to_wire(max_size=65535)
    try:
        return response.to_wire(max_size=max(limit, query.payload))
    except dns.exception.TooBig:
        response.answer.clear()
        response.authority.clear()
        response.flags |= dns.flags.TC
        return response.to_wire()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | int, int]) -> None:
        wire = respond(self._answers, data, limit=_UDP_OCTETS)
        if wire is not None and self._transport is not None:
            self._transport.sendto(wire, addr)


class _Tcp(asyncio.Protocol):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2:
            length = int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < 2 + length:
                return
            wire = respond(self._answers, bytes(self._buffer[2 : 2 + length]), limit=None)
            del self._buffer[: 2 + length]
            if wire is not None and self._transport is not None:
                self._transport.write(len(wire).to_bytes(2, "big") + wire)


async def serve_dns(answers: Answers, host: str, port: int) -> tuple[int, asyncio.Server, asyncio.DatagramTransport]:
    """Listen on UDP and TCP at the same port (0 picks one); gives the port and the listeners. Raises OSError."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Tcp(answers), host, port)
    port = server.sockets[0].getsockname()[1]
    try:
        datagrams, _ = await loop.create_datagram_endpoint(lambda: _Udp(answers), local_addr=(host, port))
    except OSError:
        server.close()
        raise
    return port, server, datagrams
