"""What an HTTP relay's answer means: rules as data (`rules.toml`), one commented entry per oddity.

A `[[rule]]` gives `name`, `class`, `scope` and `reaction`, and says when it fits: `relays` ("ses"), `statuses` (429, "5xx"), `errors`
(the relay's own word for it), `phrases` (any of these pieces of the text, in lower case), `failures` (no answer came: "connection-lost").
All that are given must fit; the first rule that fits decides. `retry_after` and `hold` are seconds; `until = "utc-midnight"` holds till
then; `seconds_in` is a regular expression whose group is the pause in seconds. `example` is a real answer that the rule must decide.
An operator's own file comes before the shipped one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from posthouse.mail.replies import Failure
from posthouse.model.errors import SettingWrong
from posthouse.model.outcomes import BounceClass, Reaction, Scope, Verdict

# A relay that names a longer pause than this is asked again all the same.
_LONGEST_PAUSE = 86400.0
_MAX_READ = 1024


class RelayError(Struct, frozen=True):
    """A refusal in our words: HTTP status, the relay's own name for the error where it has one, its text, its wish to wait in seconds."""

    status: int
    error: str | None
    text: str
    wait: float | None = None


class _Example(Struct, frozen=True, forbid_unknown_fields=True):
    relay: str
    status: int = 0
    error: str | None = None
    text: str = ""
    failure: Failure | None = None


class RelayRule(Struct, frozen=True, forbid_unknown_fields=True, rename={"bounce_class": "class"}):
    """One rule as it stands in the file. An empty condition fits everything."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    bounce_class: BounceClass
    scope: Scope
    reaction: Reaction
    relays: list[Literal["ses", "sendgrid", "mailgun"]] = []
    statuses: list[int | str] = []
    errors: list[str] = []
    phrases: list[str] = []
    failures: list[Failure] = []
    retry_after: Annotated[float, Meta(ge=0)] | None = None
    hold: Annotated[float, Meta(ge=0)] | None = None
    until: Literal["utc-midnight"] | None = None
    seconds_in: str | None = None
    example: _Example | None = None

    def fits(self, relay: str, error: RelayError) -> bool:
        """Whether the rule is about this refusal."""
        if self.failures or (self.relays and relay not in self.relays):
            return False
        if self.statuses and error.status not in self.statuses and f"{error.status // 100}xx" not in self.statuses:
            return False
        if self.errors and error.error not in self.errors:
            return False
        text = error.text[:_MAX_READ].lower()
        return not self.phrases or any(phrase in text for phrase in self.phrases)

    def verdict(self, text: str, wait: float | None, now: datetime) -> Verdict:
        """What it asks of us. wait: the pause that the relay itself named, in seconds."""
        if self.seconds_in is not None and (found := re.search(self.seconds_in, text[:_MAX_READ], re.IGNORECASE)):
            wait = float(found[1])
        if self.until == "utc-midnight":
            midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
            wait = (midnight - now).total_seconds()
        pause = None if wait is None else min(wait, _LONGEST_PAUSE)
        permanent = self.reaction is Reaction.FAIL
        return Verdict(
            permanent,
            self.bounce_class,
            self.scope,
            self.reaction,
            self.name,
            None if permanent else _longer(self.retry_after, pause),
            _longer(self.hold, pause) if self.reaction in (Reaction.SLOW, Reaction.HOLD, Reaction.FIX) else None,
        )


# An answer that no rule knows is temporary: what a relay does not explain may be its own slip.
_UNKNOWN = RelayRule("relay-unknown", BounceClass.UNDETERMINED, Scope.RELAY, Reaction.RETRY, retry_after=900.0)


class RelayRules:
    """Says what answers of relays mean. Immutable after it was made."""

    def __init__(self, rules: Sequence[RelayRule]) -> None:
        self.rules = tuple(rules)

    @classmethod
    def load(cls, *paths: Path) -> RelayRules:
        """The shipped rules, preceded by those of the operator's files. Raises SettingWrong with file, rule and reason."""
        rules: list[RelayRule] = []
        for path in paths:
            try:
                text = path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise SettingWrong(f"The rule file {path} cannot be read: {error}.") from error
            rules += _read(str(path), text)
        shipped = files(__package__) / "rules.toml"
        return cls([*rules, *_read("rules.toml", shipped.read_text("utf-8"))])

    def interpret(self, relay: str, error: RelayError, now: datetime) -> Verdict:
        """What a refusal of this kind of relay ("ses") means at `now` (aware, UTC). Never a delivery, never a suppression."""
        rule = next((rule for rule in self.rules if rule.fits(relay, error)), _UNKNOWN)
        return rule.verdict(error.text, error.wait, now)

    def interpret_failure(self, relay: str, failure: Failure, now: datetime) -> Verdict:
        """What it means that no answer came. After the request had left it may have been taken: it is retried (SMTP-19)."""
        for rule in self.rules:
            if failure in rule.failures and (not rule.relays or relay in rule.relays):
                return rule.verdict("", None, now)
        return _UNKNOWN.verdict("", None, now)


def _longer(one: float | None, other: float | None) -> float | None:
    return max((seconds for seconds in (one, other) if seconds is not None), default=None)


def _read(source: str, text: str) -> list[RelayRule]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingWrong(f"The rule file {source} is not TOML: {error}.") from error
    if unknown := set(tables) - {"rule"}:
        raise SettingWrong(f"The rule file {source} has “{min(unknown)}”; only [[rule]] may stand there.")
    try:
        entries = msgspec.convert(tables.get("rule", []), list[dict[str, Any]])
    except msgspec.ValidationError as error:
        raise SettingWrong(f"The rule file {source}: {error}.") from error
    rules: list[RelayRule] = []
    for number, entry in enumerate(entries, 1):
        label = f"“{entry['name']}”" if entry.get("name") else f"number {number}"
        try:
            rule = msgspec.convert(entry, RelayRule)
            _check(rule)
            if any(rule.name == earlier.name for earlier in rules):
                raise ValueError("another rule of this file has the same name")
        except (msgspec.ValidationError, ValueError, re.error) as error:
            raise SettingWrong(f"The rule file {source}, rule {label}: {error}.") from error
        rules.append(rule)
    return rules


def _check(rule: RelayRule) -> None:
    """Raises ValueError with the reason why a rule cannot be used."""
    if rule.reaction in (Reaction.DELIVERED, Reaction.SUPPRESS, Reaction.STOP):
        raise ValueError(f"reaction “{rule.reaction}” is not for a relay's refusal: use retry, slow, hold, fix or fail")
    if not (rule.statuses or rule.errors or rule.phrases or rule.failures):
        raise ValueError("it has no condition, so it would decide every answer")
    if rule.failures and (rule.statuses or rule.errors or rule.phrases):
        raise ValueError("a failure has no status and no words: write two rules")
    if any(phrase != phrase.lower() or not phrase for phrase in rule.phrases):
        raise ValueError("phrases are compared in lower case: write them so, and none may be empty")
    for status in rule.statuses:
        if not (status in ("2xx", "3xx", "4xx", "5xx") or (isinstance(status, int) and 200 <= status <= 599)):
            raise ValueError(f"status {status!r} is not a number from 200 to 599, nor like “4xx”")
    if rule.seconds_in is not None and re.compile(rule.seconds_in).groups != 1:
        raise ValueError("seconds_in needs exactly one group, the seconds")
