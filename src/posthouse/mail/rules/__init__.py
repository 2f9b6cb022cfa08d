"""Rules about replies as data: what one is, and how a TOML file of them is read and checked.

A file has `[providers]` (short name = list of host name endings) and `[[rule]]` tables. Each rule gives `name`, `class`, `scope`
and `reaction`, and says when it fits: `provider`, `stages`, `codes` (450, "4xx"), `enhanced` ("5.1.1", "x.7.1", "x.7.500-699"),
`phrases` (any one of these plain pieces of text), `pattern` (a regular expression). All that are given must fit; texts are compared in
lower case. `retry_after` and `hold` are seconds; `permanent` overrules the reply code; `example` is a real reply that the rule must decide.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from posthouse.model.closed_list import ClosedList
from posthouse.model.errors import SettingWrong
from posthouse.model.outcomes import BounceClass, Reaction, Scope, Verdict


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


_SHIPPED = ("providers.toml", "wordings.toml", "status.toml")
# BNC-5: nothing else may ever suppress an address.
_SUPPRESSING = frozenset({BounceClass.USER_UNKNOWN, BounceClass.DOMAIN_BAD, BounceClass.INACTIVE})
# Before RCPT no recipient was named, so nothing that is said there can be about one.
_ABOUT_RECIPIENTS = frozenset({Stage.RCPT, Stage.DATA, Stage.CONTENT})
_STATUS = re.compile(r"([45x])\.([0-9]{1,3})\.([0-9]{1,3})(?:-([0-9]{1,3}))?\Z")


class Rule(Struct, frozen=True):
    """One rule, ready to be tried. An empty condition fits everything."""

    name: str
    providers: frozenset[str]
    stages: frozenset[Stage]
    codes: frozenset[int]
    statuses: frozenset[str]
    phrases: tuple[str, ...]
    pattern: re.Pattern[str] | None
    permanent_verdict: Verdict
    temporary_verdict: Verdict
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


class _RuleText(Struct, forbid_unknown_fields=True, rename={"bounce_class": "class"}):
    """A rule as it stands in the file."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    bounce_class: BounceClass
    scope: Scope
    reaction: Reaction
    provider: list[str] = []
    stages: list[Stage] = []
    codes: list[int | str] = []
    enhanced: list[str] = []
    phrases: list[str] = []
    pattern: str | None = None
    retry_after: Annotated[float, Meta(ge=0)] | None = None
    hold: Annotated[float, Meta(ge=0)] | None = None
    permanent: bool | None = None
    example: str | None = None


def shipped_rules() -> Rulebook:
    """The rules that come with Posthouse."""
    folder = files(__name__)
    return Rulebook.joined([_read(name, (folder / name).read_text("utf-8"), known=()) for name in _SHIPPED])


def read_rules(path: Path, known: Iterable[str]) -> Rulebook:
    """An operator's rule file. known: providers that it may name without describing them. Raises SettingWrong with file, rule, reason."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingWrong(f"The rule file {path} cannot be read: {error}.") from error
    return _read(str(path), text, known)


def _read(source: str, text: str, known: Iterable[str]) -> Rulebook:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingWrong(f"The rule file {source} is not TOML: {error}.") from error
    unknown = set(tables) - {"providers", "rule"}
    if unknown:
        raise SettingWrong(
            f"The rule file {source} has “{min(unknown)}”; only [providers] and [[rule]] may stand there."
        )
    try:
        endings = msgspec.convert(tables.get("providers", {}), dict[str, list[str]])
        entries = msgspec.convert(tables.get("rule", []), list[dict[str, Any]])
    except msgspec.ValidationError as error:
        raise SettingWrong(f"The rule file {source}: {error}.") from error
    providers = {name: tuple("." + e.lower().strip(".") for e in hosts) for name, hosts in endings.items()}
    rules: list[Rule] = []
    for number, entry in enumerate(entries, 1):
        label = f"“{entry['name']}”" if entry.get("name") else f"number {number}"
        try:
            rule = _made(msgspec.convert(entry, _RuleText), {*known, *providers})
            if any(rule.name == earlier.name for earlier in rules):
                raise ValueError("another rule of this file has the same name")
        except (msgspec.ValidationError, ValueError, re.error) as error:
            raise SettingWrong(f"The rule file {source}, rule {label}: {error}.") from error
        rules.append(rule)
    return Rulebook(tuple(rules), providers)


def _made(text: _RuleText, providers: set[str]) -> Rule:
    """A rule from its text. Raises ValueError with the reason."""
    strangers = set(text.provider) - providers
    if strangers:
        raise ValueError(f"no provider is called “{min(strangers)}” in [providers]")
    if text.reaction is Reaction.DELIVERED:
        raise ValueError("no rule may call a refusal delivered")
    if text.reaction is Reaction.SUPPRESS and (
        text.scope is not Scope.RECIPIENT or text.bounce_class not in _SUPPRESSING
    ):
        names = ", ".join(sorted(_SUPPRESSING))
        raise ValueError(f"only scope recipient with class {names} may suppress an address")
    stages = frozenset(text.stages)
    if text.reaction is Reaction.SUPPRESS and stages - _ABOUT_RECIPIENTS:
        raise ValueError(f"nothing said at stage {min(stages - _ABOUT_RECIPIENTS)} may suppress an address")
    if not stages and text.scope is Scope.RECIPIENT:
        stages = _ABOUT_RECIPIENTS
    if any(phrase != phrase.lower() or not phrase for phrase in text.phrases):
        raise ValueError("phrases are compared in lower case: write them so, and none may be empty")
    codes = frozenset(code for entry in text.codes or ["4xx", "5xx"] for code in _codes(entry))
    statuses = frozenset(status for entry in text.enhanced for status in _statuses(entry))
    if not (text.provider or text.stages or text.codes or statuses or text.phrases or text.pattern):
        raise ValueError("it has no condition, so it would decide every reply")
    return Rule(
        name=text.name,
        providers=frozenset(text.provider),
        stages=stages,
        codes=codes,
        statuses=statuses,
        phrases=tuple(text.phrases),
        pattern=re.compile(text.pattern) if text.pattern is not None else None,
        permanent_verdict=_verdict(text, permanent=text.permanent is not False),
        temporary_verdict=_verdict(text, permanent=text.permanent is True),
        example=text.example,
    )


def _verdict(text: _RuleText, permanent: bool) -> Verdict:
    reaction = text.reaction
    if permanent and reaction is Reaction.RETRY:
        reaction = Reaction.FAIL
    if not permanent and reaction in (Reaction.SUPPRESS, Reaction.FAIL):
        reaction = Reaction.RETRY
    retry_after = None if permanent else text.retry_after
    return Verdict(permanent, text.bounce_class, text.scope, reaction, text.name, retry_after, text.hold)


def _codes(entry: int | str) -> Sequence[int]:
    if entry in ("4xx", "5xx"):
        first = int(str(entry)[0]) * 100
        return range(first, first + 100)
    if isinstance(entry, int) and 400 <= entry <= 599:
        return (entry,)
    raise ValueError(f"code {entry!r} is not a number from 400 to 599, nor “4xx” or “5xx”")


def _statuses(entry: str) -> list[str]:
    match = _STATUS.match(entry)
    if not match:
        raise ValueError(f"status “{entry}” is not like 5.1.1, x.7.26 or x.7.500-699")
    first = int(match[3])
    details = range(first, int(match[4] or first) + 1)
    classes = "45" if match[1] == "x" else match[1]
    return [f"{c}.{match[2]}.{detail}" for c in classes for detail in details]
