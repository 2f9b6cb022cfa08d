"""Amazon SES: against moto's server, against a server that verifies signatures with botocore, and beside botocore's own requests."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from email import message_from_string
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.session import get_session
from moto.backends import get_backend
from moto.core.models import DEFAULT_ACCOUNT_ID as ACCOUNT_ID
from moto.server import ThreadedMotoServer
from msgspec import structs

from posthouse.delivery.relays import RelayKind
from posthouse.mail.replies import Stage
from posthouse.model.messages import Composed
from posthouse.model.outcomes import BounceClass, Reaction, Scope

SES = RelayKind.SES


@pytest.fixture(scope="module")
def moto() -> Iterator[int]:
    """moto's server, with example.com proved."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    _boto(port).create_email_identity(EmailIdentity="example.com")
    yield port
    server.stop()


async def test_moto_takes_a_message(moto: int, client_at: Any, message: Composed) -> None:
    async with client_at(SES, moto) as client:
        answer = await client.hand_over(message)
    assert answer.stage is Stage.CONTENT
    assert answer.reply is not None
    assert (answer.reply.code, answer.verdict) == (200, None)
    assert answer.remote_id
    assert answer.reply.text == answer.remote_id
    kept = get_backend("ses")[ACCOUNT_ID]["eu-west-1"].sent_messages[-1]
    assert (kept.id, kept.source, kept.destinations[0]) == (answer.remote_id, "news@example.com", message.recipient)
    assert kept.raw_data.endswith(message.content.decode().partition("MIME-Version")[2])


async def test_moto_refuses_a_domain_that_is_not_proved(moto: int, client_at: Any, message: Composed) -> None:
    foreign = structs.replace(message, content=message.content.replace(b"news@example.com", b"news@example.org"))
    async with client_at(SES, moto) as client:
        answer = await client.hand_over(foreign)
    assert answer.reply is not None
    assert answer.reply.text.startswith("MessageRejected: ")
    assert answer.verdict is not None
    assert answer.verdict.permanent
    assert answer.remote_id is None


async def test_a_key_that_may_not_ask_for_the_limits_still_sends(moto: int, client_at: Any, message: Composed) -> None:
    async with client_at(SES, moto) as client:  # moto has no GetAccount
        assert await client.learn_quota() is None
        assert client.quota is None
        assert (await client.hand_over(message)).remote_id


def _verifies(request: Any, secret: str) -> bool:
    """Whether the signature is the one that botocore makes for what came."""
    authorization = request.headers["Authorization"]
    names = authorization.split("SignedHeaders=")[1].split(",")[0].split(";")
    copy = AWSRequest(
        method=request.method,
        url=f"http://{request.headers['Host']}{request.path}",
        headers={name: request.headers[name] for name in names if name != "x-amz-date"},
        data=request.body,
    )
    copy.context["timestamp"] = request.headers["X-Amz-Date"]
    signer = SigV4Auth(Credentials("A" * 20, secret), "ses", "eu-west-1")
    copy.headers["X-Amz-Date"] = request.headers["X-Amz-Date"]
    text = signer.string_to_sign(copy, signer.canonical_request(copy))
    return bool(authorization.endswith(f"Signature={signer.signature(text, copy)}"))


@pytest.mark.parametrize("secret", ["very/secret+key", "another"])
async def test_a_server_that_verifies_refuses_a_wrong_signature(
    http_peer: Any, client_at: Any, message: Composed, accepted: Any, secret: str
) -> None:
    def says(request: Any) -> Any:
        if _verifies(request, "very/secret+key"):
            return accepted[SES]
        refusal = b'{"message":"The request signature we calculated does not match the signature you provided."}'
        return 403, {"x-amzn-ErrorType": "InvalidSignatureException:http://x/"}, refusal

    async with http_peer(says) as (_, port), client_at(SES, port, secret_access_key=secret) as client:
        answer = await client.hand_over(message)
    if secret == "very/secret+key":
        assert answer.remote_id == "0102-abc"
    else:
        assert answer.reply.text.startswith("InvalidSignatureException: The request signature")
        assert (answer.verdict.rule, answer.verdict.reaction) == ("ses-credentials", Reaction.FIX)
        assert not answer.verdict.permanent


async def test_the_request_is_botocores(http_peer: Any, client_at: Any, message: Composed, accepted: Any) -> None:
    options = {"configuration_set": "news", "session_token": "token/+"}
    async with http_peer([accepted[SES]]) as (peer, port), client_at(SES, port, **options) as client:
        await client.hand_over(message)
        raw = base64.b64decode(json.loads(peer.seen[0].body)["Content"]["Raw"]["Data"])
        said = await asyncio.to_thread(
            _boto(port).send_email,
            Content={"Raw": {"Data": raw}},
            Destination={"ToAddresses": [message.recipient]},
            FeedbackForwardingEmailAddress=message.return_path,
            ConfigurationSetName="news",
        )
    assert said["MessageId"] == "0102-abc"
    ours, theirs = peer.seen
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert json.loads(ours.body) == json.loads(theirs.body)
    for name in ("Content-Type", "Host", "X-Amz-Security-Token"):
        assert ours.headers[name] == theirs.headers[name], name


def _boto(port: int) -> Any:
    return boto3.client(
        "sesv2",
        region_name="eu-west-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="A" * 20,
        aws_secret_access_key="very/secret+key",
        aws_session_token="token/+",
    )


async def test_our_signatures_stay_at_home_and_the_rest_is_untouched(
    http_peer: Any, client_at: Any, message: Composed, accepted: Any
) -> None:
    async with http_peer([accepted[SES]]) as (peer, port), client_at(SES, port) as client:
        await client.hand_over(message)
    raw = base64.b64decode(json.loads(peer.seen[0].body)["Content"]["Raw"]["Data"])
    assert raw == message.content[message.content.index(b"From:") :]
    assert message_from_string(raw.decode("latin-1"))["DKIM-Signature"] is None


async def test_a_body_that_talks_of_signatures_is_untouched(
    http_peer: Any, client_at: Any, message: Composed, accepted: Any
) -> None:
    content = b"From: a@example.com\r\nX-DKIM-Signature: kept\r\n\r\nDKIM-Signature: in the body\r\n"
    async with http_peer([accepted[SES]]) as (peer, port), client_at(SES, port) as client:
        await client.hand_over(structs.replace(message, content=content))
    assert base64.b64decode(json.loads(peer.seen[0].body)["Content"]["Raw"]["Data"]) == content


async def test_bounces_may_stay_with_amazon(http_peer: Any, client_at: Any, message: Composed, accepted: Any) -> None:
    async with (
        http_peer([accepted[SES]]) as (peer, port),
        client_at(SES, port, bounces_to_return_path=False) as client,
    ):
        await client.hand_over(message)
    assert "FeedbackForwardingEmailAddress" not in json.loads(peer.seen[0].body)


def _account(**changes: Any) -> tuple[int, dict[str, str], bytes]:
    account = {
        "DedicatedIpAutoWarmupEnabled": False,
        "EnforcementStatus": "HEALTHY",
        "ProductionAccessEnabled": True,
        "SendQuota": {"Max24HourSend": 50000.0, "MaxSendRate": 14.0, "SentLast24Hours": 49990.0},
        "SendingEnabled": True,
        **changes,
    }
    known = get_session().get_service_model("sesv2").operation_model("GetAccount").output_shape.members
    assert account.keys() <= known.keys()
    assert account["SendQuota"].keys() <= known["SendQuota"].members.keys()
    return 200, {}, json.dumps(account).encode()


async def test_the_limits_of_the_account_are_read(http_peer: Any, client_at: Any) -> None:
    async with http_peer([_account()]) as (peer, port), client_at(SES, port) as client:
        assert client.quota_is_old
        assert await client.learn_quota() is None
        assert not client.quota_is_old
    assert (peer.seen[0].method, peer.seen[0].path, peer.seen[0].body) == ("GET", "/v2/email/account", b"")
    assert _verifies(peer.seen[0], "very/secret+key")
    quota = client.quota
    assert (quota.per_second, quota.per_day, quota.remaining, quota.obstacle) == (14.0, 50000.0, 10.0, None)


@pytest.mark.parametrize(
    ("changes", "remaining", "obstacle"),
    [
        ({"SendingEnabled": False}, 0.0, "paused"),
        ({"EnforcementStatus": "PROBATION"}, 10.0, "review"),
        ({"ProductionAccessEnabled": False}, 10.0, "test mode"),
        ({"SendQuota": {"Max24HourSend": -1.0, "MaxSendRate": 14.0, "SentLast24Hours": 5.0}}, None, None),
        ({"SendQuota": {"Max24HourSend": 200.0, "MaxSendRate": 1.0, "SentLast24Hours": 201.0}}, 0.0, None),
    ],
)
async def test_what_is_amiss_with_an_account_is_said(
    http_peer: Any, client_at: Any, changes: dict[str, Any], remaining: float | None, obstacle: str | None
) -> None:
    async with http_peer([_account(**changes)]) as (_, port), client_at(SES, port) as client:
        await client.learn_quota()
    assert client.quota.remaining == remaining
    assert (client.quota.obstacle is None) if obstacle is None else (obstacle in client.quota.obstacle)


async def test_an_error_is_named_in_the_head_or_in_the_body(http_peer: Any, client_at: Any, message: Composed) -> None:
    says = [
        (429, {"x-amzn-ErrorType": "TooManyRequestsException"}, b'{"message":"Maximum sending rate exceeded."}'),
        (400, {}, b'{"__type":"com.amazonaws.sesv2#SendingPausedException","Message":"Sending is paused"}'),
        (429, {"x-amzn-ErrorType": "TooManyRequestsException"}, b'{"message":"Daily message quota exceeded."}'),
    ]
    async with http_peer(says) as (_, port), client_at(SES, port) as client:
        throttled, paused, full = [(await client.hand_over(message)).verdict for _ in range(3)]
    assert (throttled.rule, throttled.reaction, throttled.scope) == ("ses-throttled", Reaction.SLOW, Scope.RELAY)
    assert (paused.rule, paused.reaction, paused.permanent) == ("ses-sending-paused", Reaction.FIX, False)
    assert (full.rule, full.reaction, full.bounce_class) == ("ses-daily-quota", Reaction.HOLD, BounceClass.RATE)
    assert full.hold_seconds == 3600
