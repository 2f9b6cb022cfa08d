"""The product as a benchmark needs it: a data directory, a list that was imported long ago, and `posthouse up` beside it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.fault_processes import end_with_parent
from bench.receiver import Receiver, free_ports
from bench.scenarios import Scenario
from posthouse import accounts, audience
from posthouse.app import App
from posthouse.data_directory import DataDirectory
from posthouse.db import named_sql

_SQL = named_sql.load("bench", "bench.sql")
_LIST = "Bench"
_DOMAIN = "posthouse.example"
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
MESSAGES_PER_CONNECTION = 1_000


@contextmanager
def data_directory() -> Iterator[tuple[DataDirectory, Path]]:
    """A new data directory with its key, and a folder for the receiver beside it."""
    with tempfile.TemporaryDirectory(prefix="posthouse-bench-") as folder:
        Path(folder).chmod(0o755)
        directory = DataDirectory(Path(folder) / "data")
        directory.create()
        accounts.create_key(directory.key_file)
        yield directory, Path(folder) / "receiver"
        _wait_for_the_server(directory.path / "locks" / "keeper")


def _wait_for_the_server(keeper: Path) -> None:
    """The last user has left PostgreSQL; its keeper holds this lock until it has stopped and written its last."""
    if not keeper.exists():
        return
    deadline = time.monotonic() + _STOP_SECONDS
    with keeper.open("rb") as lock:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            else:
                return


def environment(sink: Receiver) -> dict[str, str]:
    """Settings that send to a receiver; all that differs from an installation of every day."""
    web, smtp = free_ports(2)
    return {
        **os.environ,
        "POSTHOUSE_DNS_NAMESERVERS": f"127.0.0.1:{sink.dns_port}",
        "POSTHOUSE_DELIVERY_PORT": str(sink.smtp_port),
        "POSTHOUSE_DELIVERY_ALLOW_PRIVATE_ADDRESSES": "true",
        "POSTHOUSE_DELIVERY_MESSAGES_PER_CONNECTION": str(MESSAGES_PER_CONNECTION),
        "POSTHOUSE_DELIVERY_MESSAGES_PER_SECOND": "0",
        "POSTHOUSE_DELIVERY_MTA_STS": "false",  # nobody in this network publishes any
        # A machine that is too busy for its receiver shows as deferrals, not as a run that waits for half an hour.
        "POSTHOUSE_DELIVERY_FIRST_RETRY_MINUTES": "0.05",
        "POSTHOUSE_SENDER_POSTAL_ADDRESS": "1 Coach Road, Sampletown",
        "POSTHOUSE_PUBLIC_LISTEN": f"127.0.0.1:{web}",
        "POSTHOUSE_INBOUND_LISTEN": f"127.0.0.1:{smtp}",
    }


@contextmanager
def running(directory: DataDirectory, settings: dict[str, str]) -> Iterator[int]:
    """`posthouse up`; gives its process id. Raises RuntimeError when it does not start or does not stop well."""
    log = directory.path / "up.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "posthouse.cli", "up", "--data", str(directory.path)],
            env={**settings, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            preexec_fn=end_with_parent,
        )
    try:
        _wait_until_it_runs(process, log)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"posthouse up ended with code {process.returncode}: {_end_of(log)}")


def _wait_until_it_runs(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.stdout is not None
    deadline = time.monotonic() + _START_SECONDS
    said = b""
    while b"Posthouse runs" not in said:
        readable, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 4096) if readable else b""
        if not chunk:
            raise RuntimeError(f"posthouse up does not start: {said.decode()} {_end_of(log)}")
        said += chunk


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]


async def fill(app: App, scenario: Scenario) -> audience.List:
    """A list of contacts, and a sending domain that counts as verified."""
    now = app.clock.now()
    async with app.db.acquire() as connection:
        chosen = await audience.ensure_list(connection, accounts.MAIN_WORKSPACE, _LIST, now)
        await connection.execute(_SQL["fill_contacts"], scenario.recipients, scenario.domains, now)
        await connection.execute(_SQL["fill_list"], chosen.list_id, now)
        await connection.execute(_SQL["vacuum_contacts"])
        await connection.execute(_SQL["vacuum_memberships"])
        async with connection.transaction():
            await accounts.add_domain(connection, accounts.MAIN_WORKSPACE, _DOMAIN, app.key, now)
            await accounts.note_check(connection, accounts.MAIN_WORKSPACE, _DOMAIN, [], now, forced=True)
        if not scenario.signed:
            await connection.execute(_SQL["forget_keys"])
    return chosen
