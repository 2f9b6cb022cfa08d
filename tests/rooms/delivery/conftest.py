"""Scripted SMTP servers on loopback addresses, and a sender that talks to them, on both event loops."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from posthouse.delivery import Answer, Exchange, ExchangeLimits, Job, Relay, Route, SiteLimits, judge
from posthouse.delivery.dial import Dialler, DialRules
from posthouse.delivery.session import SessionTimes
from posthouse.mail.replies import Rules
from posthouse.model.messages import Composed, Copy
from posthouse.model.ports import DnsTrouble, MxHost, NoSuchDomain
from posthouse.model.retry import RetrySchedule

CONTENT = b"Subject: hello\r\n\r\nHello\r\n"
PIPELINING = "250-peer.test\r\n250-PIPELINING\r\n250 8BITMIME"
PLAIN = "250-peer.test\r\n250 8BITMIME"
STARTTLS = "250-peer.test\r\n250-PIPELINING\r\n250 STARTTLS"
# Times that no test waits for; a test that waits for one makes it short.
TIMES = SessionTimes(greeting=20.0, command=20.0, block=20.0, final_dot=20.0)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops that each test runs on; their transports differ."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Last(str):
    """A reply after which the server closes the connection."""


class Peer:
    """An SMTP server that says what its script says.

    replies: verb, "greeting" or "." → a reply, or several for one occasion after the other (the last stays). None: cut the connection;
    "silence": say nothing. After a 421 it closes, as servers do.
    """

    def __init__(self, replies: Mapping[str, Any], tls: ssl.SSLContext | None, reads: asyncio.Event | None) -> None:
        self._replies: dict[str, Any] = {
            "greeting": "220 peer.test",
            "EHLO": PIPELINING,
            "STARTTLS": "220 go on",
            "DATA": "354 go on",
            **{verb: list(said) if isinstance(said, list) else [said] for verb, said in replies.items()},
        }
        self._tls = tls
        self._reads = reads
        # One list of commands for each connection; what arrived together is told by `groups`.
        self.conversations: list[list[str]] = []
        self.groups: list[list[bytes]] = []
        self.clients: list[str] = []
        self.messages: list[bytes] = []
        self.encrypted = 0
        self.server: asyncio.Server | None = None

    @property
    def commands(self) -> list[str]:
        return [line for conversation in self.conversations for line in conversation]

    @property
    def recipients(self) -> list[str]:
        return [line[len("RCPT TO:<") : -1] for line in self.commands if line.startswith("RCPT")]

    def reply(self, verb: str) -> str | None:
        said = self._replies.get(verb, "250 2.0.0 ok")
        if isinstance(said, list):
            said = said.pop(0) if len(said) > 1 else said[0]
        assert said is None or isinstance(said, str)
        return said

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.append(writer.get_extra_info("peername")[0])
        try:
            await self._converse(reader, writer)
        except (ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said: list[str] = []
        self.conversations.append(said)
        groups: list[bytes] = []
        self.groups.append(groups)
        if not await self._say(writer, "greeting"):
            return
        waiting = b""
        while True:
            piece = await reader.read(65536)
            if not piece:
                return
            groups.append(piece)
            waiting += piece
            while b"\r\n" in waiting:
                line, _, waiting = waiting.partition(b"\r\n")
                said.append(line.decode())
                verb = said[-1].partition(" ")[0].upper()
                if not await self._say(writer, verb):
                    return
                if verb == "QUIT":
                    return
                if verb == "STARTTLS" and self._tls is not None and self._last.startswith("220"):
                    waiting = b""
                    await writer.start_tls(self._tls)
                    self.encrypted += 1
                if verb == "DATA" and self._last.lstrip().startswith("354"):
                    if self._reads is not None:
                        await self._reads.wait()
                    content, waiting = await _content(reader, waiting)
                    self.messages.append(content)
                    if not await self._say(writer, "."):
                        return

    async def _say(self, writer: asyncio.StreamWriter, verb: str) -> bool:
        """Answer; False where the connection ends."""
        reply = self.reply(verb)
        if reply is None:
            writer.transport.abort()
            return False
        self._last = reply
        if reply == "silence":
            return True
        writer.write(reply.encode() + b"\r\n")
        await writer.drain()
        return not reply.startswith("421") and not isinstance(reply, Last)


async def _content(reader: asyncio.StreamReader, begun: bytes) -> tuple[bytes, bytes]:
    """(content without its final dot, what came after it), still dot-stuffed."""
    whole = bytearray(b"\r\n" + begun)
    looked = 0
    while (end := whole.find(b"\r\n.\r\n", looked)) < 0:
        looked = max(0, len(whole) - 4)
        piece = await reader.read(65536)
        if not piece:
            raise ConnectionResetError
        whole += piece
    return bytes(whole[2:end]), bytes(whole[end + 5 :])


class Zone:
    """DNS as this test has it: host → addresses; a missing name does not exist; an exception is raised."""

    def __init__(self, hosts: Mapping[str, Sequence[str] | Exception], mx: Mapping[str, Any] | None = None) -> None:
        self.hosts = dict(hosts)
        self.domains = dict(mx or {})
        self.reverse: dict[str, Sequence[str]] = {}
        self.asked: list[str] = []

    async def mx(self, domain: str) -> Sequence[MxHost]:
        self.asked.append(domain)
        return self._known(self.domains, domain)  # type: ignore[no-any-return]

    async def addresses(self, host: str) -> Sequence[str]:
        return self._known(self.hosts, host)  # type: ignore[no-any-return]

    async def names(self, address: str) -> Sequence[str]:
        return self._known(self.reverse, address)  # type: ignore[no-any-return]

    async def txt(self, name: str) -> Sequence[str]:
        raise NoSuchDomain(name)

    @staticmethod
    def _known(names: Mapping[str, Any], name: str) -> Any:
        if name not in names:
            raise NoSuchDomain(name)
        if isinstance(names[name], DnsTrouble):
            raise names[name]
        return names[name]


class LimitedExchange(Exchange):
    """An exchange whose every job has the same limits, as a sender gives them."""

    site_limits = SiteLimits()

    def offer(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.limits = self.site_limits
        super().offer(jobs)


class Sender:
    """One exchange and what it told."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.answers: list[tuple[int, Answer]] = []
        self.returned: list[tuple[int, str]] = []
        self._changed = asyncio.Event()

    def answered(self, job: Job, answer: Answer) -> None:
        self.answers.append((job.copy.message_id, answer))
        self._changed.set()

    def put_back(self, jobs: Sequence[Job], reason: str) -> None:
        self.returned += [(job.copy.message_id, reason) for job in jobs]
        self._changed.set()

    async def told(self, count: int) -> list[Answer]:
        """The answers, in the order of the messages, when there are `count` of them."""
        async with asyncio.timeout(30):
            while len(self.answers) + len(self.returned) < count:
                self._changed.clear()
                await self._changed.wait()
        return [answer for _, answer in sorted(self.answers, key=lambda each: each[0])]

    async def send(self, *jobs: Job) -> list[Answer]:
        """Offer these jobs and wait for their answers."""
        before = len(self.answers) + len(self.returned)
        self.exchange.offer(jobs)
        return await self.told(before + len(jobs))


@pytest.fixture(scope="session")
def rulebook() -> Callable[[Answer], str]:
    """What becomes of a message that was answered so, for the first time: its status."""
    rules = Rules.load()
    copy = Copy(1, 1, 1, 1, 1, 1, 7, 1, "r@peer.test", {}, 0)

    def status(answer: Answer) -> str:
        outcome, _ = judge(copy, answer, rules, RetrySchedule(), 0, random.Random(1))
        return outcome.status.value

    return status


@pytest.fixture
def job() -> Callable[..., Job]:
    def make(
        number: int = 1,
        *,
        hosts: Sequence[str] = ("mx.peer.test",),
        content: bytes = CONTENT,
        recipient: str | None = None,
        lane: int = 1,
        site: int = 7,
        compose: Callable[[Copy], Composed | None] | None = None,
        **composed: Any,
    ) -> Job:
        to = recipient or f"r{number}@peer.test"
        copy = Copy(1, number, 1, number, 1, lane, site, 1, to, {}, 0)
        made = Composed(f"b-{number}@bounces.sender.test", to, content, **composed)
        route = Route(site, "peer.test", tuple(MxHost(10 * nth, host) for nth, host in enumerate(hosts, 1)))
        return Job(copy, route, compose or (lambda _: made))

    return make


@pytest.fixture
def make_zone() -> type[Zone]:
    """DNS for a test, `make_zone({host: addresses}, {domain: MX})`."""
    return Zone


@pytest.fixture
def last() -> type[Last]:
    """`last("250 ok")`: a peer says this and closes."""
    return Last


@pytest.fixture
async def peers() -> AsyncIterator[Callable[..., Any]]:
    """Opens scripted servers, all on one port: `await peers("127.0.0.2", MAIL="…")`."""
    opened: list[asyncio.Server] = []
    port = 0

    async def open_peer(
        address: str = "127.0.0.1",
        *,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        reads: asyncio.Event | None = None,
        dot: Any = "250 2.0.0 taken",
        receive_buffer: int | None = None,
        **replies: Any,
    ) -> Peer:
        nonlocal port
        peer = Peer({".": dot, **replies}, tls, reads)
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listening.bind((address, port))
        peer.server = await asyncio.start_server(
            peer.serve, sock=listening, ssl=tls if implicit_tls else None, limit=receive_buffer or 2**16
        )
        port = peer.server.sockets[0].getsockname()[1]
        opened.append(peer.server)
        return peer

    yield open_peer
    for server in opened:
        server.close()


@pytest.fixture
def sender() -> Callable[..., Any]:
    """`async with sender(peer, …) as post`: one exchange that may reach loopback addresses."""

    @asynccontextmanager
    async def begin(
        peer: Peer,
        *,
        zone: Zone | None = None,
        relay: Relay | None = None,
        limits: SiteLimits | None = None,
        totals: ExchangeLimits | None = None,
        closing: float = 5.0,
        chance: random.Random | None = None,
        **rules: Any,
    ) -> AsyncIterator[Sender]:
        assert peer.server is not None
        port = peer.server.sockets[0].getsockname()[1]
        chosen = DialRules(
            **{"port": port, "ehlo_name": "sender.test", "times": TIMES, "allow_private_addresses": True, **rules}
        )
        dialler = Dialler(zone or Zone({"mx.peer.test": ["127.0.0.1"]}), chosen)
        async with AsyncExitStack() as stack:
            exchange = LimitedExchange(
                dialler,
                relay,
                totals or ExchangeLimits(),
                chance or random.Random(1),
                lambda job, answer: post.answered(job, answer),
                lambda jobs, reason: post.put_back(jobs, reason),
            )
            exchange.site_limits = limits or SiteLimits()
            post = Sender(exchange)
            stack.push_async_callback(exchange.close, closing)
            yield post
            assert exchange.held == 0, "what left the exchange was counted, once"

    return begin


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for mx.peer.test and 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mx.peer.test")])
    now = datetime(2020, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.DNSName("mx.peer.test")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    certificate_file, key_file = folder / "peer.pem", folder / "peer.key"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


@pytest.fixture
def peer_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@contextmanager
def _trusting(certificate_file: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(certificate_file))
        yield


@pytest.fixture
def trusted(certificate: tuple[Path, Path]) -> Iterator[None]:
    """The peers' certificate is one that this process trusts."""
    with _trusting(certificate[0]):
        yield
