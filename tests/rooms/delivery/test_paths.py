"""Which source a message leaves from, how much room there is, and what a sender tells the database of it."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from posthouse import delivery
from posthouse.db.pool import Pool
from posthouse.delivery import Blocked, LaneKind, LimitBook, Paths, SiteLimits, Source, SourceState
from posthouse.delivery.source_check import check_source
from posthouse.model.errors import Refused
from posthouse.model.outcomes import BounceClass, Reaction, Scope, Verdict
from posthouse.model.waiting import WaitReason

AT = datetime(2026, 5, 1, 9, tzinfo=UTC)
NOW = int(AT.timestamp()) * 1_000_000
LANE = LaneKind("default", 5, 5, "busy.test")
SLOW = Verdict(False, BounceClass.RATE, Scope.SOURCE_IP, Reaction.SLOW, "rate-limited")
BLOCK = Verdict(True, BounceClass.REPUTATION, Scope.SOURCE_IP, Reaction.FIX, "address-blocklist", None, 7200.0)


@pytest.fixture(autouse=True)
async def busy(pool: Pool) -> None:
    await pool.execute("insert into sites (site_id, name) overriding system value values (5, 'busy.test')")


def paths(slot: int = 0, senders: int = 1, node: str = "here", per_second: float = 10.0) -> Paths:
    book = LimitBook.load(SiteLimits(connections=10, per_second=per_second))
    return Paths(book, node, slot, senders, random.Random(1))


async def add(pool: Pool, name: str, address: str, node: str = "here", **put: Any) -> Source:
    async with pool.acquire() as connection:
        source = await delivery.add_source(connection, name, node, AT, address=address)
        if put:
            await delivery.put_in_pool(connection, **{"pool": "default", "weight": 1, "tier": 0, **put}, source=source)
    return source


async def test_a_house_without_sources_sends_from_the_systems_address(pool: Pool) -> None:
    here = paths()
    await here.refresh(pool, AT)
    assert here.room(LANE, NOW) == 200
    source = here.assign(LANE, None, NOW)
    assert isinstance(source, Source)
    assert (source.source_id, source.address) == (0, None)
    assert here.room(LANE, NOW) == 199
    here.refund(0, 5)
    assert here.room(LANE, NOW) == 200
    assert here.source_ids == [0]


async def test_sources_share_by_weight_and_a_higher_tier_waits_for_the_lower(pool: Pool) -> None:
    light = await add(pool, "light", "127.0.0.2", weight=1)
    heavy = await add(pool, "heavy", "127.0.0.3", weight=3)
    spare = await add(pool, "spare", "127.0.0.4", tier=1)
    await add(pool, "far", "192.0.2.1", node="elsewhere", weight=1)
    here = paths(per_second=1000.0)
    await here.refresh(pool, AT)
    assert here.source_ids == [0, light.source_id, heavy.source_id, spare.source_id]
    used = Counter(getattr(here.assign(LANE, None, NOW), "name", None) for _ in range(2000))
    assert set(used) == {"light", "heavy"}
    assert used["heavy"] == pytest.approx(1500, abs=120)
    for source in (light, heavy):
        here.heard(source.source_id, 5, SLOW, "421 slow down", NOW)
    assert getattr(here.assign(LANE, None, NOW), "name", None) == "spare"


async def test_what_is_bound_to_a_source_waits_for_it(pool: Pool) -> None:
    """SMTP-21, SMTP-22."""
    one = await add(pool, "one", "127.0.0.2", weight=1)
    await add(pool, "two", "127.0.0.3", weight=1)
    here = paths()
    await here.refresh(pool, AT)
    assert here.assign(LANE, one.source_id, NOW) == one
    here.heard(one.source_id, 5, SLOW, "421 slow down", NOW)
    blocked = here.assign(LANE, one.source_id, NOW)
    assert isinstance(blocked, Blocked)
    assert (blocked.reason, blocked.until > NOW) == (WaitReason.RATE_LIMIT, True)
    assert getattr(here.assign(LANE, None, NOW), "name", None) == "two"
    async with pool.acquire() as connection:
        await delivery.set_source_state(connection, one, SourceState.PAUSED)
    await here.refresh(pool, AT)
    waits = here.assign(LANE, one.source_id, NOW)
    assert isinstance(waits, Blocked)
    assert waits.reason is WaitReason.SOURCE_UNAVAILABLE
    async with pool.acquire() as connection:
        await delivery.set_source_state(connection, one, SourceState.DRAINING)
    later = NOW + 3600 * 1_000_000
    await here.refresh(pool, AT)
    assert getattr(here.assign(LANE, one.source_id, later), "name", None) == "one", "it drains what is bound to it"
    taken = {getattr(here.assign(LANE, None, later), "name", None) for _ in range(40)}
    assert taken == {"two"}, "and takes nothing new"
    async with pool.acquire() as connection:
        await delivery.take_from_pool(connection, "default", one)
    await here.refresh(pool, AT)
    assert getattr(here.assign(LANE, one.source_id, later), "name", None) == "two", "it is gone"


async def test_a_pool_whose_sources_are_elsewhere_is_left_to_them(pool: Pool) -> None:
    await add(pool, "far", "192.0.2.1", node="elsewhere", weight=1)
    here = paths()
    await here.refresh(pool, AT)
    assert here.room(LANE, NOW) == 0
    blocked = here.blocked(LANE, NOW)
    assert blocked is not None
    assert blocked.reason is WaitReason.SOURCE_UNAVAILABLE


async def test_an_address_that_the_host_lacks_is_not_used_until_it_is_there(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(pool, "lost", "192.0.2.77", weight=1)
    here = paths()
    await here.refresh(pool, AT)
    assert here.room(LANE, NOW) == 0
    monkeypatch.setattr("posthouse.delivery.paths.is_local", lambda _: True)
    await here.refresh(pool, AT)
    assert here.room(LANE, NOW) == 200


async def test_a_rest_of_one_source_is_known_to_all_senders_and_is_none_of_another(pool: Pool) -> None:
    one = await add(pool, "one", "127.0.0.2", weight=1)
    await add(pool, "two", "127.0.0.3", weight=1)
    await delivery.start_rest(pool, one.source_id, 5, AT + timedelta(hours=2), "reputation", "550 blocked (S3150)")
    here = paths()
    await here.refresh(pool, AT)
    assert {getattr(here.assign(LANE, None, NOW), "name", None) for _ in range(20)} == {"two"}
    blocked = here.assign(LANE, one.source_id, NOW)
    assert blocked == Blocked(WaitReason.SITE_RESTING, NOW + 7200 * 1_000_000)
    await here.tell(pool, AT)
    told = await pool.fetchrow("select ready_at, reason, reply from paces where source_id = $1", one.source_id)
    assert told is not None
    assert tuple(told) == (AT + timedelta(hours=2), "site-resting", "550 blocked (S3150)")


async def test_what_an_answer_teaches(pool: Pool) -> None:
    here = paths()
    await here.refresh(pool, AT)
    here.assign(LANE, None, NOW)
    nobody = Verdict(True, BounceClass.USER_UNKNOWN, Scope.RECIPIENT, Reaction.SUPPRESS, "no-such-user")
    network = Verdict(False, BounceClass.NETWORK, Scope.HOST, Reaction.RETRY, "connection-lost")
    assert not here.heard(0, 5, None, "250 ok", NOW)
    assert not here.heard(0, 5, nobody, "550 no such user", NOW)
    assert not any(here.heard(0, 5, network, "", NOW) for _ in range(50)), "a bad line is no refusal"
    assert not here.heard(0, 99, SLOW, "421", NOW), "a path that nobody used"
    assert here.heard(0, 5, SLOW, "421 slow down", NOW)
    assert here.room(LANE, NOW) == 0
    assert here.heard(0, 5, BLOCK, "554 blocked", NOW), "a block rests the path whatever else it asks"
    assert delivery.rests(BLOCK)
    blocked = here.blocked(LANE, NOW)
    assert blocked is not None
    assert blocked.reason is WaitReason.SITE_RESTING


async def test_a_slow_path_is_left_to_one_sender_and_told_once(pool: Pool) -> None:
    owner, other = paths(1, 2), paths(0, 2)
    for each in (owner, other):
        await each.begin(pool)
        await each.refresh(pool, AT)
        each.assign(LANE, None, NOW)
    assert owner.room(LANE, NOW) > 0
    assert other.room(LANE, NOW) > 0
    owner.heard(0, 5, SLOW, "421 slow down", NOW)
    await owner.tell(pool, AT)
    await other.refresh(pool, AT)
    assert other.room(LANE, NOW) == 0
    later = AT + timedelta(seconds=60)
    assert owner.room(LANE, NOW + 60_000_000) > 0
    await owner.tell(pool, later)
    row = await pool.fetchrow("select slot, ready_at, is_slow, reply from paces")
    assert row is not None
    assert (row["slot"], row["is_slow"], row["reply"]) == (1, True, "421 slow down")
    await owner.begin(pool)
    await other.refresh(pool, AT)
    assert other.room(LANE, NOW) > 0, "a sender that starts anew has told nothing"


async def test_what_is_over_is_told_too(pool: Pool) -> None:
    here = paths()
    await here.refresh(pool, AT)
    for _ in range(200):
        here.assign(LANE, None, NOW)
    await here.tell(pool, AT)
    assert await pool.fetchval("select count(*) from paces") == 1
    later = AT + timedelta(seconds=30)
    await here.refresh(pool, later)
    here.room(LANE, NOW + 30_000_000)
    await here.tell(pool, later)
    assert await pool.fetchval("select count(*) from paces") == 0


@pytest.mark.parametrize(
    ("name", "address", "ehlo", "sentence"),
    [
        ("a b", "127.0.0.2", None, "no name for a source"),
        ("a", "mail.example", None, "is no IP address"),
        ("a", "127.0.0.2", "localhost", "is no host name"),
        ("default", "127.0.0.2", None, "a source “default” already"),
    ],
)
async def test_wrong_sources_are_refused(pool: Pool, name: str, address: str, ehlo: str | None, sentence: str) -> None:
    async with pool.acquire() as connection:
        with pytest.raises(Refused, match=sentence):
            await delivery.add_source(connection, name, "here", AT, address=address, ehlo_name=ehlo)


async def test_streams_choose_pools(pool: Pool) -> None:
    async with pool.acquire() as connection:
        assert await delivery.pool_of(connection, 1, "transactional") == "default"
        await delivery.add_pool(connection, "receipts", None)
        await delivery.add_pool(connection, "theirs", 2)
        await delivery.set_stream(connection, 1, "transactional", "receipts")
        assert await delivery.pool_of(connection, 1, "transactional") == "receipts"
        assert await delivery.pool_of(connection, 1, "broadcast") == "default"
        for name, sentence in (("theirs", "dedicated to another"), ("none", "There is no pool “none”")):
            with pytest.raises(Refused, match=sentence):
                await delivery.set_stream(connection, 1, "broadcast", name)
        with pytest.raises(Refused, match="There is a pool “receipts” already"):
            await delivery.add_pool(connection, "receipts", None)
        with pytest.raises(Refused, match="There is no source “x”"):
            await delivery.find_source(connection, "x")
    assert {pool["pool"] for pool in await delivery.list_pools(pool)} == {"default", "receipts", "theirs"}


async def test_a_source_is_checked_there_and_back(make_zone: Any) -> None:
    """SMTP-8."""
    zone = make_zone({"mail7.example.com": ["127.0.0.7"]})
    zone.reverse = {"127.0.0.7": ["MAIL7.example.com."]}
    good = Source(1, "a", "direct", "here", "127.0.0.7", "mail7.example.com", None, SourceState.ACTIVE)
    assert await check_source(good, zone, here=True) == []
    zone.reverse = {"127.0.0.7": ["dynamic-7.provider.test"]}
    (finding,) = await check_source(good, zone, here=True)
    assert "says dynamic-7.provider.test" in finding
    away = Source(1, "a", "direct", "here", "192.0.2.7", "mail8.example.com", None, SourceState.ACTIVE)
    findings = await check_source(away, zone, here=True)
    assert [sentence.split(":")[0] for sentence in findings] == [
        "192.0.2.7 is not an address of this host",
        "mail8.example.com does not lead to 192.0.2.7",
        "Reverse DNS of 192.0.2.7 says nothing",
    ]
