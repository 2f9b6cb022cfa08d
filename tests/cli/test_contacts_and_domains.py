"""contacts and domain by the real program: files that are wrong, records that are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def test_an_import_says_what_it_did_and_where_the_rejects_are(house: Any, tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text("E-Mail;Vorname\nann@example.org;Ann\nnobody;Ben\nANN@example.org;Anna\n", encoding="utf-8")
    mapping = ("--map", "E-Mail=email", "--map", "Vorname=first_name")
    first = house.facts("contacts", "import", str(table), "--list", "News", *mapping)
    assert (first["rows"], first["added"], first["rejected"]) == (3, 1, 1)
    again = house.facts("contacts", "import", str(table), "--list", "News", *mapping)
    assert (again["added"], again["updated"]) == (0, 0)
    (rejects,) = tmp_path.glob("*reject*")
    assert "has no @" in rejects.read_text(encoding="utf-8")
    assert [(each["name"], each["subscribed"]) for each in house.facts("contacts", "lists")] == [("News", 1)]


@pytest.mark.parametrize(
    ("name", "octets"),
    [
        ("missing.csv", None),
        ("empty.csv", b""),
        ("image.csv", b"\x89PNG\r\n\x1a\n\0\0\0"),
        ("people.xlsx", b"no zip"),
        ("names.csv", b"name,city\nAnn,Rome\n"),
    ],
)
def test_a_wrong_file_is_one_sentence(house: Any, tmp_path: Path, name: str, octets: bytes | None) -> None:
    if octets is not None:
        (tmp_path / name).write_bytes(octets)
    sentence = house.refusal("contacts", "import", str(tmp_path / name), "--list", "News")
    assert sentence.endswith(".")
    assert "Traceback" not in sentence


def test_a_domain_is_added_checked_and_forced(house: Any) -> None:
    assert "_domainkey.bücher.example" not in (said := house.tell("domain", "add", "Bücher.example"))
    assert "ph" in said
    assert "_dmarc.xn--bcher-kva.example." in said
    facts = house.facts("domain", "add", "bücher.example")
    assert (facts["domain"], facts["added"], len(facts["records"])) == ("xn--bcher-kva.example", False, 5)
    nobody = {"POSTHOUSE_DNS_NAMESERVERS": "127.0.0.1:9", "POSTHOUSE_DNS_TIMEOUT_SECONDS": "0.2"}
    refused = house.run("domain", "verify", "bücher.example", **nobody)
    assert refused.returncode == 1
    assert "may not send yet" in refused.stdout
    assert "not verified" in house.tell("domain", "list")
    assert "may send because you forced it; this is recorded." in house.tell(
        "domain", "verify", "bücher.example", "--force", **nobody
    )
    assert house.facts("domain", "list")[0]["verified_at"] is not None
    assert "is not a full domain name" in house.refusal("domain", "add", "localhost")
    assert "is not a sending domain here" in house.refusal("domain", "verify", "other.example")
