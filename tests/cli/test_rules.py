"""Rules by the real program: what a reply would do, and what replies did to domains and campaigns over real SMTP."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from posthouse.accounts import add_domain, load_key, note_check
from posthouse.cli.program import program
from posthouse.clock import SystemClock
from posthouse.db.pool import prepare_connection
from posthouse.sandbox import Sandbox

Eventually = Callable[[Callable[[], bool]], None]
People = Callable[..., list[str]]
Network = Callable[..., Sandbox]
# Two replies a message and a pause before each: what is told in the first second comes in time for most of the rest.
SLOW = "[slow]\nleast_seconds = 0.03\nmost_seconds = 0.05\n"
LIMIT = """[[signers]]
domain = "{domain}"
messages = {messages}
per_seconds = {seconds}
[signers.reply]
code = {code}
status = "{status}"
text = "{text}"
"""
UNUSUAL = "Gmail has detected an unusual rate of mail originating from your DKIM domain [{domain} 35]. - gsmtp"
OWN = '[[rule]]\nname = "ours"\nphrases = ["blorb"]\nclass = "policy"\nscope = "stream"\nreaction = "stop"\n'


def limit(domain: str, code: int, status: str, text: str, messages: int = 1, seconds: int = 10_000) -> str:
    return LIMIT.format(domain=domain, messages=messages, seconds=seconds, code=code, status=status, text=text)


def known_as(house: Any, provider: str, more: str = "") -> Path:
    """Let the rules of a provider hold for only.test."""
    path: Path = house.data / "replies.toml"
    path.write_text(f'[providers]\n{provider} = ["only.test"]\n{more}', encoding="utf-8")
    return path


def addresses(count: int) -> list[str]:
    return [f"p{number}@only.test" for number in range(count)]


def from_domain(send: list[str], domain: str) -> list[str]:
    """The same campaign, from another domain."""
    return [*send[:-1], f"news@{domain}"]


def allow(house: Any, *domains: str) -> None:
    """Let these domains send."""

    async def add() -> None:
        key = load_key(house.data / "posthouse.key")
        connection = await asyncpg.connect(house.settings["POSTHOUSE_DATABASE_URL"])
        await prepare_connection(connection)
        now = SystemClock().now()
        async with connection.transaction():
            for domain in domains:
                await add_domain(connection, 1, domain, key, now)
                await note_check(connection, 1, domain, [], now, forced=True)
        await connection.close()

    asyncio.run(add())


def test_a_domain_that_gmail_limits_or_refuses_stands_still_and_another_on_the_same_address_does_not(
    house: Any, network: Network, people: People, eventually: Eventually
) -> None:
    known_as(house, "google")
    loud_limit = limit("loud.example", 421, "4.7.28", UNUSUAL, messages=3)
    bad_limit = limit("bad.example", 421, "4.7.30", "DKIM authentication did not pass. - gsmtp")
    network(provider=SLOW + loud_limit + bad_limit)
    send = people(*addresses(300))
    allow(house, "loud.example", "bad.example", "calm.example")
    with house.up():
        for name in ("loud", "bad"):
            house.tell(*from_domain(send, f"{name}.example"), "--name", name, "--yes")
        eventually(lambda: len(house.facts("brake", "list")) == 2)
        house.tell(*from_domain(send, "calm.example"), "--name", "calm", "--yes")
        eventually(lambda: house.facts("campaign", "status", "calm")["state"] == "finished")
        loud, bad = sorted(house.facts("brake", "list"), key=lambda brake: str(brake["rule"]), reverse=True)
        waiting = house.facts("campaign", "status", "loud")
    assert (loud["kind"], loud["value"], loud["site"]) == ("dkim-domain", "loud.example", "only.test")
    assert (loud["per_minute"], loud["rule"]) == (10, "google-rate-dkim-domain")
    assert (bad["value"], bad["site_id"], bad["until"], bad["per_minute"]) == ("bad.example", 0, None, None)
    assert house.facts("campaign", "status", "calm")["total"]["delivered"] == 300
    assert waiting["resting"] == [], "the way itself is open"
    assert Counter({row["reason"]: row["count"] for row in waiting["waiting"]})["brake"] > 10
    shown = house.tell("brake", "list")
    assert "10/min" in shown
    assert "a person ends it" in shown
    assert "No brake that is on has the number 99" in house.refusal("brake", "end", "99", "--reason", "x")
    assert "Say why" in house.refusal("brake", "end", str(loud["brake_id"]), "--reason", " ")
    house.tell("brake", "end", str(loud["brake_id"]), "--reason", "they said so")
    braked = [row for row in house.facts("campaign", "status", "loud")["waiting"] if row["reason"] == "brake"]
    assert [row["next_due"] < loud["until"] for row in braked] == [True]
    (told,) = house.facts("attention", "list")
    assert told["what"] == "Mail of dkim-domain bad.example to every provider waits until a person ends it."
    house.tell("attention", "done", str(told["attention_id"]), "--reason", "published the key")
    assert house.tell("brake", "list") == "No brake is on.\n"
    assert house.facts("suppression", "list") == []


def test_a_policy_refusal_pauses_the_campaign_until_a_person_is_done(
    house: Any, network: Network, people: People
) -> None:
    known_as(house, "yahoo")
    network(provider=SLOW + limit("sender.example", 554, "5.7.9", "Message not accepted for policy reasons."))
    report = house.facts(*people(*addresses(150)), "--name", "May", "--yes", "--wait")
    assert report["state"] == "paused"
    assert report["paused_reason"].startswith("yahoo-policy: 554 5.7.9 Message not accepted for policy reasons.")
    assert report["total"]["bounced"] + report["total"]["delivered"] < 150
    assert "A reply paused it: yahoo-policy" in house.tell("campaign", "status", "May")
    (told,) = house.facts("attention", "list")
    assert (told["what"], told["campaign_id"]) == ("Campaign 1 “May” is paused.", 1)
    shown = house.tell("attention", "list")
    assert "only.test said: 554 5.7.9 Message not accepted" in shown
    assert "take the link out" in shown
    assert "Nothing that needs a person has the number 7" in house.refusal("attention", "done", "7", "--reason", "x")
    said = house.tell("attention", "done", str(told["attention_id"]), "--reason", "new link")
    assert "“May” is still paused: posthouse campaign resume 1" in said
    assert house.tell("attention", "list") == "Nothing needs a person.\n"
    assert "Done" in house.tell("attention", "list", "--all")


def test_a_rule_file_that_changes_while_senders_run_changes_what_the_next_reply_does(
    house: Any, network: Network, people: People, eventually: Eventually
) -> None:
    path = known_as(house, "google")
    network(provider=limit("sender.example", 451, "4.9.9", "blorb"))
    send = people(*addresses(20))
    with house.up():
        house.tell(*send, "--name", "First", "--yes")
        eventually(lambda: house.facts("campaign", "status", "First")["total"]["delivered"] == 1)
        path.write_text(OWN.replace("policy", "polizy"), encoding="utf-8")
        assert "replies.toml, line 4, rule “ours”, class:" in house.refusal("rules", "check")
        path.write_text(OWN, encoding="utf-8")
        # Whatever is sent once the senders have read it stops at its first refusal.
        numbers = iter(range(100))

        def stopped() -> bool:
            name = f"Later {next(numbers)}"
            house.tell(*send, "--name", name, "--yes")
            eventually(lambda: bool(house.facts("campaign", "status", name)["waiting"]))
            return bool(house.facts("attention", "list"))

        eventually(stopped)
    assert house.facts("campaign", "status", "First")["state"] == "sending"
    assert house.facts("attention", "list")[-1]["rule"] == "ours"


def ask(house: Any, *arguments: str) -> Result:
    """Run a command in this process: the rules need no database."""
    return CliRunner().invoke(program, ["rules", *arguments, "--data", str(house.data)])


def test_rules_can_be_listed_checked_and_asked(house: Any) -> None:
    assert "There is no rule file" in str(ask(house, "check").exception)
    path = known_as(house, "google", OWN)
    assert json.loads(ask(house, "check", "--json").stdout) == {"file": str(path), "rules": 1, "misjudged": {}}
    assert "1 rules can be read" in ask(house, "check", str(path)).stdout
    known_as(house, "google", OWN + 'example = "451 4.9.9 other"\n')
    wrong = ask(house, "check")
    assert (wrong.exit_code, "“ours”: its example is decided by no rule" in wrong.stdout) == (1, True)
    first, *rest = json.loads(ask(house, "list", "--json").stdout)
    assert (first["name"], len(rest) > 120) == ("ours", True)
    slow = json.loads(ask(house, "list", "--provider", "yahoo", "--reaction", "slow", "--json").stdout)
    assert [rule["name"] for rule in slow] == ["yahoo-ts02", "yahoo-ts03", "yahoo-deferred"]
    assert "1/min, halved on repeat, for 30 min" in ask(house, "list", "--provider", "yahoo").stdout
    reply = "421-4.7.28 unusual rate of mail originating from your DKIM\\n421 4.7.28 domain [a.example 3]. - gsmtp"
    facts = json.loads(ask(house, "test", reply, "--host", "mx.only.test", "--stage", "content", "--json").stdout)
    assert (facts["provider"], facts["names"]) == ("google", "a.example")
    assert (facts["rule"]["name"], facts["verdict"]["scope"]) == ("google-rate-dkim-domain", "dkim-domain")
    assert facts["rule"]["brake"]["per_minute"] == 10
    said = ask(house, "test", reply, "--host", "mx.only.test").stdout
    assert "10/min, halved on repeat, for 30 min, after 2 in 1 h" in said
    assert "It names a.example." in said


@pytest.mark.parametrize(
    ("text", "host", "words"),
    [
        ("250 ok", "mx.test", "Delivered."),
        ("550 5.1.1 x", "mx.test", "It fails for good."),
        ("450 4.2.0 greylisted", "mx.test", "after 10 min"),
        ("499 blurb", "mx.test", "by the common schedule"),
        ("554 5.7.1 spam", "mx.test", "stop the campaign, after 10 in 1 h, from 3 sites"),
        ("451 4.7.652 S3115", "x.protection.outlook.com", "1 connection, for 1 h"),
        ("421 Max message per connection", "mta5.yahoodns.net", "20 messages a connection, for 1 d"),
        ("550 5.4.1 Recipient address rejected", "x.mx.microsoft", "suppress on the 2. different day"),
        ("550 5.7.26 x", "gmail-smtp-in.l.google.com", "hold, until a person ends it"),
        ("421 very low reputation", "gmail-smtp-in.l.google.com", "stop the campaign if needed for more than 30 min"),
        ("550 5.7.606 x", "x.mx.microsoft", "Mend      Ask for removal"),
    ],
)
def test_a_reply_is_explained_in_words(house: Any, text: str, host: str, words: str) -> None:
    assert words in ask(house, "test", text, "--host", host).stdout
