"""STARTTLS under each policy, with real handshakes: what is let through, what is stopped and with which sentence, what is told."""

from __future__ import annotations

import hashlib
import itertools
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from msgspec import structs

from posthouse.delivery import Answer, Job, TlsNeed, TlsPolicy
from posthouse.delivery.dane import chain_matches, usable
from posthouse.delivery.dial import Dialler, DialRules
from posthouse.delivery.session import Session
from posthouse.delivery.tls_policy import HostTlsa, Reported
from posthouse.mail.replies import Failure, Stage
from posthouse.mail.reports.tls_report import PolicyType, ResultType
from posthouse.model.ports import Tlsa

HOST = "mx.peer.test"
STARTTLS = "250-peer.test\r\n250-PIPELINING\r\n250 STARTTLS"
PLAIN = "250-peer.test\r\n250 PIPELINING"
VERIFY = TlsPolicy(need=TlsNeed.VERIFY)
TOLD = Reported("peer.test", PolicyType.STS)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAR = timedelta(days=36_500)


class Authority:
    """A throw-away authority; `issue` makes what a TLS server needs, in a folder."""

    def __init__(self, folder: Path, *, ca: bool = True) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.certificate = (
            self._builder(name, self.key.public_key(), NOW - FAR / 10, NOW + FAR)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.file = folder / "authority.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def issue(self, names: Sequence[str], *, expired: bool = False, chain: bool = True) -> tuple[ssl.SSLContext, bytes]:
        """(the server's context, its certificate as DER)."""
        key = ec.generate_private_key(ec.SECP256R1())
        ends = datetime(2021, 1, 1, tzinfo=UTC) if expired else NOW + FAR
        builder = self._builder(x509.Name([]), key.public_key(), datetime(2020, 1, 1, tzinfo=UTC), ends)
        made = (
            builder.issuer_name(self.certificate.subject)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        file = self.folder / f"{made.serial_number}.pem"
        pem = made.public_bytes(Encoding.PEM)
        if chain:
            pem += self.certificate.public_bytes(Encoding.PEM)
        file.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context, made.public_bytes(Encoding.DER)

    @staticmethod
    def _builder(name: x509.Name, key: Any, begins: datetime, ends: datetime) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that this process trusts."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.file))
    return made


def spki(der: bytes) -> bytes:
    return (
        x509.load_der_x509_certificate(der).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )


def dane(*records: Tlsa, next_hop: str = "") -> TlsPolicy:
    return TlsPolicy(tlsa=(HostTlsa(HOST, records),), next_hop=next_hop)


Sending = Callable[..., Any]


@pytest.fixture
def send(peers: Any, sender: Any, job: Callable[..., Job], make_zone: Any) -> Sending:
    """`await send(policy, context)`: (what came of one message, the peer), a new one each time."""
    addresses = (f"127.0.0.{number}" for number in itertools.count(1))

    async def once(policy: TlsPolicy, tls: ssl.SSLContext | None, **replies: Any) -> tuple[Any, Any]:
        said = {"EHLO": [STARTTLS, PLAIN, STARTTLS, PLAIN] if tls is not None else PLAIN, **replies}
        address = next(addresses)
        peer = await peers(address, tls=tls, **said)
        made = job()
        made.route = structs.replace(made.route, policy=policy)
        async with sender(peer, zone=make_zone({HOST: [address]})) as post:
            (answer,) = await post.send(made)
        came = answer.failure if answer.failure is not None else answer.reply.code
        assert (answer.failure is None) == bool(peer.messages)
        return came, peer

    return once


async def test_a_certificate_of_the_right_name_and_authority_is_taken(send: Sending, authority: Authority) -> None:
    came, peer = await send(VERIFY, authority.issue([HOST])[0])
    assert (came, peer.encrypted) == (250, 1)


@pytest.mark.parametrize("names", [["other.test"], ["peer.test"], ["*.test"]])
async def test_a_certificate_for_another_name_is_refused(
    send: Sending, authority: Authority, names: Sequence[str]
) -> None:
    assert (await send(VERIFY, authority.issue(names)[0]))[0] is Failure.CERTIFICATE_NAME


async def test_an_expired_certificate_is_refused(send: Sending, authority: Authority) -> None:
    assert (await send(VERIFY, authority.issue([HOST], expired=True)[0]))[0] is Failure.CERTIFICATE_EXPIRED


async def test_a_strangers_certificate_is_refused(send: Sending, tmp_path: Path) -> None:
    assert (await send(VERIFY, Authority(tmp_path).issue([HOST])[0]))[0] is Failure.CERTIFICATE_UNTRUSTED


@pytest.mark.parametrize("policy", [VERIFY, TlsPolicy(need=TlsNeed.ENCRYPT), dane(), dane(Tlsa(3, 1, 1, b"x" * 32))])
async def test_a_server_without_encryption_gets_nothing(send: Sending, policy: TlsPolicy) -> None:
    came, peer = await send(policy, None)
    assert came is Failure.TLS_REQUIRED
    assert len(peer.conversations) == 1


@pytest.mark.parametrize("reply", ["454 4.7.0 not now", "554 5.7.0 never"])
async def test_a_server_that_refuses_to_encrypt_gets_nothing_and_decides_nothing(
    send: Sending, rulebook: Callable[[Answer], str], authority: Authority, reply: str
) -> None:
    came, _ = await send(VERIFY, authority.issue([HOST])[0], STARTTLS=reply)
    assert came is Failure.TLS_REQUIRED
    assert rulebook(Answer(Stage.STARTTLS, HOST, failure=came)) == "deferred"


async def test_encryption_is_enough_where_no_more_is_asked(send: Sending, tmp_path: Path) -> None:
    came, peer = await send(TlsPolicy(need=TlsNeed.ENCRYPT), Authority(tmp_path).issue(["other.test"])[0])
    assert (came, peer.encrypted) == (250, 1)
    came, peer = await send(dane(), Authority(tmp_path).issue(["other.test"])[0])
    assert (came, peer.encrypted) == (250, 1)


@pytest.mark.parametrize(
    ("shown", "came"),
    [
        ("a.partner.test", 250),
        ("*.partner.test", 250),
        ("b.a.partner.test", Failure.CERTIFICATE_NAME),
        (HOST, Failure.CERTIFICATE_NAME),
    ],
)
async def test_the_operators_names_count_instead_of_the_hosts(
    send: Sending, authority: Authority, shown: str, came: Any
) -> None:
    policy = TlsPolicy(need=TlsNeed.VERIFY, names=("other.test", "a.partner.test"))
    assert (await send(policy, authority.issue([shown])[0]))[0] == came


async def test_the_operators_names_need_an_authority_too(send: Sending, tmp_path: Path) -> None:
    policy = TlsPolicy(need=TlsNeed.VERIFY, names=("a.partner.test",))
    assert (await send(policy, Authority(tmp_path).issue(["a.partner.test"])[0]))[0] is Failure.CERTIFICATE_UNTRUSTED


# ── DANE: the certificate itself (usage 3) ──


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
async def test_a_named_certificate_needs_no_authority_no_name_and_no_date(
    send: Sending, tmp_path: Path, selector: int, matching: int
) -> None:
    """RFC 7672 §3.1.1."""
    context, der = Authority(tmp_path).issue(["other.test"], expired=True)
    selected = spki(der) if selector else der
    data = [selected, hashlib.sha256(selected).digest(), hashlib.sha512(selected).digest()][matching]
    came, peer = await send(dane(Tlsa(3, selector, matching, data)), context)
    assert (came, peer.encrypted) == (250, 1)


async def test_another_key_than_the_named_one_is_refused(
    send: Sending, authority: Authority, rulebook: Callable[[Answer], str]
) -> None:
    """No authority of the world helps, and another record of the host does."""
    context, der = authority.issue([HOST])
    wrong, right = Tlsa(3, 1, 1, b"x" * 32), Tlsa(3, 1, 1, hashlib.sha256(spki(der)).digest())
    came, _ = await send(dane(wrong), context)
    assert came is Failure.TLSA_MISMATCH
    assert rulebook(Answer(Stage.STARTTLS, HOST, failure=came)) == "deferred"
    assert (await send(dane(wrong, right), context))[0] == 250


# ── DANE: an authority of the domain's own (usage 2) ──


@pytest.mark.parametrize(
    ("names", "next_hop", "came"),
    [
        ([HOST], "", 250),
        (["*.peer.test"], "", 250),
        (["peer.test"], "peer.test", 250),
        (["peer.test"], "", Failure.TLSA_MISMATCH),
        (["other.test"], "peer.test", Failure.TLSA_MISMATCH),
    ],
)
async def test_under_a_named_authority_the_name_counts(
    send: Sending, tmp_path: Path, names: Sequence[str], next_hop: str, came: Any
) -> None:
    made = Authority(tmp_path)
    record = Tlsa(2, 0, 1, hashlib.sha256(made.der).digest())
    assert (await send(dane(record, next_hop=next_hop), made.issue(names)[0]))[0] == came


async def test_under_a_named_authority_the_date_counts(send: Sending, tmp_path: Path) -> None:
    made = Authority(tmp_path)
    record = Tlsa(2, 1, 1, hashlib.sha256(spki(made.der)).digest())
    assert (await send(dane(record), made.issue([HOST])[0]))[0] == 250
    assert (await send(dane(record), made.issue([HOST], expired=True)[0]))[0] is Failure.TLSA_MISMATCH


async def test_an_authority_that_the_server_leaves_out_must_stand_in_the_record(send: Sending, tmp_path: Path) -> None:
    """RFC 7671 §5.2.2."""
    made = Authority(tmp_path)
    context, _ = made.issue([HOST], chain=False)
    assert (await send(dane(Tlsa(2, 0, 1, hashlib.sha256(made.der).digest())), context))[0] is Failure.TLSA_MISMATCH
    assert (await send(dane(Tlsa(2, 0, 0, made.der)), context))[0] == 250


def test_what_is_no_authority_signs_nothing(tmp_path: Path) -> None:
    made = Authority(tmp_path, ca=False)
    _, der = made.issue([HOST])
    assert not chain_matches([der, made.der], [Tlsa(2, 0, 0, made.der)], [HOST])


def test_an_authority_that_did_not_sign_proves_nothing(tmp_path: Path) -> None:
    """Anybody can put the named authority's certificate behind one of his own."""
    named = Authority(tmp_path)
    _, der = Authority(tmp_path).issue([HOST])
    assert not chain_matches([der, named.der], [Tlsa(2, 0, 0, named.der)], [HOST])


def test_what_cannot_be_read_matches_nothing(tmp_path: Path) -> None:
    _, der = Authority(tmp_path).issue([HOST])
    assert not chain_matches([], [Tlsa(3, 0, 0, b"")], [HOST])
    assert not chain_matches([b"junk"], [Tlsa(3, 1, 0, b"junk")], [HOST])
    assert not chain_matches([der], [Tlsa(2, 0, 0, b"junk")], [HOST])


def test_usable_records() -> None:
    good = [Tlsa(2, 0, 2, b"x" * 64), Tlsa(3, 1, 0, b"any"), Tlsa(3, 1, 1, b"x" * 32)]
    bad = [
        Tlsa(0, 0, 1, b"x" * 32),
        Tlsa(3, 2, 1, b"x" * 32),
        Tlsa(3, 1, 3, b"x" * 32),
        Tlsa(3, 1, 1, b"x" * 31),
        Tlsa(3, 1, 0, b""),
    ]
    assert usable([*reversed(good), *bad, *good]) == tuple(good)


# ── MTA-STS that is not enforced yet, and what is told ──


class Told:
    """The sessions that the dialler tells of."""

    def __init__(self) -> None:
        self.sessions: list[tuple[str, ResultType | None]] = []

    def __call__(self, reported: Reported, host: str, result: ResultType | None) -> None:
        assert reported is TOLD
        self.sessions.append((host, result))


class Nobody:
    """A feed without messages."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


async def opened(
    peer: Any, zone: Any, policy: TlsPolicy
) -> tuple[Session | Answer, list[tuple[str, ResultType | None]]]:
    told = Told()
    port = peer.server.sockets[0].getsockname()[1]
    dialler = Dialler(zone, DialRules(port=port, allow_private_addresses=True), told)
    session = await dialler.open([HOST], Nobody(), policy=policy)
    if isinstance(session, Session):
        session.abort()
    return session, told.sessions


@pytest.mark.parametrize(
    ("policy", "names", "told", "encrypted"),
    [
        (TlsPolicy(report=TOLD), [HOST], None, 1),
        (TlsPolicy(testing=(HOST,), report=TOLD), [HOST], None, 1),
        (TlsPolicy(testing=(HOST,), report=TOLD), ["other.test"], ResultType.HOST_MISMATCH, 1),
        (TlsPolicy(testing=("mx.other.test",), report=TOLD), [HOST], ResultType.VALIDATION, 1),
        (TlsPolicy(testing=(HOST,), report=TOLD), None, ResultType.STARTTLS_MISSING, 0),
        (TlsPolicy(report=TOLD), None, ResultType.STARTTLS_MISSING, 0),
    ],
)
async def test_what_is_not_enforced_is_told_and_mail_goes(
    peers: Any, make_zone: Any, authority: Authority, policy: TlsPolicy, names: Any, told: Any, encrypted: int
) -> None:
    context = None if names is None else authority.issue(names)[0]
    ehlo = [PLAIN] if names is None else [STARTTLS, STARTTLS if told is ResultType.HOST_MISMATCH else PLAIN, PLAIN]
    peer = await peers(tls=context, EHLO=ehlo)
    session, sessions = await opened(peer, make_zone({HOST: ["127.0.0.1"]}), policy)
    assert isinstance(session, Session)
    assert session.encrypted is bool(encrypted)
    assert sessions == [(HOST, told)]


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (structs.replace(VERIFY, report=TOLD), ResultType.HOST_MISMATCH),
        (structs.replace(dane(Tlsa(3, 1, 1, b"x" * 32)), report=TOLD), ResultType.TLSA_INVALID),
    ],
)
async def test_what_is_enforced_is_told_and_mail_stays(
    peers: Any, make_zone: Any, authority: Authority, policy: TlsPolicy, told: ResultType
) -> None:
    peer = await peers(tls=authority.issue(["other.test"])[0], EHLO=[STARTTLS, PLAIN])
    session, sessions = await opened(peer, make_zone({HOST: ["127.0.0.1"]}), policy)
    assert isinstance(session, Answer)
    assert sessions == [(HOST, told)]


async def test_a_broken_handshake_is_told_once_and_mail_goes_in_the_clear(peers: Any, make_zone: Any) -> None:
    peer = await peers(EHLO=STARTTLS, STARTTLS=[None, "220 go on"])
    session, sessions = await opened(peer, make_zone({HOST: ["127.0.0.1"]}), TlsPolicy(report=TOLD))
    assert isinstance(session, Session)
    assert sessions == [(HOST, ResultType.VALIDATION)]


async def test_a_server_that_cannot_be_reached_says_nothing_about_encryption(peers: Any, make_zone: Any) -> None:
    peer = await peers("127.0.0.2")
    _, sessions = await opened(peer, make_zone({HOST: ["127.0.0.9"]}), TlsPolicy(report=TOLD))
    assert sessions == []


async def test_connections_are_shared_by_the_same_policy_only(
    peers: Any, sender: Any, job: Callable[..., Job], authority: Authority
) -> None:
    """Answers 13."""
    peer = await peers(tls=authority.issue([HOST])[0], EHLO=[STARTTLS, PLAIN] * 2)
    jobs = [job(number) for number in (1, 2, 3)]
    jobs[1].route = structs.replace(jobs[1].route, policy=VERIFY)
    async with sender(peer) as post:
        for each in jobs:
            await post.send(each)
    assert [sum(line.startswith("RCPT") for line in said) for said in peer.conversations] == [2, 1]
