"""Sources, pools and streams by the program, and mail that leaves from where they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from posthouse.sandbox import Sandbox

People = Callable[..., list[str]]
Network = Callable[..., Sandbox]


def test_mail_leaves_from_the_sources_of_its_pool(house: Any, network: Network, people: People) -> None:
    sandbox = network()
    send = people(*(f"p{n}@only.test" for n in range(12)))
    house.tell("source", "add", "one", "--address", "127.0.0.61", "--ehlo", "one.sender.example")
    told = house.tell("source", "add", "two", "--address", "127.0.0.62")
    assert "It has no EHLO name of its own" in told
    assert "is not ready to send" in house.refusal("source", "check", "one")
    house.tell("pool", "add", "letters")
    house.tell("pool", "put", "letters", "one", "--weight", "2")
    house.tell("pool", "put", "letters", "two")
    house.tell("stream", "set", "broadcast", "letters")
    assert [source["name"] for source in house.facts("source", "list")] == ["default", "one", "two"]
    (default, letters) = house.facts("pool", "list")
    assert (default["pool"], [entry["source"] for entry in letters["sources"]]) == ("default", ["one", "two"])
    report = house.facts(*send, "--name", "May", "--yes", "--wait")
    assert report["total"]["delivered"] == 12
    house.tell("pool", "remove", "letters", "two")
    assert "is not in the pool" in house.refusal("pool", "remove", "letters", "two")
    house.tell("source", "pause", "one")
    assert [source["state"] for source in house.facts("source", "list")] == ["active", "paused", "active"]
    house.tell("source", "drain", "one")
    house.tell("source", "resume", "one")
    sandbox.stop()
    lives = [house.facts("message", "show", str(number)) for number in range(1, 7)]
    ids = {source["source_id"] for source in house.facts("source", "list")} - {0}
    assert {event["source"] for life in lives for event in life["events"]} <= ids
