"""Who takes the mail: Debian's smtp-sink where it is installed, else (and for TLS) the sandbox's plainest provider."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.fault_processes import end_with_parent
from bench.scenarios import Scenario
from posthouse.sandbox import Plan, ZoneRecord, publish, start

_MX = "mx.bench-receiver.test"
_SINK = "smtp-sink"
_BACKLOG, _MOST_SESSIONS = "1000", "2000"
# The sandbox writes its counters every 100 ms.
_COUNT_SECONDS = 1.0


@dataclass(frozen=True)
class Receiver:
    """A receiver that runs. dns_port answers for the bench domains; pids: role → process; count: how many messages it has taken."""

    name: str
    smtp_port: int
    dns_port: int
    pids: dict[str, int]
    count: Callable[[], int]

    def received(self, expected: int) -> int:
        """How many messages it has taken by its own count, once that has caught up with what is expected."""
        deadline = time.monotonic() + _COUNT_SECONDS
        while (count := self.count()) < expected and time.monotonic() < deadline:
            time.sleep(0.05)
        return count


@contextmanager
def receiver(directory: Path, scenario: Scenario) -> Iterator[Receiver]:
    """A receiver for bench0.test and so on, all behind one mail exchanger unless each is to have its own."""
    names = [f"bench{n}.test" for n in range(scenario.domains)]
    if shutil.which(_SINK) is None or scenario.tls:
        plan = Plan(seed=1, directory=directory, domains=dict.fromkeys(names, "plain"), record=False)
        with start(plan) as sandbox:
            ready = sandbox.ready
            yield Receiver(
                "sandbox's plain provider",
                ready.smtp_port,
                ready.dns_port,
                {"receiver": ready.pid},
                lambda: sandbox.status().accepted.get("dot", 0),
            )
        return
    with start(Plan(seed=1, directory=directory, record=False)) as sandbox:
        publish(directory, _zone(names, own_hosts=scenario.own_hosts))
        with _smtp_sink(directory) as (port, pid, count):
            yield Receiver(_SINK, port, sandbox.ready.dns_port, {"receiver": pid, "dns": sandbox.ready.pid}, count)


def _zone(names: list[str], *, own_hosts: bool) -> list[ZoneRecord]:
    """MX and A records of the domains."""
    hosts = {name: f"mx.{name}" if own_hosts else _MX for name in names}
    return [
        *(ZoneRecord(host, "A", "127.0.0.1") for host in dict.fromkeys(hosts.values())),
        *(ZoneRecord(name, "MX", f"10 {host}") for name, host in hosts.items()),
    ]


@contextmanager
def _smtp_sink(directory: Path) -> Iterator[tuple[int, int, Callable[[], int]]]:
    """(port, process id, counter) of a running smtp-sink. It refuses to be root, and `-u` would undo the tie to its parent."""
    port = _free_port()
    counters = directory / "smtp-sink.counters"
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    with counters.open("wb") as output:
        sink = subprocess.Popen(
            [_SINK, "-c", "-m", _MOST_SESSIONS, f"127.0.0.1:{port}", _BACKLOG],
            cwd="/",
            stdout=output,
            stderr=subprocess.DEVNULL,
            preexec_fn=end_with_parent,
            **account,
        )
    try:
        _wait_for(port)
        yield port, sink.pid, lambda: _last_count(counters)
    finally:
        sink.terminate()
        sink.wait()


def _last_count(counters: Path) -> int:
    """The newest `mesg=` that smtp-sink -c wrote."""
    with counters.open("rb") as file:
        file.seek(max(0, counters.stat().st_size - 200))
        found = re.findall(rb"mesg=(\d+)\D", file.read())
    return int(found[-1]) if found else 0


def free_ports(count: int) -> list[int]:
    """That many different TCP ports that nobody has at this moment."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _free_port() -> int:
    return free_ports(1)[0]


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError("smtp-sink does not listen")
