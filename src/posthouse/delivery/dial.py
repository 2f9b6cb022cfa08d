"""Opening a connection: addresses in turn, greeting, EHLO, STARTTLS, AUTH (SMTP-4, SMTP-8, TLS-1, TLS-2)."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
from collections.abc import Iterable, Sequence

from msgspec import Struct

from posthouse.delivery.handshake import Demand, Handshakes, failure_of
from posthouse.delivery.job import Answer
from posthouse.delivery.relay import Relay
from posthouse.delivery.session import Feed, Session, SessionTimes
from posthouse.delivery.sources import DEFAULT_SOURCE, Source
from posthouse.delivery.tls_policy import OPPORTUNISTIC, HostTls, SessionTold, TlsPolicy, result_of
from posthouse.mail.replies import Failure, Stage
from posthouse.model.outcomes import Reply
from posthouse.model.ports import DnsTrouble, NoSuchDomain, Resolver

# RFC 5321 §5.1: at least two addresses are tried.
_ADDRESSES_TRIED = 4


class DialRules(Struct, frozen=True):
    """How connections are opened. connect_seconds: time-out of one TCP attempt."""

    port: int = 25
    ehlo_name: str = "localhost"
    connect_seconds: float = 30.0
    times: SessionTimes = SessionTimes()
    allow_private_addresses: bool = False
    require_tls: bool = False


class _WayOut(Struct, frozen=True):
    """How one connection leaves: the local address (None: the system's choice) and the name in EHLO."""

    address: str | None
    ehlo_name: str


class Dialler:
    """Opens sessions to mail exchangers or to a relay."""

    def __init__(self, resolver: Resolver, rules: DialRules, told: SessionTold | None = None) -> None:
        """told: hears what came of TLS with the domains that want reports about it."""
        self._resolver = resolver
        self._rules = rules
        self._told = told
        self._handshakes = Handshakes()

    async def open(
        self,
        hosts: Sequence[str],
        feed: Feed,
        source: Source = DEFAULT_SOURCE,
        policy: TlsPolicy = OPPORTUNISTIC,
    ) -> Session | Answer:
        """A session from a source with the first host that takes us and satisfies the policy, or how the last of them failed."""
        way_out = _WayOut(source.address, source.ehlo_name or self._rules.ehlo_name)
        if self._rules.require_tls:
            policy = policy.at_least_encrypted()
        answer = Answer(Stage.CONNECT, hosts[0] if hosts else "", failure=Failure.NO_ADDRESS)
        for host in hosts:
            try:
                addresses = self._permitted(await self._resolver.addresses(host), way_out)
            except NoSuchDomain:
                continue
            except DnsTrouble:
                answer = Answer(Stage.CONNECT, host, failure=Failure.DNS_TEMPORARY)
                continue
            if isinstance(addresses, Failure):
                # A host that we must not use never hides that another one is only down for now.
                if _is_final(answer):
                    answer = Answer(Stage.CONNECT, host, failure=addresses)
                continue
            for address in addresses[:_ADDRESSES_TRIED]:
                opened = await self._open_address(host, address, policy, way_out)
                if isinstance(opened, Session):
                    opened.feed_from(feed)
                    return opened
                if opened.reply is None or opened.reply.code < 500 or _is_final(answer):
                    answer = opened
        return answer

    async def open_relay(self, relay: Relay, feed: Feed) -> Session | Answer:
        """A session with the smarthost, logged in where the URL has a user."""
        context = self._handshakes.authenticated if relay.implicit_tls else None
        # A password goes only to the server whose name is on the certificate; a test network has no such certificates.
        must_know = relay.user is not None and not self._rules.allow_private_addresses
        starttls = self._handshakes.authenticated if must_know else self._handshakes.opportunistic
        demand = None if relay.implicit_tls else Demand(starttls, self._rules.require_tls)
        way_out = _WayOut(None, self._rules.ehlo_name)
        opened = await self._converse(relay.host, relay.host, relay.port, context, demand, way_out)
        if isinstance(opened, Session) and relay.user is not None:
            opened = await self._log_in(opened, relay)
        if isinstance(opened, Session):
            opened.feed_from(feed)
        return opened

    def _permitted(self, addresses: Iterable[str], way_out: _WayOut) -> list[str] | Failure:
        """Leave out loopback, private and link-local addresses: nobody's mail exchanger is there (answers 22); and those of a family
        in which the source has no address."""
        found = list(addresses)
        if not found:
            return Failure.NO_ADDRESS
        if way_out.address is not None:
            found = [address for address in found if (":" in address) == (":" in way_out.address)]
            if not found:
                return Failure.CONNECT_UNREACHABLE
        allowed = [a for a in found if self._rules.allow_private_addresses or ipaddress.ip_address(a).is_global]
        return allowed or Failure.BAD_MX

    async def _open_address(self, host: str, address: str, policy: TlsPolicy, way_out: _WayOut) -> Session | Answer:
        wanted = policy.of_host(host)
        demand = self._handshakes.demand(host, wanted)
        opened = await self._converse(host, address, self._rules.port, None, demand, way_out)
        self._tell(policy, host, wanted, opened)
        if isinstance(opened, Session) or opened.stage is not Stage.STARTTLS:
            return opened
        if wanted.testing:  # told is enough: mail under a policy that is not enforced goes as if there were none
            demand = self._handshakes.demand(host, HostTls(policy.need))
            opened = await self._converse(host, address, self._rules.port, None, demand, way_out)
        if isinstance(opened, Answer) and opened.stage is Stage.STARTTLS and not demand.required:
            opened = await self._converse(host, address, self._rules.port, None, None, way_out)
        return opened

    def _tell(self, policy: TlsPolicy, host: str, wanted: HostTls, opened: Session | Answer) -> None:
        """Report how a session came out, where its domain wants to know and TLS was come to."""
        if self._told is None or policy.report is None:
            return
        if isinstance(opened, Answer):
            if opened.stage is Stage.STARTTLS:
                self._told(policy.report, host, result_of(opened.failure))
        elif opened.encrypted:
            self._told(policy.report, host, wanted.flaw)
        else:
            self._told(policy.report, host, result_of(None))

    async def _converse(
        self,
        host: str,
        address: str,
        port: int,
        context: ssl.SSLContext | None,
        demand: Demand | None,
        way_out: _WayOut,
    ) -> Session | Answer:
        """Connect, greet and encrypt. context: for TLS from the first byte; demand: for STARTTLS, None to leave it."""
        session = Session(host, self._rules.times, _Silent())
        stage = Stage.CONNECT
        try:
            await asyncio.wait_for(
                asyncio.get_running_loop().create_connection(
                    lambda: session,
                    address,
                    port,
                    ssl=context,
                    server_hostname=host if context else None,
                    local_addr=(way_out.address, 0) if way_out.address else None,
                ),
                self._rules.connect_seconds,
            )
            session.encrypted = context is not None
            stage = Stage.GREETING
            reply = await session.ask(None, self._rules.times.greeting)
            if reply.code != 220:
                return _give_up(session, Answer(stage, host, reply))
            stage = Stage.EHLO
            reply = await self._greet(session, way_out)
            if reply.code != 250:
                return _give_up(session, Answer(stage, host, reply))
            if demand is not None:
                stage = Stage.STARTTLS
                answer = await self._encrypt(session, host, demand, way_out)
                if answer is not None:
                    return _give_up(session, answer)
        except ConnectionRefusedError:
            return Answer(stage, host, failure=Failure.CONNECT_REFUSED)
        except TimeoutError:
            failure = Failure.CONNECT_TIMEOUT if stage is Stage.CONNECT else Failure.REPLY_TIMEOUT
            return _give_up(session, Answer(stage, host, failure=failure))
        except ssl.SSLError as error:
            return _give_up(session, Answer(Stage.STARTTLS, host, failure=failure_of(error)))
        except OSError:
            failure = Failure.CONNECT_UNREACHABLE if stage is Stage.CONNECT else Failure.CONNECTION_LOST
            return _give_up(session, Answer(stage, host, failure=failure))
        if session.is_over:  # closed right after its last word
            return Answer(stage, host, failure=Failure.CONNECTION_LOST)
        return session

    async def _greet(self, session: Session, way_out: _WayOut) -> Reply:
        """EHLO, or HELO for a server that does not know it (SMTP-8)."""
        name = way_out.ehlo_name.encode()
        reply = await session.ask(b"EHLO " + name, self._rules.times.command)
        if reply.code == 250:
            session.learn_capabilities()
        elif reply.code in (500, 502, 504):
            reply = await session.ask(b"HELO " + name, self._rules.times.command)
        return reply

    async def _encrypt(self, session: Session, host: str, demand: Demand, way_out: _WayOut) -> Answer | None:
        """STARTTLS and a second EHLO; returns what went wrong, None also where TLS is neither offered nor required."""
        if "STARTTLS" not in session.capabilities:
            return Answer(Stage.STARTTLS, host, failure=Failure.TLS_REQUIRED) if demand.required else None
        reply = await session.ask(b"STARTTLS", self._rules.times.command)
        if reply.code != 220:
            # Whatever the server says, its refusal of encryption is no verdict about the message.
            return (
                Answer(Stage.STARTTLS, host, failure=Failure.TLS_REQUIRED)
                if demand.required
                else Answer(Stage.STARTTLS, host, reply)
            )
        session.forget_plaintext()
        transport = await asyncio.wait_for(
            asyncio.get_running_loop().start_tls(
                session.transport, session, demand.context, server_hostname=host.rstrip(".")
            ),
            self._rules.times.command,
        )
        if transport is None:
            raise ConnectionResetError
        session.attach(transport)
        flaw = demand.flaw(transport.get_extra_info("ssl_object"))
        if flaw is not None:
            return Answer(Stage.STARTTLS, host, failure=flaw)
        reply = await self._greet(session, way_out)
        return None if reply.code == 250 else Answer(Stage.STARTTLS, host, reply)

    async def _log_in(self, session: Session, relay: Relay) -> Session | Answer:
        if not session.encrypted and not self._rules.allow_private_addresses:
            return _give_up(session, Answer(Stage.AUTH, relay.host, failure=Failure.TLS_REQUIRED))
        secret = base64.b64encode(f"\0{relay.user}\0{relay.password or ''}".encode())
        try:
            reply = await session.ask(b"AUTH PLAIN " + secret, self._rules.times.command)
        except TimeoutError:
            return _give_up(session, Answer(Stage.AUTH, relay.host, failure=Failure.REPLY_TIMEOUT))
        except OSError:
            return _give_up(session, Answer(Stage.AUTH, relay.host, failure=Failure.CONNECTION_LOST))
        if reply.code != 235:
            return _give_up(session, Answer(Stage.AUTH, relay.host, reply))
        if session.is_over:
            return Answer(Stage.AUTH, relay.host, failure=Failure.CONNECTION_LOST)
        return session


class _Silent:
    """The feed of a session that is not open yet: it has no messages and tells nobody of its end."""

    def next_job(self, session: Session) -> None:
        return None

    def answered(self, job: object, answer: Answer) -> None:
        raise AssertionError("a session that is not open has no messages")

    def returned(self, job: object, failure: Failure) -> None:
        raise AssertionError("a session that is not open has no messages")

    def idled(self, session: Session) -> None:
        raise AssertionError("a session that is not open has no messages")

    def closed(self, session: Session) -> None:
        return None


def _is_final(answer: Answer) -> bool:
    """Whether this is no sign that the host may take mail later."""
    if answer.reply is not None:
        return answer.reply.code >= 500
    return answer.failure is not None and answer.failure.permanent


def _give_up(session: Session, answer: Answer) -> Answer:
    session.abort()
    return answer
