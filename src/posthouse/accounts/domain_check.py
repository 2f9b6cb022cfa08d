"""Looking whether a domain's records are published as they must be."""

from __future__ import annotations

import re
from collections.abc import Sequence

from posthouse.accounts.domains import DnsRecord, DomainCheck
from posthouse.model.ports import DnsTrouble, NoSuchDomain, Resolver


async def check_domain(resolver: Resolver, records: Sequence[DnsRecord]) -> list[DomainCheck]:
    """Compare each record with what DNS says now."""
    return [await _check(resolver, record) for record in records]


async def _check(resolver: Resolver, record: DnsRecord) -> DomainCheck:
    try:
        if record.kind == "MX":
            found = [f"{mx.preference} {mx.host}." for mx in await resolver.mx(record.name)]
        else:
            found = list(await resolver.txt(record.name))
    except NoSuchDomain:
        found = []
    except DnsTrouble as error:
        return DomainCheck(record, None, f"DNS did not answer ({error}); try again.")
    if record.kind == "MX":
        return _check_mx(record, found)
    if record.name.startswith("_dmarc."):
        return _check_one(record, [text for text in found if text.startswith("v=DMARC1")], _dmarc_problem)
    if record.value.startswith("v=spf1"):
        return _check_one(
            record, [text for text in found if re.match(r"v=spf1( |$)", text, re.IGNORECASE)], _spf_problem
        )
    return _check_one(record, found, _key_problem)


def _check_one(record: DnsRecord, found: Sequence[str], problem_of: object) -> DomainCheck:
    if not found:
        return DomainCheck(
            record, None, f"{record.name} has no such {record.kind} record yet; publish it and wait for DNS."
        )
    if len(found) > 1:
        # RFC 7208 §3.2, RFC 9989: several records are as bad as none.
        return DomainCheck(
            record, " | ".join(found), f"{record.name} has {len(found)} of these records; only one may be there."
        )
    assert callable(problem_of)
    return DomainCheck(record, found[0], problem_of(record, found[0]))


def _check_mx(record: DnsRecord, found: Sequence[str]) -> DomainCheck:
    if not found:
        return DomainCheck(record, None, f"{record.name} has no MX record yet, so bounces cannot come back.")
    host = record.value.partition(" ")[2].lower()
    shown = ", ".join(found)
    if not any(text.partition(" ")[2].lower() == host for text in found):
        return DomainCheck(record, shown, f"The MX of {record.name} does not lead to {host}")
    return DomainCheck(record, shown, None)


def _tags(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip(): re.sub(r"\s", "", value) for name, _, value in pairs if name.strip()}


def _key_problem(record: DnsRecord, found: str) -> str | None:
    wanted, there = _tags(record.value).get("p"), _tags(found).get("p")
    if there == wanted:
        return None
    if there == "":
        return f"{record.name} revokes the key: its p= is empty."
    return f"{record.name} has another key; was a part of it lost when it was pasted?"


def _spf_problem(record: DnsRecord, found: str) -> str | None:
    terms = found.lower().split()
    if "+all" in terms or "all" in terms:
        return f"The SPF record of {record.name} lets anybody use your return path: end it with -all."
    ours = record.value.split()[1].lower()
    if ours not in terms and not any(
        term.lstrip("+").startswith(("a", "mx", "ip4:", "ip6:", "include:")) for term in terms[1:]
    ):
        return f"The SPF record of {record.name} allows no address of yours: add {ours}."
    return None


def _dmarc_problem(record: DnsRecord, found: str) -> str | None:
    policy = _tags(found).get("p", "none" if "rua" in _tags(found) else "").lower()
    if policy not in ("none", "quarantine", "reject"):
        return f"The DMARC record of {record.name} has no policy: begin with “{record.value}”."
    return None
