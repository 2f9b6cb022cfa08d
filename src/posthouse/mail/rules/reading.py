"""How a TOML file of rules is read and checked; what is wrong is told with file, line, rule, key and reason."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from posthouse.mail.rules.lines import TableLines, table_lines
from posthouse.mail.rules.rule import BrakeTerms, Rule, Rulebook, Stage, Trigger
from posthouse.model.errors import SettingWrong
from posthouse.model.outcomes import BounceClass, Reaction, Scope, Verdict

_SHIPPED = ("providers.toml", "wordings.toml", "status.toml")
# BNC-5: nothing else may ever suppress an address.
_SUPPRESSING = frozenset({BounceClass.USER_UNKNOWN, BounceClass.DOMAIN_BAD, BounceClass.INACTIVE})
# Before RCPT no recipient was named, so nothing that is said there can be about one.
_ABOUT_RECIPIENTS = frozenset({Stage.RCPT, Stage.DATA, Stage.CONTENT})
_NARROW = frozenset({Scope.RECIPIENT, Scope.MESSAGE})
_STATUS = re.compile(r"([45x])\.([0-9]{1,3})\.([0-9]{1,3})(?:-([0-9]{1,3}))?\Z")
_SECONDS_OF = {"second": 1, "minute": 60, "hour": 3600}
_PLACE = re.compile(r" - at `\$(?:\.([A-Za-z_]+))?[^`]*`")
_STRANGE_KEY = re.compile(r"unknown field `([^`]+)`")
_Seconds = Annotated[float, Meta(ge=0)]
_Count = Annotated[int, Meta(ge=1)]


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
    retry_after: _Seconds | None = None
    hold: _Seconds | None = None
    permanent: bool | None = None
    fails_as: Literal["blocked"] | None = None
    rate: Annotated[str, Meta(pattern=r"^[0-9]+/(second|minute|hour)$")] | None = None
    connections: _Count | None = None
    messages_per_connection: _Count | None = None
    repeat: Literal["halve"] | None = None
    after: _Count | None = None
    within: Annotated[float, Meta(gt=0)] | None = None
    sites: _Count | None = None
    stops: Literal["campaign", "stream"] | None = None
    stop_after: _Seconds | None = None
    suppress_after: Annotated[int, Meta(ge=2)] | None = None
    subject: str | None = None
    mend: str | None = None
    example: str | None = None


class _KeyWrong(ValueError):
    """A key of a rule has a value that cannot stand."""

    def __init__(self, key: str | None, reason: str) -> None:
        super().__init__(reason)
        self.key = key


def shipped_rules() -> Rulebook:
    """The rules that come with Posthouse."""
    folder = files("posthouse.mail.rules")
    return Rulebook.joined([parse_rules(name, (folder / name).read_text("utf-8"), known=()) for name in _SHIPPED])


def read_rules(path: Path, known: Iterable[str]) -> Rulebook:
    """An operator's rule file. known: providers that it may name without describing them.

    Raises SettingWrong with file, line, rule, key and reason.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingWrong(f"The rule file {path} cannot be read: {error}.") from error
    return parse_rules(str(path), text, known)


def parse_rules(source: str, text: str, known: Iterable[str]) -> Rulebook:
    """The rules of a text; source: how messages call it. Raises SettingWrong."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingWrong(f"The rule file {source} is not TOML: {error}.") from error
    places = table_lines(text)
    unknown = set(tables) - {"providers", "rule"}
    if unknown:
        stranger = min(unknown)
        line = next((t.line for t in places if t.name == stranger), places[0].of(stranger))
        raise SettingWrong(
            f"The rule file {source}, line {line}, has “{stranger}”; only [providers] and [[rule]] may stand there."
        )
    providers = _providers(source, tables.get("providers", {}), places)
    return Rulebook(_rules(source, tables.get("rule", []), places, {*known, *providers}), providers)


def _providers(source: str, table: Any, places: Sequence[TableLines]) -> dict[str, tuple[str, ...]]:
    place = next((each for each in places if each.name == "providers"), places[0])
    try:
        endings = msgspec.convert(table, dict[str, list[Annotated[str, Meta(min_length=1)]]])
    except msgspec.ValidationError as error:
        wrong = next((n for n in table if not isinstance(table[n], list)), None) if isinstance(table, dict) else None
        raise SettingWrong(f"The rule file {source}, line {place.of(wrong)}, [providers]: {error}.") from error
    return {name: tuple("." + e.lower().strip(".") for e in hosts) for name, hosts in endings.items()}


def _rules(source: str, tables: Any, places: Sequence[TableLines], providers: set[str]) -> tuple[Rule, ...]:
    headers = [each for each in places if each.name == "rule"]
    if not isinstance(tables, list) or len(headers) != len(tables):
        raise SettingWrong(
            f"The rule file {source}, line {places[0].of('rule')}: write each rule as a table of its own, below a line [[rule]]."
        )
    rules: list[Rule] = []
    for number, (entry, place) in enumerate(zip(tables, headers, strict=True), 1):
        label = f"rule “{entry['name']}”" if entry.get("name") else f"rule number {number}"
        key: str | None
        try:
            rule = _made(msgspec.convert(entry, _RuleText), providers)
            if any(rule.name == earlier.name for earlier in rules):
                raise _KeyWrong("name", "another rule of this file has the same name")
        except msgspec.ValidationError as error:
            at = _PLACE.search(str(error))
            strange = _STRANGE_KEY.search(str(error))
            key, reason = (at[1] if at else strange[1] if strange else None), _PLACE.sub("", str(error))
        except _KeyWrong as error:
            key, reason = error.key, str(error)
        else:
            rules.append(rule)
            continue
        named = f"{label}, {key}" if key else label
        raise SettingWrong(f"The rule file {source}, line {place.of(key)}, {named}: {reason}.")
    return tuple(rules)


def _made(text: _RuleText, providers: set[str]) -> Rule:
    """A rule from its text. Raises _KeyWrong with the key and the reason."""
    _check_who(text, providers)
    _check_reach(text)
    stages = frozenset(text.stages)
    if not stages and text.scope is Scope.RECIPIENT:
        stages = _ABOUT_RECIPIENTS
    codes = frozenset(code for entry in text.codes or ["4xx", "5xx"] for code in _codes(entry))
    statuses = frozenset(status for entry in text.enhanced for status in _statuses(entry))
    if not (text.provider or text.stages or text.codes or statuses or text.phrases or text.pattern):
        raise _KeyWrong(None, "it has no condition, so it would decide every reply")
    if text.subject is not None and _compiled("subject", text.subject).groups != 1:
        raise _KeyWrong("subject", "it needs exactly one group, which is the name that the reply gives")
    return Rule(
        name=text.name,
        scope=text.scope,
        reaction=text.reaction,
        providers=frozenset(text.provider),
        stages=stages,
        codes=codes,
        statuses=statuses,
        phrases=tuple(text.phrases),
        pattern=_compiled("pattern", text.pattern) if text.pattern is not None else None,
        permanent_verdict=_verdict(text, permanent=text.permanent is not False),
        temporary_verdict=_verdict(text, permanent=text.permanent is True),
        trigger=Trigger(text.after or 1, text.within or 3600.0, text.sites or 1),
        brake=_brake(text),
        stops=text.stops or "campaign",
        stop_after=text.stop_after,
        suppress_after=text.suppress_after or 1,
        subject=_compiled("subject", text.subject) if text.subject is not None else None,
        mend=text.mend or _mend(text),
        example=text.example,
    )


def _check_who(text: _RuleText, providers: set[str]) -> None:
    """What a rule may be about, and what may suppress an address (BNC-5)."""
    strangers = set(text.provider) - providers
    if strangers:
        raise _KeyWrong("provider", f"no provider is called “{min(strangers)}” in [providers]")
    if text.reaction is Reaction.DELIVERED:
        raise _KeyWrong("reaction", "no rule may call a refusal delivered")
    if any(phrase != phrase.lower() or not phrase for phrase in text.phrases):
        raise _KeyWrong("phrases", "phrases are compared in lower case: write them so, and none may be empty")
    if text.reaction is not Reaction.SUPPRESS:
        if text.suppress_after is not None:
            raise _KeyWrong("suppress_after", "it goes with reaction suppress")
        return
    if text.scope is not Scope.RECIPIENT or text.bounce_class not in _SUPPRESSING:
        names = ", ".join(sorted(_SUPPRESSING))
        raise _KeyWrong("reaction", f"only scope recipient with class {names} may suppress an address")
    early = set(text.stages) - _ABOUT_RECIPIENTS
    if early:
        raise _KeyWrong("stages", f"nothing said at stage {min(early)} may suppress an address")


def _check_reach(text: _RuleText) -> None:
    """What a rule asks beyond its own message must be whole, and must have somebody to be asked of."""
    given = {
        "rate": text.rate,
        "connections": text.connections,
        "messages_per_connection": text.messages_per_connection,
    }
    term = next((key for key, value in given.items() if value is not None), None)
    if term is not None and not text.hold:
        raise _KeyWrong(term, "say with hold for how many seconds")
    if text.reaction is Reaction.HOLD and not text.hold:
        raise _KeyWrong("reaction", "reaction hold needs hold: for how many seconds")
    if text.repeat and text.rate is None:
        raise _KeyWrong("repeat", "there is no rate to halve")
    reaches = _brake(text) is not None or text.reaction is Reaction.STOP
    if reaches and text.scope in _NARROW:
        raise _KeyWrong(
            "scope", f"scope {text.scope} is one message: retry_after lets it wait, and nothing else can be asked"
        )
    counted = {"after": text.after, "within": text.within, "sites": text.sites}
    count = next((key for key, value in counted.items() if value is not None), None)
    if count is not None and not reaches:
        raise _KeyWrong(count, "the rule asks nothing that could wait for a number of replies")
    if text.stops is not None and text.reaction is not Reaction.STOP:
        raise _KeyWrong("stops", "it goes with reaction stop")
    if text.stop_after is not None and _brake(text) is None:
        raise _KeyWrong("stop_after", "there is no brake that could last too long")
    if text.fails_as is not None and text.scope is Scope.RECIPIENT:
        raise _KeyWrong("fails_as", "a refused recipient is not blocked")


def _brake(text: _RuleText) -> BrakeTerms | None:
    """The brake that a rule asks for. FIX without a time holds until a person has repaired what it names; SLOW without a rate leaves
    the pace to what the site accepts."""
    limits = (_per_minute(text.rate), text.connections, text.messages_per_connection)
    if any(limit is not None for limit in limits):
        return BrakeTerms(text.hold, *limits, halve=text.repeat == "halve")
    if text.reaction is Reaction.FIX:
        return BrakeTerms(text.hold)
    if text.hold and text.reaction is not Reaction.SLOW:
        return BrakeTerms(text.hold)
    return None


def _per_minute(rate: str | None) -> float | None:
    if rate is None:
        return None
    number, _, unit = rate.partition("/")
    if not int(number):
        raise _KeyWrong("rate", "a rate of nothing is reaction hold")
    return int(number) * 60 / _SECONDS_OF[unit]


def _mend(text: _RuleText) -> str | None:
    if text.reaction is Reaction.STOP:
        return "Read the reply, change the message, and resume the campaign."
    if text.reaction is Reaction.FIX:
        return "Read the reply and repair what it names."
    return None


def _verdict(text: _RuleText, permanent: bool) -> Verdict:
    reaction = text.reaction
    if permanent and (reaction is Reaction.RETRY or text.suppress_after is not None):
        reaction = Reaction.FAIL
    if not permanent and reaction in (Reaction.SUPPRESS, Reaction.FAIL):
        reaction = Reaction.RETRY
    retry_after = None if permanent else text.retry_after
    bounce_class = BounceClass.BLOCKED if permanent and text.fails_as == "blocked" else text.bounce_class
    return Verdict(permanent, bounce_class, text.scope, reaction, text.name, retry_after, text.hold)


def _compiled(key: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise _KeyWrong(key, str(error)) from error


def _codes(entry: int | str) -> Sequence[int]:
    if entry in ("4xx", "5xx"):
        first = int(str(entry)[0]) * 100
        return range(first, first + 100)
    if isinstance(entry, int) and 400 <= entry <= 599:
        return (entry,)
    raise _KeyWrong("codes", f"code {entry!r} is not a number from 400 to 599, nor “4xx” or “5xx”")


def _statuses(entry: str) -> list[str]:
    match = _STATUS.match(entry)
    if not match:
        raise _KeyWrong("enhanced", f"status “{entry}” is not like 5.1.1, x.7.26 or x.7.500-699")
    first = int(match[3])
    details = range(first, int(match[4] or first) + 1)
    classes = "45" if match[1] == "x" else match[1]
    return [f"{c}.{match[2]}.{detail}" for c in classes for detail in details]
