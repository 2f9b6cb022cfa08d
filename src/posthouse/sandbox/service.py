"""The sandbox as one running whole: wires DNS, providers, people and records, and keeps their time."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from contextlib import suppress
from functools import partial

from posthouse.clock import JumpingClock, SystemClock
from posthouse.model.ports import Clock
from posthouse.sandbox.agenda import Agenda
from posthouse.sandbox.ca import Authority
from posthouse.sandbox.dns import Answers, serve_dns
from posthouse.sandbox.lots import Lots
from posthouse.sandbox.manners import Manners
from posthouse.sandbox.moments import moment
from posthouse.sandbox.people import Crowd
from posthouse.sandbox.personas import Homes, Persona, load_personas
from posthouse.sandbox.plan import Plan, Ready, SandboxUnavailable, check_plan, host_and_port
from posthouse.sandbox.post import Letter, Post
from posthouse.sandbox.records import Records
from posthouse.sandbox.returns import Returns
from posthouse.sandbox.smtp import Session
from posthouse.sandbox.status import Status, StatusFile
from posthouse.sandbox.visitor import Visitor
from posthouse.sandbox.zones import Zones

_DNS_HOST = "127.0.0.1"
_PORT_TRIES = 50
_BACKLOG = 1024
_BEAT_SECONDS = 0.02
_BEATS_A_STATUS = 5


def addresses_of(personas: list[Persona]) -> dict[str, list[str]]:
    """Each provider's loopback addresses, one for each of its MX hosts."""
    return {persona.name: [f"127.77.{nth}.1", f"127.77.{nth}.2"] for nth, persona in enumerate(personas, 1)}


class Service:
    """A sandbox inside this process. `open` it, let it `run`, `close` it."""

    def __init__(self, plan: Plan) -> None:
        """Raises PlanWrong where the plan or a provider file cannot be used."""
        check_plan(plan)
        self._plan = plan
        self._directory = plan.directory.absolute()
        self._lots = Lots(plan.seed)
        self._personas = load_personas(plan.providers)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._clock: Clock = JumpingClock(plan.clock_file) if plan.clock_file else SystemClock()
        self._zones = Zones(self._directory)
        self._records = Records(self._directory / "received.jsonl", self._clock, keep=plan.record)
        self._agenda = Agenda(self._clock)
        self._status = StatusFile(self._directory / "status.json")
        self._door = host_and_port(plan.bounce_mx, "bounce_mx") if plan.bounce_mx else None
        self._returns = Returns(self._clock, self._agenda, self._records, self._door)
        self._visitor: Visitor | None = None
        self._servers: list[asyncio.Server] = []

    async def open(self) -> Ready:
        """Listen everywhere. Raises SandboxUnavailable where a port is taken."""
        addresses = addresses_of(self._personas)
        authority = Authority(self._directory)
        if self._plan.public_address:
            web = host_and_port(self._plan.public_address, "public_address")
            self._visitor = Visitor(web, authority.certificate_file)
        self._crowd = Crowd(
            self._plan.people,
            self._lots,
            self._clock,
            self._agenda,
            self._records,
            self._zones,
            self._visitor,
            self._door,
        )
        answers = Answers(Homes(self._personas, self._lots), addresses, self._personas, self._zones, self._plan.domains)
        try:
            dns_port, dns_server, self._datagrams = await serve_dns(answers, _DNS_HOST, self._plan.dns_port)
            sockets = bind_all([ip for pair in addresses.values() for ip in pair], self._plan.smtp_port)
        except OSError as error:
            raise SandboxUnavailable(
                f"The sandbox cannot listen on its DNS port {self._plan.dns_port} and SMTP port {self._plan.smtp_port}: "
                f"{error.strerror or error}. Choose other ports, or 0 for free ones."
            ) from error
        self._servers.append(dns_server)
        for persona in self._personas:
            await self._open_provider(persona, authority, sockets[: len(persona.hosts)])
            del sockets[: len(persona.hosts)]
        hosts = self._plan.public_hosts
        self._status.write(self._now())
        public = authority.issue("public", hosts) if hosts else None
        return Ready(
            pid=os.getpid(),
            smtp_port=self._servers[-1].sockets[0].getsockname()[1],
            dns_port=dns_port,
            addresses=addresses,
            ca_file=authority.certificate_file,
            record_file=self._directory / "received.jsonl",
            status_file=self._directory / "status.json",
            public_certificate=public.certificate if public else None,
            public_key=public.key if public else None,
        )

    async def _open_provider(self, persona: Persona, authority: Authority, sockets: list[socket.socket]) -> None:
        tls = None if persona.tls == "none" else authority.issue(persona.name, persona.hosts).server_context()
        manners = Manners(
            persona, self._lots, self._clock, rate_scale=self._plan.rate_scale, withhold=self._plan.withhold
        )
        open_connections: Counter[str] = Counter()
        loop = asyncio.get_running_loop()
        for host, listening in zip(persona.hosts, sockets, strict=True):
            post = Post(manners, host, tls, self._records, self._deliver, open_connections)
            server = await loop.create_server(partial(Session, post), sock=listening, backlog=_BACKLOG)
            self._servers.append(server)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep time until `stop` is set: what is due is started and what was recorded is written, every 20 ms."""
        beats = 0
        while not stop.is_set():
            self._agenda.start_due()
            self._records.flush()
            if beats % _BEATS_A_STATUS == 0:
                self._status.write(self._now())
            beats += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _BEAT_SECONDS)

    async def close(self) -> None:
        """Stop listening and write down what is left."""
        self._datagrams.close()
        for server in self._servers:
            server.close()
        await self._agenda.close()
        if self._visitor is not None:
            await self._visitor.close()
        self._status.write(self._now())
        self._records.close()

    def _now(self) -> Status:
        return Status(
            serial=0,
            at=moment(self._clock),
            accepted=dict(self._records.accepted),
            refused=dict(self._records.refused),
            pending={kind: count for kind, count in self._agenda.pending.items() if count},
            in_flight=self._agenda.in_flight,
            next_due=self._agenda.next_due,
            last_due=self._agenda.last_due,
        )

    def _deliver(self, letter: Letter) -> None:
        if not self._returns.takes(letter):
            self._crowd.receive(letter)


def bind_all(addresses: list[str], port: int) -> list[socket.socket]:
    """One listening-ready socket for each address, all at the same port; 0 looks for a port that is free on all. Raises OSError."""
    for last in range(_PORT_TRIES, -1, -1):
        sockets: list[socket.socket] = []
        chosen = port
        try:
            for address in addresses:
                bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                sockets.append(bound)
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bound.bind((address, chosen))
                chosen = bound.getsockname()[1]
        except OSError:
            for bound in sockets:
                bound.close()
            if port or not last:
                raise
        else:
            return sockets
    raise AssertionError("the last try returns or raises")
