"""The sample list: its facts are those that a plain reading of the file finds, and it has the faults of a real export."""

from __future__ import annotations

import csv
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from posthouse.audience.sample import SampleFacts, write_sample
from posthouse.mail.address import Address, parse_address
from posthouse.model.errors import AddressWrong

MANY = 30_000
WELL_KNOWN = {
    "gmail.com": 36,
    "googlemail.com": 2,
    "yahoo.com yahoo.co.uk aol.com": 12,
    "outlook.com hotmail.com live.com": 16,
    "icloud.com": 5,
    "gmx.net web.de orange.fr comcast.net btinternet.com libero.it": 12,
}


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file, delimiter=";")


def address_of(row: dict[str, str]) -> Address | None:
    try:
        return parse_address(row["E-Mail"].strip())
    except AddressWrong:
        return None


def counted(path: Path) -> SampleFacts:
    rows = rejects = 0
    found = set()
    for row in rows_of(path):
        rows += 1
        address = address_of(row)
        if address is None:
            rejects += 1
        else:
            found.add(address.text.lower())
    return SampleFacts(rows, len(found), rejects)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "contacts.csv"
    write_sample(path, MANY, 1)
    return path


@pytest.fixture(scope="module")
def rows(sample: Path) -> list[dict[str, str]]:
    return list(rows_of(sample))


@pytest.fixture(scope="module")
def addresses(rows: list[dict[str, str]]) -> list[Address]:
    return [address for row in rows if (address := address_of(row)) is not None]


# The last size lets the consumers' names and the role addresses come round again.
@pytest.mark.parametrize(
    ("recipients", "seed"), [(0, 1), (1, 1), (2, 5), (400, 7), (5_000, 1), (5_000, -3), (260_000, 2)]
)
def test_the_facts_are_what_an_independent_reading_counts(tmp_path: Path, recipients: int, seed: int) -> None:
    path = tmp_path / "contacts.csv"
    facts = write_sample(path, recipients, seed)
    assert facts == counted(path)
    assert facts.rows == recipients


def test_a_seed_gives_the_same_bytes_and_another_seed_other_people(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    assert write_sample(one, 1_000, 3) == write_sample(same, 1_000, 3)
    write_sample(other, 1_000, 4)
    assert one.read_bytes() == same.read_bytes()
    found = [{row["E-Mail"] for row in rows_of(path)} for path in (one, other)]
    assert len(found[0] & found[1]) < 500


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for recipients in (2_000, 10_000):
        tracemalloc.start()
        write_sample(tmp_path / "contacts.csv", recipients, 1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.1


def test_the_file_is_written_as_spreadsheets_export_it(sample: Path) -> None:
    content = sample.read_bytes()
    header = "\ufeffE-Mail;First Name;LAST NAME;City;Plan;Last order;Signed up\r\n".encode()
    assert content.startswith(header)
    assert 40 < content.count(b"\r\n\r\n") < 150, "about 0.3 % blank lines"


def test_values_have_the_faults_of_a_real_export(rows: list[dict[str, str]]) -> None:
    cities = {row["City"] for row in rows}
    assert any("\n" in city for city in cities)
    assert any(";" in city for city in cities)
    assert any('"' in city for city in cities)
    assert "Łódź" in cities
    last_names = {row["LAST NAME"] for row in rows}
    assert {"O'Brien", "Weiß", "Müller", "MÜLLER"} <= last_names
    emails = [row["E-Mail"] for row in rows]
    assert any(email.startswith(" ") for email in emails)
    assert any(email.endswith(" ") for email in emails)
    assert any(email.endswith("\u00a0") for email in emails)
    assert any("@GMAIL.COM" in email and not email.strip().isupper() for email in emails)
    days = [row["Signed up"].strip() for row in rows]
    assert all(any(sign in day for day in days) for sign in "-./"), "dates in three notations"


def test_some_rows_lack_what_others_have(rows: list[dict[str, str]]) -> None:
    assert 0.06 < sum(not row["First Name"].strip() for row in rows) / MANY < 0.10
    assert 0.25 < sum(not row["Last order"].strip() for row in rows) / MANY < 0.35
    empty = [row for row in rows if not row["E-Mail"].strip()]
    assert 0.001 < len(empty) / MANY < 0.004
    assert all(any(value.strip() for value in row.values()) for row in empty), "no such row looks like a blank line"


def test_wrong_addresses_are_the_slips_of_people(rows: list[dict[str, str]]) -> None:
    wrong = [row["E-Mail"].strip() for row in rows if row["E-Mail"].strip() and address_of(row) is None]
    assert 0.005 < len(wrong) / MANY < 0.009
    kinds = Counter(
        "no @" if "@" not in email else "two dots" if ".." in email else "a space" if " " in email else email
        for email in wrong
    )
    assert set(kinds) == {"no @", "two dots", "a space"}
    assert min(kinds.values()) > 0.1 * len(wrong)


def test_duplicates_differ_in_case_and_in_what_is_empty(rows: list[dict[str, str]]) -> None:
    seen: dict[str, dict[str, str]] = {}
    other_case = other_fields = duplicates = 0
    for row in rows:
        address = address_of(row)
        if address is None:
            continue
        first = seen.setdefault(address.text.lower(), row)
        if first is not row:
            duplicates += 1
            other_case += row["E-Mail"].strip() != first["E-Mail"].strip()
            other_fields += [bool(v.strip()) for v in row.values()] != [bool(v.strip()) for v in first.values()]
    assert 0.015 < duplicates / MANY < 0.025
    assert other_case > duplicates / 2
    assert other_fields > duplicates / 2


def test_nobody_real_is_in_the_list(addresses: list[Address]) -> None:
    known = {domain for domains in WELL_KNOWN for domain in domains.split()}
    for address in addresses:
        if address.domain in known:
            assert address.local.lower().startswith("sample.")
        else:
            assert address.domain.endswith(".example")


def test_domains_are_spread_as_in_a_consumer_list(addresses: list[Address]) -> None:
    found = Counter(address.domain for address in addresses)
    for domains, share in WELL_KNOWN.items():
        assert sum(found[domain] for domain in domains.split()) / len(addresses) == pytest.approx(
            share / 100, abs=0.015
        )
    companies = [count for domain, count in found.items() if domain.endswith(".example")]
    assert len(companies) > 200
    assert max(companies) < 0.01 * len(addresses)


def test_addresses_that_are_rare_but_right(addresses: list[Address]) -> None:
    assert sum(address.domain.startswith("xn--") for address in addresses) > 20
    assert sum(address.needs_smtputf8 for address in addresses) > 20
    assert sum(address.local == "info" for address in addresses) > 5
    assert any("'" in address.local for address in addresses)
    assert any("+news" in address.local for address in addresses)
    assert any(address.local.startswith("jürgen.") for address in addresses)
