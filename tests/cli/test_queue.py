"""queue and why, while a provider takes less than it is offered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg

from posthouse.sandbox import Sandbox

People = Callable[..., list[str]]
Network = Callable[..., Sandbox]
Eventually = Callable[[Callable[[], bool]], None]
# Twenty messages at once and one every ten seconds after that.
NARROW = """[rate]
at = "mail"
messages = 20
per_seconds = 200
spread = 0
[rate.reply]
code = 451
status = "4.7.650"
text = "The mail server [{ip}] has been temporarily rate limited. (S775)"
"""


async def one_of_each(house: Any, *kinds: str) -> list[int]:
    """A message of which this was the last that happened, for each kind."""
    connection = await asyncpg.connect(house.settings["POSTHOUSE_DATABASE_URL"])
    found = [
        await connection.fetchval("select message_id from ledger where kind = $1::text::event_kind limit 1", kind)
        for kind in kinds
    ]
    await connection.close()
    return found


def test_what_waits_is_shown_with_its_rate_its_obstacle_and_the_providers_words(
    house: Any, network: Network, people: People, eventually: Eventually
) -> None:
    network(provider=NARROW)
    send = people(*(f"p{number}@only.test" for number in range(200)))
    assert "Nothing waits. Send something" in house.tell("queue")
    assert "Nothing waits for p1@only.test" in house.refusal("why", "p1@only.test")
    seen: list[dict[str, Any]] = []
    with house.up():
        house.tell(*send, "--name", "May", "--yes")

        def is_slowed_down() -> bool:
            seen[:] = house.facts("queue")
            return bool(seen) and seen[0]["last_reply"] is not None and seen[0]["due"] > 0

        eventually(is_slowed_down)
        shown = house.tell("queue")
    (lane,) = seen
    assert (lane["site"], lane["pool"], lane["stream"], lane["workspace"]) == (
        "only.test",
        "default",
        "broadcast",
        "main",
    )
    assert lane["limit"]["per_second"] == 100
    assert lane["per_second"] < 100
    assert lane["done_by"] is not None
    assert "rate-limit" in lane["obstacle"]
    assert "S775" in lane["last_reply"]
    assert lane["waiting"] + lane["due"] + lane["under_way"] + lane["held"] <= 180
    assert "only.test said: 451" in shown
    # The last ones are due and wait for the pace; the first one that was refused has a reply of its own and a next try.
    due = house.facts("why", "p199@only.test")[0]["waiting"]
    assert "The provider's rate limit" in due["why"]
    assert "S775" in due["why"]
    told = house.tell("why", "p199@only.test")
    assert "Next try:" in told
    assert "It said: 451" in told
    deferred, delivered = asyncio.run(one_of_each(house, "deferred", "delivered"))
    (refused,) = house.facts("why", str(deferred))
    assert (refused["events"][-1]["class"], refused["events"][-1]["code"]) == ("rate", 451)
    assert refused["waiting"]["why"].startswith("Its next try is not due yet. The provider takes less mail")
    assert "is not late: it was delivered" in house.tell("why", str(delivered))
    assert "There is no message 99999" in house.refusal("why", "99999")
