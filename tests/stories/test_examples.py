"""The examples that ship with Posthouse: they compile, they may be sent, and the list is the one that the code writes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
from msgspec import structs

from posthouse.audience.sample import SampleFacts, write_sample
from posthouse.composing import CompiledMessage, Draft, Frame, compile_message, prove_template

CONTACTS = Path(__file__).parents[2] / "examples" / "contacts.csv"
FRAME = Frame("https://mail.example.com", "bounce.example.com", "", "", "", "mail.example.com", "1 Mail Lane, London")


def compiled(name: str) -> CompiledMessage:
    source = resources.files("posthouse.cli").joinpath("examples", name).read_text(encoding="utf-8")
    draft = Draft("News", "news@example.com", track_opens=False)
    kind = "mjml" if name.endswith(".mjml") else "html"
    return compile_message(structs.replace(draft, **{kind: source}), FRAME)


@pytest.mark.parametrize(("name", "engine"), [("newsletter.mjml", False), ("letter.html", False), ("offer.html", True)])
def test_an_example_is_fit_to_be_sent(name: str, engine: bool) -> None:
    message = compiled(name)
    assert message.engine is engine
    assert len(message.links) == 10
    assert all(link.startswith("https://www.posthouse.example/") for link in message.links)
    assert message.has_body_unsubscribe
    assert message.has_postal_address
    assert message.fields == (), "a contact of whom only the address is known can have it"
    assert message.warnings == ()


def test_the_newsletter_loads_nothing_from_elsewhere() -> None:
    html = b"".join(compiled("newsletter.mjml").body.statics)
    assert b"<img" not in html
    assert b"@import" not in html
    assert b"<link" not in html


@pytest.mark.parametrize(
    "fields",
    [{}, {"plan": "Plus"}, {"plan": " regular"}, {"plan": "Regular", "tags": ["night coaches"]}, {"tags": "bikes"}],
)
async def test_the_offer_fits_contacts_of_every_kind(fields: dict[str, object]) -> None:
    await prove_template(compiled("offer.html"), [fields])


def test_the_contacts_are_those_that_the_code_writes(tmp_path: Path) -> None:
    again = tmp_path / "contacts.csv"
    assert write_sample(again, 400, 7) == SampleFacts(rows=400, addresses=385, rejects=6)
    assert again.read_bytes() == CONTACTS.read_bytes()
