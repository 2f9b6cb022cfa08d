"""Mailbox providers as data: each file in `providers/` describes one persona and its manners."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from posthouse.sandbox.lots import Lots
from posthouse.sandbox.plan import PlanWrong

_SHIPPED = Path(__file__).with_name("providers")


class Refusal(Struct, frozen=True, forbid_unknown_fields=True):
    """A reply that says no. The text may hold {ip}, {rcpt} and {host}; each of its lines becomes a line of the reply."""

    code: int
    text: str
    status: str = ""


class Mailbox(Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of mailbox that takes no mail, and the share of all addresses that are of this kind."""

    kind: str
    share: float
    reply: Refusal


class Stubborn(Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of a source that was told to slow down and made `patience` more attempts `within_seconds`."""

    patience: int
    within_seconds: float
    block_seconds: float
    reply: Refusal


class Rate(Struct, frozen=True, forbid_unknown_fields=True):
    """How much one source may bring: a bucket of `messages` that fills again in `per_seconds`.

    The limit is drawn from messages ± spread, anew each `redraw_seconds`.
    """

    messages: float
    per_seconds: float
    reply: Refusal
    at: Literal["mail", "dot"] = "mail"
    spread: float = 0.2
    redraw_seconds: float = 3600.0
    stubborn: Stubborn | None = None


class SignerLimit(Struct, frozen=True, forbid_unknown_fields=True):
    """How much one DKIM domain (d=) may bring, whatever source it comes from; {domain} in the reply is that domain."""

    domain: str
    messages: float
    per_seconds: float
    reply: Refusal


class Greylist(Struct, frozen=True, forbid_unknown_fields=True):
    """A stranger's first try is refused; the same source, sender domain and recipient may enter after `seconds` (± spread)."""

    seconds: float
    reply: Refusal
    spread: float = 0.2


class Allowance(Struct, frozen=True, forbid_unknown_fields=True):
    """How many of something are taken, and the reply to the one too many."""

    limit: int
    reply: Refusal


class Slow(Struct, frozen=True, forbid_unknown_fields=True):
    """Every reply is kept back for a time between these, in real seconds."""

    least_seconds: float
    most_seconds: float


class Drop(Struct, frozen=True, forbid_unknown_fields=True):
    """Share of tries during which the connection is cut."""

    share: float


class Stall(Struct, frozen=True, forbid_unknown_fields=True):
    """Share of tries in which the provider stops reading when the content comes, and says nothing more."""

    share: float


class LateBounce(Struct, frozen=True, forbid_unknown_fields=True):
    """Share of addresses whose mail is accepted first and returned later by a DSN, with the refusal that the DSN quotes."""

    share: float
    least_seconds: float
    most_seconds: float
    reply: Refusal


class Persona(Struct, frozen=True, forbid_unknown_fields=True):
    """One provider. domains: patterns of the recipient domains that it hosts; weight: its part of all other domains."""

    name: str
    domain: str
    domains: tuple[str, ...] = ()
    weight: float = 0.0
    mx_preferences: tuple[int, int] = (10, 20)
    tls: Literal["none", "offered", "required"] = "offered"
    size: int = 36_700_160
    recipients: int = 100
    mailboxes: tuple[Mailbox, ...] = ()
    rate: Rate | None = None
    signers: tuple[SignerLimit, ...] = ()
    greylist: Greylist | None = None
    messages_per_connection: Allowance | None = None
    connections: Allowance | None = None
    slow: Slow | None = None
    drop: Drop | None = None
    stall: Stall | None = None
    late_bounce: LateBounce | None = None
    withhold: float = 0.0

    @property
    def hosts(self) -> tuple[str, str]:
        """The names of its two MX hosts."""
        return f"mx1.{self.domain}", f"mx2.{self.domain}"


def load_personas(directory: Path | None = None) -> list[Persona]:
    """Every persona of a directory, by file name; None means those that ship with the sandbox. Raises PlanWrong."""
    files = sorted((directory or _SHIPPED).glob("*.toml"))
    personas = [_read(file) for file in files]
    if not any(persona.weight > 0 for persona in personas):
        raise PlanWrong(
            f"No provider file in {directory or _SHIPPED} has a weight above 0, so most domains have no home."
        )
    if len({persona.name for persona in personas}) < len(personas):
        raise PlanWrong(f"Two provider files in {directory or _SHIPPED} have the same name.")
    return personas


def _read(file: Path) -> Persona:
    try:
        return msgspec.toml.decode(file.read_bytes(), type=Persona)
    except (OSError, msgspec.DecodeError) as error:
        raise PlanWrong(f"The provider file {file} cannot be used: {error}") from error


class Homes:
    """Which persona hosts a recipient domain: a pattern of a persona, or else a lot weighted among the personas with a weight."""

    def __init__(self, personas: Iterable[Persona], lots: Lots) -> None:
        self._lots = lots
        self._exact: dict[str, Persona] = {}
        self._patterns: list[tuple[str, Persona]] = []
        self._weighted: list[Persona] = []
        for persona in personas:
            for pattern in persona.domains:
                if "*" in pattern:
                    self._patterns.append((pattern, persona))
                else:
                    self._exact[pattern] = persona
            if persona.weight > 0:
                self._weighted.append(persona)
        self._total = sum(persona.weight for persona in self._weighted)

    def of(self, domain: str) -> Persona:
        """The persona behind a domain (lower case A-label)."""
        exact = self._exact.get(domain)
        if exact is not None:
            return exact
        for pattern, persona in self._patterns:
            if fnmatchcase(domain, pattern):
                return persona
        point = self._lots.draw("home", domain) * self._total
        for persona in self._weighted:
            point -= persona.weight
            if point < 0:
                return persona
        return self._weighted[-1]
