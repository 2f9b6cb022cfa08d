"""Campaigns by the real program over real SMTP to a sandbox provider."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

from posthouse.sandbox import RecordKind, Sandbox

Eventually = Callable[[Callable[[], bool]], None]
People = Callable[..., list[str]]
Network = Callable[..., Sandbox]
# Four replies a message: all forty are in the sender's hands long before they have left.
SLOW = "[slow]\nleast_seconds = 0.03\nmost_seconds = 0.05\n"


def taken(sandbox: Sandbox) -> int:
    """How many messages the provider has taken so far."""
    return sandbox.status().accepted.get("dot", 0)


def addresses(count: int) -> list[str]:
    return [f"p{number}@only.test" for number in range(count)]


def test_everybody_gets_one_copy_and_the_report_says_so(house: Any, network: Network, people: People) -> None:
    sandbox = network()
    send = people(*addresses(120))
    report = house.facts(*send, "--name", "May", "--yes", "--wait")
    assert (report["state"], report["queued"], report["total"]["delivered"]) == ("finished", 120, 120)
    assert list(report["sites"]) == ["only.test"]
    sandbox.stop()
    assert Counter(record.rcpt for record in sandbox.records()) == Counter(addresses(120))
    assert house.facts("campaign", "status", "May") == house.facts("report", "--campaign", str(report["campaign"]))
    assert "finished" in house.tell("report")
    (found,) = house.facts("message", "find", "P7@only.test".lower())
    life = house.facts("message", "show", str(found["message_id"]))
    assert (life["recipient"], life["waiting"]) == ("p7@only.test", None)
    assert [(event["kind"], event["code"]) for event in life["events"]] == [("delivered", 250)]
    assert "delivered at mx" in house.tell("message", "show", str(found["message_id"]))
    assert "There is no message 999999" in house.refusal("message", "show", "999999")
    assert "There is a campaign “May” already" in house.refusal(*send, "--name", "May", "--yes")
    rehearsed = house.run(*send, "--name", "May", "--dry-run")
    assert (rehearsed.returncode, "There is a campaign “May” already" in rehearsed.stdout) == (1, True)
    assert "so it cannot become paused" in house.refusal("campaign", "pause", "May")
    assert "There is no campaign “June”" in house.refusal("campaign", "status", "June")


def test_a_dry_run_and_a_test_copy(house: Any, network: Network, people: People) -> None:
    sandbox = network()
    send = people(*addresses(3))
    facts = house.facts(*send, "--dry-run")
    assert (facts["recipients"], facts["blockers"], facts["links"]) == (3, [], ["https://www.example.com/a"])
    assert "Nothing stands in the way. Nothing was sent." in house.tell(*send, "--dry-run")
    assert house.facts("report") == []
    house.tell(*send, "--test", "boss@only.test", "--wait")
    sandbox.stop()
    assert [record.rcpt for record in sandbox.records()] == ["boss@only.test"]


WRONG_LETTERS = {
    "<p>{{ postal_address }}</p>": "has no unsubscribe link",
    "<p><a href='{{ unsubscribe_url }}'>x</a></p>": "has no postal address",
    "<p>{{ city }} {{ postal_address }} <a href='{{ unsubscribe_url }}'>x</a></p>": "2 of 2 recipients have no city",
    "<p>{% if %}</p>": "HTML, line 1: Expected an expression",
    "<p>{{ ''.__class__ }}</p>": "HTML",
}


def test_a_wrong_template_is_refused_before_anything_is_sent(house: Any, people: People, tmp_path: Path) -> None:
    send = people(*addresses(2))
    for letter, sentence in WRONG_LETTERS.items():
        (tmp_path / "letter.html").write_text(letter, encoding="utf-8")
        assert sentence in house.refusal(*send, "--yes")
    assert house.run(*send, "--dry-run").returncode == 1
    assert house.facts("report") == []


def test_what_else_is_refused(house: Any, people: People, tmp_path: Path) -> None:
    send = people(*addresses(2))
    assert "Nobody can answer here: add --yes." in house.refusal(*send)
    assert "There is no list “Nobody”" in house.refusal(*[("Nobody" if a == "News" else a) for a in send], "--yes")
    stranger = [("x@stranger.example" if a == "news@sender.example" else a) for a in send]
    assert "stranger.example is not a sending domain here" in house.refusal(*stranger, "--yes")
    house.tell("domain", "add", "stranger.example")
    assert "is not verified, so nothing is sent from it" in house.refusal(*stranger, "--yes")
    missing = [(str(tmp_path / "none.html") if a.endswith(".html") else a) for a in send]
    assert "cannot be read" in house.refusal(*missing, "--yes")
    (tmp_path / "letter.html").write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in house.refusal(*send, "--yes")


def test_a_pause_bites_within_seconds_and_nothing_is_lost(
    house: Any, network: Network, people: People, eventually: Eventually
) -> None:
    sandbox = network(SLOW)
    send = people(*addresses(40))
    with house.up(POSTHOUSE_DELIVERY_CONNECTIONS_PER_SITE="1"):
        house.tell(*send, "--name", "May", "--yes")
        eventually(lambda: taken(sandbox) >= 3)
        house.tell("campaign", "pause", "May")
        sleep(2.5)
        stopped = taken(sandbox)
        assert stopped < 40
        sleep(1.5)
        assert taken(sandbox) == stopped
        status = house.facts("campaign", "status", "May")
        assert status["state"] == "paused"
        assert [(each["state"], each["reason"], each["count"]) for each in status["waiting"]] == [
            ("held", "campaign-paused", 40 - stopped)
        ]
        house.tell("campaign", "resume", "May")
        eventually(lambda: house.facts("campaign", "status", "May")["state"] == "finished")
    sandbox.stop()
    assert Counter(record.rcpt for record in sandbox.records() if record.kind is RecordKind.DOT) == Counter(
        addresses(40)
    )


def test_cancelling_ends_everything_that_has_not_left(
    house: Any, network: Network, people: People, eventually: Eventually
) -> None:
    sandbox = network(SLOW)
    send = people(*addresses(40))
    with house.up(POSTHOUSE_DELIVERY_CONNECTIONS_PER_SITE="1"):
        house.tell(*send, "--name", "May", "--yes")
        eventually(lambda: taken(sandbox) >= 3)
        house.tell("campaign", "pause", "May")
        house.tell("campaign", "cancel", "May")
        eventually(lambda: not house.facts("campaign", "status", "May")["waiting"])
        report = house.facts("campaign", "status", "May")
    assert report["state"] == "cancelled"
    assert report["total"]["cancelled"] > 0
    assert report["total"]["cancelled"] + report["total"]["delivered"] == 40
    assert report["total"]["delivered"] == taken(sandbox)


def test_a_hard_bounce_stops_what_is_queued_already(
    house: Any, network: Network, people: People, eventually: Eventually
) -> None:
    unknown = '[[mailboxes]]\nkind = "unknown"\nshare = 1.0\n[mailboxes.reply]\ncode = 550\nstatus = "5.1.1"\ntext = "User unknown"\n'
    sandbox = network(unknown)
    send = people("ann@only.test")
    for name in ("First", "Second"):
        house.tell(*send, "--name", name, "--yes")
    with house.up():
        eventually(lambda: all(each["state"] == "finished" for each in house.facts("report")))
    first, second = (house.facts("report", "--campaign", name)["total"] for name in ("First", "Second"))
    assert first["bounced"] + second["bounced"] + first["suppressed"] + second["suppressed"] == 2
    (row,) = house.facts("suppression", "list")
    assert (row["address_key"], row["scope"], row["cause"]) == ("ann@only.test", "all", "hard-bounce")
    again = house.facts(*send, "--name", "Third", "--yes", "--wait")
    assert again["total"]["suppressed"] == 1
    assert again["suppressed_causes"] == {"hard-bounce": 1}
    house.tell("suppression", "lift", "ann@only.test", "--reason", "she has a mailbox again")
    assert "Nobody is suppressed." in house.tell("suppression", "list")
    assert "is not suppressed" in house.refusal("suppression", "lift", "ann@only.test", "--reason", "x")
    assert sandbox.status().refused.get("dot", 0) == 0


def test_sigterm_finishes_what_is_under_way_and_gives_the_rest_back(
    house: Any, network: Network, people: People, eventually: Eventually
) -> None:
    sandbox = network(SLOW)
    send = people(*addresses(40))
    with house.up(POSTHOUSE_DELIVERY_CONNECTIONS_PER_SITE="2"):
        house.tell(*send, "--name", "May", "--yes")
        eventually(lambda: taken(sandbox) >= 3)
    status = house.facts("campaign", "status", "May")
    assert [each["state"] for each in status["waiting"]] == ["queued"], "nobody has to wait for a dead sender"
    assert status["total"]["delivered"] == taken(sandbox) < 40
    with house.up():
        eventually(lambda: house.facts("campaign", "status", "May")["state"] == "finished")
    sandbox.stop()
    assert Counter(record.rcpt for record in sandbox.records() if record.kind is RecordKind.DOT) == Counter(
        addresses(40)
    )
