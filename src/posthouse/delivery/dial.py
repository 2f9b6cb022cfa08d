"""Opening a connection: addresses in turn, greeting, EHLO, STARTTLS, AUTH (SMTP-4, SMTP-8, TLS-1, TLS-2)."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
from collections.abc import Iterable, Sequence
from functools import cached_property

from msgspec import Struct

from posthouse.delivery.job import Answer
from posthouse.delivery.relay import Relay
from posthouse.delivery.session import Feed, Session, SessionTimes
from posthouse.delivery.sources import DEFAULT_SOURCE, Source
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
    """How one connection leaves: the local address (None: the system's choice), the name in EHLO, and whether it must be encrypted."""

    address: str | None
    ehlo_name: str
    require_tls: bool


class Dialler:
    """Opens sessions to mail exchangers or to a relay."""

    def __init__(self, resolver: Resolver, rules: DialRules) -> None:
        self._resolver = resolver
        self._rules = rules
        # Opportunistic TLS encrypts and does not authenticate: a certificate that cannot be checked is no reason for the clear.
        self._opportunistic = ssl.create_default_context()
        self._opportunistic.check_hostname = False
        self._opportunistic.verify_mode = ssl.CERT_NONE
        self._opportunistic.minimum_version = ssl.TLSVersion.TLSv1_2

    @cached_property
    def _authenticated(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    async def open(
        self, hosts: Sequence[str], feed: Feed, source: Source = DEFAULT_SOURCE, *, require_tls: bool = False
    ) -> Session | Answer:
        """A session from a source with the first host that takes us, or how the last of them failed."""
        way_out = _WayOut(
            source.address, source.ehlo_name or self._rules.ehlo_name, require_tls or self._rules.require_tls
        )
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
                opened = await self._open_address(host, address, way_out)
                if isinstance(opened, Session):
                    opened.feed_from(feed)
                    return opened
                if opened.reply is None or opened.reply.code < 500 or _is_final(answer):
                    answer = opened
        return answer

    async def open_relay(self, relay: Relay, feed: Feed) -> Session | Answer:
        """A session with the smarthost, logged in where the URL has a user."""
        context = self._authenticated if relay.implicit_tls else None
        # A password goes only to the server whose name is on the certificate; a test network has no such certificates.
        must_know = relay.user is not None and not self._rules.allow_private_addresses
        starttls = None if relay.implicit_tls else self._authenticated if must_know else self._opportunistic
        way_out = _WayOut(None, self._rules.ehlo_name, self._rules.require_tls)
        opened = await self._converse(relay.host, relay.host, relay.port, context, starttls, way_out)
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

    async def _open_address(self, host: str, address: str, way_out: _WayOut) -> Session | Answer:
        port = self._rules.port
        opened = await self._converse(host, address, port, None, self._opportunistic, way_out)
        if isinstance(opened, Answer) and opened.stage is Stage.STARTTLS and not way_out.require_tls:
            opened = await self._converse(host, address, port, None, None, way_out)
        return opened

    async def _converse(
        self,
        host: str,
        address: str,
        port: int,
        context: ssl.SSLContext | None,
        starttls: ssl.SSLContext | None,
        way_out: _WayOut,
    ) -> Session | Answer:
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
            if starttls is not None and "STARTTLS" in session.capabilities:
                stage = Stage.STARTTLS
                reply = await self._encrypt(session, host, starttls, way_out)
                if not session.encrypted or reply.code != 250:
                    return _give_up(session, Answer(stage, host, reply))
        except ConnectionRefusedError:
            return Answer(stage, host, failure=Failure.CONNECT_REFUSED)
        except TimeoutError:
            failure = Failure.CONNECT_TIMEOUT if stage is Stage.CONNECT else Failure.REPLY_TIMEOUT
            return _give_up(session, Answer(stage, host, failure=failure))
        except ssl.SSLError:
            return _give_up(session, Answer(Stage.STARTTLS, host, failure=Failure.TLS_FAILED))
        except OSError:
            failure = Failure.CONNECT_UNREACHABLE if stage is Stage.CONNECT else Failure.CONNECTION_LOST
            return _give_up(session, Answer(stage, host, failure=failure))
        if way_out.require_tls and not session.encrypted:
            return _give_up(session, Answer(Stage.STARTTLS, host, failure=Failure.TLS_REQUIRED))
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

    async def _encrypt(self, session: Session, host: str, context: ssl.SSLContext, way_out: _WayOut) -> Reply:
        reply = await session.ask(b"STARTTLS", self._rules.times.command)
        if reply.code != 220:
            return reply
        session.forget_plaintext()
        transport = await asyncio.wait_for(
            asyncio.get_running_loop().start_tls(session.transport, session, context, server_hostname=host.rstrip(".")),
            self._rules.times.command,
        )
        if transport is None:
            raise ConnectionResetError
        session.attach(transport)
        return await self._greet(session, way_out)

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
