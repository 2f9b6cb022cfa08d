"""What can go wrong on the way to a relay: every case has a verdict, nothing hangs, nothing grows, and nothing is taken for a delivery."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from posthouse.delivery.relays import RelayKind, is_outage
from posthouse.delivery.relays.api import Api, ApiReply, ApiTimes
from posthouse.mail.replies import Failure, Stage
from posthouse.model.messages import Composed
from posthouse.model.outcomes import BounceClass, Reaction, Scope

SHORT = ApiTimes(connect=5.0, reply=0.1, whole=5.0)
HUGE = b"x" * (70 * 1024)


def _raw(status: str, body: bytes, length: int) -> bytes:
    return f"HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("says", "failure"),
    [
        ("reset", Failure.CONNECTION_LOST),
        ("hang", Failure.REPLY_TIMEOUT),
        (_raw("200", b'{"MessageId":"x', 100), Failure.CONNECTION_LOST),
        (_raw("200", b"", 100) + HUGE[:50], Failure.CONNECTION_LOST),
        (b"220 mail.example.com ESMTP\r\n", Failure.PROTOCOL_ERROR),
        (b"\x16\x03\x01\x02\x00\x01\x00", Failure.PROTOCOL_ERROR),
        (b"HTTP/1.1 200 OK\r\nX: " + HUGE, Failure.PROTOCOL_ERROR),
        ((200, {}, HUGE), Failure.PROTOCOL_ERROR),
        ((500, {}, HUGE), Failure.PROTOCOL_ERROR),
    ],
    ids=["reset", "hang", "cut-body", "cut-body-late", "smtp", "tls", "huge-head", "huge-200", "huge-500"],
)
async def test_no_answer_is_an_outage_and_never_a_delivery(
    http_peer: Any, client_at: Any, message: Composed, kind: RelayKind, says: Any, failure: Failure
) -> None:
    async with http_peer([says]) as (_, port), client_at(kind, port, times=SHORT) as client:
        answer = await client.hand_over(message)
    assert (answer.stage, answer.failure) == (Stage.CONTENT, failure)
    assert not answer.verdict.permanent
    assert (answer.verdict.reaction, answer.verdict.scope) == (Reaction.RETRY, Scope.RELAY)
    assert is_outage(answer, answer.verdict)


@pytest.mark.parametrize(
    ("says", "rule", "outage"),
    [
        ((500, {}, b"oops"), "relay-outage", True),
        ((503, {"Retry-After": "7"}, b'{"message":"Service Unavailable"}'), "relay-outage", True),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "relay-redirect", False),
        ((200, {}, b"<html>Welcome to this hotel</html>"), "relay-no-receipt", True),
        ((200, {}, b"[" * 60000), "relay-no-receipt", True),
        ((200, {}, b'{"MessageId":7,"id":null}'), "relay-no-receipt", True),
        ((418, {}, b"\xff\x00 teapot"), "relay-unknown", False),
    ],
    ids=["500", "503", "redirect", "hotel", "deep", "types", "unknown"],
)
async def test_an_answer_that_says_nothing_about_the_message(
    http_peer: Any, client_at: Any, message: Composed, kind: RelayKind, says: Any, rule: str, outage: bool
) -> None:
    async with http_peer([says]) as (peer, port), client_at(kind, port) as client:
        answer = await client.hand_over(message)
    assert answer.verdict.rule == rule
    assert not answer.verdict.permanent
    assert is_outage(answer, answer.verdict) is outage
    assert len(peer.seen) == 1  # no redirect was followed
    assert answer.reply.text.isprintable()


@pytest.mark.parametrize(
    ("wish", "seconds"),
    [
        ("17", 17.0),
        ("Sun, 01 Mar 2026 22:02:00 GMT", 120.0),
        ("Sun, 01 Mar 2026 21:02:00 GMT", 5.0),
        ("99999999999", 86400.0),
        ("-5", 5.0),
        ("soon", 5.0),
        ("Sun, 99 Foo 2026", 5.0),
    ],
)
async def test_a_wish_to_wait_is_granted_within_reason(
    http_peer: Any, client_at: Any, message: Composed, kind: RelayKind, wish: str, seconds: float
) -> None:
    async with http_peer([(429, {"Retry-After": wish}, b"")]) as (_, port), client_at(kind, port) as client:
        verdict = (await client.hand_over(message)).verdict
    assert (verdict.bounce_class, verdict.reaction, verdict.retry_after) == (BounceClass.RATE, Reaction.SLOW, seconds)
    assert verdict.hold_seconds == max(1.0, seconds if seconds != 5.0 else 0.0)


async def test_nobody_at_the_address(http_peer: Any, client_at: Any, message: Composed, kind: RelayKind) -> None:
    async with http_peer(["reset"]) as (_, port):
        pass
    async with client_at(kind, port) as client:
        answer = await client.hand_over(message)
    assert (answer.stage, answer.failure) == (Stage.CONNECT, Failure.CONNECT_REFUSED)
    assert answer.verdict.rule == "relay-unreachable"


async def test_a_name_that_dns_does_not_know(client_at: Any, message: Composed, kind: RelayKind) -> None:
    async with client_at(kind, 1, endpoint="https://relay.invalid") as client:
        answer = await client.hand_over(message)
    assert (answer.stage, answer.failure, answer.verdict.rule) == (
        Stage.CONNECT,
        Failure.DNS_TEMPORARY,
        "relay-not-in-dns",
    )


async def test_the_callers_time_is_the_limit(http_peer: Any, client_at: Any, message: Composed) -> None:
    async with http_peer(["hang"]) as (_, port), client_at(RelayKind.MAILGUN, port) as client:
        late = await client.hand_over(message, 0.05)
        too_late = await client.hand_over(message, -3.0)
    assert late.failure is Failure.REPLY_TIMEOUT
    assert too_late.failure in (Failure.REPLY_TIMEOUT, Failure.CONNECT_TIMEOUT)


async def test_a_connection_is_used_again(
    http_peer: Any, client_at: Any, message: Composed, accepted: Any, kind: RelayKind
) -> None:
    async with http_peer([accepted[kind]]) as (peer, port), client_at(kind, port) as client:
        for _ in range(5):
            assert (await client.hand_over(message)).verdict is None
    assert (peer.connections, len(peer.seen)) == (1, 5)


async def test_what_is_too_big_or_needs_smtputf8_is_not_offered(
    http_peer: Any, client_at: Any, kind: RelayKind
) -> None:
    big = Composed("b@example.com", "a@example.net", b"x" * (41 * 1024 * 1024))
    foreign = Composed("b@example.com", "ä@example.net", b"x", smtputf8=True)
    async with http_peer(["reset"]) as (peer, port), client_at(kind, port) as client:
        assert (await client.hand_over(big)).failure is Failure.TOO_BIG
        assert (await client.hand_over(foreign)).failure is Failure.SMTPUTF8_MISSING
    assert peer.seen == []


async def test_packed_answers_are_not_unpacked(http_peer: Any, client_at: Any, message: Composed) -> None:
    says = [(200, {"Content-Encoding": "gzip"}, b'{"id":"<a@b>"}')]
    async with http_peer(says) as (peer, port), client_at(RelayKind.MAILGUN, port) as client:
        assert (await client.hand_over(message)).remote_id == "<a@b>"
    assert peer.seen[0].headers["Accept-Encoding"] == "identity"


async def test_cookies_are_not_kept(http_peer: Any, client_at: Any, message: Composed, accepted: Any) -> None:
    status, _, body = accepted[RelayKind.MAILGUN]
    says = [(status, {"Set-Cookie": "a=b; Path=/"}, body)]
    async with http_peer(says) as (peer, port), client_at(RelayKind.MAILGUN, port) as client:
        await client.hand_over(message)
        await client.hand_over(message)
    assert [request.headers["Cookie"] for request in peer.seen] == [None, None]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody but a test trusts, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay.test")])
    now = datetime.now(UTC)  # noqa: TID251 -- OpenSSL looks at the machine's clock
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "relay.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def test_credentials_go_only_to_whom_the_certificate_names(
    http_peer: Any, client_at: Any, message: Composed, accepted: Any, kind: RelayKind, certificate: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's side of a refused handshake
    async with http_peer([accepted[kind]], context) as (peer, port):
        async with client_at(kind, port, endpoint=f"https://localhost:{port}") as client:
            answer = await client.hand_over(message)
        trusted = ssl.create_default_context(cafile=str(certificate))
        async with Api(f"https://localhost:{port}", 1, ApiTimes(), trusted) as api:
            reply = await api.ask("GET", "/", {})
    assert (answer.stage, answer.failure) == (Stage.STARTTLS, Failure.TLS_FAILED)
    assert answer.verdict.rule == "relay-tls"
    assert isinstance(reply, ApiReply)
    assert [request.method for request in peer.seen] == ["GET"]
