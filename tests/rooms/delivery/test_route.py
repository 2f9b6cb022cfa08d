"""Routes by real DNS: MX, implicit and null MX, domains that do not exist and servers that do not answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from posthouse.db.pool import Pool
from posthouse.delivery import DnsResolver, LimitBook, Relay, Route, RouteBook, SiteLimits
from posthouse.delivery.route import UNKNOWN_SITE
from posthouse.mail.replies import Failure
from posthouse.model.errors import SettingWrong
from posthouse.model.ports import DnsTrouble, MxHost, NoSuchDomain
from posthouse.sandbox import Plan, Sandbox, ZoneRecord, publish, start

AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
DOMAINS = {
    "plain-one.test": "plain",
    "plain-two.test": "plain",
    "gone.test": "nxdomain",
    "broken.test": "servfail",
    "silent.test": "silent",
    "no-mail.test": "null-mx",
}
RECORDS = [
    ZoneRecord("ours.example", "A", "127.0.0.5"),
    ZoneRecord("empty.example", "TXT", "nothing else is here"),
    ZoneRecord("long.example", "TXT", "x" * 700),
    ZoneRecord("many.example", "MX", "20 MX2.ours.example"),
    ZoneRecord("many.example", "MX", "10 mx1.ours.example"),
    ZoneRecord("mx1.ours.example", "A", "127.0.0.6"),
]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    directory = tmp_path_factory.mktemp("sandbox")
    publish(directory, RECORDS)
    with start(Plan(seed=1, directory=directory, domains=DOMAINS)) as running:
        yield running


@pytest.fixture
def resolver(sandbox: Sandbox) -> DnsResolver:
    return DnsResolver([f"127.0.0.1:{sandbox.ready.dns_port}"], timeout=0.5)


@pytest.fixture
def book(pool: Pool, resolver: DnsResolver) -> RouteBook:
    return RouteBook(pool, resolver, LimitBook.load(SiteLimits()))


async def test_names_are_looked_up(resolver: DnsResolver) -> None:
    assert sorted(await resolver.mx("many.example"), key=lambda mx: mx.preference) == [
        MxHost(10, "mx1.ours.example"),
        MxHost(20, "mx2.ours.example"),
    ]
    assert await resolver.mx("no-mail.test") == [MxHost(0, ".")]
    assert await resolver.mx("ours.example") == []
    assert await resolver.addresses("ours.example") == ["127.0.0.5"]
    assert await resolver.addresses("empty.example") == []
    assert await resolver.txt("long.example") == ["x" * 700]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("gone.test", NoSuchDomain),
        ("broken.test", DnsTrouble),
        ("silent.test", DnsTrouble),
        ("a" * 70 + ".test", DnsTrouble),
    ],
)
async def test_a_name_without_an_answer(resolver: DnsResolver, name: str, error: type[Exception]) -> None:
    for ask in (resolver.mx, resolver.addresses, resolver.txt):
        with pytest.raises(error):
            await ask(name)


@pytest.mark.parametrize("text", ["dns.example.com", "127.0.0.1:x", "1.2.3", "127.0.0.1:99999"])
def test_a_name_server_is_an_address(text: str) -> None:
    with pytest.raises(SettingWrong, match=r"dns\.nameservers has .*, which is not an IP address"):
        DnsResolver([text])
    DnsResolver(["127.0.0.1", "::1", "[::1]:53"])


async def test_routes(book: RouteBook) -> None:
    """SMTP-4 to SMTP-7."""
    found = await book.find([*DOMAINS, "many.example", "ours.example", "empty.example"], AT)
    one, two = found["plain-one.test"], found["plain-two.test"]
    assert isinstance(one, Route)
    assert one == two, "one provider is one site"
    assert one.site == "plain-mail.test"
    assert one.site_id != UNKNOWN_SITE
    many = found["many.example"]
    assert isinstance(many, Route)
    assert [many.site, many.hosts(random.Random(1))] == ["ours.example", ["mx1.ours.example", "mx2.ours.example"]]
    implicit = found["ours.example"]
    assert isinstance(implicit, Route)
    assert implicit.mx == (MxHost(0, "ours.example"),)
    assert {name: route for name, route in found.items() if isinstance(route, Failure)} == {
        "gone.test": Failure.DNS_NXDOMAIN,
        "broken.test": Failure.DNS_TEMPORARY,
        "silent.test": Failure.DNS_TEMPORARY,
        "no-mail.test": Failure.NULL_MX,
        "empty.example": Failure.NO_ADDRESS,
    }


async def test_what_one_process_found_another_reads_until_it_is_old(
    pool: Pool, resolver: DnsResolver, make_zone: Any
) -> None:
    names = ["plain-one.test", "no-mail.test", "many.example"]
    found = await RouteBook(pool, resolver, LimitBook.load(SiteLimits())).find(names, AT)
    offline = make_zone({})
    again = RouteBook(pool, offline, LimitBook.load(SiteLimits()))
    assert await again.find(names, AT + timedelta(minutes=59)) == found
    assert await again.find(names, AT + timedelta(minutes=59)) == found
    assert offline.asked == []
    assert set(
        (await RouteBook(pool, offline, LimitBook.load(SiteLimits())).find(names, AT + timedelta(hours=2))).values()
    ) == {Failure.DNS_NXDOMAIN}
    assert sorted(offline.asked) == sorted(names)


async def test_a_domain_in_trouble_is_asked_about_again(pool: Pool, make_zone: Any) -> None:
    zone = make_zone({"a.test": ["127.0.0.1"]}, {"a.test": DnsTrouble("no answer")})
    book = RouteBook(pool, zone, LimitBook.load(SiteLimits()))
    assert await book.find(["a.test"], AT) == {"a.test": Failure.DNS_TEMPORARY}
    zone.domains["a.test"] = []
    assert await book.find(["a.test"], AT + timedelta(seconds=59)) == {"a.test": Failure.DNS_TEMPORARY}
    assert isinstance((await book.find(["a.test"], AT + timedelta(seconds=61)))["a.test"], Route)


async def test_who_waits_for_no_longer_than_that_has_the_others(pool: Pool, make_zone: Any) -> None:
    zone = make_zone({"a.test": ["127.0.0.1"]}, {"a.test": []})
    answering, never = zone.mx, asyncio.Event()

    async def mx(domain: str) -> Any:
        if domain == "silent.test":
            await never.wait()
        return await answering(domain)

    zone.mx = mx
    found = await RouteBook(pool, zone, LimitBook.load(SiteLimits())).find(["silent.test", "a.test"], AT, patience=0.2)
    assert found["silent.test"] is Failure.DNS_TEMPORARY
    assert isinstance(found["a.test"], Route)


async def test_an_exchanger_that_does_not_exist_never_falls_back_to_the_domain(pool: Pool, make_zone: Any) -> None:
    """SMTP-5: only a domain without any MX is its own exchanger."""
    zone = make_zone({"a.test": ["127.0.0.1"]}, {"a.test": [MxHost(10, "missing.test")]})
    route = (await RouteBook(pool, zone, LimitBook.load(SiteLimits())).find(["a.test"], AT))["a.test"]
    assert isinstance(route, Route)
    assert route.hosts(random.Random(1)) == ["missing.test"]


def test_equal_exchangers_are_shuffled_and_preferences_kept() -> None:
    """SMTP-4."""
    route = Route(1, "x", (MxHost(20, "c"), MxHost(10, "a"), MxHost(10, "b"), MxHost(30, "d")))
    orders = {tuple(route.hosts(random.Random(seed))) for seed in range(50)}
    assert orders == {("a", "b", "c", "d"), ("b", "a", "c", "d")}


async def test_a_relay_is_a_site_of_its_own(pool: Pool, book: RouteBook) -> None:
    relay = Relay("smart.example.com", 587, implicit_tls=False)
    route = await book.relay_route(relay)
    assert (route.site, route.mx) == ("relay smart.example.com", ())
    assert await book.relay_route(relay) is route
    assert await pool.fetchval("select name from sites where site_id = $1", route.site_id) == route.site
