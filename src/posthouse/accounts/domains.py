"""Sending domains: their DKIM keys, the DNS records to publish, and whether they may send."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from msgspec import Struct

from posthouse.accounts.master_key import MasterKey
from posthouse.accounts.queries import SQL
from posthouse.db.pool import Connection, Pool
from posthouse.mail.dkim import DkimSigner
from posthouse.mail.dkim_keys import dkim_record, generate_ed25519, generate_rsa
from posthouse.model.errors import KeyWrong, Refused


class SendingDomain(Struct, frozen=True):
    """A domain that may appear in From once it is verified."""

    domain: str
    created_at: datetime
    verified_at: datetime | None


class DnsRecord(Struct, frozen=True):
    """One record to publish. required: sending is refused without it; reason: one sentence for people."""

    name: str
    kind: str
    value: str
    required: bool
    reason: str


class DomainCheck(Struct, frozen=True):
    """What DNS said about one record. found: what is there instead, or None; problem: None when all is well."""

    record: DnsRecord
    found: str | None
    problem: str | None


async def add_domain(connection: Connection, workspace_id: int, domain: str, key: MasterKey, at: datetime) -> bool:
    """Register a domain with fresh RSA-2048 and Ed25519 keys; returns False, and changes nothing, when it is there already.

    Call inside a transaction.
    """
    status = await connection.execute(SQL["add_domain"], workspace_id, domain, at)
    if status.endswith(" 0"):
        return False
    stamp = at.strftime("%Y%m")
    for algorithm, private_key in (("rsa", generate_rsa()), ("ed25519", generate_ed25519())):
        selector = f"ph{stamp}-{algorithm}"
        sealed = key.seal(_to_bytes(private_key), f"DKIM {selector} {domain}")
        record = dkim_record(private_key.public_key())
        await connection.execute(SQL["add_key"], workspace_id, domain, selector, algorithm, record, sealed, at)
    return True


async def find_domain(connection: Connection | Pool, workspace_id: int, domain: str) -> SendingDomain | None:
    """The sending domain of that name, or None."""
    row = await connection.fetchrow(SQL["find_domain"], workspace_id, domain)
    return SendingDomain(**row) if row is not None else None


async def list_domains(connection: Connection | Pool, workspace_id: int) -> list[SendingDomain]:
    """All sending domains, by name."""
    return [SendingDomain(**row) for row in await connection.fetch(SQL["list_domains"], workspace_id)]


async def domain_records(
    connection: Connection | Pool, workspace_id: int, domain: str, *, bounce_subdomain: str, mail_host: str
) -> list[DnsRecord]:
    """The records to publish for a domain: DKIM, SPF and MX of the return path, DMARC (SPF-2, DKIM-1, DMARC-1).

    mail_host: the host name of this installation, which receives bounces and whose addresses may send.
    """
    keys = await connection.fetch(SQL["keys_of_domain"], workspace_id, domain)
    if not keys:
        raise Refused(f"{domain} is not a sending domain here: run `posthouse domain add {domain}` first.")
    bounces = f"{bounce_subdomain}.{domain}"
    records = [
        DnsRecord(
            f"{row['selector']}._domainkey.{domain}",
            "TXT",
            row["dns_record"],
            required=row["algorithm"] == "rsa",
            reason="The key that proves your signature (DKIM)."
            if row["algorithm"] == "rsa"
            else "A second, modern signature key; needed when sender.ed25519 is on.",
        )
        for row in keys
    ]
    return [
        *records,
        DnsRecord(bounces, "TXT", f"v=spf1 a:{mail_host} -all", True, "Who may use your return path (SPF)."),
        DnsRecord(bounces, "MX", f"10 {mail_host}.", True, "Where bounces come back to."),
        DnsRecord(f"_dmarc.{domain}", "TXT", "v=DMARC1; p=none", True, "What receivers do with forgeries (DMARC)."),
    ]


async def note_check(
    connection: Connection,
    workspace_id: int,
    domain: str,
    checks: Sequence[DomainCheck],
    at: datetime,
    *,
    forced: bool,
) -> bool:
    """Record a check; the domain may send when it passed or was forced. Returns whether it may. Call inside a transaction."""
    passed = all(check.problem is None for check in checks if check.record.required)
    findings = [{"name": c.record.name, "kind": c.record.kind, "found": c.found, "problem": c.problem} for c in checks]
    await connection.execute(SQL["note_check"], workspace_id, domain, at, passed, forced, findings)
    if passed or forced:
        await connection.execute(SQL["mark_verified"], workspace_id, domain, at)
    return passed or forced


async def signers_of(
    connection: Connection | Pool, workspace_id: int, domain: str, key: MasterKey, *, ed25519: bool
) -> list[DkimSigner]:
    """The signers of a domain, RSA first; Ed25519 as the second when wanted (DKIM-1). Raises KeyWrong."""
    signers = []
    for row in await connection.fetch(SQL["keys_of_domain"], workspace_id, domain):
        if row["algorithm"] == "rsa" or ed25519:
            secret = key.open(row["sealed_private_key"], f"DKIM {row['selector']} {domain}")
            signers.append(DkimSigner(domain, row["selector"], _from_bytes(secret)))
    return signers


def _to_bytes(private_key: RSAPrivateKey | Ed25519PrivateKey) -> bytes:
    return private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _from_bytes(secret: bytes) -> RSAPrivateKey | Ed25519PrivateKey:
    private_key = serialization.load_der_private_key(secret, password=None)
    if not isinstance(private_key, RSAPrivateKey | Ed25519PrivateKey):
        raise KeyWrong("A DKIM key in the database is neither RSA nor Ed25519.")
    return private_key
