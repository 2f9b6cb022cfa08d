"""How a TOML file of rules is read; what is wrong is told with file, line, rule, key and reason."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from posthouse.mail.rules.checking import KeyWrong, RuleText, rule_of
from posthouse.mail.rules.lines import TableLines, table_lines
from posthouse.mail.rules.rule import Rule, Rulebook
from posthouse.model.errors import SettingWrong

_SHIPPED = ("providers.toml", "wordings.toml", "status.toml")
_PLACE = re.compile(r" - at `\$(?:\.([A-Za-z_]+))?[^`]*`")
_STRANGE_KEY = re.compile(r"unknown field `([^`]+)`")


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
            rule = rule_of(msgspec.convert(entry, RuleText), providers)
            if any(rule.name == earlier.name for earlier in rules):
                raise KeyWrong("name", "another rule of this file has the same name")
        except msgspec.ValidationError as error:
            at = _PLACE.search(str(error))
            strange = _STRANGE_KEY.search(str(error))
            key, reason = (at[1] if at else strange[1] if strange else None), _PLACE.sub("", str(error))
        except KeyWrong as error:
            key, reason = error.key, str(error)
        else:
            rules.append(rule)
            continue
        named = f"{label}, {key}" if key else label
        raise SettingWrong(f"The rule file {source}, line {place.of(key)}, {named}: {reason}.")
    return tuple(rules)
