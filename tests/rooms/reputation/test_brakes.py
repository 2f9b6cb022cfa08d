"""Brakes: opened by counted replies of all senders, stronger on repeat, ended by time or by a person, drawn on by all."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from posthouse import reputation
from posthouse.db.pool import Pool
from posthouse.mail.rules import BrakeTerms, Trigger
from posthouse.model.waiting import Ceiling, WaitReason
from posthouse.reputation import Brake, BrakeGate, BrakeKind, BrakeSubject, Reached, Refusal, Traits

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
LOUD = BrakeSubject(BrakeKind.DKIM_DOMAIN, "loud.example", 7)
TERMS = BrakeTerms(1800.0, per_minute=10.0, halve=True)
TRAITS = Traits(1, 5, "broadcast", "loud.example", "bounces.loud.example", ("shop.example", "www.loud.example"))


def refusal(number: int, at: datetime, subject: BrakeSubject = LOUD, **more: Any) -> Refusal:
    made = Refusal(subject, "rate", Trigger(2, 3600.0), 1, 5, number, 1, int(at.timestamp() * 1_000_000), "421 slow")
    return structs.replace(made, **more)


async def count(pool: Pool, *refusals: Refusal, terms: BrakeTerms = TERMS, sandbox: bool = False) -> list[Reached]:
    """Count a batch, and set the brakes of what was reached at its site: those."""
    async with pool.acquire() as connection, connection.transaction():
        reached = await reputation.count_refusals(connection, refusals, sandbox=sandbox)
        here = [found for found in reached if found.here]
        for found in here:
            await reputation.set_brake(connection, found, terms, sandbox=sandbox)
    return here


async def brakes(pool: Pool, now: datetime, *, sandbox: bool = False) -> list[Brake]:
    return await reputation.brakes_in_force(pool, now, sandbox=sandbox)


async def test_two_in_an_hour_open_it_and_it_ends_by_time(pool: Pool, world: Any) -> None:
    at = world.AT
    assert await count(pool, refusal(1, at)) == []
    assert await count(pool, refusal(2, at + HOUR + SECOND)) == [], "the first was more than an hour before"
    (reached,) = await count(pool, refusal(3, at + HOUR + MINUTE))
    assert (reached.here, reached.strength) == (True, 1)
    opened = at + HOUR + MINUTE
    (brake,) = await brakes(pool, opened)
    assert (brake.kind, brake.value, brake.site_id, brake.per_minute) == (BrakeKind.DKIM_DOMAIN, "loud.example", 7, 10)
    assert (brake.opened_at, brake.until, brake.reply, brake.is_hold) == (
        opened,
        opened + 30 * MINUTE,
        "421 slow",
        False,
    )
    assert await brakes(pool, opened + 30 * MINUTE) == []
    assert await brakes(pool, opened, sandbox=True) == [], "a rehearsal knows nothing of it"


async def test_each_site_and_each_domain_is_counted_by_itself(pool: Pool, world: Any) -> None:
    elsewhere = BrakeSubject(BrakeKind.DKIM_DOMAIN, "loud.example", 8)
    other = BrakeSubject(BrakeKind.DKIM_DOMAIN, "calm.example", 7)
    at = world.AT
    assert await count(pool, refusal(1, at), refusal(2, at, elsewhere), refusal(3, at, other)) == []
    assert await count(pool, refusal(4, at), sandbox=True) == []
    (reached,) = await count(pool, refusal(4, at))
    assert reached.refusal.subject == LOUD


async def test_senders_that_count_at_the_same_moment_miss_none(pool: Pool, world: Any) -> None:
    """Each has one; together they have two."""
    results = await asyncio.gather(*(count(pool, refusal(n, world.AT)) for n in range(2)))
    assert sorted(len(reached) for reached in results) == [0, 1]


async def test_a_repeat_halves_the_rate_and_what_was_under_way_is_no_repeat(pool: Pool, world: Any) -> None:
    at = world.AT
    await count(pool, *(refusal(n, at) for n in range(2)))
    assert await count(pool, *(refusal(n, at + 50 * SECOND) for n in range(10, 20))) == []
    await count(pool, *(refusal(n, at + 2 * MINUTE) for n in range(20, 22)))
    (brake,) = await brakes(pool, at + 3 * MINUTE)
    assert (brake.per_minute, brake.strength, brake.opened_at) == (5, 2, at)
    assert brake.until == at + 32 * MINUTE
    # Half an hour after its end it is a repeat still; two days after, it begins anew.
    await count(pool, *(refusal(n, at + HOUR) for n in range(30, 32)))
    assert [(b.per_minute, b.strength) for b in await brakes(pool, at + HOUR)] == [(2.5, 3)]
    later = at + 48 * HOUR
    await count(pool, *(refusal(n, later) for n in range(40, 42)))
    assert [(b.per_minute, b.strength, b.opened_at) for b in await brakes(pool, later)] == [(10, 1, later)]


async def test_a_batch_that_is_settled_again_counts_once(pool: Pool, world: Any) -> None:
    """Answers 3."""
    batch = [refusal(n, world.AT) for n in range(2)]
    await count(pool, *batch)
    first = await brakes(pool, world.AT)
    assert await count(pool, *batch) == []
    assert await count(pool, batch[0]) == []
    assert await brakes(pool, world.AT) == first


async def test_a_storm_keeps_only_what_can_count(pool: Pool, world: Any) -> None:
    await count(pool, *(refusal(n, world.AT) for n in range(500)))
    assert await pool.fetchval("select count(*) from refusals") == 2
    await reputation.forget_refusals(pool, world.AT + 49 * HOUR)
    assert await pool.fetchval("select count(*) from refusals") == 0


async def test_a_wide_brake_needs_several_sites(pool: Pool, world: Any) -> None:
    at = world.AT
    wide: dict[str, Any] = {"trigger": Trigger(4, 3600.0, 2), "everywhere": True}
    other = BrakeSubject(BrakeKind.DKIM_DOMAIN, "loud.example", 8)
    async with pool.acquire() as connection, connection.transaction():
        alone = [refusal(n, at, **wide) for n in range(6)]
        (reached,) = await reputation.count_refusals(connection, alone, sandbox=False)
        assert (reached.here, reached.everywhere) == (True, False)
        (reached,) = await reputation.count_refusals(connection, [refusal(10, at, other, **wide)], sandbox=False)
        assert (reached.here, reached.everywhere) == (False, True)
        assert await reputation.set_brake(connection, reached, BrakeTerms(None), sandbox=False) is None
        assert await reputation.count_refusals(connection, [refusal(10, at, other, **wide)], sandbox=False) == []
    (brake,) = await brakes(pool, at + 1000 * HOUR)
    assert (brake.site_id, brake.until, brake.is_hold) == (0, None, True)


async def test_a_person_ends_it_with_a_reason(pool: Pool, world: Any) -> None:
    at = world.AT
    await count(pool, *(refusal(n, at) for n in range(2)))
    (brake,) = await brakes(pool, at)
    assert not await reputation.end_brake(pool, brake.brake_id, at, "no", sandbox=True)
    assert await reputation.end_brake(pool, brake.brake_id, at + 2 * MINUTE, "they said so", sandbox=False)
    assert not await reputation.end_brake(pool, brake.brake_id, at + 2 * MINUTE, "again", sandbox=False)
    assert await brakes(pool, at + 2 * MINUTE) == []
    assert await count(pool, refusal(3, at + 3 * MINUTE)) == [], "what was heard before counts no more"
    assert await pool.fetchval("select ended_reason from brakes") == "they said so"


async def test_what_needs_a_person_is_told_once_until_it_is_done(pool: Pool, world: Any) -> None:
    at = world.AT
    first, second = refusal(1, at), refusal(2, at + MINUTE, reply="421 again")
    async with pool.acquire() as connection, connection.transaction():
        await reputation.tell_person(connection, first, "It waits.", "Mend it.", sandbox=False)
        await reputation.tell_person(connection, second, "It waits.", "Mend it.", sandbox=False)
    (row,) = await reputation.list_attention(pool, sandbox=False)
    assert (row["what"], row["mend"], row["reply"], row["times"]) == ("It waits.", "Mend it.", "421 again", 2)
    assert (row["first_at"], row["at"], row["campaign_id"]) == (at, at + MINUTE, 5)
    assert await reputation.list_attention(pool, sandbox=True) == []
    await count(pool, refusal(1, at), refusal(2, at), terms=BrakeTerms(None))
    async with pool.acquire() as connection, connection.transaction():
        number = row["attention_id"]
        assert await reputation.attention_done(connection, number, at, "no", sandbox=True) is None
        assert await reputation.attention_done(connection, number, at + HOUR, "repaired", sandbox=False) == 5
        assert await reputation.attention_done(connection, number, at + HOUR, "again", sandbox=False) is None
    assert await reputation.list_attention(pool, sandbox=False) == []
    (row,) = await reputation.list_attention(pool, sandbox=False, done_too=True)
    assert (row["done_at"], row["done_reason"]) == (at + HOUR, "repaired")
    assert await brakes(pool, at + HOUR) == []


async def test_a_recipient_is_refused_on_two_days_when_it_was_on_two_days(pool: Pool, world: Any) -> None:
    def at(days: float) -> int:
        return int((world.AT + timedelta(days=days)).timestamp() * 1_000_000)

    async def days(*refused: tuple[int, int, float]) -> list[int]:
        async with pool.acquire() as connection:
            return await reputation.count_refused_days(
                connection,
                [("edge", 1, contact, message, 1, at(when)) for contact, message, when in refused],
                sandbox=False,
            )

    assert await days((1, 10, 0), (1, 11, 0.1), (2, 12, 0)) == [1, 1, 1]
    assert await days((1, 10, 0)) == [1], "settled again"
    assert await days((1, 13, 1), (2, 14, 31)) == [2, 1], "what is a month old counts no more"
    await reputation.forget_refusals(pool, world.AT + timedelta(days=20))
    assert await pool.fetchval("select count(*) from refusals") == 5
    await reputation.forget_refusals(pool, world.AT + timedelta(days=40))
    assert await pool.fetchval("select count(*) from refusals") == 1


async def test_senders_share_the_allowance_of_a_braked_rate(pool: Pool, world: Any) -> None:
    at = world.AT
    await count(pool, *(refusal(n, at) for n in range(2)))
    (brake,) = await brakes(pool, at)

    async def draw(wanted: int, when: datetime) -> int:
        return (await reputation.draw_allowance(pool, {brake.brake_id: wanted}, when)).get(brake.brake_id, 0)

    assert await draw(5, at) == 0, "it begins empty"
    assert await draw(5, at + 6 * SECOND) == 1
    both = await asyncio.gather(draw(1, at + 12 * SECOND), draw(1, at + 12 * SECOND))
    assert sorted(both) == [0, 1]
    assert await draw(1, at) == 0, "a clock that is behind gives nothing"
    passed = 0
    for second in range(13, 13 + 600):
        passed += await draw(3, at + second * SECOND)
    assert 99 <= passed <= 101
    assert await draw(50, at + 10 * HOUR) == 1, "what was not used is not saved up"


async def gate(pool: Pool, now: datetime, **how: Any) -> BrakeGate:
    made = BrakeGate(sandbox=False, **how)
    await made.refresh(pool, now)
    return made


async def test_a_rate_spreads_what_waits_over_its_time(pool: Pool, world: Any) -> None:
    at = world.AT
    await count(pool, *(refusal(n, at) for n in range(2)))
    now = at + 6 * SECOND
    found = await (await gate(pool, now)).waits(pool, [(TRAITS, 7)] * 4 + [(TRAITS, 8)], now)
    assert found == [None, now + 6 * SECOND, now + 12 * SECOND, now + 18 * SECOND, None]
    watching = await gate(pool, now)
    waits = await watching.waits(pool, [(TRAITS, 7)] * 400, now)
    await watching.refresh(pool, now)
    (last,) = await watching.waits(pool, [(TRAITS, 7)], now)
    assert waits[0] == now + 6 * SECOND
    assert waits[-1] == last == at + 30 * MINUTE, "nothing waits longer than its brake"


async def test_a_hold_keeps_everything_until_it_ends_or_somebody_looks(pool: Pool, world: Any) -> None:
    at = world.AT
    await count(pool, *(refusal(n, at) for n in range(2)), terms=BrakeTerms(300.0))
    watching = await gate(pool, at)
    assert await watching.waits(pool, [(TRAITS, 7)], at) == [at + 5 * MINUTE]
    assert watching.held_until(TRAITS, 7, at) == at + 5 * MINUTE
    assert watching.held_until(TRAITS, 8, at) is None
    await pool.execute("update brakes set until = null")
    assert await (await gate(pool, at)).waits(pool, [(TRAITS, 7)], at) == [at + 15 * MINUTE]


@pytest.mark.parametrize(
    ("kind", "value", "under"),
    [
        (BrakeKind.DKIM_DOMAIN, "loud.example", True),
        (BrakeKind.DKIM_DOMAIN, "oud.example", False),
        (BrakeKind.SPF_DOMAIN, "loud.example", True),
        (BrakeKind.SPF_DOMAIN, "other.example", False),
        (BrakeKind.URL_DOMAIN, "shop.example", True),
        (BrakeKind.URL_DOMAIN, "hop.example", False),
        (BrakeKind.STREAM, "1/broadcast", True),
        (BrakeKind.STREAM, "1/transactional", False),
        (BrakeKind.WORKSPACE, "1", True),
        (BrakeKind.WORKSPACE, "2", False),
        (BrakeKind.CAMPAIGN, "5", True),
        (BrakeKind.CAMPAIGN, "6", False),
        (BrakeKind.SOURCE, "3", False),
        (BrakeKind.SITE, "7", False),
        (BrakeKind.NETBLOCK, "192.0.2.0/24", False),
    ],
)
async def test_a_brake_is_on_the_mail_that_it_names(
    pool: Pool, world: Any, kind: BrakeKind, value: str, under: bool
) -> None:
    """Brakes on ways out are for pacing."""
    await count(pool, *(refusal(n, world.AT, BrakeSubject(kind, value, 7)) for n in range(2)), terms=BrakeTerms(60.0))
    watching = await gate(pool, world.AT)
    assert (watching.held_until(TRAITS, 7, world.AT) is not None) == under


async def test_brakes_on_ways_out_are_ceilings_for_pacing(pool: Pool, world: Any) -> None:
    subjects = {
        BrakeKind.SOURCE: "3",
        BrakeKind.NETBLOCK: "192.0.2.0/24",
        BrakeKind.SITE: "7",
        BrakeKind.CAMPAIGN: "5",
    }
    for kind, value in subjects.items():
        await count(pool, *(refusal(n, world.AT, BrakeSubject(kind, value, 7)) for n in range(2)))
    lean = BrakeSubject(BrakeKind.SOURCE, "4", 7)
    await count(pool, *(refusal(n, world.AT, lean) for n in range(2)), terms=BrakeTerms(60.0, connections=1))
    shut = BrakeSubject(BrakeKind.SOURCE, "5", 7)
    await count(pool, *(refusal(n, world.AT, shut) for n in range(2)), terms=BrakeTerms(None))
    found = reputation.ceilings(
        await brakes(pool, world.AT), {3: "192.0.2.1", 4: "198.51.100.1", 5: None, 6: "2001:db8::1"}
    )
    until = world.AT + 30 * MINUTE

    def slow(source_id: int | None) -> Ceiling:
        return Ceiling(source_id, 7, 10 / 60, None, until, WaitReason.BRAKE, "rate: 421 slow")

    assert found == [slow(3), slow(3), slow(5), slow(None), structs.replace(slow(5), per_second=0.0, until=None)]
