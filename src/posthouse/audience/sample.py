"""A list made up to look like a real, messy export, with facts that say what an import of it must find.

Every address is a made-up one: at well-known domains it begins with `sample.`, all other domains end in `.example` (RFC 2606 §2).
"""

from __future__ import annotations

import csv
import unicodedata
from datetime import date, timedelta
from importlib import resources
from itertools import accumulate
from pathlib import Path
from random import Random

import msgspec
from msgspec import Struct, structs

from posthouse.mail.address import parse_address
from posthouse.model.errors import AddressWrong

_HEADER = ("E-Mail", "First Name", "LAST NAME", "City", "Plan", "Last order", "Signed up")

# Shares of all rows.
_EMPTY_ADDRESS = 0.002
_TYPO = 0.007
_DUPLICATE = 0.02
_BLANK_LINE = 0.003
_NO_FIRST_NAME = 0.06
# Shares of company rows.
_ROLE = 0.08
_UTF8_LOCAL = 0.15

# Letters that Unicode does not take apart, and the German ones, which have spellings of their own.
_SPELLINGS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "ł": "l", "ø": "o", "å": "aa", "ð": "d", "ı": "i"}
)
# A prime far above the number of combinations: steps of this size visit each of them before one comes again.
_STEP = 2_147_483_647
_REMEMBERED = 512
# Stands for a domain of a company of its own.
_COMPANY = ""
_NEWEST = date(2026, 9, 30)


class SampleFacts(Struct, frozen=True):
    """What a right import of the file finds.

    rows: data rows, blank lines not counted; addresses: distinct valid addresses, compared in lower case; rejects: rows whose address is
    invalid or empty.
    """

    rows: int
    addresses: int
    rejects: int


class _Words(Struct, frozen=True, forbid_unknown_fields=True):
    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    cities: tuple[str, ...]
    awkward_cities: tuple[str, ...]
    plans: tuple[str, ...]
    roles: tuple[str, ...]
    trades: tuple[str, ...]
    towns: tuple[str, ...]
    idn_domains: tuple[str, ...]
    providers: dict[str, int]


class _Row(Struct, frozen=True):
    email: str
    first_name: str
    last_name: str
    city: str
    plan: str
    last_order: str
    signed_up: str


def write_sample(path: Path, recipients: int, seed: int) -> SampleFacts:
    """Write a CSV of `recipients` data rows to `path` and return what is in it.

    UTF-8 with BOM, semicolons, CRLF, fields with line breaks. The same arguments give the same bytes. Memory does not grow with the number
    of rows. Raises OSError when the file cannot be written.
    """
    chance = Random(seed)
    words = resources.files("posthouse.audience").joinpath("sample_words.toml").read_bytes()
    export = _Export(msgspec.toml.decode(words, type=_Words), chance)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\r\n")
        writer.writerow(_HEADER)
        for _ in range(recipients):
            if chance.random() < _BLANK_LINE:
                file.write("\r\n")
            writer.writerow(export.next_row())
    return SampleFacts(recipients, export.addresses, export.rejects)


class _Export:
    """Makes row after row and counts what it made. Fresh rows never share an address, so no address needs to be remembered to count."""

    def __init__(self, words: _Words, chance: Random) -> None:
        self.addresses = 0
        self.rejects = 0
        self._words = words
        self._chance = chance
        self._first = [(name, _local_form(name)) for name in words.first_names]
        self._last = [(name, _local_form(name)) for name in words.last_names]
        self._companies = [f"{trade}-{town}.example" for trade in words.trades for town in words.towns]
        self._companies += words.idn_domains
        self._domains = [*words.providers, _COMPANY]
        self._shares = list(accumulate([*words.providers.values(), 100 - sum(words.providers.values())]))
        names = len(self._first) * len(self._last)
        self._consumers = _Turns(names, chance)
        self._staff = _Turns(names * len(self._companies), chance)
        self._roles = _Turns(len(words.roles) * len(self._companies), chance)
        self._remembered: list[_Row] = []

    def next_row(self) -> tuple[str, ...]:
        """The fields of one data row, in the header's order."""
        draw = self._chance.random()
        if draw < _DUPLICATE and self._remembered:
            row, is_fresh = self._duplicate(), False
        else:
            row, is_fresh = self._fresh_row(), True
            if draw > 1 - _EMPTY_ADDRESS:
                row = structs.replace(row, email="")
            elif draw > 1 - _EMPTY_ADDRESS - _TYPO:
                row = structs.replace(row, email=self._mistyped(row.email))
        typed = self._as_typed(row)
        if not _is_valid(typed[0]):
            self.rejects += 1
        elif is_fresh:
            self.addresses += 1
            self._remember(row)
        return typed

    def _remember(self, row: _Row) -> None:
        if len(self._remembered) < _REMEMBERED:
            self._remembered.append(row)
        else:
            self._remembered[self._chance.randrange(_REMEMBERED)] = row

    def _fresh_row(self) -> _Row:
        chance = self._chance
        domain = chance.choices(self._domains, cum_weights=self._shares)[0]
        if domain != _COMPANY:
            email, first, last = self._consumer(domain)
        elif chance.random() < _ROLE:
            email, first, last = self._role(), "", ""
        else:
            email, first, last = self._employee()
        signed_up = _NEWEST - timedelta(days=int(chance.random() ** 2 * 3000))
        last_order = signed_up + (_NEWEST - signed_up) * chance.random()
        return _Row(
            email=email,
            first_name="" if chance.random() < _NO_FIRST_NAME else first,
            last_name=last,
            city=chance.choice(self._words.awkward_cities if chance.random() < 0.06 else self._words.cities),
            plan=chance.choice(self._words.plans),
            last_order="" if chance.random() < 0.3 else self._as_date(last_order),
            signed_up=self._as_date(signed_up),
        )

    def _consumer(self, domain: str) -> tuple[str, str, str]:
        names, turn = self._consumers.next()
        (first, first_local), (last, last_local) = self._pair(names)
        # A pair of names keeps its remainder, so its number differs from turn to turn.
        number = turn * 90 + names % 90
        link = "_" if self._chance.random() < 0.15 else "."
        tag = "+news" if self._chance.random() < 0.005 else ""
        return f"sample.{first_local}{link}{last_local}{number or ''}{tag}@{domain}", first, last

    def _employee(self) -> tuple[str, str, str]:
        place, turn = self._staff.next()
        names, company = divmod(place, len(self._companies))
        (first, first_local), (last, last_local) = self._pair(names)
        if not first.isascii() and self._chance.random() < _UTF8_LOCAL:
            first_local = unicodedata.normalize("NFC", first.lower())
        return f"{first_local}.{last_local}{turn or ''}@{self._companies[company]}", first, last

    def _pair(self, names: int) -> tuple[tuple[str, str], tuple[str, str]]:
        last, first = divmod(names, len(self._first))
        return self._first[first], self._last[last]

    def _role(self) -> str:
        place, turn = self._roles.next()
        company, role = divmod(place, len(self._words.roles))
        return f"{self._words.roles[role]}{turn or ''}@{self._companies[company]}"

    def _duplicate(self) -> _Row:
        """An earlier person again: another case, other fields empty. Only ASCII changes case, so every reader finds the same address."""
        chance = self._chance
        row = chance.choice(self._remembered)
        email = row.email
        if email.isascii():
            email = chance.choice((email, email.upper(), email.title(), email.capitalize()))
        values = [value if chance.random() < 0.6 else "" for value in structs.astuple(row)[1:]]
        return _Row(email, *values)

    def _mistyped(self, email: str) -> str:
        local, _, domain = email.partition("@")
        return self._chance.choice(
            (
                local + domain,
                f"{local}.{domain}",
                f"{local}@{domain.replace('.', '..', 1)}",
                f"{local}..@{domain}",
                f"{local} @{domain}",
                f"{local[:3]} {local[3:]}@{domain}",
                f"{local}@{domain.replace('.', ' .', 1)}",
            )
        )

    def _as_date(self, day: date) -> str:
        draw = self._chance.random()
        if draw < 0.7:
            return day.isoformat()
        return f"{day.day:02}.{day.month:02}.{day.year}" if draw < 0.9 else f"{day.month}/{day.day}/{day.year % 100:02}"

    def _as_typed(self, row: _Row) -> tuple[str, ...]:
        """The row as people leave it: shouted names and domains, stray spaces."""
        chance = self._chance
        email, first, last, *others = structs.astuple(row)
        if email and chance.random() < 0.03:
            local, at, domain = email.rpartition("@")
            email = local + at + domain.upper()
        if chance.random() < 0.06:
            first, last = first.upper(), last.upper()
        values = [email, first, last, *others]
        if chance.random() < 0.12:
            place = chance.randrange(len(values))
            before, after = chance.choice(((" ", ""), ("", " "), ("  ", "  "), ("", "\u00a0")))
            values[place] = before + values[place] + after
        return tuple(values)


class _Turns:
    """Numbers below `size` in a mixed order, each once a turn."""

    def __init__(self, size: int, chance: Random) -> None:
        self._size = size
        self._start = chance.randrange(size)
        self._drawn = 0

    def next(self) -> tuple[int, int]:
        """(a number, how many full turns came before)."""
        turn, place = divmod(self._drawn, self._size)
        self._drawn += 1
        return (self._start + place * _STEP) % self._size, turn


def _is_valid(email: str) -> bool:
    try:
        parse_address(email)
    except AddressWrong:
        return False
    return True


def _local_form(name: str) -> str:
    spelled = unicodedata.normalize("NFKD", name.lower().translate(_SPELLINGS))
    return spelled.encode("ascii", "ignore").decode()
