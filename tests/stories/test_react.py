"""What providers say in their real words, and what becomes of domains, campaigns and people: through the whole settling."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog
from msgspec import structs

from posthouse import campaigns, queue, reputation
from posthouse.app import App
from posthouse.campaigns import Campaign, CampaignState
from posthouse.delivery import Answer, judge
from posthouse.flows.react import react
from posthouse.flows.settle import settle
from posthouse.mail.replies import Stage, parse_reply
from posthouse.model.messages import Copy
from posthouse.model.outcomes import Outcome, Scope
from posthouse.queue import LaneRoom
from posthouse.reputation import BrakeKind

OpenHouse = Callable[..., Awaitable[App]]
GOOGLE = "gmail-smtp-in.l.google.com"
YAHOO = "mta5.am0.yahoodns.net"
MICROSOFT = "outlook-com.olc.protection.outlook.com"
HOUR = timedelta(hours=1)
UNUSUAL = "421 4.7.28 Gmail has detected an unusual rate of mail originating from your "


class House:
    """An installation with one campaign, all of it in a sender's hands."""

    def __init__(self, app: App, campaign: Campaign, copies: Sequence[Copy], at: datetime) -> None:
        self.app = app
        self.campaign = campaign
        self.copies = list(copies)
        self.at = at
        self._numbers = iter(range(1, 10_000))

    async def hear(self, host: str, text: str, times: int = 1, *, at: datetime | None = None, site_id: int = 7) -> None:
        """Settle the same reply for the next few copies."""
        await self.settle([self.outcome(self.copies.pop(0), host, text, at=at, site_id=site_id) for _ in range(times)])

    def outcome(self, copy: Copy, host: str, text: str, *, at: datetime | None = None, site_id: int = 7) -> Outcome:
        answer = Answer(Stage.CONTENT, host, parse_reply(text.encode().splitlines()))
        now = int((at or self.at).timestamp() * 1_000_000)
        app = self.app
        return structs.replace(judge(copy, answer, app.rules, app.schedule, now, random.Random(1))[0], site_id=site_id)

    async def settle(self, batch: Sequence[Outcome]) -> None:
        await settle(self.app, batch, 0, next(self._numbers))

    async def brakes(self, at: datetime | None = None) -> list[tuple[str, str, int]]:
        found = await reputation.brakes_in_force(self.app.db, at or self.at, sandbox=False)
        return [(brake.kind.value, brake.value, brake.site_id) for brake in found]

    async def attention(self) -> list[dict[str, Any]]:
        return await reputation.list_attention(self.app.db, sandbox=False)

    async def now(self) -> Campaign:
        return await campaigns.find_campaign(self.app.db, str(self.campaign.campaign_id))

    async def suppressed(self) -> int:
        return len(await reputation.list_suppressed(self.app.db, 1))


@pytest.fixture
async def house(open_house: OpenHouse, world: Any) -> House:
    """A campaign of news@sender.test with a link to a.example, to sixty people."""
    app = await open_house()
    campaign = await world.queued([f"p{n}@example.org" for n in range(60)])
    lanes = await queue.due_lanes(app.db, world.AT, sandbox=False)
    rooms = [LaneRoom(lane.lane_id, 1000, world.AT - timedelta(days=30)) for lane in lanes]
    taken = await queue.claim(app.db, rooms, world.AT, HOUR, most=1000)
    return House(app, campaign, taken.copies, world.AT)


@pytest.mark.parametrize(
    ("words", "brake"),
    [
        ("DKIM domain [sender.test 35].", ("dkim-domain", "sender.test")),
        ("DKIM domain.", ("dkim-domain", "sender.test")),
        ("DKIM domain [victim.example 35].", ("dkim-domain", "sender.test")),
        ("DKIM domain [test 35].", ("dkim-domain", "sender.test")),
        ("SPF domain [bounces.sender.test 35].", ("spf-domain", "bounces.sender.test")),
        ("SPF domain [sender.test 35].", ("spf-domain", "sender.test")),
        ("SPF domain.", ("spf-domain", "bounces.sender.test")),
        ("URL domain [a.example 35].", ("url-domain", "a.example")),
        ("URL domain [mail.example.com 35].", ("url-domain", "mail.example.com")),
        ("URL domain [victim.example 35].", ("campaign", "1")),
        ("IP Netblock [192.0.2.17 15].", ("netblock", "192.0.2.0/24")),
        ("IP Netblock [2001:db8::17 15].", ("netblock", "2001:db8::/64")),
        ("IP Netblock [198.51.0.0/16 15].", ("netblock", "198.51.0.0/16")),
        ("IP Netblock [999.1.1.1 15].", ("source", "0")),
        ("IP address [192.0.2.1].", ("source", "0")),
    ],
)
async def test_gmail_names_what_is_slowed_if_it_is_ours(house: House, words: str, brake: tuple[str, str]) -> None:
    """A server's words may slow what it names, but only what is ours and in this very message."""
    await house.hear(GOOGLE, UNUSUAL + words)
    assert await house.brakes() == []
    await house.hear(GOOGLE, UNUSUAL + words)
    assert await house.brakes() == [(*brake, 7)]
    assert await house.attention() == []
    assert (await house.now()).state is CampaignState.SENDING


async def test_a_stop_pauses_the_campaign_and_tells_a_person_once(house: House) -> None:
    batch = [
        house.outcome(copy, YAHOO, "554 Message not allowed - [PH01] Email not accepted") for copy in house.copies[:5]
    ]
    for _ in range(3):
        await house.settle(batch)
    now = await house.now()
    assert (now.state, now.paused_reason) == (
        CampaignState.PAUSED,
        "yahoo-policy: 554 Message not allowed - [PH01] Email not accepted",
    )
    (told,) = await house.attention()
    assert told["what"] == "Campaign 1 “News” is paused."
    assert (told["times"], told["campaign_id"], told["reply"][:30]) == (1, 1, "554 Message not allowed - [PH0")
    assert "take the link out" in told["mend"]
    stopped = await house.app.db.fetch(
        "select message_id, detail ->> 'rule' as rule from ledger where kind = 'stopped'"
    )
    assert [tuple(row) for row in stopped] == [(batch[-1].message_id, "yahoo-policy")]
    assert (await house.suppressed(), await house.brakes()) == (0, [])
    await campaigns.change_state(house.app.db, now, CampaignState.SENDING, house.at)
    assert (await house.now()).paused_reason is None
    await house.settle(batch)
    assert (await house.now()).state is CampaignState.SENDING, "what was settled before stops nothing again"
    house.copies = house.copies[5:]
    await house.hear(YAHOO, "554 Message not allowed - [PH01] Email not accepted", at=house.at + HOUR)
    assert (await house.now()).state is CampaignState.PAUSED
    assert (await house.attention())[0]["times"] == 2


async def test_a_server_that_anybody_may_run_cannot_stop_a_campaign_alone(house: House) -> None:
    await house.hear("mx.evil.example", "554 5.7.1 it contains spam", 20, site_id=8)
    await house.hear("mx.other.example", "554 5.7.1 it contains spam", 1, site_id=9)
    assert ((await house.now()).state, await house.attention()) == (CampaignState.SENDING, [])
    await house.hear("mx.third.example", "554 5.7.1 it contains spam", 1, site_id=10)
    assert (await house.now()).state is CampaignState.PAUSED


async def test_a_domain_that_must_be_repaired_stops_towards_everybody(house: House) -> None:
    text = "550 5.7.26 Your email has been blocked because the sender is unauthenticated."
    await house.hear(GOOGLE, text, 3)
    assert await house.brakes() == await house.brakes(house.at + 9000 * HOUR) == [("dkim-domain", "sender.test", 0)]
    (told,) = await house.attention()
    assert told["what"] == "Mail of dkim-domain sender.test to every provider waits until a person ends it."
    assert (told["rule"], await house.suppressed()) == ("google-unauthenticated", 0)
    assert await house.app.db.fetchval("select count(*) from ledger where kind = 'stopped'") == 1
    async with house.app.db.acquire() as connection, connection.transaction():
        await reputation.attention_done(connection, told["attention_id"], house.at + HOUR, "published", sandbox=False)
    assert (await house.attention(), await house.brakes(house.at + HOUR)) == ([], [])
    await house.hear(GOOGLE, text, at=house.at + 2 * HOUR)
    assert len(await house.attention()) == len(await house.brakes(house.at + 2 * HOUR)) == 1


async def test_gmails_block_stops_marketing_there_and_holds_the_source(house: House) -> None:
    text = "550 5.7.28 There is an unusual rate of unsolicited mail originating from your IP address."
    await house.hear(GOOGLE, text)
    assert await house.brakes() == [("source", "0", 7), ("stream", "1/broadcast", 7)]
    assert await house.brakes(house.at + 4 * HOUR) == [("stream", "1/broadcast", 7)]
    (told,) = await house.attention()
    assert told["what"].endswith("Mail of stream 1/broadcast to this provider waits until a person ends it.")
    assert (await house.now()).state is CampaignState.SENDING
    async with house.app.db.acquire() as connection, connection.transaction():
        await reputation.attention_done(connection, told["attention_id"], house.at + HOUR, "asked", sandbox=False)
    assert await house.brakes(house.at + HOUR) == []


async def test_distrust_that_lasts_longer_than_half_an_hour_stops_the_campaign(house: House) -> None:
    text = "421 4.7.0 suspicious due to the very low reputation of the sending domain."
    await house.hear(GOOGLE, text, 4)
    assert await house.brakes() == []
    await house.hear(GOOGLE, text, 1)
    assert await house.brakes() == [("dkim-domain", "sender.test", 7)]
    assert ((await house.now()).state, len(await house.attention())) == (CampaignState.SENDING, 1)
    await house.hear(GOOGLE, text, 5, at=house.at + 65 * timedelta(minutes=1))
    assert (await house.now()).state is CampaignState.PAUSED


async def test_a_refused_address_is_suppressed_on_the_second_day(house: House, world: Any) -> None:
    text = "550 5.4.1 Recipient address rejected: Access denied. AS(201806281)"
    copy = house.copies[0]
    again = structs.replace(copy, message_id=copy.message_id + 1000)
    await house.settle([house.outcome(copy, MICROSOFT, text)])
    await house.settle(
        [house.outcome(copy, MICROSOFT, text), house.outcome(again, MICROSOFT, text, at=house.at + HOUR)]
    )
    assert await house.suppressed() == 0
    later = house.outcome(
        structs.replace(copy, message_id=copy.message_id + 2000), MICROSOFT, text, at=house.at + 24 * HOUR
    )
    await house.settle([later])
    (row,) = await reputation.list_suppressed(house.app.db, 1)
    assert (row["cause"], row["reason"][:9]) == ("hard-bounce", "550 5.4.1")


async def test_no_reply_about_us_ever_suppresses_or_counts_against_a_recipient(house: House) -> None:
    """BNC-5, for every shipped rule, in its own words, said again and again."""
    app = house.app
    about_us = [rule for rule in app.rules.rules if rule.scope is not Scope.RECIPIENT and rule.example]
    assert len(about_us) > 80
    for copy in house.copies[:3]:
        batch = []
        for number, rule in enumerate(about_us):
            stage = min(rule.stages, default=Stage.CONTENT)
            answer = Answer(stage, min(rule.providers, default="mx.example"), parse_reply([str(rule.example).encode()]))
            one = structs.replace(copy, message_id=copy.message_id + 1000 * (number + 1))
            batch.append(
                judge(one, answer, app.rules, app.schedule, int(house.at.timestamp() * 1e6), random.Random(1))[0]
            )
        assert {outcome.rule for outcome in batch} == {rule.name for rule in about_us}
        async with app.db.acquire() as connection, connection.transaction():
            await react(app, connection, batch)
        await house.settle(batch)
    assert await house.suppressed() == 0
    assert await app.db.fetchval("select count(*) from refusals where kind = 'recipient'") == 0
    kinds = {kind for kind, _, _ in await house.brakes()}
    assert kinds == {kind.value for kind in BrakeKind if kind is not BrakeKind.URL_DOMAIN}


async def test_a_changed_rule_file_changes_what_the_next_reply_does(
    house: House, until: Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
) -> None:
    path = house.app.directory.reply_rules
    rule = '[[rule]]\nname = "ours"\nphrases = ["blorb"]\nclass = "policy"\nscope = "stream"\nreaction = "stop"\n'

    async def holds(condition: Callable[[], bool]) -> None:
        async def now() -> bool:
            return condition()

        await until(now)

    await house.hear("mx.test", "451 4.9.9 blorb")
    with structlog.testing.capture_logs() as log:
        path.write_text(rule.replace("policy", "polizy"))
        await holds(lambda: house.app.rule_files.trouble is not None)
        await house.hear("mx.test", "451 4.9.9 blorb")
        assert (await house.now()).state is CampaignState.SENDING
        path.write_text(rule)
        os.utime(path, (1, 1))
        await holds(lambda: house.app.rules.named("ours") is not None)
        await asyncio.sleep(0)
    await house.hear("mx.test", "451 4.9.9 blorb")
    assert (await house.now()).paused_reason == "ours: 451 4.9.9 blorb"
    (wrong, right) = [line for line in log if "rules" in line["event"]]
    assert "replies.toml, line 4, rule “ours”, class: Invalid enum value 'polizy'" in wrong["reason"]
    assert (wrong["log_level"], right["event"]) == ("error", "reply rules were read again")
