"""SendGrid: what our MIME becomes, against its published description and beside its own library; and what it cannot carry, by name."""

from __future__ import annotations

import base64
import json
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from sendgrid.helpers import mail as sdk

from posthouse.delivery.relays import RelayKind
from posthouse.delivery.relays.decomposition import decomposed
from posthouse.delivery.relays.dialect import CannotCarry
from posthouse.model.messages import Composed

SENDGRID = RelayKind.SENDGRID
CORPORA = Path(__file__).parents[4] / "../shared/corpora"


@pytest.fixture(scope="module")
def description() -> Any:
    """SendGrid's description of mail/send."""
    path = CORPORA / "openapi/sendgrid_mail_v3.json"
    if not path.exists():
        pytest.skip("the published API descriptions are not here (../shared/corpora)")
    return json.loads(path.read_text())


def _check(value: Any, schema: Any, description: Any, where: str = "body") -> None:
    """Every value is of the described type, every name is described, everything required is there."""
    if "$ref" in schema:
        target = description
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        schema = {**target, **{name: part for name, part in schema.items() if name != "$ref"}}
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    assert isinstance(value, types[schema["type"]]), where
    if "enum" in schema:
        assert value in schema["enum"], where
    if isinstance(value, str):
        assert len(value) >= schema.get("minLength", 0), where
    if isinstance(value, list):
        assert len(value) <= schema.get("maxItems", len(value)), where
        for number, one in enumerate(value):
            _check(one, schema["items"], description, f"{where}[{number}]")
    if isinstance(value, dict):
        assert value.keys() >= set(schema.get("required", ())), where
        if "properties" in schema:
            for name, one in value.items():
                _check(one, schema["properties"][name], description, f"{where}.{name}")


def _as(message: EmailMessage, recipient: str = "ann@example.net") -> Composed:
    return Composed("b@bounces.example.com", recipient, message.as_bytes(policy=SMTP))


def _letter(text: str = "Hello\n", **fields: str) -> EmailMessage:
    letter = EmailMessage()
    letter["From"] = "News <news@example.com>"
    letter["To"] = "Ann <ann@example.net>"
    letter["Subject"] = "Hello"
    for name, value in fields.items():
        letter[name.replace("_", "-")] = value
    letter.set_content(text)
    return letter


def _rich() -> EmailMessage:
    letter = _letter("Grüße\n", Reply_To='"Büro" <office@example.com>, b@example.com', X_Kind="one two")
    letter.add_alternative("<p>Grüße <img src='cid:logo@x'></p>\n", subtype="html")
    html = letter.get_payload()[1]  # type: ignore[index]
    html.add_related(b"\x89PNG\x00", "image", "png", cid="<logo@x>", filename="logo.png")  # type: ignore[union-attr]
    letter.add_attachment(b"%PDF\xff", "application", "pdf", filename="Überblick.pdf")
    return letter


async def test_a_campaigns_message_is_the_described_request(
    http_peer: Any, client_at: Any, message: Composed, accepted: Any, description: Any
) -> None:
    settings = {"subuser": "shop", "ip_pool": "main"}
    async with http_peer([accepted[SENDGRID]]) as (peer, port), client_at(SENDGRID, port, **settings) as client:
        answer = await client.hand_over(message)
    assert answer.remote_id == "sg-abc"
    request = peer.seen[0]
    assert (request.method, request.path) == ("POST", "/v3/mail/send")
    assert request.headers["Authorization"] == "Bearer SG.very.secret"
    assert request.headers["On-Behalf-Of"] == "shop"
    operation = description["paths"]["/v3/mail/send"]["post"]
    schema = description["components"]["requestBodies"][operation["requestBody"]["$ref"].rpartition("/")[2]]
    body = json.loads(request.body)
    _check(body, schema["content"][request.headers["Content-Type"]]["schema"], description)
    tracking = body.pop("tracking_settings")
    assert [settings["enable"] for settings in tracking.values()] == [False] * 4
    assert body == {
        "personalizations": [{"to": [{"email": "ann@example.net", "name": "Ann"}]}],
        "from": {"email": "news@example.com", "name": "News"},
        "subject": "Grüße",
        "content": [
            {"type": "text/plain", "value": "Grüße"},
            {"type": "text/html", "value": "<p>Grüße</p>"},
        ],
        "headers": {
            "Message-ID": "<token@example.com>",
            "Date": "Sun, 01 Mar 2026 22:00:00 +0000",
            "List-Unsubscribe": "<https://mail.example.com/u/token>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        },
        "ip_pool_name": "main",
    }


def test_what_we_send_is_what_sendgrids_own_library_sends(description: Any) -> None:
    form = decomposed(_as(_rich()))
    assert not isinstance(form, CannotCarry)
    mail = sdk.Mail(
        from_email=sdk.From("news@example.com", "News"),
        to_emails=sdk.To("ann@example.net", "Ann"),
        subject="Hello",
    )
    mail.content = [
        sdk.Content("text/plain", "Grüße\n"),
        sdk.Content("text/html", "<p>Grüße <img src='cid:logo@x'></p>\n"),
    ]
    mail.reply_to_list = [sdk.ReplyTo("office@example.com", "Büro"), sdk.ReplyTo("b@example.com")]
    mail.header = sdk.Header("X-Kind", "one two")
    for octets, name, kind, disposition, cid in (
        (b"\x89PNG\x00", "logo.png", "image/png", "inline", "logo@x"),
        (b"%PDF\xff", "Überblick.pdf", "application/pdf", "attachment", None),
    ):
        mail.add_attachment(sdk.Attachment(base64.b64encode(octets).decode(), name, kind, disposition, cid))
    theirs = mail.get()
    theirs["attachments"].sort(key=lambda one: one["filename"])
    form["attachments"] = sorted(form["attachments"], key=lambda one: one["filename"])  # type: ignore[call-overload]
    assert form == theirs
    schema = description["components"]["requestBodies"]["PostMailSend"]["content"]["application/json"]["schema"]
    _check(form, schema, description)


def _with(change: Any) -> Composed:
    letter = _rich()
    change(letter)
    return _as(letter)


def _raw(head: str, body: str = "Hello\r\n") -> Composed:
    text = f"From: a@example.com\r\nTo: ann@example.net\r\nSubject: s\r\n{head}\r\n\r\n{body}"
    return Composed("b@example.com", "ann@example.net", text.encode("utf-8"))


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (_as(_letter(Cc="c@example.net")), "a Cc field"),
        (_as(_letter(Bcc="c@example.net")), "a Bcc field"),
        (_as(_letter(X_SG_EID="1")), "a X-SG-EID field of our own"),
        (_as(_letter(), "bob@example.net"), "a To field that names others than the recipient"),
        (_raw("To: c@example.net"), "a second To field"),
        (_raw("X-A: 1\r\nx-a: 2"), "a second x-a field"),
        (_raw("X-A: ü"), "a X-A field with octets outside ASCII"),
        (_raw("Reply-To: nobody"), "a Reply-To field that is not a list of addresses"),
        (Composed("b@e.com", "a@e.net", b"To: a@e.net\r\nSubject: s\r\n\r\nx"), "a From field that does not hold"),
        (Composed("b@e.com", "a@e.net", b"From: b@e.com\r\nTo: a@e.net\r\n\r\nx"), "a message without a Subject"),
        (_raw("Content-Type: text/plain; charset=utf-8; format=flowed"), "the parameter format of text/plain"),
        (_raw("Content-Type: text/plain; charset=x-none"), "a text that is not in its character set x-none"),
        (
            _raw("Content-Type: text/plain; charset=us-ascii", "\x80"),
            "a text that is not in its character set us-ascii",
        ),
        (_raw("Content-Language: de"), "a Content-Language field"),
        (_raw("Content-Type: application/pdf"), "application/pdf in the place of a body"),
        (_raw("X: y", " \r\n"), "an empty body"),
        (_raw("Content-Transfer-Encoding: base64", "a"), "a part that breaks the MIME format"),
        (_raw("Content-Type: multipart/mixed; boundary=b"), "a part that breaks the MIME format"),
        (
            _raw(
                "Content-Type: multipart/signed; boundary=b; micalg=pgp-sha256; protocol=x/y",
                "--b\r\n\r\nx\r\n--b\r\n\r\ny\r\n--b--\r\n",
            ),
            "multipart/signed in the place of a body",
        ),
        (
            _raw(
                "Content-Type: multipart/alternative; boundary=b",
                "--b\r\nContent-Type: text/html\r\n\r\nx\r\n--b\r\nContent-Type: text/plain\r\n\r\ny\r\n--b--\r\n",
            ),
            "bodies in this number and order: text/html, text/plain",
        ),
        (
            _raw(
                "Content-Type: multipart/alternative; boundary=b",
                "--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b\r\nContent-Type: text/markdown\r\n\r\ny\r\n--b--\r\n",
            ),
            "text/markdown among alternatives",
        ),
        (_raw("Reply-To: =?utf-8?B?/w==?= <a@example.com>"), "a Reply-To field with encoded words that cannot be read"),
        (
            _raw(
                "Content-Type: multipart/mixed; boundary=b0",
                "".join(f"--b{n}\r\nContent-Type: multipart/mixed; boundary=b{n + 1}\r\n\r\n" for n in range(3000)),
            ),
            "parts within parts without end",
        ),
        (
            _with(lambda letter: letter.add_attachment(_letter())),
            "message/rfc822 as an attachment",
        ),
        (
            _with(lambda letter: letter.add_attachment("ä", charset="iso-8859-1", filename="a.txt")),
            "an attached text in iso-8859-1",
        ),
        (_with(lambda letter: letter.add_attachment(b"x", "a", "b")), "an attachment without a file name"),
        (_with(lambda letter: letter.add_attachment(b"", "a", "b", filename="c")), "an empty attachment"),
        (
            _with(
                lambda letter: letter.get_payload()[0].get_payload()[1].add_related(b"x", "image", "png", filename="f")
            ),
            "a related part without Content-ID",
        ),
    ],
)
def test_what_it_cannot_carry_is_refused_by_name(message: Composed, what: str) -> None:
    refused = decomposed(message)
    assert isinstance(refused, CannotCarry), refused
    assert refused.what.startswith(what)


async def test_a_refusal_by_name_sends_nothing_and_ends_the_message(
    http_peer: Any, client_at: Any, accepted: Any
) -> None:
    async with http_peer([accepted[SENDGRID]]) as (peer, port), client_at(SENDGRID, port) as client:
        answer = await client.hand_over(_as(_letter(Cc="c@example.net")))
    assert peer.seen == []
    assert answer.reply.text == "SendGrid has no form for a Cc field; send this message another way."
    assert (answer.verdict.permanent, answer.verdict.rule) == (True, "sendgrid-cannot-carry")


def test_the_address_is_the_envelopes_and_letter_case_is_no_difference() -> None:
    form = decomposed(_as(_letter(), "Ann@example.net"))
    assert not isinstance(form, CannotCarry)
    assert form["personalizations"] == [{"to": [{"email": "Ann@example.net", "name": "Ann"}]}]


@given(st.binary(max_size=400), st.integers(0, 700))
def test_no_octets_break_it(octets: bytes, at: int) -> None:
    whole = _as(_rich()).content
    decomposed(Composed("b@example.com", "ann@example.net", octets))
    decomposed(Composed("b@example.com", "ann@example.net", whole[:at] + octets + whole[at:]))


def test_no_message_of_the_corpus_breaks_it() -> None:
    folder = CORPORA / "mime"
    if not folder.exists():
        pytest.skip("the MIME corpus is not here (../shared/corpora)")
    letters = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".eml", ".txt", ".msg")]
    assert letters
    for path in letters:
        decomposed(Composed("b@example.com", "ann@example.net", path.read_bytes()))


async def test_every_error_of_the_list_is_told(http_peer: Any, client_at: Any, message: Composed) -> None:
    errors = [
        {"message": "Does not contain a valid address.", "field": "personalizations.0.to.0.email", "help": None},
        {"message": "Bad\nthing", "field": None},
    ]
    says = [
        (400, {}, json.dumps({"errors": errors}).encode()),
        (401, {}, b'{"errors":[{"message":"Maximum credits exceeded","field":null,"help":null}]}'),
        (429, {"X-RateLimit-Reset": "1772402430"}, b'{"errors":[{"field":null,"message":"too many requests"}]}'),
    ]
    async with http_peer(says) as (_, port), client_at(SENDGRID, port) as client:
        bad, empty, fast = [await client.hand_over(message) for _ in range(3)]
    assert bad.reply.text == "personalizations.0.to.0.email: Does not contain a valid address.; Bad thing"
    assert bad.verdict.rule == "sendgrid-bad-address"
    assert (empty.verdict.rule, empty.verdict.hold_seconds) == ("sendgrid-credits", 7200.0)  # it is 22:00 UTC
    assert (fast.verdict.rule, fast.verdict.retry_after) == ("sendgrid-throttled", 30.0)


def test_trace_fields_are_left_to_the_one_who_travels() -> None:
    traced = structs.replace(
        _as(_letter()), content=b"Received: from a\r\nReceived: from b\r\n" + _as(_letter()).content
    )
    assert decomposed(traced) == decomposed(_as(_letter()))
