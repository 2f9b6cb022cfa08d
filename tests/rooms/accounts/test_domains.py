"""Sending domains: keys that are sealed, records to publish, and what a check of real DNS answers finds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key

from posthouse import accounts
from posthouse.accounts import DnsRecord, DomainCheck, MasterKey
from posthouse.db.pool import Pool
from posthouse.delivery import DnsResolver
from posthouse.mail.dkim_keys import dkim_record
from posthouse.model.errors import KeyWrong, Refused
from posthouse.sandbox import Plan, Sandbox, ZoneRecord, publish, start

AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
KEY = MasterKey({1: bytes(range(32))}, 1)
DOMAIN = "sender.example"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with start(Plan(seed=1, directory=tmp_path_factory.mktemp("sandbox"))) as running:
        yield running


async def add(pool: Pool, domain: str = DOMAIN, key: MasterKey = KEY) -> bool:
    async with pool.acquire() as connection, connection.transaction():
        return await accounts.add_domain(connection, 1, domain, key, AT)


async def records(pool: Pool) -> list[DnsRecord]:
    return await accounts.domain_records(pool, 1, DOMAIN, bounce_subdomain="bounces", mail_host="mail.sender.example")


async def test_a_domain_gets_two_keys_that_are_sealed(pool: Pool) -> None:
    assert await add(pool) is True
    before = await pool.fetch("select * from dkim_keys order by selector")
    assert await add(pool) is False
    assert await pool.fetch("select * from dkim_keys order by selector") == before
    assert [(row["selector"], row["algorithm"]) for row in before] == [
        ("ph202611-ed25519", "ed25519"),
        ("ph202611-rsa", "rsa"),
    ]
    for row in before:
        secret = KEY.open(row["sealed_private_key"], f"DKIM {row['selector']} {DOMAIN}")
        private = load_der_private_key(secret, None)
        assert dkim_record(private.public_key()) == row["dns_record"]  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"[Cc]ould not"):
            load_der_private_key(row["sealed_private_key"], None)
    assert [s.selector for s in await accounts.signers_of(pool, 1, DOMAIN, KEY, ed25519=False)] == ["ph202611-rsa"]
    both = await accounts.signers_of(pool, 1, DOMAIN, KEY, ed25519=True)
    assert [signer.selector for signer in both] == ["ph202611-rsa", "ph202611-ed25519"]
    with pytest.raises(KeyWrong):
        await accounts.signers_of(pool, 1, DOMAIN, MasterKey({1: bytes(32)}, 1), ed25519=False)


async def test_the_records_to_publish(pool: Pool) -> None:
    with pytest.raises(Refused, match=r"sender\.example is not a sending domain here: run `posthouse domain add"):
        await records(pool)
    await add(pool)
    made = await records(pool)
    assert [(record.name, record.kind, record.required) for record in made] == [
        (f"ph202611-rsa._domainkey.{DOMAIN}", "TXT", True),
        (f"ph202611-ed25519._domainkey.{DOMAIN}", "TXT", False),
        (f"bounces.{DOMAIN}", "TXT", True),
        (f"bounces.{DOMAIN}", "MX", True),
        (f"_dmarc.{DOMAIN}", "TXT", True),
    ]
    assert made[0].value.startswith("v=DKIM1; k=rsa; p=MII")
    assert made[2].value == "v=spf1 a:mail.sender.example -all"
    assert made[3].value == "10 mail.sender.example."
    assert all(record.reason.endswith(".") for record in made)


RSA, ED, SPF, MX, DMARC = range(5)


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, {}),
        ({RSA: None}, {RSA: "has no such TXT record yet"}),
        ({ED: None}, {ED: "has no such TXT record yet"}),
        ({RSA: ["v=DKIM1; p="]}, {RSA: "revokes the key"}),
        ({RSA: ["v=DKIM1; p=AAAA"]}, {RSA: "has another key"}),
        ({RSA: ["{} ", "v=DKIM1; p=AAAA"]}, {RSA: "has 2 of these records"}),
        ({RSA: ["{}; t=s"]}, {}),
        ({SPF: None}, {SPF: "has no such TXT record yet"}),
        ({SPF: ["google-site-verification=x"]}, {SPF: "has no such TXT record yet"}),
        ({SPF: ["{}", "v=spf1 -all"]}, {SPF: "has 2 of these records; only one may be there"}),
        ({SPF: ["v=spf1 -all"]}, {SPF: "allows no address of yours: add a:mail.sender.example"}),
        ({SPF: ["v=spf1 +all"]}, {SPF: "lets anybody use your return path"}),
        ({SPF: ["V=SPF1 include:other.example ~all"]}, {}),
        ({MX: None}, {MX: "has no MX record yet, so bounces cannot come back"}),
        ({MX: ["10 elsewhere.example"]}, {MX: "does not lead to mail.sender.example"}),
        ({MX: ["5 elsewhere.example", "10 MAIL.sender.example"]}, {}),
        ({DMARC: None}, {DMARC: "has no such TXT record yet"}),
        ({DMARC: ["v=DMARC1; p=reject; rua=mailto:a@b.example"]}, {}),
        ({DMARC: ["v=DMARC1; rua=mailto:a@b.example"]}, {}),
        ({DMARC: ["v=DMARC1"]}, {DMARC: "has no policy"}),
        ({DMARC: ["v=DMARC1; p=perhaps"]}, {DMARC: "has no policy"}),
        ({DMARC: ["v=DMARC1; p=none", "v=DMARC1; p=reject"]}, {DMARC: "has 2 of these records"}),
    ],
)
async def test_what_a_check_finds(
    made: list[DnsRecord], sandbox: Sandbox, changes: dict[int, list[str] | None], problems: dict[int, str]
) -> None:
    zone = []
    for nth, record in enumerate(made):
        value = record.value.removesuffix(".")
        texts = changes.get(nth, ["{}"]) or []
        zone += [
            ZoneRecord(record.name, "MX" if record.kind == "MX" else "TXT", text.replace("{}", value)) for text in texts
        ]
    publish(sandbox.ready.ca_file.parent, zone)
    await asyncio.sleep(0.08)
    resolver = DnsResolver([f"127.0.0.1:{sandbox.ready.dns_port}"], timeout=5.0)
    found = await accounts.check_domain(resolver, made)
    told = {nth: check.problem for nth, check in enumerate(found) if check.problem is not None}
    assert told.keys() == problems.keys()
    for nth, sentence in problems.items():
        assert sentence in (told[nth] or "")


@pytest.fixture(scope="module")
def made() -> list[DnsRecord]:
    """Records as domain_records makes them; keys take long to make."""
    from posthouse.mail.dkim_keys import generate_ed25519, generate_rsa

    keys: list[Any] = [("rsa", generate_rsa(), True), ("ed25519", generate_ed25519(), False)]
    dkim = [
        DnsRecord(f"ph202611-{name}._domainkey.{DOMAIN}", "TXT", dkim_record(key.public_key()), required, "A key.")
        for name, key, required in keys
    ]
    return [
        *dkim,
        DnsRecord(f"bounces.{DOMAIN}", "TXT", "v=spf1 a:mail.sender.example -all", True, "SPF."),
        DnsRecord(f"bounces.{DOMAIN}", "MX", "10 mail.sender.example.", True, "MX."),
        DnsRecord(f"_dmarc.{DOMAIN}", "TXT", "v=DMARC1; p=none", True, "DMARC."),
    ]


async def test_dns_that_does_not_answer_is_no_missing_record(sandbox: Sandbox, made: list[DnsRecord]) -> None:
    publish(sandbox.ready.ca_file.parent, [], {DOMAIN: "servfail"})
    await asyncio.sleep(0.08)
    resolver = DnsResolver([f"127.0.0.1:{sandbox.ready.dns_port}"], timeout=2.0)
    found = await accounts.check_domain(resolver, [record for record in made if record.kind == "MX"])
    outside = DnsResolver(["127.0.0.1:9"], timeout=0.2)
    found += await accounts.check_domain(outside, made[:1])
    assert "DNS did not answer" in (found[-1].problem or "")


def check(record: DnsRecord, problem: str | None) -> DomainCheck:
    return DomainCheck(record, None, problem)


async def test_a_domain_may_send_when_all_that_is_required_is_there_or_when_it_is_forced(pool: Pool) -> None:
    await add(pool)
    made = await records(pool)
    required, optional = made[0], made[1]

    async def note(checks: list[DomainCheck], minute: int, *, forced: bool = False) -> bool:
        async with pool.acquire() as connection, connection.transaction():
            return await accounts.note_check(connection, 1, DOMAIN, checks, AT.replace(minute=minute), forced=forced)

    async def verified_at() -> datetime | None:
        found = await accounts.find_domain(pool, 1, DOMAIN)
        assert found is not None
        return found.verified_at

    assert await note([check(required, "missing"), check(optional, None)], 1) is False
    assert await verified_at() is None
    assert await note([check(required, "missing")], 2, forced=True) is True
    assert await verified_at() == AT.replace(minute=2)
    assert await note([check(required, None), check(optional, "missing")], 3) is True
    assert await verified_at() == AT.replace(minute=2), "since when it may send"
    rows = await pool.fetch("select passed, forced, findings from domain_checks order by at")
    assert [(row["passed"], row["forced"]) for row in rows] == [(False, False), (False, True), (True, False)]
    assert rows[1]["findings"] == [{"name": required.name, "kind": "TXT", "found": None, "problem": "missing"}]
    assert await accounts.find_domain(pool, 1, "other.example") is None
    assert await accounts.find_domain(pool, 2, DOMAIN) is None
    assert [each.domain for each in await accounts.list_domains(pool, 1)] == [DOMAIN]
