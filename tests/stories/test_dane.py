"""DANE over real signatures: signed zones behind a validating unbound, and what the policy book makes of them (DANE-1)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from posthouse.clock import SystemClock
from posthouse.db.pool import Pool
from posthouse.delivery import DnsResolver, LimitBook, PolicyBook, PolicySettings, Route, RouteBook, SiteLimits, TlsNeed
from posthouse.mail.replies import Failure
from posthouse.model.ports import DnsTrouble, MxHost, Tlsa, ValidatingResolver

AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
DIGEST = "ab" * 32
OWN = f"""\
@ MX 10 mx
mx A 127.0.0.1
_25._tcp.mx TLSA 3 1 1 {DIGEST}
"""
Validating = Callable[..., str]


def resolver_at(address: str) -> DnsResolver:
    return DnsResolver([address], timeout=5.0)


def book(pool: Pool, resolver: DnsResolver, *, validating: bool = True, **settings: Any) -> Callable[..., Any]:
    """Looks a domain up: its route, and the policy put into it."""
    asked: ValidatingResolver | None = resolver if validating else None
    routes = RouteBook(pool, resolver, LimitBook.load(SiteLimits()), asked)
    policies = PolicyBook(pool, resolver, asked, PolicySettings(mta_sts=False, **settings), SystemClock())

    async def find(domain: str, now: datetime = AT) -> Route | Failure:
        return (await policies.apply(await routes.find([domain], now), now))[domain]

    return find


async def test_an_answer_says_whether_it_was_validated(validating_dns: Validating) -> None:
    resolver = resolver_at(
        validating_dns(
            {"signed.test": OWN, "broken.test": OWN}, {"plain.test": OWN}, ("broken.test", DIGEST, "cd" * 32)
        )
    )
    signed = await resolver.validated_mx("signed.test")
    assert (signed.records, signed.authentic, signed.seconds) == ((MxHost(10, "mx.signed.test"),), True, 300.0)
    addresses = await resolver.validated_addresses("mx.signed.test")
    assert (addresses.records, addresses.authentic) == (("127.0.0.1",), True)
    tlsa = await resolver.tlsa("_25._tcp.mx.signed.test")
    assert (tlsa.records, tlsa.authentic) == ((Tlsa(3, 1, 1, bytes.fromhex(DIGEST)),), True)
    absent = await resolver.validated_mx("mx.signed.test")
    assert (absent.records, absent.authentic) == ((), True)
    assert (await resolver.tlsa("_25._tcp.other.signed.test")).records == ()
    for found in (
        await resolver.validated_mx("plain.test"),
        await resolver.validated_addresses("mx.plain.test"),
        await resolver.tlsa("_25._tcp.mx.plain.test"),
    ):
        assert found.records
        assert not found.authentic
    with pytest.raises(DnsTrouble):
        await resolver.tlsa("_25._tcp.mx.broken.test")


async def test_an_address_of_the_sixth_version_only_is_an_address(validating_dns: Validating) -> None:
    resolver = resolver_at(validating_dns({"six.test": "mx AAAA ::1\n"}))
    found = await resolver.validated_addresses("mx.six.test")
    assert (found.records, found.authentic) == (("::1",), True)


async def test_signed_records_are_a_policy(validating_dns: Validating, pool: Pool) -> None:
    resolver = resolver_at(validating_dns({"signed.test": OWN}, {"plain.test": OWN}))
    find = book(pool, resolver)
    route = await find("signed.test")
    wanted = route.policy.of_host("mx.signed.test")
    assert (wanted.need, wanted.tlsa, wanted.names) == (TlsNeed.DANE, (Tlsa(3, 1, 1, bytes.fromhex(DIGEST)),), ())
    assert (await find("plain.test")).policy.of_host("mx.plain.test").need is TlsNeed.OPPORTUNISTIC
    # What one sender learnt another reads from the table, with its proof.
    again = await book(pool, resolver)("signed.test")
    assert again == route


async def test_without_a_name_server_that_validates_dane_is_off(validating_dns: Validating, pool: Pool) -> None:
    find = book(pool, resolver_at(validating_dns({"signed.test": OWN})), validating=False)
    assert (await find("signed.test")).policy.of_host("mx.signed.test").need is TlsNeed.OPPORTUNISTIC


async def test_an_unsigned_domain_at_a_signed_host_has_no_dane(validating_dns: Validating, pool: Pool) -> None:
    """RFC 7672 §2.2.1: who forges the MX chooses the host, so that host's records prove nothing."""
    find = book(pool, resolver_at(validating_dns({"signed.test": OWN}, {"plain.test": "@ MX 10 mx.signed.test.\n"})))
    assert (await find("plain.test")).policy.of_host("mx.signed.test").need is TlsNeed.OPPORTUNISTIC


async def test_a_signed_domain_at_an_unsigned_host_has_no_dane(validating_dns: Validating, pool: Pool) -> None:
    find = book(pool, resolver_at(validating_dns({"signed.test": "@ MX 10 mx.plain.test.\n"}, {"plain.test": OWN})))
    assert (await find("signed.test")).policy.of_host("mx.plain.test").need is TlsNeed.OPPORTUNISTIC


async def test_a_domain_without_mx_is_its_own_host(validating_dns: Validating, pool: Pool) -> None:
    zone = f"@ A 127.0.0.1\n_25._tcp TLSA 3 1 1 {DIGEST}\n"
    route = await book(pool, resolver_at(validating_dns({"signed.test": zone})))("signed.test")
    assert route.policy.of_host("signed.test").need is TlsNeed.DANE


@pytest.mark.parametrize("record", ["1 1 1 " + DIGEST, "0 0 0 3000", "3 2 1 " + DIGEST, "3 1 3 " + DIGEST])
async def test_records_that_mail_cannot_use_still_ask_for_encryption(
    validating_dns: Validating, pool: Pool, record: str
) -> None:
    """RFC 7672 §2.2."""
    zone = OWN.replace(f"3 1 1 {DIGEST}", record)
    route = await book(pool, resolver_at(validating_dns({"signed.test": zone})))("signed.test")
    wanted = route.policy.of_host("mx.signed.test")
    assert (wanted.need, wanted.tlsa) == (TlsNeed.ENCRYPT, ())


async def test_forged_records_stop_mail_instead_of_letting_it_go_in_the_clear(
    validating_dns: Validating, pool: Pool
) -> None:
    address = validating_dns({"signed.test": OWN}, None, ("signed.test", DIGEST, "cd" * 32))
    assert await book(pool, resolver_at(address))("signed.test") is Failure.TLSA_UNANSWERED


async def test_a_host_whose_records_were_forged_gives_way_to_another(validating_dns: Validating, pool: Pool) -> None:
    two = OWN + f"@ MX 20 mx2\nmx2 A 127.0.0.1\n_25._tcp.mx2 TLSA 3 1 1 {'ef' * 32}\n"
    address = validating_dns({"signed.test": two}, None, ("signed.test", DIGEST, "cd" * 32))
    route = await book(pool, resolver_at(address))("signed.test")
    assert [mx.host for mx in route.mx] == ["mx2.signed.test"]
    assert route.policy.of_host("mx2.signed.test").need is TlsNeed.DANE


async def test_a_forged_mx_is_no_route(validating_dns: Validating, pool: Pool) -> None:
    address = validating_dns({"signed.test": OWN}, None, ("signed.test", "10 mx.signed.test.", "10 ns.signed.test."))
    assert await book(pool, resolver_at(address))("signed.test") is Failure.DNS_TEMPORARY


async def test_a_certificate_for_the_domain_will_do_under_an_authority(validating_dns: Validating, pool: Pool) -> None:
    """RFC 7672 §3.2.2."""
    route = await book(pool, resolver_at(validating_dns({"signed.test": OWN.replace("3 1 1", "2 0 1")})))("signed.test")
    assert route.policy.of_host("mx.signed.test").names == ("signed.test",)


async def test_records_are_asked_for_again_when_they_are_old(validating_dns: Validating, pool: Pool) -> None:
    resolver = resolver_at(validating_dns({"signed.test": OWN}))
    find = book(pool, resolver)
    before = await find("signed.test")
    resolver._validating.nameservers = resolver_at(
        validating_dns({"signed.test": OWN.replace(DIGEST, "ef" * 32)})
    )._resolver.nameservers
    assert await find("signed.test", AT + timedelta(seconds=299)) is before
    after = await find("signed.test", AT + timedelta(seconds=301))
    assert after.policy.of_host("mx.signed.test").tlsa == (Tlsa(3, 1, 1, bytes.fromhex("ef" * 32)),)


async def test_the_operator_may_ask_for_dane(validating_dns: Validating, pool: Pool, tmp_path: Any) -> None:
    rules = tmp_path / "tls.toml"
    rules.write_text('[[rule]]\ndomains = ["signed.test", "plain.test"]\ntls = "dane"\n', encoding="utf-8")
    find = book(pool, resolver_at(validating_dns({"signed.test": OWN}, {"plain.test": OWN})), rules_file=rules)
    assert (await find("signed.test")).policy.need is TlsNeed.DANE
    assert await find("plain.test") is Failure.DANE_MISSING
