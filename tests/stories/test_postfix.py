"""A campaign delivered to Debian's Postfix by the real program, and its signatures verified by two strangers."""

from __future__ import annotations

import email
import email.policy
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import dkim
import pytest

from posthouse.sandbox import Plan, ZoneRecord, publish, start

pytestmark = pytest.mark.skipif(
    shutil.which("postfix") is None or os.geteuid() != 0, reason="needs Debian's postfix, and root to run it"
)

_MAIN = """\
compatibility_level = 3.6
queue_directory = {room}/queue
data_directory = {room}/data
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.receiver.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
maillog_file = {room}/mail.log
maillog_file_prefixes = {room}
virtual_mailbox_domains = receiver.test
virtual_mailbox_base = {room}/boxes
virtual_mailbox_maps = inline:{{ ann@receiver.test=ann/ bob@receiver.test=bob/ }}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
smtpd_relay_restrictions = reject_unauth_destination
"""
_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
trace unix - - n - 0 bounce
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


@pytest.fixture
def postfix(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """(port, mailboxes) of a Postfix of our own that knows ann and bob at receiver.test."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    room = tmp_path / "postfix"
    account = pwd.getpwnam("postfix")
    for name in ("config", "queue", "data", "boxes"):
        (room / name).mkdir(parents=True)
    for name in ("data", "boxes"):
        os.chown(room / name, account.pw_uid, account.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    main = _MAIN.format(room=room, uid=account.pw_uid, gid=account.pw_gid)
    (room / "config" / "main.cf").write_text(main, encoding="ascii")
    (room / "config" / "master.cf").write_text(_MASTER.format(port=port), encoding="ascii")
    command = ["postfix", "-c", str(room / "config")]
    subprocess.run([*command, "start"], check=True, capture_output=True)
    try:
        yield port, room / "boxes"
    finally:
        subprocess.run([*command, "stop"], check=False, capture_output=True)


def posthouse(data: Path, *arguments: str, **settings: str) -> str:
    """Run the program; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "posthouse.cli", *arguments, "--data", str(data)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def delivered(box: Path) -> bytes:
    """The one message in a mailbox."""
    deadline = time.monotonic() + 30
    while not (found := list((box / "new").glob("*"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    (message,) = found
    return message.read_bytes()


def test_a_campaign_arrives_at_postfix_signed(postfix: tuple[int, Path], tmp_path: Path) -> None:
    port, boxes = postfix
    data = tmp_path / "data"
    people = tmp_path / "people.csv"
    people.write_text(
        "email;first name\nann@receiver.test;Ann\nbob@receiver.test;Böb\nnobody@receiver.test;Cy\n", encoding="utf-8"
    )
    letter = tmp_path / "letter.html"
    letter.write_text(
        "<h1>Dear {{ first_name }}</h1><p>.A line <a href='https://www.example.com/a?b=1'>here</a></p>"
        "<p>{{ postal_address }} <a href='{{ unsubscribe_url }}'>Leave</a></p>",
        encoding="utf-8",
    )
    with start(Plan(seed=1, directory=tmp_path / "sandbox")) as sandbox:
        publish(
            tmp_path / "sandbox",
            [
                ZoneRecord("receiver.test", "MX", "10 mx.receiver.test"),
                ZoneRecord("mx.receiver.test", "A", "127.0.0.1"),
            ],
        )
        settings = {
            "POSTHOUSE_DNS_NAMESERVERS": f"127.0.0.1:{sandbox.ready.dns_port}",
            "POSTHOUSE_DELIVERY_PORT": str(port),
            "POSTHOUSE_DELIVERY_ALLOW_PRIVATE_ADDRESSES": "true",
            "POSTHOUSE_SENDER_POSTAL_ADDRESS": "1 Coach Road, Sampletown",
            "POSTHOUSE_SENDER_ED25519": "true",
            "POSTHOUSE_PUBLIC_LISTEN": "127.0.0.1:0",
            "POSTHOUSE_INBOUND_LISTEN": "127.0.0.1:0",
        }
        posthouse(data, "init")
        records = json.loads(posthouse(data, "domain", "add", "example.com", "--json", **settings))["records"]
        posthouse(data, "domain", "verify", "example.com", "--force", **settings)
        posthouse(data, "contacts", "import", str(people), "--list", "News", **settings)
        sending = (
            "campaign",
            "send",
            "--list",
            "News",
            "--template",
            str(letter),
            "--subject",
            "Hello {{ first_name }}",
        )
        report = json.loads(
            posthouse(data, *sending, "--from", "News <news@example.com>", "--yes", "--wait", "--json", **settings)
        )
    assert (report["total"]["delivered"], report["total"]["bounced"]) == (2, 1)
    assert report["bounce_classes"] == {"user-unknown": 1}
    raw = delivered(boxes / "bob")
    verify_with_dkimpy(raw, records)
    verify_with_opendkim(raw, records, tmp_path)
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert message["Subject"] == "Hello Böb"
    assert message["To"] == "bob@receiver.test"
    assert message["Return-Path"].startswith("<b-")
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    body = message.get_body(("html",))
    assert body is not None
    assert "Dear Böb" in body.get_content()
    assert ".A line" in body.get_content()
    assert "Dear Ann" in email.message_from_bytes(
        delivered(boxes / "ann"), policy=email.policy.default
    ).as_string().replace("=\n", "")


def verify_with_dkimpy(raw: bytes, records: list[dict[str, str]]) -> None:
    """Both signatures verify against the records that `domain add` printed."""
    zone = {f"{record['name']}.".encode(): record["value"].encode() for record in records}
    # Postfix prepends its own fields and turns line ends into LF on disk.
    text = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    verifier = dkim.DKIM(text)
    assert verifier.verify(0, dnsfunc=lambda name, timeout=5: zone.get(name))
    assert dkim.DKIM(text).verify(1, dnsfunc=lambda name, timeout=5: zone.get(name))


def verify_with_opendkim(raw: bytes, records: list[dict[str, str]], room: Path) -> None:
    """OpenDKIM agrees; skipped by name where it is missing."""
    if shutil.which("opendkim") is None:
        pytest.skip("needs opendkim")
    keys = room / "keys"
    keys.write_text(
        "".join(f"{r['name']} {r['value']}\n" for r in records if "_domainkey" in r["name"]), encoding="ascii"
    )
    config = room / "opendkim.conf"
    config.write_text(f"Mode v\nTestPublicKeys {keys}\nSyslog no\n", encoding="ascii")
    message = room / "message.eml"
    message.write_bytes(raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    done = subprocess.run(
        ["opendkim", "-x", str(config), "-t", str(message), "-vv"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
