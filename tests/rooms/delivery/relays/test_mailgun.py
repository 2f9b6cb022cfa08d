"""Mailgun: requests against its published description and beside its own client's, answers as the description gives them."""

from __future__ import annotations

import asyncio
import base64
import json
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from mailgun.client import Client
from msgspec import structs

from posthouse.delivery.relays import RelayKind
from posthouse.model.messages import Composed
from posthouse.model.outcomes import Reaction, Scope

MAILGUN = RelayKind.MAILGUN
DESCRIPTION = Path(__file__).parents[4] / "../shared/corpora/openapi/mailgun.yaml"


@pytest.fixture(scope="module")
def operation() -> Any:
    """The description of POST /v3/{domain_name}/messages.mime, and all components."""
    if not DESCRIPTION.exists():
        pytest.skip("the published API descriptions are not here (../shared/corpora)")
    described = yaml.load(DESCRIPTION.read_bytes(), Loader=yaml.CSafeLoader)
    return described["paths"]["/v3/{domain_name}/messages.mime"]["post"], described["components"]


def _form(request: Any) -> list[tuple[str, str | None, bytes]]:
    """(name, file name, value) of every part of a multipart form."""
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    parsed = BytesParser().parsebytes(head + request.body)
    parts = parsed.get_payload()
    assert isinstance(parts, list)
    boundary = parsed.get_boundary()
    assert boundary is not None
    raw = request.body.split(f"--{boundary}".encode())[1:-1]
    values = [piece.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for piece in raw]
    found: list[tuple[str, str | None, bytes]] = []
    for part, value in zip(parts, values, strict=True):
        assert isinstance(part, Message)
        name = part.get_param("name", header="Content-Disposition")
        assert isinstance(name, str)
        found.append((name, part.get_filename(), value))
    return found


async def _sent(http_peer: Any, client_at: Any, message: Composed, accepted: Any, **settings: Any) -> Any:
    async with http_peer([accepted[MAILGUN]]) as (peer, port), client_at(MAILGUN, port, **settings) as client:
        answer = await client.hand_over(message)
    assert answer.remote_id == "<mg-abc@mg.example.com>"
    return peer.seen[0]


async def test_the_request_is_the_described_one(
    http_peer: Any, client_at: Any, message: Composed, accepted: Any, operation: Any
) -> None:
    request = await _sent(http_peer, client_at, message, accepted, require_tls=True)
    described, components = operation
    assert (request.method, request.path) == ("POST", "/v3/mg.example.com/messages.mime")
    assert components["securitySchemes"][next(iter(described["security"][0]))]["scheme"] == "basic"
    assert base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")) == b"api:key-very-secret"
    (media_type, body), *_ = described["requestBody"]["content"].items()
    assert request.headers.get_content_type() == media_type
    schema = components["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
    form = _form(request)
    for name, filename, value in form:
        field = schema["properties"][name]
        if "enum" in field:
            assert value.decode() in field["enum"]
        assert (filename is not None) == (field.get("format") == "binary")
    assert {name for name, _, _ in form} >= set(schema.get("required", ()))


async def test_the_message_arrives_octet_for_octet(
    http_peer: Any, client_at: Any, message: Composed, accepted: Any
) -> None:
    odd = structs.replace(message, content=message.content + bytes(range(256)) + b"\r\n--x--\r\n")
    form = _form(await _sent(http_peer, client_at, odd, accepted))
    assert [value for name, _, value in form if name == "message"] == [odd.content]
    assert [value for name, _, value in form if name == "to"] == [b"ann@example.net"]
    assert [name for name, _, _ in form if name == "o:require-tls"] == []
    assert {name: value for name, _, value in form if name.startswith("o:tracking")} == {
        "o:tracking": b"no",
        "o:tracking-clicks": b"no",
        "o:tracking-opens": b"no",
    }


async def test_the_form_is_that_of_mailguns_own_client(
    http_peer: Any, client_at: Any, message: Composed, accepted: Any
) -> None:
    async with http_peer([accepted[MAILGUN]]) as (peer, port), client_at(MAILGUN, port) as client:
        await client.hand_over(message)
        own = Client(auth=("api", "key-very-secret"), api_url=f"http://127.0.0.1:{port}")
        await asyncio.to_thread(
            own.mimemessage.create,
            data={
                "to": message.recipient,
                "o:tracking": "no",
                "o:tracking-clicks": "no",
                "o:tracking-opens": "no",
            },
            files={"message": ("message.eml", message.content)},
            domain="mg.example.com",
        )
    ours, theirs = peer.seen
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert ours.headers["Authorization"] == theirs.headers["Authorization"]
    assert _form(ours) == _form(theirs)


async def test_the_described_refusals_are_understood(
    http_peer: Any, client_at: Any, message: Composed, operation: Any
) -> None:
    described, _ = operation
    rules: dict[str, str] = {}
    for status, response in described["responses"].items():
        if status == "200":
            continue
        (media_type, content), *_ = response["content"].items()
        value = content["examples"]["Example"]["value"]
        body = value if isinstance(value, str) else json.dumps(value)
        says = [(int(status), {"Content-Type": media_type}, body.encode())]
        async with http_peer(says) as (_, port), client_at(MAILGUN, port) as client:
            answer = await client.hand_over(message)
        rules[status] = answer.verdict.rule
        if status == "429":
            assert (answer.verdict.retry_after, answer.verdict.hold_seconds) == (120.0, 120.0)
            assert (answer.verdict.reaction, answer.verdict.scope) == (Reaction.HOLD, Scope.RELAY)
    assert rules == {
        "400": "mailgun-bad-address",
        "401": "mailgun-credentials",
        "429": "mailgun-limit",
        "500": "relay-outage",
    }
