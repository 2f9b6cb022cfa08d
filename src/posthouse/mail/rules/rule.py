"""What a rule about replies is: when it fits, what it says of the message, and what it asks of whatever it names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from posthouse.model.closed_list import ClosedList
from posthouse.model.outcomes import Reaction, Scope, Verdict


class Stage(ClosedList):
    """Where in the conversation a reply came."""

    CONNECT = "connect", "While the connection was being made."
    GREETING = "greeting", "In place of the greeting."
    EHLO = "ehlo", "In answer to EHLO or HELO."
    STARTTLS = "starttls", "In answer to STARTTLS or while encryption was being set up."
    AUTH = "auth", "In answer to AUTH."
    MAIL = "mail", "In answer to MAIL FROM."
    RCPT = "rcpt", "In answer to RCPT TO."
    DATA = "data", "In answer to DATA or BDAT."
    CONTENT = "content", "In answer to the content of the message."
    QUIT = "quit", "In answer to RSET, NOOP or QUIT."


class Trigger(Struct, frozen=True):
    """How often a reply must be heard before more than its own message is concerned: `after` times within `within` seconds.

    sites: how many different sites must have said it before a campaign stops or a domain is held everywhere. A site whose server
    anybody may run must not be able to do that alone.
    """

    after: int = 1
    within: float = 3600.0
    sites: int = 1


class BrakeTerms(Struct, frozen=True):
    """What is asked of the named scope: a rate, fewer connections, fewer messages on one, or (none of these) nothing at all.

    seconds: for how long; None: until a person ends it. halve: on repeat the rate is halved, and halved again.
    """

    seconds: float | None
    per_minute: float | None = None
    connections: int | None = None
    messages_per_connection: int | None = None
    halve: bool = False

    @property
    def is_hold(self) -> bool:
        """Whether nothing may leave at all."""
        return self.per_minute is None and self.connections is None and self.messages_per_connection is None


class Rule(Struct, frozen=True):
    """One rule, ready to be tried. An empty condition fits everything.

    reaction and scope: as the file says; the two verdicts are what they come to for a 5xx and for a 4xx. stops: what a STOP stops.
    stop_after: seconds after which a brake that is still needed becomes a STOP. suppress_after: on how many different days the reply
    must come before it suppresses. subject: finds the name that the reply gives what it is about. mend: what a person must do.
    """

    name: str
    scope: Scope
    reaction: Reaction
    providers: frozenset[str]
    stages: frozenset[Stage]
    codes: frozenset[int]
    statuses: frozenset[str]
    phrases: tuple[str, ...]
    pattern: re.Pattern[str] | None
    permanent_verdict: Verdict
    temporary_verdict: Verdict
    trigger: Trigger
    brake: BrakeTerms | None
    stops: Literal["campaign", "stream"]
    stop_after: float | None
    suppress_after: int
    subject: re.Pattern[str] | None
    mend: str | None
    example: str | None

    def is_about(self, provider: str | None) -> bool:
        """Whether replies of this provider concern the rule; those of an unknown one (None) concern only rules that name none."""
        return not self.providers or provider in self.providers

    def fits(self, enhanced: str | None, text: str, stage: Stage) -> bool:
        """Whether status, words (in lower case) and stage fit."""
        if self.statuses and enhanced not in self.statuses:
            return False
        if self.stages and stage not in self.stages:
            return False
        if self.phrases and not any(phrase in text for phrase in self.phrases):
            return False
        return self.pattern is None or self.pattern.search(text) is not None

    @property
    def reaches_further(self) -> bool:
        """Whether the reply concerns more than its own message: it must be counted."""
        return self.brake is not None or self.reaction is Reaction.STOP or self.mend is not None

    def subject_of(self, text: str) -> str | None:
        """The name that a reply gives what it is about, in lower case: a domain, an address, a network. None where it gives none."""
        found = self.subject.search(text.lower()) if self.subject is not None else None
        return found[1].strip(".") if found is not None else None


class Rulebook(Struct, frozen=True):
    """Rules in the order of trial, and the providers that they name: short name → host name endings in lower case."""

    rules: tuple[Rule, ...]
    providers: dict[str, tuple[str, ...]]

    @classmethod
    def joined(cls, books: Sequence[Rulebook]) -> Rulebook:
        """One rulebook of several: the earlier decides first, and wins where both name a provider."""
        providers: dict[str, tuple[str, ...]] = {}
        for book in books:
            for name, endings in book.providers.items():
                providers[name] = (*providers.get(name, ()), *endings)
        return cls(tuple(rule for book in books for rule in book.rules), providers)

    def provider_of(self, host: str) -> str | None:
        """The short name of the provider that this host belongs to, or None."""
        dotted = "." + host.lower().rstrip(".")
        for name, endings in self.providers.items():
            if dotted.endswith(endings):
                return name
        return None
