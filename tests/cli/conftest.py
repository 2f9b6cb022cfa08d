"""The real program, run as people run it, against a test network of sandbox providers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from posthouse.accounts import add_domain, load_key, note_check, prove_key
from posthouse.clock import SystemClock
from posthouse.db.pool import Pool, open_pool
from posthouse.sandbox import Plan, Sandbox, start

LETTER = """<h1>Dear {{ first_name|default('reader') }}</h1><p><a href="https://www.example.com/a">here</a></p>
<p>{{ postal_address }} <a href="{{ unsubscribe_url }}">Leave</a></p>"""


class House:
    """One installation and the program that works on it."""

    def __init__(self, data: Path, **settings: str) -> None:
        self.data = data
        self.settings = settings

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "posthouse.cli", *arguments, "--data", str(self.data)],
            env={**os.environ, **self.settings, **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def tell(self, *arguments: str, **settings: str) -> str:
        """What a command prints that succeeds."""
        done = self.run(*arguments, **settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def facts(self, *arguments: str, **settings: str) -> Any:
        """What a command reports as JSON."""
        return json.loads(self.tell(*arguments, "--json", **settings))

    def refusal(self, *arguments: str, **settings: str) -> str:
        """The one sentence of a command that is refused."""
        done = self.run(*arguments, **settings)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stderr.startswith("posthouse: "), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.removeprefix("posthouse: ").rstrip("\n")

    @contextmanager
    def up(self, **settings: str) -> Iterator[subprocess.Popen[str]]:
        """`posthouse up`, running; stopped by SIGTERM at the end, where it must end well."""
        process = subprocess.Popen(
            [sys.executable, "-m", "posthouse.cli", "up", "--data", str(self.data)],
            env={**os.environ, **self.settings, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("Web door"):
                    break
            else:
                raise AssertionError("it did not start")
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                said, _ = process.communicate(timeout=60)
                assert process.returncode == 0, said
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def house(tmp_path: Path, database_url: str) -> House:
    """An installation that was just made, on a fresh database."""
    made = House(
        tmp_path / "data",
        POSTHOUSE_DATABASE_URL=database_url,
        POSTHOUSE_DELIVERY_SENDERS="1",
        POSTHOUSE_DELIVERY_ALLOW_PRIVATE_ADDRESSES="true",
        POSTHOUSE_SENDER_POSTAL_ADDRESS="1 Coach Road, Sampletown",
        POSTHOUSE_PUBLIC_LISTEN="127.0.0.1:0",
        POSTHOUSE_INBOUND_LISTEN="127.0.0.1:0",
    )
    made.tell("init")
    return made


@pytest.fixture
def network(house: House, tmp_path: Path) -> Iterator[Callable[..., Sandbox]]:
    """Starts a test network and points the installation at it: `network(provider="[slow]…", domains={…})`."""
    with ExitStack() as stack:

        def begin(provider: str = "", **plan: Any) -> Sandbox:
            providers = tmp_path / "providers"
            providers.mkdir()
            (providers / "only.toml").write_text(f'name = "only"\ndomain = "only.test"\nweight = 1\n{provider}')
            sandbox = stack.enter_context(start(Plan(seed=1, directory=tmp_path / "net", providers=providers, **plan)))
            house.settings |= {
                "POSTHOUSE_DNS_NAMESERVERS": f"127.0.0.1:{sandbox.ready.dns_port}",
                "POSTHOUSE_DELIVERY_PORT": str(sandbox.ready.smtp_port),
            }
            return sandbox

        yield begin


@pytest.fixture
def people(house: House, tmp_path: Path, make_world: Callable[[Pool], Any]) -> Callable[..., list[str]]:
    """Puts people on the list News, lets sender.example send, and gives the arguments of a campaign to them."""

    async def put(emails: Sequence[str]) -> None:
        key = load_key(house.data / "posthouse.key")
        now = SystemClock().now()
        pool = await open_pool(house.settings["POSTHOUSE_DATABASE_URL"])
        await prove_key(pool, key)
        world = make_world(pool)
        await world.people(emails)
        await pool.execute("update lists set name = 'News'")
        async with pool.acquire() as connection, connection.transaction():
            await add_domain(connection, 1, "sender.example", key, now)
            await note_check(connection, 1, "sender.example", [], now, forced=True)
        await pool.close()

    def ready(*emails: str) -> list[str]:
        asyncio.run(put(emails))
        template = tmp_path / "letter.html"
        template.write_text(LETTER, encoding="utf-8")
        return [
            *("campaign", "send", "--list", "News", "--template", str(template)),
            *("--subject", "Hello", "--from", "news@sender.example"),
        ]

    return ready


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Waits until something holds that another process brings about."""

    def wait(holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, "it never came about"
            time.sleep(0.02)

    return wait
