"""Opening a connection: which server, which address, TLS or not, and a relay's log-in."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posthouse.delivery import Job, Relay, SiteLimits, Source, SourceState, parse_relay
from posthouse.mail.replies import Failure, Stage
from posthouse.model.errors import SettingWrong
from posthouse.model.ports import DnsTrouble

MakeJob = Callable[..., Job]
STARTTLS = "250-peer.test\r\n250-PIPELINING\r\n250 STARTTLS"
AFTER_TLS = "250-peer.test\r\n250 PIPELINING"
TWO = ("mx1.peer.test", "mx2.peer.test")
NOBODY = "127.0.0.9"


def result(answer: Any) -> tuple[Any, ...]:
    return answer.stage, answer.reply.code if answer.reply else answer.failure, answer.remote


@pytest.mark.parametrize("greeting", ["554 5.7.1 not you", "421 4.3.2 busy", None])
async def test_the_next_exchanger_is_tried_when_one_does_not_greet_us(
    peers: Any, sender: Any, job: MakeJob, make_zone: Any, greeting: str | None
) -> None:
    """SMTP-4."""
    first = await peers(greeting=greeting)
    second = await peers("127.0.0.2")
    zone = make_zone({"mx1.peer.test": ["127.0.0.1"], "mx2.peer.test": ["127.0.0.2"]})
    async with sender(first, zone=zone) as post:
        (answer,) = await post.send(job(hosts=TWO))
    assert result(answer) == (Stage.CONTENT, 250, "mx2.peer.test")
    assert len(second.messages) == 1


@pytest.mark.parametrize("greeting", [False, True], ids=["after EHLO", "after the greeting"])
async def test_a_server_that_closes_after_its_greeting_is_an_answer(
    peers: Any, sender: Any, job: MakeJob, last: Any, greeting: bool
) -> None:
    peer = await peers(**({"greeting": last("220 hello")} if greeting else {"EHLO": last("250 peer.test")}))
    async with sender(peer) as post:
        answers = await post.send(job(1), job(2))
    # The cut may be seen at once, or only when the first message is on its way.
    assert {answer.failure for answer in answers} == {Failure.CONNECTION_LOST}


async def test_every_address_of_an_exchanger_is_tried(peers: Any, sender: Any, job: MakeJob, make_zone: Any) -> None:
    peer = await peers()
    zone = make_zone({"mx1.peer.test": [NOBODY, "127.0.0.1"], "mx2.peer.test": [NOBODY]})
    async with sender(peer, zone=zone) as post:
        (answer,) = await post.send(job(hosts=TWO))
    assert result(answer) == (Stage.CONTENT, 250, "mx1.peer.test")


TROUBLE = DnsTrouble("no answer")


@pytest.mark.parametrize(
    ("hosts", "private", "expected"),
    [
        ({"mx1": [NOBODY], "mx2": [NOBODY]}, True, Failure.CONNECT_REFUSED),
        ({}, True, Failure.NO_ADDRESS),
        ({"mx1": []}, True, Failure.NO_ADDRESS),
        ({"mx2": TROUBLE}, True, Failure.DNS_TEMPORARY),
        ({"mx1": TROUBLE}, True, Failure.DNS_TEMPORARY),
        ({"mx1": ["127.0.0.1"], "mx2": ["10.0.0.1"]}, False, Failure.BAD_MX),
        ({"mx1": ["::1"], "mx2": ["fe80::1", "::ffff:127.0.0.1"]}, False, Failure.BAD_MX),
        ({"mx1": TROUBLE, "mx2": ["192.168.0.1"]}, False, Failure.DNS_TEMPORARY),
        ({"mx1": ["169.254.0.1"], "mx2": TROUBLE}, False, Failure.DNS_TEMPORARY),
    ],
)
async def test_no_server_can_be_reached(
    peers: Any,
    sender: Any,
    job: MakeJob,
    make_zone: Any,
    hosts: dict[str, Any],
    private: bool,
    expected: Failure,
) -> None:
    """Answers 22: nobody's exchanger is inside our own network; and what may heal is never told as final."""
    peer = await peers()
    zone = make_zone({f"{name}.peer.test": found for name, found in hosts.items()})
    async with sender(peer, zone=zone, allow_private_addresses=private) as post:
        answers = await post.send(job(1, hosts=TWO), job(2, hosts=TWO))
    assert [answer.failure for answer in answers] == [expected] * 2
    assert peer.conversations == []


async def test_a_host_that_takes_no_mail_does_not_hide_one_that_is_down(
    peers: Any, sender: Any, job: MakeJob, make_zone: Any, rulebook: Any
) -> None:
    """RFC 7504: 521 is final for its host only."""
    peer = await peers(greeting="521 no mail here")
    down = make_zone({"mx1.peer.test": [NOBODY], "mx2.peer.test": ["127.0.0.1"]})
    async with sender(peer, zone=down) as post:
        (answer,) = await post.send(job(hosts=TWO))
    assert rulebook(answer) == "deferred"
    alone = make_zone({"mx1.peer.test": ["127.0.0.1"], "mx2.peer.test": ["127.0.0.1"]})
    async with sender(peer, zone=alone) as post:
        (answer,) = await post.send(job(hosts=TWO))
    assert rulebook(answer) == "bounced"


async def test_starttls_is_used_where_it_is_offered(
    peers: Any, sender: Any, job: MakeJob, peer_tls: ssl.SSLContext
) -> None:
    """TLS-1, TLS-2: EHLO is said again, and only what is offered inside counts."""
    peer = await peers(tls=peer_tls, EHLO=[STARTTLS, "250-peer.test\r\n250-SIZE 5\r\n250 PIPELINING", AFTER_TLS])
    async with sender(peer) as post:
        answers = await post.send(job(1), job(2, content=b"a\r\n"))
    assert [result(answer)[:2] for answer in answers] == [(Stage.MAIL, Failure.TOO_BIG), (Stage.CONTENT, 250)]
    assert peer.encrypted == 1
    assert peer.conversations[0][:3] == ["EHLO sender.test", "STARTTLS", "EHLO sender.test"]


async def test_what_was_put_before_the_handshake_is_forgotten(
    peers: Any, sender: Any, job: MakeJob, peer_tls: ssl.SSLContext
) -> None:
    """CVE-2011-0411 from the other side: a reply injected in the clear must not be read as one from inside."""
    peer = await peers(tls=peer_tls, EHLO=[STARTTLS, AFTER_TLS], STARTTLS="220 go\r\n250-evil\r\n250 SIZE 5\r\n250 x")
    async with sender(peer) as post:
        assert [result(answer)[:2] for answer in await post.send(job())] == [(Stage.CONTENT, 250)]
    assert peer.encrypted == 1
    assert len(peer.messages) == 1


@pytest.fixture
def picky_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """A server whose handshake fails: it wants a certificate of ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*certificate)
    context.load_verify_locations(certificate[0])
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("trouble", ["454 4.7.0 not now", None, "handshake", "421 4.7.0 bye", "250 what is that?"])
async def test_failing_tls_is_tried_again_in_the_clear_unless_it_is_required(
    peers: Any, sender: Any, job: MakeJob, picky_tls: ssl.SSLContext, trouble: str | None
) -> None:
    peer = await peers(EHLO=STARTTLS, STARTTLS="220 go" if trouble == "handshake" else trouble, tls=picky_tls)
    async with sender(peer) as post:
        assert [result(answer)[:2] for answer in await post.send(job())] == [(Stage.CONTENT, 250)]
    assert [conversation[1].split(" ")[0] for conversation in peer.conversations] == ["STARTTLS", "MAIL"]
    async with sender(peer, require_tls=True) as post:
        (answer,) = await post.send(job())
    assert answer.stage is Stage.STARTTLS
    assert len(peer.messages) == 1


async def test_required_tls_that_is_not_offered_is_an_answer(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers()
    async with sender(peer, require_tls=True) as post:
        (answer,) = await post.send(job())
    assert result(answer) == (Stage.STARTTLS, Failure.TLS_REQUIRED, "mx.peer.test")
    assert peer.messages == []


# A relay --------------------------------------------------------------------------------------------------------------


def port_of(peer: Any) -> int:
    port: int = peer.server.sockets[0].getsockname()[1]
    return port


@pytest.mark.usefixtures("trusted")
async def test_a_relay_takes_everything_after_a_log_in(
    peers: Any, sender: Any, job: MakeJob, peer_tls: ssl.SSLContext
) -> None:
    peer = await peers(tls=peer_tls, EHLO=[STARTTLS, AFTER_TLS], AUTH="235 2.7.0 welcome")
    relay = parse_relay(f"smtp://me%40x:p%3Ass@localhost:{port_of(peer)}")
    async with sender(peer, relay=relay, allow_private_addresses=False) as post:
        answers = await post.send(job(1, site=1), job(2, site=1))
    assert [result(answer) for answer in answers] == [(Stage.CONTENT, 250, "localhost")] * 2
    (login,) = [line for line in peer.commands if line.startswith("AUTH")]
    assert base64.b64decode(login.removeprefix("AUTH PLAIN ")) == b"\0me@x\0p:ss"
    assert peer.encrypted == 1


@pytest.mark.parametrize(
    ("reply", "expected"), [("535 5.7.8 no", 535), ("421 4.7.0 no", 421), (None, Failure.CONNECTION_LOST)]
)
async def test_a_relay_that_refuses_the_log_in(
    peers: Any, sender: Any, job: MakeJob, peer_tls: ssl.SSLContext, reply: str | None, expected: object, rulebook: Any
) -> None:
    peer = await peers(tls=peer_tls, EHLO=[STARTTLS, AFTER_TLS], AUTH=reply)
    relay = Relay("localhost", port_of(peer), implicit_tls=False, user="me", password="secret")
    async with sender(peer, relay=relay) as post:
        (answer,) = await post.send(job())
    assert result(answer) == (Stage.AUTH, expected, "localhost")
    assert rulebook(answer) == "deferred"


async def test_a_password_goes_to_no_stranger(peers: Any, sender: Any, job: MakeJob, peer_tls: ssl.SSLContext) -> None:
    """Somebody in between can offer STARTTLS too, but not the relay's certificate."""
    peer = await peers(tls=peer_tls, EHLO=[STARTTLS, AFTER_TLS], AUTH="235 2.7.0 welcome")
    relay = Relay("127.0.0.1", port_of(peer), implicit_tls=False, user="me", password="secret")
    async with sender(peer, relay=relay, allow_private_addresses=False) as post:
        (answer,) = await post.send(job())
    assert result(answer) == (Stage.STARTTLS, Failure.CERTIFICATE_UNTRUSTED, "127.0.0.1")
    assert not [line for line in peer.commands if line.startswith("AUTH")]


async def test_a_password_is_not_sent_in_the_clear(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers(AUTH="235 welcome")
    relay = Relay("localhost", port_of(peer), implicit_tls=False, user="me", password="secret")
    async with sender(peer, relay=relay, allow_private_addresses=False) as post:
        (answer,) = await post.send(job())
    assert result(answer) == (Stage.AUTH, Failure.TLS_REQUIRED, "localhost")
    assert not [line for line in peer.commands if line.startswith("AUTH")]


@pytest.mark.usefixtures("trusted")
async def test_smtps_is_encrypted_from_the_first_byte(
    peers: Any, sender: Any, job: MakeJob, peer_tls: ssl.SSLContext
) -> None:
    peer = await peers(tls=peer_tls, implicit_tls=True, AUTH="235 welcome")
    relay = Relay("localhost", port_of(peer), implicit_tls=True, user="me", password="secret")
    async with sender(peer, relay=relay, allow_private_addresses=False) as post:
        assert [result(answer)[:2] for answer in await post.send(job())] == [(Stage.CONTENT, 250)]


async def test_a_relay_that_cannot_prove_who_it_is_gets_nothing(
    peers: Any, sender: Any, job: MakeJob, peer_tls: ssl.SSLContext
) -> None:
    peer = await peers(tls=peer_tls, implicit_tls=True)
    relay = Relay("localhost", port_of(peer), implicit_tls=True)
    async with sender(peer, relay=relay) as post:
        (answer,) = await post.send(job())
    assert result(answer) == (Stage.STARTTLS, Failure.CERTIFICATE_UNTRUSTED, "localhost")
    assert peer.messages == []


@pytest.mark.parametrize(
    ("url", "relay"),
    [
        ("", None),
        ("smtp://mail.example.com", Relay("mail.example.com", 587, implicit_tls=False)),
        ("smtps://mail.example.com", Relay("mail.example.com", 465, implicit_tls=True)),
        ("smtp://u:p@[::1]:2525", Relay("::1", 2525, implicit_tls=False, user="u", password="p")),
        ("smtp://u@h", Relay("h", 587, implicit_tls=False, user="u")),
    ],
)
def test_a_relays_url(url: str, relay: Relay | None) -> None:
    assert parse_relay(url) == relay


@pytest.mark.parametrize(
    "url",
    ["http://h", "smtp://", "smtp://h:port", "smtp://h:99999", "smtp://h/path", "smtp://h?x=1", "mail.example.com"],
)
def test_a_wrong_relay_says_how_one_looks(url: str) -> None:
    with pytest.raises(SettingWrong, match=r"delivery\.relay is not a URL of the form smtp://user:password@host:587"):
        parse_relay(url)


async def test_each_source_has_its_own_address_name_and_connections(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers()
    one = Source(1, "one", "direct", "here", "127.0.0.61", "one.sender.test", None, SourceState.ACTIVE)
    two = Source(2, "two", "direct", "here", "127.0.0.62", None, None, SourceState.ACTIVE)
    jobs = [job(number) for number in range(6)]
    for number, each in enumerate(jobs):
        each.source = (one, two)[number % 2]
    async with sender(peer, limits=SiteLimits(connections=1)) as post:
        answers = await post.send(*jobs)
    assert [answer.reply.code for answer in answers] == [250] * 6
    assert sorted(peer.clients) == ["127.0.0.61", "127.0.0.62"]
    assert sorted(said[0] for said in peer.conversations) == ["EHLO one.sender.test", "EHLO sender.test"]


async def test_a_source_sends_only_to_addresses_of_its_family(
    peers: Any, sender: Any, job: MakeJob, make_zone: Any
) -> None:
    peer = await peers()
    zone = make_zone({"mx.peer.test": ["::1", "127.0.0.1"], "mx6.peer.test": ["::1"]})
    source = Source(1, "one", "direct", "here", "127.0.0.61", None, None, SourceState.ACTIVE)
    both, six = job(1), job(2, hosts=["mx6.peer.test"])
    both.source = six.source = source
    async with sender(peer, zone=zone) as post:
        answers = await post.send(both, six)
    assert [result(answer) for answer in answers] == [
        (Stage.CONTENT, 250, "mx.peer.test"),
        (Stage.CONNECT, Failure.CONNECT_UNREACHABLE, "mx6.peer.test"),
    ]


async def test_a_site_that_must_be_encrypted_gets_nothing_in_the_clear(peers: Any, sender: Any, job: MakeJob) -> None:
    peer = await peers()
    async with sender(peer, limits=SiteLimits(tls_required=True)) as post:
        (answer,) = await post.send(job())
    assert result(answer) == (Stage.STARTTLS, Failure.TLS_REQUIRED, "mx.peer.test")
    assert peer.messages == []
