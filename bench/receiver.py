"""Who takes the mail: Debian's smtp-sink where it is installed, else (and for TLS) the sandbox's plainest provider."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from posthouse.sandbox import Plan, ZoneRecord, publish, start

_MX = "mx.bench-receiver.test"


@dataclass(frozen=True)
class Receiver:
    """A receiver that runs. dns_port answers for the bench domains; pid is its process, dns_pid that of the DNS server."""

    name: str
    smtp_port: int
    dns_port: int
    pid: int
    dns_pid: int


@contextmanager
def receiver(directory: Path, domains: int, *, tls: bool) -> Iterator[Receiver]:
    """A receiver for bench0.test and so on, all behind one mail exchanger."""
    names = [f"bench{n}.test" for n in range(domains)]
    use_sink = shutil.which("smtp-sink") is not None and not tls
    plan = Plan(seed=1, directory=directory, domains={} if use_sink else dict.fromkeys(names, "plain"), record=False)
    with start(plan) as sandbox:
        ready = sandbox.ready
        if not use_sink:
            yield Receiver("sandbox, plainest provider", ready.smtp_port, ready.dns_port, ready.pid, ready.pid)
            return
        publish(
            directory, [ZoneRecord(_MX, "A", "127.0.0.1"), *(ZoneRecord(name, "MX", f"10 {_MX}") for name in names)]
        )
        port = _free_port()
        command = ["smtp-sink", *(["-u", "nobody"] if os.geteuid() == 0 else []), f"127.0.0.1:{port}", "1000"]
        sink = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield Receiver("smtp-sink of Postfix", port, ready.dns_port, sink.pid, ready.pid)
        finally:
            sink.terminate()
            sink.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError("smtp-sink does not listen")
