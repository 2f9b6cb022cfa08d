"""Settling by the whole flow: ledger, queue and suppression in one transaction, again and again with one result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from msgspec import structs

from posthouse import analytics, ledger, queue
from posthouse.app import App
from posthouse.flows.settle import Settler, open_journal, replay, settle
from posthouse.model.messages import Copy
from posthouse.model.outcomes import BounceClass, Outcome, Reaction, Status
from posthouse.queue import LaneRoom

OpenHouse = Callable[..., Awaitable[App]]
IN_FLIGHT = timedelta(minutes=30)


async def claimed(app: App, now: Any) -> list[Copy]:
    lanes = await queue.due_lanes(app.db, now, sandbox=False)
    rooms = [LaneRoom(lane.lane_id, 1000, now - timedelta(days=30)) for lane in lanes]
    taken = await queue.claim(app.db, rooms, now, IN_FLIGHT, most=1000)
    return sorted(taken.copies, key=lambda copy: copy.message_id)


def outcome(copy: Copy, status: Status, **more: Any) -> Outcome:
    made = Outcome(copy.workspace_id, copy.message_id, copy.attempt, status, 10, copy.campaign_id, copy.contact_id, 0)
    return structs.replace(made, **{"code": 250, "text": "ok", **more})


async def lines(app: App, message_id: int) -> list[tuple[str, int]]:
    async with app.db.acquire() as connection:
        return [(line["kind"], line["nth"]) for line in await ledger.history(connection, message_id)]


async def count_all(app: App) -> None:
    while await analytics.count_news(app.db):
        pass


async def test_a_batch_that_is_written_again_changes_nothing(open_house: OpenHouse, world: Any) -> None:
    """Answers 3: a COMMIT whose answer was lost is tried again."""
    app = await open_house()
    campaign = await world.queued([f"p{n}@example.org" for n in range(4)])
    copies = await claimed(app, world.AT)
    batch = [
        outcome(copies[0], Status.DELIVERED),
        outcome(copies[1], Status.DEFERRED, next_try=10**15, bounce_class=BounceClass.RATE, code=451),
        outcome(copies[2], Status.BOUNCED, reaction=Reaction.SUPPRESS, code=550, text="no such user"),
        outcome(copies[3], Status.BOUNCED, reaction=Reaction.FAIL, code=554, text="spam"),
    ]
    states = []
    for _ in range(3):
        await settle(app, batch, 0, 4)
        await count_all(app)
        states.append(
            [
                sorted(map(tuple, await app.db.fetch(statement)))
                for statement in (
                    "select message_id, kind, nth, detail::text from ledger",
                    "select message_id, state, due from queue",
                    "select address_key, scope, cause, reason from suppressions",
                    "select kind, class, count from campaign_counts",
                )
            ]
        )
    assert states[0] == states[1] == states[2]
    assert states[0][2] == [("p2@example.org", "all", "hard-bounce", "550 no such user")]
    assert [row[:2] for row in states[0][3]] == [("bounced", ""), ("deferred", "rate"), ("delivered", "")]
    assert await queue.settled_mark(app.db, app.node, 0) == 4
    assert campaign.queued == 4


async def test_what_comes_after_the_end_is_a_double_or_nothing(open_house: OpenHouse, world: Any) -> None:
    app = await open_house()
    await world.queued(["ann@example.org"])
    (first,) = await claimed(app, world.AT)
    (second,) = await claimed(app, world.AT + IN_FLIGHT)
    assert (first.attempt, second.attempt) == (1, 2)
    await settle(app, [outcome(second, Status.DELIVERED)], 0, 1)
    await settle(app, [outcome(first, Status.BOUNCED)], 1, 1)
    assert await lines(app, first.message_id) == [("delivered", 2)], "its row was gone: a late refusal is no second end"
    await settle(app, [outcome(first, Status.DELIVERED)], 1, 2)
    await settle(app, [outcome(first, Status.DELIVERED)], 1, 2)
    assert sorted(await lines(app, first.message_id)) == [("delivered", 2), ("redelivered", 1)]


async def test_two_ends_of_one_message_in_one_batch_are_one_end_and_a_double(open_house: OpenHouse, world: Any) -> None:
    app = await open_house()
    await world.queued(["ann@example.org"])
    (first,) = await claimed(app, world.AT)
    (second,) = await claimed(app, world.AT + IN_FLIGHT)
    batch = [outcome(first, Status.DELIVERED), outcome(second, Status.DELIVERED)]
    await settle(app, batch, 0, 2)
    await settle(app, batch, 0, 2)
    assert sorted(await lines(app, first.message_id)) == [("delivered", 1), ("redelivered", 2)]


async def test_what_a_killed_sender_had_heard_is_settled_before_it_claims_again(
    open_house: OpenHouse, world: Any
) -> None:
    app = await open_house()
    await world.queued([f"p{n}@example.org" for n in range(3)])
    copies = await claimed(app, world.AT)
    journal = await open_journal(app, 0)
    for copy in copies[:2]:
        journal.note(outcome(copy, Status.DELIVERED))
    # Killed here: noted, not settled.
    journal.close()
    again = await open_journal(app, 0)
    assert await replay(app, again, 0) == 2
    assert await replay(app, again, 0) == 0
    assert [copy.message_id for copy in await claimed(app, world.AT + IN_FLIGHT)] == [copies[2].message_id]
    again.close()


async def test_the_settler_writes_everything_before_it_ends(open_house: OpenHouse, world: Any) -> None:
    app = await open_house()
    await world.queued([f"p{n}@example.org" for n in range(600)])
    copies = await claimed(app, world.AT)
    journal = await open_journal(app, 0)
    async with Settler(app, journal, 0) as settler:
        for copy in copies[:550]:
            settler.note(outcome(copy, Status.DELIVERED))
        settler.put_back(copies[550:], "sender-stopping")
    assert await app.db.fetchval("select count(*) from ledger where kind = 'delivered'") == 550
    rows = await app.db.fetch("select state, attempt, reason, count(*) from queue group by 1, 2, 3")
    assert [tuple(row) for row in rows] == [(0, 0, "sender-stopping", 50)]
    assert await queue.settled_mark(app.db, app.node, 0) == journal.last_number == 550
    journal.close()


async def test_a_hard_bounce_stops_everything_else_that_waits_for_this_address(
    open_house: OpenHouse, world: Any
) -> None:
    app = await open_house()
    await world.queued(["Ann@example.org"], "First")
    await world.queued(["Ann@example.org"], "Second")
    first, second = await claimed(app, world.AT)
    await settle(app, [outcome(first, Status.BOUNCED, reaction=Reaction.SUPPRESS, code=550)], 0, 1)
    (again,) = await claimed(app, world.AT + IN_FLIGHT)
    assert (again.message_id, again.withheld) == (second.message_id, "hard-bounce")


async def test_the_cause_of_a_suppression_is_counted(open_house: OpenHouse, world: Any) -> None:
    app = await open_house()
    campaign = await world.queued(["ann@example.org", "ben@example.org"])
    first, second = await claimed(app, world.AT)
    await settle(
        app,
        [outcome(copy, Status.SUPPRESSED, rule=rule) for copy, rule in ((first, "complaint"), (second, "erased"))],
        0,
        1,
    )
    await count_all(app)
    funnel = await analytics.funnel_of(app.db, 1, campaign.campaign_id)
    assert funnel.suppressed_causes == {"complaint": 1, "erased": 1}
    assert funnel.total.suppressed == 2
