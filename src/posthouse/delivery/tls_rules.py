"""The operator's own rules about encryption, as data: tls.toml in the data directory.

Each `[[rule]]` has `domains` ("example.org", or ".example.org" for everything below it) and `tls`: opportunistic, encrypt, verify or
dane. With verify, `names` may say for which names the server's certificate may be; without, it is the server's own. A rule alone
decides: nothing that the domain publishes is asked then. Of several that fit, the longest domain counts.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from posthouse.delivery.tls_policy import TlsNeed
from posthouse.model.errors import SettingWrong

_NAME = r"([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?$"


class TlsRule(Struct, frozen=True, forbid_unknown_fields=True):
    """One rule."""

    domains: Annotated[list[Annotated[str, Meta(pattern=r"^\.?" + _NAME)]], Meta(min_length=1)]
    tls: TlsNeed
    names: list[Annotated[str, Meta(pattern="^" + _NAME)]] = []


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    rule: list[TlsRule] = []


class TlsRules:
    """The rules in force."""

    def __init__(self, rules: list[TlsRule] | None = None) -> None:
        self._by_domain = {domain: rule for rule in rules or () for domain in rule.domains}

    @classmethod
    def load(cls, path: Path, *, dane: bool) -> TlsRules:
        """The rules of a file; none where it is missing. dane: whether TLSA records can be looked up here.

        Raises SettingWrong with the file, the rule and the reason.
        """
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingWrong(f"The TLS rules {path} cannot be read: {error}.") from error
        try:
            rules = msgspec.convert(tomllib.loads(text), _File).rule
        except tomllib.TOMLDecodeError as error:
            raise SettingWrong(f"The TLS rules {path} are not TOML: {error}.") from error
        except msgspec.ValidationError as error:
            raise SettingWrong(f"The TLS rules {path} are wrong: {error}.") from error
        seen: set[str] = set()
        for number, rule in enumerate(rules, 1):
            where = f"Rule {number} of the TLS rules {path} ({rule.domains[0]})"
            twice = seen.intersection(rule.domains)
            if twice:
                raise SettingWrong(f"{where} is the second about {min(twice)}: keep one of them.")
            seen.update(rule.domains)
            if rule.names and rule.tls is not TlsNeed.VERIFY:
                raise SettingWrong(f"{where} has names, which only count with tls = “verify”.")
            if rule.tls is TlsNeed.DANE and not dane:
                raise SettingWrong(f"{where} asks for DANE, which needs dns.validating = true.")
        return cls(rules)

    def rule_of(self, domain: str) -> TlsRule | None:
        """The rule about a domain, if there is one."""
        if not self._by_domain:
            return None
        rule = self._by_domain.get(domain)
        parent = domain
        while rule is None and parent:
            _, _, parent = parent.partition(".")
            rule = self._by_domain.get("." + parent)
        return rule
