"""A rule as it stands in a file: its keys, which of them go together, and the rule that they make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from posthouse.mail.rules.rule import BrakeTerms, Rule, Stage, Trigger
from posthouse.model.outcomes import BounceClass, Reaction, Scope, Verdict

# BNC-5: nothing else may ever suppress an address.
_SUPPRESSING = frozenset({BounceClass.USER_UNKNOWN, BounceClass.DOMAIN_BAD, BounceClass.INACTIVE})
# Before RCPT no recipient was named, so nothing that is said there can be about one.
_ABOUT_RECIPIENTS = frozenset({Stage.RCPT, Stage.DATA, Stage.CONTENT})
_NARROW = frozenset({Scope.RECIPIENT, Scope.MESSAGE})
_STATUS = re.compile(r"([45x])\.([0-9]{1,3})\.([0-9]{1,3})(?:-([0-9]{1,3}))?\Z")
_SECONDS_OF = {"second": 1, "minute": 60, "hour": 3600}
_Seconds = Annotated[float, Meta(ge=0)]
_Count = Annotated[int, Meta(ge=1)]


class RuleText(Struct, forbid_unknown_fields=True, rename={"bounce_class": "class"}):
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


class KeyWrong(ValueError):
    """A key of a rule has a value that cannot stand."""

    def __init__(self, key: str | None, reason: str) -> None:
        super().__init__(reason)
        self.key = key


def rule_of(text: RuleText, providers: set[str]) -> Rule:
    """A rule from its text. Raises KeyWrong with the key and the reason."""
    _check_who(text, providers)
    _check_reach(text)
    stages = frozenset(text.stages)
    if not stages and text.scope is Scope.RECIPIENT:
        stages = _ABOUT_RECIPIENTS
    codes = frozenset(code for entry in text.codes or ["4xx", "5xx"] for code in _codes(entry))
    statuses = frozenset(status for entry in text.enhanced for status in _statuses(entry))
    if not (text.provider or text.stages or text.codes or statuses or text.phrases or text.pattern):
        raise KeyWrong(None, "it has no condition, so it would decide every reply")
    if text.subject is not None and _compiled("subject", text.subject).groups != 1:
        raise KeyWrong("subject", "it needs exactly one group, which is the name that the reply gives")
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


def _check_who(text: RuleText, providers: set[str]) -> None:
    """What a rule may be about, and what may suppress an address (BNC-5)."""
    strangers = set(text.provider) - providers
    if strangers:
        raise KeyWrong("provider", f"no provider is called “{min(strangers)}” in [providers]")
    if text.reaction is Reaction.DELIVERED:
        raise KeyWrong("reaction", "no rule may call a refusal delivered")
    if any(phrase != phrase.lower() or not phrase for phrase in text.phrases):
        raise KeyWrong("phrases", "phrases are compared in lower case: write them so, and none may be empty")
    if text.reaction is not Reaction.SUPPRESS:
        if text.suppress_after is not None:
            raise KeyWrong("suppress_after", "it goes with reaction suppress")
        return
    if text.scope is not Scope.RECIPIENT or text.bounce_class not in _SUPPRESSING:
        names = ", ".join(sorted(_SUPPRESSING))
        raise KeyWrong("reaction", f"only scope recipient with class {names} may suppress an address")
    early = set(text.stages) - _ABOUT_RECIPIENTS
    if early:
        raise KeyWrong("stages", f"nothing said at stage {min(early)} may suppress an address")


def _check_reach(text: RuleText) -> None:
    """What a rule asks beyond its own message must be whole, and must have somebody to be asked of."""
    given = {
        "rate": text.rate,
        "connections": text.connections,
        "messages_per_connection": text.messages_per_connection,
    }
    term = next((key for key, value in given.items() if value is not None), None)
    if term is not None and not text.hold:
        raise KeyWrong(term, "say with hold for how many seconds")
    if text.reaction is Reaction.HOLD and not text.hold:
        raise KeyWrong("reaction", "reaction hold needs hold: for how many seconds")
    if text.repeat and text.rate is None:
        raise KeyWrong("repeat", "there is no rate to halve")
    reaches = _brake(text) is not None or text.reaction is Reaction.STOP
    if reaches and text.scope in _NARROW:
        raise KeyWrong(
            "scope", f"scope {text.scope} is one message: retry_after lets it wait, and nothing else can be asked"
        )
    counted = {"after": text.after, "within": text.within, "sites": text.sites}
    count = next((key for key, value in counted.items() if value is not None), None)
    if count is not None and not reaches:
        raise KeyWrong(count, "the rule asks nothing that could wait for a number of replies")
    if text.stops is not None and text.reaction is not Reaction.STOP:
        raise KeyWrong("stops", "it goes with reaction stop")
    if text.stop_after is not None and _brake(text) is None:
        raise KeyWrong("stop_after", "there is no brake that could last too long")
    if text.fails_as is not None and text.scope is Scope.RECIPIENT:
        raise KeyWrong("fails_as", "a refused recipient is not blocked")


def _brake(text: RuleText) -> BrakeTerms | None:
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
        raise KeyWrong("rate", "a rate of nothing is reaction hold")
    return int(number) * 60 / _SECONDS_OF[unit]


def _mend(text: RuleText) -> str | None:
    if text.reaction is Reaction.STOP:
        return "Read the reply, change the message, and resume the campaign."
    if text.reaction is Reaction.FIX:
        return "Read the reply and repair what it names."
    return None


def _verdict(text: RuleText, permanent: bool) -> Verdict:
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
        raise KeyWrong(key, str(error)) from error


def _codes(entry: int | str) -> Sequence[int]:
    if entry in ("4xx", "5xx"):
        first = int(str(entry)[0]) * 100
        return range(first, first + 100)
    if isinstance(entry, int) and 400 <= entry <= 599:
        return (entry,)
    raise KeyWrong("codes", f"code {entry!r} is not a number from 400 to 599, nor “4xx” or “5xx”")


def _statuses(entry: str) -> list[str]:
    match = _STATUS.match(entry)
    if not match:
        raise KeyWrong("enhanced", f"status “{entry}” is not like 5.1.1, x.7.26 or x.7.500-699")
    first = int(match[3])
    details = range(first, int(match[4] or first) + 1)
    classes = "45" if match[1] == "x" else match[1]
    return [f"{c}.{match[2]}.{detail}" for c in classes for detail in details]
