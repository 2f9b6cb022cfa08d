"""What the world hands in: wall time, DNS answers and chance, so that weeks of mail can be rehearsed in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from msgspec import Struct


class Clock(Protocol):
    """Wall time. It may jump forward under a rehearsal; I/O time-outs and leases use time.monotonic instead."""

    def now(self) -> datetime:
        """The present moment, aware, in UTC."""
        ...

    def now_us(self) -> int:
        """The present moment in microseconds since 1970."""
        ...


class MxHost(Struct, frozen=True):
    """One mail exchanger as DNS names it; preference 0 and host "." is a null MX (RFC 7505)."""

    preference: int
    host: str


class DnsTrouble(Exception):
    """The resolver gave no answer (SERVFAIL, time-out): temporary, whatever it was (SMTP-7)."""


class NoSuchDomain(Exception):
    """The name does not exist (NXDOMAIN): permanent (SMTP-7)."""


class Resolver(Protocol):
    """DNS as delivery needs it. Every method raises DnsTrouble or NoSuchDomain; an empty answer is an empty sequence."""

    async def mx(self, domain: str) -> Sequence[MxHost]:
        """MX records of a domain, in the order that DNS gave them."""
        ...

    async def addresses(self, host: str) -> Sequence[str]:
        """IPv6 and IPv4 addresses of a host, as text."""
        ...

    async def names(self, address: str) -> Sequence[str]:
        """The host names that reverse DNS gives for an IP address."""
        ...

    async def txt(self, name: str) -> Sequence[str]:
        """TXT records of a name, each with its chunks joined."""
        ...


class Tlsa(Struct, frozen=True):
    """A TLSA record (RFC 6698 §2.1): certificate usage, selector, matching type, and the data to compare with."""

    usage: int
    selector: int
    matching: int
    data: bytes


Record = TypeVar("Record")


class Validated(Struct, Generic[Record], frozen=True):
    """An answer of a name server that validates DNSSEC.

    authentic: it vouches for the answer, or for there being none (the AD bit, RFC 4035 §3.2.3); seconds: how long the answer may be kept.
    """

    records: tuple[Record, ...]
    authentic: bool
    seconds: float


class ValidatingResolver(Protocol):
    """DNS through a name server that validates and that we reach safely. What does not validate raises DnsTrouble, as SERVFAIL does."""

    async def validated_mx(self, domain: str) -> Validated[MxHost]:
        """MX records of a domain. Raises DnsTrouble or NoSuchDomain."""
        ...

    async def validated_addresses(self, host: str) -> Validated[str]:
        """Addresses of a host, of the first family that has any. Raises DnsTrouble or NoSuchDomain."""
        ...

    async def tlsa(self, name: str) -> Validated[Tlsa]:
        """TLSA records of a name; a name that does not exist has none. Raises DnsTrouble."""
        ...


class Chance(Protocol):
    """Randomness that a rehearsal can seed (random.Random fits)."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...

    def shuffle(self, x: list[MxHost], /) -> None:
        """Shuffle a list in place."""
        ...
