"""What stories share: an installation on a fresh database, a pace to look at it, and DNS whose signatures are checked."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dns.dnssec
import dns.exception
import dns.message
import dns.query
import dns.zone
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from posthouse.accounts import create_key
from posthouse.app import App, open_app
from posthouse.data_directory import DataDirectory
from posthouse.settings import Settings


@pytest.fixture
async def open_house(database_url: str, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[App]]]:
    """Opens the installation on the fresh database; the keywords are sections of its settings."""
    directory = DataDirectory(tmp_path / "data")
    directory.create()
    create_key(directory.key_file)
    async with AsyncExitStack() as stack:

        async def begin(**sections: dict[str, Any]) -> App:
            settings = msgspec.convert(
                {"database": {"url": database_url}, "journal": {"segment_megabytes": 1}, **sections}, Settings
            )
            return await stack.enter_async_context(open_app(directory, settings))

        yield begin


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """Waits for what others bring about; fails where it never comes."""

    async def wait(holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await holds():
                await asyncio.sleep(0.02)

    return wait


_UNBOUND = """\
server:
  interface: 127.0.0.1
  port: {port}
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  logfile: "{folder}/unbound.log"
  module-config: "validator iterator"
  local-zone: "test." nodefault
  local-zone: "com." static
{anchors}
remote-control:
  control-enable: no
{zones}
"""
_AUTH_ZONE = """\
auth-zone:
  name: "{name}."
  zonefile: "{file}"
  for-downstream: no
  for-upstream: yes
  fallback-enabled: no
"""
_HEAD = "$TTL 300\n@ SOA ns.{0}. host.{0}. 1 3600 600 86400 300\n@ NS ns.{0}.\nns A 127.0.0.1\n"


def _sign(name: str, records: str, file: Path) -> str:
    """Write a signed zone; returns its key as a DNSKEY record."""
    zone = dns.zone.from_text(_HEAD.format(name) + records, origin=f"{name}.", relativize=False)
    private = ec.generate_private_key(ec.SECP256R1())
    key = dns.dnssec.make_dnskey(private.public_key(), "ECDSAP256SHA256", flags=257)
    now = datetime.now(UTC)  # noqa: TID251 -- unbound compares with the machine's clock
    with zone.writer() as writer:
        dns.dnssec.sign_zone(
            zone,
            txn=writer,
            keys=[(private, key)],
            dnskey_ttl=300,
            inception=now - timedelta(hours=1),
            expiration=now + timedelta(days=1),
        )
    zone.to_file(str(file), relativize=False)
    return f"{name}. DNSKEY {key.to_text()}"


@pytest.fixture
def validating_dns(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`validating_dns(signed={zone: records}, plain={…})`: unbound with these zones on loopback; returns its "address:port".

    tampered: (zone, old, new): a text of a signed zone that is changed after it was signed.
    """
    if shutil.which("unbound") is None:
        pytest.skip("needs unbound")
    running: list[subprocess.Popen[bytes]] = []

    def begin(
        signed: Mapping[str, str], plain: Mapping[str, str] | None = None, tampered: tuple[str, str, str] | None = None
    ) -> str:
        folder = tmp_path / f"dns-{len(running)}"
        folder.mkdir()
        anchors = [f'  trust-anchor: "{_sign(name, text, folder / name)}"' for name, text in signed.items()]
        for name, text in (plain or {}).items():
            (folder / name).write_text(_HEAD.format(name) + text, encoding="ascii")
        if tampered is not None:
            zone, old, new = tampered
            text = (folder / zone).read_text(encoding="ascii")
            assert old in text
            (folder / zone).write_text(text.replace(old, new), encoding="ascii")
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            stream.bind(("127.0.0.1", 0))
            port = stream.getsockname()[1]
            datagram.bind(("127.0.0.1", port))
        zones = "".join(_AUTH_ZONE.format(name=name, file=folder / name) for name in [*signed, *(plain or {})])
        config = folder / "unbound.conf"
        config.write_text(
            _UNBOUND.format(port=port, folder=folder, anchors="\n".join(anchors), zones=zones), encoding="ascii"
        )
        running.append(subprocess.Popen(["unbound", "-d", "-c", str(config)]))
        deadline = time.monotonic() + 20
        question = dns.message.make_query("example.com.", "A")
        while time.monotonic() < deadline:
            try:
                dns.query.udp(question, "127.0.0.1", port=port, timeout=0.2)
            except (OSError, dns.exception.Timeout):
                time.sleep(0.02)
            else:
                return f"127.0.0.1:{port}"
        raise AssertionError((folder / "unbound.log").read_text(encoding="utf-8"))

    yield begin
    for process in running:
        process.terminate()
        process.wait()
